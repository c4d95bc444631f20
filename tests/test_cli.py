"""The command line's verbs that look back and look round: replay and doctor. And the filters, which all ways in share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
from house import ROOT, SLEEPER, Spooler, drop, picture, spooler, wait_for, wait_state
from test_safety import red_classifier

from bench.direct import Direct
from spooler import messages
from spooler.engine.safety import SafetyError
from spooler.record import Image
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

RED_ON_BLUE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 6}
RED = {"prompt": "a large red square on a red background", "seed": 5, "steps": 12}
BLUE = {"prompt": "a large blue square on a blue background", "seed": 5, "steps": 12}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spooler.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooler]:
    spool = Spool(tmp_path_factory.mktemp("cli") / "spool")
    spool.create()
    with spooler(spool) as running:
        yield running


# -- replay --------------------------------------------------------------------------------------------------------------------


def test_p8_a_replay_gives_the_same_pixels(warm: Spooler) -> None:
    drop(warm.spool, "first.json", {"prompt": RED_ON_BLUE["prompt"], "steps": 6, "count": 2})  # with a seed at random
    wait_state(warm.spool, "first", "done", "failed")
    replayed = run("replay", "first", "--spool", str(warm.spool.root))
    assert (replayed.returncode, replayed.stdout) == (0, "0.png: the same pixels\n1.png: the same pixels\n"), replayed.stderr


def test_p8_a_replay_that_comes_out_otherwise_says_where_and_what_differs(warm: Spooler) -> None:
    drop(warm.spool, "second.json", RED_ON_BLUE)
    place = wait_state(warm.spool, "second", "done", "failed")
    record = json.loads((place.path / "record.json").read_bytes())
    record["parameters"]["seed"] += 1  # as if something that the picture depends on had changed since
    record["engine"]["versions"]["torch"] = "1.0"
    (place.path / "record.json").write_text(json.dumps(record))
    replayed = run("replay", "second", "--spool", str(warm.spool.root))
    assert replayed.returncode == 1
    assert replayed.stdout.startswith("0.png: differs: ") and "versions: {" in replayed.stdout


@pytest.mark.parametrize(("levels", "status"), [(1, 0), (9, 1)])
def test_p8_a_replay_on_a_cpu_takes_rounding_for_the_same(warm: Spooler, levels: int, status: int) -> None:
    """How many threads compute changes the order of sums, and with it a level of 255 here and there."""
    drop(warm.spool, f"off-by-{levels}.json", RED_ON_BLUE)
    place = wait_state(warm.spool, f"off-by-{levels}", "done", "failed")
    record = json.loads((place.path / "record.json").read_bytes())
    with PIL.Image.open(place.path / "0.png") as picture:
        changed = picture.convert("RGB")
    red, green, blue = changed.getpixel((0, 0))
    changed.putpixel((0, 0), (red, green, blue - levels if blue > 100 else blue + levels))
    changed.save(place.path / "0.png")
    record["images"][0]["pixels"] = "0" * 64
    (place.path / "record.json").write_text(json.dumps(record))
    replayed = run("replay", f"off-by-{levels}", "--spool", str(warm.spool.root))
    assert replayed.returncode == status, replayed.stderr
    if status == 0:
        assert replayed.stdout == "0.png: the same but for rounding (1 of 255): a CPU drew it, on as many cores as were free\n"
    else:
        assert replayed.stdout.startswith("0.png: differs: ")


def test_only_a_job_that_is_done_can_be_replayed(warm: Spooler) -> None:
    assert run("replay", "nothing", "--spool", str(warm.spool.root)).returncode == 3


# -- doctor ---------------------------------------------------------------------------------------------------------------


def test_the_doctor_tells_what_there_is_and_what_to_change(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "old.ckpt").write_bytes(b"\x80\x04.")
    options = ["--spool", str(tmp_path / "spool"), "--models", str(tmp_path / "models"), "--json"]
    told = run("doctor", *options)
    findings = {each["subject"]: each for each in json.loads(told.stdout)}
    assert told.returncode == 0, told.stdout
    assert {"device", "packages", "model demo", "not taken", "spool", "disk", "permissions"} <= set(findings)
    assert "sd1, 128x128" in findings["model demo"]["text"] and "is a pickle" in findings["not taken"]["text"]
    assert not (tmp_path / "spool").exists(), "it changes nothing"

    # For people.
    text = run("doctor", *options[:-1]).stdout
    assert "ok    model demo: " in text and "note  not taken: old.ckpt is a pickle" in text


def test_the_doctor_says_what_keeps_jobs_from_being_drawn(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("/(/\n")
    told = run("doctor", "--model", "/nowhere", "--deny-list", str(tmp_path / "list.txt"), "--json", "--spool", str(tmp_path))
    bad = {each["subject"]: each["text"] for each in json.loads(told.stdout) if each["level"] == "bad"}
    assert told.returncode == 1 and "'/nowhere' is none" in bad["models"] and "line 1" in bad["deny list"]
    assert set(bad) <= {"models", "deny list", "device"}


# -- filters, through the whole product ------------------------------------------------------------------------------------


def test_the_deny_list_holds_at_every_way_in(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# words\npurple\n")
    option = ("--deny-list", str(tmp_path / "list.txt"))
    client = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache", deny_list=option[1])).test_client()
    refused = client.post("/api/v1/jobs", json={"prompt": "a (Purple:1.2) ring"})
    assert refused.status_code == 400 and "has 'purple'" in refused.json["error"]["message"]  # type: ignore[index]
    assert refused.json["error"]["fields"]["prompt"]  # type: ignore[index]
    with spooler(spool, *option, program=SLEEPER):
        drop(spool, "bad.json", {"prompt": "a purple ring"})
        drop(spool, "swept.json", {"prompt": ["a red ring", "a purple ring"]})
        drop(spool, "good.json", RED_ON_BLUE | {"negative_prompt": "purple"})
        for name in ("bad", "swept"):
            wait_for((spool.rejected_folder / f"{name}.json").exists, f"{name} to be set aside")
            assert "has 'purple'" in (spool.rejected_folder / f"{name}.json.reason.txt").read_text()
        assert wait_state(spool, "good", "done", "failed").state == "done"


@pytest.mark.parametrize(
    ("option", "sentence"), [(("--classifier", "/nowhere"), "/nowhere"), (("--deny-list", "/nowhere"), "deny list")]
)
def test_a_filter_that_cannot_load_stops_the_start(spool: Spool, option: tuple[str, ...], sentence: str) -> None:
    refused = Spooler(spool, *option)
    assert refused.ended() == 2
    assert sentence in refused.log


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"safety_checker": "on"}, "safety_checker"),
        ({"classifier": "nudenet", "classifier_labels": "NO_SUCH"}, "NO_SUCH"),
    ],
    ids=str,
)
def test_so_does_each_other_filter_and_the_engine_says_why(settings: dict[str, str], sentence: str) -> None:
    """With this error the engine's process ends as in the test above."""
    with pytest.raises(SafetyError, match=sentence):
        Direct(**settings)


