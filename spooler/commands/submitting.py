"""Verbs that submit and wait: submit, wait, replay."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spooler import job, settings
from spooler.batches import Batches
from spooler.catalogue import merged
from spooler.commands.common import (
    DONE,
    Verbs,
    add_json,
    add_spool,
    add_verb,
    ids_of,
    missing,
    printable,
    say_json,
    spool_of,
    tell,
)
from spooler.ids import is_id
from spooler.place import Place
from spooler.record import Record
from spooler.spool import Spool, TakenError

POLL_S = 0.1
#: Levels of 255 by which a picture may differ for the company in which its steps were computed (docs/engine.md).
ROUNDING = 2
#: How a field that is more than a word is given.
FORMS = {
    "loras": '[{"name": "film", "weight": 0.8}]',
    "controls": '[{"model": "canny", "image": "edges.png"}]',
    "hires": '{"scale": 2, "strength": 0.5}',
    "refiner": '{"model": "refiner", "switch_at": 0.8}',
    "upscale": '{"scale": 2}',
    "sweep": '{"steps": [15, 20]}',
    "after": "one-id,another-id",
}


def add(verbs: Verbs) -> None:
    submit = add_verb(verbs, "submit", _submit, "Put a job into the spool and print its id.")
    submit.add_argument("prompt", help="what the picture shows; - reads a whole job file from standard input")
    for name, row in job.Job.model_json_schema()["properties"].items():
        if name != "prompt":
            form = f" As '{FORMS[name]}'." if name in FORMS else ""
            submit.add_argument(settings.option(name), help=(row["description"] + form).replace("%", "%%"))
    submit.add_argument(
        "--input",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a picture that the job names; may be given again",
    )
    submit.add_argument("--id", help="the job's id instead of a made-up one")
    submit.add_argument("--wait", action="store_true", help="wait until it is done and print where the pictures are")
    add_spool(submit)
    wait = add_verb(verbs, "wait", _wait, "Wait until jobs are done and print where their pictures are.")
    wait.add_argument("id", nargs="+", help="of jobs, or of a batch: all of its jobs")
    add_json(wait)
    add_spool(wait)
    replay = add_verb(verbs, "replay", _replay, "Run a finished job again from its record, and compare the pictures.")
    replay.add_argument("id")
    add_spool(replay)


def _submit(options: argparse.Namespace) -> int:
    if options.id is not None and not is_id(options.id):
        raise job.JobError(job.Mistake("id", f"`id` must be letters, digits, dots and dashes, but is {job.show(options.id)}."))
    spool = spool_of(options)
    spool.create()
    raw = sys.stdin.buffer.read(job.MAX_BYTES + 1) if options.prompt == "-" else None
    fields = job.parse_object(raw) if raw is not None else _fields(options)
    inputs = {path.name: path.read_bytes() for path in options.input}
    for name in ("image", "mask"):  # a path is this command's business; the job names the file alone
        if isinstance(path := fields.get(name), str) and Path(path).is_file():
            fields[name] = Path(path).name
            inputs[fields[name]] = Path(path).read_bytes()
        elif isinstance(path, str) and "/" in path:
            raise job.JobError(job.Mistake(name, f"`{name}` must be a picture's file, but there is none at {job.show(path)}."))
    order = job.from_fields(fields)
    # What the spoolers of this spool have told of themselves; before any has, the spooler will look itself.
    if (catalogue := merged([status.catalogue for status, _ in spool.spoolers()])).models:
        catalogue.check(order)
    if missing := [name for name in order.inputs if name not in inputs]:
        raise job.JobError(job.Mistake("image", f"`{missing[0]}` must be given along: --input {missing[0]}"))
    try:
        job_id = spool.submit(job.encode(order), options.id, {name: inputs[name] for name in order.inputs})
    except TakenError as error:
        raise job.JobError(job.Mistake("id", str(error))) from error
    if not options.wait:
        print(job_id)
        return 0
    return _watch(spool, job_id)


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """The job's fields from the command line, in JSON's types; what is no number is left for the rules to name."""
    fields: dict[str, Any] = {"prompt": options.prompt}
    for name, row in job.Job.model_json_schema()["properties"].items():
        text = getattr(options, name)
        if name == "prompt" or text is None:
            continue
        kinds = [row.get("type"), *(each.get("type") for each in row.get("anyOf", ()))]
        fields[name] = text
        if "string" not in kinds or text.startswith("["):  # a list is a sweep
            try:
                fields[name] = json.loads(text)
            except ValueError:
                if name == "after":  # ids need no brackets
                    fields[name] = [job_id.strip() for job_id in text.split(",")]
    return fields


def _wait(options: argparse.Namespace) -> int:
    spool, status, told = spool_of(options), DONE, []
    for job_id, _ in ids_of(spool, options.id):
        status = max(status, _watch(spool, job_id, quiet=options.json))
        place = spool.find(job_id)
        record = spool.read_record(place) if place else None
        files = [str(place.path / name) for name in sorted(record.files)] if place and record else []
        told.append({"id": job_id, "state": place.state if place else None, "files": files})
    if options.json:
        say_json(told)
    return status


def _levels_between(one: Path, other: Path) -> int | None:
    """The greatest difference of any channel of two pictures' pixels, of 255; None when there are not two of one size."""
    try:
        with Image.open(one) as first, Image.open(other) as second:
            if first.size != second.size:
                return None
            bounds = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getextrema()
    except OSError:
        return None
    return max(int(high) for _, high in bounds)  # type: ignore[misc]


