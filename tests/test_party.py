"""Jobs that share one call of a whole pipeline: who is like whom, what each draws, and what one of them costs the others."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from house import drop, picture, spooler, wait_for, wait_running, wait_state

from bench.direct import Direct
from spooler import company, families, messages
from spooler.catalogue import ModelCard
from spooler.engine import draw
from spooler.engine.knee import Knees
from spooler.engine.party import Party
from spooler.job import Job, from_fields
from spooler.spool import Spool

WHOLE = [family.name for family in families.FAMILIES if family.name in company.CALLED_WHOLE]
#: Calls that gain by every picture, and are faster than any that will be measured: nothing keeps jobs apart.
FLAT = {str(rows): 1e-6 * rows**0.1 for rows in (1, 2, 4, 8, 16)}
BASE = {"seed": 5, "steps": 4, "guidance_scale": 4, "width": 64, "height": 64}
PROMPTS = ("a large red circle on a blue background", "a star", "a small yellow triangle and a green square", "a ring")
JOBS: list[dict[str, Any]] = [
    BASE | {"prompt": prompt, "seed": seed} | ({"negative_prompt": "a ring"} if seed == 2 else {})
    for seed, prompt in enumerate(PROMPTS)
]
CARD = ModelCard(name="m", family="sd3", width=64, height=64, steps=28, guidance_scale=7.0)


def asked(fields: dict[str, Any], family: str) -> dict[str, Any]:
    """The job without what the family does not have."""
    return {
        name: value
        for name, value in fields.items()
        if name != "negative_prompt" or "negative_prompt" in families.get(family).kinds
    }


# -- who is like whom ----------------------------------------------------------------------------------------------------------


def test_jobs_of_one_call_differ_in_prompts_and_seeds_alone() -> None:
    def key(**fields: Any) -> str:
        return company.key(from_fields({"prompt": "x"} | fields), CARD)

    plain = key()
    own = [{"prompt": "y", "negative_prompt": "z"}, {"seed": 9}, {"count": 3}, {"priority": 3}]
    named = {"steps": 28, "guidance_scale": 7, "width": 64, "model": "m"}
    assert plain and {key(**each) for each in [*own, named]} == {plain}
    others = [{"steps": 20}, {"guidance_scale": 3}, {"guidance_cutoff": 0.5}, {"width": 128}, {"loras": [{"name": "a"}]}]
    assert len({plain, *(key(**each) for each in others)}) == 6
    for alone in ({"hires": {"scale": 2}}, {"image": "in.png", "width": 64, "height": 64}, {"upscale": {"scale": 2}}):
        assert key(**alone) == company.ALONE, alone
    assert company.key_of_all(from_fields({"prompt": "x", "steps": [4, 5]}).cells(), CARD) == company.ALONE


def test_every_family_of_the_table_is_drawn_together_in_one_way_or_the_other() -> None:
    assert company.FAMILIES | company.CALLED_WHOLE | {"sdxl-refiner"} == {family.name for family in families.FAMILIES}
    assert not company.FAMILIES & company.CALLED_WHOLE


# -- what is drawn -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return tiny.shelf(tmp_path_factory.mktemp("models"))


def know_calls(cache: Path, direct: Direct) -> None:
    """Have the cache say that calls may be large, whatever a busy machine would measure."""
    cache.mkdir(exist_ok=True)
    known = {f"{platform.machine()} CPU | {direct.facts.hash[:10]} | 64x64 | full, vae_slicing | float32": FLAT}
    (cache / "knees.json").write_text(json.dumps(known))


Engines = tuple[Direct, Direct]


@pytest.fixture
def engines(shelf: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[[str], Engines]]:
    """An engine that draws each job alone, and one that draws them together."""
    made: list[Direct] = []

    def get(family: str) -> Engines:
        alone = Direct(tmp_path / f"{family}-alone", model=shelf(family), together=1)
        cache = tmp_path / f"{family}-cache"
        know_calls(cache, alone)
        made.extend([alone, Direct(tmp_path / f"{family}-party", model=shelf(family), cache=cache)])
        return made[-2], made[-1]

    yield get
    for each in made:
        each.close()


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(picture(path).convert("RGB"), dtype=int)


def assert_drawn(alone: Direct, fields: dict[str, Any], folder: Path) -> None:
    """That the pictures in the folder are those of the job alone, but for the last digit."""
    expected = alone.draw(**fields)
    assert len(list(folder.glob("[0-9]*.png"))) == len(expected)
    for index, one in enumerate(expected):
        assert abs(pixels(folder / f"{index}.png") - np.asarray(one, dtype=int)).max() <= 1, (fields, index)


class Calls:
    """Counts the calls of an engine's network, and the pictures in each. `at` is called before each with its number."""

    def __init__(self, direct: Direct, monkeypatch: pytest.MonkeyPatch, at: Callable[[int, int], None] = lambda call, n: None):
        self.pictures: list[int] = []
        kept = draw.in_one_call

        def in_one_call(jobs: list[Job], seeds: list[int], *more: Any) -> Any:
            at(len(self.pictures), len(seeds))
            self.pictures.append(len(seeds))
            return kept(jobs, seeds, *more)

        monkeypatch.setattr(draw, "in_one_call", in_one_call)


