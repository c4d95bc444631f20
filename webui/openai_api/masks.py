"""The pictures of an edit. OpenAI's mask tells by its alpha: what is wholly transparent is to be painted; ours by white."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from spooler import pictures
from webui.openai_api.mishaps import RefusedError


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
    seen = _size(image, "image")
    if mask is not None:
        mask_size = _size(mask, "mask")
        if mask_size != seen:
            raise RefusedError(
                f"`mask` must have the size of `image`, {seen[0]}x{seen[1]}, but has {mask_size[0]}x{mask_size[1]}.",
                "mask",
                "invalid_image_file",
            )
        alpha = pictures.alpha(mask, "mask")
        if alpha is None:
            raise RefusedError(
                "`mask` must have an alpha channel: what is transparent in it is edited.", "mask", "invalid_image_file"
            )
        where = "mask"
    else:
        alpha = pictures.alpha(image, "image") if alpha_is_mask else None
        if alpha is None or alpha.getextrema()[0] != 0:
            return Edit(image, None)
        where = "image"
    painted = alpha.point([255] + [0] * 255)
    if painted.getbbox() is None:
        raise RefusedError(
            f"`{where}` must have wholly transparent pixels, which are edited, but has none.", where, "invalid_image_file"
        )
    if size and size != seen:
        image = _png(pictures.read_bytes(image, "image").resize(size, Image.Resampling.LANCZOS))
        painted = painted.resize(size, Image.Resampling.NEAREST)
    return Edit(image, _png(painted))


def _size(data: bytes, param: str) -> tuple[int, int]:
    try:
        return pictures.check_bytes(data, param)
    except pictures.InputError as error:
        raise RefusedError(str(error), param, "invalid_image_file") from error


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
