"""How programs put a folder into another, file by file, and a picture beside its overrides."""

from __future__ import annotations

import os
from contextlib import suppress

from tests.prove.writers import FILE_WRITERS, appended, kate, mapped, python, samba, sftp, tee
from tests.prove.writing import ANY, APPEND, ONLY, OPEN, SHUT, Steps, Work, old_times, put


def copied_folder(work: Work) -> Steps:
    """cp -r, sftp's put -r, unzip, Finder: a folder is made, and the files come one by one, in any order."""
    files = _files(work)
    folder = work.path
    folder.mkdir()
    yield SHUT
    if work.rng.random() < 0.3:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        yield SHUT
    if by_rename := work.rng.random() < 0.3:  # rsync
        for name, data in files:
            draft = folder / f".{name}.{work.word()}"
            yield from put(work, draft, data)
            yield SHUT
            draft.rename(folder / name)
            yield SHUT
    else:
        for name, data in files:
            pieces = work.cuts(data) if work.rng.random() < 0.3 else [(0, data)]  # >> again and again
            for _, piece in pieces:
                yield from put(work, folder / name, piece, APPEND)
                yield SHUT
    if not by_rename and work.rng.random() < 0.3:  # cp -rp, tar
        with suppress(FileNotFoundError):
            os.utime(folder, ns=old_times(work))


def moved_folder(work: Work) -> Steps:
    draft = work.tmp / work.stem
    draft.mkdir()
    for name, data in _files(work):
        (draft / name).write_bytes(data)
    yield ANY
    draft.rename(work.path)


def filled_folder(work: Work) -> Steps:
    """mkdir, then each file by mv."""
    work.path.mkdir()
    yield SHUT
    for name, data in _files(work):
        draft = work.tmp / f"{work.stem}-{name}"
        draft.write_bytes(data)
        yield SHUT / 2
        draft.rename(work.path / name)
        yield SHUT


def mapped_folder(work: Work) -> Steps:
    """Every file first as long as it will be, then filled by offset, out of order."""
    work.path.mkdir()
    yield SHUT
    for name, data in _files(work):
        fd = os.open(work.path / name, ONLY, 0o644)
        os.ftruncate(fd, len(data))
        yield OPEN
        cuts = work.cuts(data)
        work.rng.shuffle(cuts)
        for at, piece in cuts:
            os.pwrite(fd, piece, at)
            yield OPEN
        os.close(fd)
        yield SHUT


FOLDER_WRITERS = (copied_folder, moved_folder, filled_folder, mapped_folder)


def _files(work: Work) -> list[tuple[str, bytes]]:
    files = [(name.removeprefix("inputs/"), data) for name, data in work.wholes[0].items()]
    work.rng.shuffle(files)
    return files


def with_overrides(work: Work) -> Steps:
    """The overrides first, by any writer, then the picture by any other."""
    assert work.overrides is not None
    extra = Work(f"{work.name}.overrides", ".json", work.overrides, work.rng, work.pending, work.tmp)
    extra.byte_by_byte = work.byte_by_byte
    yield from work.rng.choice((*FILE_WRITERS[:4], sftp, samba, mapped, appended, tee, python, kate))(extra)
    yield SHUT
    yield from work.rng.choice(FILE_WRITERS)(work)
    work.litter |= extra.litter
