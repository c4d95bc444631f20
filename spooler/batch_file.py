"""A batch file: one dropped file that holds several jobs, or a picture that says how to make it again. Bytes in, rows out.

    .jsonl   one job a line, each a JSON object; blank lines are skipped
    .csv     RFC 4180: a header of field names, one job a row; an empty cell is a field left out
    .txt     one prompt a line; blank lines and lines that begin with # are skipped
    .png     one job: A1111's text in the picture (ours too)

An `overrides` object is laid over each row as a JSON merge patch (RFC 7396): its fields win, null takes a field away.
Everything is named at once: a file with any mistake has no rows at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from spooler import csv_table, infotext, png
from spooler.job import ALIASES, Job, from_fields
from spooler.mistakes import IncompleteError, JobError, Mistake, show
from spooler.strict_json import parse_object

#: Of a file of text, in bytes; of a picture see pictures.py.
MAX_BYTES = 4 << 20
MAX_ROWS = 10_000
#: Blank ones, remarks and lines inside of cells reckoned in: going over millions of them takes seconds.
MAX_LINES = 200_000
#: Of ( ) [ ] \\ in one file: each is a step in reading a prompt, so that 4 MiB of nothing else would take three seconds.
MAX_MARKS = 400_000
#: Pictures that one file may ask for, sweeps and counts reckoned in: each cell of a sweep is looked at before any is drawn.
MAX_PICTURES = 50_000
#: A file is read no further than this many mistakes.
MAX_MISTAKES = 1000
SUFFIXES = (".jsonl", ".csv", ".txt", ".png")

_COUNTS = ("count", "batch_size", "n_iter")
#: A field of a job as it comes from a file, before the rules of a job.
Fields = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One job of a batch file, and its line there, from 1; None for the job of a picture."""

    line: int | None
    job: Job


def read_rows(name: str, data: bytes, overrides: bytes | None = None) -> list[Row]:
    """The jobs of a file called `name`, with the bytes of its overrides file, if there is one.

    Raises JobError with every mistake of the file (but no more than 1,000), each beginning with its place: "line 12: ...",
    "overrides: ...", "parameters: ..." for the text of a picture, "The file ..." for the whole. It is IncompleteError where
    the end of the bytes may be the reason: a file that is still arriving.
    """
    suffix = suffix_of(name)
    if suffix is None:
        raise JobError(Mistake("", f"The file must be called {', '.join(SUFFIXES[:-1])} or .png, but is {show(name)}."))
    found = _Reading(_overrides(overrides) if overrides is not None else {})
    if suffix != ".png":
        _check_size(data)
    with suppress(_Enough):
        _READERS[suffix](data, found)
    if not found.rows and not found.mistakes:
        found.tell("The file", "must have at least one job, but has none.", may_be_cut=True)
    if found.mistakes:
        raise (IncompleteError if found.may_be_cut else JobError)(*found.mistakes)
    return found.rows


def _check_size(data: bytes) -> None:
    """Raises JobError for a text that would take long to read, before any of it is."""
    if len(data) > MAX_BYTES:
        raise JobError(Mistake("", f"The file must have at most {MAX_BYTES >> 20} MiB, but has {len(data) / (1 << 20):.1f}."))
    if (lines := max(data.count(b"\n"), data.count(b"\r"))) > MAX_LINES:
        raise JobError(Mistake("", f"The file must have at most {MAX_LINES} lines, but has {lines}."))
    if (marks := sum(map(data.count, (b"(", b")", b"[", b"]", b"\\")))) > MAX_MARKS:
        raise JobError(Mistake("", f"The file must have at most {MAX_MARKS} brackets and backslashes, but has {marks}."))


def complete(name: str, data: bytes) -> bool:
    """Whether the bytes prove that they are the whole file, so that nobody needs to wait whether more come.

    A JSON object proves it by its last brace, a PNG by the checksums of its chunks up to IEND. Lines never do: the next one
    may be on its way. Whether what is whole is right is another question.
    """
    if suffix_of(name) == ".png":
        return png.is_whole(data)
    if not name.lower().endswith(".json"):
        return False
    try:
        parse_object(data)
    except JobError:
        return False
    return True


