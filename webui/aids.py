"""What the form asks while somebody writes, for any other client too: tokens of a prompt, the settings in a picture, styles."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from spooler import metadata, tokens
from spooler.job import MAX_PROMPT
from spooler.mistakes import JobError, Mistake, show
from spooler.prompt import PromptError
from spooler.strict_json import parse_object
from webui import flat
from webui.errors import answer
from webui.office import office
from webui.people import person
from webui.rules import Rule, needs
from webui.styles import Style, StyleError, Styles

blueprint = Blueprint("aids", __name__)


class TokenQuestion(BaseModel):
    """Texts to count, as a job would have them; one that is longer than a job may have is not counted (null)."""

    prompt: str = ""
    negative_prompt: str = ""
    model: str = Field("", description="Name of the model that would read them; empty for the default.")


class TokenCount(BaseModel):
    """How long a prompt is for the model's text encoder, which reads blocks of 75 tokens."""

    tokens: int
    room: int = Field(description="Tokens that the blocks which it takes have room for.")


class TokenCounts(BaseModel):
    """The count of each text; null where a text cannot be read, or where the model's vocabulary is not known here."""

    prompt: TokenCount | None
    negative_prompt: TokenCount | None


class MetadataReport(BaseModel):
    """The settings in a picture, as fields of a job."""

    tool: str = Field(description="Which tool wrote them.")
    fields: dict[str, Any] = Field(description="Fields of a job, not yet judged: a model may be one that this server has not.")
    flat: dict[str, str] = Field(description="The same as the form has them: the parameters of a link to it.")
    left_out: list[str] = Field(description="Names of what the tool wrote and no job has, or could not be read.")


class StyleList(BaseModel):
    """All styles, by name."""

    styles: list[Style]


class StyleTexts(BaseModel):
    """What a style is to say; `{prompt}` in it is where the prompt of the form goes."""

    prompt: str = ""
    negative_prompt: str = ""


class Picture(BaseModel):
    """A file in a form."""

    file: str = Field(json_schema_extra={"contentMediaType": "image/*"}, description="A PNG, JPEG or WebP, or a job file.")


@blueprint.post("/api/v1/tokens")
@needs(Rule.LET_IN)
def count() -> Response:
    """The tokens of a prompt and a negative prompt."""
    asked = _asked(("prompt", "negative_prompt", "model"))
    card = office().reports.ready().catalogue.card(asked["model"])
    counts = {name: count_of(asked[name], card.vocabulary if card else None) for name in flat.PROMPTS}
    return _send(TokenCounts(**counts))


def count_of(text: str, vocabulary: str | None) -> TokenCount | None:
    """The tokens of a prompt; None when it cannot be read, or nobody here knows the vocabulary."""
    if vocabulary not in tokens.VOCABULARIES or len(text) > MAX_PROMPT:
        return None
    try:
        found = tokens.count(text, vocabulary)
    except PromptError:
        return None
    return TokenCount(tokens=found.tokens, room=found.room)


@blueprint.post("/api/v1/metadata")
@needs(Rule.LET_IN)
def read_metadata() -> Response:
    """The settings in a picture, which is sent as the part `file` of a multipart/form-data."""
    file = request.files.get("file")
    if file is None:
        raise JobError(
            Mistake("file", "`file` must be a part of the request, multipart/form-data, with a picture, but is missing.")
        )
    found = metadata.read(file.read())
    told = {name: value for name, value in found.fields.items() if name not in ("image", "mask")}
    try:
        return _send(MetadataReport(tool=found.tool, fields=told, flat=flat.of_fields(told), left_out=list(found.left_out)))
    except ValueError as error:
        rule = "The settings must be ordinary texts and numbers, but have half a character or nest too deep."
        raise JobError(Mistake("", rule)) from error


@blueprint.get("/api/v1/styles")
def styles() -> Response:
    """All styles."""
    return _send(StyleList(styles=_styles().all()))


@blueprint.put("/api/v1/styles/<name>")
@needs(Rule.LET_IN)
def save(name: str) -> Response:
    """Keep a style under that name, in the place of one that had it."""
    asked = _asked(("prompt", "negative_prompt"))
    try:
        style = Style.made(name, asked["prompt"], asked["negative_prompt"], person().name)
        _styles().save(style, person())
    except StyleError as error:
        return answer(error.status, "invalid_style", str(error))
    return _send(style)


@blueprint.delete("/api/v1/styles/<name>")
@needs(Rule.LET_IN)
def remove(name: str) -> Response:
    """Forget a style."""
    try:
        _styles().remove(name, person())
    except StyleError as error:
        return answer(error.status, "invalid_style" if error.status != 404 else "not_found", str(error))
    return Response(status=204)


def _styles() -> Styles:
    return Styles(office().spool.root)


def _asked(names: tuple[str, ...]) -> dict[str, str]:
    """The texts of those names in the JSON of the request, "" for what is left out. Raises JobError."""
    given = parse_object(request.get_data(), "The request")
    mistakes = [
        Mistake(name, f"`{show(name)[1:-1]}` is no field here: {', '.join(names)} are.") for name in given if name not in names
    ]
    mistakes += [
        Mistake(n, f"`{n}` must be text, but is {show(given[n])}.") for n in names if not isinstance(given.get(n, ""), str)
    ]
    if mistakes:
        raise JobError(*mistakes)
    return {name: given.get(name, "") for name in names}


def _send(report: BaseModel) -> Response:
    return Response(report.model_dump_json(), mimetype="application/json")
