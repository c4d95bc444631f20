"""What went wrong, in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

The SDKs send a request again after 408, 409, 429 and 5xx, twice, unless a header says otherwise: a job that failed would be
drawn three times. So only what was not accepted, and may be later, is to be sent again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from flask import Response, jsonify

from spooler.mistakes import Mistake

#: Our names of a job's fields by OpenAI's; all others are called as here.
PARAMS = {"width": "size", "height": "size", "count": "n", "owner": "user"}
#: OpenAI's codes for ours; all others are ours.
CODES = {
    "invalid_job": "invalid_value",
    "not_found": "unknown_url",
    "method_not_allowed": "method_not_supported",
    "unauthorized": "invalid_api_key",
}
TYPES = {429: "rate_limit_error", 401: "invalid_request_error", 403: "invalid_request_error"}
#: Nothing was accepted, and it may be in a moment: the SDKs may try again.
TRY_AGAIN = frozenset({429, 503})


class RefusedError(ValueError):
    """A request that is not served: met by whoever sent it. Names the parameter, the rule and the value."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_value", status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def is_ours(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def body(status: int, code: str, message: str, param: str | None = None) -> dict[str, dict[str, str | None]]:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer(status: int, code: str, message: str, mistakes: Iterable[Mistake] = ()) -> Response:
    """The error that another part of the app tells with its own code, in OpenAI's shape."""
    fields = [mistake.field for mistake in mistakes if mistake.field]
    param = PARAMS.get(fields[0], fields[0]) if fields else None
    if code == "invalid_job" and "is required, but is missing" in message:
        code = "missing_required_parameter"
    return shaped(status, CODES.get(code, code), message, param)


def shaped(status: int, code: str, message: str, param: str | None = None) -> Response:
    response = jsonify(body(status, code, message, param))
    response.status_code = status
    if (status >= 500 or status in (408, 409)) and status not in TRY_AGAIN:
        response.headers["x-should-retry"] = "false"
    return response


def request_id() -> str:
    """For the header `x-request-id`, which people tell when they ask what went wrong."""
    return f"req_{uuid.uuid4().hex}"
