"""The former name of `catalogue` and `library`, which service.py still uses. To be removed with that."""

from spooler.catalogue import Catalogue, resolve, too_large
from spooler.library import ModelError, scan

__all__ = ["Catalogue", "ModelError", "resolve", "scan", "too_large"]
