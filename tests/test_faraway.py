"""The engine by the rules of a GPU, where there is none (faraway.py): nothing meets what lies elsewhere, and nobody waits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from house import ROOT

from spooler import samplers

CIRCLE = {"prompt": "a red circle on a blue background", "steps": 4, "width": 64, "height": 64}
OVER = {"image": "in.png", "strength": 0.8}
WITHIN = OVER | {"mask": "mask.png"}


SAMPLERS = [[CIRCLE | {"sampler": each.name, "steps": 3} | more for more in ({}, OVER, WITHIN)] for each in samplers.SAMPLERS]
#: Jobs that come and go while others are drawn, with plain prompts and weighted ones.
JOINING = [
    {"steps": 9, "sampler": "Euler a"},
    {"steps": 3, "prompt": "a (huge:1.3) yellow star", "negative_prompt": "red"},
    {"steps": 5, "prompt": "a green square", "guidance_scale": 1.0, "sampler": "DDIM"},
    {"steps": 4, "prompt": "a ring", "variation_strength": 0.3, "variation_seed": 4},
    {"steps": 6, "count": 3, "sampler": "Heun", "negative_prompt": "a blue star", "deepcache_interval": 2},
]


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """What comes there of groups of jobs, those of each drawn together; `pictures`: how far they are from those drawn here."""
    groups = [[CIRCLE | {"seed": number} | each for number, each in enumerate(JOINING)], *SAMPLERS]
    settings = {"model": "demo", "together": "2"}
    command = [sys.executable, "-m", "tests.faraway", json.dumps(groups), json.dumps(settings)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(told.stdout)
    assert [len(each["ended"]) for each in found] == [len(group) for group in groups]
    assert all(set(each["ended"]) == {"finished"} for each in found)
    return found


def test_p8_every_sampler_draws_there_what_it_draws_here_in_company(found: list[dict[str, Any]]) -> None:
    for sampler, each in zip(samplers.SAMPLERS, found[1:], strict=True):
        assert each["alone"] == [], sampler.name
        assert len(each["pictures"]) == 3 and max(each["pictures"]) <= 1, sampler.name


def test_nobody_waits_for_those_who_come_and_go(found: list[dict[str, Any]]) -> None:
    first = found[0]
    assert first["alone"] == first["waits"] == []
    assert len(first["pictures"]) == 7 and max(first["pictures"]) <= 1
