"""ControlNet units as the extension sd-webui-controlnet takes them in `alwayson_scripts`, made into a job's controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image as Picture

from spooler.catalogue import Catalogue
from spooler.mistakes import Mistake, show
from webui.sdapi import names, starts

FIELD = "alwayson_scripts.controlnet"
#: Units of one job that are on, as job.py has it.
MOST_UNITS = 4
#: The extension's modes of resizing the control picture, by number and in words, as A1111's `resize_mode`.
RESIZE = {"just resize": 0, "scale to fit (inner fit)": 1, "crop and resize": 1, "resize and fill": 2}
#: Modes that weigh prompt and control alike.
BALANCED = ("", "0", "balanced")
NO_MODULE = ("", "none")


def add(
    scripts: Mapping[str, Any],
    catalogue: Catalogue,
    size: starts.Size,
    start: Picture | None,
    fields: dict[str, Any],
    mistakes: list[Mistake],
) -> dict[str, bytes]:
    """Give the job of `fields` the controls of the units that are switched on; returns their pictures.

    A unit without a picture takes `start`, that of img2img. What a unit asks for and cannot be done goes into `mistakes`.
    """
    given = next((value for name, value in scripts.items() if name.lower() == "controlnet"), None)
    units = given.get("args", []) if isinstance(given, Mapping) else []
    if not isinstance(units, list):
        mistakes.append(Mistake(FIELD, f"`{FIELD}.args` must be a list of units, but is {show(units)}."))
        return {}
    on = [unit for unit in units if isinstance(unit, Mapping) and _is_on(unit)]
    if len(on) > MOST_UNITS:
        mistakes.append(Mistake(FIELD, f"`{FIELD}.args` must have at most {MOST_UNITS} units that are on, but has {len(on)}."))
        return {}
    pictures: dict[str, bytes] = {}
    controls = []
    if on:
        starts.check(size)
    for number, unit in enumerate(units):
        if unit and not isinstance(unit, Mapping):
            mistakes.append(Mistake(FIELD, f"`{FIELD}.args` must be a list of units, but has {show(unit)}."))
            continue
        if not unit or not _is_on(unit):
            continue
        model = str(unit["model"])
        name = f"control{number}.png"
        mistakes += _mistakes(unit, "hires" in fields)
        picture = _picture(unit) or start
        if picture is None:
            mistakes.append(Mistake(FIELD, f"`{FIELD}` must have an `image` in each unit, but unit {number} has none."))
            continue
        pictures[name] = starts.encoded(starts.resized(picture, size, _resize_mode(unit)))
        control: dict[str, Any] = {"model": names.listed(model.partition(" [")[0], catalogue.controlnets), "image": name}
        for ours, theirs in (("weight", "weight"), ("start", "guidance_start"), ("end", "guidance_end")):
            if unit.get(theirs) is not None:
                control[ours] = unit[theirs]
        controls.append(control)
    if controls:
        fields["controls"] = controls
    return pictures


def _is_on(unit: Mapping[str, Any]) -> bool:
    return bool(unit.get("enabled", True)) and str(unit.get("model") or "").lower() not in ("", "none")


def _mistakes(unit: Mapping[str, Any], hires: bool) -> list[Mistake]:
    module, mode = str(unit.get("module") or "none"), str(unit.get("control_mode") or "")
    found = []
    if module.lower() not in NO_MODULE:
        rule = f"`{FIELD}.module` must be none: the picture must be what the ControlNet reads"
        found.append(Mistake(FIELD, f"{rule}, but is {show(module)}."))
    if mode.lower() not in BALANCED:
        found.append(Mistake(FIELD, f"`{FIELD}.control_mode` must be Balanced, but is {show(mode)}."))
    option = str(unit.get("hr_option") or "Both")
    if hires and option.lower() not in ("both", "hiresfixoption.both"):
        found.append(Mistake(FIELD, f"`{FIELD}.hr_option` must be Both, but is {show(option)}."))
    for name in ("mask", "mask_image", "effective_region_mask"):
        if unit.get(name):
            found.append(Mistake(FIELD, f"`{FIELD}.{name}` must be empty, but is a picture."))
    return found


def _picture(unit: Mapping[str, Any]) -> Picture | None:
    given = unit.get("image") or unit.get("input_image")
    if isinstance(given, Mapping):
        given = given.get("image")
    return starts.decoded(starts.data_of(given)) if isinstance(given, str) and given else None


def _resize_mode(unit: Mapping[str, Any]) -> int:
    given = unit.get("resize_mode", 1)
    if isinstance(given, int) and given in (0, 1, 2):
        return given
    return RESIZE.get(str(given).lower(), 1)
