"""Virtual machines for the proofs that need a kernel of their own: Debian's kernel over this machine's own files.

A guest's root is this machine's `/`, read-only by 9p, under a layer of memory: so Python, the virtual environment and this
checkout are there at the same paths, and nothing that a guest writes comes back, but in `share` and on its disks. The kernel is
unpacked, not installed. A guest ends with the process that made it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.house import wait_for

PACKAGES = ("qemu-system-x86", "busybox-static", "cpio")
KERNEL = "linux-image-amd64"
#: Where the unpacked kernel is kept from one run to the next: about 400 MB.
STORE = Path(os.environ.get("SDSPOOL_PROVE_STORE", "/var/tmp/sdspool-prove"))
#: The modules that the first minute of a guest needs; all others it finds below STORE.
EARLY = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "virtio_net", "virtio_blk", "ext4")
BOOT_S = 600.0

INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for module in $(cat /modules); do insmod $module; done
mkdir /host /layer /new
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
mount -t tmpfs -o size=80% none /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work none /new
mkdir -p /new/mnt /new/share /new/root
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=262144 share /new/share
for each in run tmp dev/shm; do mkdir -p /new/$each; done
mount --move /dev /new/dev; mount --move /proc /new/proc; mount --move /sys /new/sys
mkdir -p /new/dev/shm
mount -t tmpfs none /new/run; mount -t tmpfs none /new/dev/shm
mkdir -p /new/lib/modules
ln -sfn @MODULES@ /new/usr/lib/modules/@VERSION@
ln -sfn /bin/busybox /new/usr/sbin/modprobe
hostname @NAME@
ip link set lo up
exec switch_root /new @PYTHON@ -I -S @GUEST@
"""


class CannotRunError(RuntimeError):
    """This machine lacks what a guest needs; the sentence says what, and what to install."""


def missing() -> str:
    """What keeps this machine from running a guest, in a sentence; empty: nothing does."""
    lacking = [tool for tool in ("qemu-system-x86_64", "busybox", "cpio") if not shutil.which(tool)]
    if lacking:
        return f"{', '.join(lacking)} must be installed: apt-get install {' '.join(PACKAGES)}."
    if not _kernels():
        return f"There is no unpacked kernel in {STORE}: ./run.sh prove nfs gets one."
    return ""


def accelerated() -> bool:
    """Whether the processor can run a guest's kernel itself. A /dev/kvm alone does not say so: without the processor's help it
    emulates a stock kernel one instruction at a time, which is slower than qemu's own translation."""
    flags = next((line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), [])
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and not {"vmx", "svm"}.isdisjoint(flags)


def install(packages: Sequence[str] = PACKAGES) -> None:
    """Install Debian packages that are missing, and unpack a kernel. Raises CannotRunError when that cannot be."""
    have = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n"], capture_output=True, text=True)
    lacking = [name for name in packages if f"ii {name}" not in have.stdout.splitlines()]
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        if lacking:
            _do([*as_root, "apt-get", "-qq", "update"])
            _do(
                [
                    *as_root,
                    "apt-get",
                    "-qq",
                    "-y",
                    "-o",
                    "DPkg::Lock::Timeout=300",
                    "install",
                    "--no-install-recommends",
                    *lacking,
                ]
            )
        if not _kernels():
            _unpack_kernel()
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotRunError(f"The tools for the guests could not be installed: {error}.") from error


def _unpack_kernel() -> None:
    """Fetch the kernel that the package KERNEL stands for, and unpack it below STORE; one rename shows it."""
    depends = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=True).stdout
    name = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    draft = STORE / f".draft.{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        _do(["apt-get", "-q", "download", name], cwd=draft)
        _do(["dpkg", "-x", str(next(draft.glob("*.deb"))), str(draft / "tree")])
        version = name.removeprefix("linux-image-")
        _do(["busybox", "depmod", "-b", str(draft / "tree"), version])
        (draft / "tree").rename(STORE / version)
    finally:
        shutil.rmtree(draft)


def _do(command: Sequence[str], cwd: Path | None = None) -> None:
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=cwd,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def _kernels() -> list[Path]:
    return sorted(path for path in STORE.glob("*") if not path.name.startswith(".") and list(path.glob("boot/vmlinuz-*")))


@dataclass(frozen=True)
class Ended:
    """What a command in a guest ended with."""

    status: int
    output: str


