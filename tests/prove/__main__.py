"""`./run.sh prove [name ...]`: run the proofs and write docs/reliability.md anew."""

import sys

from tests.prove.report import run_all

sys.exit(run_all())
