"""The points of a module where a promise is kept: each with what the source would be without it.

They are found in the syntax tree, so that a new fsync is a new mutant by itself. What is looked for, and what it becomes:

    fsync    os.fsync, sync_file, sync_folder, sync_moves: nothing · make_folder: mkdir · replace: replace_lightly · write_new:
             write_bytes
    rename   durable.rename, durable.link: the bare system call, whose error is believed
    outcome  the look at what a failed call did (an `if` inside `except`): always so, never so, and each half of it alone
    handler  `except` or `suppress` of a lost race, a name that is taken or a failed fsync: it catches nothing
    check    a call of check, check_bytes, ...: nothing
    verify   an `if` that looks before a file is touched, or that refuses: never so where it leads away, else always so
    flag     O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY: 0 · follow_symlinks=False: True
    lock     claim_lock(): no lock · acquire: nothing · fallback_to_soft=False: True
    epoch    goes_on: True · raise_epoch: nothing
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

FLAGS = frozenset({"O_EXCL", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"})
SYNCS = frozenset({"fsync", "fdatasync", "sync_file", "sync_folder", "sync_moves", "_sync"})
#: Errors that are answers: somebody was faster, the name is taken, the disk does not promise to keep it, the lock is held.
ANSWERS = frozenset({"FileExistsError", "FileNotFoundError", "NotADirectoryError", "UnsyncedError", "Timeout"})
#: In a mutant, for a path may be text there: it must lack a promise, and not be a mistake that every test would catch.
PATH = '__import__("pathlib").Path'
#: Calls that look at a file before it is touched.
LOOKS = frozenset({"exists", "find_by_name", "is_free", "_free", "is_symlink", "_signature", "S_ISREG", "S_ISDIR", "completed"})
#: Calls that verify, and what they say when all is well.
VERDICTS = {
    "_goes_on": ("epoch", "True"),
    "goes_on": ("epoch", "True"),
    "is_free": ("verify", "True"),
    "samestat": ("outcome", "True"),
    "agrees_with_disk": ("verify", "True"),
    "odd_entry": ("verify", "None"),
    "_inputs_problem": ("verify", "None"),
    "has_writer": ("verify", "False"),
    "confirm": ("verify", "True"),
    "still": ("verify", "True"),
}


@dataclass(frozen=True)
class Mutant:
    """One change of a source file: the bytes from `begin` to `end` become others."""

    file: str
    line: int
    where: str  #: the function, with its class
    kind: str
    was: str
    becomes: str
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.where}: {self.kind}: `{self.was}` -> `{self.becomes}`"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is, wherever it has moved to in the file."""
        return (self.file, self.where, self.was, self.becomes)

    def applied(self, source: bytes) -> bytes:
        return source[: self.begin] + self.becomes.encode() + source[self.end :]


def mutants(source: bytes, file: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def cut(node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr) and node.end_lineno is not None and node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def text(node: ast.AST) -> str:
        begin, end = cut(node)
        return source[begin:end].decode()

    found: dict[tuple[int, int, str], Mutant] = {}
    for node, above in _walk(ast.parse(source), ()):
        names = [each.name for each in above if isinstance(each, ast.FunctionDef | ast.ClassDef)]
        for kind, old, new in _changes(node, above, text):
            begin, end = cut(old)
            was = " ".join(text(old).split())
            if was != new:
                mutant = Mutant(file, old.lineno, ".".join(names) or "module", kind, was, new, begin, end)
                found.setdefault((begin, end, new), mutant)
    return _numbered(sorted(found.values(), key=lambda each: (each.begin, each.end, each.becomes)))


def _numbered(all_of_them: list[Mutant]) -> list[Mutant]:
    """The second of two that would have one key gets a number, so that each has its own."""
    seen: dict[tuple[str, str, str, str], int] = {}
    made = []
    for each in all_of_them:
        seen[each.key] = number = seen.get(each.key, 0) + 1
        made.append(each if number == 1 else replace(each, where=f"{each.where} ({number})"))
    return made


def _walk(node: ast.AST, above: tuple[ast.AST, ...]) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    yield node, above
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, (*above, node))


