"""The spool on real kernel NFS: one server, two clients, each a virtual machine with Debian's kernel (qemu.py).

P2 over the N rules of reliability.md: jobs go in on both clients, a spooler runs on each; the server is stopped, killed and
booted again, a client is cut off and comes back. What is counted is read on the server's own disk, not through a client.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.house import wait_for
from tests.prove import qemu
from tests.prove.qemu import Guest, Running
from tests.prove.report import ROOT, Figure, cannot_run, main, report

NAME = "nfs"
PACKAGES = (*qemu.PACKAGES, "nfs-kernel-server", "nfs-common", "e2fsprogs")
EXPORT = "rw,sync,no_subtree_check"
V42, V3 = "vers=4.2", "vers=3"
#: How it is looked, and the mount options, of which the time to discovery is measured.
MOUNTED = (
    *(("listing", options) for options in (V42, f"{V42},actimeo=1", f"{V42},noac", V3)),
    *(
        ("time", f"{V42}{option}")
        for option in ("", ",actimeo=3", ",actimeo=1", ",actimeo=0", ",noac", ",lookupcache=positive")
    ),
    ("time", V3),
    ("time", f"{V3},actimeo=1"),
)
TOOLS = ("mount.nfs", "rpc.nfsd", "rpc.mountd", "rpc.statd", "rpcbind", "nfsdcld", "exportfs")

NET = "mount -t rpc_pipefs none /var/lib/nfs/rpc_pipefs 2>/dev/null; mkdir -p /run/rpcbind /run/sendsigs.omit.d; rpcbind -w"
SERVE = f"""set -e
modprobe nfsd
mount /dev/vda /srv; mkdir -p /srv/small /srv/spool /srv/state; mount /dev/vdb /srv/small
cp -an /var/lib/nfs/. /srv/state/; mount --bind /srv/state /var/lib/nfs
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery /var/lib/nfs/sm /var/lib/nfs/sm.bak
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state 2>/dev/null || true
mount -t nfsd none /proc/fs/nfsd
{NET}
nfsdcld
rpc.statd
exportfs -o {EXPORT},no_root_squash,fsid=0 '*:/srv'
exportfs -o {EXPORT},no_root_squash,fsid=1 '*:/srv/small'
rpc.nfsd @LEASE@ 8
rpc.mountd
"""


class Net:
    """The server, its disks and its clients."""

    def __init__(self, folder: Path, clients: Sequence[str] = ("a", "b"), lease_s: int = 90):
        self.folder = folder
        self._lease_s = lease_s
        self._wires = [(name, "b", f"10.77.{number}.1") for number, name in enumerate(clients, 1)]
        self._disks = [qemu.make_disk(folder / "disk", 1024), qemu.make_disk(folder / "small", 24)]
        for disk in self._disks:
            subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0", str(disk)], check=True)
        self.server = Guest("server", folder, self._wires, self._disks)
        self.clients = {name: Guest(name, folder, [(name, "a", f"10.77.{number}.2")]) for number, name in enumerate(clients, 1)}
        self._serve()
        for client in self.clients.values():
            client.booted().run(f"modprobe nfs; modprobe nfsv4; modprobe nfsv3; {NET}; rpc.statd")

    def _serve(self) -> None:
        self.server.booted().run(SERVE.replace("@LEASE@", f"-L {self._lease_s} -G {self._lease_s}"))

    def address(self, name: str) -> str:
        return next(address for wire, _, address in self._wires if wire == name)

    def mount(self, name: str, options: str, at: str = "/mnt/spool", what: str = "/spool") -> str:
        what = what if "vers=4" in options else f"/srv{what}"  # v4 begins at the export with fsid=0
        self.clients[name].run(f"mkdir -p {at} && mount.nfs {self.address(name)}:{what} {at} -o {options}")
        return at

    def unmount(self, name: str, at: str = "/mnt/spool") -> None:
        self.clients[name].run(f"umount {at}")

    def stop_nfsd(self, seconds: float) -> None:
        """As `systemctl restart nfs-server`, with a pause."""
        self.server.run(f"rpc.nfsd 0; sleep {seconds}; rpc.nfsd -L {self._lease_s} -G {self._lease_s} 8")

    def crash_server(self) -> None:
        """Cut the server's power and boot it again on the same disks."""
        self.server.kill()
        self.server = Guest("server", self.folder, self._wires, self._disks)
        self._serve()
        # As rpc.statd's start does on a machine with systemd: tells v3 clients to take their locks again.
        self.server.run("sm-notify -f || true")

    def work(self, client: str, verb: str, path: str = "/", /, **options: object) -> Running:
        """Begin a verb of nfs_work.py on a client."""
        words = [f"--{key} {value}" for key, value in options.items()]
        python = sys.executable
        err = f"/share/{verb}-{options.get('name', 'one')}.err"
        return self.clients[client].start(
            f"cd {ROOT} && PYTHONPATH={ROOT} {python} -m tests.prove.nfs_work {verb} {path} {' '.join(words)} 2>{err}"
        )

    def result(self, running: Running, timeout_s: float = 300.0) -> dict[str, Any]:
        ended = running.wait(timeout_s)
        if ended.status:
            said = "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.share/*.err") if path.stat().st_size)
            raise AssertionError(f"it ended with {ended.status}:\n{ended.output}\n{said}")
        found: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
        return found

    def stop(self, *names: str, word: str = "stop") -> None:
        for name in names:
            (self.folder / f"{name}.share" / word).touch()

    def clear(self) -> None:
        """Between two parts: no stop file, no error text, an empty spool."""
        for path in self.folder.glob("*.share/*"):
            path.unlink()
        self.server.run("rm -rf /srv/spool/* /srv/spool/.[a-z]* /srv/small/[a-km-z]*")

    def count(self, spool: str) -> dict[str, int]:
        """How many entries each folder of the spool has, on the server's own disk."""
        script = "for d in tmp pending held done failed cancelled rejected; do echo $d $(ls $d | wc -l); done"
        script += "; echo claimed $(ls -d claimed/*/*/ 2>/dev/null | wc -l)"
        out = self.server.run(f"cd /srv/spool/{spool} && {script}").output
        return {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}

    def prompts(self, spool: str, state: str = "done") -> Counter[str]:
        """The prompts of the jobs in a state, each as often as it is there, read on the server's own disk."""
        script = (
            f"cd /srv/spool/{spool}/{state} && find . -name job.json -exec cat {{}} + -exec echo \\; | sed 's/}}{{/}}\\n{{/g'"
        )
        lines = self.server.run(script, 300).output.splitlines()
        return Counter(json.loads(line)["prompt"] for line in lines if line.strip())

    def close(self) -> None:
        for guest in (*self.clients.values(), self.server):
            guest.kill()


