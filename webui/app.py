"""The factory: one Flask app over one spool. Any number of them, on any number of hosts, may share it."""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from spooler.denylist import DenyList
from spooler.settings import Settings
from spooler.spool import Spool
from webui import actions, api, errors, guard, pages
from webui.index import Index
from webui.line import Line
from webui.office import Office
from webui.reports import Reports

#: Room for three pictures of the largest size that is accepted.
MAX_REQUEST_BYTES = 64 << 20


def create_app(settings: Settings) -> Flask:
    """The app over `settings.spool`, whose folders are made when missing.

    Raises SpoolError when they cannot be used, DenyListError when the deny list cannot.
    """
    deny_list = DenyList.read(Path(settings.deny_list)) if settings.deny_list else DenyList()
    spool = Spool(settings.spool)
    spool.create()
    index = Index(spool, settings.cache)
    app = Flask("webui")
    app.config.update(MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES, MAX_FORM_MEMORY_SIZE=guard.MAX_TEXT_BYTES)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    line = Line(spool, settings.owner_waiting)
    app.extensions["office"] = Office(settings, spool, Reports(spool, line, index), line, index, deny_list)
    guard.install(app)
    errors.install(app)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(actions.blueprint)
    app.jinja_env.globals["verbs_for"] = actions.shown
    return app
