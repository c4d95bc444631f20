"""What a request asks for, as a job: each parameter honoured, named as without effect, or refused by name. No disk, no request.

A field of a job that OpenAI has no name for (`seed`, `steps`, `negative_prompt`, ...) may be sent under its own name; the SDKs
call that `extra_body`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from spooler.catalogue import Catalogue
from spooler.job import SWEEPABLE, Job, from_fields
from spooler.mistakes import did_you_mean, show
from webui.openai_api import masks
from webui.openai_api.mishaps import RefusedError

Format = Literal["png", "webp", "jpeg"]
FORMATS: tuple[Format, ...] = ("png", "webp", "jpeg")
MOST_PICTURES = 10
MOST_PARTIALS = 3
#: Names that clients have built in; here they are the server's default model.
ALIAS = re.compile(r"(dall-e|gpt-image|chatgpt-image)(-[\w.-]*)?")
#: Models whose answers are never URLs.
NEVER_URL = ("gpt-image", "chatgpt-image")
#: A quality as part of the steps that the model takes by default.
QUALITY = {"low": 0.5, "medium": 1.0, "standard": 1.0, "auto": 1.0, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.5}
MOST_STEPS = 150
#: How much of the picture may change, where nothing is masked and no `strength` is given.
FIDELITY = {"low": 0.75, "high": 0.5}
#: What may be sent and changes nothing here, with the values that it may have; None: any text.
WITHOUT_EFFECT: dict[str, tuple[str, ...] | None] = {
    "moderation": ("auto", "low"),
    "style": ("vivid", "natural"),
    "safety_identifier": None,
}
#: Fields of a job that go under their own names.
_OURS = SWEEPABLE - {"prompt", "model", "width", "height", "image", "mask", "controls"} | {"priority"}
OWN = tuple(name for name in Job.model_fields if name in _OURS)
COMMON = (
    "prompt",
    "model",
    "n",
    "size",
    "response_format",
    "output_format",
    "output_compression",
    "quality",
    "background",
    "stream",
    "partial_images",
    "user",
    *WITHOUT_EFFECT,
    *OWN,
)
EDITS = (*COMMON, "input_fidelity")
#: What OpenAI has, and nothing here can draw.
BEYOND = ("complexity", "frame_count", "frame_duration_ms", "svg")


@dataclass(frozen=True)
class Asked:
    """A job, and how its pictures are to be told."""

    job: Job
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    keys: tuple[str, ...] = ("b64_json", "url")
    output_format: Format = "png"
    compression: int = 100
    stream: bool = False
    partial_images: int = 0
    size: str | None = None  # as it was sent
    quality: str | None = None
    without_effect: tuple[str, ...] = ()


def generation(given: Mapping[str, Any], catalogue: Catalogue, owner: str = "") -> Asked:
    """The body of POST /v1/images/generations. `owner`: who asks, when that is known; else `user` is believed.

    Raises RefusedError or JobError.
    """
    return _Reader(given, COMMON, catalogue, owner).asked()


def editing(given: Mapping[str, Any], images: list[bytes], mask: bytes | None, catalogue: Catalogue, owner: str = "") -> Asked:
    """The form of POST /v1/images/edits: its fields (forms.py), its pictures and its mask. Raises RefusedError or JobError."""
    return _Reader(given, EDITS, catalogue, owner).asked(images, mask)


def model_of(name: str, catalogue: Catalogue) -> str:
    """The model's own name, "" for the default. Raises RefusedError (404) for one that is not here."""
    by_name = {card.name.lower(): card.name for card in catalogue.models}
    bare = re.sub(r" ?\[[0-9a-f]{6,64}\]$", "", name)
    for each in (name, bare, bare.removesuffix(".safetensors")):
        if found := by_name.get(each.lower()):
            return found
    if not name or ALIAS.fullmatch(name):
        return ""
    if not catalogue.models:  # no spooler told of any yet: it will judge
        return name
    near = did_you_mean(name, list(by_name.values()))
    raise RefusedError(f"The model {show(name)} does not exist{near}.", "model", "model_not_found", 404)