@contextmanager
def net(clients: Sequence[str] = ("a", "b"), lease_s: int = 90) -> Iterator[Net]:
    folder = Path(tempfile.mkdtemp(prefix="sdspool-nfs-"))
    made = None
    try:
        made = Net(folder, clients, lease_s)
        yield made
    finally:
        if made:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)


# -- what is asked ------------------------------------------------------------------------------------------------------


def judge(given: Mapping[str, str], done: Counter[str], counts: Mapping[str, int], published: Sequence[str]) -> dict[str, Any]:
    """In against out, as multisets; `published` are the ids that spoolers believe to have shown."""
    wanted = Counter(given.values())
    return {
        "given": len(given),
        "lost": sum((wanted - done).values()),
        "doubled": sum((done - wanted).values()),
        "claimed twice as shown": sum(many - 1 for many in Counter(published).values()),
        "left": {state: many for state, many in counts.items() if many and state not in ("done", "tmp")},
    }


def drained(made: Net, spool: str, total: int, deadline_s: float) -> bool:
    """Wait until all is in done/; False: it did not get there in time."""
    try:
        wait_for(lambda: _all_done(made, spool, total), f"{total} jobs in done/", deadline_s)
    except AssertionError:
        return False
    return True


def _all_done(made: Net, spool: str, total: int) -> bool:
    time.sleep(1)  # a guest counts slowly: asked without a rest it would do nothing else
    return made.count(spool)["done"] >= total


