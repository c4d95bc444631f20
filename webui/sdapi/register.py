"""All of this API into the app."""

from __future__ import annotations

from flask import Flask

from webui.sdapi import clock, description, draw, errors, lists, progress, tools
from webui.sdapi.kept import Kept


def install(app: Flask) -> None:
    app.extensions["sdapi"] = Kept()
    clock.install(app)
    errors.install(app)
    for part in (description, draw, lists, progress, tools):
        app.register_blueprint(part.blueprint)
