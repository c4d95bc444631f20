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
    # webui/errors.py, pages.py and others: what a page of an error says
    msgid("There is nothing here."),
    msgid("This cannot be done here."),
    msgid("The request is too large: at most 64 MiB, its texts at most 4 MiB."),
    msgid("Something went wrong in the server; its log says what."),
    msgid("There is no such job: it may have been removed from the spool."),
    msgid("There is no such job or picture: it may have been removed from the spool."),
    msgid("The job has no such picture."),
    msgid("There is no such batch."),
    msgid("There is no such thing to do."),
    msgid("The job belongs to somebody else."),
    msgid("The job has a star: take the star away first."),
    msgid("The job has moved on."),
    msgid("Only a job that has ended can be deleted: cancel it first."),
    msgid("It is the job of %(owner)s: only its owner and an operator may do that, and you are %(me)s."),
    msgid("Nobody owns it: only an operator may do that, and you are %(me)s."),
    msgid("Only an operator may do that, and you are %(me)s."),
    msgid("This server does not answer to that host name."),
    msgid("Another site may not change anything here, nor read it."),
    msgid("The spool's disk is full: the job was not accepted. Try again when there is space."),
    msgid("The spool cannot be used just now: the job was not accepted."),
    msgid("The web app may not use this file of the spool: its owner, or root, has to open it to it."),
    msgid("The file of keys cannot be used, so nobody is let in; the server's log says why."),
    msgid("Too many wrong keys came from your address: try again later."),
    msgid("Too many of your requests are under way: try again in a moment."),
    msgid("The engine is loading its model."),
    msgid("It is being put into the queue."),
    # spooler/gate.py
    msgid("It waits for %(job)s, of which there is no job yet."),
    msgid("It waits until %(job)s is done."),
    msgid("It waits for its `not_before`, %(moment)s."),
    msgid("The clock was set just now."),
    msgid("It was not started before its `expires_at`."),
    msgid("It was to run after itself."),
    msgid("It was to run after %(job)s, but that one is failed."),
    msgid("It was to run after %(job)s, but that one is cancelled."),
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
    msgid("`%(field)s` must be text, but is %(value)s."),
    msgid("`%(field)s` must be an object, {...}, but is %(value)s."),
    msgid("`%(field)s` must have at most %(limit)s items, but has %(value)s."),
    msgid("`%(field)s` must be one that the server has, but it has none, and this is %(value)s."),
    msgid("`%(field)s` is not a field of a job (did you mean %(near)s?)."),
    msgid("`%(field)s` is not a field of a job."),
    msgid("`id` is not a field of a job file: a job's id is its file's name."),
    msgid("`%(field)s` must be given once, but is given twice."),
    msgid("`%(field)s` is another spelling of `%(name)s`: only one of them may be given."),
    msgid("There are %(n)s more mistakes, not told."),
    # of dropped files: spooler/strict_json.py, batch_file.py, csv_table.py, pictures.py and png.py
    msgid("line %(n)s: %(rest)s"),
    msgid("overrides: %(rest)s"),
    msgid("in `%(column)s`, %(rest)s"),
    msgid("It came with %(file)s, which was set aside."),
    msgid("A job must be a JSON object, {...}, but this is %(value)s."),
    msgid("A job must be UTF-8 text, but byte %(n)s is %(value)s."),
    msgid("A job must be JSON, but at line %(n)s, column %(column)s: %(why)s."),
    msgid("A job must be JSON, but this is empty."),
    msgid("A job must have at most %(limit)s bytes, but this has more."),
    msgid("it must be a JSON object, {...}, but this is %(value)s."),
    msgid("it must be JSON, but at column %(column)s: %(why)s."),
    msgid("The file must have at least one job, but has none."),
    msgid("The file must have at most %(limit)s MiB, but has %(value)s."),
    msgid("The file must have at most %(limit)s lines, but has %(value)s."),
    msgid("`%(name)s` must be a whole picture, but cannot be decoded: %(why)s."),
    msgid("`%(name)s` must be a PNG, JPEG or WebP picture, but is none that can be read."),
    msgid("`%(name)s` must have at most %(limit)s MiB, but has %(value)s."),
    msgid("`%(name)s` must have at most %(limit)s million pixels, but has %(value)s."),
    msgid("A folder in pending/ must have a job.json, but %(name)s has none."),
    msgid("A picture must be a whole PNG, but this begins with the bytes %(value)s."),
    msgid("A picture must be a whole PNG, but this is empty."),
    msgid("A picture must be a whole PNG, but this ends after %(n)s bytes without IEND."),
    # webui/form.py and office.py
    msgid("`image` is required here: choose, drop or paste a picture."),
    msgid("`mask` is required here: paint over what is to change, or choose a mask."),
    msgid("Please choose the picture again: a browser sends each file once only."),
    msgid("At most %(limit)s jobs may wait, and %(value)s do: the job was not accepted. Try again later."),
    msgid(
        "At most %(limit)s jobs of one owner may wait, and %(value)s of %(who)s do: the job was not accepted. Try again later."
    ),
    msgid("The disk must have %(limit)s MiB free, but has %(value)s: the job was not accepted. Try again when there is space."),
    msgid("You submit jobs faster than one may: the job was not accepted. Try again later."),
)
#: What may be in such a sentence: what a value is (spooler/mistakes.py, kind_of), and what json finds wrong (json.decoder).
WORDS = (
    msgid("an object"),
    msgid("an array"),
    msgid("a text"),
    msgid("true or false"),
    msgid("a number"),
    msgid("Expecting value"),
    msgid("Expecting property name enclosed in double quotes"),
    msgid("Expecting ':' delimiter"),
    msgid("Expecting ',' delimiter"),
    msgid("Extra data"),
    msgid("Unterminated string starting at"),
    msgid("Invalid control character at"),
    msgid("Invalid \\escape"),
    msgid("Invalid \\uXXXX escape"),
    msgid("Illegal trailing comma before end of object"),
    msgid("Illegal trailing comma before end of array"),
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
            return str(gettext(text, **{name: _in_it(name, value) for name, value in match.groupdict().items()}))
    return None


def _in_it(name: str, value: str) -> str:
    """What differs in a sentence, in this request's language where it is ours: the rest of it, or one of WORDS."""
    if name == "rest":
        return translated(value) or value
    return str(gettext(value)) if value in WORDS else value


def said(sentences: str) -> Markup:
    """Sentences, one a line, for a page: each in its language where it is known there, else marked as English."""
    return Markup("\n").join(_said(each) for each in sentences.split("\n"))


def _said(sentence: str) -> Markup:
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
        pattern = "".join(re.escape(part) if at % 2 == 0 else _group(part) for at, part in enumerate(parts))
        found.append((text, re.compile(pattern, re.DOTALL)))
    return tuple(found)


def _group(name: str) -> str:
    return f"(?P<{name}>.*)" if name == "rest" else f"(?P<{name}>[^`]*?)"