def run_spool(
    made: Net, spool: str, jobs: int, versions: Sequence[str], trouble: Any = None, work_s: float = 0.0, pause_s: float = 0.0
) -> dict[str, Any]:
    """Both clients submit, both run a spooler, until all is done; `trouble(made)` happens meanwhile."""
    made.clear()
    names = list(made.clients)
    for name, version in zip(names, versions, strict=True):
        made.mount(name, version)
    began = time.monotonic()
    path = f"/mnt/spool/{spool}"
    made.clients[names[0]].run(f"mkdir -p {path}")
    made.result(made.work(names[0], "probe", path))
    spoolers = [made.work(name, "spooler", path, name=name, pause=work_s) for name in names]
    intakes = [
        made.work(name, "intake", path, name=f"of-{name}", count=jobs // 2, pause=pause_s, stop="/share/enough")
        for name in names
    ]
    if trouble:
        trouble(made)
    given = {}
    worst = 0.0
    errors: Counter[str] = Counter()
    for each in intakes:
        found = made.result(each, 1800)
        given.update(found["given"])
        errors.update(found["errors"])
        worst = max(worst, found["worst_s"])
    in_time = drained(made, spool, len(given) + 1, DRAINED_S)
    made.stop(*names)
    ended = [made.result(each, 300) for each in spoolers]
    done = made.prompts(spool)
    done.pop("x", None)  # of the probe
    verdict = judge(given, done, made.count(spool), [job for each in ended for job in each["published"]])
    for name in names:
        made.unmount(name)
    return {
        **verdict,
        "in time": in_time,
        "seconds": time.monotonic() - began,
        "submit errors": dict(errors),
        "worst submit s": worst,
        "spoolers": [{key: value for key, value in each.items() if key != "published"} for each in ended],
        "shown by": [len(each["published"]) for each in ended],
    }


def _figure(name: str, found: dict[str, Any]) -> Figure:
    bad = found["lost"] + found["doubled"] + found["claimed twice as shown"] + (not found["in time"]) + bool(found["left"])
    told = sum((Counter(each["told"]) for each in found["spoolers"]), Counter())
    errors = sum((Counter(each["errors"]) for each in found["spoolers"]), Counter(found["submit errors"]))
    longest = {verb: round(max(each["longest_s"][verb] for each in found["spoolers"]), 1) for verb in ("claim", "publish")}
    adopted = [len(each["adopted"]) for each in found["spoolers"]]
    details = (
        f"{found['given']:,} jobs, shown by the two spoolers {found['shown by']}, lost {found['lost']}, "
        f"doubled {found['doubled']}, "
        f"left over {found['left'] or 'none'}; {found['seconds']:.0f} s; longest submit {found['worst submit s']:.1f} s, claim "
        f"{longest['claim']} s, publish {longest['publish']} s; adopted {adopted}; "
        f"told {dict(told)}; errors {dict(errors) or 'none'}"
    )
    return report(NAME, name, "0 lost, 0 doubled, 0 left over", bad, bad == 0, details)


# -- the parts ----------------------------------------------------------------------------------------------------------


def at_work(made: Net, name: str = "a", spool: str = "s", more: int = 10) -> None:
    """Wait until jobs come through, and that client's spooler has one in its hands."""
    first = made.count(spool)["done"]

    def is_at_work() -> bool:
        return made.count(spool)["done"] >= first + more and bool(
            made.server.run(f"ls -d /srv/spool/{spool}/claimed/{name}/*/ 2>/dev/null", check=False).output
        )

    wait_for(is_at_work, f"the spooler of client {name} to be at work", 600)


def restarts(made: Net) -> None:
    for trouble in (lambda: made.stop_nfsd(3), made.crash_server, lambda: made.stop_nfsd(1), made.crash_server):
        at_work(made)
        trouble()


def partition(seconds: float) -> Callable[[Net], None]:
    def cut(made: Net) -> None:
        at_work(made)
        made.clients["a"].plug(False)
        time.sleep(seconds)  # the partition itself: its length is what is tried
        made.clients["a"].plug(True)

    return cut


def locks(made: Net) -> Iterator[Figure]:
    """Does a flock held on one client exclude the other (N7)?"""
    made.clear()
    cases = (
        (V42, V42, True), (V3, V3, True), (V3, V42, True), (V42, V3, True),
        (f"{V3},nolock", V3, False), (f"{V42},local_lock=all", V42, None),
        (f"{V3},local_lock=all", V3, False), (f"{V3},local_lock=flock", V3, False),
    )  # fmt: skip
    for number, (held_by, tried_by, wanted) in enumerate(cases):
        made.mount("a", held_by)
        made.mount("b", tried_by)
        shown = made.clients["a"].run("grep ' /mnt/spool ' /proc/self/mountinfo").output.split(" - ")[1].split(" ", 2)[2]
        words = [word for word in shown.strip().split(",") if "lock" in word]
        holder = made.work("a", "hold", f"/mnt/spool/lock{number}", said=f"/share/said{number}", stop=f"/share/stop{number}")
        said = made.folder / "a.share" / f"said{number}"
        wait_for(lambda said=said, holder=holder: said.exists() or not holder.runs, "the lock to be held", 120)
        tried = made.result(made.work("b", "attempt", f"/mnt/spool/lock{number}"))
        made.stop("a", word=f"stop{number}")
        ended = made.result(holder)
        excluded = not tried["got"]
        yield report(
            NAME,
            f"a lock held on one client ({held_by}) excludes another client ({tried_by})",
            {True: "yes", False: "no: to be warned of", None: "as it is"}[wanted],
            "yes" if excluded else "no",
            wanted is None or excluded == wanted,
            f"mountinfo of the holder shows {','.join(words) or 'nothing about locks'}; {ended['found']}",
        )
        for name in ("a", "b"):
            made.unmount(name)


def lock_in_partition(made: Net, version: str, wait_s: float) -> Figure:
    """The holder is cut off: when does the other client get the lock, and what does the holder find when it is back?"""
    made.clear()
    for name in ("a", "b"):
        made.mount(name, version)
    holder = made.work("a", "hold", "/mnt/spool/lock")
    said = made.folder / "a.share" / "said"
    wait_for(said.exists, "the lock to be held", 120)
    trying = made.work("b", "attempt", "/mnt/spool/lock", wait=wait_s)
    time.sleep(12)  # the other is refused a few times first; without that the figure would only be larger
    made.clients["a"].plug(False)
    tried = made.result(trying, wait_s + 120)
    made.clients["a"].plug(True)
    time.sleep(20)  # the client finds the server again and hears that its lease is over
    made.stop("a")
    ended = made.result(holder, 300)
    for name in ("a", "b"):
        made.unmount(name)
    value = f"the other client had it after {tried['after_s'] - 12:.0f} s" if tried["got"] else f"not within {wait_s:.0f} s"
    return report(
        NAME,
        f"the holder of a lock is cut off ({version})",
        "as it is",
        value,
        True,
        f"back again, the holder finds: {ended['found']}",
    )


def discovery(made: Net, seconds: float, mounted: Sequence[tuple[str, str]] = MOUNTED) -> Iterator[Figure]:
    """From the end of a submit on one client to the first look on the other that sees it, by mount options (N5)."""
    made.clear()
    made.mount("a", V42)
    made.clients["a"].run("mkdir -p /mnt/spool/s")
    made.result(made.work("a", "probe", "/mnt/spool/s"))
    mounts = {}
    for how, options in mounted:
        # nosharecache: each mount has caches of its own, as if it were on a host of its own.
        at = made.mount("b", f"{options},nosharecache", f"/mnt/m{len(mounts)}")
        mounts[f"stat:{at}" if how == "time" else at] = (how, options)
    scanning = made.work("b", "scan", name="s", pause=0.2, mounts=" ".join(mounts))
    time.sleep(25)  # each mount has looked, and keeps what it saw: only then is its cache tried
    submitting = made.work("a", "intake", "/mnt/spool/s", name="d", count=100000, pause=0.7, stop="/share/enough")
    time.sleep(seconds)  # how long is measured; it decides the number of jobs, and no verdict
    made.stop("a", word="enough")
    given = made.result(submitting)["times"]
    time.sleep(75)  # the longest that a directory's attributes are kept
    made.stop("b")
    found = made.result(scanning)
    assert found["devices"] == len(mounts), "the mounts share their caches"
    ahead = made.clients["b"].clock_offset_s() - made.clients["a"].clock_offset_s()
    for mount, (how, options) in mounts.items():
        seen = found["seen"][mount]
        times = sorted(seen[f"{job}.json"] - ahead - at for job, at in given.items() if f"{job}.json" in seen)
        missed = len(given) - len(times)
        p50, p99 = (times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99)) if times else (0.0, 0.0)
        looked = {"listing": "a listing at each look", "time": "a listing when the folder's time changed"}[how]
        yield report(
            NAME,
            f"discovery, {options}, {looked}: p50 / p99",
            "every job is seen",
            f"{p50:.2f} / {p99:.2f} s",
            missed == 0,
            f"{len(times)} jobs, longest {times[-1] if times else 0:.2f} s, {missed} never seen, {found['turns'][mount]} looks",
        )
        made.unmount("b", mount.removeprefix("stat:"))
    made.unmount("a")


