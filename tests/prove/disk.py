"""A model of what a power cut leaves: the operations that reached the kernel, and every disk that may be found afterwards.

Written after ALICE (Pillai et al., OSDI '14) and fsync(2), and on purpose weaker than any file system that is in use:

- A file's bytes are on the disk once the file was fsynced. Those written since may be missing, be there as far as their first
  half or to the last byte but one, be zeros of the full length in whole or from the half on (delayed allocation: the length is
  there before the bytes), or be whole.
- A change of a folder's entries (create, link, rename, unlink, mkdir, rmdir) is on the disk once that folder was fsynced. Any
  set of the later ones may be there and any may be missing, in whatever order they were made (btrfs's log tree keeps a later
  change and loses an earlier one; ext4 and xfs keep a first part of all changes, which is one of these sets). fsync of a new
  file or folder does not keep its own name: fsync(2) says so, though ext4, xfs and btrfs do keep it.
- Two changes of one and the same entry stay in their order: an entry has one value, and it is one that it had.
- A folder's removal needs the removal of what was in it.
- A rename is one change, within a folder and between two: POSIX asks it of a running system, and the journals of ext4, xfs,
  btrfs, f2fs and zfs keep it over a crash, for they write a rename as one transaction (btrfs: `last_unlink_trans` makes an
  fsync of the old folder commit it whole). So an fsync of either folder keeps both halves. File systems without a journal
  (ext2, exFAT, ext4 with `^has_journal`) promise nothing of the kind: a file may be found under both names, or under none,
  whatever a program does. `torn_renames` is the milder half of that, a file under both names, which rename(2) admits.
- An fsync that returned has told the truth: what the disk says it keeps, it keeps.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple, TypeAlias

#: A folder by its number, and a name in it.
Slot: TypeAlias = tuple[int, str]


class Found(Enum):
    """What may be found of the bytes that were written to a file since it was fsynced."""

    MISSING = "missing"
    HALF = "half"
    HALF_ZEROS = "half, then zeros"
    ALL_BUT_ONE = "all but the last byte"
    ZEROS = "zeros"
    WHOLE = "whole"


class Entries(NamedTuple):
    """One change of folders: each slot's new file or folder, by number; None: nothing has that name any more."""

    changes: tuple[tuple[Slot, int | None], ...]

    @property
    def slots(self) -> frozenset[Slot]:
        return frozenset(slot for slot, _ in self.changes)


class Bytes(NamedTuple):
    """Bytes written to a file. Without bytes: the file is cut to that length."""

    number: int
    at: int
    data: bytes | None


Change: TypeAlias = Entries | Bytes
#: What lies on a disk: path from the root on, and the bytes; None for a folder.
Tree: TypeAlias = dict[str, bytes | None]


@dataclass(frozen=True)
class Cut:
    """A power cut after one operation: how many changes were made by then, and which of them the disk must have."""

    after: str  #: the operation, in words
    made: int
    kept: frozenset[int]


