"""The languages of the pages: English in the templates, the others from catalogues in webui/translations/ (Flask-Babel).

What a page says is `{{ _('…') }}` in a template and `gettext('…')` in Python. The API speaks English only: programs read it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request
from flask_babel import Babel, get_locale

#: Each language with its own name. The first is what is spoken when the browser asks for none of them.
TONGUES = {"en": "English", "de": "Deutsch"}
COOKIE = "tongue"


def install(app: Flask) -> None:
    Babel(app, default_locale="en", locale_selector=chosen)
    app.context_processor(_frame)


def chosen() -> str:
    """The language of this request: what the person chose, else what the browser asks for."""
    wanted = request.cookies.get(COOKIE, "")
    return wanted if wanted in TONGUES else request.accept_languages.best_match(list(TONGUES)) or "en"


def _frame() -> dict[str, Any]:
    """For the frame of the page: the language, its direction, and the choice."""
    locale = get_locale()
    tongue, direction = (locale.language, locale.text_direction) if locale else ("en", "ltr")
    return {"tongue": tongue, "direction": direction, "tongues": TONGUES}
