"""The pictures of a parameter sweep on one sheet, each in its row and column. Pillow only."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

#: What browsers and picture viewers still open with ease, in pixels.
MAX_SIDE = 8192
MAX_PIXELS = 32_000_000
#: Pixels around the sheet, between cells, and between the pictures of one cell.
MARGIN, GAP, INNER_GAP = 24, 12, 4
#: Font heights in pixels: legible on a small sheet, not shouting on a large one.
SMALLEST_FONT, LARGEST_FONT = 13, 48
LINES = 3
#: Pillow's own font has little beyond ASCII. For other text, whichever of these is installed here and has most of it.
OTHER_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf", "msgothic.ttc")
#: More of a prompt than three lines ever hold need not be measured.
LABEL_CHARACTERS = 1000
PAPER, INK, FRAME = "#ffffff", "#222222", "#a8a8a8"

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Axis:
    """One parameter of the sweep and the values it takes, in order."""

    field: str
    values: tuple[Any, ...]

    def label(self, index: int) -> str:
        """What stands at the value's row or column: "steps: 15"."""
        value = self.values[index]
        return f"{self.field}: {value:g}" if isinstance(value, float) else f"{self.field}: {value}"


@dataclass(frozen=True)
class Cell:
    """One picture and its place: an index into the values of each axis."""

    picture: Picture
    at: tuple[int, ...]


@dataclass(frozen=True)
class _Label:
    """Lines of text as they are drawn. All lengths in pixels."""

    lines: tuple[str, ...]
    font: _Font
    line_height: int

    @property
    def width(self) -> int:
        return math.ceil(max((self.font.getlength(line) for line in self.lines), default=0))

    @property
    def height(self) -> int:
        return len(self.lines) * self.line_height


