"""Power cuts on real file systems: the promises hold there too, and what is found there is what the model of disk.py has.

A guest (qemu.py) does the operations of the proof `power` on ext4, xfs and btrfs. Its disks have a write cache, and qemu notes
each write and each flush. From that log are made the disks that a cut at any point may leave: all up to the last flush, and of
what was written since nothing, everything or a part. Each is mounted, so that the file system mends itself, and looked at.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.prove import qemu
from tests.prove.blocks import BlockLog, Image
from tests.prove.disk import seen
from tests.prove.fire import scratch
from tests.prove.firing_range import AFTER_DEATH, Tally
from tests.prove.power import Recording, check
from tests.prove.report import ROOT, Figure, cannot_run, main, report

NAME = "power_vm"
PACKAGES = (*qemu.PACKAGES, "xfsprogs", "btrfs-progs", "strace")
#: How a file system is made on {disk}, of {mib}, and how large at least.
SYSTEMS = {
    "ext4": ("mkfs.ext4 -q -F {disk} {mib}m", 64),
    "xfs": ("mkfs.xfs -q -f -d size={mib}m {disk}", 320),
    "btrfs": ("mkfs.btrfs -q -f -b {mib}m {disk}", 256),
}
#: Points of each operation at which the power goes, at most, and orders that are tried where several are at work at once.
POINTS, SEEDS = {False: 4, True: 1}, {False: 3, True: 0}
#: What is there of the writes since the last flush.
KEPT = ("none", "all", "some")
GUEST_S = 1800.0


def cannot() -> str:
    """Why this machine cannot do it, in a sentence; empty: it can."""
    if os.geteuid() != 0:
        return "Only root may mount the disks."
    try:
        qemu.install(PACKAGES)
    except qemu.CannotRunError as error:
        return str(error)
    return qemu.missing()


def recorded(systems: list[str], folder: Path, seeds: int) -> tuple[str, dict[str, list[Recording]]]:
    """Do the operations in a guest. Returns its kernel's version, and what was recorded on each file system.

    The logs of the disks are in `folder`.
    """
    disks = []
    for system in systems:
        qemu.make_disk(folder / f"{system}.disk", SYSTEMS[system][1] + 1)
        (folder / f"{system}.log").touch()
        disks += ["-blockdev", f"driver=file,node-name={system}-file,filename={folder / system}.disk"]
        disks += ["-blockdev", f"driver=file,node-name={system}-log,filename={folder / system}.log"]
        logged = f"driver=blklogwrites,node-name={system},file={system}-file,log={system}-log,log-sector-size=512"
        disks += ["-blockdev", logged, "-device", f"virtio-blk-pci,drive={system},serial={system}"]
    guest = qemu.Guest("power", folder, memory_mib=1024, extra=disks)
    try:
        version = guest.run("uname -r").output.strip()
        for letter, system in zip("abc", systems, strict=False):
            make, mib = SYSTEMS[system]
            disk = f"/dev/vd{letter}"
            guest.run(f"modprobe {system}; {make.format(disk=disk, mib=mib)}", 300)
            guest.run(f"mkdir -p /run/{system} && mount -t {system} {disk} /run/{system}", 300)
            words = f"{disk} /run/{system} {mib << 20} /share/{system} {seeds}"
            guest.run(f"cd {ROOT} && PYTHONPATH={ROOT} {sys.executable} -m tests.prove.power_guest {words}", GUEST_S)
            guest.run(f"umount /run/{system}", 300)
    finally:
        guest.kill()
    return version, {system: pickle.loads((guest.share / system).read_bytes()) for system in systems}  # noqa: S301 - our own


def try_system(
    system: str, log: BlockLog, recordings: list[Recording], points: int, folder: Path
) -> tuple[Tally, Counter[str]]:
    """Cut the power at some points of each operation. Returns what was wrong, and which states the model does not have."""
    tally, strange = Tally(), Counter[str]()
    mib = SYSTEMS[system][1]
    notes = {number: tuple(map(int, text.split())) for number, text in log.notes(mib << 20).items()}
    image = Image(folder / "image", (mib + 1) << 20, log)
    for index, recording in enumerate(recordings):
        mine = {number: said for number, (script, said) in notes.items() if script == index}
        begin = next(number for number, said in mine.items() if said == 0) + 1
        end = next(number for number, said in mine.items() if said == -1) + 1
        rng = random.Random(f"{system} {recording.name}")
        # The end is always one: all was acknowledged, and nothing that was not synced need be there.
        chosen = {end, *rng.sample(range(begin, end), min(points, end - begin))}
        for at in sorted(chosen):
            said = max(said for number, said in mine.items() if number < at)
            image.forward(image.last_flush(at))
            for kept in KEPT:
                copy = folder / "copy"
                subprocess.run(["cp", "--sparse=always", image.path, copy], check=True)
                there = image.found(copy, at, kept, rng)
                where = f"{recording.name} on {system}, cut before write {at} of {end}, {kept} of {at - image.done} writes kept"
                tally.points += 1
                try:
                    tree = mounted(copy, system, f"{index:03d}/recorded", folder / "mounted")
                except subprocess.CalledProcessError as error:
                    tally.note(where, [f"{system}: it cannot be mounted: {error.stderr}"])
                    continue
                ledger = recording.ledgers[said]
                heirs = (AFTER_DEATH[tally.points % len(AFTER_DEATH)],)
                found = check(tree, ledger, recording.one_of, folder / "spools", heirs)
                tally.note(where, (f"{recording.name}: {problem}" for problem in found))
                if not recording.allows(said, tree):
                    strange[where] += len(there) + 1
    return tally, strange


def mounted(image: Path, system: str, folder: str, place: Path) -> dict[str, bytes | None]:
    """What is found in a folder of the image after the file system has mended itself."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", system, "-o", "loop", image, place], check=True, capture_output=True, text=True)
    try:
        return seen(place / folder)
    finally:
        subprocess.run(["umount", place], check=True)


def prove(short: bool) -> list[Figure]:
    systems = list(SYSTEMS)[:1] if short else list(SYSTEMS)
    figure, target = "a power cut on a real file system, disks", ">= 300"
    if reason := cannot():
        return [cannot_run(NAME, figure, target, reason)]
    tally, strange, sizes = Tally(), Counter[str](), []
    with scratch() as folder:
        (folder / "spools").mkdir()
        version, recordings = recorded(systems, folder, SEEDS[short])
        for system in systems:
            log = BlockLog(folder / f"{system}.log")
            found, unknown = try_system(system, log, recordings[system], POINTS[short], folder)
            sizes.append(f"{system}: {found.points} disks of {len(log.writes)} writes and flushes")
            tally.add(found)
            strange += unknown
    tally.tell()
    for where in strange:
        print(f"  the model does not have: {where}", file=sys.stderr)
    details = f"{'; '.join(sizes)}; Linux {version} wrote, Linux {os.uname().release} mended"
    bad = sum(tally.found.values())
    return [
        report(NAME, figure, target, tally.points, tally.points >= (100 if short else 300), details),
        report(NAME, "violations of P1 to P5 there", "0", bad, not bad),
        report(NAME, "states found there that the model of `power` does not have", "0", len(strange), not strange),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
