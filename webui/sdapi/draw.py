"""txt2img, img2img and upscaling: each is a job as any other, and its caller waits for its end."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from flask import Blueprint, Response, jsonify, request
from PIL import Image
from pydantic import BaseModel

from spooler.durable import UnreadableError, read_small
from spooler.ids import clean_id, is_id, versions
from spooler.job import Job, from_fields
from spooler.place import Place
from spooler.spool import TakenError
from webui.office import office
from webui.people import client, person
from webui.reports import JobReport
from webui.rules import Rule, needs
from webui.sdapi import info, names, starts, translate
from webui.sdapi.bodies import object_in
from webui.sdapi.errors import AnswerError, BodyError, refuse
from webui.sdapi.info import Made
from webui.sdapi.kept import kept
from webui.sdapi.requests import Drawing, ExtraBatch, Extras, ExtraSingle, Img2Img, Txt2Img
from webui.sdapi.translate import Wish

blueprint = Blueprint("sdapi_draw", __name__)

Model = TypeVar("Model", bound=BaseModel)
#: Largest picture that is read for an answer: 8192 x 8192 in four bytes.
MAX_RESULT_BYTES = 300 << 20
#: Requests whose pictures are decoded at the same time, each in some hundred MB; the others wait.
PREPARING = threading.BoundedSemaphore(2)
#: Ids that are tried for a task whose id is taken.
MOST_VERSIONS = 1000


@blueprint.post("/sdapi/v1/txt2img")
@needs(Rule.SUBMIT)
def txt2img() -> Response:
    with office().patience.seat(client()):
        with PREPARING:
            asked = body(Txt2Img)
            wish = translate.txt2img(asked, office().reports.ready().catalogue, kept().options(person().name), _chance)
        return _answer(asked, wish, asked.echo())


@blueprint.post("/sdapi/v1/img2img")
@needs(Rule.SUBMIT)
def img2img() -> Response:
    with office().patience.seat(client()):
        with PREPARING:
            asked = body(Img2Img)
            wish = translate.img2img(asked, office().reports.ready().catalogue, kept().options(person().name), _chance)
        echo = asked.echo()
        if not asked.include_init_images:
            echo |= {"init_images": None, "mask": None}
        return _answer(asked, wish, echo)


@blueprint.post("/sdapi/v1/extra-single-image")
@needs(Rule.SUBMIT)
def extra_single_image() -> Response:
    with office().patience.seat(client()):
        asked = body(ExtraSingle)
        made = _enlarged(asked, [asked.image])
        return jsonify(html_info=_html(asked, made), image=_base64(made[0]))


@blueprint.post("/sdapi/v1/extra-batch-images")
@needs(Rule.SUBMIT)
def extra_batch_images() -> Response:
    with office().patience.seat(client()):
        asked = body(ExtraBatch)
        made = _enlarged(asked, [each.data for each in asked.imageList])
        return jsonify(html_info=_html(asked, made), images=[_base64(each) for each in made])


def body(model: type[Model]) -> Model:
    """The request's JSON as that model, whatever it calls itself. Raises BodyError, or pydantic's ValidationError."""
    raw = request.get_data(cache=False)
    if not raw.strip():
        raise BodyError("value_error.missing", "field required")
    given = object_in(raw)
    return model.model_validate(translate.with_infotext(given) if issubclass(model, Drawing) else given)


# -- pictures that are drawn -----------------------------------------------------------------------------------------------


def _answer(asked: Drawing, wish: Wish, echo: dict[str, Any]) -> Response:
    """Wait for the wish's job and tell of its pictures, as far as they came."""
    job_id = _submit(_owned(wish.job), wish.pictures, asked.force_task_id)
    if not asked.override_settings_restore_afterwards:
        kept().change(person().name, vars(wish.options))
    report = _end_of(job_id)
    made = list(_made(report))
    with_grid = asked.save_images and len(made) > 1
    told = info.info(asked, wish, report, made, with_grid)
    sent = [each.data for each in made] if asked.send_images else []
    if with_grid and sent:
        sent.insert(0, starts.encoded(info.grid(sent)))
    return jsonify(images=[_base64(each) for each in sent], parameters=echo, info=told)


def _chance() -> int:
    return secrets.randbelow(2**32 - 2)


def _owned(fields: dict[str, Any]) -> Job:
    owner = person().name
    return from_fields(fields | ({"owner": owner} if owner else {}))


def _submit(job: Job, pictures: Mapping[str, bytes], task: str = "") -> str:
    """Put the job into the queue under the task's id, or the next that is free; returns the job's."""
    if not task:
        return office().accept(job, None, pictures)
    wanted = task if is_id(task) else clean_id(task)
    spool = office().spool
    # Those that are taken are passed over first: each try to submit is one of those that a client may make in a time.
    for job_id in (each for each in islice(versions(wanted), MOST_VERSIONS) if not spool.find_by_name(each)):
        try:
            office().accept(job, job_id, pictures)
        except TakenError:  # RACE: somebody else's since
            continue
        kept().note_task(person().name, wanted, job_id)
        return job_id
    raise TakenError(f"`force_task_id` must be a new one, but {MOST_VERSIONS} jobs {wanted!r} exist.")


