"""The command `sdspool`: submit, wait for, cancel, retry, replay a job. It works on the spool's folders; no server is asked.

Exit status: 0 done · 1 the job failed, was cancelled or came out otherwise, or the doctor found what hinders ·
2 the command line or the job is wrong · 3 there is no such job.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spooler import doctor, job, settings
from spooler.catalogue import merged
from spooler.ids import ID
from spooler.place import Place
from spooler.settings import Settings
from spooler.spool import Spool, SpoolError, TakenError

POLL_S = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except job.JobError as error:
        for mistake in error.mistakes:
            print(f"sdspool: {mistake}", file=sys.stderr)
        return 2
    except (SpoolError, OSError) as error:
        print(f"sdspool: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sdspool: no longer waiting; the job goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdspool", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help_, description=help_)
        made.set_defaults(run=run)
        return made

    submit = verb("submit", _submit, "Put a job into the spool and print its id.")
    submit.add_argument("prompt", help="what the picture shows; - reads a whole job file from standard input")
    for name, row in job.json_schema()["properties"].items():
        if name != "prompt":
            submit.add_argument(settings.option(name), help=row["description"].replace("%", "%%"))
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
    _spool_option(submit)

    for name, run, help_ in (
        ("wait", _wait, "Wait until a job is done and print where its pictures are."),
        ("cancel", _cancel, "Cancel a waiting or running job."),
        ("retry", _retry, "Send a failed job back to the queue."),
        ("replay", _replay, "Run a finished job again from its record, and compare the pictures pixel by pixel."),
    ):
        made = verb(name, run, help_)
        made.add_argument("id")
        _spool_option(made)

    schema = verb("schema", _schema, "Print the JSON Schema of a job file, or the OpenAPI document of the web app.")
    schema.add_argument("which", choices=("job", "openapi"))
    verb("settings", _settings, "Print the table of all settings.")
    examine = verb("doctor", doctor.run, "Tell what this machine can do for sdspool, and what to change.")
    examine.add_argument("--json", action="store_true", help="the findings as JSON")
    Settings.add_options(examine)
    return parser


def _spool_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool", type=Path, default=Settings.parse([], "sdspool").spool, help="the spool's folder")


def _submit(options: argparse.Namespace) -> int:
    if options.id is not None and (not ID.fullmatch(options.id) or options.id.endswith(".json")):
        raise job.JobError(job.Mistake("id", f"`id` must be letters, digits, dots and dashes, but is {job.show(options.id)}."))
    spool = Spool(options.spool)
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
    for name, row in job.json_schema()["properties"].items():
        text = getattr(options, name)
        if name == "prompt" or text is None:
            continue
        kinds = [row.get("type"), *(each.get("type") for each in row.get("anyOf", ()))]
        fields[name] = text
        if "string" not in kinds or text.startswith("["):  # a list is a sweep
            try:
                fields[name] = json.loads(text)
            except ValueError:
                continue
    return fields


def _wait(options: argparse.Namespace) -> int:
    return _watch(Spool(options.spool), options.id)


def _cancel(options: argparse.Namespace) -> int:
    place = Spool(options.spool).cancel(options.id)
    if place is None:
        return _missing(options.id)
    if place.state in ("done", "failed"):
        print(f"sdspool: too late: the job is {place.state}", file=sys.stderr)
        return 1
    print("cancelled" if place.state == "cancelled" else "cancelling: it stops at its next step")
    return 0


def _retry(options: argparse.Namespace) -> int:
    spool = Spool(options.spool)
    if spool.retry(options.id):
        print("waiting")
        return 0
    place = spool.find(options.id)
    if place is None:
        return _missing(options.id)
    print(f"sdspool: only a failed job can be tried again, but this one is {place.state}", file=sys.stderr)
    return 1


def _replay(options: argparse.Namespace) -> int:
    """Submit the job again as it was run, seed and all, wait, and hold the pixel hashes of the two records side by side."""
    spool = Spool(options.spool)
    place = spool.find(options.id)
    if place is None:
        return _missing(options.id)
    record = spool.read_record(place)
    if place.state != "done" or record is None or record.parameters is None:
        print(f"sdspool: only a job that is done can be replayed, but this one is {place.state}", file=sys.stderr)
        return 1
    inputs = {name: spool.input_file(place, name).read_bytes() for name in record.parameters.inputs}
    again_id = spool.submit(job.encode(record.parameters), None, inputs)
    print(f"sdspool: replaying {place.id} as {again_id}", file=sys.stderr)
    if status := _watch(spool, again_id, quiet=True):
        return status
    again_place = spool.find(again_id)
    again = spool.read_record(again_place) if again_place else None
    if again is None:
        return _missing(again_id)
    if not all(image.pixels for image in (*record.images, *again.images)):
        print("sdspool: a picture was withheld by a safety filter, so there are no pixels to compare", file=sys.stderr)
        return 1
    same = [one.pixels == two.pixels for one, two in zip(record.images, again.images, strict=False)]
    alike = len(record.images) == len(again.images) and all(same)
    for number, (one, two) in enumerate(zip(record.images, again.images, strict=False)):
        print(f"{one.file or number}: {'the same pixels' if same[number] else f'differs: {one.pixels} then, {two.pixels} now'}")
    if not alike and record.engine and again.engine:
        then, now = record.engine.model_dump(), again.engine.model_dump()
        for name in ("model", "hash", "device_name", "precision", "versions", "memory", "rung"):
            if then[name] != now[name]:
                print(f"{name}: {then[name]} then, {now[name]} now")
    return 0 if alike else 1


def _schema(options: argparse.Namespace) -> int:
    if options.which == "job":
        document = job.json_schema()
    else:
        from webui.openapi import document as openapi

        document = openapi()
    print(json.dumps(document, indent=2))
    return 0


def _settings(options: argparse.Namespace) -> int:
    print(settings.markdown_table(), end="")
    return 0


def _missing(job_id: str) -> int:
    print(f"sdspool: there is no job {job_id!a}", file=sys.stderr)
    return 3


def _watch(spool: Spool, job_id: str, quiet: bool = False) -> int:
    """Follow a job to its end, with a bar where there is a terminal to see it, and print where its pictures are."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(job_id, total=1.0)
        place = spool.find(job_id)
        while place and place.state in ("pending", "held", "claimed"):
            _show(spool, place, bar, task)
            time.sleep(POLL_S)
            place = spool.find(job_id)
    if place is None:
        if rejected := next((each for each in spool.rejected() if each.name in (job_id, f"{job_id}.json")), None):
            print(f"sdspool: the job was set aside: {rejected.reason}", file=sys.stderr)
            return 1
        return _missing(job_id)
    record = spool.read_record(place)
    if place.state != "done":
        reason = record.failure.reason if record and record.failure else "no reason is known"
        print(f"sdspool: the job is {place.state}: {reason}", file=sys.stderr)
        return 1
    for image in record.images if record and not quiet else ():
        if image.file:
            print(place.path / image.file)
        elif image.flagged:
            said = f"{image.flagged.layer}: {image.flagged.label}, score {image.flagged.score:.2f}"
            print(f"sdspool: picture {image.index} was withheld by a safety filter ({said})", file=sys.stderr)
    if record and record.sheet and not quiet:
        print(place.path / record.sheet)
    return 0


def _show(spool: Spool, place: Place, bar: Progress, task: TaskID) -> None:
    progress = spool.read_progress(place) if place.state == "claimed" else None
    words = {"pending": "waiting", "held": "held", "claimed": "running"}[place.state]
    if progress and progress.count > 1:
        words += f", picture {min(progress.image + 1, progress.count)} of {progress.count}"
    bar.update(task, description=f"{place.id} {words}", completed=progress.fraction if progress else 0.0)


if __name__ == "__main__":
    sys.exit(main())
