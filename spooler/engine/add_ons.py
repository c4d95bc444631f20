"""VAEs and ControlNets that jobs lay over a model: in memory for as long as they are used, and a little longer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

#: Those of each kind that stay though the job at work does not name them, the last used.
KEPT = 2


class AddOns:
    """Those of one kind, by their names in the library; `load` brings one into memory."""

    def __init__(self, load: Callable[[str], torch.nn.Module]):
        self._load = load
        self._held: OrderedDict[str, torch.nn.Module] = OrderedDict()

    def __iter__(self) -> Iterator[torch.nn.Module]:
        return iter(self._held.values())

    def get(self, name: str) -> Any:
        """Raises UnusableError."""
        if name not in self._held:
            self._held[name] = self._load(name)
        self._held.move_to_end(name)
        return self._held[name]

    def let_go(self, wanted: Collection[str], kept: int) -> dict[str, torch.nn.Module]:
        """Drop all but those that are wanted and so many more, and return what was dropped."""
        idle = [name for name in self._held if name not in wanted]
        return {name: self._held.pop(name) for name in idle[: max(0, len(idle) - kept)]}
