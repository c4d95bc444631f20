"""Pictures that a client sends, made ready as A1111 does it: decoded, resized, the mask read, its hole filled."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, ImageChops, ImageFilter, ImageOps
from PIL.Image import Image as Picture
from PIL.Image import Resampling

from spooler import pictures
from spooler.job import from_fields
from webui.sdapi.errors import AnswerError

Size = tuple[int, int]
#: Blurs, from far to near, by which the surroundings of a hole flow into it.
FLOW_PIXELS = (256, 64, 16, 4, 2)


def check(size: Size) -> None:
    """Before anything is made that large: raises JobError unless a job may have that size."""
    from_fields({"prompt": "-", "width": size[0], "height": size[1]})


def data_of(encoded: str) -> bytes:
    """The bytes of a picture in Base64, with or without `data:image/...;base64,` before it. Raises A1111's own errors.

    A URL is refused, never fetched.
    """
    text = encoded.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        raise AnswerError(500, "Requests not allowed", why="A picture must be sent in Base64: no URL is ever fetched.")
    if text[:11].lower() == "data:image/":
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise AnswerError(500, "Invalid encoded image", why=str(error)) from error
    if not data:
        raise AnswerError(500, "Invalid encoded image", why="It is empty.")
    return data


def ready(encoded_picture: str) -> tuple[bytes, Size]:
    """A picture in Base64 as the PNG that goes along with a job, and its size. Raises as `data_of` and `decoded` do."""
    picture = decoded(data_of(encoded_picture))
    return encoded(picture), picture.size


def decoded(data: bytes, ground: str | None = "white") -> Picture:
    """The picture, upright, in RGB; without a ground in RGBA. Raises AnswerError for what is no picture, or too large."""
    try:
        return pictures.read_bytes(data, "image", ground)
    except pictures.InputError as error:
        raise AnswerError(500, "Invalid encoded image", why=str(error)) from error


def encoded(picture: Picture) -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def resized(picture: Picture, size: Size, mode: int) -> Picture:
    """The picture in that size by A1111's `resize_mode`: 0 stretched, 1 cropped, 2 whole with its edges drawn out."""
    if picture.size == size or mode == 0:
        return picture.resize(size, Resampling.LANCZOS)
    if mode == 1:
        return ImageOps.fit(picture, size, Resampling.LANCZOS)
    inside = ImageOps.contain(picture, size, Resampling.LANCZOS)
    left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
    right, bottom = left + inside.width, top + inside.height
    result = Image.new(picture.mode, size)
    result.paste(inside, (left, top))
    if left or right < size[0]:
        edges = ((0, left, 0), (right, size[0] - right, inside.width - 1))
        for at, width, column in edges:
            if width:
                result.paste(inside.crop((column, 0, column + 1, inside.height)).resize((width, inside.height)), (at, top))
    if top or bottom < size[1]:
        for at, height, row in ((0, top, top), (bottom, size[1] - bottom, bottom - 1)):
            if height:
                result.paste(result.crop((0, row, size[0], row + 1)).resize((size[0], height)), (0, at))
    return result


def mask_of(data: bytes, inverted: bool) -> Picture:
    """The mask, in L: 255 where it is to be repainted, else 0. One with transparency counts by that alone, as in A1111."""
    clear = decoded(data, None)
    alpha = clear.getchannel("A")
    shown = alpha if alpha.getextrema() != (255, 255) else clear.convert("L")
    mask = shown.point(lambda value: 255 if value > 128 else 0)
    return ImageOps.invert(mask) if inverted else mask


def fitted_mask(mask: Picture, picture: Picture) -> Picture:
    """The mask in the size of its picture."""
    return mask if mask.size == picture.size else mask.resize(picture.size, Resampling.NEAREST)


def filled(picture: Picture, mask: Picture) -> Picture:
    """The picture with what is around the mask's white flowing into it: A1111's `inpainting_fill` 0."""
    area = fitted_mask(mask, picture)
    if area.getextrema() == (255, 255):
        return picture.copy()  # there is nothing around it
    around = ImageChops.invert(area)
    known = Image.new("RGBA", picture.size)  # premultiplied: colour only where the picture is to be kept
    known.paste(picture, mask=around)
    flow = Image.new("RGBA", picture.size)
    for radius in FLOW_PIXELS:
        # Blurred, a pixel of the hole has the mean of what is known around it, as far as its alpha goes.
        near = known.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        near.putalpha(near.getchannel("A").point(lambda value: 255 if value >= 8 else value * 32))
        flow = Image.alpha_composite(flow, near)
    ground = known.convert("RGBa").resize((1, 1), Resampling.BOX).convert("RGBA").resize(picture.size)
    ground.putalpha(255)
    result = picture.copy()
    result.paste(Image.alpha_composite(ground, flow).convert("RGB"), mask=area)
    return result
