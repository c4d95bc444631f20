"""A stand-in: see torchvision/__init__.py."""

from __future__ import annotations

from typing import Any, NoReturn


def _missing(name: str) -> NoReturn:
    raise RuntimeError(f"torchvision's {name} is not here: this is the stand-in of the tests.")


class InterpolationMode:
    def __init__(self, *arguments: Any, **options: Any):
        _missing("InterpolationMode")


def rotate(*arguments: Any, **options: Any) -> NoReturn:
    _missing("rotate")


def normalize(*arguments: Any, **options: Any) -> NoReturn:
    _missing("normalize")