def _end_of(job_id: str, waited_s: float = 0) -> JobReport:
    """Wait until the job is done, or was cancelled. Raises AnswerError for another end, and when its caller has gone, who has
    waited for so long already."""
    gone = request.environ.get("waitress.client_disconnected", lambda: False)
    most_s = office().settings.wait_s
    report = office().patience.end_of(job_id, max(0, most_s - waited_s), gone)
    if report is None:
        set_aside = {each.name.removesuffix(".json"): each.reason for each in office().spool.rejected()}
        why = set_aside.get(job_id, "The job is no longer in the spool.")
        raise AnswerError(500, "", "RuntimeError", why.strip())
    if report.status == "failed":
        failure = report.failure
        name = "OutOfMemoryError" if failure and failure.code == "out_of_memory" else "RuntimeError"
        raise AnswerError(500, "", name, failure.reason if failure else "The job has failed.")
    if report.status in ("done", "cancelled"):
        return report
    if not gone():
        why = f"The job {job_id} did not end within {most_s:g} s; it goes on, and its page and GET /api/v1/jobs tell of it."
        raise AnswerError(504, "", "TimeoutError", why)
    if office().settings.cancel_abandoned == "on":
        office().spool.cancel(job_id)
    raise AnswerError(499, "Client closed request")  # nobody hears it


def _made(report: JobReport) -> Iterator[Made]:
    """The pictures of an ended job; of one that was cancelled, those that were finished."""
    place = office().spool.find(report.id)
    if place is None:
        return
    indices = {each.file: each.index for each in report.images}
    if report.status == "cancelled":
        with contextlib.suppress(FileNotFoundError):
            found = [path.stem for path in place.path.glob("*.png") if path.stem.isdigit() and len(path.stem) <= 4]
            indices = {f"{stem}.png": int(stem) for stem in found}
    for name, index in sorted(indices.items(), key=lambda pair: pair[1]):
        with contextlib.suppress(FileNotFoundError, UnreadableError, IsADirectoryError):
            data = _read(place, name)
            yield Made(index, data, info.text_of(data))


def _read(place: Place, name: str) -> bytes:
    return read_small(place.path / name, MAX_RESULT_BYTES)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- pictures that are enlarged --------------------------------------------------------------------------------------------


def _enlarged(asked: Extras, encoded: Sequence[str]) -> list[bytes]:
    """The pictures enlarged, one job each; without an upscaler as they are."""
    _check(asked)
    upscaler = names.listed(asked.upscaler_1, office().reports.ready().catalogue.upscalers)
    with PREPARING:
        ready, sizes = [], []
        for each in encoded:  # one is unpacked at a time: a small file may be a large picture
            data, its_size = starts.ready(each)
            ready.append(data)
            sizes.append(its_size)
    if upscaler.lower() in names.NO_NAME:
        return ready
    size = (asked.upscaling_resize_w, asked.upscaling_resize_h)
    jobs = []
    for width, height in sizes:
        by_size = max(size[0] / width, size[1] / height)
        scale = by_size if asked.resize_mode == 1 else asked.upscaling_resize
        jobs.append(_owned({"image": "image.png", "upscale": {"scale": scale, "upscaler": upscaler}}))
    made = _all_made(jobs, ready)
    return [_cropped(each, size) for each in made] if asked.resize_mode == 1 and asked.upscaling_crop else made


def _all_made(jobs: Sequence[Job], pictures: Sequence[bytes]) -> list[bytes]:
    """The picture of each job, all of them within one request's time. Raises as `_end_of` does; then no job goes on that nobody
    wants any more."""
    ids: list[str] = []
    made: list[bytes] = []
    began = time.monotonic()
    try:
        for job, data in zip(jobs, pictures, strict=True):
            ids.append(_submit(job, {"image.png": data}))
        for job_id in ids:
            report = _end_of(job_id, time.monotonic() - began)
            found = next(_made(report), None)
            if found is None:
                raise AnswerError(500, "", "RuntimeError", "The job was cancelled before its picture was finished.")
            made.append(found.data)
    except BaseException as error:
        if not _goes_on(error):
            for job_id in ids:
                office().spool.cancel(job_id)
        raise
    return made


def _goes_on(error: BaseException) -> bool:
    """Whether jobs are drawn to their ends all the same: who has waited too long may look for them later."""
    if not isinstance(error, AnswerError):
        return False
    return error.status == 504 or (error.status == 499 and office().settings.cancel_abandoned == "off")


def _cropped(data: bytes, size: tuple[int, int]) -> bytes:
    """The middle of a picture."""
    picture = Image.open(io.BytesIO(data), formats=("PNG",))
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return starts.encoded(picture.crop((left, top, left + size[0], top + size[1])))


def _check(asked: Extras) -> None:
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if value := getattr(asked, name):
            raise refuse(name, f"`{name}` must be 0: there is no face restorer, but is {value:g}.")
    if asked.extras_upscaler_2_visibility and asked.upscaler_2.lower() not in names.NO_NAME:
        rule = "`extras_upscaler_2_visibility` must be 0: pictures are not blended"
        raise refuse("extras_upscaler_2_visibility", f"{rule}, but is {asked.extras_upscaler_2_visibility:g}.")


def _html(asked: Extras, made: Sequence[bytes]) -> str:
    texts = [info.text_of(each) for each in made] if asked.upscaler_1.lower() not in names.NO_NAME else []
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts if text)
