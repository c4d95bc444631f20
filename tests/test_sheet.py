"""The contact sheet: where each picture lies, what it may measure, what it does with odd labels."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from house import missing
from PIL import Image, ImageChops, ImageFont

from spooler.sheet import FRAME, MAX_PIXELS, MAX_SIDE, PAPER, Axis, Cell, contact_sheet

Box = tuple[int, int, int, int]


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for each number below 64, and far from the greys of the text and the frames."""
    return 255, 3 * number, 250 - 3 * number


def plain(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour(number))


def where(sheet: Image.Image, wanted: tuple[int, int, int]) -> Box:
    """The box of the pixels of the colour; it must be filled with it."""
    channels = [
        channel.point([255 * (value == want) for value in range(256)])
        for channel, want in zip(sheet.split(), wanted, strict=True)
    ]
    mask = ImageChops.darker(ImageChops.darker(channels[0], channels[1]), channels[2])
    box = mask.getbbox()
    assert box, f"no pixel is {wanted}"
    assert mask.crop(box).getextrema() == (255, 255), f"{box} is not all {wanted}"
    return box


def size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def ink(sheet: Image.Image, box: Box) -> bool:
    """Whether there is something dark in the box."""
    return sheet.convert("L").crop(box).getextrema()[0] < 90


STEPS, CFG, SAMPLER = Axis("steps", (5, 15, 30)), Axis("guidance_scale", (3.0, 7.5)), Axis("sampler", ("Euler", "DDIM"))


def test_columns_rows_and_blocks() -> None:
    axes = (STEPS, CFG, SAMPLER)
    places = list(itertools.product(range(3), range(2), range(2)))
    sheet = contact_sheet([Cell(plain(number), at) for number, at in enumerate(places)], axes)
    boxes = {at: where(sheet, colour(number)) for number, at in enumerate(places)}
    assert {size(box) for box in boxes.values()} == {(64, 64)}, "never enlarged"
    # Each step along an axis moves a picture in one direction, and by the same for all.
    for axis, along in ((0, 0), (1, 1), (2, 1)):
        moves = set()
        for at in places:
            if at[axis]:
                before = boxes[(*at[:axis], at[axis] - 1, *at[axis + 1 :])]
                assert before[1 - along] == boxes[at][1 - along]
                moves.add(boxes[at][along] - before[along])
        assert len(moves) == 1
        assert moves.pop() >= 64
    assert boxes[0, 1, 0][3] < boxes[0, 0, 1][1], "the second block lies below the first"
    # Labels: above each column of each block, left of each row, and a heading above each block; margins without any.
    for at in places:
        left, top, right, bottom = boxes[at]
        if at[1] == 0:
            assert ink(sheet, (left - 15, top - 30, right + 15, top))
        if at[0] == 0:
            assert ink(sheet, (0, top, left, bottom))
    assert ink(sheet, (0, 0, sheet.width, 40))
    inside = sheet.crop((20, 20, sheet.width - 20, sheet.height - 20))
    assert inside.getbbox() == (0, 0, *inside.size)
    frame = Image.new("RGB", sheet.size, PAPER)
    frame.paste(inside, (20, 20))
    assert ImageChops.difference(sheet, frame).getbbox() is None, "20 pixels of paper around all"


