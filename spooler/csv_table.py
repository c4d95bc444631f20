"""A table of jobs as CSV (RFC 4180), as spreadsheets write it: which column is which field, and what a cell says.

The header has field names as in a job file, A1111's spellings too; `hires.scale` is a field inside a field. A cell is read by
the type that the JSON Schema of a job has for its field; a list in JSON is a sweep.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spooler.job import ALIASES, NAMES, PART_NAMES, Job
from spooler.mistakes import IncompleteError, JobError, Mistake, did_you_mean, printable, show
from spooler.strict_json import parse

SEPARATORS = ",;\t"
#: More than a job has fields; each that is none costs the time of a guess at what was meant.
MAX_COLUMNS = 200
_DECLARED = re.compile(r'"?sep=([,;\t|])"?\r?\n')
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,19})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,40})(\.\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Record:
    """One record of the file: the line that it begins at, from 1, its cells, and whether the file ends with it, unfinished."""

    line: int
    cells: list[str]
    may_be_cut: bool


@dataclass(frozen=True)
class Column:
    """What a column of the table is for: the field, the field inside that one or "", and the JSON types that it takes."""

    name: str
    inner: str
    kinds: frozenset[str]

    @property
    def title(self) -> str:
        return f"{self.name}.{self.inner}" if self.inner else self.name


class TableError(ValueError):
    """A text that is no CSV from some line on; perhaps because its end is still missing. Met by who dropped it."""

    def __init__(self, line: int, why: str, may_be_cut: bool):
        super().__init__(why)
        self.line = line
        self.may_be_cut = may_be_cut


def separator_of(text: str) -> str:
    """What stands between the cells: as `sep=;` in the first line says, else what gives the header most names."""
    if declared := _DECLARED.match(text):
        return declared[1]
    first = text.lstrip("\r\n").partition("\n")[0][:100_000]

    def known(separator: str) -> int:
        return sum(cell.strip(' "\r') in columns() for cell in first.split(separator))

    return max(SEPARATORS, key=known)  # the first of those that are as good


def records(text: str, separator: str) -> Iterator[Record]:
    """The records that are not empty. Raises TableError for what is no CSV."""
    skipped = 0
    if declared := _DECLARED.match(text):
        skipped, text = 1, text[declared.end() :]
    ends_open = not text.endswith("\n")
    # Quoted cells of more than 128 KiB end it with an error: that is a quotation mark that was left open.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    waiting: Record | None = None
    line = skipped + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if waiting:
                    yield waiting
                waiting = Record(line, cells, may_be_cut=False)
            line = reader.line_num + skipped + 1
    except csv.Error as error:
        if waiting:
            yield waiting
        if "unexpected end" in str(error):
            raise TableError(line, "has a quotation mark that is never closed.", may_be_cut=True) from error
        raise TableError(line, f"cannot be read as CSV: {printable(str(error))}.", may_be_cut=False) from error
    if waiting:
        yield Record(waiting.line, waiting.cells, may_be_cut=ends_open)


def header(cells: list[str], mistakes: list[Mistake]) -> list[Column | None]:
    """The columns of the table; None for one that is to be left alone: without a name, or one that was put into `mistakes`."""
    found: list[Column | None] = []
    if len(cells) > MAX_COLUMNS:
        mistakes.append(Mistake("", f"a table must have at most {MAX_COLUMNS} columns, but this has {len(cells)}."))
        return [None] * len(cells)
    for cell in cells:
        name = cell.strip()
        column = columns().get(name)
        if column and column in found:
            mistakes.append(Mistake(name, f"the column `{name}` must be given once, but is given twice."))
            column = None
        elif name and not column:
            known = PART_NAMES if "." in name else NAMES
            near = did_you_mean(name.rpartition(".")[2], known)
            mistakes.append(Mistake(name, f"the column `{show(name)[1:-1]}` is not a field of a job{near}."))
        found.append(column)
    return found


def fields(cells: list[str], header: list[Column | None], mistakes: list[Mistake], decimal_comma: bool) -> dict[str, Any]:
    """The fields of a job that the cells of one record say."""
    given: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for cell, column in zip(cells, header, strict=True):
        if column is None or not (text := cell.strip()):
            continue
        try:
            value = _value(text, column.kinds, decimal_comma)
        except JobError as error:
            mistakes += [Mistake(column.title, f"in `{column.title}`, {each.message}") for each in error.mistakes]
            continue
        if not column.inner:
            given[column.name] = value
        else:
            parts.setdefault(column.name, {})[column.inner] = value
    for name in given.keys() & parts.keys():
        mistakes.append(Mistake(name, f"`{name}` must be given as one cell or as its parts, not as both."))
    return given | parts


@functools.cache
def columns() -> dict[str, Column]:
    """Every column that a table may have, by its title."""
    schema = Job.model_json_schema()
    parts = schema["$defs"]
    found: dict[str, Column] = {}
    for name, row in schema["properties"].items():
        found[name] = Column(name, "", _kinds(row, parts))
        for reference in re.findall(r"#/\$defs/(\w+)", str(row.get("anyOf", ""))):
            for inner, inner_row in parts[reference]["properties"].items():
                column = Column(name, inner, _kinds(inner_row, parts))
                found[column.title] = column
    for alias, name in ALIASES.items():
        found[alias] = Column(alias, "", found[name].kinds)
    for alias in ("batch_size", "n_iter"):
        found[alias] = Column(alias, "", found["count"].kinds)
    return found


def _kinds(row: dict[str, Any], parts: dict[str, Any]) -> frozenset[str]:
    """The JSON types that a property of the schema takes."""
    if "$ref" in row:
        row = parts[row["$ref"].rpartition("/")[2]]
    found = {row["type"]} if "type" in row else set()
    return frozenset(found.union(*(_kinds(each, parts) for each in row.get("anyOf", ()))) - {"null"})


def _value(text: str, kinds: frozenset[str], decimal_comma: bool) -> Any:
    """What the cell says in JSON's types; a text that is none of them is left for the rules of a job to name."""
    if text[0] in "[{":
        try:
            value = parse(text.encode(errors="surrogatepass"), "it", one_line="\n" not in text)
        except JobError as error:
            if "string" in kinds or isinstance(error, IncompleteError):
                return text  # a prompt may begin with a bracket
            raise
        if "string" not in kinds or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            return value
        return text
    if "string" in kinds:
        return text
    if "boolean" in kinds and text.lower() in ("true", "false"):  # spreadsheets write them in capitals
        return text.lower() == "true"
    if kinds & {"integer", "number"}:
        if _INTEGER.fullmatch(text):
            return int(text)
        if decimal_comma and "number" in kinds and text.count(",") == 1:
            text = text.replace(",", ".")
        if _NUMBER.fullmatch(text):
            return float(text)
    return text
