"""The factory: one Flask app over one spool. Any number of them, on any number of hosts, may share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from spooler.settings import Settings
from spooler.spool import Spool
from webui.reports import Reports


@dataclass(frozen=True)
class Office:
    """What every view works with."""

    settings: Settings
    spool: Spool
    reports: Reports


def create_app(settings: Settings) -> Flask:
    """The app over `settings.spool`, whose folders are made when missing. Raises SpoolError when they cannot be used."""
    from webui import api, guard, pages

    spool = Spool(settings.spool)
    spool.create()
    app = Flask("webui")
    app.extensions["office"] = Office(settings, spool, Reports(spool))
    guard.install(app)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(pages.blueprint)
    return app


def office() -> Office:
    """The office of the app that serves this request."""
    return cast(Office, current_app.extensions["office"])