class Running:
    """A command that runs in a guest."""

    def __init__(self, guest: Guest, number: int):
        self._guest = guest
        self._number = number
        self.answer: dict[str, Any] | None = None
        self.came = threading.Event()

    def wait(self, timeout_s: float = 120.0) -> Ended:
        """Wait for its end. Raises TimeoutError when it takes longer, RuntimeError when the guest ended."""
        if not self.came.wait(timeout_s):
            raise TimeoutError(f"the command {self._number} in {self._guest.name} takes longer than {timeout_s:g} s")
        if self.answer is None:
            raise RuntimeError(f"the guest {self._guest.name} ended:\n{self._guest.console[-2000:]}")
        return Ended(self.answer["status"], self.answer["output"])

    @property
    def runs(self) -> bool:
        return not self.came.is_set()

    def kill(self) -> None:
        """SIGKILL to it and to what it started."""
        self._guest.tell(kill=self._number)


class Guest:
    """One virtual machine. It begins to boot here, in the main thread: it dies with the thread that made it.

    `links`: its network cards; each is a wire whose ends are two sockets in `folder`, named by the wire and the end ("a" or
    "b"), and has the address given. A wire needs nobody at the other end, so guests may come and go. `disks` are image files.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        links: Sequence[tuple[str, str, str]] = (),
        disks: Sequence[Path] = (),
        memory_mib: int = 512,
        extra: Sequence[str] = (),
    ):
        self.name = name
        self.folder = folder
        self._links = links
        self._console = folder / f"{name}.console"
        self.share = folder / f"{name}.share"
        self.share.mkdir(exist_ok=True)
        kernel = _kernels()[-1]
        for stale in ("port", "monitor"):
            (folder / f"{name}.{stale}").unlink(missing_ok=True)
        faster = ["-accel", "kvm", "-cpu", "host"] if accelerated() else ["-accel", "tcg", "-cpu", "max"]
        command = ["qemu-system-x86_64", *faster, "-m", str(memory_mib), "-smp", "1", "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-no-reboot", "-kernel", str(next(kernel.glob("boot/vmlinuz-*")))]
        command += ["-initrd", str(_initramfs(kernel, name, folder))]
        command += ["-append", "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on"]
        command += ["-serial", f"file:{self._console}"]
        command += ["-qmp", f"unix:{folder / name}.monitor,server=on,wait=off"]
        command += ["-virtfs", "local,path=/,security_model=none,readonly=on,mount_tag=host,multidevs=remap"]
        command += ["-virtfs", f"local,path={self.share},security_model=none,mount_tag=share"]
        command += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        command += [
            "-chardev",
            f"socket,id=port,path={folder / name}.port,server=on,wait=off",
            "-device",
            "virtserialport,chardev=port,name=sdspool",
        ]
        for number, disk in enumerate(disks):
            # Unsafe for this machine's power cut, not for a guest's: what the guest flushed is in this machine's page cache.
            command += [
                "-drive",
                f"file={disk},format=raw,if=none,id=disk{number},cache=unsafe",
                "-device",
                f"virtio-blk-pci,drive=disk{number}",
            ]
        for number, (wire, end, _) in enumerate(links):
            here, there = (folder / f"{wire}.{side}" for side in (end, "b" if end == "a" else "a"))
            mac = f"52:54:00:00:{sum(wire.encode()) % 256:02x}:{ord(end):02x}"
            command += [
                "-netdev",
                f"dgram,id=net{number},local.type=unix,local.path={here},remote.type=unix,remote.path={there}",
            ]
            command += ["-device", f"virtio-net-pci,netdev=net{number},id=card{number},mac={mac},romfile="]
        self._process = subprocess.Popen(
            [*command, *extra],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        self._numbers = itertools.count(1)
        self._running: dict[int, Running] = {}
        self._writing = threading.Lock()
        self._port = self._connect(folder / f"{name}.port")
        self._monitor = self._connect(folder / f"{name}.monitor")
        self._monitor_lines = self._monitor.makefile("r")
        self._monitor_lines.readline()  # the greeting
        self.monitor("qmp_capabilities")
        threading.Thread(target=self._listen, daemon=True).start()

    def booted(self) -> Guest:
        """Wait until it listens, and give its network cards their addresses."""
        self.tell("true").wait(BOOT_S)
        for number, (_, _, address) in enumerate(self._links):
            self.run(f"ip addr add {address}/24 dev eth{number} && ip link set eth{number} up")
        return self

    @property
    def console(self) -> str:
        """What its kernel said."""
        return self._console.read_text(errors="replace")

    def tell(self, command: str = "", **other: object) -> Running:
        running = Running(self, next(self._numbers))
        self._running[running._number] = running
        said = {"number": running._number, **(other or {"command": command})}
        with self._writing:
            self._port.sendall(json.dumps(said).encode() + b"\n")
        return running

    def start(self, command: str) -> Running:
        """Begin a shell command as root in the guest's own copy of this machine's files."""
        return self.tell(command)

    def run(self, command: str, timeout_s: float = 300.0, check: bool = True) -> Ended:
        """Run a shell command. Raises AssertionError with what it wrote when it fails, unless `check` is False."""
        ended = self.tell(command).wait(timeout_s)
        assert ended.status == 0 or not check, f"{self.name}: {command!r} ended with {ended.status}:\n{ended.output}"
        return ended

    def clock_offset_s(self, tries: int = 40) -> float:
        """How far the guest's clock is ahead of this machine's, to about half of the shortest answer's time (< 1 ms)."""
        best = (float("inf"), 0.0)
        for _ in range(tries):
            before = time.time()
            asked = self.tell(clock=True)
            asked.came.wait(10)
            after = time.time()
            assert asked.answer, f"{self.name} does not answer"
            best = min(best, (after - before, asked.answer["time_ns"] / 1e9 - (before + after) / 2))
        return best[1]

    def monitor(self, command: str, **arguments: object) -> Any:
        """A command to qemu's own monitor (QMP)."""
        said = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._monitor.sendall(json.dumps(said).encode() + b"\n")
        while True:
            heard = json.loads(self._monitor_lines.readline())
            if "event" not in heard:
                assert "return" in heard, heard
                return heard["return"]

    def plug(self, plugged_in: bool, card: int = 0) -> None:
        """Pull the cable of a network card, or plug it in again."""
        self.monitor("set_link", name=f"card{card}", up=plugged_in)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Cut its power. What it had not flushed to its disks is gone."""
        if self.runs:
            self._process.kill()
        self._process.wait()
        self._port.close()
        self._monitor.close()

    def _connect(self, path: Path) -> socket.socket:
        def connected() -> socket.socket | None:
            if not self.runs:
                assert self._process.stderr
                raise CannotRunError(f"qemu ended: {self._process.stderr.read().decode(errors='replace').strip()}")
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(path))
            except OSError:
                made.close()
                return None
            return made

        return wait_for(connected, f"qemu's socket {path.name}", 30)

    def _listen(self) -> None:
        try:
            with self._port.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if running := self._running.pop(answer["number"], None):
                        running.answer = answer
                        running.came.set()
        except (OSError, ValueError):
            pass  # the guest was killed
        for running in list(self._running.values()):
            running.came.set()


def make_disk(path: Path, mib: int) -> Path:
    """An empty disk image, sparse."""
    with path.open("wb") as file:
        file.truncate(mib << 20)
    return path


def _initramfs(kernel: Path, name: str, folder: Path) -> Path:
    """The first root of a guest: busybox, the EARLY modules in the order of their dependencies, and INIT."""
    modules = next(kernel.glob("lib/modules/*"))
    lines = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines())
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in lines}
    order: list[str] = []

    def add(path: str) -> None:
        for needed in reversed(lines[path].split()):
            add(needed)
        if path not in order:
            order.append(path)

    for module in (*EARLY, "crc32c_generic", "crc32c_intel", "virtio_rng"):
        if module in by_name:
            add(by_name[module])
    tree = folder / f"{name}.initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for each in ("bin", "proc", "sys", "dev", "lib"):
        (tree / each).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    for path in order:
        shutil.copy(modules / path, tree / "lib" / Path(path).name)
    (tree / "modules").write_text("\n".join(f"/lib/{Path(path).name}" for path in order) + "\n")
    words = {
        "MODULES": str(modules),
        "VERSION": modules.name,
        "NAME": name,
        "PYTHON": str(Path(sys.executable).resolve()),
        "GUEST": str(Path(__file__).with_name("guest.py").resolve()),
    }
    init = INIT
    for word, value in words.items():
        init = init.replace(f"@{word}@", value)
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    archive = folder / f"{name}.initrd"
    with archive.open("wb") as file:
        names = subprocess.run(["find", ".", "-print0"], cwd=tree, capture_output=True, check=True).stdout
        subprocess.run(["cpio", "--quiet", "--null", "-o", "-H", "newc"], cwd=tree, input=names, stdout=file, check=True)
    shutil.rmtree(tree)
    return archive


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
