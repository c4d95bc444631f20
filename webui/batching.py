"""Many jobs in one request: all of them are accepted, or none, and each mistake is told with its row."""

from __future__ import annotations

import json
import re

from flask import Blueprint, Response, g, jsonify, request
from pydantic import BaseModel, Field

from spooler.batch_file import Row, read_rows
from spooler.batches import Batches
from spooler.ids import new_id
from spooler.mistakes import JobError, Mistake, show
from spooler.strict_json import parse
from webui import once
from webui.actions import batch_report
from webui.answers import send
from webui.errors import answer
from webui.office import office
from webui.people import person
from webui.rules import Rule, needs

blueprint = Blueprint("batching", __name__)

#: The kinds of body, as the drop folder knows them by their names.
KINDS = {
    "application/json": ".json",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "text/csv": ".csv",
    "text/plain": ".txt",
}
_LINE = re.compile(r"line (\d+): ")


class BatchMistake(BaseModel):
    """One thing wrong with a batch."""

    line: int | None = Field(description="Of the body, from 1; of a JSON array the place of the job in it. Null: the whole.")
    field: str
    message: str


class BatchErrorBody(BaseModel):
    """What went wrong."""

    code: str
    message: str
    fields: dict[str, list[str]]
    mistakes: tuple[BatchMistake, ...] = ()


class BatchError(BaseModel):
    """A batch that was refused as a whole."""

    error: BatchErrorBody


@blueprint.post("/api/v1/batches")
@needs(Rule.SUBMIT)
def submit() -> Response:
    """Accept a list of jobs: 201 when all of them are on disk for good."""
    suffix = KINDS.get(request.mimetype)
    if suffix is None:
        return answer(415, "not_a_batch", f"The Content-Type must be one of {', '.join(KINDS)}.")
    batches = Batches(office().spool)
    keyed = once.key_id("batch\n")
    try:
        rows = _rows(request.get_data(), suffix)
        if keyed and (report := batch_report(keyed)):
            return send(report)
        office().check_pace(len(rows))
        _check(rows)
    except JobError as error:
        return _refused(error)
    office().check_room([row.job for row in rows])
    batch = batches.submit([row.job for row in rows], keyed or new_id(), person().name)
    g.accepted = len(batch.jobs)
    made = batch_report(batch.id)
    if made is None:
        raise FileNotFoundError(batch.id)  # somebody removed it in this moment
    response = send(made, 201)
    response.headers["Location"] = f"{request.script_root}/api/v1/batches/{batch.id}"
    return response


def _rows(raw: bytes, suffix: str) -> list[Row]:
    """The jobs, each with its owner. Raises JobError with every mistake, each beginning with its place."""
    if suffix == ".json":
        raw, suffix = _lines(raw), ".jsonl"
    mine = person().name
    return [
        row if row.job.owner or not mine else Row(row.line, row.job.model_copy(update={"owner": mine}))
        for row in read_rows(f"body{suffix}", raw)
    ]


def _check(rows: list[Row]) -> None:
    """Raise JobError with all that no spooler can run, or who asks may not."""
    desk, who = office(), person()
    catalogue = desk.reports.ready().catalogue
    mistakes: list[Mistake] = []
    for row in rows:
        try:
            if row.job.owner and not who.may_change(row.job.owner):
                raise JobError(Mistake("owner", f"`owner` must be your own name, but is {show(row.job.owner)}."))
            desk.deny_list.check(row.job)
            if catalogue.models:
                catalogue.check(row.job)
        except JobError as error:
            mistakes += [Mistake(each.field, f"line {row.line}: {each.message}") for each in error.mistakes]
    if mistakes:
        raise JobError(*mistakes[:1000])


def _lines(raw: bytes) -> bytes:
    """A JSON array, or an object with it as `jobs`, as one job a line."""
    given = parse(raw, "A batch")
    if isinstance(given, dict):
        if unknown := [name for name in given if name != "jobs"]:
            raise JobError(Mistake(unknown[0], f"`{show(unknown[0])[1:-1]}` is no field here: only `jobs` is."))
        given = given.get("jobs")
    if not isinstance(given, list):
        raise JobError(Mistake("jobs", "A batch must be an array of jobs, or an object with one as `jobs`."))
    return b"\n".join(json.dumps(each, ensure_ascii=False).encode(errors="surrogatepass") for each in given)


def _refused(error: JobError) -> Response:
    told = []
    for mistake in error.mistakes:
        line = _LINE.match(mistake.message)
        told.append(BatchMistake(line=int(line[1]) if line else None, field=mistake.field, message=mistake.message))
    rest = f" And {len(told) - 1} more." if len(told) > 1 else ""
    body = BatchErrorBody(code="invalid_batch", message=f"{error.mistakes[0]}{rest}", fields={}, mistakes=tuple(told))
    response = jsonify(BatchError(error=body).model_dump())
    response.status_code = 400
    return response
