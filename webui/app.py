"""The factory: one Flask app over one spool. Any number of them, on any number of hosts, may share it."""

from __future__ import annotations

from flask import Flask

from spooler.settings import Settings
from spooler.spool import Spool
from webui import api, errors, guard, pages
from webui.office import Office
from webui.reports import Reports

#: Room for a form whose prompt is far too long, so that the answer can say so beside the field.
MAX_REQUEST_BYTES = 4 << 20


def create_app(settings: Settings) -> Flask:
    """The app over `settings.spool`, whose folders are made when missing. Raises SpoolError when they cannot be used."""
    spool = Spool(settings.spool)
    spool.create()
    app = Flask("webui")
    app.config.update(MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES, MAX_FORM_MEMORY_SIZE=MAX_REQUEST_BYTES)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["office"] = Office(settings, spool, Reports(spool))
    guard.install(app)
    errors.install(app)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    return app
