"""The form at `/`: one job, whole without JavaScript. What it sends, what a link to it says and what a job's own page leads to
are the same flat names (`flat.py`), so a link fills it in, and a mistake finds its field. Its routes are of the pages'
blueprint."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from flask import Response, abort, jsonify, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from spooler import families, pictures, samplers
from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job, from_fields
from spooler.mistakes import JobError, Mistake
from webui import flat, origin
from webui.aids import TokenCount, count_of
from webui.flat import Given
from webui.labels import labelled
from webui.office import FullError, NoRoomError, office
from webui.pages import _frame as frame
from webui.pages import blueprint as blueprint
from webui.people import person
from webui.rules import Rule, needs
from webui.sentences import translated
from webui.styles import Style, StyleError, Styles, applied

#: The form's places for a picture, besides those of ControlNets.
SLOTS = ("image", "mask")
MOST_ROWS = {"loras": 16, "controls": 4}
Mistakes = dict[str, list[str]]


@blueprint.get("/")
def create() -> str | AnyResponse:
    """The form, filled in from the query string: a whole job in flat names, or `from` a job that there is."""
    given = {name: value for name, value in request.args.items() if flat.is_name(name)}
    if job_id := request.args.get("from"):
        found = origin.given_from(office(), job_id, request.args.get("image"), request.args.get("as", "same"))
        if found is None:
            abort(404, "There is no such job or picture: it may have been removed from the spool.")
        given = found | given
    if given.get("seed") == "-1":
        given["seed"] = ""
    for name in flat.MOMENTS:
        if name in given:
            given[name] = flat.local(given[name])
    return _page(flat.compact(given), request.args.getlist("style"))


@blueprint.post("/")
@needs(Rule.SUBMIT)
def submit() -> AnyResponse:
    """Put the form's job into the queue and go to its page; or show the form again, each mistake beside its field.

    To a caller that accepts JSON only: 201 with the job's id, or the error with its sentences by field.
    """
    typed = {name: value for name, value in request.form.items() if flat.is_name(name)}
    chosen = request.form.getlist("style")
    if (verb := request.form.get("do")) in ("save-style", "remove-style"):
        return _change_styles(verb, typed, chosen)
    given, uploads = _with_uploads(typed)
    status, sentence, mistakes = HTTPStatus.UNPROCESSABLE_ENTITY, "", {}
    try:
        job_id = _accept(given, uploads, chosen)
    except JobError as error:
        sentence, mistakes = str(error), _beside(error, given)
    except StyleError as error:
        sentence, mistakes = str(error), {"style": [str(error)]}
    except FullError as error:
        status, sentence, mistakes = HTTPStatus.TOO_MANY_REQUESTS, str(error), {"": [str(error)]}
    except NoRoomError as error:
        status, sentence, mistakes = HTTPStatus.INSUFFICIENT_STORAGE, str(error), {"": [str(error)]}
    else:
        page = url_for("pages.job", job_id=job_id)
        if _asks_json():
            return Response(jsonify(id=job_id, page=page).data, 201, mimetype="application/json")
        return redirect(page, 303)
    if _asks_json():
        told = {field: [labelled(translated(each) or each) for each in sentences] for field, sentences in mistakes.items()}
        answer = jsonify(error={"code": "invalid_job" if status == 422 else "later", "message": sentence, "fields": told})
        answer.status_code = status
        return answer
    if uploads:
        mistakes.setdefault("image", []).append("Please choose the picture again: a browser sends each file once only.")
    return Response(_page(flat.compact(typed), chosen, mistakes), status=status)


def _asks_json() -> bool:
    return request.accept_mimetypes.best == "application/json"


def _with_uploads(typed: Given) -> tuple[Given, dict[str, bytes]]:
    """The form as its sender saw it, the files that came with it named in it, and their bytes by those names."""
    given, uploads = dict(typed), {}
    for slot, file in request.files.items():
        if file.filename and (slot in SLOTS or flat.is_name(slot)):
            # The person's own name for the file is nobody's business, and may be no name that a job can have.
            given[slot] = f"{slot.replace('.', '-')}.{file.filename.rpartition('.')[2].lower() or 'png'}"
            uploads[given[slot]] = file.read()
    given = flat.compact(flat.shown(given))
    named = {given[slot] for slot in given if slot in SLOTS or slot.endswith(".image")}
    return given, {name: data for name, data in uploads.items() if name in named}


def _accept(given: Given, uploads: dict[str, bytes], chosen: list[str]) -> str:
    """Submit the job that the form asks for; its id. Raises what `Office.accept` does, and StyleError."""
    inputs = dict(uploads)
    slots = [name.removesuffix(".from") for name in given if name.endswith(".from")]
    given = dict(given)
    for slot in slots:
        if not given.get(slot) and given[f"{slot}.from"]:
            data, ending = origin.read(office(), given[f"{slot}.from"], slot)
            given[slot] = f"{slot.replace('.', '-')}.{ending}"
            inputs[given[slot]] = data
    if flat.kind(given) != "upscale":  # which has no prompt for a style to be laid over
        for name in flat.PROMPTS:
            given[name] = applied(_styles(), chosen, given.get(name, ""), name)
    fields = flat.fields(given)
    if person().name and not fields.get("owner"):
        fields["owner"] = person().name
    missing = list(_missing(given, fields))
    try:
        job = from_fields(fields)
    except JobError as error:
        raise JobError(*missing, *error.mistakes) from error
    if missing:
        raise JobError(*missing)
    return office().accept(job, inputs=inputs, held=bool(given.get("held")))


def _missing(given: Given, fields: dict[str, Any]) -> Iterator[Mistake]:
    """What the chosen kind of job needs and has not: without it another kind would be drawn, which would be a surprise."""
    wanted = given.get("kind", "")
    if not given.get("prompt", "").strip() and "prompt" not in fields.get("sweep", {}) and flat.kind(given) != "upscale":
        # A job may have an empty prompt; an empty form is sent by mistake.
        yield Mistake("prompt", "`prompt` must not be empty: write one first.")
    if wanted in ("img2img", "inpaint", "upscale") and "image" not in fields:
        yield Mistake("image", "`image` is required here: choose, drop or paste a picture.")
    elif wanted == "inpaint" and "mask" not in fields:
        yield Mistake("mask", "`mask` is required here: paint over what is to change, or choose a mask.")


def _beside(error: JobError, given: Given) -> Mistakes:
    """The sentences by the field of the form beside which each is shown; "" for the form as a whole."""
    found: Mistakes = {}
    for mistake in error.mistakes:
        row, part = mistake.field.rpartition(".")[0], mistake.field.partition(".")[0]
        there = flat.is_name(mistake.field) and any(name.startswith(f"{row}.") for name in given)
        spot = next((spot for spot in (mistake.field, part) if spot in _SPOTS or (there and spot == mistake.field)), "")
        found.setdefault(spot, []).append(mistake.message)
    return found


#: Where the form always has room for a sentence.
_SPOTS = frozenset({*flat.NAMES, "image", "mask", "loras", "controls", "hires", "refiner", "upscale", "style"}) - {
    "form", "kind", "zone", "held", "image.from", "mask.from", *(f"{each}.on" for each in flat.SWITCHES),
}  # fmt: skip


# -- styles without JavaScript ---------------------------------------------------------------------------------------------


def _styles() -> Styles:
    return Styles(office().spool.root)


def _change_styles(verb: str, typed: Given, chosen: list[str]) -> AnyResponse:
    """Save the form's prompts as a style, or remove the chosen ones, and show the form as it was."""
    mistakes: Mistakes = {}
    status = HTTPStatus.OK
    try:
        if verb == "save-style":
            name = request.form.get("style-name", "")
            _styles().save(Style.made(name, typed.get("prompt", ""), typed.get("negative_prompt", ""), person().name), person())
        else:
            for name in chosen:
                _styles().remove(name, person())
            chosen = []
    except StyleError as error:
        mistakes, status = {"style": [str(error)]}, HTTPStatus.UNPROCESSABLE_ENTITY
    return Response(_page(flat.compact(typed), chosen, mistakes), status=status)


