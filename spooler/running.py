"""A job that the engine has, and what is heard of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from spooler import messages
from spooler.place import Place
from spooler.record import Image, Record
from spooler.states import End
from spooler.status import Progress

if TYPE_CHECKING:
    from spooler.lane import Lane


@dataclass
class Running:
    """A job that the engine has. `outcome` is set when it ended; then it is published, again and again if the disk is full."""

    place: Place
    record: Record
    last_sign: float
    progress: Progress
    lane: Lane | None = None  # whose engine has it; None: it never ran
    began: float = 0.0  # monotonic seconds
    work: float = 0.0  # megapixel-steps
    key: str = ""  # of the jobs that it may be drawn with
    alone: bool = False  # it may be what ends the engine: nothing is given beside it
    device_s: float = 0.0  # seconds that it had the device, of those with others a share
    batch: int = 1  # most pictures that were drawn together
    shown: Progress | None = None  # what readers were told of its progress
    next_shown: float = 0.0  # monotonic seconds
    images: list[Image] = field(default_factory=list)
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    cancelling: bool = False
    outcome: End | None = None
    tried: bool = False  # whether it was tried to publish that: who is still here then has an end that the disk does not take
    is_closed: bool = False  # its folder cannot be used, which is no matter of the others; not before `next_try` again
    next_try: float = 0.0  # monotonic seconds

    @property
    def median_step_s(self) -> float:
        """Seconds of its usual denoising step, as far as seen."""
        return median(self.step_seconds) if self.step_seconds else 0.0

    def sign(self, now: float) -> float:
        """Note a sign of life; returns the seconds since the one before."""
        silent_s, self.last_sign = now - self.last_sign, now
        return silent_s

    def advance(self, message: messages.Progress, silent_s: float) -> None:
        """It told how far it is."""
        before = self.progress
        if message.phase == before.phase == "denoise" and message.step > before.step:
            self.step_seconds.append(silent_s / (message.step - before.step))
        self.batch = max(self.batch, message.batch)
        known = {"phase", "image", "batch", "step", "steps"}
        self.progress = before.model_copy(update=message.model_dump(include=known))

    def add_image(self, image: Image) -> None:
        """A picture is in the folder, whole. Of one that comes from elsewhere this is told when it comes, and at the end."""
        others = [each for each in self.images if each.index != image.index]
        self.images = sorted([*others, image], key=lambda each: each.index)
        self.progress = self.progress.model_copy(update={"images": tuple(self.images)})
        self.next_shown = 0.0
