"""The command `sdspool`. It works on the spool's folders; no server is asked.

Exit status: 0 done · 1 the job failed, was cancelled or came out otherwise, what was asked could not be done as things are, or
fsck or the doctor found something · 2 the command line or the job is wrong, or there is no spool · 3 there is no such job.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from spooler import __version__, doctor
from spooler.commands import changing, keys, looking, printing, prune, submitting, upkeep, working
from spooler.commands.common import DONE, WRONG, add_json, add_verb, tell
from spooler.mistakes import JobError
from spooler.settings import Settings
from spooler.spool import SpoolError


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        status = run(options)
        sys.stdout.flush()
        return status
    except JobError as error:
        for mistake in error.mistakes:
            tell(str(mistake))
        return WRONG
    except BrokenPipeError:  # `sdspool ls | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush of Python has no say
        return DONE
    except (SpoolError, OSError) as error:
        tell(str(error))
        return WRONG
    except KeyboardInterrupt:
        tell("no longer waiting; the job goes on")
        return 130


def _parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="sdspool", description=about[0], epilog=about[2])
    parser.add_argument("--version", action="version", version=f"sdspool {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for module in (submitting, looking, changing, upkeep, prune, keys, printing, working):
        module.add(verbs)
    examine = add_verb(verbs, "doctor", doctor.run, "Tell what this machine can do for sdspool, and what to change.")
    add_json(examine)
    Settings.add_options(examine)
    return parser


if __name__ == "__main__":
    sys.exit(main())