def odd(made: Net) -> Iterator[Figure]:
    """Stale handles, silly-rename files, a squashed root, a full export."""
    made.clear()
    made.mount("a", f"{V42},nosharecache")
    made.mount("a", f"{V42},nosharecache", "/mnt/other")
    made.clients["a"].run("mkdir -p /mnt/spool/s")
    made.result(made.work("a", "probe", "/mnt/spool/s"))
    found = made.result(made.work("a", "edges", "/mnt/spool/s", other="/mnt/other/s"))
    good = found["publish"] == "None" and found["claim of what another has"] == "None" and not found["left of it"]
    good = good and all(found[f"{verb}: publish with a silly name"] == "'done'" for verb in ("prepare", "publish"))
    yield report(
        NAME,
        "stale handles, silly-rename files, a job that another has",
        "answers, no wrong move",
        "as it should" if good else "wrong",
        good,
        json.dumps(found),
    )
    made.unmount("a", "/mnt/other")
    made.unmount("a")
    made.mount("a", V42, what="/small")
    made.clients["a"].run("mkdir -p /mnt/spool/s")
    made.result(made.work("a", "probe", "/mnt/spool/s"))
    found = made.result(made.work("a", "full", "/mnt/spool/s", name="f"), 600)
    codes = {each.split()[0] for each in found["errors"]}
    good = (
        not found["lost"]
        and not found["of 0 bytes or cut"]
        and not found["unacknowledged"]
        and found["after"]
        and codes <= {"ENOSPC", "EDQUOT"}
    )
    yield report(
        NAME,
        "a full export: jobs lost, cut or shown unacknowledged",
        "0, and on again when there is room",
        0 if good else 1,
        good,
        json.dumps(found),
    )
    made.unmount("a")
    made.server.run(f"exportfs -u '*:/srv'; exportfs -o {EXPORT},root_squash,fsid=0 '*:/srv'")
    made.mount("a", V42)
    found = made.result(made.work("a", "probe", "/mnt/spool"))
    good = found["create"].startswith("SpoolError") and "PermissionError" in found["submit"] + found["create"]
    yield report(
        NAME,
        "a spooler as root on an export with root_squash",
        "a sentence at its start",
        found["create"],
        found["create"].startswith("SpoolError"),
        json.dumps(found),
    )
    made.unmount("a")
    made.server.run(f"exportfs -u '*:/srv'; exportfs -o {EXPORT},no_root_squash,fsid=0 '*:/srv'")