@dataclass
class Disk:
    """What the kernel has, the changes that led there, and what of them was synced. Files and folders go by number."""

    root: int = 0
    torn_renames: bool = False
    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    _kept: set[int] = field(default_factory=set)
    _last: dict[Slot, int] = field(default_factory=dict)  # the last change of a slot
    _before: dict[int, set[int]] = field(default_factory=dict)  # the changes of the same slots right before a change
    _base: tuple[dict[int, bytes], dict[int, dict[str, int]]] = field(default_factory=lambda: ({}, {}))

    @classmethod
    def of(cls, root: Path, torn_renames: bool = False) -> Disk:
        """A disk that has all of a folder as it lies there."""
        disk = cls(torn_renames=torn_renames)
        numbers = itertools.count()

        def scan(path: Path) -> int:
            number = next(numbers)
            if path.is_dir():
                disk.folders[number] = {}
                for each in sorted(path.iterdir()):
                    disk.folders[number][each.name] = scan(each)
            else:
                disk.files[number] = bytearray(path.read_bytes())
            return number

        scan(root)
        disk._base = (
            {number: bytes(data) for number, data in disk.files.items()},
            {number: dict(entries) for number, entries in disk.folders.items()},
        )
        disk.cuts.append(Cut("the start", 0, frozenset()))
        return disk

    # -- what the kernel did -------------------------------------------------------------------------------------------------

    def find(self, path: str) -> int | None:
        """The number of what has that path from the root on; None: nothing has."""
        number: int | None = self.root
        for part in filter(None, path.split("/")):
            number = self.folders.get(number, {}).get(part) if number is not None else None
        return number

    def slot(self, path: str) -> Slot:
        """The folder's number and the name in it. Raises FileNotFoundError when there is no such folder."""
        parent, _, name = path.rstrip("/").rpartition("/")
        number = self.find(parent)
        if number is None:
            raise FileNotFoundError(path)
        return number, name

    def make(self, path: str, folder: bool) -> int:
        number = 1 + max(itertools.chain(self.files, self.folders))
        if folder:
            self.folders[number] = {}
        else:
            self.files[number] = bytearray()
        self._enter(((self.slot(path), number),))
        return number

    def link(self, source: str, target: str) -> None:
        self._enter(((self.slot(target), self._number(source)),))

    def remove(self, path: str) -> None:
        number = self._number(path)
        if number in self.folders:
            emptied = (index for slot, index in self._last.items() if slot[0] == number)
            self._before.setdefault(len(self.changes), set()).update(emptied)
        self._enter(((self.slot(path), None),))

    def rename(self, source: str, target: str) -> None:
        number, old, new = self._number(source), self.slot(source), self.slot(target)
        if self.torn_renames and old[0] != new[0] and number in self.files:
            self._enter(((new, number),))
            self._before.setdefault(len(self.changes), set()).add(len(self.changes) - 1)
            self._enter(((old, None),))
        else:
            self._enter(((old, None), (new, number)))

    def write(self, number: int, at: int, data: bytes | None) -> None:
        """Write bytes at a place, or (None) cut the file to that length."""
        file = self.files[number]
        if data is None:
            del file[at:]
            file.extend(bytes(at - len(file)))
        else:
            file.extend(bytes(max(0, at - len(file))))
            file[at : at + len(data)] = data
        self.changes.append(Bytes(number, at, data))

    def sync(self, number: int, before: int | None = None) -> None:
        """The disk has what was changed in that file, or that folder, and what came before it in the same slots; of the first
        `before` changes, where others were made while it went on."""
        for index, change in enumerate(self.changes[:before]):
            if isinstance(change, Bytes):
                if change.number == number:
                    self._kept.add(index)
            elif any(folder == number for folder, _ in change.slots):
                self._kept |= self.needed(index)

    def cut(self, after: str) -> None:
        """Note that the power may go here."""
        self.cuts.append(Cut(after, len(self.changes), frozenset(self._kept)))

    def _number(self, path: str) -> int:
        number = self.find(path)
        if number is None:
            raise FileNotFoundError(path)
        return number

    def _enter(self, changes: tuple[tuple[Slot, int | None], ...]) -> None:
        index = len(self.changes)
        for (folder, name), number in changes:
            if number is None:
                self.folders[folder].pop(name, None)
            else:
                self.folders[folder][name] = number
            if (folder, name) in self._last:
                self._before.setdefault(index, set()).add(self._last[folder, name])
            self._last[folder, name] = index
        self.changes.append(Entries(changes))

    def needed(self, index: int) -> frozenset[int]:
        """The change and all that must be there when it is."""
        found, todo = set(), [index]
        while todo:
            if (each := todo.pop()) not in found:
                found.add(each)
                todo += self._before.get(each, ())
        return frozenset(found)

    # -- what is found afterwards --------------------------------------------------------------------------------------------

    def open_changes(self, cut: Cut) -> tuple[list[int], list[int]]:
        """What the disk need not have at that cut: the changes of entries, and the files with unsynced bytes."""
        loose = [index for index in range(cut.made) if index not in cut.kept]
        entries = [index for index in loose if isinstance(self.changes[index], Entries)]
        files = {change.number for index in loose if isinstance(change := self.changes[index], Bytes)}
        return entries, sorted(files)

    def states(self, cut: Cut, most: int, rng: random.Random) -> Iterator[tuple[frozenset[int], Mapping[int, Found]]]:
        """What may be there at that cut: which of the open changes of entries, and what of each file with unsynced bytes.

        All of them when they are at most `most`. Else: none, all, each first part, each one alone, each left out, each of these
        with all files alike, one file unlike the others, and at random up to `most` in all. Some come more than once.
        """
        entries, files = self.open_changes(cut)
        if 2 ** len(entries) * len(Found) ** len(files) <= most:
            for size in range(len(entries) + 1):
                for chosen in itertools.combinations(entries, size):
                    if (closed := self._closed(chosen)) <= set(chosen) | cut.kept:
                        for found in itertools.product(Found, repeat=len(files)):
                            yield closed, dict(zip(files, found, strict=True))
            return
        everything = self._closed(entries)
        some = [frozenset[int](), everything]
        some += [self._closed(entries[:count]) for count in range(1, len(entries))]
        some += [self._closed([index]) for index in entries]
        some += [self._without(entries, index) for index in entries]
        for chosen in dict.fromkeys(some):
            for alike in Found:
                yield chosen, dict.fromkeys(files, alike)
        for file, alone, others in itertools.product(files, Found, (Found.MISSING, Found.WHOLE)):
            yield everything, {**dict.fromkeys(files, others), file: alone}
        for _ in range(most - len(some)):
            likely = rng.choice((0.2, 0.5, 0.8))
            chosen = self._closed([index for index in entries if rng.random() < likely])
            yield chosen, {file: rng.choice(tuple(Found)) for file in files}

    def _closed(self, chosen: Sequence[int]) -> frozenset[int]:
        return frozenset().union(*(self.needed(index) for index in chosen))

    def _without(self, entries: Sequence[int], left_out: int) -> frozenset[int]:
        """All but that one, and but those that need it."""
        return frozenset(index for index in entries if left_out not in self.needed(index))

    def tree(self, cut: Cut, chosen: frozenset[int], found: Mapping[int, Found], numbers: dict[str, int] | None = None) -> Tree:
        """The folder as it is found. In `numbers` it notes the number of each path."""
        files, folders = self._base
        contents: dict[int, bytearray] = {}
        entries = {number: dict(each) for number, each in folders.items()}
        loose: dict[int, list[Bytes]] = {}
        for index, change in enumerate(self.changes[: cut.made]):
            there = index in cut.kept or index in chosen
            if isinstance(change, Bytes):
                if there:
                    _apply(contents, files, change)
                else:
                    loose.setdefault(change.number, []).append(change)
            elif there:
                for (folder, name), number in change.changes:
                    here = entries.setdefault(folder, {})
                    if number is None:
                        here.pop(name, None)
                    else:
                        here[name] = number
        for number, writes in loose.items():
            _apply_some(contents, files, number, writes, found[number])
        tree: Tree = {}

        def walk(path: str, number: int) -> None:
            if numbers is not None:
                numbers[path] = number
            if number in self.folders:
                tree[path] = None
                for name, each in entries.get(number, {}).items():
                    walk(f"{path}/{name}" if path else name, each)
            else:
                tree[path] = bytes(contents[number] if number in contents else files.get(number, b""))

        walk("", self.root)
        return tree

    # -- is what was found allowed? ------------------------------------------------------------------------------------------

    def allows(self, cut: Cut, actual: Tree) -> bool:
        """Whether the model has a state at that cut which is this tree.

        Looked for from every first part of the open changes, as ext4 and xfs keep them, and from there by adding or taking away
        one change after another as long as it comes nearer: so a no is not proof, but something to look at.
        """
        entries, _ = self.open_changes(cut)
        for count in range(len(entries), -1, -1):
            chosen = self._closed(entries[:count])
            distance = self._distance(cut, chosen, actual)
            while distance:
                nearer = [
                    (self._distance(cut, other, actual), sorted(other))
                    for index in entries
                    for other in [self._without(sorted(chosen), index) if index in chosen else chosen | self.needed(index)]
                ]
                best, others = min(nearer, default=(distance, []))
                if best >= distance:
                    break
                distance, chosen = best, frozenset(others)
            if not distance:
                return True
        return False

    def _distance(self, cut: Cut, chosen: frozenset[int], actual: Tree) -> int:
        """How many paths differ: in that they are there, or in bytes that no state of the file has."""
        numbers: dict[str, int] = {}
        _, files = self.open_changes(cut)
        whole = self.tree(cut, chosen, dict.fromkeys(files, Found.WHOLE), numbers)
        distance = len(whole.keys() ^ actual.keys())
        for path in whole.keys() & actual.keys():
            expected, found = whole[path], actual[path]
            if expected is None or found is None:
                distance += expected is not found
            elif expected != found:
                number = numbers[path]
                least = (
                    self.tree(cut, chosen, dict.fromkeys(files, Found.MISSING), {}).get(path) if number in files else expected
                )
                distance += not (number in files and least is not None and _between(least, expected, found))
        return distance


