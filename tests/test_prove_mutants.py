"""Mutants: the short form of tests/prove/mutants.py, and that the points where a promise is kept are found in the source."""

from __future__ import annotations

from pathlib import Path

import house

from tests.prove import fire, mutants
from tests.prove.mutation import mutants as mutants_of

MODULE = b"""
import contextlib, os
from spooler import durable


def put(path, folder, data, lock):
    fd = os.open(path, os.O_WRONLY | os.O_EXCL)
    os.fsync(fd)
    durable.replace(path, data)
    with lock.claim_lock():
        with contextlib.suppress(FileNotFoundError, ValueError):
            path.unlink()
    try:
        durable.rename(path, folder / "x")
    except OSError as error:
        if gone(path) and there(folder):
            return None
        raise
    except (FileExistsError, KeyError):
        pass
    states.check("verb", path)
    if durable.exists(folder):
        raise ValueError
    return next(name for name in folder if not durable.exists(name))
"""


def test_the_points_of_a_module_are_found_and_no_others() -> None:
    assert [(each.line, each.kind, each.was, each.becomes) for each in mutants_of(MODULE, "made_up")] == [
        (7, "flag", "os.O_EXCL", "0"),
        (8, "fsync", "os.fsync(fd)", "None"),
        (9, "fsync", "durable.replace(path, data)", "durable.replace_lightly(path, data)"),
        (10, "lock", "lock.claim_lock()", '__import__("contextlib").nullcontext()'),
        (11, "handler", "contextlib.suppress(FileNotFoundError, ValueError)", "contextlib.suppress()"),
        (14, "rename", 'durable.rename(path, folder / "x")', '__import__("pathlib").Path(path).rename(folder / "x")'),
        (16, "outcome", "gone(path) and there(folder)", "False"),
        (16, "outcome", "gone(path) and there(folder)", "True"),
        (16, "outcome", "gone(path) and there(folder)", "gone(path)"),
        (16, "outcome", "gone(path) and there(folder)", "there(folder)"),
        (19, "handler", "(FileExistsError, KeyError)", "()"),
        (21, "check", 'states.check("verb", path)', "None"),
        (22, "verify", "durable.exists(folder)", "False"),
        (24, "verify", "not durable.exists(name)", "True"),
    ]


def test_every_mutant_is_another_module_and_has_a_name_of_its_own() -> None:
    found = mutants.all_mutants()
    for each in found:
        source = (mutants.ROOT / "spooler" / f"{each.file}.py").read_bytes()
        made = each.applied(source)
        compile(made, each.file, "exec")
        assert made != source
    keys = [each.key for each in found]
    assert len(set(keys)) == len(keys)
    assert set(mutants.EQUIVALENT) <= set(keys), "a reason for a mutant that is no more"


def test_no_fsync_goes_unseen() -> None:
    """What is found is what a plain search finds, in every module that the proof is about, and no module is left out."""
    for path in sorted(Path(mutants.ROOT, "spooler").glob("*.py")):
        syncs = ("os.fsync(", "sync_folder(", "sync_file(", "sync_moves(", "durable.sync_")
        called = sum(line.strip().startswith(syncs) for line in path.read_text().splitlines())
        found = [each for each in mutants_of(path.read_bytes(), path.stem) if each.becomes == "None" and each.kind == "fsync"]
        assert len([each for each in found if "self._sync" not in each.was]) == called
        assert path.stem in mutants.MODULES or not found
        assert path.stem != "durable" or called > 4


def test_some_mutants_are_caught() -> None:
    if reason := fire.usable():
        house.missing(reason)
    (figure,) = mutants.prove(short=True)
    assert figure.ok, figure.line
