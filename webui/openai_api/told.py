"""What is answered: the pictures in the wanted format, the body, and the events of a stream. No request is looked at."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from spooler.durable import is_odd
from spooler.spool import Spool
from webui.openai_api import mishaps
from webui.openai_api.asked import Asked
from webui.patience import Patience
from webui.recoded import RecodeError, as_png, recoded
from webui.reports import JobReport

#: Those that the SDKs' types know; another is left out.
SIZES = frozenset({"1024x1024", "1024x1536", "1536x1024"})
QUALITIES = frozenset({"low", "medium", "high"})
#: Seconds after which a stream with no news says that it lives, so that whoever went away is noticed.
ALIVE_S = 10.0


def failure(report: JobReport | None, job_id: str) -> tuple[int, str, str] | None:
    """Status, code and sentence for a job that gave no picture; None for one that did."""
    if report is None:
        return 409, "job_gone", f"The job {job_id} is gone: somebody removed it."
    if report.status == "done":
        if report.images:
            return None
        said = "The pictures were withheld by this server's safety filter."
        return 400, "content_policy_violation", said
    if report.status == "failed":
        why = report.failure.reason if report.failure else "no reason is known"
        return 500, report.failure.code if report.failure else "job_failed", f"The job {job_id} failed: {why}"
    if report.status == "cancelled":
        return 409, "job_cancelled", f"The job {job_id} was cancelled."
    told = f"The job {job_id} is {report.status} still, and goes on: see /api/v1/jobs/{job_id}"
    return 504, "job_timeout", told


def pictures(spool: Spool, report: JobReport, asked: Asked) -> Iterator[str]:
    """The finished pictures as base64, in the wanted format. Raises FileNotFoundError when the job was removed meanwhile."""
    for image in report.images:
        place = spool.find_by_name(report.id)
        if place is None or is_odd(path := place.path / image.file):
            raise FileNotFoundError(report.id)
        yield _base64(recoded(path.read_bytes(), asked.output_format, asked.compression))


def body(report: JobReport, asked: Asked, data: list[dict[str, str]]) -> dict[str, Any]:
    """The answer to a request that waited."""
    told: dict[str, Any] = {"created": _second(report), "data": data, "background": "opaque"}
    told |= {"output_format": asked.output_format, **_known(asked)}
    if asked.without_effect:
        told["without_effect"] = list(asked.without_effect)
    return told


def events(
    kind: str, asked: Asked, job_id: str, patience: Patience, spool: Spool, wait_s: float, hung_up: Callable[[], bool]
) -> Iterator[bytes]:
    """The stream: partial pictures as they come, then each picture, or the error. `kind` is image_generation or image_edit."""
    sent, last = 0, b""
    for report in _looks(patience, job_id, wait_s, hung_up):
        if report is None:
            yield b": alive\n\n"
            continue
        if report.status == "running" and sent < asked.partial_images and report.progress:
            # They are spread over the work: the first of two after a third of it.
            due = report.progress.fraction_done * (asked.partial_images + 1) >= sent + 1
            if due and (preview := _preview(spool, job_id)) and preview != last:
                shared = {"created_at": _second(report), "partial_image_index": sent}
                yield _event(f"{kind}.partial_image", asked, as_png(preview), shared)
                sent, last = sent + 1, preview
    report = patience.end_of(job_id, 0.0)  # that nothing was new for a while does not say that it is gone
    if wrong := failure(report, job_id):
        yield _error(*wrong)
        return
    assert report  # noqa: S101 - else it were a failure
    tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    usage = {**tokens, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
    try:
        for picture in pictures(spool, report, asked):
            yield _event(f"{kind}.completed", asked, picture, {"created_at": _second(report), "usage": usage})
    except FileNotFoundError:
        yield _error(409, "job_gone", f"The job {job_id} is gone: somebody removed it.")
    except RecodeError as error:
        yield _error(400, "invalid_value", str(error))


def _looks(patience: Patience, job_id: str, wait_s: float, hung_up: Callable[[], bool]) -> Iterator[JobReport | None]:
    """The reports as they change, the last one last; None each time that nothing was new for a while."""
    last = None
    left_s = wait_s
    while True:
        some_s = min(ALIVE_S, left_s)
        news: JobReport | None = None
        for news in patience.looks(job_id, some_s, hung_up):
            if news != last:
                yield news
            last = news
        left_s -= some_s
        if news is None or news.status in ("done", "failed", "cancelled") or left_s <= 0 or hung_up():
            return
        yield None


def _preview(spool: Spool, job_id: str) -> bytes | None:
    place = spool.find_by_name(job_id)
    return (place and spool.preview(place)) or None


def _event(kind: str, asked: Asked, picture: bytes | str, more: dict[str, Any]) -> bytes:
    data = picture if isinstance(picture, str) else _base64(picture)
    told = {"type": kind, "b64_json": data, "background": "opaque", **_known(asked, "auto")}
    told |= {"output_format": asked.output_format if isinstance(picture, str) else "png", **more}
    return _sent(kind, told)


def _error(status: int, code: str, message: str) -> bytes:
    return _sent("error", {"type": "error", **mishaps.body(status, code, message)})


def _sent(kind: str, told: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def _known(asked: Asked, other: str = "") -> dict[str, str]:
    """Size and quality, where the SDKs' types know them; `other` where nothing, or auto, was asked for."""
    told = {}
    for name, value, known in (("size", asked.size, SIZES), ("quality", asked.quality, QUALITIES)):
        if value in known:
            told[name] = str(value)
        elif other and value in (None, "", "auto"):
            told[name] = other
    return told


def _second(report: JobReport) -> int:
    return int(datetime.fromisoformat(report.completed or report.queued or "1970-01-01T00:00:00Z").timestamp())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
