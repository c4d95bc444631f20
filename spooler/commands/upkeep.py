"""Verbs that keep a spool in order: fsck, export, import."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from spooler import archive, fsck
from spooler.commands.common import (
    DONE,
    OTHERWISE,
    Verbs,
    add_json,
    add_spool,
    add_verb,
    jobs,
    printable,
    say_json,
    spool_of,
    tell,
    tell_closed,
)
from spooler.settings import Settings
from spooler.spool import Spool, SpoolError


def add(verbs: Verbs) -> None:
    check = add_verb(verbs, "fsck", _fsck, "Check every promise on the spool: exit status 1 when something is not as promised.")
    check.add_argument("--mend", action="store_true", help="mend what recovery may mend")
    check.add_argument("--deep", action="store_true", help="read every picture to its last byte")
    add_json(check)
    add_spool(check)
    out = add_verb(verbs, "export", _export, "Write the waiting jobs, with their pictures, into a tar file.")
    out.add_argument("file", type=Path, help="the tar to write, which must not exist; - is standard output")
    add_spool(out)
    load = add_verb(verbs, "import", _import, "Submit the jobs of a tar file that `export` wrote.")
    load.add_argument("file", type=Path, help="the tar; - is standard input")
    load.add_argument("--new-ids", action="store_true", help="give each job a new id; else one whose id exists is left out")
    add_json(load)
    add_spool(load)


def _fsck(options: argparse.Namespace) -> int:
    spool = spool_of(options, known_by="")  # what is missing in it is a finding
    told, left, mended = [], 0, 0
    for finding in fsck.examine(spool, options.deep, Settings.parse([], "sdspool").tmp_max_age_s):
        done = False
        if options.mend and finding.mend:
            try:
                finding.mend()
                done = True
            except OSError as error:
                tell(f"{finding.path}: cannot be mended: {error}")
        mended, left = mended + done, left + (not done)
        path = printable(str(finding.path.relative_to(spool.root)))
        if options.json:
            told.append(
                {
                    "promise": finding.promise,
                    "path": path,
                    "sentence": finding.sentence,
                    "can_be_mended": finding.can_be_mended,
                    "mended": done,
                }
            )
        else:
            can = "" if done or not finding.can_be_mended else " (--mend mends it)"
            print(f"{finding.promise}  {path}: {printable(finding.sentence)}{' Mended.' if done else can}")
    if options.json:
        say_json(told)
    else:
        tell("all is as promised" if not left + mended else f"{left} found, {mended} mended")
    return OTHERWISE if left else DONE


def _export(options: argparse.Namespace) -> int:
    spool = spool_of(options)
    refused: list[PermissionError] = []
    if str(options.file) == "-":
        number = archive.export(spool, sys.stdout.buffer, refused)
    else:
        try:
            file = options.file.open("xb")
        except FileExistsError:
            raise SpoolError(f"`file` must be a new one, but {options.file} exists") from None
        try:
            with file:
                number = archive.export(spool, file, refused)
        except BaseException:
            options.file.unlink()  # half of a queue must not look like one
            raise
    tell(f"{jobs(number)} written")
    return tell_closed(refused)


def _import(options: argparse.Namespace) -> int:
    spool = Spool(options.spool)
    spool.create()
    with _opened(options.file, options.new_ids) as file:
        found = list(archive.load(spool, file, options.new_ids))
    if options.json:
        say_json([vars(each) for each in found])
    for each in found:
        if each.taken_as is None:
            tell(f"{each.id}: left out: {each.why}")
        elif not options.json:
            print(each.taken_as)
    return OTHERWISE if any(each.taken_as is None for each in found) else DONE


@contextmanager
def _opened(path: Path, twice: bool) -> Iterator[IO[bytes]]:
    """The file, or standard input for -; where it is to be read twice, and is a pipe, a copy of what comes out of it."""
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
        if not twice or file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy
