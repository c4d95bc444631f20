"""Where a form begins: with a job that there is, and one of its pictures. `/?from=<job id>&image=0&as=img2img`

A picture is named by its source, `<job id>:<number>` for a result and `<job id>:image`, `:mask` or `:controls.0` for what the
job itself started from: never by a path. What a source is follows from the job's own record.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal, get_args

from spooler.durable import UnreadableError, read_small
from spooler.job import Job
from spooler.mistakes import JobError, Mistake, show
from spooler.pictures import MAX_FILE_BYTES
from spooler.reader import RESULT
from webui import flat
from webui.flat import Given
from webui.office import Office
from webui.reports import JobReport

#: What is to become of the job: again as it was; again with the picture's own seed; a variation of the picture; or the picture
#: is what the next job starts from.
Way = Literal["same", "seed", "vary", "img2img", "inpaint", "upscale"]
WAYS: tuple[str, ...] = get_args(Way)
#: How far a variation goes at first: near enough to be the same picture, far enough to be another.
VARIATION = "0.25"
_SOURCE = re.compile(r"(?P<job>[^:]{1,128}):(?P<what>\d{1,4}|image|mask|controls\.\d)")
#: What a job that starts from a finished picture does not take over: what made it large, or made many of it.
_SPENT = (
    "hires.",
    "refiner.",
    "variation_",
    "upscale.",
    "sweep",
    "seed",
    "width",
    "height",
    "count",
    "image",
    "mask",
    "inpaint_",
)


def given_from(office: Office, job_id: str, index: str | None, way: str) -> Given | None:
    """The form that begins with the job; None when there is no such job or picture. An unknown `way` is `same`."""
    report = office.reports.job(job_id)
    if report is None:
        return None
    picture = next((each for each in report.images if str(each.index) == index), None)
    if picture is None and (index is not None or way in ("img2img", "inpaint", "upscale")):
        return None
    job = report.parameters or report.job
    if picture and picture.cell and (values := job.values_at(picture.cell)):  # that picture's own job
        job = Job.model_validate(job.model_dump(exclude_unset=True, exclude={"sweep"}) | values)
    given = {
        name: value for name, value in flat.given(job).items() if name not in ("owner", "priority", "after", *flat.MOMENTS)
    }
    given |= _inputs(report, job)
    if way == "same" or way not in WAYS or picture is None:
        return given
    if way in ("seed", "vary"):
        given |= {"seed": str(picture.seed), "count": "1"}
        if job.variation_strength:
            given["variation_seed"] = str(job.variation_seed_of(picture.seed))
        if way == "vary" and job.image:
            given["seed"] = ""  # what starts from a picture varies with its seed
        elif way == "vary":
            given |= {"variation_seed": str(secrets.randbelow(2**32)), "variation_strength": VARIATION}
        return given
    given = {name: value for name, value in given.items() if not name.startswith(_SPENT)}
    if way == "upscale":
        given = {name: given[name] for name in ("model",) if name in given} | {"upscale.scale": "2"}
    return given | {"image.from": f"{job_id}:{picture.index}", "kind": way}


def _inputs(report: JobReport, job: Job) -> Given:
    """The sources of what the job started from."""
    named = {"image": job.image, "mask": job.mask}
    made = {f"{name}.from": f"{report.id}:{name}" for name, file in named.items() if file}
    return made | {f"controls.{number}.image.from": f"{report.id}:controls.{number}" for number in range(len(job.controls))}


def read(office: Office, source: str, field: str) -> tuple[bytes, str]:
    """The picture's bytes and the ending of its file's name. Raises JobError, which names the form's field."""
    gone = JobError(Mistake(field, f"`{field}` must be a picture that is there, but {show(source)} is none any more."))
    match = _SOURCE.fullmatch(source)
    for _ in range(10):  # RACE: a job may move on between the look for it and the look into it, and again
        place = office.spool.find(match["job"]) if match else None
        report = office.reports.job(match["job"]) if match else None
        if not match or place is None or report is None:
            raise gone
        if match["what"].isdecimal():
            names = [each.file for each in report.images if each.index == int(match["what"]) and RESULT.fullmatch(each.file)]
        else:
            names = _named(report.job, match["what"])
        inputs = place.path / "inputs"
        folders = (place.path,) if inputs.is_symlink() else (place.path, inputs)  # a stranger's link may lead anywhere
        for path in [folder / name for name in names for folder in folders]:
            try:
                data = read_small(path, MAX_FILE_BYTES)
            except (FileNotFoundError, NotADirectoryError, UnreadableError):
                continue
            return data, path.suffix[1:].lower()
        if office.spool.find(match["job"]) == place:
            break
    raise gone


def _named(job: Job, what: str) -> list[str]:
    part, _, number = what.partition(".")
    if part == "controls":
        return [control.image for control in job.controls[int(number) : int(number) + 1]]
    return [name] if (name := getattr(job, part)) else []
