"""What else clients ask for: the text in a picture, to stop what runs, and how much memory there is."""

from __future__ import annotations

import io
from typing import Any

import psutil
from flask import Blueprint, Response, jsonify
from PIL import Image

from spooler import infotext, pictures, png
from spooler.mistakes import JobError
from webui.office import office
from webui.people import person
from webui.reports import JobReport
from webui.rules import Rule, needs
from webui.sdapi import starts
from webui.sdapi.draw import body
from webui.sdapi.errors import AnswerError
from webui.sdapi.progress import running
from webui.sdapi.requests import PngInfo

blueprint = Blueprint("sdapi_tools", __name__)

#: Texts of one picture that are told.
MOST_TEXTS = 32
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
#: What A1111's parser adds where a text does not say.
BACK_FILLED = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Emphasis": "Original",
    "Refiner switch by sampling steps": False,
}


@blueprint.post("/sdapi/v1/png-info")
@needs(Rule.LET_IN)
def png_info() -> Response:
    """What stands in a picture. No pixel is decoded."""
    encoded = body(PngInfo).image
    if not encoded.strip():
        return jsonify(info="", items={}, parameters={})
    texts = _texts(starts.data_of(encoded))
    told = texts.pop(infotext.KEYWORD, "")
    return jsonify(info=told, items=texts, parameters=parameters(told) if told else {})


def parameters(text: str) -> dict[str, Any]:
    """The text taken apart as A1111 does it: sizes in two numbers, and its defaults where the text says nothing."""
    prompt, negative, settings = infotext.split(text)
    found: dict[str, Any] = {"Prompt": prompt, "Negative prompt": negative}
    for key, value in settings.items():
        width, cross, height = value.partition("x")
        if cross and width.isdecimal() and height.isdecimal():
            found |= {f"{key}-1": width, f"{key}-2": height}
        else:
            found[key] = value
    return BACK_FILLED | found


def _texts(data: bytes) -> dict[str, str]:
    """All texts of a PNG by their keywords; of a JPEG or WebP, its EXIF comment as A1111 writes it there."""
    try:
        _, keywords = png.read_text(data, infotext.KEYWORD)
        found = {name: png.read_text(data, name)[0] or "" for name in list(dict.fromkeys(keywords))[:MOST_TEXTS]}
        if infotext.KEYWORD in keywords:
            found[infotext.KEYWORD] = png.read_text(data, infotext.KEYWORD)[0] or ""
        return found
    except JobError as error:
        if data.startswith(png.SIGNATURE):
            raise AnswerError(500, "Invalid encoded image", why=str(error)) from error
    starts.decoded(data)  # within the caps, or refused
    with Image.open(io.BytesIO(data), formats=pictures.FORMATS) as image:
        try:
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
        except pictures.DAMAGED:
            return {}
    raw = comment if isinstance(comment, bytes) else str(comment).encode()
    text = raw[8:].decode("utf-16-be", "replace") if raw.startswith(b"UNICODE\0") else raw[8:].decode("utf-8", "replace")
    return {infotext.KEYWORD: text.strip("\0")} if text.strip("\0") else {}


@blueprint.post("/sdapi/v1/interrupt")
@needs(Rule.EACH)
def interrupt() -> Response:
    """Cancel the job that runs now, if the caller may, and never one that waits; whoever waits for it has what is finished."""
    if report := _at_work():
        office().spool.cancel(report.id)
    return jsonify({})


@blueprint.post("/sdapi/v1/skip")
@needs(Rule.EACH)
def skip() -> Response:
    """Of a job of one picture the same as to interrupt it. The engine leaves no single picture of several out."""
    if report := _at_work():
        if report.job.pictures > 1:
            why = f"A job of one picture can be skipped, but this one is of {report.job.pictures}: interrupt it."
            raise AnswerError(400, "Cannot skip", why=why)
        office().spool.cancel(report.id)
    return jsonify(None)


def _at_work() -> JobReport | None:
    """The running job that the caller means: their own, else one that they may change. Raises AnswerError for others' only."""
    found = running()
    who = person()
    owners = {report.id: (report.parameters or report.job).owner for report in found}
    allowed = [report for report in found if who.may_change(owners[report.id])]
    if found and not allowed:
        raise AnswerError(403, "The running job is somebody else's.")
    return min(allowed, key=lambda report: owners[report.id] != who.name, default=None)


@blueprint.get("/sdapi/v1/memory")
def memory() -> Response:
    """The memory of the machine that serves the API; the GPU is in other hands."""
    found = psutil.virtual_memory()
    used = psutil.Process().memory_info().rss
    ram = {"free": found.total - used, "used": used, "total": found.total}
    return jsonify(ram=ram, cuda={"error": "The web app does not touch the GPU."})
