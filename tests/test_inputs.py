"""Pictures that come along with a job: by the API, the form, the command line, and as a folder in pending/."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from house import ROOT, Spooler, drop, picture, spooler, wait_for, wait_state
from PIL import Image

from bench.shape_checker import look
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

JOB = {"prompt": "a large red circle on a blue background", "image": "start.png", "strength": 0.9, "steps": 12, "seed": 4}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooler]:
    spool = Spool(tmp_path_factory.mktemp("inputs") / "spool")
    spool.create()
    with spooler(spool, "--drop-grace-s", "2") as running:
        yield running


@pytest.fixture(scope="module")
def client(warm: Spooler) -> FlaskClient:
    return create_app(Settings(spool=warm.spool.root, cache=warm.spool.root.parent / "cache")).test_client()


def png(size: tuple[int, int] = (128, 128), colour: str = "white") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def parts(job: dict[str, object], **files: bytes) -> dict[str, object]:
    """The parts of a multipart request: the job, and each file under its name."""
    sent = {name.replace("_", "."): data for name, data in files.items()}
    return {"job": json.dumps(job)} | {f"file{n}": (io.BytesIO(data), name) for n, (name, data) in enumerate(sent.items())}


def test_the_api_takes_a_job_with_its_picture(warm: Spooler, client: FlaskClient) -> None:
    answer = client.post("/api/v1/jobs", data=parts(JOB | {"id": "by-api"}, start_png=png()))
    assert answer.status_code == 201, answer.json
    place = wait_state(warm.spool, "by-api", "done", "failed")
    assert place.state == "done"
    assert sorted(path.name for path in place.path.iterdir()) == ["0.png", "inputs", "job.json", "record.json"]
    assert (place.path / "inputs" / "start.png").read_bytes() == png()
    assert look(picture(place.path / "0.png")).background == "blue"
    assert client.get("/jobs/by-api").status_code == 200


def test_an_idempotent_resend_with_its_picture_makes_one_job(warm: Spooler, client: FlaskClient) -> None:
    ids = []
    for _ in range(2):
        sent = parts(JOB | {"steps": 2}, start_png=png())
        answer = client.post("/api/v1/jobs", data=sent, headers={"Idempotency-Key": "one"})
        ids.append((answer.status_code, answer.json["id"]))  # type: ignore[index]
    assert [status for status, _ in ids] == [201, 200] and ids[0][1] == ids[1][1]


@pytest.mark.parametrize(
    ("job", "files", "sentence"),
    [
        (JOB, {}, "`start.png`, which the job names, must be sent along as a file of that name, but is not."),
        (JOB, {"start_png": b"no picture"}, "`start.png` must be a PNG, JPEG or WebP picture"),
        (JOB, {"start_png": png()[:60]}, "`start.png` must be a"),
        (JOB, {"start_png": png(), "other_png": png()}, "`other.png` is a file that the job does not name."),
        (JOB | {"image": "../start.png"}, {"start_png": png()}, "must be the plain name of a .png, .jpg or .webp file"),
        (JOB | {"image": "/etc/passwd"}, {}, "no path, no URL"),
        (JOB | {"image": "https://example.org/a.png"}, {}, "no path, no URL"),
        (JOB | {"mask": "mask.png", "image": None}, {"mask_png": png()}, "`mask` needs an `image`"),
        ({"prompt": "x"}, {"start_png": png()}, "`start.png` is a file that the job does not name."),
        (JOB | {"upscale": {"scale": 8}}, {"start_png": png((1600, 1600))}, "at most 72 million pixels, but would have 12800x"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(
    warm: Spooler, client: FlaskClient, job: dict[str, object], files: dict[str, bytes], sentence: str
) -> None:
    before = {path.name for path in warm.spool.pending.iterdir()}
    given = {name: value for name, value in job.items() if value is not None}
    answer = client.post("/api/v1/jobs", data=parts(given, **files), content_type="multipart/form-data")
    assert answer.status_code == 400
    assert sentence in answer.json["error"]["message"]  # type: ignore[index]
    assert {path.name for path in warm.spool.pending.iterdir()} <= before
    assert [path.name for path in warm.spool.tmp.iterdir() if path.name != ".gitignore"] == [], "nothing is left in tmp/"


def test_a_request_without_a_job_says_so(client: FlaskClient) -> None:
    answer = client.post("/api/v1/jobs", data={"file": (io.BytesIO(png()), "a.png")})
    assert answer.status_code == 400 and "`job` must be a part" in answer.json["error"]["message"]  # type: ignore[index]


def test_a_request_with_two_jobs_is_refused(client: FlaskClient) -> None:
    one = json.dumps({"prompt": "x"})
    for twice in ([one, one], [one, (io.BytesIO(one.encode()), "job.json")]):
        answer = client.post("/api/v1/jobs", data={"job": twice}, content_type="multipart/form-data")
        assert answer.status_code == 400 and "there are 2" in answer.json["error"]["fields"]["job"][0]  # type: ignore[index]


def test_the_form_takes_a_picture_whatever_the_person_calls_it(warm: Spooler, client: FlaskClient) -> None:
    form = {"prompt": JOB["prompt"], "steps": "12", "seed": "4", "strength": "0.9"}
    answer = client.post("/", data=form | {"image": (io.BytesIO(png()), "Mein Foto (1).PNG")})
    assert answer.status_code == 303, answer.text
    place = wait_state(warm.spool, answer.headers["Location"].rpartition("/")[2], "done", "failed")
    assert (place.path / "inputs" / "image.png").read_bytes() == png()
    wrong = client.post("/", data=form | {"image": (io.BytesIO(b"hello"), "a.png")})
    assert wrong.status_code == 422 and "must be a PNG, JPEG or WebP picture" in wrong.text


def test_the_command_line_sends_the_file_of_a_path(warm: Spooler, tmp_path: Path) -> None:
    (tmp_path / "start.png").write_bytes(png())
    command = [sys.executable, "-m", "spooler.cli", "submit", str(JOB["prompt"]), "--spool", str(warm.spool.root)]
    options = ["--image", str(tmp_path / "start.png"), "--strength", "0.9", "--steps", "12", "--wait"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert look(picture(Path(done.stdout.strip()))).background == "blue"
    gone = subprocess.run([*command, "--image", "gone.png"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert gone.returncode == 2 and "`gone.png` must be given along" in gone.stderr


def test_a_dropped_folder_waits_for_its_picture(warm: Spooler) -> None:
    folder = warm.spool.pending / "slow folder"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(JOB))
    drop(warm.spool, "canary.json", b"[]")
    wait_for((warm.spool.rejected_folder / "canary.json").exists, "a scan that saw the folder without its picture")
    assert folder.exists()
    (folder / "start.png").write_bytes(png()[:70])  # half of it
    drop(warm.spool, "canary2.json", b"[]")
    wait_for((warm.spool.rejected_folder / "canary2.json").exists, "a scan that saw half a picture")
    (folder / "start.png").write_bytes(png())
    place = wait_state(warm.spool, "slow-folder", "done", "failed")
    assert place.state == "done" and (place.path / "inputs" / "start.png").read_bytes() == png()


def test_p5_dropped_jobs_whose_pictures_do_not_come_are_set_aside(warm: Spooler) -> None:
    folder = warm.spool.pending / "lonely"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(JOB))
    drop(warm.spool, "flat.json", JOB)
    for name, part in (("lonely", "`start.png` must lie beside job.json"), ("flat.json", "must be a folder in pending/")):
        reason = warm.spool.rejected_folder / f"{name}.reason.txt"
        wait_for(reason.exists, f"{name} to be set aside")
        assert part in reason.read_text()


def test_results_do_not_overwrite_an_input_of_their_name(warm: Spooler) -> None:
    folder = warm.spool.tmp / "clash"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(JOB | {"image": "0.png"}))
    (folder / "0.png").write_bytes(png())
    folder.rename(warm.spool.pending / "clash")
    place = wait_state(warm.spool, "clash", "done", "failed")
    assert (place.path / "inputs" / "0.png").read_bytes() == png() != (place.path / "0.png").read_bytes()


def test_a_retried_job_still_has_its_picture(warm: Spooler) -> None:
    answer = warm.spool.submit(json.dumps(JOB).encode(), "again", {"start.png": png()})
    first = wait_state(warm.spool, answer, "done", "failed")
    first.path.rename(warm.spool.root / "failed" / "again")  # as if it had failed
    assert warm.spool.retry("again")
    assert wait_state(warm.spool, "again", "done", "failed").state == "done"