class _Reader:
    """One request's fields, each looked at by its rule."""

    def __init__(self, given: Mapping[str, Any], known: tuple[str, ...], catalogue: Catalogue, owner: str):
        for name in given:
            if name in BEYOND:
                raise RefusedError(f"`{name}` is not supported: this server draws pictures.", name, "unsupported_parameter")
            if name not in known:
                near = did_you_mean(name, known)
                raise RefusedError(f"Unknown parameter: {show(name)}{near}.", show(name)[1:-1], "unknown_parameter")
        self._given = {name: value for name, value in given.items() if value is not None}
        self._known = known
        self._catalogue = catalogue
        self._owner = owner
        self._without_effect = [name for name, rule in WITHOUT_EFFECT.items() if self._text(name, rule) is not None]

    def asked(self, images: list[bytes] | None = None, mask: bytes | None = None) -> Asked:
        model = self._text("model") or ""
        fields: dict[str, Any] = {name: self._given[name] for name in OWN if name in self._given}
        fields |= {"prompt": self._prompt(), "count": self._whole("n", 1, MOST_PICTURES, 1)}
        if own := model_of(model, self._catalogue):
            fields["model"] = own
        size = self._size()
        if size:
            fields |= {"width": size[0], "height": size[1]}
        if owner := self._owner or self._text("user") or "":
            fields["owner"] = owner
        self._one_of("background", ("auto", "opaque"), "this server's pictures are opaque")
        quality = self._steps(fields)
        inputs: dict[str, bytes] = {}
        if images is not None:
            inputs = self._pictures(fields, images, mask, size, model)
        asked_format = self._one_of("output_format", FORMATS, "this server writes no other") or "png"
        job = from_fields(fields)
        if job.sweep:
            name = next(iter(job.sweep))
            raise RefusedError(f"`{name}` must be one value: a sweep is for POST /api/v1/jobs.", name)
        stream = self._flag("stream")
        return Asked(
            job=job,
            inputs=inputs,
            keys=self._keys(model, stream),
            output_format=cast(Format, asked_format),
            compression=self._compression(asked_format),
            stream=stream,
            partial_images=self._whole("partial_images", 0, MOST_PARTIALS, 0),
            size=self._text("size"),
            quality=quality,
            without_effect=tuple(self._without_effect),
        )

    def _prompt(self) -> str:
        prompt = self._text("prompt")
        if prompt is None or not prompt.strip():
            raise RefusedError("`prompt` is required, but is missing or empty.", "prompt", "missing_required_parameter")
        return prompt

    def _keys(self, model: str, stream: bool) -> tuple[str, ...]:
        """The keys of each picture in the answer: what was asked for, else both, for clients differ in which they read."""
        wanted = self._one_of("response_format", ("b64_json", "url"), "there is no other")
        if stream and wanted == "url":
            raise RefusedError("`response_format` must be b64_json with `stream`, but is url.", "response_format")
        if wanted:
            return (wanted,)
        return ("b64_json",) if stream or model.startswith(NEVER_URL) else ("b64_json", "url")

    def _size(self) -> tuple[int, int] | None:
        text = self._text("size")
        if text in (None, "", "auto"):
            return None
        if not (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text or "", re.ASCII)):
            raise RefusedError(f"`size` must be auto or as in 512x768, but is {show(text)}.", "size")
        return int(found[1]), int(found[2])

    def _steps(self, fields: dict[str, Any]) -> str | None:
        """The quality, which is a number of steps where none is given."""
        quality = self._one_of("quality", tuple(QUALITY), "there is no other")
        if quality and QUALITY[quality] != 1.0:
            card = self._catalogue.card(fields.get("model", ""))
            if "steps" in fields or card is None:
                self._without_effect.append("quality")
            else:
                fields["steps"] = max(1, min(MOST_STEPS, round(card.steps * QUALITY[quality])))
        return quality

    def _compression(self, output_format: str) -> int:
        value = self._whole("output_compression", 0, 100, 100)
        if output_format == "png" and value < 100:
            raise RefusedError(
                f"`output_compression` must be 100 with png, which loses nothing, but is {value}.", "output_compression"
            )
        return value

    def _pictures(
        self, fields: dict[str, Any], images: list[bytes], mask: bytes | None, size: tuple[int, int] | None, model: str
    ) -> dict[str, bytes]:
        if not images:
            raise RefusedError("`image` is required, but is missing.", "image", "missing_required_parameter")
        if len(images) > 1:
            raise RefusedError(f"`image` must be one picture here, but {len(images)} were sent.", "image")
        fidelity = self._one_of("input_fidelity", tuple(FIDELITY), "there is no other")
        if size and not (min(size) >= 64 and max(size) <= 2048):
            from_fields(fields)  # says so
        made = masks.edit(images[0], mask, not model.startswith(NEVER_URL), size)
        fields["image"] = "image.png"
        inputs = {"image.png": made.image}
        if made.mask is not None:
            fields["mask"] = "mask.png"
            inputs["mask.png"] = made.mask
            if fidelity:
                self._without_effect.append("input_fidelity")
        elif fidelity:
            fields.setdefault("strength", FIDELITY[fidelity])
        return inputs

    # -- by kind ---------------------------------------------------------------------------------------------------------

    def _text(self, name: str, rule: tuple[str, ...] | None = None) -> str | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, str):
            raise RefusedError(f"`{name}` must be text, but is {show(value)}.", name, "invalid_type")
        if rule and value is not None and value not in rule:
            raise RefusedError(f"`{name}` must be one of {', '.join(rule)}, but is {show(value)}.", name)
        return value

    def _one_of(self, name: str, rule: tuple[str, ...], why: str) -> str | None:
        value = self._text(name)
        if value is not None and value not in rule:
            raise RefusedError(f"`{name}` must be one of {', '.join(rule)}, but is {show(value)}: {why}.", name)
        return value

    def _whole(self, name: str, least: int, most: int, default: int) -> int:
        value = self._given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(f"`{name}` must be a whole number, but is {show(value)}.", name, "invalid_type")
        if not least <= value <= most:
            raise RefusedError(f"`{name}` must be from {least} to {most}, but is {value}.", name)
        return value

    def _flag(self, name: str) -> bool:
        value = self._given.get(name, False)
        if not isinstance(value, bool):
            raise RefusedError(f"`{name}` must be true or false, but is {show(value)}.", name, "invalid_type")
        return value