def why_not() -> str:
    """What keeps this machine from running it, in a sentence; empty: nothing does."""
    lacking = [tool for tool in (*TOOLS, "mkfs.ext4") if not shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")]
    return qemu.missing() or (
        f"{', '.join(lacking)} must be installed: apt-get install {' '.join(PACKAGES)}." if lacking else ""
    )


def why_not_short() -> str:
    """As `why_not`, for the short form: a translated guest takes minutes to boot, so it wants a processor that helps."""
    slow = "The processor does not help virtual machines (no vmx or svm): the guests take minutes, so only ./run.sh prove nfs."
    return why_not() or ("" if qemu.accelerated() else slow)


#: Each restart of the server costs its grace period of 90 s, and the guests are slow.
DRAINED_S = 900.0
PARTS = ("jobs", "restarts", "partition", "locks", "discovery", "odd")


def prove(short: bool, parts: Sequence[str] = PARTS) -> Iterator[Figure]:
    if not short:
        try:
            qemu.install(PACKAGES)
        except qemu.CannotRunError as error:
            yield cannot_run(NAME, "the spool on kernel NFS", "0 lost, 0 doubled", str(error))
            return
    if reason := why_not_short() if short else why_not():
        yield cannot_run(NAME, "the spool on kernel NFS", "0 lost, 0 doubled", reason)
        return
    if short:
        with net(lease_s=10) as made:
            yield _figure("two clients with an intake and a spooler each, v4.2", run_spool(made, "s", 40, (V42, V42)))
        return
    with net() as made:
        if "locks" in parts:
            yield from locks(made)
            for version in (V42, V3):
                yield lock_in_partition(made, version, 240)
        if "odd" in parts:
            yield from odd(made)
        if "discovery" in parts:
            yield from discovery(made, 150)
        if "jobs" in parts:
            yield _figure("two clients with an intake and a spooler each, v4.2", run_spool(made, "s", 2000, (V42, V42)))
            yield _figure("the same, one client on v3", run_spool(made, "s", 1000, (V42, V3)))
        if "partition" in parts:
            found = run_spool(made, "s", 600, (V42, V42), partition(90), work_s=1.0, pause_s=0.2)
            yield _figure("one client cut off for 90 s and back", found)
            found = run_spool(made, "s", 600, (V42, V42), partition(150), work_s=1.0, pause_s=0.2)
            yield _figure("one client cut off for 150 s and back", found)
        if "restarts" in parts:
            found = run_spool(made, "s", 400, (V42, V3), restarts, pause_s=0.1)
            yield _figure("the server stopped twice, and its power cut twice, during renames", found)


if __name__ == "__main__":
    sys.exit(main(prove))
