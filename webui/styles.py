"""Styles: snippets of prompts under a name, for everybody who uses the page.

Each is a small JSON file in the folder `styles/` of the spool, so all hosts that share the spool share them, they are synced
as jobs are, and are backed up with it: `styles/<name>.json` with `name`, `prompt`, `negative_prompt` and `owner`. One file a
style: nobody overwrites another's by saving at the same moment. A file that is no style is left where it is and not shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spooler import durable
from spooler.ids import clean_id
from spooler.job import MAX_NAME, MAX_PROMPT, Name, Prompt
from spooler.mistakes import JobError, printable, sentence, show
from spooler.strict_json import parse_object
from webui.people import Person

FOLDER = "styles"
#: More are no help to anybody, and each is read for the page.
MOST = 200
MAX_BYTES = 64 << 10
#: Where the form's own prompt goes; without it the style is appended.
PLACE = "{prompt}"


class StyleError(ValueError):
    """A style that cannot be saved, found or removed: met by whoever asked for it."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Style(BaseModel):
    """A snippet of a prompt and of a negative prompt."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: Name = Field(min_length=1)
    prompt: Prompt = Field("", description="`{prompt}` in it is where the prompt of the form goes; without it, it is appended.")
    negative_prompt: Prompt = Field("", description="Likewise, for the negative prompt.")
    owner: Name = Field("", description="Who saved it; with keys, only that person and operators may change it.")

    @classmethod
    def made(cls, name: str, prompt: str, negative_prompt: str, owner: str) -> Style:
        """The style, its texts trimmed. Raises StyleError."""
        texts = {
            "prompt": prompt.replace("\r\n", "\n").strip(),
            "negative_prompt": negative_prompt.replace("\r\n", "\n").strip(),
        }
        try:
            style = cls(name=name.strip(), owner=owner, **texts)
        except ValidationError as error:
            raise StyleError(str(sentence(error.errors(include_url=False)[0], (), ()))) from error
        if not style.name.isprintable():
            raise StyleError(f"`name` must be printable text, but is {show(name)}.")
        if not (style.prompt or style.negative_prompt):
            raise StyleError("A style must have a prompt or a negative prompt, but both are empty.")
        return style


class Styles:
    """The styles of one spool. Safe for many threads, processes and hosts."""

    def __init__(self, spool: Path):
        self._folder = spool / FOLDER

    def all(self) -> list[Style]:
        """All styles, by name."""
        try:
            paths = sorted(path for path in self._folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")[:MOST]
        except FileNotFoundError:
            return []
        found = (self._read(path) for path in paths)
        return sorted((style for style in found if style), key=lambda style: style.name.casefold())

    def get(self, name: str) -> Style | None:
        style = self._read(self._path(name))
        return style if style and style.name == name else None

    def save(self, style: Style, person: Person) -> None:
        """Keep the style, in the place of one of its name. Raises StyleError for somebody else's, and for one too many."""
        before = self._read(self._path(style.name))
        if before and before.name != style.name:  # it would be overwritten, whoever's it is
            raise StyleError(f"`name` must be another: where it would be kept the style {show(before.name)} is.", 409)
        self._check(before, person)
        if before is None and len(self.all()) >= MOST:
            raise StyleError(f"There may be at most {MOST} styles: remove one first.", 409)
        durable.make_folder(self._folder, exist_ok=True)
        durable.replace(self._path(style.name), json.dumps(style.model_dump(), ensure_ascii=False, indent=2).encode() + b"\n")

    def remove(self, name: str, person: Person) -> None:
        """Forget the style. Raises StyleError when there is none of that name, and for somebody else's."""
        style = self.get(name)
        if style is None:
            raise StyleError(f"There is no style {show(name)}.", 404)
        self._check(style, person)
        with contextlib.suppress(FileNotFoundError):  # RACE: somebody else removed it
            self._path(name).unlink()
            durable.sync_folder(self._folder)

    def _check(self, style: Style | None, person: Person) -> None:
        if style and style.owner != person.name and not person.may_change(style.owner):
            whose = f"is {printable(style.owner)}'s: only its owner" if style.owner else "is nobody's: only an operator"
            raise StyleError(f"The style {show(style.name)} {whose} may change it.", 403)

    def _path(self, name: str) -> Path:
        """Its file: the name as far as it may be a file's, and what tells it from others that come out the same."""
        cleaned = clean_id(name)[:80]
        mark = "" if cleaned == name else "-" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
        return self._folder / f"{cleaned}{mark}.json"

    def _read(self, path: Path) -> Style | None:
        try:
            return Style.model_validate(parse_object(durable.read_small(path, MAX_BYTES), "A style"))
        except (FileNotFoundError, NotADirectoryError, JobError, ValidationError, durable.UnreadableError, PermissionError):
            return None


def applied(styles: Styles, names: Iterable[str], prompt: str, field: str) -> str:
    """The prompt, or the negative prompt, with the styles of those names laid over it in turn, each once. Raises StyleError."""
    for name in dict.fromkeys(names):
        style = styles.get(name)
        if style is None:
            raise StyleError(f"There is no style {show(name[:MAX_NAME])}.", 404)
        if snippet := getattr(style, field):
            # Before it is done: a snippet of nothing but places, over a prompt that is long already, would fill the memory.
            length = len(prompt) * max(1, snippet.count(PLACE)) + len(snippet)
            if length > MAX_PROMPT + len(PLACE) * snippet.count(PLACE):
                rule = f"`{field}` must have at most {MAX_PROMPT} characters"
                raise StyleError(f"{rule}, but with the style {show(name)} it would have more.")
            prompt = laid_over(prompt, snippet)
    return prompt


def laid_over(prompt: str, snippet: str) -> str:
    """The prompt inside the snippet where that says so, else before it."""
    if PLACE in snippet:
        return snippet.replace(PLACE, prompt.strip())
    return ", ".join(part for part in (prompt.strip().rstrip(",") if snippet else prompt, snippet) if part)
