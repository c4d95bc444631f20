"""The deny list: which prompts an entry is found in, and which lines are no entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from spooler.denylist import DenyList, DenyListError


def deny(folder: Path, text: str | bytes) -> DenyList:
    file = folder / "deny.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return DenyList.read(file)


@pytest.mark.parametrize(
    ("entry", "prompt"),
    [
        ("moon", "a Moon, at night"),
        ("Moon", "MOON"),
        ("blue moon", "a blue \n\t moon"),
        ("blue  moon", "blue moon"),
        ("moon", "\uff4d\uff4f\uff4f\uff4e"),  # full-width letters
        ("caf\u00e9", "cafe\u0301"),  # composed and not
        ("stra\u00dfe", "STRASSE"),
        ("moon", "mo\u200bo\u00adn"),  # a zero-width space and a soft hyphen
        ("moon", "a (moon:1.2) and more"),
        ("moon", "((moon))"),
        ("moon", "[moon:sun:0.5]"),
        ("moon", r"\(moon\)"),
        ("moon", "<moon>moons"),
        ("moon", "full_moon"),
        ("moon", "full-moon"),
        ("blue moon", "(blue:1.2) moon"),
        ("blue moon", "((blue) [moon])"),
        ("blue moon", "{blue} (moon: -.5)"),
        ("blue moon", "blue++ moon"),
        ("blue moon", "\uff08blue\uff1a1.2\uff09 moon"),  # full-width brackets and colon
        ("+18", "only +18 here"),
        ("(x:y)", "as written (X:Y)"),
        (r"/\bmoon(s|light)\b/", "in the Moonlight"),
        ("/blue .*moon/", "(blue:1.3) old [moon]"),
    ],
)
def test_a_denied_entry_is_found(entry: str, prompt: str, tmp_path: Path) -> None:
    assert deny(tmp_path, f"rain\n{entry}\n").match(prompt) == entry


@pytest.mark.parametrize("prompt", ["", "moonlight", "honeymoon", "blue, moon", "moo n", "a sunny day"])
def test_only_whole_words_are_found(prompt: str, tmp_path: Path) -> None:
    entries = "# moonlight is fine\n\n  \nsun\r\nblue moon\nmo\n"
    assert deny(tmp_path, entries).match(prompt) is None


def test_an_empty_list_denies_nothing_and_a_byte_order_mark_is_no_entry(tmp_path: Path) -> None:
    assert deny(tmp_path, "").match("moon") is None
    assert deny(tmp_path, b"\xef\xbb\xbf# comment\r\nmoon").match("moon") == "moon"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"/moon(/", "no regular expression"),
        (b"/moon", "between two slashes"),
        (b"/moon/i", "between two slashes"),
        (b"//", "between two slashes"),
        (b"/", "between two slashes"),
        (b"/moon*|/", "matches every prompt"),
        (b"caf\xe9", "must be UTF-8, but has the byte 0xe9"),
        ("\u200b".encode(), "no visible character"),
    ],
)
def test_a_bad_line_is_named(line: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(DenyListError, match=rf"deny\.txt, line 3: .*{why}"):
        deny(tmp_path, b"# first\nsun\n" + line + b"\nmoon\n")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DenyListError, match="could not be read"):
            DenyList.read(path)
