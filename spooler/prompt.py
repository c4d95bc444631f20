"""The prompt's little language, as stable-diffusion-webui (A1111) users write it. No torch here: the web side reads it too.

    (x)           weight times 1.1; ((x)) times 1.21
    [x]           weight divided by 1.1
    (x:1.3)       weight times 1.3
    \\( \\) \\[ \\]   the brackets themselves; \\\\ is a backslash
    BREAK         what follows begins a new chunk of 75 tokens
    <lora:n:0.8>  the LoRA n with strength 0.8, or 1 when no strength is given

A bracket that was never opened, or a `:1.3)` with no bracket to close, is text. One never closed counts to the end.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

STEP = 1.1
#: The largest weight, either way: what lies beyond draws noise.
LIMIT = 10.0
DEPTH = 30
#: Pieces that weigh less than 1, in one prompt: the encoder reads the whole prompt once more for each.
WEAKENED = 64
#: Characters of a prompt that a mistake quotes: it is told to the log, too.
TOLD = 60

_TOKEN = re.compile(
    r"""
      \\(?P<literal>[()\[\]\\]?)                  # an escaped character; a backslash before any other is dropped
    | :\s*(?P<factor>[+-]?[.\d]+)\s*\)           # the end of (x:1.3)
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+ | :)                # a colon is text when no factor follows it
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")
_LORA = re.compile(r"<lora:([^<>]*)(>?)")


class PromptError(ValueError):
    """The prompt says something that cannot be done: met by whoever wrote it, before anything is drawn."""


class Fragment(NamedTuple):
    """A piece of a prompt and how much it counts: 1 is as usual, 0 not at all."""

    text: str
    weight: float


def parse(prompt: str) -> list[list[Fragment]]:
    """The chunks of the prompt, at least one, each of at least one fragment.

    Neighbours of one weight are one fragment. A BREAK at the very end begins no chunk. Raises PromptError for a factor that
    is no number, for a weight that is not from -10 to 10, for brackets more than 30 deep and for more than 64 fragments of
    a weight below 1.
    """
    # None stands for a BREAK; weights stay open to change until their brackets are closed.
    pieces: list[tuple[str | None, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(begin: int, factor: float) -> None:
        for at in range(begin, len(pieces)):
            text, weight = pieces[at]
            pieces[at] = text, weight * factor

    breaks = "BREAK" in prompt
    for token in _TOKEN.finditer(prompt):
        kind, text = token.lastgroup, token[0]
        if kind == "literal":
            pieces.append((token["literal"], 1.0))
        elif text in opened:
            # Each level goes over its pieces once more: without a limit a long prompt of brackets takes minutes.
            if len(opened["("]) + len(opened["["]) == DEPTH:
                raise PromptError(f"Brackets must be at most {DEPTH} deep: write (x:1.3) in place of (((x))).")
            opened[text].append(len(pieces))
        elif kind == "factor" and opened["("]:
            multiply(opened["("].pop(), _number(token["factor"], "The weight of `{}`", text))
        elif text == ")" and opened["("]:
            multiply(opened["("].pop(), STEP)
        elif text == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / STEP)
        elif not breaks:
            pieces.append((text, 1.0))
        else:
            *ended, last = _BREAK.split(text)
            for before in ended:
                pieces += [(before.strip(), 1.0), (None, 1.0)]
            pieces.append((last.lstrip() if ended else last, 1.0))
    for begin in opened["("]:
        multiply(begin, STEP)
    for begin in opened["["]:
        multiply(begin, 1 / STEP)
    return _chunks(pieces)


def is_plain(prompt: str) -> bool:
    """Whether the prompt is text and nothing else, so that an encoder that knows nothing of this language gives the same."""
    try:
        return parse(prompt) == [[Fragment(prompt, 1.0)]]
    except PromptError:
        return False


def extract_loras(prompt: str) -> tuple[str, list[tuple[str, float]]]:
    """The prompt without its LoRAs, and their names and strengths in the order in which they stand there.

    Raises PromptError, which quotes the LoRA, for one that is not `<lora:name>` or `<lora:name:strength>`.
    """
    loras: list[tuple[str, float]] = []

    def take(match: re.Match[str]) -> str:
        inside, closed = match.groups()
        name, *strengths = (part.strip() for part in inside.split(":"))
        if not (closed and name and len(strengths) <= 1):
            raise PromptError(f"A LoRA must be written <lora:name> or <lora:name:strength> but is `{match[0][:TOLD]}`.")
        strength = _number(strengths[0], "The strength of `{}`", match[0]) if strengths else 1.0
        loras.append((name, _within_limit(strength, "The strength of `{}`", match[0])))
        return ""

    return _LORA.sub(take, prompt), loras


def written(name: str, text: str) -> bool:
    """Whether the text has the name of an embedding as a word of its own."""
    return _word(name).search(text) is not None


def spelled(text: str, tokens: Mapping[str, str]) -> str:
    """The text with the names of embeddings replaced by their tokens: where one begins with another, the longer one's. A token
    that somebody wrote is not one any more."""
    names = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    words = rf"(?<!\w)(?:{names})(?!\w)" if names else "(?!)"
    return re.sub(rf"<(?=emb\d)|{words}", lambda found: tokens.get(found[0], "< "), text)


@functools.cache
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _chunks(pieces: list[tuple[str | None, float]]) -> list[list[Fragment]]:
    """The pieces cut at each BREAK, their weights final."""
    chunks: list[list[Fragment]] = [[]]
    for text, exact in pieces:
        if text is None:
            chunks.append([])
        elif text:
            # Rounded, so that [(x)] weighs 1 again.
            weight = exact if exact == 1 else round(_within_limit(exact, "The weight of `{}`", text), 6)
            chunk = chunks[-1]
            if chunk and chunk[-1].weight == weight:
                chunk[-1] = Fragment(chunk[-1].text + text, weight)
            else:
                chunk.append(Fragment(text, weight))
    weakened = sum(fragment.weight < 1 for chunk in chunks for fragment in chunk)
    if weakened > WEAKENED:
        raise PromptError(f"A prompt must have at most {WEAKENED} pieces that weigh less than 1 but has {weakened}.")
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()
    return [chunk or [Fragment("", 1.0)] for chunk in chunks]


def _number(text: str, what: str, of: str) -> float:
    """The number that the text is. Raises PromptError: `what` begins its sentence, with `of` in it."""
    try:
        return float(text)
    except ValueError as error:
        raise PromptError(f"{what.format(of[:TOLD])} must be a number but is {text[:TOLD]!r}.") from error


def _within_limit(number: float, what: str, of: str) -> float:
    """The number itself. Raises PromptError when it is not from -10 to 10: `what` begins its sentence, with `of` in it."""
    if -LIMIT <= number <= LIMIT:
        return number
    raise PromptError(f"{what.format(of[:TOLD])} must be from {-LIMIT:g} to {LIMIT:g} but is {number:g}.")