# -- the page --------------------------------------------------------------------------------------------------------------


def _page(given: Given, chosen: list[str], mistakes: Mistakes | None = None) -> str:
    ready = office().reports.ready()
    card = ready.catalogue.card(given.get("model", ""))
    return render_template(
        "create.html",
        given=given,
        mistakes=mistakes or {},
        kind=flat.kind(given),
        on={switch: flat.is_on(given, switch) for switch in flat.SWITCHES},
        rows={part: _room(given, part) for part in flat.ROWS},
        most_rows=MOST_ROWS,
        sources=_sources(given),
        styles=_styles().all(),
        chosen=chosen,
        card=card,
        cards=_cards(ready.catalogue),
        counts={name: count_of(given.get(name, ""), card.vocabulary if card else None) for name in flat.PROMPTS},
        words=words(),
        samplers=samplers.SAMPLERS,
        schedules=samplers.SCHEDULE_NAMES,
        refiners=[each.name for each in ready.catalogue.models if each.family.startswith("sdxl")],
        sizes=sizes(card),
        defaults={name: field.get_default(call_default_factory=True) for name, field in Job.model_fields.items()},
        accepted=",".join(f"image/{each.lower()}" for each in pictures.FORMATS),
        signed_in=person().name,
        finished=office().reports.ended(("done",), limit=8).jobs,
        running=office().reports.running(),
        **frame(ready),
    )


def _room(given: Given, part: str) -> list[int]:
    """Numbers of the rows that are shown of a list: those that are filled in and one more."""
    filled = {int(name.split(".")[1]) for name in given if name.startswith(f"{part}.") and name.split(".")[1].isdecimal()}
    return list(range(min(len(filled) + 1, MOST_ROWS[part])))