def suffix_of(name: str) -> str | None:
    """The kind of batch file that the name tells, in small letters; None for a name that tells none."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


class _Enough(Exception):
    """The bound of mistakes, jobs or pictures is reached: met by `read_rows` alone."""


@dataclass
class _Reading:
    """What was found in a file so far."""

    overrides: Fields
    rows: list[Row] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    may_be_cut: bool = False
    pictures: int = 0

    def tell(self, place: str, why: str, name: str = "", may_be_cut: bool = False) -> None:
        self.mistakes.append(Mistake(name, f"{place} {why}"))
        self.may_be_cut |= may_be_cut
        if len(self.mistakes) == MAX_MISTAKES:
            rule = f"The file was read no further than {place.removesuffix(':')}"
            self.mistakes.append(Mistake("", f"{rule}: these are {MAX_MISTAKES} mistakes."))
            raise _Enough

    def add(self, line: int | None, fields: Fields, place: str, may_be_cut: bool = False) -> None:
        """Take one row in, or its mistakes."""
        try:
            job = from_fields(lay_over(fields, self.overrides))
        except JobError as error:
            self._blame(fields, error, place, may_be_cut)
            return
        if job.inputs:
            why = "a file of jobs brings no pictures along: drop a folder with job.json and the pictures in it"
            self.tell(f"{place}:", f"must name no picture, but names {show(job.inputs[0])}; {why}.", "image", may_be_cut)
        self.pictures += job.pictures
        self.rows.append(Row(line, job))
        if len(self.rows) > MAX_ROWS:
            self.tell("The file", f"must have at most {MAX_ROWS} jobs, but has more: see {place}.")
            raise _Enough
        if self.pictures > MAX_PICTURES:
            self.tell("The file", f"must ask for at most {MAX_PICTURES} pictures, but asks for more: see {place}.")
            raise _Enough

    def _blame(self, fields: Fields, error: JobError, place: str, may_be_cut: bool) -> None:
        """Tell whose the mistakes are: what is wrong only under the overrides is theirs, and they are used no more."""
        own: tuple[Mistake, ...] = error.mistakes
        if self.overrides:
            try:
                from_fields(fields)
                own = ()
            except JobError as alone:
                own = alone.mistakes
        for mistake in error.mistakes:
            if mistake in own:
                self.tell(f"{place}:", mistake.message, mistake.field, may_be_cut)
            else:
                self.tell("overrides:", mistake.message, mistake.field, may_be_cut)
                self.overrides = {}


def lay_over(fields: Fields, overrides: Fields) -> Fields:
    """The fields with the overrides merged in (RFC 7396), whatever spelling of a field either of them uses."""
    merged = dict(fields)
    for name, value in overrides.items():
        true_name = ALIASES.get(name, name)
        spellings = [true_name, *(alias for alias, of in ALIASES.items() if of == true_name)]
        before = next((merged[each] for each in spellings if each in merged), None)
        for spelling in _COUNTS if true_name in _COUNTS else spellings:
            if spelling not in overrides or spelling == name:
                merged.pop(spelling, None)
        if isinstance(merged.get("sweep"), dict):
            merged["sweep"] = {swept: values for swept, values in merged["sweep"].items() if swept != true_name}
        if true_name == "sampler" and "scheduler" not in overrides and "schedule" not in overrides:
            merged.pop("scheduler", None)  # that of another sampler
            merged.pop("schedule", None)
        if isinstance(value, dict):
            inside = before if isinstance(before, dict) else {}
            merged[name] = {key: each for key, each in (inside | value).items() if value.get(key, each) is not None}
        elif value is not None:
            merged[name] = value
    return merged


def _overrides(raw: bytes) -> Fields:
    try:
        return parse_object(raw, "It")
    except JobError as error:
        raise type(error)(*(Mistake(each.field, f"overrides: {each.message}") for each in error.mistakes)) from error


def _read_jsonl(data: bytes, found: _Reading) -> None:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip(b" \t\r\xef\xbb\xbf"):
            continue
        try:
            fields = parse_object(line, "it", one_line=True)
        except JobError as error:
            cut = isinstance(error, IncompleteError) and number == len(lines)
            for mistake in error.mistakes:
                found.tell(f"line {number}:", mistake.message, mistake.field, may_be_cut=cut)
        else:
            found.add(number, fields, f"line {number}")


def _read_txt(data: bytes, found: _Reading) -> None:
    lines = re.split(r"\r\n|\n|\r", _decoded(data, found))
    for number, line in enumerate(lines, start=1):
        if (prompt := line.strip()) and not prompt.startswith("#"):
            found.add(number, {"prompt": prompt}, f"line {number}", may_be_cut=number == len(lines))


def _read_png(data: bytes, found: _Reading) -> None:
    text, keywords = png.read_text(data, infotext.KEYWORD)
    if text is None:
        has = f"has only {', '.join(map(show, keywords[:8]))}" if keywords else "has none"
        rule = f"must have the text {infotext.KEYWORD!r}, in which A1111 and sdspool tell how a picture was made"
        found.tell("The picture", f"{rule}, but {has}.")
    elif _is_json(text):
        found.tell("parameters:", f"must be A1111's text, but is a JSON object, as SwarmUI writes it: {show(text)}.")
    else:
        found.add(None, infotext.parse(text), "parameters")


def _is_json(text: str) -> bool:
    try:
        return bool(parse_object(text.encode()))
    except JobError:
        return False


def _read_csv(data: bytes, found: _Reading) -> None:
    text = _decoded(data, found)
    separator = csv_table.separator_of(text)
    header: list[csv_table.Column | None] | None = None
    try:
        for record in csv_table.records(text, separator):
            if header is None:
                header = _read_header(record, found)
            else:
                _read_record(record, header, separator, found)
    except csv_table.TableError as error:
        found.tell(f"line {error.line}:", str(error), may_be_cut=error.may_be_cut)


def _read_header(record: csv_table.Record, found: _Reading) -> list[csv_table.Column | None]:
    mistakes: list[Mistake] = []
    header = csv_table.header(record.cells, mistakes)
    for mistake in mistakes:
        found.tell(f"line {record.line}:", mistake.message, mistake.field, record.may_be_cut)
    return header


def _read_record(record: csv_table.Record, header: list[csv_table.Column | None], separator: str, found: _Reading) -> None:
    place = f"line {record.line}"
    if len(record.cells) != len(header):
        why = f"must have {len(header)} cells, as the header has, but has {len(record.cells)}"
        if len(record.cells) > len(header):
            why += f": a text with {show(separator)} in it must stand between quotation marks"
        found.tell(f"{place}:", f"{why}.", may_be_cut=record.may_be_cut)
        return
    mistakes: list[Mistake] = []
    fields = csv_table.fields(record.cells, header, mistakes, decimal_comma=separator == ";")
    for mistake in mistakes:
        found.tell(f"{place}:", mistake.message, mistake.field, record.may_be_cut)
    found.add(record.line, fields, place, record.may_be_cut)


def _decoded(data: bytes, found: _Reading) -> str:
    """The text of a .csv or .txt: UTF-8, or the UTF-16 that Windows marks with its first two bytes."""
    if data in (b"\xff", b"\xfe"):  # the first of the two
        found.tell("The file", "must have at least one job, but has none.", may_be_cut=True)
        raise _Enough
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            cut = "illegal" not in error.reason
            found.tell("The file", f"must be whole UTF-16 text, but byte {error.start} is not.", may_be_cut=cut)
            raise _Enough from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        lines = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                why = f'must be UTF-8 text (in Excel: save as "CSV UTF-8"), but has the byte {line[error.start]:#04x}'
                cut = number == len(lines) and error.reason == "unexpected end of data"
                before = line[: error.start][-40:].decode(errors="replace")
                found.tell(f"line {number}:", f"{why} after {show(before)}.", may_be_cut=cut)
        raise _Enough from None


_READERS: dict[str, Callable[[bytes, _Reading], None]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".png": _read_png,
}
