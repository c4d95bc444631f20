"""Look at a drawing and say what it shows, sharing no code with the training: colours by name, outlines by harmonics.

Colour: the nearest palette colour of the border's pixels (background) and of those far from it (the shape). Shape: a hole makes
a ring; else the outline's distance from the centre, as a function of the angle, is a constant for a circle and has its
strongest harmonic at 3, 4 and 5 turns for a triangle, a square and a five-pointed star.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

PALETTE = {
    "red": (220, 38, 38),
    "orange": (249, 140, 22),
    "yellow": (250, 216, 40),
    "green": (34, 160, 74),
    "blue": (37, 90, 220),
    "purple": (140, 50, 190),
    "black": (18, 18, 22),
    "white": (246, 246, 246),
}
_NAMES = tuple(PALETTE)
_VALUES = np.array([PALETTE[name] for name in _NAMES], dtype=float)
#: A circle's harmonics are noise; a square's fourth is 0.10 of its radius.
_ROUND = 0.055


@dataclass(frozen=True)
class Seen:
    """What a drawing shows; `size` is the shape's width or height over the picture's, the greater one. None: no shape found."""

    background: str
    colour: str | None = None
    shape: str | None = None
    size: float = 0.0
    place: str = ""


def look(image: Image.Image) -> Seen:
    """What the picture (any size) shows."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    side = min(pixels.shape[:2])
    edge = max(1, side // 40)
    border = np.concatenate(
        [
            pixels[:edge].reshape(-1, 3),
            pixels[-edge:].reshape(-1, 3),
            pixels[:, :edge].reshape(-1, 3),
            pixels[:, -edge:].reshape(-1, 3),
        ]
    )
    ground = np.median(border, axis=0)
    background = _nearest(border)

    far = np.linalg.norm(pixels - ground, axis=2)
    if far.max() < 40:
        return Seen(background)
    core = pixels[far > 0.75 * np.percentile(far, 99.5)]
    colour = _nearest(core)
    paint = np.median(core, axis=0) - ground
    mask = _largest((pixels - ground) @ paint > 0.5 * (paint @ paint))
    if mask.sum() < side * side * 0.005:
        return Seen(background, colour)

    rows, columns = np.nonzero(mask)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    hole = _filled(mask) & ~mask
    centre = (rows.min() + rows.max()) / 2 / pixels.shape[0] - 0.5, (columns.min() + columns.max()) / 2 / pixels.shape[1] - 0.5
    place = ""
    if max(map(abs, centre)) > 0.07:
        upright = abs(centre[0]) > abs(centre[1])
        place = ("bottom" if centre[0] > 0 else "top") if upright else ("right" if centre[1] > 0 else "left")
    shape = "ring" if hole.sum() > 0.06 * width * height else _outline(mask)
    return Seen(background, colour, shape, float(max(width, height)) / side, place)


def _nearest(pixels: np.ndarray) -> str:
    """The palette colour that most of the pixels (n, 3) are nearest to."""
    distances = np.linalg.norm(pixels[:, None, :] - _VALUES[None], axis=2)
    return _NAMES[int(np.bincount(distances.argmin(axis=1), minlength=len(_NAMES)).argmax())]


def _outline(mask: np.ndarray) -> str | None:
    """The shape of a mask without holes, by the harmonics of its radius; None for one that is not around its own middle."""
    rows, columns = np.nonzero(mask)
    y, x = rows.mean(), columns.mean()
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    steps = np.arange(0, max(mask.shape), 0.5)
    r = np.clip((y + np.outer(np.sin(angles), steps)).round().astype(int), 0, mask.shape[0] - 1)
    c = np.clip((x + np.outer(np.cos(angles), steps)).round().astype(int), 0, mask.shape[1] - 1)
    radius = mask[r, c].argmin(axis=1) * 0.5  # the first step that is outside
    if not radius.all():
        return None
    spectrum = np.abs(np.fft.rfft(radius / radius.mean())) * 2 / len(angles)
    turns = {3: "triangle", 4: "square", 5: "star"}
    strongest = max(turns, key=lambda k: spectrum[k])
    return turns[strongest] if spectrum[strongest] > _ROUND else "circle"


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected part of a mask."""
    rest, best = mask.copy(), np.zeros_like(mask)
    while rest.sum() > best.sum():
        start = np.argwhere(rest)[0]
        part = _grow(rest, [tuple(start)])
        rest &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes closed."""
    outside = np.pad(~mask, 1, constant_values=True)
    return ~_grow(outside, [(0, 0)])[1:-1, 1:-1]


def _grow(allowed: np.ndarray, seeds: list[tuple[int, ...]]) -> np.ndarray:
    """What can be reached from the seeds through allowed pixels, four neighbours each."""
    part = np.zeros_like(allowed)
    todo = list(seeds)
    for seed in seeds:
        part[seed] = True
    while todo:
        y, x = todo.pop()
        for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= ny < allowed.shape[0] and 0 <= nx < allowed.shape[1]
            if inside and allowed[ny, nx] and not part[ny, nx]:
                part[ny, nx] = True
                todo.append((ny, nx))
    return part
