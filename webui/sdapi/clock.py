"""The header with which A1111 tells how long an answer took."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from webui.sdapi.errors import speaks


def install(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_tell)


def _begin() -> None:
    g.sdapi_began = time.perf_counter()


def _tell(response: Response) -> Response:
    if speaks(request.path):
        began = g.get("sdapi_began", time.perf_counter())
        response.headers["X-Process-Time"] = str(round(time.perf_counter() - began, 4))
    return response
