"""Pictures that people send: which are refused, and how the others are read."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from house import ROOT
from PIL import Image
from PIL.Image import Image as Picture

from spooler import pictures


def noise(mode: str = "RGB") -> Picture:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)).convert(mode)


def png_of_one_colour(width: int, height: int) -> bytes:
    """A PNG of the size, grey, one bit a pixel: packed it is small however large the picture is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(1 + (width + 7) // 8) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_what_is_no_whole_picture_is_refused_with_a_sentence(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    noise().save(whole)
    refused = {
        "truncated.png": (whole.read_bytes()[:600], "must be a whole picture"),
        "text.png": (b"a text, not a picture\n" * 40, "must be a PNG, JPEG or WebP picture"),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "must be a PNG, JPEG or WebP"),
        "empty.png": (b"", "must be a PNG, JPEG or WebP picture"),
        "large.png": (png_of_one_colour(8000, 5000), "must have at most 32 million pixels, but has 8000x5000"),
    }
    for name, (raw, why) in refused.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(pictures.InputError, match=f"^`{name}` {why}.*\\.$"):
            pictures.check(tmp_path / name)
        with pytest.raises(pictures.InputError, match=f"^`{name}` {why}.*\\.$"):
            pictures.check_bytes((tmp_path / name).read_bytes(), name)
    assert pictures.check(whole) == pictures.check_bytes(whole.read_bytes(), "whole.png") == (24, 16)
    (tmp_path / "fitting.png").write_bytes(png_of_one_colour(800, 500))
    assert pictures.check(tmp_path / "fitting.png") == (800, 500)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    noise().save(tmp_path / "photo.png", exif=exif)
    given = np.asarray(noise())
    upright = [given, given[:, ::-1], given[::-1, ::-1], given[::-1]]  # 1 to 4, by the standard; 5 to 8 have sides swapped
    upright += [given.swapaxes(0, 1), np.rot90(given, -1), np.rot90(given, 2).swapaxes(0, 1), np.rot90(given)]
    read = pictures.read(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(read), upright[orientation - 1])
    assert pictures.size(tmp_path / "photo.png") == read.size


def test_what_is_transparent_becomes_white_or_the_ground_that_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "clear.png"
    for mode, clear in (("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))):
        Image.new(mode, (8, 8), clear).save(file)
        assert pictures.read(file).getpixel((0, 0)) == (255, 255, 255)
        assert pictures.read(file, "black").getpixel((0, 0)) == (0, 0, 0)
    palette = noise("P")
    palette.save(file, transparency=palette.getpixel((0, 0)))
    assert pictures.read(file).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    read = np.asarray(pictures.read(tmp_path / "depth.png"), dtype=int)
    assert np.abs(read[0, :, 0] - np.arange(256)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_file_is_read_or_refused_and_never_a_fault(tmp_path: Path, kind: str) -> None:
    file, rng = tmp_path / "damaged.png", random.Random(0)
    exif = Image.Exif()
    exif[pictures.ORIENTATION], exif[0x010E] = 6, "a description"
    noise().save(file, kind, exif=exif)
    whole, read, refused = file.read_bytes(), 0, 0
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):  # most of them in what stands before the pixels
            raw[rng.randrange(min(len(raw), rng.choice([60, 200, len(raw)])))] = rng.choice([0, 255, rng.randrange(256)])
        file.write_bytes(bytes(raw))
        for look_at in (pictures.size, pictures.read):
            try:
                look_at(file)
                read += 1
            except pictures.InputError:
                refused += 1
    assert read > 10 and refused > 10


BOMBS = """
import resource, sys, threading
from spooler import pictures

def peak():  # MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def look(name):
    try:
        said.append(pictures.check_bytes(open(name, "rb").read(), name))
    except pictures.InputError as error:
        said.append(str(error))

said, before = [], peak()
threads = [threading.Thread(target=look, args=(name,)) for name in sys.argv[1:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(peak() - before, *said, sep="\\n")
"""


def unpacked_by_a_process_of_its_own(*files: Path) -> tuple[int, list[str]]:
    """How many MiB a process grew at the most that looked at all of the files at once, and what it said of each."""
    command = [sys.executable, "-c", BOMBS, *map(str, files)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return int(told[0]), told[1:]


def test_s5_asvs_5_2_6_a_picture_of_too_many_pixels_is_refused_before_any_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "flood.png").write_bytes(png_of_one_colour(12_000, 12_000))
    (tmp_path / "bomb.png").write_bytes(png_of_one_colour(60_000, 60_000))
    for name in ("flood.png", "bomb.png"):
        grown_mib, said = unpacked_by_a_process_of_its_own(*[tmp_path / name] * 4)
        assert len(said) == 4 and all("must " in each for each in said) and grown_mib < 40


def test_s5_many_large_pictures_at_once_take_the_memory_of_two(tmp_path: Path) -> None:
    """6400 x 5000 pixels of four bytes are 122 MiB; eight would be 976."""
    Image.new("RGBA", (6400, 5000)).save(tmp_path / "large.png")
    grown_mib, said = unpacked_by_a_process_of_its_own(*[tmp_path / "large.png"] * 8)
    assert said == ["(6400, 5000)"] * 8 and grown_mib < 400


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "DDS", "SGI"])
def test_s6_no_other_format_is_read_whatever_its_name(kind: str) -> None:
    file = io.BytesIO()
    noise().save(file, kind)
    with pytest.raises(pictures.InputError, match="must be a PNG, JPEG or WebP"):
        pictures.check_bytes(file.getvalue(), "picture.png")
