"""Following a job, or the whole queue, as it goes: server-sent events.

Each stream holds a seat of the waiting room: the others are answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from flask import Blueprint, Response, current_app, request

from spooler.changes import Seen
from spooler.client import ProgressView
from webui.answers import gone, report_of
from webui.guard import still_in
from webui.live import Live
from webui.news import QueueNews, Sight
from webui.office import Office, office
from webui.patience import Patience
from webui.people import client
from webui.reports import JobReport
from webui.search import ENDED

blueprint = Blueprint("following", __name__)

#: Seconds after which a stream with no news says that it lives; and after which it ends, for the client to ask anew if it will.
ALIVE_S, MOST_S = 10.0, 600.0


@blueprint.get("/api/v1/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    """The job's report now and at each change, as `event: job`; the stream ends with the job."""
    report_of(job_id)
    patience = office().patience
    with ExitStack() as kept:
        kept.enter_context(patience.seat(client()))
        return _stream(_events(patience, job_id, _most_s(), _over()), kept.pop_all())


@blueprint.get("/api/v1/events")
def all_events() -> Response:
    """What happens in the queue, as `event: job` and `event: queue`, after an `event: begin`; on from `Last-Event-ID`."""
    desk: Office = office()
    live: Live = current_app.extensions["live"]
    with ExitStack() as kept:
        kept.enter_context(desk.patience.seat(client()))
        kept.enter_context(desk.news.listening(lambda: _sight(live, desk)))
        last_id = request.headers.get("Last-Event-ID", "")
        return _stream(desk.news.events(last_id, _most_s(), ALIVE_S, _over()), kept.pop_all())


def _most_s() -> float:
    return min(MOST_S, office().settings.wait_s)


def _over() -> Callable[[], bool]:
    """Whether nobody listens any more, or who listens is no longer let in."""
    hung_up, let_in = gone(), still_in()
    return lambda: hung_up() or not let_in()


def _stream(events: Iterator[bytes], kept: ExitStack) -> Response:
    """The answer with these events; what is kept for it is given back when it ends."""
    response = Response(events, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx: pass each event on as it comes
    response.call_on_close(kept.close)
    return response


def _sight(live: Live, desk: Office) -> Sight:
    """A look at the queue, the one that the open pages share."""
    look = live.look(desk)
    progress = {job_id: ProgressView.model_validate(told) for job_id, told in look.running.items()}
    queue = QueueNews(
        ready=look.shared["ready"],
        paused=look.paused,
        waiting=len(look.waiting),
        held=len(look.held),
        running=len(look.running),
    )
    return Sight(Seen(look.waiting.keys(), look.held, progress), queue)


def _events(patience: Patience, job_id: str, most_s: float, hung_up: Callable[[], bool]) -> Iterator[bytes]:
    end = time.monotonic() + most_s
    last: object = None
    while (left_s := end - time.monotonic()) > 0:
        report: JobReport | None = None
        for report in patience.looks(job_id, min(ALIVE_S, left_s), hung_up):
            if (news := _news(report)) != last:
                yield f"event: job\ndata: {report.model_dump_json()}\n\n".encode()
            last = news
        if report is None:
            yield b"event: gone\ndata: {}\n\n"
        if report is None or report.status in ENDED or hung_up():
            return
        yield b": alive\n\n"


def _news(report: JobReport) -> object:
    """What is worth an event. A guess at the start is another at each look: it is told anew when it is ten seconds off."""
    guess = None if report.starts_in_s is None else round(report.starts_in_s / 10)
    return guess, report.model_dump(exclude={"starts_in_s", "ends_in_s"})
