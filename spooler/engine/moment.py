"""A moment in what the device is given to do. A GPU comes to it later than this thread, which need not wait to know when."""

from __future__ import annotations

import time
from typing import Any

import torch


class Moment:
    """Now: after all that the device was given so far."""

    def __init__(self, device: torch.device):
        self._clock = time.perf_counter()  # where the device is this processor, all is done already
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record()

    @property
    def has_come(self) -> bool:
        """Whether the device has come to it; also where something went wrong there on the way, which `wait` raises."""
        try:
            return self._event is None or bool(self._event.query())
        except RuntimeError:
            return True

    def wait(self) -> None:
        """Wait until it has come."""
        if self._event is not None:
            self._event.synchronize()

    def until(self, later: Moment) -> float:
        """The seconds from here to a later one; both have come."""
        if self._event is None:
            return later._clock - self._clock
        return float(self._event.elapsed_time(later._event)) / 1000