def test_the_same_place_twice_is_side_by_side_and_a_missing_one_an_empty_frame() -> None:
    cells = [Cell(plain(0), (0,)), Cell(plain(1), (0,)), Cell(plain(2), (1,))]
    sheet = contact_sheet(cells, [Axis("steps", (5, 15, 30))])
    first, second, third = (where(sheet, colour(number)) for number in range(3))
    assert first[1] == second[1] == third[1]
    assert 0 < second[0] - first[2] < 12
    assert third[0] - second[2] >= 12
    # One frame beside the third picture and two in the last column, two lines each.
    grey = Image.new("RGB", (1, 1), FRAME).getpixel((0, 0))
    row = [sheet.getpixel((x, (first[1] + first[3]) // 2)) for x in range(sheet.width)]
    lines = [x for x, pixel in enumerate(row) if pixel == grey]
    assert [right - left + 1 for left, right in zip(lines[::2], lines[1::2], strict=True)] == [64, 64, 64]
    assert lines[0] - third[0] == second[0] - first[0]
    assert lines[2] - third[0] == third[0] - first[0]


def test_pictures_of_several_sizes_are_centred_in_their_cells() -> None:
    widths = (64, 128, 256)
    cells = [Cell(plain(i, (width, 96)), (i, j)) for i, width in enumerate(widths) for j in range(1)]
    cells.append(Cell(plain(9, (100, 200)), (2, 1)))
    sheet = contact_sheet(cells, [Axis("width", widths), Axis("seed", (1, 2))])
    boxes = [where(sheet, colour(number)) for number in (0, 1, 2, 9)]
    assert [size(box) for box in boxes] == [(64, 96), (128, 96), (256, 96), (100, 200)]
    middles = [(box[0] + box[2]) / 2 for box in boxes]
    assert middles[1] - middles[0] == middles[2] - middles[1] >= 256
    assert middles[3] == middles[2]
    assert len({(box[1] + box[3]) / 2 for box in boxes[:3]}) == 1


@pytest.mark.parametrize("picture", [(512, 512), (1600, 300), (64, 2048)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("lengths", [(30, 20), (60, 1), (150, 1), (1, 60), (4, 3, 12)], ids=str)
def test_a_sheet_is_never_too_large(lengths: tuple[int, ...], picture: tuple[int, int]) -> None:
    axes = [Axis(f"axis_{number}", tuple(range(length))) for number, length in enumerate(lengths)]
    sheet = contact_sheet([Cell(plain(0, picture), (0,) * len(lengths))], axes)
    assert max(sheet.size) <= MAX_SIDE
    assert sheet.width * sheet.height <= MAX_PIXELS
    # Nor smaller than it must be.
    full = max(sheet.size) > 0.93 * MAX_SIDE or sheet.width * sheet.height > 0.93 * MAX_PIXELS
    assert full or size(where(sheet, colour(0))) == picture


def test_what_no_sheet_can_hold() -> None:
    with pytest.raises(ValueError, match="8192 pixels on a side and 32000000 in all: 999 cells do not fit"):
        contact_sheet([Cell(plain(0), (0,))], [Axis("seed", tuple(range(999)))])
    with pytest.raises(ValueError, match=r"`at` has to be an index on each axis, of \[3\] values, but is \(3,\)"):
        contact_sheet([Cell(plain(0), (3,))], [STEPS])
    with pytest.raises(ValueError, match=r"of \[3, 2\] values, but is \(0,\)"):
        contact_sheet([Cell(plain(0), (0,))], [STEPS, CFG])
    with pytest.raises(ValueError, match="at least one value"):
        contact_sheet([], [Axis("steps", ())])


@pytest.mark.parametrize(
    "label",
    [
        "",
        "   ",
        "a red fox in the snow, " * 400,
        "unbreakable" * 300,
        "two\nlines\tand a tab\x00 and a null",
        "кот в сапогах, масло на холсте",
        "雪の中の赤い狐、油絵",
        "ثعلب أحمر في الثلج",
        "fox 🦊‍🔥 e\u0301",
        "half a \ud83d pair",
        None,
        True,
        7.123456789,
    ],
    ids=lambda label: ascii(label)[:20],
)
def test_any_label_is_drawn_and_kept_within_its_place(label: Any) -> None:
    axes = [Axis("prompt", (label, "b")), Axis("negative_prompt", (label,)), Axis("style", (label,))]
    sheet = contact_sheet([Cell(plain(0), (0, 0, 0)), Cell(plain(1), (1, 0, 0))], axes)
    left, right = where(sheet, colour(0)), where(sheet, colour(1))
    assert left[1] == right[1]
    assert right[0] - left[0] < 130 + 64, "a label does not widen its column"
    assert left[0] < 24 + 130 + 12 + 40
    assert sheet.height < 24 + 3 * 22 + 6 + 3 * 18 + 6 + 64 + 24 + 10, "three lines at most"


def test_other_scripts_are_legible_where_a_font_is_installed() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        missing("the font DejaVu Sans")
    # Were they boxes, the two would be the same.
    for one, other in ("éàü", "àéü"), ("кот", "кто"), ("φως", "φσω"):
        assert one != other
        sheets = [contact_sheet([], [Axis("prompt", (text,))]) for text in (one, other)]
        assert sheets[0].tobytes() != sheets[1].tobytes()


def test_a_long_prompt_leaves_room_for_the_rest_of_the_heading() -> None:
    def heading(sampler: str) -> bytes:
        axes = [STEPS, CFG, Axis("prompt", ("a red fox in the snow, " * 40,)), Axis("sampler", (sampler,))]
        return contact_sheet([], axes).tobytes()

    assert heading("Euler") != heading("DDIM")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode(mode: str) -> None:
    picture = Image.new(mode, (32, 32))
    assert contact_sheet([Cell(picture, ())], []).mode == "RGB"
    assert picture.mode == mode, "left as it was"
