"""A job's finished pictures on their way into its folder, off the device's thread: filters, files, contact sheet."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL.Image import Image as Picture
from PIL.PngImagePlugin import PngInfo

from spooler import messages, sheet
from spooler.engine.safety import Safety
from spooler.infotext import infotext
from spooler.job import Job
from spooler.messages import FromEngine
from spooler.record import Flag, Image

log = logging.getLogger(__name__)

#: Pixels of finished pictures that may wait to be written.
WAITING_PIXELS = 100_000_000
#: Pixels on the long side of a picture that is kept for the contact sheet.
SHEET_SIDE = 512
#: zlib's fastest: a third of the time of the default for a file a tenth larger (docs/benchmarks.md).
PNG_LEVEL = 1


class Album:
    """The pictures of one job. Whatever its end is, none must be written after the spooler was told of it: it publishes the
    folder then. So the engine says that a job has ended when its album `is_quiet`.

    `tell` sends a message to the spooler, from whichever thread; `hash_of` gives the hash of a model by its name.
    """

    def __init__(
        self,
        run: messages.Run,
        safety: Safety,
        files: Executor,
        tell: Callable[[FromEngine], None],
        hash_of: Callable[[str], str],
    ):
        self._run = run
        self._folder = Path(run.folder)
        self._safety = safety
        self._files = files
        self._tell = tell
        self._hash_of = hash_of
        self._written: list[Future[sheet.Cell | None]] = []
        self._shown: list[Future[None]] = []

    def end(self) -> None:
        """Wait until nobody writes into the job's folder any more, and nobody will."""
        self.close()
        wait(self.waits_for)

    def close(self) -> None:
        """Write nothing more; what is being written is, all the same."""
        for future in self._futures:
            future.cancel()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is being written, nor waits to be."""
        return not self.waits_for

    @property
    def waits_for(self) -> list[Future[Any]]:
        """What is being written, or waits to be."""
        return [each for each in self._futures if not each.done()]

    @property
    def _futures(self) -> list[Future[Any]]:
        return [*self._written, *self._shown]

    def show(self, preview: Callable[[], None]) -> None:
        """Have a preview written, unless the one before still is."""
        if all(each.done() for each in self._shown):
            self._shown = [self._files.submit(_harmless, preview)]

    def add(
        self,
        cell: Job,
        seed: int,
        index: int,
        at: tuple[int, ...],
        picture: Picture,
        finish: Callable[[Picture], Picture] | None = None,
    ) -> None:
        """Take picture `index` of the job, with what is still to be done to it. `at` is its place on the axes of the sweep."""

        def keep() -> sheet.Cell | None:
            return self._keep(cell, seed, index, at, finish(picture) if finish else picture)

        self._written.append(self._files.submit(keep))

    def is_behind(self, size: tuple[int, int]) -> bool:
        """Whether so many pictures of that size wait for their files that more would pile up in memory."""
        at_once = max(2, WAITING_PIXELS // max(1, size[0] * size[1]))
        return sum(not each.done() for each in self._written) > at_once

    def finish(self) -> str | None:
        """Wait for all files. Returns the name of the contact sheet, if it is a sweep. Raises what writing one has raised."""
        kept = [found for future in self._written if (found := future.result())]
        return self._sheet(kept) if self._run.job.sweep else None

    def _keep(self, cell: Job, seed: int, index: int, at: tuple[int, ...], picture: Picture) -> sheet.Cell | None:
        """Let the filters see a picture, and write what they leave of it. Returns it for the contact sheet."""
        shown, verdict = self._safety.check(picture)
        flag = None
        if verdict:
            flag = Flag(**vars(verdict), action="blur" if shown else "withhold")
            log.warning("job %s: picture %d flagged by %s: %s %.2f", self._run.id, index, flag.layer, flag.label, flag.score)
        name = f"{index}.png" if shown else ""
        digest = None
        if shown:
            shown = shown.convert("RGB")
            digest = hashlib.sha256(shown.tobytes()).hexdigest()
            _save(shown, self._folder / name, infotext(cell, seed, cell.model, self._hash_of(cell.model)))
        size = {"width": picture.width, "height": picture.height}
        image = Image(file=name, index=index, seed=seed, **size, pixels=digest, cell=at, flagged=flag)
        self._tell(messages.ImageDone(id=self._run.id, image=image))
        if not (shown and self._run.job.sweep):
            return None
        small = shown.copy()
        small.thumbnail((SHEET_SIDE, SHEET_SIDE))
        return sheet.Cell(small, at)

    def _sheet(self, cells: list[sheet.Cell]) -> str | None:
        sweep = self._run.job.sweep
        axes = [sheet.Axis(field, tuple(_label(value) for value in values)) for field, values in sweep.items()]
        try:
            made = sheet.contact_sheet(cells, axes)
        except ValueError as error:  # more columns than a sheet can show: the pictures are there all the same
            log.warning("job %s: no contact sheet: %s", self._run.id, error)
            return None
        _save(made, self._folder / "sheet.png", None)
        return "sheet.png"


def positions(run: messages.Run) -> list[tuple[int, ...]]:
    """Where each cell sits on the axes, in the order of `Job.cells`: the first axis changes fastest."""
    sizes = [len(values) for values in run.job.sweep.values()]
    positions = []
    for number in range(len(run.cells)):
        at = []
        for size in sizes:
            number, index = divmod(number, size)
            at.append(index)
        positions.append(tuple(at))
    return positions


def _harmless(preview: Callable[[], None]) -> None:
    """A preview that cannot be written costs nobody a picture: where the folder is gone, the next file will tell."""
    try:
        preview()
    except OSError as error:
        log.info("no preview: %s", error)


def _label(value: Any) -> Any:
    """A swept value as the sheet shows it: objects by what is in them."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(str(_label(each)) for each in value) or "none"
    return "none" if value is None else value


def _save(picture: Picture, path: Path, text: str | None) -> None:
    """Write a PNG under a name that nobody takes for a picture until it is whole."""
    info = PngInfo()
    if text:
        # A1111's key and form, which other tools read; Pillow writes iTXt where Latin-1 does not do.
        info.add_text("parameters", text)
    draft = path.with_name(f".{path.name}")
    try:
        picture.save(draft, format="PNG", pnginfo=info, compress_level=PNG_LEVEL)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()  # what there was no room for is to take none
        raise
