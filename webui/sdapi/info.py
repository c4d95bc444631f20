"""What is told of finished pictures: A1111's `info`, a JSON string with all its keys in its order, and the grid."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.Image import Image as Picture
from PIL.Image import Resampling

from spooler import __version__
from spooler.infotext import KEYWORD
from spooler.pictures import DAMAGED
from webui.reports import JobReport
from webui.sdapi.requests import Drawing, Txt2Img
from webui.sdapi.translate import Wish

MOST_GRID_PIXELS = 64_000_000


@dataclass(frozen=True)
class Made:
    """A finished picture: its number in the job, its bytes, and the text in it."""

    index: int
    data: bytes
    infotext: str


def info(request: Drawing, wish: Wish, report: JobReport, made: Sequence[Made], with_grid: bool) -> str:
    """The `info` of an answer. `made` may lack pictures: the job was interrupted, or some are withheld."""
    shown = [each.index for each in made] if report.status == "done" else list(range(len(wish.seeds)))
    job, engine = report.parameters or report.job, report.engine
    texts = [each.infotext for each in made]
    card_hash = (engine.hash if engine else "") or (wish.card and wish.card.hash) or ""
    left_out = "; ".join(f"{name}: {value}" for name, value in wish.ignored.items())
    extra: dict[str, Any] = {"Ignored": left_out} if left_out else {}
    if report.withheld:
        extra["Withheld"] = f"{len(report.withheld)} of the pictures, by the safety filter"
    if isinstance(request, Txt2Img) and job.hires:
        extra |= {"Hires upscale": job.hires.scale, "Hires upscaler": job.hires.upscaler}
    if job.refiner:
        extra |= {"Refiner": job.refiner.model, "Refiner switch at": job.refiner.switch_at}
    told = {
        "prompt": job.prompt,
        "all_prompts": [job.prompt] * len(shown),
        "negative_prompt": job.negative_prompt,
        "all_negative_prompts": [job.negative_prompt] * len(shown),
        "seed": wish.seeds[0],
        "all_seeds": [wish.seeds[index] for index in shown],
        "subseed": wish.subseeds[0],
        "all_subseeds": [wish.subseeds[index] for index in shown],
        "subseed_strength": request.subseed_strength,
        "width": job.width,
        "height": job.height,
        "sampler_name": job.sampler or "",
        "cfg_scale": job.guidance_scale,
        "steps": job.steps,
        "batch_size": request.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model or (wish.card.name if wish.card else ""),
        "sd_model_hash": card_hash[:10],
        "sd_vae_name": job.vae or None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.denoising_strength,
        "extra_generation_params": extra,
        "index_of_first_image": int(with_grid),
        "infotexts": texts[:1] * with_grid + texts,
        "styles": [],
        "job_timestamp": timestamp(report.started or report.queued),
        "clip_skip": job.clip_skip,
        "is_using_inpainting_conditioning": bool(wish.card and wish.card.inpainting),
        "version": f"sdspool {__version__}",
    }
    return json.dumps(told)


def timestamp(moment: str | None) -> str:
    """A time of a record (ISO 8601, UTC) as A1111 writes one; "0" for none."""
    return "".join(letter for letter in (moment or "")[:19] if letter.isdigit()) or "0"


def text_of(data: bytes) -> str:
    """The text in a picture of the spool's, however large; "" when it has none that can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return str(image.info.get(KEYWORD, ""))
    except (UnidentifiedImageError, *DAMAGED):
        return ""


def grid(pictures: Sequence[bytes]) -> Picture:
    """The pictures side by side, as near to a square as their number goes into whole rows, as A1111 lays them.

    Large ones are shown smaller, so that the whole has no more than MOST_GRID_PIXELS.
    """
    rows = math.isqrt(len(pictures))
    while len(pictures) % rows:
        rows -= 1
    columns = len(pictures) // rows
    sheet, width, height = None, 0, 0
    for number, data in enumerate(pictures):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if sheet is None:
                shrunk = min(1.0, math.sqrt(MOST_GRID_PIXELS / (len(pictures) * image.width * image.height)))
                width, height = (max(1, int(side * shrunk)) for side in image.size)
                sheet = Image.new("RGB", (columns * width, rows * height))
            cell = image.convert("RGB")
            cell = cell if cell.size == (width, height) else cell.resize((width, height), Resampling.LANCZOS)
            sheet.paste(cell, (number % columns * width, number // columns * height))
    assert sheet, "there are pictures"  # noqa: S101
    return sheet
