"""`python -m spooler`: run the spooler."""

from __future__ import annotations

import sys

from spooler import logs
from spooler.serve import serve
from spooler.settings import Settings


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m spooler", about="Run the jobs of a spool on this machine's GPU.")
    logs.begin("spooler", settings.log_format)
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
