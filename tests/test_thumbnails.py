"""Thumbnails: made once, bounded, and never a broken page."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from webui import thumbnails
from webui.thumbnails import BrokenError, BusyError, Thumbnails


def draw(path: Path, size: tuple[int, int] = (640, 320), colour: str = "red") -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_it_is_small_whole_and_in_the_picture_s_shape(tmp_path: Path) -> None:
    made = Thumbnails(tmp_path / "cache", waiters=4).get(draw(tmp_path / "0.png"), "cat", 256)
    with Image.open(made) as image:
        assert image.format == "WEBP" and image.size == (256, 128)


def test_it_is_made_once_and_anew_when_the_picture_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Path] = []
    real = thumbnails.make
    monkeypatch.setattr(
        thumbnails, "make", lambda picture, target, side: (counted.append(picture), real(picture, target, side))
    )
    cache, picture = Thumbnails(tmp_path / "cache", waiters=99), draw(tmp_path / "0.png")
    first = cache.get(picture, "cat", 256)
    threads = [threading.Thread(target=cache.get, args=(picture, "cat", 256)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1 and cache.get(picture, "cat", 512) != first and cache.get(picture, "dog", 256) != first
    os.utime(picture, ns=(1, 1))
    assert cache.get(picture, "cat", 256) != first


def test_many_who_ask_at_once_have_it_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Path] = []
    real, all_ask = thumbnails.make, threading.Barrier(12)
    monkeypatch.setattr(
        thumbnails, "make", lambda picture, target, side: (counted.append(picture), real(picture, target, side))
    )
    cache, picture = Thumbnails(tmp_path / "cache", waiters=99), draw(tmp_path / "0.png")

    def ask() -> None:
        all_ask.wait()
        cache.get(picture, "cat", 256)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1


@pytest.mark.parametrize("raw", [b"", b"\x89PNG", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(5000)])
def test_what_is_no_picture_is_told(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "0.png").write_bytes(raw)
    with pytest.raises(BrokenError, match="cannot be read"):
        Thumbnails(tmp_path / "cache", waiters=4).get(tmp_path / "0.png", "cat", 256)
    assert not list((tmp_path / "cache").rglob("*.webp"))


def test_a_picture_too_large_to_decode_is_refused_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 1000)
    with pytest.raises(BrokenError, match="640 x 320 pixels, which is too many"):
        Thumbnails(tmp_path / "cache", waiters=4).get(draw(tmp_path / "0.png"), "cat", 256)


def test_whoever_would_wait_in_too_long_a_row_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_it, go_on = threading.Event(), threading.Event()

    def slow(picture: Path, target: Path, side: int) -> None:
        at_it.set()
        go_on.wait()

    monkeypatch.setattr(thumbnails, "make", slow)
    cache = Thumbnails(tmp_path / "cache", waiters=1)
    thread = threading.Thread(target=cache.get, args=(draw(tmp_path / "0.png"), "cat", 256))
    thread.start()
    at_it.wait()
    with pytest.raises(BusyError):
        cache.get(draw(tmp_path / "1.png"), "cat", 256)
    go_on.set()
    thread.join()


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    cache = Thumbnails(tmp_path / "cache", waiters=4, max_bytes=1)
    made = [cache.get(draw(tmp_path / f"{n}.png"), "cat", 256) for n in range(3)]
    for age, path in enumerate(made):
        os.utime(path, (100 - age, 100 - age)) if path.exists() else None
    size = made[1].stat().st_size
    thumbnails.prune(tmp_path / "cache", int(size * 1.5))
    assert [path.exists() for path in made] == [False, True, False]