@pytest.mark.parametrize("family", WHOLE)
def test_p8_each_picture_of_one_call_is_that_of_its_job_alone(
    engines: Callable[[str], Engines], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, party = engines(family)
    calls = Calls(party, monkeypatch)
    jobs = [asked(fields, family) for fields in JOBS]
    jobs[3] |= {"count": 2}
    folders = party.run_all([(fields, {}) for fields in jobs])
    assert [each.type for each in party.ended_all] == ["finished"] * 4 and calls.pictures == [5]
    shared = [each.facts.shared for each in party.ended_all if isinstance(each, messages.Finished)]
    assert shared == [5] * 4
    for fields, folder in zip(jobs, folders, strict=True):
        assert_drawn(alone, fields, folder)
    assert len({(folder / "0.png").read_bytes() for folder in folders}) == 4
    told = [each for each in party.said if isinstance(each, messages.Progress) and each.phase == "denoise"]
    assert {each.id for each in told} == {f"direct{number}" for number in range(4)}
    assert {each.step for each in told} <= set(range(5)) and {each.steps for each in told} == {4}


@pytest.mark.parametrize("family", WHOLE)
def test_p8_the_latents_of_one_call_are_within_2e_6_of_those_alone(engines: Callable[[str], Engines], family: str) -> None:
    """In float32, norm over norm."""
    alone, _ = engines(family)
    model = alone.engine._residents.get(family)

    def latents(cells: list[Job], seeds: list[int]) -> torch.Tensor:
        made = draw.Studio(_Shelf(model), None, {}, lambda *_: None, lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
        found: torch.Tensor = draw.in_one_call(cells, seeds, made, "latent")
        return found

    cells = [from_fields(asked(fields, family) | {"model": family, "scheduler": "Automatic"}) for fields in JOBS]
    together = latents(cells, [cell.seed for cell in cells])
    for index, cell in enumerate(cells):
        [one] = latents([cell], [cell.seed])
        differs = float((together[index].double() - one.double()).norm() / one.double().norm())
        assert differs <= 2e-6, (family, index, differs)


class _Shelf:
    def __init__(self, model: Any):
        self._model = model

    def get(self, name: str) -> Any:
        return self._model


# -- what one costs the others -------------------------------------------------------------------------------------------------


def test_one_that_is_cancelled_ends_at_once_and_the_others_go_on(
    engines: Callable[[str], Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, party = engines("sd3")
    ended_at: list[int] = []
    kept = Party._stepped

    def stepped(self: Party, pictures: int, began: float) -> Any:
        inner = kept(self, pictures, began)

        def on_step(step: int, *more: Any) -> None:
            if step == 2:
                party.unwanted.add("direct1")
            inner(step, *more)
            ended_at.append(len(self.works))

        return on_step

    monkeypatch.setattr(Party, "_stepped", stepped)
    folders = party.run_all([(fields, {}) for fields in JOBS])
    codes = [each.code if isinstance(each, messages.Failed) else "" for each in party.ended_all]
    assert codes == ["", "cancelled", "", ""] and ended_at == [4, 3, 3, 3]
    assert not list(folders[1].glob("*.png"))
    for number in (0, 2, 3):
        assert_drawn(alone, JOBS[number], folders[number])


def test_when_all_are_cancelled_the_call_ends_at_its_next_step(
    engines: Callable[[str], Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, party = engines("sd3")
    network = party.engine._residents.get("sd3").backbone
    forward, steps = network.forward, list[int]()

    def counting(*args: Any, **more: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            party.unwanted.update(f"direct{number}" for number in range(4))
        return forward(*args, **more)

    monkeypatch.setattr(network, "forward", counting)
    party.run_all([(fields | {"steps": 20}, {}) for fields in JOBS])
    assert [each.code for each in party.ended_all if isinstance(each, messages.Failed)] == ["cancelled"] * 4
    assert len(steps) == 2


def test_memory_that_runs_out_makes_calls_smaller(engines: Callable[[str], Engines], monkeypatch: pytest.MonkeyPatch) -> None:
    alone, party = engines("flux")

    def short(call: int, pictures: int) -> None:
        if pictures > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    jobs = [asked(fields, "flux") for fields in JOBS]
    with monkeypatch.context() as patched:
        calls = Calls(party, patched, short)
        folders = party.run_all([(fields, {}) for fields in jobs])
    assert [each.type for each in party.ended_all] == ["finished"] * 4 and calls.pictures == [2, 2]
    for fields, folder in zip(jobs, folders, strict=True):
        assert_drawn(alone, fields, folder)


def test_what_goes_wrong_in_one_call_is_tried_alone(engines: Callable[[str], Engines], monkeypatch: pytest.MonkeyPatch) -> None:
    alone, party = engines("sana")

    def fail(call: int, pictures: int) -> None:
        raise RuntimeError("a kernel is missing")

    with monkeypatch.context() as patched:
        Calls(party, patched, fail)
        folders = party.run_all([(fields, {}) for fields in JOBS])
    assert [each.type for each in party.ended_all] == ["finished"] * 4
    for fields, folder in zip(JOBS, folders, strict=True):
        assert_drawn(alone, fields, folder)


def test_jobs_of_other_steps_wait_for_a_call_of_their_own(
    engines: Callable[[str], Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, party = engines("sd3")
    calls = Calls(party, monkeypatch)
    jobs = [JOBS[0], JOBS[1], JOBS[2] | {"steps": 3}, JOBS[3] | {"steps": 3, "count": 6}]
    folders = party.run_all([(fields, {}) for fields in jobs])
    assert [each.type for each in party.ended_all] == ["finished"] * 4
    assert calls.pictures == [2, 5, 2], "four of one job at once at the most"
    for fields, folder in zip(jobs, folders, strict=True):
        assert_drawn(alone, fields, folder)


# -- the whole way -------------------------------------------------------------------------------------------------------------


def test_waiting_jobs_share_a_call_and_nobody_joins_one_that_has_begun(
    engines: Callable[[str], Engines], shelf: Callable[[str], Path], tmp_path: Path
) -> None:
    alone, _ = engines("sd3")
    cache = tmp_path / "cache"
    know_calls(cache, alone)
    spool = Spool(tmp_path / "spool")
    spool.create()
    with spooler(spool, "--device", "cpu", "--model", str(shelf("sd3")), "--cache", str(cache)) as made:
        long = BASE | {"steps": 150, "prompt": "a star"}
        drop(spool, "first.json", long)
        wait_for(lambda: (told := made.status()) and told.running == ("first",), "the first to run")
        for number in range(4):
            drop(spool, f"{number}.json", long | {"seed": number})
        records = {}
        for job_id in ("first", *"0123"):
            place = wait_state(spool, job_id, "done", "failed")
            record = spool.read_record(place)
            assert record and record.engine and place.state == "done", made.log[-3000:]
            records[job_id] = record
    shared = {job_id: record.engine.shared for job_id, record in records.items() if record.engine}
    assert shared["first"] == 1 and max(shared[name] for name in "0123") > 1, shared


def test_p2_a_call_that_is_stopped_ends_nobody_s_job_and_all_of_it_is_drawn_by_the_next_spooler(
    shelf: Callable[[str], Path], tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    options = ("--device", "cpu", "--model", str(shelf("sd3")), "--cache", str(tmp_path / "cache"))
    with spooler(spool, *options):
        drop(spool, "long.json", BASE | {"steps": 150, "prompt": "a star", "count": 4, "width": 128, "height": 128})
        wait_running(spool, "long")
    place = spool.find("long")
    assert place and place.state in ("claimed", "done"), place
    with spooler(spool, *options):
        assert wait_state(spool, "long", "done", "failed", "cancelled").state == "done"


def test_a_lone_job_waits_for_company_for_a_small_part_of_its_own_time_and_not_at_all_where_that_is_unknown(
    tmp_path: Path,
) -> None:
    (tmp_path / "knees.json").write_text(json.dumps({"known": {"2": 100.0, "4": 150.0, "8": 200.0}}))
    knees = Knees(tmp_path / "knees.json", torch.device("cpu"))

    def party(key: str) -> Party:
        made: Any = None  # it is not called
        return Party("k", made, knees.get(key, 16), made, made, made, 8, 4, steps=10)

    known, began = party("known"), time.perf_counter()
    assert known.gathers and known._gathers_until - began <= 0.02 * 10 * 100.0
    known.closed = True
    assert not known.gathers, "who waits is of another key"
    assert not party("unknown").gathers
