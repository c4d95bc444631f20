"""The drawings that the demo model learns from, and the sentences that ask for them: all made here, at random."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 128  # pixels
SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = {
    "red": (220, 38, 38),
    "orange": (249, 140, 22),
    "yellow": (250, 216, 40),
    "green": (34, 160, 74),
    "blue": (37, 90, 220),
    "purple": (140, 50, 190),
    "black": (18, 18, 22),
    "white": (246, 246, 246),
}
#: Word to radius in pixels, and to the words that say the same.
SIZES = {"small": 20, "": 31, "large": 44}
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "": ("",), "large": ("large", "large", "big", "huge")}
#: Word to direction from the middle, and to the phrases for it.
PLACES = {"": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
PLACE_WORDS = {
    "": ("",),
    "left": ("on the left", "at the left", "left"),
    "right": ("on the right", "at the right", "right"),
    "top": ("at the top", "on the top", "top"),
    "bottom": ("at the bottom", "on the bottom", "bottom"),
}
#: What people say around a description; it changes nothing.
BEFORE = (
    "a picture of",
    "a drawing of",
    "a photo of",
    "an image of",
    "draw",
    "paint",
    "make",
    "please draw",
    "show me",
    "a simple",
)
AFTER = ("please", "thank you", "in high quality", "4k", "flat design", "minimal")
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Drawing:
    """One shape on a ground of another colour; "" for a size or place that is not said."""

    shape: str
    colour: str
    background: str
    size: str = ""
    place: str = ""

    @classmethod
    def random(cls, rng: random.Random) -> Drawing:
        colour, background = rng.sample(list(COLOURS), 2)
        place = rng.choice(["", "", "left", "right", "top", "bottom"])
        return cls(rng.choice(SHAPES), colour, background, rng.choice(list(SIZES)), place)

    def image(self, rng: random.Random) -> Image.Image:
        """The drawing, SIDE x SIDE pixels, with smooth edges; `rng` moves and scales it by a little."""
        radius = SIZES[self.size] * rng.uniform(0.95, 1.05)
        away = min(34.0, SIDE / 2 - radius - 5)
        across, down = PLACES[self.place]
        x = SIDE / 2 + across * away + rng.uniform(-2, 2)
        y = SIDE / 2 + down * away + rng.uniform(-2, 2)
        big = Image.new("RGB", (SIDE * _SUPERSAMPLING,) * 2, COLOURS[self.background])
        self._draw(ImageDraw.Draw(big), x * _SUPERSAMPLING, y * _SUPERSAMPLING, radius * _SUPERSAMPLING)
        return big.resize((SIDE, SIDE), Image.Resampling.BOX)

    def _draw(self, pen: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
        fill = COLOURS[self.colour]
        if self.shape == "square":
            pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=fill)
        elif self.shape in ("circle", "ring"):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            if self.shape == "ring":
                pen.ellipse((x - 0.56 * r, y - 0.56 * r, x + 0.56 * r, y + 0.56 * r), fill=COLOURS[self.background])
        else:
            # Corners on a circle; moved down so that the bounding box, not the centre of gravity, is in the middle.
            radii, down = ([1.08] * 3, 0.27) if self.shape == "triangle" else ([1.08, 0.46] * 5, 0.10)
            turns = [2 * math.pi * k / len(radii) for k in range(len(radii))]
            corners = [(x + q * r * math.sin(t), y + down * r - q * r * math.cos(t)) for q, t in zip(radii, turns, strict=True)]
            pen.polygon(corners, fill=fill)

    def sentence(self, rng: random.Random, noise: float = 0.12) -> str:
        """One of the ways to ask for it; with the probability `noise` a word that means nothing is put in somewhere."""
        thing = " ".join(word for word in (rng.choice(SIZE_WORDS[self.size]), self.colour, self.shape) if word)
        at = rng.choice(PLACE_WORDS[self.place])
        a, of = _article(thing), _article(self.background)
        text = rng.choices(
            (
                f"{a} {thing} on {of} {self.background} background{rng.choice((' ', ', ')) if at else ''}{at}",
                f"{a} {thing} {at} on {of} {self.background} background",
                f"{thing}, {self.background} background{', ' if at else ''}{at}",
                f"{of} {self.background} background with {a} {thing} {at}",
                f"{a} {thing} {at} in front of {of} {self.background} background",
                f"{self.background} background, {thing} {at}",
            ),
            weights=(40, 15, 15, 12, 10, 8),
        )[0]
        if rng.random() < 0.2:
            text = f"{rng.choice(BEFORE)} {text}"
        if rng.random() < 0.1:
            text = f"{text} {rng.choice(AFTER)}"
        words = text.split()
        if rng.random() < noise:
            letters = "abcdefghijklmnopqrstuvwxyz0123456789"
            words.insert(rng.randrange(len(words) + 1), "".join(rng.choices(letters, k=rng.randint(2, 8))))
        return " ".join(words)


def vocabulary() -> list[str]:
    """Every word of the sentences, sorted."""
    phrases = [*SHAPES, *COLOURS, *BEFORE, *AFTER, "on a an background with in front of and the at"]
    phrases += [phrase for words in (*SIZE_WORDS.values(), *PLACE_WORDS.values()) for phrase in words]
    return sorted({word for phrase in phrases for word in phrase.split()})


def many(count: int, seed: int) -> tuple[list[Drawing], np.ndarray]:
    """So many drawings and their pictures, (count, SIDE, SIDE, 3) bytes."""
    rng = random.Random(seed)
    drawings = [Drawing.random(rng) for _ in range(count)]
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index, drawing in enumerate(drawings):
        pictures[index] = np.asarray(drawing.image(rng))
    return drawings, pictures


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"
