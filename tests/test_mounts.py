"""What is read of /proc/self/mountinfo, and what is said about it; a clock and a lock that are really looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT

from spooler import mounts

TABLE = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=continue
30 27 0:50 / /srv/my\040spool\011\134\012 rw,nosuid master:1 shared:7 - fuse.sshfs host:/with\040space rw,user_id=0
31 27 0:51 / /leer rw - tmpfs  rw,size=1g
36 27 0:60 / /srv/spool rw,relatime - nfs4 gpu:/srv/spool rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
damaged
37 27 0:61 / /no rw,relatime
""".lstrip()


def mount(kind: str, options: str = "rw") -> mounts.Mount:
    return mounts.parse(f"1 1 0:1 / / rw - {kind} none {options}")[1]


def test_mountinfo_is_read_with_its_escapes() -> None:
    found = mounts.parse(TABLE)
    assert sorted(found) == [22, 27, 30, 31, 36]
    assert found[27] == mounts.Mount("/", "ext4", "/dev/vda", {"rw": "", "relatime": "", "errors": "continue"})
    assert (found[30].point, found[30].source) == ("/srv/my spool\t\\\n", "host:/with space")
    assert (found[31].kind, found[31].source, found[31].options["size"]) == ("tmpfs", "", "1g")
    assert found[36].options["local_lock"] == "none"


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse"]
)
def test_what_other_hosts_may_change_is_a_network(kind: str) -> None:
    """N6: inotify does not see it."""
    assert mount(kind).network


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.gocryptfs"])
def test_what_only_this_host_changes_is_none(kind: str) -> None:
    assert not mount(kind).network


GOOD_NFS = "rw,hard,local_lock=none,acdirmin=1,acdirmax=1"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("nfs4", GOOD_NFS, []),
        ("nfs4", "rw,hard,noac,local_lock=none", []),
        ("nfs4", "rw,hard,local_lock=none", ["up to 60 s late", "acdirmax=1,lookupcache=positive"]),
        ("nfs", f"{GOOD_NFS},acdirmax=30", ["up to 30 s late"]),
        ("nfs", f"{GOOD_NFS},nolock", ["`nolock` keeps locks on this host"]),
        ("nfs", f"{GOOD_NFS},local_lock=all", ["`local_lock=all` keeps locks on this host"]),
        ("nfs4", f"{GOOD_NFS},local_lock=flock", ["`local_lock=flock` keeps locks on this host"]),
        ("nfs4", f"{GOOD_NFS},local_lock=posix", ["sdspool uses the other"]),
        ("nfs4", f"{GOOD_NFS},soft", ["`soft` gives up"]),
        ("nfs4", f"{GOOD_NFS},softerr,nocto", ["`softerr` gives up", "without `nocto`"]),
        ("cifs", "rw,actimeo=1", ["not for a spooler"]),
        ("smb3", "rw,actimeo=30,nobrl", ["not for a spooler", "`nobrl` keeps locks", "up to 30 s late"]),
        ("tmpfs", "rw", ["a power cut or a restart takes every job"]),
        ("overlay", "rw,lowerdir=/a", ["Give the spool a volume"]),
        ("overlay", "rw,volatile", ["Give the spool a volume", "a power cut takes jobs that were accepted"]),
        ("fuse.sshfs", "rw", ["let only one spooler use it"]),
        ("ext4", "rw,relatime", []),
        ("ext4", "rw,nobarrier", ["`nobarrier`"]),
        ("ext4", "rw,barrier=0", ["`nobarrier`"]),
        ("fuse.gocryptfs", "rw", []),
        ("", "", []),
    ],
)
def test_advice(kind: str, options: str, words: list[str]) -> None:
    """N5, N7, N8: each danger is a sentence of its own, and nothing is said where there is none."""
    said = mounts.advice(mount(kind, options))
    for word in words:
        assert sum(word in sentence for sentence in said) == 1, (word, said)
    assert len(said) == len(words) or (len(said), len(words)) == (1, 2)
    assert all(sentence.endswith(".") for sentence in said)


def test_this_folder_s_mount_is_the_kernel_s_own_answer(tmp_path: Path) -> None:
    found = mounts.of(tmp_path)
    asked = subprocess.check_output(["findmnt", "-no", "FSTYPE,TARGET", "--target", tmp_path], text=True)
    assert [found.kind, found.point] == asked.splitlines()[-1].split(), "of several on one point the last covers the others"
    assert mounts.of(Path("/proc")).kind == "proc"
    assert mounts.of(tmp_path / "nothing") == mounts.UNKNOWN
    assert mounts.file_system(tmp_path / "nothing") == ""


NESTED = """
import os, subprocess, sys
from pathlib import Path
from spooler import mounts
root = Path(sys.argv[1])
def put(name, kind="tmpfs"):
    (root / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "none", root / name], check=True)
before = mounts.of(root)
put("a b\\\\134")
put("a b\\\\134/inner", "ramfs")
(root / "a b\\\\134/inner/deep").mkdir()
(root / "link").symlink_to(root / "a b\\\\134/inner/deep")
assert mounts.of(root) == before
assert mounts.of(root / "a b\\\\134").point == str(root / "a b\\\\134"), mounts.of(root / "a b\\\\134")
for name in ("a b\\\\134/inner", "a b\\\\134/inner/deep", "link", "link/../deep"):
    assert mounts.of(root / name).kind == "ramfs", name
put("a b\\\\134")  # over both: what lay deeper is out of sight, though it still is in the table
(root / "a b\\\\134/inner").mkdir()
found = mounts.of(root / "a b\\\\134/inner")
assert (found.kind, found.point) == ("tmpfs", str(root / "a b\\\\134")), found
"""


def test_nested_mounts_links_and_mounts_over_mounts(tmp_path: Path) -> None:
    """In a mount namespace of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", NESTED, str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_clock_of_a_local_disk_is_this_host_s(tmp_path: Path) -> None:
    """N12. It can only warn, so a clock that somebody sets meanwhile harms nothing."""
    assert abs(mounts.clock_skew_s(tmp_path)) < mounts.SKEW_S
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        mounts.clock_skew_s(tmp_path / "nothing")


def test_skew_is_what_lies_outside_of_the_time_that_the_change_took() -> None:
    assert mounts.skew_s(before=100, changed=100.5, after=101) == 0
    assert mounts.skew_s(before=100, changed=3701, after=101) == 3600
    assert mounts.skew_s(before=100, changed=40, after=101) == -60


def test_a_lock_keeps_another_process_out(tmp_path: Path) -> None:
    """N7, between two processes."""
    assert mounts.lock_works(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        mounts.lock_works(tmp_path / "nothing")
