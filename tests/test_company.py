"""Jobs that are drawn together: who is like whom, how many, and what one of them costs the others. With the demo model."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from desk import Desk
from house import drop, picture
from PIL import Image

from bench.direct import Direct
from spooler import company, messages
from spooler.catalogue import ModelCard
from spooler.engine import knee
from spooler.engine.company import Company
from spooler.engine.knee import Knees
from spooler.engine.moment import Moment
from spooler.job import from_fields
from spooler.place import Place
from spooler.record import Timings
from spooler.schedule import Queue, Waiting
from tests.prove.restart import FACTS

CIRCLE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 8}
CARD = ModelCard(name="demo", family="sd1", hash="0" * 64, width=128, height=128, steps=8, guidance_scale=2.0)
#: Calls that gain by every row, and are faster than any that will be measured: nothing keeps jobs apart.
FLAT = {str(rows): 1e-6 * rows**0.1 for rows in (1, 2, 4, 8, 16)}
MIXED: list[dict[str, Any]] = [
    CIRCLE,
    {"prompt": "a small yellow star", "seed": 6, "steps": 12, "sampler": "Euler a", "count": 2},
    {"prompt": "a green square", "seed": 7, "steps": 10, "guidance_scale": 1.0, "sampler": "DDIM"},
    {"prompt": "a (huge:1.2) white triangle", "seed": 8, "steps": 9, "negative_prompt": "red", "sampler": "Heun"},
    {"prompt": "a ring", "seed": 9, "steps": [6, 7], "scheduler": "Karras"},
    {"prompt": "a circle", "seed": 1, "steps": 6, "variation_strength": 0.3, "variation_seed": 4, "count": 2},
]


def key(**fields: Any) -> str:
    return company.key(from_fields({"prompt": "a circle"} | fields), CARD)


# -- who is like whom ----------------------------------------------------------------------------------------------------------


def test_jobs_of_one_key_may_differ_in_all_but_model_size_and_what_lies_over_the_model() -> None:
    plain = key()
    assert plain and {key(**each) for each in MIXED[:4]} == {plain} == {key(width=128, height=128, model="demo")}
    others = [
        {"width": 64},
        {"vae": "other"},
        {"loras": [{"name": "a", "weight": 0.5}]},
        {"loras": [{"name": "a", "weight": 1.0}]},
    ]
    assert len({plain, *(key(**each) for each in others)}) == 5
    assert key(prompt="a <lora:a:0.5> circle") == key(**others[2])


@pytest.mark.parametrize(
    "fields",
    [
        {"hires": {"scale": 2}},
        {"upscale": {"scale": 2}},
        {"refiner": {"model": "refiner"}},
        {"image": "in.png"},
        {"image": "in.png", "strength": 0, "width": 128, "height": 128},
        {"controls": [{"model": "edges", "image": "in.png"}]},
    ],
    ids=str,
)
def test_a_job_of_several_stages_or_of_an_unknown_size_is_alone(fields: dict[str, Any]) -> None:
    assert key(**fields) == company.ALONE


def test_an_unknown_family_has_no_key_and_a_picture_s_size_gives_one() -> None:
    job = from_fields({"prompt": "x"})
    assert company.key(job, CARD.model_copy(update={"family": "KolorsPipeline"})) == company.ALONE == company.key(job, None)
    assert key(image="in.png", width=128, height=128) == key()
    start = from_fields({"prompt": "x", "image": "in.png"})
    assert company.key(start, CARD, (130, 126)) == key() != company.key(start, CARD, (64, 128)) == key(width=64)
    wide = from_fields({"prompt": "x", "image": "in.png", "width": 64})
    assert company.key(wide, CARD, (300, 128)) == key(width=64)
    cells = from_fields({"prompt": "x", "steps": [4, 5]}).cells()
    assert company.key_of_all(cells, CARD) == key()
    assert company.key_of_all(from_fields({"prompt": "x", "width": [64, 128]}).cells(), CARD) == company.ALONE


# -- how many ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({}, 2),
        ({2: 1.0}, 4),
        ({2: 1.0, 4: 1.9}, 8),  # a plateau may end
        ({2: 1.0, 4: 1.5, 8: 2.5}, 16),  # still gaining
        ({2: 1.0, 4: 1.5, 8: 2.95}, 16),  # not by one doubling
        ({2: 1.0, 4: 1.5, 8: 2.95, 16: 5.8}, 4),  # not any more
        ({2: 1.0, 4: 2.0, 8: 4.0}, 2),  # nothing to be gained at all
        ({2: 16.5, 4: 21.4, 6: 28.0, 8: 35.6}, 16),  # eight gain little over six, and more may gain much
        ({2: 16.5, 4: 21.4, 6: 28.0, 8: 35.6, 12: 49.1, 16: 62.4}, 12),  # as they do; there are no more than sixteen
        ({2: 16.5, 4: 21.4, 6: 28.0, 8: 35.6, 16: 74.0}, 6),  # or not
        ({1: 0.9, 2: 1.0, 4: 1.9, 8: 2.0, 16: 3.0}, 16),
        ({2: 0.21, 4: 0.33, 6: 0.25, 8: 0.28, 12: 0.36}, 16),  # the four were measured at a bad time
    ],
)
def test_calls_are_as_large_as_more_rows_still_gain(seconds: Mapping[int, float], rows: int) -> None:
    assert knee.most_rows(seconds, 16) == rows


def ago(seconds: float) -> Moment:
    moment = Moment(torch.device("cpu"))
    moment._clock -= seconds
    return moment


def test_a_knee_is_measured_once_and_kept(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    made = Knees(tmp_path / "knees.json", cpu).get("here", 16)
    for rows in (2, 4, 8):
        for _ in range(knee.SAMPLES):
            made.end(rows, made.begin())
    noted = json.loads((tmp_path / "knees.json").read_text())["here"]
    assert sorted(noted) == ["2", "4", "8"]
    (tmp_path / "knees.json").write_text(json.dumps({"here": {"2": 1.0, "4": 2.0, "8": 4.0}, "there": FLAT, "odd": "x"}))
    again = Knees(tmp_path / "knees.json", cpu)
    assert [again.get(name, 16).rows for name in ("here", "there", "odd")] == [2, 16, 2]
    again.get("here", 16).end(4, ago(1.9))
    assert again.get("here", 16).rows == 2, "that is no better by more than a little"
    seen = set()
    for _ in range(knee.AGAIN):
        again.get("here", 16).end(2, ago(1.0))
        seen.add(again.get("here", 16).rows)
    assert seen == {2, 4}, "now and then more are tried"
    again.get("here", 16).end(8, ago(2.0))
    assert again.get("here", 16).rows == 16, "and this is better"
    again.get("there", 16).met_full_memory(16)
    assert again.get("there", 16).rows == 8


def test_whoever_is_like_those_at_work_may_overtake_for_a_while() -> None:
    """The bound of the loaded model is that of the company."""

    def waits(name: str, arrival: int, like: str, priority: int = 0) -> Waiting:
        return Waiting(f"{name}.json", False, arrival, model="m", key=like, priority=priority)

    line = Queue()
    for each in (waits("other", 0, "big"), waits("same", 1, "small"), waits("alone", 2, "")):
        line.add(each)
    picked = [line.pick({}, "m", "m", now, 60, key="small") for now in (1000.0, 1061.0)]
    assert [each.id for each in picked if each] == ["same", "other"]
    line.add(waits("urgent", 9, "big", priority=1))
    urgent = line.pick({}, "m", "m", 1000.0, 60, key="small")
    assert urgent and urgent.id == "urgent", "it waits for the end of those at work, and nobody overtakes it"
    alone = line.pick({}, "m", "m", 1000.0, 60)
    assert alone and alone.id == "urgent"


# -- the spooler's part, without an engine -------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "spool")
    yield made
    made.close()


def drop_folder(desk: Desk, name: str, fields: dict[str, Any], side: int) -> None:
    """Drop a job over a square picture."""
    draft = desk.spool.tmp / name
    draft.mkdir()
    Image.new("RGB", (side, side)).save(draft / "start.png")
    (draft / "job.json").write_text(json.dumps({"image": "start.png"} | fields))
    draft.rename(desk.spool.pending / name)


def given(desk: Desk) -> list[str]:
    return [each.id for each in desk.engine.heard if isinstance(each, messages.Run)]


def test_the_engine_is_given_as_many_as_it_has_room_for(desk: Desk) -> None:
    for name in "abcd":
        drop(desk.spool, f"{name}.json", {"prompt": "a cat"})
    drop(desk.spool, "e.json", {"prompt": "a cat", "width": 128})
    desk.turn()
    assert given(desk) == ["a"], "it has said nothing of room yet"
    desk.turn(messages.Room(heard=1, jobs=2))
    assert given(desk) == ["a", "b", "c"]
    desk.turn(messages.Room(heard=2, jobs=1))  # said before it heard of c
    assert given(desk) == ["a", "b", "c"]
    desk.turn(messages.Room(heard=3, jobs=8))
    assert given(desk) == ["a", "b", "c", "d"], "the other size waits"
    [(status, _)] = desk.spool.spoolers()
    assert status.running == ("a", "b", "c", "d")
    for name in "dbca":
        assert "e" not in given(desk)
        desk.turn(messages.Finished(id=name, timings=Timings(), facts=FACTS))
    desk.turn()
    assert given(desk)[-1] == "e" and len(list(desk.spool.places("done"))) == 4


def test_a_job_that_takes_the_size_of_its_picture_is_given_with_those_of_that_size(desk: Desk) -> None:
    drop(desk.spool, "a.json", {"prompt": "a cat"})
    for name, side in (("b", 64), ("c", 128), ("d", 64)):
        drop_folder(desk, name, {"prompt": "a cat"}, side)
    desk.turn()
    desk.turn(messages.Room(heard=1, jobs=8))
    assert given(desk) == ["a", "b", "d"], "those of the model's own size, 64x64"
    waiting = desk.service.intake.pending.get("c")
    assert waiting and waiting.work == pytest.approx(128 * 128 / 1e6), "one step, of the picture's size"


def test_a_dropped_picture_that_would_become_too_large_is_refused_where_it_lies(desk: Desk) -> None:
    drop_folder(desk, "cat", {"prompt": "a cat", "strength": 0.5, "upscale": {"scale": 8}}, 1600)
    desk.turn()
    assert "at most 72 million pixels" in (desk.spool.rejected_folder / "cat.reason.txt").read_text()
    assert not desk.spool.find("cat") and (desk.spool.rejected_folder / "cat").is_dir()


def test_p4_of_several_under_which_the_engine_dies_none_is_blamed_and_each_is_alone_then(desk: Desk) -> None:
    for name in "abc":
        drop(desk.spool, f"{name}.json", {"prompt": "a cat"})
    desk.turn()
    desk.turn(messages.Room(heard=1, jobs=8))
    assert given(desk) == ["a", "b", "c"]
    for times in range(4):  # three of them alone
        desk.die()
        desk.turn(messages.Room(heard=1, jobs=8))
        assert given(desk)[3:] == [*"aaa"[: times + 1], *("b" if times == 3 else "")]
        run = [each for each in desk.engine.heard if isinstance(each, messages.Run)][-1]
        assert run.alone
    assert ended(desk, "a").state == "failed"
    record = desk.spool.read_record(ended(desk, "a"))
    assert record and record.attempts_used == 3 and record.failure and record.failure.code == "worker-died"
    for job_id in "bc":
        assert given(desk)[-1] == job_id
        desk.turn(messages.Finished(id=job_id, timings=Timings(), facts=FACTS))
        desk.turn()
        record = desk.spool.read_record(ended(desk, job_id))
        assert record and [attempt.counts for attempt in record.attempts] == [False, True]


def test_a_job_that_was_recovered_waits_for_those_that_it_cannot_join(desk: Desk) -> None:
    drop(desk.spool, "a.json", {"prompt": "a cat"})
    desk.turn()
    (desk.spool.claimed / "dead").mkdir()
    drop(desk.spool, "b.json", {"prompt": "a cat", "width": 128})
    assert desk.spool.claim("b.json", "dead")
    drop(desk.spool, "c.json", {"prompt": "a cat"})
    desk.turn(messages.Room(heard=1, jobs=8))
    desk.turn()
    assert given(desk)[:1] == ["a"] and "b" not in given(desk)
    for job_id in [*given(desk)]:
        desk.turn(messages.Finished(id=job_id, timings=Timings(), facts=FACTS))
    desk.turn()
    assert "b" in given(desk)


def ended(desk: Desk, job_id: str) -> Place:
    place = desk.spool.find(job_id)
    assert place
    return place


# -- the engine by itself ------------------------------------------------------------------------------------------------------


def pixels(path: Path) -> np.ndarray:
    return np.asarray(picture(path).convert("RGB"), dtype=int)


@pytest.fixture(scope="module")
def alone() -> Iterator[Direct]:
    """An engine that draws each job by the stock pipeline."""
    made = Direct(together=1)
    yield made
    made.close()


def know_calls(cache: Path, digest: str) -> None:
    """Have the cache say that calls may be large, whatever a busy machine would measure."""
    cache.mkdir(exist_ok=True)
    known = {f"{platform.machine()} CPU | {digest[:10]} | 128x128 | full, vae_slicing | float32": FLAT}
    (cache / "knees.json").write_text(json.dumps(known))


@pytest.fixture
def engine(tmp_path: Path, alone: Direct) -> Iterator[Direct]:
    know_calls(tmp_path / "cache", alone.facts.hash)
    made = Direct(tmp_path, preview_s=0.001)
    yield made
    made.close()


_ALONE: dict[str, list[Image.Image]] = {}


def assert_drawn(alone: Direct, fields: dict[str, Any], folder: Path, inputs: dict[str, Image.Image] | None = None) -> None:
    """That the pictures in the folder are those of the job alone, but for the last digit. It is drawn alone once."""
    if (name := repr(fields)) not in _ALONE:
        _ALONE[name] = alone.draw(inputs, **fields)
    expected = _ALONE[name]
    assert len(list(folder.glob("[0-9]*.png"))) == len(expected)
    for index, one in enumerate(expected):
        assert abs(pixels(folder / f"{index}.png") - np.asarray(one, dtype=int)).max() <= 1, (fields, index)


def test_p8_mixed_jobs_that_share_their_steps_are_what_they_are_alone(alone: Direct, engine: Direct) -> None:
    image = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    mask = Image.new("RGB", (128, 128), "black")
    mask.paste("white", (32, 16, 96, 80))
    over = {"prompt": "a star", "image": "in.png", "strength": 0.6, "steps": 12, "seed": 3}
    masked = over | {"mask": "mask.png", "inpaint_area": "masked", "seed": 4}
    nothing = masked | {"image": "mask.png", "mask": "in.png", "strength": 0.5, "seed": 2}
    inputs = {"in.png": image, "mask.png": mask}
    jobs = [*MIXED, over, masked, nothing]
    folders = engine.run_all([(fields, inputs if "image" in fields else {}) for fields in jobs])
    assert [each.type for each in engine.ended_all] == ["finished"] * len(jobs)
    shared = [each.facts.shared for each in engine.ended_all if isinstance(each, messages.Finished)]
    assert min(shared) >= 2, shared
    for fields, folder in zip(jobs, folders, strict=True):
        assert_drawn(alone, fields, folder, inputs if "image" in fields else None)
        assert (folder / "preview.jpg").exists() and (folder / "sheet.png").exists() == isinstance(fields["steps"], list)
    told = [each for each in engine.said if isinstance(each, messages.Progress)]
    assert {each.id for each in told} == {f"direct{number}" for number in range(len(jobs))}


def test_one_that_is_cancelled_leaves_the_others_alone(alone: Direct, engine: Direct) -> None:
    def cancel(turn: int) -> None:
        if turn == 5:
            engine.unwanted.add("direct1")

    folders = engine.run_all([(fields, {}) for fields in MIXED[:4]], cancel)
    codes = [each.code if isinstance(each, messages.Failed) else "" for each in engine.ended_all]
    assert codes == ["", "cancelled", "", ""]
    for number in (0, 2, 3):
        assert_drawn(alone, MIXED[number], folders[number])


def test_whoever_goes_while_pictures_are_decoded_takes_nobodys_along(
    alone: Direct, engine: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has left the batch comes some steps later, as from a GPU."""
    asked: Counter[Moment] = Counter()

    def has_come(moment: Moment) -> bool:
        asked[moment] += 1
        return asked[moment] > 3

    def cancel(turn: int) -> None:
        company = engine.engine._company
        if isinstance(company, Company) and any(each.work.id == "direct1" for done, _ in company._decoding for each in done):
            engine.unwanted.add("direct1")

    monkeypatch.setattr(Moment, "has_come", property(has_come))
    jobs = [*MIXED[:4], CIRCLE | {"steps": 30}]
    folders = engine.run_all([(fields, {}) for fields in jobs], cancel)
    codes = [each.code if isinstance(each, messages.Failed) else "" for each in engine.ended_all]
    assert codes == ["", "cancelled", "", "", ""]
    for number in (0, 2, 3, 4):
        assert_drawn(alone, jobs[number], folders[number])


