"""`python -m spooler`: run the spooler."""

from __future__ import annotations

import logging
import sys

from spooler.service import serve
from spooler.settings import Settings


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m spooler", about="Run the jobs of a spool on this machine's GPU.")
    logging.basicConfig(level=logging.INFO, format="sdspool spooler: %(message)s", stream=sys.stderr)
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