def _replay(options: argparse.Namespace) -> int:
    """Submit the job again as it was run, seed and all, wait, and hold the pixel hashes of the two records side by side."""
    spool = spool_of(options)
    place = spool.find(options.id)
    if place is None:
        return missing(options.id)
    record = spool.read_record(place)
    if place.state != "done" or record is None or record.parameters is None:
        tell(f"only a job that is done can be replayed, but this one is {place.state}")
        return 1
    inputs = {name: spool.input_file(place, name).read_bytes() for name in record.parameters.inputs}
    # When and after what it was to run, and its batch, are of that time: an expired job could not be replayed else.
    when = {"not_before", "expires_at", "after", "batch"}
    order = job.Job.model_validate(record.parameters.model_dump(exclude_unset=True, exclude=when))
    again_id = spool.submit(job.encode(order), None, inputs)
    tell(f"replaying {place.id} as {again_id}")
    if status := _watch(spool, again_id, quiet=True):
        return status
    again_place = spool.find(again_id)
    again = spool.read_record(again_place) if again_place else None
    if again is None:
        return missing(again_id)
    why = _rounds(record, again)
    if not all(image.pixels for image in (*record.images, *again.images)):
        tell("a picture was withheld by a safety filter, so there are no pixels to compare")
        return 1
    alike = len(record.images) == len(again.images)
    for number, (one, two) in enumerate(zip(record.images, again.images, strict=False)):
        how = "the same pixels"
        if one.pixels != two.pixels:
            how = f"differs: {one.pixels} then, {two.pixels} now"
            levels = _levels_between(place.path / one.file, again_place.path / two.file) if again_place else None
            if why and levels and levels <= ROUNDING:
                how = f"the same but for rounding ({levels} of 255): {why}"
            else:
                alike = False
        print(printable(f"{one.file or number}: {how}"))
    if not alike and record.engine and again.engine:
        then, now = record.engine.model_dump(), again.engine.model_dump()
        for name in ("model", "hash", "device_name", "precision", "versions", "memory", "rung"):
            if then[name] != now[name]:
                print(printable(f"{name}: {then[name]} then, {now[name]} now"))
    return 0 if alike else 1


def _rounds(*records: Record) -> str | None:
    """Why pictures of the same job may differ by rounding; None where they must not."""
    engines = [record.engine for record in records if record.engine]
    if any(engine.shared > 1 for engine in engines):
        return "it shared its steps with other pictures"
    if any(engine.device == "cpu" for engine in engines):
        return "a CPU drew it, on as many cores as were free"
    return None


def _watch(spool: Spool, job_id: str, quiet: bool = False) -> int:
    """Follow a job to its end, with a bar where there is a terminal to see it, and print where its pictures are."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(job_id, total=1.0)
        place = spool.find(job_id)
        while place.state in ("pending", "held", "claimed") if place else Batches(spool).is_coming(job_id):
            if place:
                _show_bar(spool, place, bar, task)
            time.sleep(POLL_S)
            place = spool.find(job_id)
    if place is None:
        if rejected := next((each for each in spool.rejected() if each.name in (job_id, f"{job_id}.json")), None):
            tell(f"the job was set aside: {rejected.reason}")
            return 1
        return missing(job_id)
    record = spool.read_record(place)
    if place.state != "done":
        reason = record.failure.reason if record and record.failure else "no reason is known"
        tell(f"the job is {place.state}: {reason}")
        return 1
    for image in record.images if record and not quiet else ():
        if image.file:
            print(place.path / image.file)
        elif image.flagged:
            said = f"{image.flagged.layer}: {image.flagged.label}, score {image.flagged.score:.2f}"
            tell(f"picture {image.index} was withheld by a safety filter ({said})")
    if record and record.sheet and not quiet:
        print(place.path / record.sheet)
    return 0


def _show_bar(spool: Spool, place: Place, bar: Progress, task: TaskID) -> None:
    progress = spool.read_progress(place) if place.state == "claimed" else None
    words = {"pending": "waiting", "held": "held", "claimed": "running"}[place.state]
    if progress and progress.count > 1:
        words += f", picture {min(progress.image + 1, progress.count)} of {progress.count}"
    bar.update(task, description=f"{place.id} {words}", completed=progress.fraction if progress else 0.0)
