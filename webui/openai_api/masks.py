"""The pictures of an edit. OpenAI's mask tells by its alpha: what is wholly transparent is to be painted; ours by white."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

from PIL import Image

from spooler import pictures
from webui.openai_api.mishaps import RefusedError

#: Requests of one process whose pictures are unpacked at the same time, of up to 32 million pixels each.
_UNPACKED = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Edit:
    """The pictures that the job names: the picture, and the mask, white where it is to be painted."""

    image: bytes
    mask: bytes | None


def edit(image: bytes, mask: bytes | None, alpha_is_mask: bool, size: tuple[int, int] | None) -> Edit:
    """The pictures of the job. Raises RefusedError for what is no picture, or a mask that does not go with it.

    `alpha_is_mask`: without a mask, what is transparent in the picture is to be painted, if anything is. `size`: that of the
    result, which a picture that is repainted has from the start.
    """
    with _UNPACKED:
        return _edit(image, mask, alpha_is_mask, size)


def _edit(image: bytes, mask: bytes | None, alpha_is_mask: bool, size: tuple[int, int] | None) -> Edit:
    picture = _read(image, "image")
    where, shown = ("image", picture) if mask is None else ("mask", _read(mask, "mask"))
    if shown.size != picture.size:
        sizes = f"{picture.width}x{picture.height}, but has {shown.width}x{shown.height}"
        raise RefusedError(f"`mask` must have the size of `image`, {sizes}.", "mask", "invalid_image_file")
    painted = shown.getchannel("A").point([255] + [0] * 255)
    if painted.getbbox() is None or (mask is None and not alpha_is_mask):
        if mask is None:
            return Edit(image, None)
        rule = f"`{where}` must have wholly transparent pixels, which are edited, but has none."
        raise RefusedError(rule, where, "invalid_image_file")
    if size and size != picture.size:
        image = _png(pictures.read_bytes(image, "image").resize(size, Image.Resampling.LANCZOS))
        painted = painted.resize(size, Image.Resampling.NEAREST)
    return Edit(image, _png(painted))


def _read(data: bytes, param: str) -> Image.Image:
    try:
        return pictures.read_bytes(data, param, ground=None)
    except pictures.InputError as error:
        raise RefusedError(str(error), param, "invalid_image_file") from error


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
