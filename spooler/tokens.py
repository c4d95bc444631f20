"""How many tokens a prompt is, without torch and without a tokenizer library: CLIP's byte pair encoding, counted only.

    prompt -> chunks and fragments (prompt.py) -> words -> bytes as letters -> pairs merged by rank -> pieces: each is a token

What SD 1.x, 2.x and SDXL read with. A test holds it to the engine's own tokenizer. Only the list of merges is read, at the
first question, and only its ranks are kept (about 10 MB). The name of a textual inversion counts as the words that it is, for
how many vectors it has is known to the engine alone.
"""

from __future__ import annotations

import functools
import heapq
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spooler import prompt as language

_HERE = Path(__file__).parent
#: The vocabularies that are shipped, by the name that a model's card has for its own.
VOCABULARIES = {
    "clip": _HERE / "engine" / "configs" / "clip" / "merges.txt",
    "demo": _HERE / "demo_model" / "tokenizer" / "tokenizer.json",
}
#: Tokens of a prompt that a text encoder reads at once, its marks for begin and end left out.
BLOCK = 75
_END = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

Ranks = dict[str, int]


@dataclass(frozen=True)
class Count:
    """Tokens of a prompt, and how many fit into the blocks of 75 that they take."""

    tokens: int
    room: int


def count(text: str, vocabulary: str) -> Count:
    """The tokens of a prompt as an encoder with that vocabulary reads it: weights, BREAK and LoRAs understood.

    Raises PromptError for a prompt that cannot be parsed, KeyError for a vocabulary that is not shipped.
    """
    without_loras, _ = language.extract_loras(text)
    tokens = room = 0
    for chunk in language.parse(without_loras):
        number = sum(count_plain(fragment.text, vocabulary) for fragment in chunk)
        tokens += number
        room += BLOCK * max(1, -(-number // BLOCK))
    return Count(tokens, room)


def count_plain(text: str, vocabulary: str) -> int:
    """The tokens of a text without a language of its own."""
    number = 0
    for special, piece in _special(text):
        if special:
            number += 1
        else:
            clean = "".join(each.lower() for each in unicodedata.normalize("NFC", piece))
            for word in _words(clean):
                number += _pieces("".join(_LETTERS[byte] for byte in word.encode(errors="replace")), vocabulary)
    return number


def _special(text: str) -> Iterator[tuple[bool, str]]:
    """The text cut at the encoder's own marks, which a prompt may have as words."""
    at = 0
    while at < len(text):
        found = min((place, mark) for mark in _SPECIAL if (place := text.find(mark, at)) >= 0 or (place := len(text)))
        place, mark = found
        if place > at:
            yield False, text[at:place]
        if place < len(text):
            yield True, mark
        at = place + len(mark)


def _words(text: str) -> Iterator[str]:
    """CLIP's words: letters in a row, each digit by itself, other signs in a row; a contraction's end; no spaces."""
    at = 0
    while at < len(text):
        if contraction := next((each for each in _CONTRACTIONS if text.startswith(each, at)), None):
            yield contraction
            at += len(contraction)
            continue
        kind, end = _kind(text[at]), at + 1
        if kind in "LO":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != " ":
            yield text[at:end]
        at = end


@functools.lru_cache(4096)
def _kind(letter: str) -> str:
    """L a letter, N a digit, a space, or O for all others."""
    if letter.isspace() and not "\x1c" <= letter <= "\x1f":
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "O"


def _pieces(word: str, vocabulary: str) -> int:
    """How many pieces the merges leave of a word. Words come again with every keystroke; nobody types a very long one twice."""
    return _of_word(word, vocabulary) if len(word) <= 64 else _merged(word, _ranks(vocabulary))


@functools.lru_cache(4096)
def _of_word(word: str, vocabulary: str) -> int:
    return _merged(word, _ranks(vocabulary))


def _merged(word: str, ranks: Ranks) -> int:
    """Byte pair encoding: the pair of the lowest rank is merged, the leftmost of equals first, until none is left.

    With a heap of the pairs: ten thousand letters without a space take milliseconds, not minutes.
    """
    pieces: list[str | None] = [*word[:-1], word[-1] + _END]
    after = list(range(1, len(pieces) + 1))
    before = list(range(-1, len(pieces) - 1))
    heap: list[tuple[int, int, str, str]] = []

    def offer(left: int) -> None:
        if left < 0 or after[left] >= len(pieces):
            return
        one, two = pieces[left], pieces[after[left]]
        assert one is not None and two is not None  # noqa: S101 - what was merged away is no neighbour
        if (rank := ranks.get(f"{one} {two}")) is not None:
            heapq.heappush(heap, (rank, left, one, two))

    for left in range(len(pieces) - 1):
        offer(left)
    number = len(pieces)
    while heap:
        _, left, one, two = heapq.heappop(heap)
        right = after[left]
        if pieces[left] != one or right >= len(pieces) or pieces[right] != two:
            continue  # one of them was merged with another neighbour meanwhile
        pieces[left], pieces[right] = one + two, None
        after[left] = after[right]
        if after[right] < len(pieces):
            before[after[right]] = left
        number -= 1
        offer(before[left])
        offer(left)
    return number


def _letters() -> list[str]:
    """The printable letter that stands for each byte in the list of merges (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]


_LETTERS = _letters()


@functools.cache
def _ranks(vocabulary: str) -> Ranks:
    """Each pair of pieces that is merged, "a b", and how early."""
    path = VOCABULARIES[vocabulary]
    if path.suffix == ".json":
        merges = json.loads(path.read_bytes())["model"]["merges"]
        lines = [each if isinstance(each, str) else " ".join(each) for each in merges]
    else:
        lines = path.read_text(encoding="utf-8").split("\n")[1:]
    return {line: rank for rank, line in enumerate(lines) if line}
