"""Small JSON files in the cache folder: what can be found out again, so nothing is synced and a bad file is ignored."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Notes:
    """A dictionary that is kept in a file."""

    def __init__(self, path: Path):
        self._path = path
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            found = {}
        self.found: dict[str, Any] = found if isinstance(found, dict) else {}

    def write(self) -> None:
        """Keep what is in `found`; a cache that cannot be written is told of and does no harm."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".draft")
            draft.write_text(json.dumps(self.found, indent=1))
            draft.replace(self._path)
        except OSError as error:
            log.warning("nothing can be noted in %s: %s", self._path, error)
