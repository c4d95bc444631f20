"""An engine with a tiny model, and the rows that each call of its network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from bench.direct import Direct

STEPS = 10
#: A guidance far beyond what is usual: a random model hardly tells one prompt from another.
JOB = {"prompt": "a red circle", "seed": 5, "steps": STEPS, "guidance_scale": 20, "width": 64, "height": 64}
UNETS = ("sd1", "sdxl")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model."""
    return tiny.shelf(tmp_path_factory.mktemp("models"))


def rows_of(module: Any) -> list[int]:
    """The rows that each call of it sees from now on."""
    rows: list[int] = []
    forward = module.forward

    def counting(*args: Any, **more: Any) -> Any:
        latents = next(each for each in (*args, *more.values()) if isinstance(each, (torch.Tensor, list)))
        rows.append(len(latents))
        return forward(*args, **more)

    module.forward = counting
    return rows


class Counted:
    def __init__(self, model: Path, scratch: Path, together: int):
        self.direct = Direct(scratch, model=model, together=together)
        [name] = self.direct.engine._residents.names
        self.network = self.direct.engine._residents.get(name).backbone
        self.rows = rows_of(self.network)

    def draw(self, inputs: dict[str, Image.Image] | None = None, **fields: Any) -> tuple[np.ndarray[Any, Any], list[int]]:
        """The job's first picture, 0..255, and the rows of each call."""
        self.rows.clear()
        [first, *_] = self.direct.draw(inputs, **JOB | fields)
        return np.asarray(first, dtype=int), [*self.rows]


Kind = TypeVar("Kind", bound=Counted)


class Engines(Generic[Kind]):
    """Those of a test, each with a cache of its own."""

    def __init__(self, kind: type[Kind], shelf: Callable[[str], Path], folder: Path):
        self._kind, self._shelf, self._folder = kind, shelf, folder
        self._made: list[Kind] = []

    def __call__(self, family: str, together: int = 1) -> Kind:
        self._made.append(self._kind(self._shelf(family), self._folder / f"{family}{together}", together))
        return self._made[-1]

    def lent(self) -> Iterator[Engines[Kind]]:
        yield self
        for each in self._made:
            each.direct.close()
