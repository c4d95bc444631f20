"""DeepCache: a UNet whose deep blocks are asked at every so many ticks only (`deepcache_interval`).

From one tick (call of the UNet) to the next its deep blocks say nearly the same (Ma, Fang and Wang, "DeepCache: Accelerating
Diffusion Models for Free", CVPR 2024). So what they said is kept, and in between only the outermost blocks are asked: the
first on the way down and the last on the way up, which see the latents at their full size. It is cut between whole blocks;
the paper's own cut leaves more out, and changes the picture more.

In a running batch each row has its own ticks. One call serves those that are due for the deep blocks and those that are not:
the outer blocks see all rows, the deep ones those that are due.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def is_due(tick: int, interval: int) -> bool:
    """Whether the deep blocks are asked at this tick of a pass: at the first, and at each `interval`-th after it."""
    return tick % interval == 0


class Shortcut:
    """A way past a UNet's deep blocks. The UNet itself is left as it is: these are other views of the same blocks.

    Compiled code is not used: a graph is that of a whole call.
    """

    def __init__(self, unet: Any):
        first, last = unet.down_blocks[0], unet.up_blocks[-1]
        end = _Last(last, self)
        self._whole = _view(
            unet,
            down_blocks=[first, *(_Deep(block, self) for block in unet.down_blocks[1:])],
            mid_block=_Deep(unet.mid_block, self),
            up_blocks=[*(_Deep(block, self) for block in unet.up_blocks[:-1]), end],
        )
        # What the first block hands on downwards nobody wants, and what it hands across is what the last one takes.
        self._outer = _view(unet, down_blocks=[_view(first, downsamplers=None)], mid_block=None, up_blocks=[end])
        self.rows = 0
        self.due: torch.Tensor | None = None
        self.kept: torch.Tensor | None = None

    def __call__(
        self, due: torch.Tensor | None, kept: torch.Tensor | None, sample: torch.Tensor, *args: Any, **given: Any
    ) -> tuple[Any, torch.Tensor]:
        """Call the UNet with these arguments.

        `due`: the rows that go through the deep blocks, as indices on the device, None for all of them. `kept`: what the deep
        blocks said to each row last, (rows, channels, h, w); only what it has of the others is looked at. Returned is what the
        UNet returns, and what is to be kept now.
        """
        self.rows, self.due, self.kept = len(sample), due, kept
        network = self._whole if due is None or len(due) else self._outer
        if network is self._outer and given.get("mid_block_additional_residual") is not None:
            given["mid_block_additional_residual"] = sample.new_zeros(())  # a ControlNet's word to a block that is not asked
        try:
            said = network.forward(sample, *args, **given)  # not by way of hooks: they are the caller's
            assert self.kept is not None  # noqa: S101 - the last block has seen to it
            return said, self.kept
        finally:
            self.due = self.kept = None


class _Part:
    """A block in the place of which this is called; what the UNet asks of it besides."""

    def __init__(self, block: Any, shortcut: Shortcut):
        self.resnets = block.resnets
        self.has_cross_attention = getattr(block, "has_cross_attention", False)
        self._block = block
        self._shortcut = shortcut


class _Deep(_Part):
    """A deep block, which sees the rows that are due."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        due = self._shortcut.due
        if due is None:
            return self._block(*args, **given)
        return self._block(*self._of_those(due, args), **self._of_those(due, given))

    def _of_those(self, due: torch.Tensor, given: Any) -> Any:
        """The rows that are due, of whatever has all rows of the call. What comes from other deep blocks has only them."""
        match given:
            case torch.Tensor() if given.ndim and len(given) == self._shortcut.rows:
                return given.index_select(0, due)
            case dict():
                return {name: self._of_those(due, each) for name, each in given.items()}
            case list() | tuple():
                return tuple(self._of_those(due, each) for each in given)
        return given


class _Last(_Part):
    """The last block, to which the deep ones speak: now, or when they did last."""

    def __call__(self, hidden_states: torch.Tensor, **given: Any) -> Any:
        shortcut = self._shortcut
        if shortcut.due is None:
            shortcut.kept = hidden_states
        elif len(shortcut.due):
            assert shortcut.kept is not None  # noqa: S101 - a row that is not due was due before
            shortcut.kept = shortcut.kept.index_copy(0, shortcut.due, hidden_states)
        return self._block(hidden_states=shortcut.kept, **given)


def _view(module: Any, **parts: Any) -> Any:
    """A module with the same weights and other parts."""
    view = copy.copy(module)
    vars(view).pop("forward", None)  # compiled code's
    vars(view).update(parts)  # these hide the registered ones of those names, and leave them where they are
    return view


@contextmanager
def kept_between(pipe: Any, interval: int) -> Iterator[None]:
    """Have one call of a pipeline ask its UNet's deep blocks at every `interval`-th tick only."""
    unet, shortcut, ticks = pipe.unet, Shortcut(pipe.unet), 0
    kept: torch.Tensor | None = None
    nobody = torch.zeros(0, dtype=torch.long, device=next(unet.parameters()).device)

    def forward(sample: torch.Tensor, *args: Any, **given: Any) -> Any:
        nonlocal ticks, kept
        if kept is not None:  # where guidance has ended the rows with the prompt are left, which are the last
            kept = kept[-len(sample) :]
        said, kept = shortcut(None if is_due(ticks, interval) else nobody, kept, sample, *args, **given)
        ticks += 1
        return said

    pipe.unet = _view(unet, forward=forward)
    try:
        yield
    finally:
        pipe.unet = unet
