"""The shipped demo model, and the script that makes such a model."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT

from bench.direct import Direct
from bench.shape_checker import Seen, look
from spooler import library, samplers
from tools import train_demo_model
from tools.drawings import COLOURS, SHAPES, Drawing

PROMPTS = {
    "a large red circle on a blue background": ("circle", "red", "blue"),
    "a small yellow star on a black background": ("star", "yellow", "black"),
    "green square, white background": ("square", "green", "white"),
    "a purple background with an orange triangle": ("triangle", "orange", "purple"),
    "draw a big white ring in front of a green background, please": ("ring", "white", "green"),
    "A LARGE BLACK SQUARE ON A YELLOW BACKGROUND": ("square", "black", "yellow"),
}


@pytest.fixture(scope="module")
def demo() -> Direct:
    return Direct()


def draw(demo: Direct, **fields: object) -> Seen:
    return look(demo.draw(**({"seed": 3} | fields))[0])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_draws_what_it_is_asked_for(demo: Direct, prompt: str) -> None:
    seen = draw(demo, prompt=prompt)
    assert (seen.shape, seen.colour, seen.background) == PROMPTS[prompt]


@pytest.mark.parametrize("prompt", ["xyzzy plugh", "漢字 🎨", "a red circle on a blue background " * 30, "!!!"])
def test_words_that_it_does_not_know_do_not_break_it(demo: Direct, prompt: str) -> None:
    assert draw(demo, prompt=prompt, steps=4)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS, ids=lambda sampler: sampler.name)
def test_every_sampler_and_schedule_draws(demo: Direct, sampler: samplers.Sampler) -> None:
    red_on_blue = {"prompt": "a large red circle on a blue background", "width": 64, "height": 64, "steps": 20}
    for schedule in sampler.schedules:
        seen = draw(demo, **red_on_blue, sampler=sampler.name, scheduler=schedule)
        assert (seen.colour, seen.background) == ("red", "blue"), schedule


def test_it_is_small_and_has_no_pickles() -> None:
    files = [path for path in library.DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
    assert (library.DEMO / "README.md").exists()


def test_the_checker_knows_every_drawing() -> None:
    rng = random.Random(0)
    for shape in SHAPES:
        for colour in COLOURS:
            drawing = Drawing(shape, colour, "white" if colour != "white" else "black", rng.choice(["small", "", "large"]))
            seen = look(drawing.image(rng))
            assert (seen.shape, seen.colour, seen.background, seen.place) == (shape, colour, drawing.background, "")


@pytest.mark.filterwarnings("ignore")
def test_a_quick_training_makes_a_pipeline_and_the_same_one_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as the command that it is, and once in this process, which has drawn a lot before."""
    command = ["tools/train_demo_model.py", "--quick", "--out"]
    subprocess.run([sys.executable, "-W", "ignore", *command, str(tmp_path / "one")], cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "two")])
    train_demo_model.main()
    hashes = []
    for name in ("one", "two"):
        weights = sorted((tmp_path / name).rglob("*.safetensors"))
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in weights])
    assert hashes[0] == hashes[1] and len(hashes[0]) == 3
    trained = Direct(model=tmp_path / "one")
    assert trained.facts.model == "one" and trained.facts.family == "sd1"
