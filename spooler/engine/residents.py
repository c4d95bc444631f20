"""The models that are loaded: as many as fit the memory that they may take, the least recently used goes first."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable

import torch

from spooler.engine import device as devices
from spooler.engine import memory
from spooler.engine.compiled import Compiled
from spooler.engine.device import UnusableError
from spooler.engine.loading import Hashes
from spooler.engine.memory import Tricks
from spooler.engine.model import Model
from spooler.job import Job
from spooler.library import Entry, Library
from spooler.settings import Settings

log = logging.getLogger(__name__)


class Residents:
    """The models of the library, loaded when they are asked for."""

    def __init__(self, settings: Settings, library: Library, device: torch.device):
        self.library = library
        self.device = device
        self.swaps = 0  # models that were loaded after the first
        self.leaked = False  # whether a model was dropped and its memory did not come back
        self.hashes = Hashes(settings.cache / "hashes.json")
        self._settings = settings
        #: Called with the name of a model that is about to be loaded.
        self.on_load: Callable[[str], None] = lambda name: None
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._configured: dict[str, Tricks] = {}  # what the settings say, with `auto` decided when the model came in
        self._tricks: dict[str, Tricks] = {}  # what the ladder chose, instead of those
        self._ran: dict[str, Tricks] = {}
        self._hashes: dict[str, str] = {}  # of models that were loaded
        self._ever = False

    @property
    def names(self) -> list[str]:
        """Those that are loaded, the least recently used first."""
        return list(self._models)

    def entry(self, name: str) -> Entry:
        """Raises UnusableError for a name that the library does not have."""
        if name not in self.library.models:
            raise UnusableError(f"There is no model {name!r} on this machine.")
        return self.library.models[name]

    def hash_of(self, name: str) -> str:
        """The hash of the weights that are in memory, or were last: the files may be others by now. Else that of the files."""
        return self._hashes.get(name) or self.hashes.of(self.entry(name))

    def configured(self, name: str) -> Tricks:
        """The tricks that the settings give the model, whatever the ladder chose since; `auto` sees the memory free for it."""
        if name not in self._configured:
            entry = self.entry(name)
            self._make_room(entry)
            self._configured[name] = self._choose(entry)
        return self._configured[name]

    def tricks(self, name: str) -> Tricks:
        """The tricks with which the model was last run, whether or not it is still loaded; else the configured ones."""
        return self._ran.get(name) or self.configured(name)

    def precision(self, name: str) -> torch.dtype:
        """The number format in which the model computes."""
        return devices.precision(self._settings.precision, self.device, self.entry(name).card.family)

    def get(self, name: str) -> Model:
        """The model, loaded when it is not. Raises UnusableError, or torch.OutOfMemoryError."""
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name]
        entry = self.entry(name)
        self.on_load(name)
        self._make_room(entry)
        tricks = self._tricks.get(name) or self.configured(name)
        dtype = self.precision(name)
        model = Model.load(entry, self.library, tricks, self.device, dtype, self.hashes)
        if self._settings.compile != "off" and tricks.offload == "none":
            model.compiled = Compiled(model.backbone, self._settings.compile)
        self._models[name] = model
        self._hashes[name] = model.hash
        self._ran[name] = tricks
        self.swaps += self._ever
        self._ever = True
        log.info("model %s: loaded, %s, %s", name, str(dtype).removeprefix("torch."), tricks)
        return model

    def use(self, name: str, tricks: Tricks) -> None:
        """From now on run the model with these tricks. One whose weights lie elsewhere then is dropped, to be loaded anew."""
        self._tricks[name] = tricks
        model = self._models.get(name)
        if model is None or model.tricks == tricks:
            return
        if model.tricks.offload == tricks.offload:
            model.tile(tricks)
            self._ran[name] = tricks
            return
        del model
        self.drop(name)

    def spare(self, cell: Job) -> bool:
        """Let go of the add-ons that the job does not name. Returns whether there were any: it may fit now where it did not."""
        found = False
        for name, model in self._models.items():
            is_its = name == cell.model
            controls = [control.model for control in cell.controls] if is_its else []
            found |= model.spare(controls, cell.vae if is_its else "")
        if found:
            devices.release(self.device)
        return found

    def drop(self, name: str) -> None:
        """Free the model, and look whether its memory came back."""
        model = self._models.pop(name, None)
        if model is None:
            return
        watched = model.watched()
        if model.compiled:
            model.compiled.stop()
        del model
        devices.release(self.device)
        left = sum(reference() is not None for reference in watched)
        if left:
            gc.collect()
            left = sum(reference() is not None for reference in watched)
        if left:
            self.leaked = True
            log.error("model %s: dropped, but %d of its %d parts are still held", name, left, len(watched))
        else:
            log.info("model %s: dropped, all its memory came back", name)

    def _make_room(self, entry: Entry) -> None:
        """Drop models, the least recently used first, until one more is within what models may take."""
        gpu = self.device.type == "cuda"
        total = devices.total_bytes(self.device)
        spare = 2 * memory.working_bytes(entry.card.width, entry.card.height) if gpu else 0  # to draw with, too
        budget = int(self._settings.keep_gib * memory.GIB) or int(0.9 * total) - spare
        wanted = self._weight_bytes(entry)

        def held() -> int:
            # A GPU has of an offloaded model what it needs at the moment, and nothing between two jobs.
            return sum(model.bytes() for model in self._models.values() if not gpu or model.tricks.offload == "none")

        while self._models and held() + wanted > budget:
            oldest = next(iter(self._models))
            self.drop(oldest)
            # When it comes back there may be more room for it, or less.
            self._configured.pop(oldest, None)
            self._tricks.pop(oldest, None)

    def _choose(self, entry: Entry) -> Tricks:
        card = entry.card
        weights = self._weight_bytes(entry)
        return memory.choose_tricks(
            self._settings,
            weights=weights,
            largest_part=int(0.82 * weights),  # the UNet's part: 74 % in SDXL, 81 % in SD 1.5
            working=memory.working_bytes(card.width, card.height),
            free=devices.free_bytes(self.device),
            gpu=self.device.type == "cuda",
        )

    def _weight_bytes(self, entry: Entry) -> int:
        """What the model's weights take in the precision and the form that the settings give them."""
        factor = 2.0 if self.precision(entry.card.name) == torch.float32 else 1.0
        if self._settings.weights != "full":
            factor = 0.5 + 0.2 * factor  # the UNet's at a byte each, the other parts as they are
        return int(factor * entry.card.weight_bytes)
