"""Real programs that write into pending/ of a real spooler process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from spooler.batch_file import read_rows
from spooler.spool import Spool
from tests.prove.report import ROOT
from tests.prove.samples import SAMPLES

#: Label -> a shell command that brings $src into pending/ as $dst; its first word, or the one given, must be installed.
PROGRAMS: dict[str, tuple[str, str]] = {
    "cp": ("cp", 'cp "$src" "$dst"'),
    "cp -p": ("cp", 'cp -p "$src" "$dst"'),
    "mv": ("mv", 'cp "$src" "$tmp/$name" && mv "$tmp/$name" "$dst"'),
    "mv from another file system": ("mv", 'mv "$src" "$dst"'),
    "ln": ("ln", 'cp "$src" "$tmp/$name" && ln "$tmp/$name" "$dst" && rm "$tmp/$name"'),
    "install": ("install", 'install -m 640 "$src" "$dst"'),
    "rsync": ("rsync", 'rsync -a "$src" "$dst"'),
    "rsync --inplace": ("rsync", 'rsync -a --inplace "$src" "$dst"'),
    "dd bs=1": ("dd", 'dd bs=1 if="$src" of="$dst" status=none'),
    "tee": ("tee", '(head -c 9 "$src"; sleep 0.3; tail -c +10 "$src") | tee "$dst" >/dev/null'),
    ">>": ("sh", 'head -c 9 "$src" >> "$dst"; sleep 0.5; tail -c +10 "$src" >> "$dst"'),
    "touch, cat": ("sh", 'touch "$dst"; sleep 0.5; cat "$src" > "$dst"'),
    "fallocate, dd": ("fallocate", 'fallocate -l "$size" "$dst"; dd bs=7 conv=notrunc if="$src" of="$dst" status=none'),
    "curl -o": ("curl", 'curl -s -o "$dst" "file://$src"'),
    "sftp": ("sftp", 'printf "put %s %s\\n" "$src" "$dst" | sftp -q -D /usr/lib/openssh/sftp-server >/dev/null'),
    "sftp, rename": (
        "sftp",
        'printf "put %s %s.filepart\\nrename -l %s.filepart %s\\n" "$src" "$dst" "$dst" "$dst"'
        " | sftp -q -D /usr/lib/openssh/sftp-server >/dev/null",
    ),
    "vim": ("vim", 'vim -es -u NONE -N -c "w $dst" -c qa! "$src"'),
    "emacs": (
        "emacs",
        'emacs -Q --batch --eval "(progn (find-file \\"$dst\\") (insert-file-contents \\"$src\\") (save-buffer))" 2>&1',
    ),
    "sed -i": ("sed", 'cp "$src" "$tmp/$name" && sed -i "s/x/x/" "$tmp/$name" && cp "$tmp/$name" "$dst"'),
    "python": ("python3", "python3 -c \"f = open('$dst', 'wb', 0)\nfor c in open('$src', 'rb').read(): f.write(bytes([c]))\""),
}
#: Jobs that end with a line feed, as editors have it.
REAL_SAMPLES = ((".json", 1), (".jsonl", 0), (".csv", 0), (".txt", 0))


def real(rounds: int) -> tuple[int, list[str]]:
    """Real programs with a real spooler process; returns how many there were, and what went wrong."""
    wrong, count = [], 0
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        spool = Spool(Path(folder) / "spool")
        spool.create()
        with (Path(outside) / "log").open("wb") as log:
            options = ["--spool", str(spool.root), "--spooler", "s", "--drop-grace-s", "3", "--floor-mib", "0"]
            service = subprocess.Popen([sys.executable, "-m", "tests.prove.sleeper", *options], cwd=ROOT, stderr=log)
            try:
                expected: dict[str, tuple[str, str, bytes]] = {}
                for label, (needs, command) in PROGRAMS.items():
                    if not shutil.which(needs):
                        continue
                    for suffix, number in REAL_SAMPLES * rounds:
                        count += 1
                        stem = f"r{count:04d}"
                        data = SAMPLES[suffix][number]
                        source = Path(outside) / f"{stem}{suffix}"
                        source.write_bytes(data)
                        expected[stem] = (label, suffix, data)
                        names = {"src": source, "dst": spool.pending / source.name, "tmp": spool.tmp, "name": source.name}
                        env = {**os.environ, **{key: str(value) for key, value in names.items()}, "size": str(len(data))}
                        ended = subprocess.run(["sh", "-c", command], env=env, capture_output=True, cwd=outside)
                        if ended.returncode and label != "vim":  # which ends with 1 without a terminal
                            wrong.append(f"{label}: {ended.stderr.decode(errors='replace')[:200]}")
                wrong += _ended_well(spool, expected)
            finally:
                service.terminate()
                service.wait(60)
    return count, wrong


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _ended_well(spool: Spool, expected: dict[str, tuple[str, str, bytes]]) -> list[str]:
    """Wait until nothing waits any more; what is not in done/ as it was given."""
    end = time.monotonic() + 120

    def busy() -> bool:
        names = [each for each in _names(spool.pending) if each[0] != "." and not each.endswith("~")]
        return bool(names) or any(True for _ in spool.walk("claimed"))

    quiet = 0
    while time.monotonic() < end and quiet < 5:
        quiet = 0 if busy() else quiet + 1
        time.sleep(0.1)  # how often it looks: jobs move meanwhile, so only five looks that find nothing at work are the end
    wrong = [f"set aside: {each.name}: {each.reason}" for each in spool.rejected()]
    wrong += [f"left in pending/: {name}" for name in _names(spool.pending)]
    done = Counter(each.name for each in (spool.root / "done").iterdir())
    for stem, (label, suffix, data) in expected.items():
        kept = spool.root / "done" / stem / "job.json" if suffix == ".json" else spool.batches / stem / f"{stem}{suffix}"
        rows = [stem] if suffix == ".json" else [f"{stem}.{1 + n:04d}" for n in range(len(read_rows(f"x{suffix}", data)))]
        if not kept.exists() or kept.read_bytes() != data:
            wrong.append(f"{label} {suffix}: {kept.read_bytes() if kept.exists() else None!r}, was {data!r}")
        if missing := [row for row in rows if not done.pop(row, 0)]:
            wrong.append(f"{label} {suffix}: not in done/: {missing}")
    return wrong + [f"in done/ too often: {name}" for name in done]
