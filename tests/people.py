"""People with keys, and a web app that they need them for: what the tests of the guard share."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from spooler.settings import Settings
from webui.app import create_app

ANN, BOB, OPS = "ann-secret-0123456789", "bob-secret-0123456789", "ops-secret-0123456789"
KEYS = f"ann owner {ANN}\nbob owner {BOB}\nops operator {OPS}\n"
PROMPT = {"prompt": "a ring"}


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make_app(tmp_path: Path, keys: str = "", **settings: Any) -> Flask:
    if keys:
        (tmp_path / "keys").write_text(keys)
        (tmp_path / "keys").chmod(0o600)
    # Some of these requests wait for a job, and no spooler runs here.
    made = {"spool": tmp_path / "spool", "cache": tmp_path / "cache", "keys": tmp_path / "keys", "wait_s": 0.05, **settings}
    return create_app(Settings(**made))


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path, KEYS)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def log_in(client: FlaskClient, name: str, secret: str, **form: str) -> TestResponse:
    return client.post("/login", data={"name": name, "key": secret, **form}, headers={"Origin": "http://localhost"})