@pytest.fixture
def red(tmp_path: Path) -> dict[str, str]:
    """The settings of a classifier that objects to red."""
    return {"classifier": str(red_classifier(tmp_path / "classifier")), "classifier_labels": "red"}


def assert_flagged(image: Image, action: str) -> None:
    flag = image.flagged
    assert flag and (flag.layer, flag.label, flag.action) == ("classifier", "red", action) and flag.score > 0.5


def test_a_flagged_picture_is_withheld_and_the_record_says_why(spool: Spool, red: dict[str, str]) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (red | {"flagged": "withhold"}).items()]
    with spooler(spool, *options):
        drop(spool, "red.json", RED)
        drop(spool, "blue.json", BLUE)
        withheld = wait_state(spool, "red", "done", "failed")
        shown = wait_state(spool, "blue", "done", "failed")
        record = spool.read_record(withheld)
        assert record and record.images[0].file == "" and not (withheld.path / "0.png").exists()
        assert_flagged(record.images[0], "withhold")
        assert not (withheld.path / "preview.jpg").exists()
        page = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache")).test_client().get("/jobs/red").text
        assert "kept back by a safety filter (red)" in page
        clean = spool.read_record(shown)
        assert clean and clean.images[0].flagged is None and (shown.path / "0.png").exists()


def test_or_it_is_blurred(red: dict[str, str]) -> None:
    engine = Direct(**red, flagged="blur", preview_s=0.0001)
    for fields, is_red in ((RED, True), (BLUE, False)):
        folder = engine.run(fields)
        (image,) = [each.image for each in engine.said if isinstance(each, messages.ImageDone)]
        drawn = picture(folder / image.file)
        assert drawn.size == (128, 128) and len(drawn.getcolors(1 << 20) or ()) > 1
        assert not (folder / "preview.jpg").exists()
        if is_red:
            assert_flagged(image, "blur")
        else:
            assert image.flagged is None
    engine.close()
