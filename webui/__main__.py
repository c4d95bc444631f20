"""`python -m webui`: serve the web app with waitress."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from types import FrameType

from waitress.server import create_server

from spooler.denylist import DenyListError
from spooler.settings import Settings
from spooler.spool import SpoolError
from webui.app import MAX_REQUEST_BYTES, create_app
from webui.office import Office


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m webui", about="Serve the web page and the API over a spool.")
    logging.basicConfig(level=logging.INFO, format="sdspool web: %(message)s", stream=sys.stderr)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue of requests is not news, it is load
    stop = threading.Event()
    try:
        app = create_app(settings)
        office: Office = app.extensions["office"]
        threading.Thread(target=office.line.keep_up, args=(stop,), name="line", daemon=True).start()
        server = create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.web_threads,
            # A slow sender may hold a connection but not a thread; so allow many, and give up on the silent soon.
            connection_limit=1000,
            asyncore_use_poll=True,
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
    with contextlib.suppress(SystemExit):
        server.run()
    stop.set()
    server.close()
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    # waitress ends its loop on SystemExit; a job that was accepted is on disk, so there is nothing to wait for.
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
