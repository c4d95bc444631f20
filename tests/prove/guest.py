"""Runs in a guest of qemu.py as its first process: does what the host says over a virtio-serial port.

A line of JSON each way. Host: {"number", "command"} starts a shell command, {"number", "kill"} ends the one of that number,
{"number", "clock"} asks for the time. Guest: {"number", "status", "output"}, or {"number", "time_ns"}. It imports nothing of
the project.
"""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path


def serve(port: int) -> None:
    running: dict[int, subprocess.Popen[bytes]] = {}
    writing = threading.Lock()

    def answer(**fields: object) -> None:
        line = json.dumps(fields).encode() + b"\n"
        with writing:
            while line:
                line = line[os.write(port, line) :]

    def finish(number: int, process: "subprocess.Popen[bytes]") -> None:
        output, _ = process.communicate()
        answer(number=number, status=process.returncode, output=output.decode(errors="replace"))

    rest = b""
    while True:
        piece = os.read(port, 65536)
        if not piece:  # the host is not listening yet
            time.sleep(0.05)  # a poll; the host ends the guest when it has waited long enough
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "clock" in said:
                answer(number=said["number"], time_ns=time.time_ns())
            elif "kill" in said:
                if (process := running.get(said["kill"])) and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                answer(number=said["number"], status=0, output="")
            else:
                process = subprocess.Popen(  # noqa: S602 - a shell is what is asked for
                    said["command"],
                    shell=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                running[said["number"]] = process
                threading.Thread(target=finish, args=(said["number"], process), daemon=True).start()


def main() -> None:
    if os.fork():  # the first process must bury the orphans, which would spoil the waiting of the other
        while True:
            os.wait()
    os.setsid()
    serve(os.open(next(Path("/dev").glob("vport*")), os.O_RDWR))


if __name__ == "__main__":
    main()
