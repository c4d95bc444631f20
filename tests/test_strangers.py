"""What a stranger may put into pending/: folders with links, devices, depths and lies in them. It costs that job alone."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from house import SLEEPER, Spooler, drop, spooler, wait_for, wait_state
from PIL import Image

from spooler import pictures
from spooler.catalogue import Catalogue, ModelCard
from spooler.denylist import DenyList
from spooler.job import JobError, from_fields
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

JOB = {"prompt": "a red circle", "steps": 1}
WITH_PICTURE = JOB | {"image": "a.png"}
OUTSIDE = "not for everybody"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooler]:
    spool = Spool(tmp_path_factory.mktemp("strangers") / "spool")
    spool.create()
    with spooler(spool, "--drop-grace-s", "1", program=SLEEPER) as running:
        yield running


@pytest.fixture(scope="module")
def client(warm: Spooler) -> FlaskClient:
    return create_app(Settings(spool=warm.spool.root, cache=warm.spool.root.parent / "cache")).test_client()


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, format="PNG")
    return file.getvalue()


def linked_inputs(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "a.png").write_bytes(png())
    (folder / "inputs").symlink_to(outside)


def linked_inputs_for_writing(folder: Path) -> None:
    outside = folder.parents[2] / "outside-empty"
    outside.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(png())
    (folder / "inputs").symlink_to(outside)


def picture_is_a_folder(folder: Path) -> None:
    (folder / "a.png").mkdir()


def picture_is_a_fifo(folder: Path) -> None:
    os.mkfifo(folder / "a.png")


def picture_is_a_link(folder: Path) -> None:
    (folder / "a.png").symlink_to("/etc/hostname")


def inputs_is_a_file(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "inputs").write_text("no folder")


def a_link_beside(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "cancel").touch()
    (folder / "x").symlink_to("job.json")


def many_folders_deep(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def record_is_a_folder(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "record.json").mkdir()


def record_is_a_fifo(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    os.mkfifo(folder / "record.json")


def something_else(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "holiday.png").write_bytes(png())


ODD = [
    *(linked_inputs, linked_inputs_for_writing, picture_is_a_folder, picture_is_a_fifo, picture_is_a_link, inputs_is_a_file),
    *(a_link_beside, many_folders_deep, record_is_a_folder, record_is_a_fifo, something_else),
]


@pytest.mark.parametrize("spoil", ODD, ids=lambda spoil: spoil.__name__)
def test_p5_p9_an_odd_folder_is_set_aside_and_nothing_outside_is_touched(
    warm: Spooler, client: FlaskClient, spoil: Callable[[Path], None]
) -> None:
    name = f"odd-{spoil.__name__}"
    folder = warm.spool.tmp / name
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(WITH_PICTURE))
    spoil(folder)
    folder.rename(warm.spool.pending / name)
    pid = warm.process.pid
    wait_for((warm.spool.rejected_folder / f"{name}.reason.txt").exists, f"{name} to be set aside")
    drop(warm.spool, f"after-{name}.json", JOB)
    assert wait_state(warm.spool, f"after-{name}", "done", "failed").state == "done"
    assert warm.process.poll() is None and warm.process.pid == pid
    assert not any((warm.spool.root.parent / "outside-empty").glob("*"))
    for page in ("/", "/queue", "/failed", "/api/v1/jobs"):
        assert client.get(page).status_code == 200, page
    # pytest's own clean-up gives up on folders a thousand deep.
    subprocess.run(["rm", "-rf", str(warm.spool.rejected_folder / name)], check=True)


def test_p5_a_folder_that_may_not_be_read_hides_nothing_else(
    warm: Spooler, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so the system's answer is given here: the index is the web app's own.
    from spooler import dropped, pending

    signature = pending.signature_of

    def refuse(place: dropped.Place) -> dropped.Signature:
        if place.id == "closed":
            raise PermissionError(13, "Permission denied")
        return signature(place)

    monkeypatch.setattr(pending, "signature_of", refuse)
    spool = Spool(warm.spool.root.parent / "other")
    spool.create()
    drop(spool, "closed.json", JOB)
    drop(spool, "open.json", JOB)
    index = pending.Pending(spool)
    for clock_s in (0.0, 5.0):
        index.refresh(clock_s)
        assert [each.id for each in index.waiting] == ["open"]
        assert [(each.path.name, each.since, each.final) for each in index.suspects] == [("closed.json", 0.0, False)]


def test_p9_no_record_makes_the_web_app_show_another_file(warm: Spooler, client: FlaskClient) -> None:
    (warm.spool.root / "PAUSE").touch()
    try:
        folder = warm.spool.tmp / "liar"
        folder.mkdir()
        secret = warm.spool.root.parent / "secret.png"
        secret.write_text(OUTSIDE)
        (folder / "job.json").write_text(json.dumps(JOB))
        images = [{"file": name, "seed": 1, "width": 1, "height": 1} for name in ("x.png", "0.png", "job.json")]
        (folder / "record.json").write_text(json.dumps({"id": "liar", "images": images, "queued": "garbage"}))
        (folder / "0.png").symlink_to(secret)
        folder.rename(warm.spool.pending / "liar")
        for name in ("x.png", "0.png", "job.json", "../../secret.png"):
            answer = client.get(f"/api/v1/jobs/liar/images/{name}")
            assert answer.status_code == 404 and OUTSIDE not in answer.text
        assert client.get("/jobs/liar").status_code in (200, 404) and client.get("/queue").status_code == 200
    finally:
        (warm.spool.root / "PAUSE").unlink()
    wait_for((warm.spool.rejected_folder / "liar.reason.txt").exists, "the liar to be set aside")


def test_p5_a_record_that_lies_about_time_costs_its_job_at_most(warm: Spooler) -> None:
    folder = warm.spool.tmp / "clock"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(JOB))
    (folder / "record.json").write_text(json.dumps({"id": "clock", "queued": "garbage"}))
    folder.rename(warm.spool.pending / "clock")
    assert wait_state(warm.spool, "clock", "done", "failed").state == "done"
    assert warm.process.poll() is None


def test_an_id_may_not_look_like_a_file(warm: Spooler, client: FlaskClient) -> None:
    assert client.post("/api/v1/jobs", json=JOB | {"id": "cat.json"}).status_code == 400
    drop(warm.spool, "cat.json.json", JOB)
    assert wait_state(warm.spool, "cat", "done", "failed").state == "done"


# -- what would take too much -------------------------------------------------------------------------------------------------


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((256, 256), 50).convert("RGB").save(file, format="JPEG", progressive=True)
    raw = file.getvalue()
    (tmp_path / "good.jpg").write_bytes(raw)
    assert pictures.check(tmp_path / "good.jpg") == (256, 256)
    last = raw.rindex(b"\xff\xda")
    (tmp_path / "bad.jpg").write_bytes(raw[:last] + raw[last:-2] * 100 + raw[-2:])
    with pytest.raises(pictures.InputError, match="at most 60 scans"):
        pictures.check(tmp_path / "bad.jpg")


def test_a_png_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    raw = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(raw + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(pictures.InputError):
        pictures.check(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 2048, "height": 2048, "upscale": {"scale": 8}},
        {"width": 2048, "height": 2048, "hires": {"scale": 2}, "upscale": {"scale": 4}},
    ],
)
def test_a_picture_of_too_many_pixels_is_refused(fields: dict[str, object]) -> None:
    catalogue = Catalogue(models=(ModelCard(name="demo", family="sd1", width=128, height=128),), default="demo")
    with pytest.raises(JobError, match="at most 72 million pixels"):
        catalogue.check(from_fields({"prompt": "x"} | fields))


def test_p5_a_small_picture_that_would_become_a_huge_one_is_refused_when_its_size_is_known(warm: Spooler) -> None:
    job_id = warm.spool.submit(
        json.dumps({"image": "a.png", "upscale": {"scale": 8}, "count": 24}).encode(), "huge", {"a.png": png((1600, 1600))}
    )
    wait_for((warm.spool.rejected_folder / f"{job_id}.reason.txt").exists, "it to be set aside")
    wait_for((warm.spool.rejected_folder / "huge" / "inputs" / "a.png").exists, "its picture to be there too")


def test_a_sweep_may_not_name_pictures_without_end() -> None:
    with pytest.raises(JobError, match="at most 16 pictures"):
        from_fields({"prompt": "x", "image": [f"{number}.png" for number in range(20)]})


@pytest.mark.parametrize(
    "prompt", ["moon()beam", "moon\\beam", "m\\oonbeam", "moon[]beam", "[(moon)]beam", "moon(:1)beam", "moon<lora:x:0>beam"]
)
def test_marks_inside_a_word_do_not_hide_it_from_the_deny_list(prompt: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("moonbeam\n")
    assert DenyList.read(tmp_path / "list.txt").match(f"a {prompt} here") == "moonbeam"
