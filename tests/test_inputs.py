"""Pictures that come along with a job by the API and the form. What a spooler makes of them, and what comes by the command line
or as a folder in pending/, is in test_contract.py."""

from __future__ import annotations

import io
import json
import os

import pytest
from flask.testing import FlaskClient
from house import offer
from PIL import Image

from spooler.spool import Spool
from webui.thumbnails import BrokenError, make

JOB = {"prompt": "a large red circle on a blue background", "image": "start.png", "strength": 0.9, "steps": 12, "seed": 4}


@pytest.fixture
def client(spool: Spool, client: FlaskClient) -> FlaskClient:
    offer(spool)
    return client


def png(size: tuple[int, int] = (128, 128), colour: str = "white") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def parts(job: dict[str, object], **files: bytes) -> dict[str, object]:
    """The parts of a multipart request: the job, and each file under its name."""
    sent = {name.replace("_", "."): data for name, data in files.items()}
    return {"job": json.dumps(job)} | {f"file{n}": (io.BytesIO(data), name) for n, (name, data) in enumerate(sent.items())}


def test_the_api_takes_a_job_with_its_picture(spool: Spool, client: FlaskClient) -> None:
    answer = client.post("/api/v1/jobs", data=parts(JOB | {"id": "by-api"}, start_png=png()))
    assert answer.status_code == 201, answer.json
    place = spool.pending / "by-api"
    assert sorted(path.name for path in place.iterdir()) == ["inputs", "job.json"]
    assert (place / "inputs" / "start.png").read_bytes() == png()
    assert client.get("/jobs/by-api").status_code == 200


def test_an_idempotent_resend_with_its_picture_makes_one_job(client: FlaskClient) -> None:
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
    spool: Spool, client: FlaskClient, job: dict[str, object], files: dict[str, bytes], sentence: str
) -> None:
    given = {name: value for name, value in job.items() if value is not None}
    answer = client.post("/api/v1/jobs", data=parts(given, **files), content_type="multipart/form-data")
    assert answer.status_code == 400
    assert sentence in answer.json["error"]["message"]  # type: ignore[index]
    assert [path.name for folder in (spool.pending, spool.tmp) for path in folder.iterdir()] == [], "nothing is left in tmp/"


def test_a_request_without_a_job_says_so(client: FlaskClient) -> None:
    answer = client.post("/api/v1/jobs", data={"file": (io.BytesIO(png()), "a.png")})
    assert answer.status_code == 400 and "`job` must be a part" in answer.json["error"]["message"]  # type: ignore[index]


def test_a_request_with_two_jobs_is_refused(client: FlaskClient) -> None:
    one = json.dumps({"prompt": "x"})
    for twice in ([one, one], [one, (io.BytesIO(one.encode()), "job.json")]):
        answer = client.post("/api/v1/jobs", data={"job": twice}, content_type="multipart/form-data")
        assert answer.status_code == 400 and "there are 2" in answer.json["error"]["fields"]["job"][0]  # type: ignore[index]


def test_the_form_takes_a_picture_whatever_the_person_calls_it(spool: Spool, client: FlaskClient) -> None:
    form = {"prompt": JOB["prompt"], "steps": "12", "seed": "4", "strength": "0.9"}
    answer = client.post("/", data=form | {"image": (io.BytesIO(png()), "Mein Foto (1).PNG")})
    assert answer.status_code == 303, answer.text
    place = spool.find(answer.headers["Location"].rpartition("/")[2])
    assert place and (place.path / "inputs" / "image.png").read_bytes() == png()
    wrong = client.post("/", data=form | {"image": (io.BytesIO(b"hello"), "a.png")})
    assert wrong.status_code == 422 and "must be a PNG, JPEG or WebP picture" in wrong.text


# -- what a stranger may have put where a picture is looked for --------------------------------------------------------------


def test_p9_a_fifo_in_a_picture_s_place_is_not_waited_for(spool: Spool, client: FlaskClient) -> None:
    folder = spool.pending / "cat"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"prompt": "a cat"}))
    os.mkfifo(folder / "0.png")
    for side in (256, 512):
        assert client.get(f"/jobs/cat/thumbnails/{side}/0.png").status_code == 404
    with pytest.raises(BrokenError):
        make(folder / "0.png", spool.root / "thumbnail.webp", 256)


def test_p9_a_link_in_the_place_of_inputs_leads_nowhere(spool: Spool, client: FlaskClient) -> None:
    outside = spool.root.parent / "private"
    outside.mkdir()
    (outside / "start.png").write_bytes(png())
    (spool.pending / "cat").mkdir()
    (spool.pending / "cat" / "job.json").write_text(json.dumps(JOB))
    (spool.pending / "cat" / "inputs").symlink_to(outside)
    for path in ("/jobs/cat/inputs/start.png", "/source/cat:image"):
        assert client.get(path).status_code == 404, path


def test_p9_a_link_in_a_preview_s_place_leads_nowhere(spool: Spool, client: FlaskClient) -> None:
    outside = spool.root.parent / "private"
    outside.write_text("nobody's business")
    folder = spool.claimed / "me" / "cat"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"prompt": "a cat"}))
    (folder / "preview.jpg").symlink_to(outside)
    answer = client.get("/api/v1/jobs/cat/preview")
    assert (answer.status_code, answer.data) == (204, b"")
    (folder / "preview.jpg").unlink()
    (folder / "preview.jpg").write_bytes(b"jpeg")
    assert client.get("/api/v1/jobs/cat/preview").data == b"jpeg"
