"""Guidance that ends before the last step (`guidance_cutoff`), in pipelines that are called whole.

Where a call of the network has a row with the prompt and one without for each picture, the one without leaves it: from then on
the network is asked half as much. diffusers has callbacks for that (SDCFGCutoffCallback), but for one picture a call, and for
some of its pipelines only: not all hand their masks and ControlNets' pictures to a callback. So it is done where all are alike,
at the door of the network: in comes the half with the prompt, out goes its word for both halves. The pipeline's guidance, one
half plus so many times their difference, is then that word itself, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def guided_ticks(ticks: int, part: float) -> int:
    """How many of a pass's ticks (calls of the network) have guidance: the first `part` of them, one at least."""
    return max(1, round(ticks * part))


class Cutoff:
    """That of one call of a pipeline, which draws so many pictures."""

    def __init__(self, pipe: Any, part: float, pictures: int):
        self._pipe = pipe
        self._part = part
        self._both = 2 * pictures  # rows: without the prompt, then with it
        self._is_over = False
        self._is_halved = False  # the call that a network is at

    def ticked(self, tick: int, ticks: int) -> None:
        """So many of the pass's ticks are over."""
        self._is_over = tick >= guided_ticks(ticks, self._part)
        if self._is_over and _has_rows_in_lists(self._pipe):
            self._pipe._guidance_scale = 0.0  # it looks at each step whether there is guidance, and lays its lists out anew

    @contextmanager
    def at_the_door(self) -> Iterator[None]:
        """Look after what goes into the pipeline's networks, and what comes out."""
        parts = [getattr(self._pipe, name, None) for name in ("unet", "transformer", "controlnet")]
        networks = [] if _has_rows_in_lists(self._pipe) else [part for part in parts if part is not None]
        hooks = [each.register_forward_pre_hook(self._enter, with_kwargs=True) for each in networks]
        hooks += [each.register_forward_hook(self._leave) for each in networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        # A job that has no guidance anyway, or a distilled model, asks for one half alone from the beginning.
        latents = next(each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor) and each.ndim == 4)
        self._is_halved = self._is_over and len(latents) == self._both
        return (self._half(args), self._half(kwargs)) if self._is_halved else None

    def _leave(self, network: Any, args: tuple[Any, ...], said: Any) -> Any:
        return _doubled(said) if self._is_halved else None

    def _half(self, given: Any) -> Any:
        """The rows with the prompt, of whatever has a row for each picture with and without."""
        match given:
            case torch.Tensor() if given.ndim and len(given) == self._both:
                return given[self._both // 2 :]
            case dict():
                return {name: self._half(each) for name, each in given.items()}
            case list() | tuple():
                return type(given)(self._half(each) for each in given)
        return given


def _has_rows_in_lists(pipe: Any) -> bool:
    """Whether the network is given lists of rows and no tensors: Z-Image."""
    return type(pipe).__name__.startswith("ZImage")


def _doubled(said: Any) -> Any:
    match said:
        case torch.Tensor():
            return torch.cat([said, said])
        case list() | tuple():
            return type(said)(map(_doubled, said))
    return said