def _between(least: bytes, most: bytes, found: bytes) -> bool:
    """Whether each byte is one that was there, one that was written, or zero."""
    if len(found) > max(len(least), len(most)):
        return False
    return all(
        byte in (0, least[at] if at < len(least) else 0, most[at] if at < len(most) else 0) for at, byte in enumerate(found)
    )


def _apply(contents: dict[int, bytearray], files: Mapping[int, bytes], change: Bytes) -> None:
    file = contents.setdefault(change.number, bytearray(files.get(change.number, b"")))
    if change.data is None:
        del file[change.at :]
        file.extend(bytes(change.at - len(file)))
    else:
        file.extend(bytes(max(0, change.at - len(file))))
        file[change.at : change.at + len(change.data)] = change.data


def _apply_some(
    contents: dict[int, bytearray], files: Mapping[int, bytes], number: int, writes: Sequence[Bytes], found: Found
) -> None:
    """Bring a file to what is found of its unsynced writes."""
    for number_of_write, change in enumerate(writes):
        if (data := change.data) is None:
            if found is not Found.MISSING:
                _apply(contents, files, change)
            continue
        # The middle of all writes: in the middle one.
        half = len(data) // 2 if number_of_write == len(writes) // 2 else len(data) * (number_of_write < len(writes) // 2)
        if found is Found.HALF:
            data = data[:half]
        elif found is Found.HALF_ZEROS:
            data = data[:half] + bytes(len(data) - half)
        elif found is Found.ALL_BUT_ONE and change is writes[-1]:
            data = data[:-1]
        elif found is Found.ZEROS:
            data = bytes(len(data))
        if data and found is not Found.MISSING:
            _apply(contents, files, change._replace(data=data))


def lay(tree: Tree, root: Path) -> Path:
    """Make the folder of a tree."""
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
    return root


def seen(root: Path) -> Tree:
    """The tree of a folder."""
    tree: Tree = {"": None}
    for path in sorted(root.rglob("*")):
        tree[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return tree
