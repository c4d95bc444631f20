"""The factory: one Flask app over one spool. Any number of them, on any number of hosts, may share it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Request
from werkzeug.exceptions import BadRequest

from spooler.denylist import DenyList
from spooler.settings import Settings
from spooler.spool import Spool
from webui import (
    actions,
    aids,
    api,
    archives,
    batch_page,
    batching,
    bulk,
    changing,
    editing,
    errors,
    following,
    form,
    frame,
    guard,
    labels,
    live,
    login,
    metrics,
    packed,
    pictures,
    plain,
    sentences,
    status,
    tongues,
)
from webui.index import Index
from webui.line import Line
from webui.news import News
from webui.office import Office
from webui.openai_api import views as openai_views
from webui.patience import Patience
from webui.proxies import Proxies, checked_prefix, networks
from webui.reports import Reports
from webui.sdapi import register as sdapi

#: Room for three pictures of the largest size that is accepted.
MAX_REQUEST_BYTES = 64 << 20


class FormRequest(Request):
    """A request whose form has a name for each of its parts: of one that nobody can understand werkzeug makes None."""

    def _load_form_data(self) -> None:
        super()._load_form_data()
        if None in self.form or None in self.files:
            raise BadRequest("Each part of a form must have a name that can be read, but one has none.")


class App(Flask):
    """Flask, but that none of its functions is a coroutine: it asks that of each one at each request."""

    request_class = FormRequest

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings) -> Flask:
    """The app over `settings.spool`, whose folders are made when missing.

    Raises SpoolError when they cannot be used, DenyListError when the deny list cannot, ProxyError for settings of a proxy.
    The server that runs the app takes `settings.prefix` off the paths that it is asked for (waitress: url_prefix).
    """
    deny_list = DenyList.read(Path(settings.deny_list)) if settings.deny_list else DenyList()
    spool = Spool(settings.spool)
    spool.create()
    index = Index(spool, settings.cache)
    app = App("webui")
    app.config.update(MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES, MAX_FORM_MEMORY_SIZE=guard.MAX_TEXT_BYTES)
    app.wsgi_app = Proxies(app.wsgi_app, networks(settings.trusted_proxies))  # type: ignore[method-assign]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    line = Line(spool, settings.owner_waiting)
    reports = Reports(spool, line, index, checked_prefix(settings.prefix))
    # Half of the threads may wait for jobs; the others answer at once.
    patience = Patience(reports, settings.web_threads // 2)
    app.extensions["office"] = Office(settings, spool, reports, line, index, deny_list, patience, News(reports.status))
    guard.install(app, settings)
    packed.install(app)
    tongues.install(app)
    errors.install(app)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(aids.blueprint)
    app.register_blueprint(form.blueprint)  # the pages', which the form adds its own to
    app.register_blueprint(actions.blueprint)
    for part in (archives, batch_page, batching, bulk, changing, editing, following, login, openai_views, plain):
        app.register_blueprint(part.blueprint)
    for page in (frame, labels, live, metrics, pictures, sentences, status):
        page.install(app)
    sdapi.install(app)
    return app
