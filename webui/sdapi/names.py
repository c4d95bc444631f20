"""Models, VAEs, samplers and schedules by all the names that clients of A1111 call them. Pure functions over a catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spooler import samplers
from spooler.catalogue import Catalogue, ModelCard

#: Ends of file names that a client may leave on a name.
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft")
_HASH = re.compile(r"\[([0-9a-fA-F]{6,64})\]$")
#: Schedules of A1111 that space the noise levels as one of ours does.
SAME_SCHEDULE = {"normal": "Uniform", "simple": "SGM Uniform"}
NO_NAME = ("", "none", "automatic")


def title(card: ModelCard) -> str:
    """The model as A1111 shows it: name and short hash."""
    return f"{card.name} [{card.hash[:10]}]" if card.hash else card.name


def model(text: str, catalogue: Catalogue) -> ModelCard | None:
    """The model by its name, title, file name, short hash or SHA-256, in any case; None when there is none."""
    wanted = text.strip()
    for card in catalogue.models:
        if wanted in (card.name, title(card)):
            return card
    bare, digest = wanted, ""
    if found := _HASH.search(wanted):
        bare, digest = wanted[: found.start()].rstrip(), found[1].lower()
    for card in catalogue.models:
        if _stem(bare) in (card.name.lower(), _stem(card.name)) and bare:
            return card
    digest = digest or (wanted.lower() if re.fullmatch(r"[0-9a-fA-F]{8,64}", wanted) else "")
    return next((card for card in catalogue.models if digest and card.hash and card.hash.startswith(digest)), None)


def listed(text: str, known: Iterable[str]) -> str:
    """The name of the list that is meant, in any case, with or without its ending; the text itself when there is none."""
    return next((name for name in known if _stem(name) == _stem(text)), text)


def sampler(text: str) -> tuple[samplers.Sampler | None, str | None]:
    """The sampler of that name or alias (None: unknown), and the schedule that stands behind its name."""
    head, schedule = samplers.split(text)
    return samplers.find(head), schedule


def schedule(text: str) -> str | None:
    """The schedule by its name ("sgm_uniform") or label ("SGM Uniform"); None when it is unknown."""
    plain = text.strip().lower().replace("_", " ")
    return SAME_SCHEDULE.get(plain) or samplers.find_schedule(plain)


def _stem(text: str) -> str:
    name = re.split(r"[\\/]", text.strip().lower())[-1]
    return next((name[: -len(ending)] for ending in ENDINGS if name.endswith(ending)), name)