def test_memory_that_runs_out_makes_calls_smaller_and_then_the_newest_wait(
    alone: Direct, engine: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What four jobs are too much for is done in halves; when the least is too much for them, one by one."""
    unet = engine.engine._residents.get("demo").backbone
    forward, calls, most = unet.forward, list[int](), 4

    def short(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(sample) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        calls.append(len(sample))
        return forward(sample, *args, **more)

    monkeypatch.setattr(unet, "forward", short)
    same = [CIRCLE | {"seed": seed, "steps": 12} for seed in range(4)]
    folders = engine.run_all([(fields, {}) for fields in same])
    assert [each.type for each in engine.ended_all] == ["finished"] * 4 and max(calls) == 4
    for fields, folder in zip(same, folders, strict=True):
        assert_drawn(alone, fields, folder)

    def half(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(engine.engine._company.works if engine.engine._company else ()) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(sample, *args, **more)

    monkeypatch.setattr(unet, "forward", half)
    folders = engine.run_all([(fields, {}) for fields in same])
    assert [each.type for each in engine.ended_all] == ["finished"] * 4
    for fields, folder in zip(same, folders, strict=True):
        assert_drawn(alone, fields, folder)


@pytest.mark.parametrize("broken", ["unet", "vae"])
def test_what_goes_wrong_in_company_is_tried_alone(
    broken: str, alone: Direct, engine: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that fails for a reason that nobody knows costs no job anything but time."""
    model = engine.engine._residents.get("demo")
    part, name = (model.backbone, "forward") if broken == "unet" else (model.pipeline("txt2img").vae, "decode")
    call = getattr(part, name)

    def fail(given: torch.Tensor, *args: Any, **more: Any) -> Any:
        if engine.engine._company:
            raise RuntimeError("a kernel is missing")
        return call(given, *args, **more)

    monkeypatch.setattr(part, name, fail)
    folders = engine.run_all([(fields, {}) for fields in MIXED[:4]])
    assert [each.type for each in engine.ended_all] == ["finished"] * 4
    for fields, folder in zip(MIXED[:4], folders, strict=True):
        assert_drawn(alone, fields, folder)


def test_together_1_is_one_job_at_a_time(alone: Direct) -> None:
    """Each is done before the next is begun, and the spooler is told of no room: see what it gives then, above."""
    folders = alone.run_all([(CIRCLE, {})] * 3)
    assert [each.facts.shared for each in alone.ended_all if isinstance(each, messages.Finished)] == [1, 1, 1]
    assert not [each for each in alone.said if isinstance(each, messages.Room) and each.jobs]
    told = [each.id for each in alone.said if isinstance(each, messages.Progress | messages.ImageDone)]
    assert set(told) == {"direct0", "direct1", "direct2"} and told == sorted(told)
    one, *others = ((folder / "0.png").read_bytes() for folder in folders)
    assert others == [one, one], "to the bit"
