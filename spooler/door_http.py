"""The client's way over HTTP: each call one request of the API, its errors as the client's own."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from spooler import client
from spooler.catalogue import Catalogue
from spooler.client import BatchView, ChangeView, JobView, Verb
from spooler.ids import new_id
from spooler.mistakes import Mistake
from spooler.record import Image
from spooler.states import Status

#: Seconds of one long poll; and between two looks where the server has no seat for one more who waits.
POLL_S, NO_SEAT_S = 30, 1.0
#: Times that a request is sent which may be sent again, and seconds between them.
TRIES, REST_S = 3, 0.5
#: Times in a row that a stream may break before it is given up: a server that is started anew is waited for.
PATIENT_TRIES = 120
#: What a proxy answers while the server behind it is away.
GATEWAY = (502, 503, 504)


class _LostError(client.UnreachableError):
    """The connection broke, or a proxy answered for a server that did not: whether the request was served, nobody knows."""


class HttpDoor:
    def __init__(self, url: str, key: str | None, timeout_s: float):
        parts = urlsplit(url)
        if not parts.hostname:
            raise client.UnreachableError(f"The address must be as http://host:7860, but is {url!a}.")
        self._https = parts.scheme == "https"
        self._netloc = parts.netloc.rpartition("@")[2]
        self._path = parts.path.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s

    def submit(self, job: dict[str, Any], job_id: str | None, inputs: Mapping[str, bytes]) -> str:
        made = new_id()
        given = json.dumps({**job, "id": job_id or made}).encode()
        body, kind = (_multipart(given, inputs)) if inputs else (given, "application/json")
        for attempt in range(TRIES):
            try:
                return str(self._json("POST", "/api/v1/jobs", body, kind)["id"])
            except _LostError:
                if attempt == TRIES - 1:
                    raise
                time.sleep(REST_S)
            except client.WrongStateError:
                if attempt and not job_id:  # the first request was served after all: an id that was made here is nobody else's
                    return made
                raise
        raise AssertionError("unreachable")

    def submit_batch(self, jobs: list[dict[str, Any]], key: str) -> BatchView:
        body = b"\n".join(json.dumps(job).encode() for job in jobs)
        sent = {"Idempotency-Key": key}
        told = self._again("POST", "/api/v1/batches", body, "application/x-ndjson", sent)
        return BatchView.model_validate(told)

    def batch(self, batch_id: str) -> BatchView:
        return BatchView.model_validate(self._again("GET", f"/api/v1/batches/{quote(batch_id, safe='')}"))

    def job(self, job_id: str) -> JobView:
        return JobView.model_validate(self._again("GET", _of(job_id)))

    def jobs(self, status: Status | None, owner: str | None, limit: int) -> list[JobView]:
        found: list[JobView] = []
        # With an owner the API goes through the jobs of one status, or through those that ended.
        for each in (status,) if status or owner is None else ("running", "waiting", "held", None):
            found += self._page_by_page(each, owner, limit - len(found))
        return found

    def _page_by_page(self, status: str | None, owner: str | None, limit: int) -> list[JobView]:
        asked: dict[str, Any] = {name: value for name, value in (("status", status), ("owner", owner)) if value is not None}
        found: list[JobView] = []
        while len(found) < limit:
            asked |= {"offset": len(found), "limit": min(200, limit - len(found))}
            page = self._again("GET", f"/api/v1/jobs?{urlencode(asked)}")["jobs"]
            found += [JobView.model_validate(each) for each in page]
            if not page:
                break
        return found

    def looks(self, job_id: str, timeout_s: float | None) -> Iterator[JobView]:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            yield from self._stream(job_id, end)
            return
        except client.BusyError:  # no seat: ask from time to time, which needs none
            pass
        last: JobView | None = None
        while True:
            view = self.job(job_id)
            if view != last:
                yield view
            last = view
            if view.ended or (end is not None and time.monotonic() >= end):
                return
            time.sleep(NO_SEAT_S if end is None else min(NO_SEAT_S, max(0.0, end - time.monotonic())))

    def _stream(self, job_id: str, end: float | None) -> Iterator[JobView]:
        """The events of the job; a stream that breaks, or comes to its own end, is begun again."""
        last: JobView | None = None
        broken = 0  # times in a row
        while True:
            left_s = POLL_S if end is None else max(0.05, min(POLL_S, end - time.monotonic()))
            connection = self._connect(min(self._timeout_s, max(left_s, 1.0)))
            try:
                answer = self._send(connection, "GET", f"{_of(job_id)}/events")
                if answer.status >= 400:
                    _refuse(answer.status, answer.read(), answer.headers)
                for view in _events(answer, end):
                    broken = 0
                    if view != last:
                        yield view
                    last = view
            except (TimeoutError, _LostError, http.client.HTTPException, ConnectionError):
                broken += 1
                if broken > (TRIES if last is None else PATIENT_TRIES):
                    raise client.UnreachableError(f"{self._netloc} does not answer any more.") from None
                time.sleep(REST_S)
            finally:
                connection.close()
            if (last and last.ended) or (end is not None and time.monotonic() >= end):
                return

    def watch(self, timeout_s: float | None) -> Iterator[ChangeView | None]:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        last_id = ""
        broken = 0  # times in a row
        while end is None or time.monotonic() < end:
            left_s = POLL_S if end is None else max(0.05, min(POLL_S, end - time.monotonic()))
            connection = self._connect(min(self._timeout_s, max(left_s, 1.0)))
            try:
                answer = self._send(connection, "GET", "/api/v1/events", more={"Last-Event-ID": last_id} if last_id else None)
                if answer.status >= 400:
                    _refuse(answer.status, answer.read(), answer.headers)
                for event_id, kind, data in _parsed(answer):
                    broken = 0
                    last_id = event_id or last_id
                    if kind == "begin" and not json.loads(data)["resumed"]:
                        yield None
                    elif kind == "job":
                        yield ChangeView.model_validate_json(data)
                    if end is not None and time.monotonic() >= end:
                        return
            except client.BusyError as error:
                if not last_id:
                    raise
                time.sleep(error.retry_s)  # somebody else has the seat that this stream had
            except (TimeoutError, _LostError, http.client.HTTPException, ConnectionError):
                broken += 1
                if broken > (PATIENT_TRIES if last_id else TRIES):
                    raise client.UnreachableError(f"{self._netloc} does not answer any more.") from None
                time.sleep(REST_S)
            finally:
                connection.close()

    def act(self, job_id: str, verb: Verb) -> None:
        if verb == "cancel":
            self._again("DELETE", _of(job_id), is_done=lambda: self.job(job_id).status == "cancelled")
        else:
            self._again("POST", f"{_of(job_id)}/{verb}", tries=1 if verb in ("retry", "delete") else TRIES)

    def edit(self, job_id: str, changes: dict[str, Any]) -> None:
        self._again("PATCH", _of(job_id), json.dumps(changes).encode())

    def again(self, job_id: str, changes: dict[str, Any], new_id: str) -> str:
        sent = {"Idempotency-Key": new_id}
        told = self._again("POST", f"{_of(job_id)}/again", json.dumps(changes).encode(), more=sent)
        return str(told["id"])

    def priority(self, job_id: str, value: int | None) -> None:
        self._again("POST", f"{_of(job_id)}/priority", json.dumps({"priority": value}).encode())

    def image(self, job_id: str, image: Image) -> bytes:
        connection = self._connect(self._timeout_s)
        try:
            answer = self._send(connection, "GET", f"{_of(job_id)}/images/{image.file}")
            data = answer.read()
        except (http.client.HTTPException, OSError) as error:
            raise client.UnreachableError(f"{self._netloc} broke off: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            _refuse(answer.status, data, answer.headers)
        return data

    def models(self) -> Catalogue:
        return Catalogue.model_validate(self._again("GET", "/api/v1/models"))

    def pause(self, paused: bool) -> None:
        self._again("POST", f"/api/v1/queue/{'pause' if paused else 'resume'}")

    # -- one request ---------------------------------------------------------------------------------------------------------

    def _again(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        more: Mapping[str, str] | None = None,
        tries: int = TRIES,
        is_done: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """As `_json`, for what may be done twice: sent again when the connection breaks.

        `is_done` tells, where it is refused the second time, whether the first one was served after all.
        """
        for attempt in range(tries):
            try:
                return self._json(method, path, body, kind, more)
            except _LostError:
                if attempt == tries - 1:
                    raise
                time.sleep(REST_S)
            except client.WrongStateError:
                if attempt and is_done():
                    return {}
                raise
        raise AssertionError("unreachable")

    def _json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        more: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        connection = self._connect(self._timeout_s)
        try:
            answer = self._send(connection, method, path, body, kind, more)
            data = answer.read()
        except (http.client.HTTPException, OSError) as error:
            raise _LostError(f"{self._netloc} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status >= 300:
            _refuse(answer.status, data, answer.headers)
        try:
            told = json.loads(data)
        except ValueError as error:
            raise client.UnreachableError(f"{self._netloc} does not answer in JSON: it is no sdspool.") from error
        if not isinstance(told, dict):
            raise client.UnreachableError(f"{self._netloc} does not answer as sdspool does.")
        return told

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        made = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return made(self._netloc, timeout=timeout_s)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        more: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = dict(more or {})
        if body is not None:
            headers["Content-Type"] = kind
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request(method, self._path + path, body, headers)
            return connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise _LostError(f"{self._netloc} does not answer: {error}") from error


def _of(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def _events(answer: http.client.HTTPResponse, end: float | None) -> Iterator[JobView]:
    """The reports in a stream of server-sent events, until it ends or the time is over."""
    for line in answer:
        if line.startswith(b"data: {") and line.rstrip() != b"data: {}":
            yield JobView.model_validate_json(line[6:])
        elif line.startswith(b"event: gone"):
            raise client.NoSuchJobError("The job is gone: somebody removed it.")
        if end is not None and time.monotonic() >= end:
            return


def _parsed(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str, bytes]]:
    """Id, kind and data of each server-sent event; a comment, which says that the server lives, as an empty one."""
    event_id = kind = ""
    data = b""
    for line in answer:
        name, _, value = line.rstrip(b"\r\n").partition(b": ")
        if name == b"id":
            event_id = value.decode()
        elif name == b"event":
            kind = value.decode()
        elif name == b"data":
            data = value
        elif not line.strip():
            yield event_id, kind, data
            event_id, kind, data = "", "", b""


def _refuse(status: int, data: bytes, headers: http.client.HTTPMessage) -> NoReturn:
    """Raise what the answer says."""
    try:
        error = json.loads(data)["error"]
        message, fields = str(error["message"]), error.get("fields") or {}
        listed = error.get("mistakes") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        lost = _LostError if status in GATEWAY else client.UnreachableError
        raise lost(f"The server answered {status}, and not as sdspool does.") from None
    if status == 404:
        raise client.NoSuchJobError(message)
    if status == 409:
        raise client.WrongStateError(message)
    if status in (401, 403):
        raise client.ForbiddenError(message)
    if status in (429, 503, 507):
        seconds = headers.get("Retry-After", "")
        raise client.BusyError(message, float(seconds) if seconds.isdecimal() else 10.0)
    if status < 500:
        mistakes = [Mistake(field, text) for field, texts in fields.items() for text in texts]
        mistakes += [Mistake(str(each.get("field", "")), str(each.get("message", ""))) for each in listed]
        raise client.RefusedError(message, mistakes)
    raise client.UnreachableError(f"The server answered {status}: {message}")


def _multipart(job: bytes, inputs: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A form with the job and its pictures, and its type."""
    edge = uuid.uuid4().hex
    parts = [f'--{edge}\r\nContent-Disposition: form-data; name="job"\r\n\r\n'.encode() + job + b"\r\n"]
    for name, data in inputs.items():
        if not name.isascii() or not name.isprintable() or '"' in name:
            raise client.RefusedError(f"A picture must have a plain name, but this is {name!a}.")
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        parts.append(head + data + b"\r\n")
    return b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
