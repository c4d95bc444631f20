"""The spooler's and the API's sentences on a page in another language: those that are said often are translated.

Programs read English, and so do logs and records. A page knows the sentences by their words; whatever it does not know stays
English, marked as such, so that a screen reader speaks it right.
"""

from __future__ import annotations

import re
from functools import cache

from flask import Flask
from flask_babel import get_locale, gettext
from markupsafe import Markup, escape

#: Characters of a sentence that is looked up: a stranger's text may be in it, and longer ones are no sentences of ours.
LONGEST = 600


def msgid(text: str) -> str:
    """Mark a text for the catalogues; it is translated when it is shown."""
    return text


#: Sentences, with names for what differs.
KNOWN = (
    # webui/reports.py
    msgid("No spooler is running: jobs wait until one is started."),
    msgid("The engine of %(spooler)s cannot start: %(reason)s"),
    msgid("The queue is paused: Resume on the page Queue, or removing the file PAUSE, lets it go on."),
    msgid("The engine is loading its model."),
    msgid("It is being put into the queue."),
    # spooler/gate.py
    msgid("It waits for %(job)s, of which there is no job yet."),
    msgid("It waits until %(job)s is done."),
    msgid("It waits for its `not_before`."),
    msgid("The clock was set just now."),
    msgid("It was not started before its `expires_at`."),
    msgid("It was to run after itself."),
    # failures
    msgid("Cancelled while it waited."),
    msgid("Cancelled before it started."),
    msgid("Cancelled while it ran."),
    # spooler/job.py, mistakes.py and catalogue.py
    msgid("`prompt` must not be empty: write one first."),
    msgid("`%(field)s` is required, but is missing."),
    msgid("`%(field)s` must be a whole number, but is %(value)s."),
    msgid("`%(field)s` must be a number, but is %(value)s."),
    msgid("`%(field)s` must be less than or equal to %(limit)s, but is %(value)s."),
    msgid("`%(field)s` must be greater than or equal to %(limit)s, but is %(value)s."),
    msgid("`%(field)s` must be less than %(limit)s, but is %(value)s."),
    msgid("`%(field)s` must be greater than %(limit)s, but is %(value)s."),
    msgid("`%(field)s` must be a multiple of %(limit)s, but is %(value)s."),
    msgid("`%(field)s` must have at most %(limit)s characters, but has %(value)s."),
    msgid("`%(field)s` must be one of %(known)s (did you mean %(near)s?), but is %(value)s."),
    msgid("`%(field)s` must be one of %(known)s, but is %(value)s."),
    # webui/form.py and office.py
    msgid("`image` is required for %(kind)s: choose, drop or paste a picture."),
    msgid("`mask` is required for inpaint: paint over what is to change, or choose a mask."),
    msgid("Please choose the picture again: a browser sends each file once only."),
    msgid("At most %(limit)s jobs may wait, and %(value)s do: the job was not accepted. Try again later."),
    msgid("You submit jobs faster than one may: the job was not accepted. Try again later."),
)
#: What a failure's code says, for a title over its reason.
CODES = {
    "cancelled": msgid("Cancelled"),
    "condition": msgid("Its conditions cannot be met"),
    "engine_error": msgid("The engine failed"),
    "internal": msgid("A fault in the program"),
    "invalid": msgid("The job cannot be run"),
    "lost": msgid("Its folder is gone"),
    "no_space": msgid("The disk is full"),
    "not_finite": msgid("The picture came out broken"),
    "out_of_memory": msgid("Not enough memory"),
    "worker-died": msgid("The engine ended in the middle"),
}


def install(app: Flask) -> None:
    app.add_template_filter(said)
    app.add_template_filter(title_of)


def translated(sentence: str) -> str | None:
    """The sentence in this request's language; None when it is not known there."""
    locale = get_locale()
    if locale is None or locale.language == "en":
        return sentence
    for text, pattern in _patterns() if len(sentence) <= LONGEST else ():
        if match := pattern.fullmatch(sentence):
            return str(gettext(text, **match.groupdict()))
    return None


def said(sentence: str) -> Markup:
    """The sentence for a page: in its language where it is known there, else marked as English."""
    found = translated(sentence)
    return Markup('<span lang="en">{}</span>').format(sentence) if found is None else escape(found)


def title_of(code: str) -> str:
    """What a failure's code says; the code itself where that is unknown."""
    return str(gettext(CODES[code])) if code in CODES else code.replace("_", " ")


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each sentence with what finds it."""
    found = []
    for text in KNOWN:
        parts = re.split(r"%\((\w+)\)s", text)
        pattern = "".join(re.escape(part) if at % 2 == 0 else f"(?P<{part}>[^`]*?)" for at, part in enumerate(parts))
        found.append((text, re.compile(pattern, re.DOTALL)))
    return tuple(found)
