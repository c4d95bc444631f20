"""How far the process has grown since its models were loaded: it is started anew when that is too much."""

from __future__ import annotations

from spooler.engine import device as devices
from spooler.engine.residents import Residents


class Growth:
    """Resident memory beyond what the loaded models explain."""

    def __init__(self, residents: Residents):
        self._residents = residents
        self._resident_then = 0  # bytes, when a model was last loaded
        self._loaded_then: list[str] = []

    def note(self) -> None:
        """What is resident now is of the models that are loaded."""
        self._resident_then, self._loaded_then = devices.resident_bytes(), self._residents.names

    def is_more_than(self, most: float) -> bool:
        """Whether it is by more bytes than these. It may say so too early, of a model that was just loaded, never too late."""
        return self._residents.leaked or devices.resident_bytes() - self._resident_then > most

    def bytes(self) -> int:
        """By which the process grew since the loaded models changed; a model that could not be freed counts as all."""
        if self._residents.leaked:
            return 1 << 62
        if sorted(self._residents.names) != sorted(self._loaded_then):
            self.note()
        return max(0, devices.resident_bytes() - self._resident_then)
