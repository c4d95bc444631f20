"""What the form calls a job's fields, so that a sentence on a page names the label there. The API keeps the names."""

from __future__ import annotations

import re
from typing import TypeVar

from flask import Flask
from flask_babel import gettext
from markupsafe import Markup

from webui.sentences import msgid, said

#: The labels of templates/create.html by flat name; of a row in a list by its list and its part.
LABELS = {
    "image": msgid("Picture"),
    "mask": msgid("Mask"),
    "mask_blur": msgid("Mask blur"),
    "inpaint_area": msgid("Repaint at"),
    "inpaint_padding": msgid("Padding around the mask"),
    "prompt": msgid("Prompt"),
    "negative_prompt": msgid("Negative prompt"),
    "style": msgid("Styles"),
    "loras": msgid("LoRAs"),
    "loras.name": msgid("LoRA"),
    "loras.weight": msgid("Weight"),
    "model": msgid("Model"),
    "sampler": msgid("Sampler"),
    "scheduler": msgid("Schedule"),
    "steps": msgid("Steps"),
    "guidance_scale": msgid("Guidance scale"),
    "strength": msgid("Strength"),
    "width": msgid("Width"),
    "height": msgid("Height"),
    "seed": msgid("Seed"),
    "count": msgid("Pictures"),
    "variation_seed": msgid("Variation seed"),
    "variation_strength": msgid("Strength"),
    "hires": msgid("Hires fix"),
    "hires.scale": msgid("Times as large"),
    "hires.strength": msgid("Strength"),
    "hires.steps": msgid("Steps"),
    "hires.upscaler": msgid("Upscaler"),
    "refiner": msgid("Refiner"),
    "refiner.model": msgid("Model"),
    "refiner.switch_at": msgid("From this part of the steps"),
    "controls": msgid("ControlNet"),
    "controls.model": msgid("Model"),
    "controls.weight": msgid("Weight"),
    "controls.start": msgid("From"),
    "controls.end": msgid("To"),
    "controls.image": msgid("Picture"),
    "upscale": msgid("Enlarge"),
    "upscale.scale": msgid("Times as large"),
    "upscale.upscaler": msgid("Upscaler"),
    "sweep": msgid("Sweep"),
    "vae": msgid("VAE"),
    "clip_skip": msgid("Clip skip"),
    "guidance_cutoff": msgid("Guidance until"),
    "deepcache_interval": msgid("DeepCache"),
    "owner": msgid("Your name"),
    "priority": msgid("Priority"),
    "not_before": msgid("Not before"),
    "expires_at": msgid("Not after"),
    "after": msgid("After"),
}
Text = TypeVar("Text", str, Markup)
_NAME = re.compile(r"`([a-z_]+(?:\.(?:\d+\.)?[a-z_]+)?)`")


def install(app: Flask) -> None:
    app.add_template_filter(said_of_field)


def said_of_field(sentence: str) -> Markup:
    """As `said`, with the form's labels."""
    return labelled(said(sentence))


def labelled(sentence: Text) -> Text:
    """The sentence with the form's labels in the place of the fields' names; other words in such quotes stay as they are."""
    pieces: list[str] = []
    at = 0
    for match in _NAME.finditer(sentence):
        name = re.sub(r"\.\d+\.", ".", match[1])
        if name in LABELS:
            pieces += [sentence[at : match.start()], gettext("“%(label)s”", label=gettext(LABELS[name]))]
            at = match.end()
    joined: Text = sentence[:0].join([*pieces, sentence[at:]])  # as Markup it escapes what is put in
    return joined