Change = tuple[str, ast.expr, str]


def _changes(node: ast.AST, above: tuple[ast.AST, ...], text: Callable[[ast.AST], str]) -> Iterator[Change]:
    match node:
        case ast.Call():
            yield from _of_call(node, isinstance(above[-1], ast.Expr), text)
        case ast.Attribute(attr=name) if name in FLAGS:
            yield "flag", node, "0"
        case ast.keyword(arg="follow_symlinks", value=ast.Constant(value=False)):
            yield "flag", node.value, "True"
        case ast.keyword(arg="fallback_to_soft", value=ast.Constant(value=False)):
            yield "lock", node.value, "True"
        case ast.ExceptHandler(type=ast.expr() as caught) if _names(caught) & ANSWERS:
            yield "handler", caught, "()"
        case ast.If():
            yield from _of_if(node, above, text)
        case ast.comprehension():
            yield from (("verify", test, "True") for test in node.ifs if _names(test) & LOOKS)


def _of_call(call: ast.Call, alone: bool, text: Callable[[ast.AST], str]) -> Iterator[Change]:
    """What becomes of a call. `alone`: nobody asks for its answer."""
    name = _name(call.func)
    given = [text(each) for each in call.args] + [f"{each.arg}={text(each.value)}" for each in call.keywords]
    is_durable = isinstance(call.func, ast.Name) or text(call.func).startswith("durable.")
    if name in SYNCS:
        yield "fsync", call, "None"
    elif name == "make_folder":
        yield "fsync", call, f"{PATH}({given[0]}).mkdir({', '.join(given[1:])})"
    elif name == "write_new" and is_durable and "synced=False" not in given:
        yield "fsync", call, f"{PATH}({given[0]}).write_bytes({given[1]})"
    elif name == "write_new_if_missing":
        yield "fsync", call, f"{PATH}({given[0]}).touch()"
    elif name == "replace" and text(call.func) == "durable.replace":
        yield "fsync", call, f"durable.replace_lightly({', '.join(given)})"
    elif name == "rename" and text(call.func) == "durable.rename":
        yield "rename", call, f"{PATH}({given[0]}).rename({given[1]})"
    elif name == "link" and text(call.func) == "durable.link":
        yield "rename", call, f"{PATH}({given[1]}).hardlink_to({given[0]})"
    elif name == "claim_lock":
        yield "lock", call, '__import__("contextlib").nullcontext()'
    elif name == "acquire" and alone:
        yield "lock", call, "None"
    elif name == "raise_epoch" and alone:
        yield "epoch", call, "None"
    elif name.strip("_").split("_")[0] == "check" and alone:
        yield "check", call, "None"
    elif name == "suppress" and _names(call) & ANSWERS:
        yield "handler", call, f"{text(call.func)}()"
    elif name in VERDICTS:
        kind, well = VERDICTS[name]
        yield kind, call, well


def _of_if(node: ast.If, above: tuple[ast.AST, ...], text: Callable[[ast.AST], str]) -> Iterator[Change]:
    leads_away = isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue)
    if any(isinstance(each, ast.ExceptHandler) for each in above) and leads_away:
        yield "outcome", node.test, "False"
        yield "outcome", node.test, "True"
        if isinstance(node.test, ast.BoolOp):
            for left_out in node.test.values:
                word = " and " if isinstance(node.test.op, ast.And) else " or "
                yield "outcome", node.test, word.join(text(each) for each in node.test.values if each is not left_out)
    elif isinstance(node.body[-1], ast.Raise) or _names(node.test) & LOOKS:
        if any(isinstance(each, ast.NamedExpr) for each in ast.walk(node.test)) and not leads_away:
            return  # what it found is used
        yield "verify", node.test, "False" if leads_away else "True"


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.AST) -> frozenset[str]:
    """All the names in an expression, of attributes too."""
    return frozenset(_name(each) for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute))
