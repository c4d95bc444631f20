"""`python -m webui`: serve the web app with waitress."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from spooler import heap, logs
from spooler.denylist import DenyListError
from spooler.settings import Settings
from spooler.spool import SpoolError
from webui import refusals
from webui.app import MAX_REQUEST_BYTES, create_app
from webui.guard import Door, reached_by_others
from webui.keys import KeysError
from webui.logged import beside
from webui.office import Office
from webui.proxies import ProxyError, networks
from webui.server import create_server, raise_files

#: Seconds that the index gets to end its piece of work; it may be killed at any point of it.
INDEX_STOP_S = 5.0
#: What stands for every address of a machine; and addresses that nobody has, which are kept for examples (RFC 5737, 3849).
EVERY = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104 - compared with, not bound to
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m webui", about="Serve the web page and the API over a spool.")
    logs.begin("web", settings.log_format, beside)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue of requests is not news, it is load
    raise_files()
    heap.return_large()
    try:
        app = create_app(settings)
        door: Door = app.extensions["door"]
        refusals.install()
        server = create_server(
            app,
            networks(settings.trusted_proxies),
            host=settings.host,
            port=settings.port,
            threads=settings.web_threads,
            # A slow sender may hold a connection but not a thread: server.py says how many, and for how long.
            backlog=2048,
            asyncore_use_poll=True,
            # Reading on while a request is answered is how waitress learns that its client has gone.
            channel_request_lookahead=1,
            channel_timeout=30,
            cleanup_interval=2,
            max_request_header_size=16 * 1024,
            max_request_body_size=MAX_REQUEST_BYTES,
            url_prefix=settings.prefix,
            clear_untrusted_proxy_headers=False,  # proxies.py does, which knows the networks that are trusted
            ident="sdspool",
        )
        # Only now, for it is told once: whoever cannot listen must not keep a key that nobody has seen.
        made = door.keys.add("operator", operator=True, unless=True) if door.keys.in_force() else ""
    except (SpoolError, DenyListError, KeysError, ProxyError, OSError) as error:
        what = f"cannot listen on {settings.host}:{settings.port}: {error}" if isinstance(error, OSError) else str(error)
        print(f"sdspool web: {what}", file=sys.stderr)  # noqa: T201 - before there is a server to log for
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    logging.info("http://%s:%d%s", to_type(settings.host), settings.port, settings.prefix)
    logging.info("%s", who_gets_in(settings, len(door.keys.all())))
    # systemd's journal and whoever collects JSON keep what is said to them, for many to read.
    if made and settings.log_format == "plain" and not os.environ.get("JOURNAL_STREAM"):
        print(f"sdspool web: made the key of `operator`: {made}", file=sys.stderr)  # noqa: T201 - once, and into no log
    gc.freeze()  # what the imports made stays: to look among it for garbage takes ten milliseconds, in the middle of an answer
    with _kept_up(app.extensions["office"]), contextlib.suppress(SystemExit):
        server.run()
    server.close()
    return 0


def to_type(host: str) -> str:
    """What to type into a browser to reach a server that listens on `host`. Where that is every address of this machine, the
    one by which it reaches others; without any, its name."""
    if host in EVERY:
        with contextlib.suppress(OSError), socket.socket(EVERY[host], socket.SOCK_DGRAM) as asked:
            asked.connect((ELSEWHERE[EVERY[host]], 9))  # sends nothing: the way is looked up
            host = asked.getsockname()[0]
        if host in EVERY:
            return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def who_gets_in(settings: Settings, keys: int) -> str:
    """A sentence for whoever starts the server."""
    if keys:
        one = "1 key is" if keys == 1 else f"{keys} keys are"
        return f"Everybody needs a key: {one} in {settings.keys}." + (
            " --open is without effect, for there are some." if settings.open == "on" else ""
        )
    if not reached_by_others(settings):
        return f"Everybody on this machine gets in without a key; with `{key_command(settings)}` people need one."
    return "OPEN: everybody who can reach this machine gets in without a key, and may do everything."


def key_command(settings: Settings) -> str:
    """The command that makes a key, as it works when it is typed here: that of this Python, which may be on nobody's PATH, with
    the file that this server reads, for whoever types it need not have the variable that names it."""
    beside = Path(sys.executable).with_name("sdspool")
    near = str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
    command = [near] if beside.exists() else [sys.executable, "-m", "spooler.cli"]
    keys = [] if settings.keys == Settings.parse([], "", env={}).keys else [f"--keys={settings.keys}"]
    return shlex.join([*command, "key", "add", "NAME", *keys])


@contextlib.contextmanager
def _kept_up(office: Office) -> Iterator[None]:
    """Threads that keep the line of waiting jobs and the index of finished ones up to date while the server runs."""
    stop = threading.Event()
    threading.Thread(target=office.line.keep_up, args=(stop,), name="line", daemon=True).start()
    thread = threading.Thread(target=office.index.run, args=(stop,), name="index", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(INDEX_STOP_S)


def _stop(number: int, frame: FrameType | None) -> None:
    # waitress ends its loop on SystemExit; a job that was accepted is on disk, so there is nothing to wait for.
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
