r"""A list of words that no prompt may have: read once, asked for every job.

The file, UTF-8, one entry a line:

    # a comment; blank lines do nothing
    blue moon          whole words, whatever their case, and whatever space or weighting stands between them
    /\bmoon(s|light)?\b/   between slashes: a regular expression of Python, searched for anywhere, whatever the case

A word list is a first line and no more: it knows nothing of synonyms, other languages or `m00n`. No torch: the web app may
ask it too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from spooler.job import Job
from spooler.mistakes import JobError, Mistake
from spooler.prompt import PromptError, extract_loras, parse

#: What a prompt may put around or between words without changing them, in the dialects that people paste from:
#: (word:1.2) [word] {word} word++ <word> \(word\) red|blue and the underscores of tags.
_WEIGHT = re.compile(r":\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?![\w.])")
_MARKS = re.compile(r"[()\[\]{}<>\\|:_+*]+")


class DenyListError(ValueError):
    """A deny list that cannot be used: met by the operator at the start. Names the file, the line and the reason."""


@dataclass(frozen=True)
class _Rule:
    entry: str
    pattern: re.Pattern[str]
    folds: bool  # a plain entry is compared case-folded (STRASSE and straße are one), an expression ignores case by itself


@dataclass(frozen=True)
class DenyList:
    """The entries of one file, in its order."""

    rules: tuple[_Rule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> DenyList:
        """The list in the file. Raises DenyListError for a file that cannot be read and at the first bad line."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DenyListError(f"The deny list {path} could not be read: {error.strerror or error}.") from error
        rules = []
        # By bytes and line: so that a line that is no UTF-8 can be named, and other editors' line ends are not entries.
        for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            try:
                entry = line.decode("utf-8").strip()
                if entry and not entry.startswith("#"):
                    rules.append(_rule(entry))
            except UnicodeDecodeError as error:
                raise DenyListError(
                    f"{path}, line {number}: must be UTF-8, but has the byte {error.object[error.start]:#x}."
                ) from error
            except ValueError as error:
                raise DenyListError(f"{path}, line {number}: {error}.") from error
        return cls(tuple(rules))

    def check(self, job: Job) -> None:
        """Raise JobError when a prompt of the job has an entry of the list. What it steers away from may be named."""
        for prompt in dict.fromkeys(cell.prompt for cell in job.cells()) if self.rules else ():
            if entry := self.match(prompt):
                raise JobError(
                    Mistake("prompt", f"`prompt` must not have what this server's deny list names, but has {entry!r}.")
                )

    def match(self, prompt: str) -> str | None:
        """The first entry, as its line has it, that the prompt has; None when it has none."""
        as_written = _normal(prompt)
        # An entry may itself have brackets or a colon, so both readings are searched: the marks kept, and the marks gone.
        readings = (as_written, _spaced(_MARKS.sub(" ", _WEIGHT.sub(" ", as_written))), _spaced(_normal(_as_drawn(prompt))))
        folded = tuple(_fold(reading) for reading in readings)
        for rule in self.rules:
            if any(rule.pattern.search(reading) for reading in (folded if rule.folds else readings)):
                return rule.entry
        return None


def _as_drawn(prompt: str) -> str:
    """The words as the text encoder gets them: marks within a word are gone, not spaces."""
    try:
        chunks = parse(extract_loras(prompt)[0])
    except PromptError:
        return ""
    return " ".join("".join(fragment.text for fragment in chunk) for chunk in chunks)


def _rule(entry: str) -> _Rule:
    """The rule of one line. Raises ValueError with the reason."""
    if entry.startswith("/"):
        source = entry[1:-1]
        if not entry.endswith("/") or not source:
            raise ValueError(f"an entry that starts with a slash must be an expression between two slashes, but is {entry!r}")
        try:
            pattern = re.compile(source, re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{entry!r} is no regular expression: {error}") from error
        if pattern.search(""):
            raise ValueError(f"{entry!r} matches every prompt, the empty one too")
        return _Rule(entry, pattern, folds=False)
    words = _fold(_normal(entry))
    if not words:
        raise ValueError(f"{entry!r} has no visible character")
    # Not \b: it would want a word character inside the entry's ends, and "+18" has none at its start.
    return _Rule(entry, re.compile(rf"(?<!\w){re.escape(words)}(?!\w)"), folds=True)


def _normal(text: str) -> str:
    """NFKC (full-width and ligature forms become plain letters), no invisible characters, runs of whitespace as one space."""
    text = unicodedata.normalize("NFKC", text)
    # Format characters (zero-width space, soft hyphen) show nothing, and would split a word in two.
    return _spaced("".join(char for char in text if unicodedata.category(char) != "Cf"))


def _fold(text: str) -> str:
    # Case folding may undo the composition, so once more.
    return unicodedata.normalize("NFKC", text.casefold())


def _spaced(text: str) -> str:
    return " ".join(text.split())
