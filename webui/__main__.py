"""`python -m webui`: serve the web app with waitress."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from waitress.server import create_server

from spooler.denylist import DenyListError
from spooler.settings import Settings
from spooler.spool import SpoolError
from webui import refusals
from webui.app import MAX_REQUEST_BYTES, create_app
from webui.office import Office

#: Seconds that the index gets to end its piece of work; it may be killed at any point of it.
INDEX_STOP_S = 5.0


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m webui", about="Serve the web page and the API over a spool.")
    logging.basicConfig(level=logging.INFO, format="sdspool web: %(message)s", stream=sys.stderr)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue of requests is not news, it is load
    try:
        app = create_app(settings)
        refusals.install()
        server = create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.web_threads,
            # A slow sender may hold a connection but not a thread; so allow many, and give up on the silent soon.
            connection_limit=1000,
            asyncore_use_poll=True,
            # Reading on while a request is answered is how waitress learns that its client has gone.
            channel_request_lookahead=1,
            channel_timeout=30,
            max_request_header_size=16 * 1024,
            max_request_body_size=MAX_REQUEST_BYTES,
            clear_untrusted_proxy_headers=True,
            ident="sdspool",
        )
    except (SpoolError, DenyListError, OSError) as error:
        what = f"cannot listen on {settings.host}:{settings.port}: {error}" if isinstance(error, OSError) else str(error)
        print(f"sdspool web: {what}", file=sys.stderr)  # noqa: T201 - before there is a server to log for
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logging.info("http://%s:%d", host, settings.port)
    with _kept_up(app.extensions["office"]), contextlib.suppress(SystemExit):
        server.run()
    server.close()
    return 0


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