class _Layout:
    """Where everything lies when the longest side of the largest picture is `edge` pixels. All lengths in pixels."""

    def __init__(self, axes: Sequence[Axis], largest: tuple[int, int], abreast: int, edge: int):
        self.scale = edge / max(largest)
        self.box = math.ceil(largest[0] * self.scale), math.ceil(largest[1] * self.scale)  # of one picture
        self.abreast = abreast
        self.cell = abreast * self.box[0] + (abreast - 1) * INNER_GAP, self.box[1]
        font_size = min(LARGEST_FONT, max(SMALLEST_FONT, self.cell[0] // 20))
        # A word or two have room beside and above the narrowest pictures too, unless there are very many columns.
        room = 10 * font_size
        column_axis, row_axis, *self.block_axes = [*axes, *[Axis("", ("",))] * (2 - len(axes))]
        self.rows = self._labels(row_axis, font_size, max(self.cell[0], room))
        self.gutter = max(label.width for label in self.rows)
        self.gutter += GAP if self.gutter else 0
        room = min(room, (MAX_SIDE - 2 * MARGIN - self.gutter) // len(column_axis.values) - GAP)
        self.column_width = max(self.cell[0], room)
        self.columns = self._labels(column_axis, font_size, self.column_width)
        self.column_label_height = max(label.height for label in self.columns)
        self.row_height = max(self.cell[1], max(label.height for label in self.rows))
        self.block_width = self.gutter + len(self.columns) * (self.column_width + GAP) - GAP
        self.block_height = self.column_label_height + GAP // 2 + len(self.rows) * (self.row_height + GAP)
        self.blocks = list(itertools.product(*(range(len(axis.values)) for axis in self.block_axes)))
        self.headings = [
            _heading(
                tuple(axis.label(index) for axis, index in zip(self.block_axes, block, strict=True)),
                round(font_size * 1.25),
                self.block_width,
            )
            for block in self.blocks
        ]
        heights = [self._heading_height(heading) + self.block_height for heading in self.headings]
        self.tops = [MARGIN + top for top in itertools.accumulate(heights, lambda y, height: y + height + MARGIN, initial=0)]
        self.size = self.block_width + 2 * MARGIN, self.tops.pop() - GAP

    def fits(self) -> bool:
        return max(self.size) <= MAX_SIDE and self.size[0] * self.size[1] <= MAX_PIXELS

    def cells_top(self, block: int) -> int:
        """The y of the first row of pictures of a block."""
        return self.tops[block] + self._heading_height(self.headings[block]) + self.column_label_height + GAP // 2

    def corner(self, block: int, row: int, column: int) -> tuple[int, int]:
        """The upper left pixel of a cell."""
        x = MARGIN + self.gutter + column * (self.column_width + GAP) + (self.column_width - self.cell[0]) // 2
        y = self.cells_top(block) + row * (self.row_height + GAP) + (self.row_height - self.cell[1]) // 2
        return x, y

    @staticmethod
    def _heading_height(heading: _Label) -> int:
        return heading.height + GAP // 2 if heading.lines else 0

    @staticmethod
    def _labels(axis: Axis, font_size: int, width: int) -> list[_Label]:
        return [_wrapped(axis.label(index) if axis.field else "", font_size, width) for index in range(len(axis.values))]


def contact_sheet(cells: Sequence[Cell], axes: Sequence[Axis]) -> Picture:
    """The sheet, in RGB: at most 8192 pixels on a side and 32 megapixels; its pictures are scaled down, never up.

    The first axis gives the columns, the second the rows, each combination of the further ones a block of its own. Cells
    with the same place lie side by side in their order; a place without a cell is an empty frame. Raises ValueError for a
    place that is not on the axes, and for axes with more values than a sheet can hold.
    """
    for cell in cells:
        if len(cell.at) != len(axes) or any(not 0 <= i < len(axis.values) for i, axis in zip(cell.at, axes, strict=True)):
            lengths = [len(axis.values) for axis in axes]
            raise ValueError(f"`at` has to be an index on each axis, of {lengths} values, but is {cell.at}.")
    if not all(axis.values for axis in axes):
        raise ValueError("Each axis has to have at least one value.")

    # 1. Gather what shares a place.
    at: dict[tuple[int, ...], list[Picture]] = defaultdict(list)
    for cell in cells:
        at[(*cell.at, *[0] * (2 - len(axes)))].append(cell.picture)
    largest = max((cell.picture.width for cell in cells), default=64), max((cell.picture.height for cell in cells), default=64)
    layout = _largest_layout(axes, largest, max((len(pictures) for pictures in at.values()), default=1))

    # 2. Draw.
    sheet = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, block in enumerate(layout.blocks):
        _draw_labels(draw, layout, number)
        for row, column in itertools.product(range(len(layout.rows)), range(len(layout.columns))):
            _draw_cell(sheet, draw, layout, layout.corner(number, row, column), at.get((column, row, *block), []))
    return sheet


def _largest_layout(axes: Sequence[Axis], largest: tuple[int, int], abreast: int) -> _Layout:
    """The layout with the largest pictures that fits on a sheet. Raises ValueError when none does."""
    low, high = 1, max(largest)
    if (layout := _Layout(axes, largest, abreast, high)).fits():
        return layout
    best = None
    while low <= high:
        layout = _Layout(axes, largest, abreast, edge := (low + high) // 2)
        if layout.fits():
            best, low = layout, edge + 1
        else:
            high = edge - 1
    if best is None:
        lengths = " by ".join(str(len(axis.values)) for axis in axes)
        raise ValueError(f"A sheet holds {MAX_SIDE} pixels on a side and {MAX_PIXELS} in all: {lengths} cells do not fit.")
    return best


def _draw_labels(draw: ImageDraw.ImageDraw, layout: _Layout, block: int) -> None:
    _draw_label(draw, layout.headings[block], MARGIN, layout.tops[block])
    top = layout.cells_top(block)
    for column, label in enumerate(layout.columns):
        x, _ = layout.corner(block, 0, column)
        # Centred above the pictures; a short label stands as near to them as a long one.
        _draw_label(draw, label, x + (layout.cell[0] - label.width) // 2, top - GAP // 2 - label.height, centred=True)
    for row, label in enumerate(layout.rows):
        y = top + row * (layout.row_height + GAP)
        _draw_label(draw, label, MARGIN, y + (layout.row_height - label.height) // 2)


def _draw_label(draw: ImageDraw.ImageDraw, label: _Label, x: int, y: int, centred: bool = False) -> None:
    for number, line in enumerate(label.lines):
        indent = (label.width - label.font.getlength(line)) // 2 if centred else 0
        draw.text((x + indent, y + number * label.line_height), line, fill=INK, font=label.font)


def _draw_cell(
    sheet: Picture, draw: ImageDraw.ImageDraw, layout: _Layout, corner: tuple[int, int], pictures: Sequence[Picture]
) -> None:
    (width, height), y = layout.box, corner[1]
    for place in range(len(pictures), layout.abreast):
        x = corner[0] + place * (width + INNER_GAP)
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=FRAME)
    for place, picture in enumerate(pictures):
        size = max(1, round(picture.width * layout.scale)), max(1, round(picture.height * layout.scale))
        small = picture.convert("RGB")
        if size != picture.size:
            small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        x = corner[0] + place * (width + INNER_GAP) + (width - size[0]) // 2
        sheet.paste(small, (x, y + (height - size[1]) // 2))


@lru_cache(maxsize=256)
def _font(size: int, name: str | None = None) -> _Font | None:
    """Pillow's own font, or that of the name if it is installed, at a height in pixels."""
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _missing(character: str, name: str | None) -> bool:
    """Whether the font draws the character as it draws what no font has: a box. So for a font that is not there."""
    font = _font(SMALLEST_FONT, name)
    if font is None:
        return True
    drawn, box = font.getmask(character), font.getmask("\U0010ffff")
    return drawn.size == box.size and bytes(drawn) == bytes(box)


def _font_for(text: str, size: int) -> _Font:
    """The font that has most of the text's characters; Pillow's own where it has as many as another."""
    characters = {character for character in text if not character.isspace()}
    names = (None, *OTHER_FONTS) if any(_missing(character, None) for character in characters) else (None,)
    best = min(names, key=lambda name: sum(_missing(character, name) for character in characters))
    return _font(size, best) or ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _wrapped(text: str, font_size: int, width: int) -> _Label:
    """The text in lines of at most `width` pixels, three at most; an ellipsis where there is more."""
    text = _drawable(text)
    font = _font_for(text, font_size)
    return _Label(tuple(_lines(text, font, width, LINES)), font, round(font_size * 1.3))


@lru_cache(maxsize=4096)
def _heading(parts: tuple[str, ...], font_size: int, width: int) -> _Label:
    """The parts one after the other in three lines; where they do not fit, a line for each, so that none is cut off."""
    text = _drawable(",  ".join(parts))
    font = _font_for(text, font_size)
    lines = _lines(text, font, width, LINES)
    if len(parts) > 1 and lines[-1].endswith("…"):
        lines = [line for part in parts for line in _lines(_drawable(part), font, width, 1)]
    return _Label(tuple(lines), font, round(font_size * 1.3))


def _drawable(text: str) -> str:
    """The text in one line, of a length worth measuring, and without lone surrogates: JSON can spell one, no font takes it."""
    text = " ".join(text.split()).encode(errors="replace").decode()
    return text[:LABEL_CHARACTERS] + "…" if len(text) > LABEL_CHARACTERS else text


def _lines(rest: str, font: _Font, width: int, most: int) -> list[str]:
    """At most that many lines of at most `width` pixels, broken at spaces where there are any."""
    lines: list[str] = []
    while rest:
        end = _fitting(rest, font, width)
        if end < len(rest) and len(lines) == most - 1:
            end = _fitting(rest, font, width - font.getlength("…"))
            lines.append(rest[:end].rstrip() + "…")
            break
        if end < len(rest) and (space := rest.rfind(" ", 0, end + 1)) > 0:
            end = space
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _fitting(text: str, font: _Font, width: float) -> int:
    """How many of the text's first characters lie within `width` pixels: at least 1, so that wrapping comes to an end."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low