def _sources(given: Given) -> dict[str, str]:
    """Where the pictures can be seen that the form names by their source, by slot."""
    slots = {name.removesuffix(".from"): value for name, value in given.items() if name.endswith(".from") and value}
    return {slot: url_for("pages.source", source=value) for slot, value in slots.items()}


@blueprint.get("/source/<source>")
def source(source: str) -> Response:
    """A picture that a form may start from, by its source."""
    try:
        data, ending = origin.read(office(), source, "image")
    except JobError:
        abort(404)
    answer = Response(data, mimetype=f"image/{'jpeg' if ending == 'jpg' else ending}")
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


#: Shapes worth offering: a word, and width to height.
SHAPES = (("1:1", 1.0), ("4:3", 4 / 3), ("3:2", 1.5), ("16:9", 16 / 9), ("3:4", 0.75), ("2:3", 1 / 1.5), ("9:16", 9 / 16))


def sizes(card: ModelCard | None) -> list[tuple[str, int, int]]:
    """The model's own area in the usual shapes, in steps that its family draws."""
    if card is None:
        return []
    area, step = card.width * card.height, max(8, families.get(card.family).multiple)
    return [
        (name, round((area * ratio) ** 0.5 / step) * step, round((area / ratio) ** 0.5 / step) * step) for name, ratio in SHAPES
    ]


#: The form's fields that a family may lack, by the kind of work that they are of.
_FIELDS_OF = {
    "img2img": ("img2img",),
    "inpaint": ("inpaint",),
    "hires": ("hires",),
    "refiner": ("refiner",),
    "loras": ("loras",),
    "controls": ("controls",),
    "vae": ("vae",),
    "clip_skip": ("clip_skip",),
    "guidance_cutoff": ("guidance_cutoff",),
    "deepcache": ("deepcache_interval",),
    "variation": ("variation",),
    "sampler": ("sampler", "scheduler"),
    "negative_prompt": ("negative_prompt",),
}


def lacking(card: ModelCard | None) -> list[str]:
    """The fields and parts of the form that do nothing with a model, because its family lacks them."""
    if card is None:
        return []
    return [name for work, names in _FIELDS_OF.items() if work not in families.get(card.family).kinds for name in names]


def _cards(catalogue: Catalogue) -> list[dict[str, Any]]:
    """What the page's script needs to know of each model when another one is chosen."""
    return [
        {
            "name": card.name,
            "family": families.get(card.family).title,
            "defaults": {
                name: flat.text(getattr(card, name)) for name in ("width", "height", "steps", "guidance_scale", "sampler")
            },
            "sizes": [(width, height) for _, width, height in sizes(card)],
            "lacking": lacking(card),
        }
        for card in catalogue.models
    ]


@blueprint.app_template_global("f_count")
def shown_count(count: TokenCount | None) -> str:
    """The tokens of a prompt and what their blocks have room for, as the form shows them; nothing where it is not known."""
    return f"{count.tokens}/{count.room}" if count else ""


def words() -> dict[str, str]:
    """What the page's script says."""
    return {
        "waiting": gettext("Waiting"),
        "next": gettext("Next in line"),
        "place": gettext("Number {n} in line"),
        "held": gettext("Held: it waits until it is released"),
        "starting": gettext("Starting"),
        "loading": gettext("Loading the model"),
        "step": gettext("Step {step} of {steps}"),
        "picture": gettext("Picture {n} of {count}, step {step} of {steps}"),
        "pictureSize": gettext("as the picture"),
        "left": gettext("about {time} left"),
        "sending": gettext("Sending"),
        "done": gettext("Done in {time}"),
        "withheld": gettext("Kept back by a safety filter"),
        "cancelled": gettext("Cancelled"),
        "gone": gettext("The job was removed"),
        "offline": gettext("No answer from the server; trying again"),
        "more": gettext("and {n} more of yours"),
        "seed": gettext("seed {seed}"),
        "preview": gettext("Preview of the picture at work"),
        "copied": gettext("The link is in the clipboard: it carries the whole form, but no pictures."),
        "link": gettext("The link to this form:"),
        "reset": gettext("The form is as new."),
        "undo": gettext("Undo"),
        "close": gettext("Close"),
        "taken": gettext("Settings taken from {tool}."),
        "leftOut": gettext("Not taken over: {names}."),
        "reading": gettext("Reading the picture"),
        "asPicture": gettext("Start from this picture"),
        "noSeed": gettext("No picture was made yet in this browser."),
        "failed": gettext("That did not work: {why}"),
        "lacks": gettext("not with this model"),
        "notPicture": gettext("Only PNG, JPEG and WebP pictures can be used."),
        "changed": gettext("These settings came with the link; yours are kept."),
        "mine": gettext("Take mine back"),
        "saved": gettext("The style is saved."),
        "removed": gettext("The styles are removed."),
        "chooseStyle": gettext("Choose a style first."),
        "paintMask": gettext("Paint over what is to change, or choose a mask."),
        "tooManyTokens": gettext("{tokens} tokens, in blocks of 75"),
    }
