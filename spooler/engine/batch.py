"""The running batch: pictures at different steps of different samplers share each call of the UNet.

    join     between any two ticks; a row brings its own texts, guidance, seed, sampler, number of steps, picture, mask
    tick     1. the latents of all rows, scaled        2. one call of the UNet, with and without the prompt side by side
             3. guidance                               4. one update from the rows' tables (table.py)      5. masks
    leave    when done, or cancelled: the others do not notice

What they share is the model with its LoRAs, and the size. Between two ticks without a join or leave nothing waits for the
device: the tables lie there, each row's tick is counted there and here, and here nobody looks at a tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from spooler.engine import device as devices
from spooler.engine.deepcache import Shortcut
from spooler.engine.row import Row
from spooler.engine.table import FACTORS, OF_IMAGE, OF_NOISE, SCALE, TIME, step_arguments


class Batch:
    """The rows of one model at one size.

    `sizes` are the numbers of UNet rows that calls are filled up to, ascending, where a graph is compiled for each: past the
    last one, and without any, a call is as large as it is. `most` is how many rows one call may have, when memory is short.
    """

    def __init__(
        self, unet: Any, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (), most: int | None = None
    ):
        self.most = most
        self._unet = unet
        self._device = device
        self._dtype = dtype
        self._sizes = sizes
        self._rows: list[Row] = []
        self._laid: _Laid | None = None
        self._is_stale = False  # after a step that ended something: the tensors must be laid out anew

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        return [row.name for row in self._rows]

    @property
    def is_laid(self) -> bool:
        """Whether nobody has joined or left since the last tick: the tensors lie as they are wanted."""
        return self._laid is not None

    @property
    def is_whole(self) -> bool:
        """Whether the next tick asks all of the UNet for all rows: only such a one tells how long a call takes."""
        return not self._is_stale and all(row.is_due for row in self._rows)

    def join(self, row: Row) -> None:
        """Take the row in. Raises ValueError if it is not of these rows' kind; the message names what."""
        for other in self._rows[:1]:
            for what, mine, theirs in (
                ("size", row.state.shape[1:], other.state.shape[1:]),
                ("width of the prompt's embedding", row.texts.prompt.shape[-1], other.texts.prompt.shape[-1]),
                ("conditions", _kind(row), _kind(other)),
            ):
                if mine != theirs:
                    raise ValueError(f"The {what} of a row must be that of the batch, {theirs}, but is {mine}.")
        if row.name in self.names:
            raise ValueError(f"There is a row {row.name!r} in the batch already.")
        self._settle()
        self._rows.append(row)

    def leave(self, name: str) -> Row:
        """Take the row out, wherever it is; the others go on. Raises KeyError if there is none of that name."""
        if name not in self.names:
            raise KeyError(name)
        self._settle()
        return self._rows.pop(self.names.index(name))

    def latents(self, name: str) -> torch.Tensor:
        """A row's latents as they are now, for a preview: (channels, h, w), on the device. Raises ValueError for a stranger."""
        index = self.names.index(name)
        return self._laid.state[index, 0] if self._laid else self._rows[index].latents

    @torch.inference_mode()
    def tick(self) -> list[Row]:
        """Move every row on by one call of the UNet; the rows that are done have left.

        When it raises torch.OutOfMemoryError, lower `most` and call it again: it goes on where it was.
        """
        if self._rows and not self._is_stale:
            self._is_stale = self._stepped()
        if not self._is_stale:
            return []
        self._settle()
        done = [row for row in self._rows if row.is_done]
        self._rows = [row for row in self._rows if not row.is_done]
        self._is_stale = False
        return done

    def _stepped(self) -> bool:
        """Move every row on; if this raises, none. Returns whether a row is done, or one UNet row less: its guidance ended."""
        laid = self._laid = self._laid or _lay(self._rows, self._unet, self._sizes, self._device, self._dtype)
        now = laid.numbers[laid.each, laid.at]  # (rows, 4 + factors)
        before = laid.state
        word = self._asked(laid, before[:, 0] * _wide(now[:, SCALE]), now[:, TIME])

        slots = before.shape[1] - 1
        with _chance_kept(self._rows):
            after = _updated(before, word, self._drawn(before.shape[2:]), now[:, FACTORS:].reshape(-1, 1 + slots, 3 + slots))
            for index, row in enumerate(self._rows):
                if row.scheduler is not None:
                    after[index, 0] = _stepped(row, word[index], before[index, 0])
            if laid.areas is not None:
                masks, images, noises = laid.areas
                kept = _wide(now[:, OF_IMAGE]) * images + _wide(now[:, OF_NOISE]) * noises
                after[:, 0] = (1 - masks) * kept + masks * after[:, 0]
            laid.at += 1
        laid.state = after
        guided = [row.is_guided for row in self._rows]
        for row in self._rows:
            row.tick += 1
        return guided != [row.is_guided for row in self._rows] or any(row.is_done for row in self._rows)

    def _settle(self) -> None:
        """Give every row its own state back: the tensors are laid out anew at the next tick."""
        if self._laid:
            for index, (row, state) in enumerate(zip(self._rows, self._laid.state, strict=True)):
                row.state = state[: len(row.state)].clone()
                if self._laid.kept is not None and row.deepcache_interval > 1:
                    places = [place for place, whose in enumerate(self._laid.whose) if whose == index]
                    row.kept = torch.stack([self._laid.kept[place] for place in places])
        self._laid = None

    # -- the parts of a tick -------------------------------------------------------------------------------------------------

    def _asked(self, laid: _Laid, scaled: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the UNet says to the scaled latents, with guidance: (rows, channels, h, w) in float32."""
        seen = scaled.to(self._dtype)
        if laid.beside is not None:
            seen = torch.cat([seen, laid.beside], dim=1)
        seen, times = seen.index_select(0, laid.source), times.index_select(0, laid.source)
        most = self.most or len(seen)
        parts = [self._called(laid, seen, times, slice(first, first + most)) for first in range(0, len(seen), most)]
        said = torch.cat([part for part, _ in parts]).float()
        if laid.shortcut:
            laid.kept = torch.cat([kept for _, kept in parts if kept is not None])
        without, with_prompt = said.index_select(0, laid.without_prompt), said.index_select(0, laid.with_prompt)
        return without + laid.guidance * (with_prompt - without)

    def _called(
        self, laid: _Laid, seen: torch.Tensor, times: torch.Tensor, part: slice
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the UNet says to a part of its rows, and what its deep blocks said, where that is kept."""
        given: dict[str, Any] = {
            "sample": seen[part],
            "timestep": times[part],
            "encoder_hidden_states": laid.texts[part],
            "encoder_attention_mask": None if laid.text_mask is None else laid.text_mask[part],
            "timestep_cond": None if laid.told_guidance is None else laid.told_guidance[part],
            "added_cond_kwargs": None if laid.added is None else {name: each[part] for name, each in laid.added.items()},
            "return_dict": False,
        }
        if laid.shortcut is None:
            return self._unet(**given)[0], None
        whose = laid.whose[part]
        due = [place for place, index in enumerate(whose) if self._rows[index].is_due]
        those = None if len(due) == len(whose) else devices.there(torch.tensor(due, dtype=torch.long), self._device)
        (said,), kept = laid.shortcut(those, None if laid.kept is None else laid.kept[part], **given)
        return said, kept

    def _drawn(self, shape: torch.Size) -> torch.Tensor | None:
        """Fresh noise for the rows whose samplers want it now, each from its own generator; None if none does."""
        wanted = [row.table.draws[row.tick] if row.scheduler is None else None for row in self._rows]
        if not any(wanted):
            return None
        noise = torch.zeros(len(self._rows), *shape)
        for index, (row, precision) in enumerate(zip(self._rows, wanted, strict=True)):
            if precision:
                dtype = precision if isinstance(precision, torch.dtype) else self._dtype
                noise[index] = torch.randn((1, *shape), generator=row.generator, dtype=dtype)[0]
        return devices.there(noise, self._device)


@contextmanager
def _chance_kept(rows: Sequence[Row]) -> Iterator[None]:
    """What raises within has drawn nothing from the rows' generators, and moved none of their schedulers on."""
    drawing = [row for row in rows if row.scheduler is not None or row.table.draws[row.tick]]
    before = [(row, row.generator.get_state(), _state_of(row.scheduler)) for row in drawing]
    try:
        yield
    except BaseException:
        for row, chance, state in before:
            row.generator.set_state(chance)
            if row.scheduler is not None:
                vars(row.scheduler).update(state)
        raise


def _state_of(scheduler: Any) -> dict[str, Any]:
    """What a scheduler that steps may change of itself: it puts other things into its lists, and changes no tensor."""
    known = {} if scheduler is None else vars(scheduler)
    return {name: value.copy() if isinstance(value, list) else value for name, value in known.items()}


def _updated(state: torch.Tensor, word: torch.Tensor, noise: torch.Tensor | None, factors: torch.Tensor) -> torch.Tensor:
    """The fused update: (rows, 1 + slots, channels, h, w).

    Sums of products of elements, one column of factors after the other. No matrix product: its TF32 would be too coarse on
    a GPU, and the order of its sums depends on how many rows there are.
    """
    after = torch.zeros_like(state)
    for column, given in enumerate((state[:, 0], word, noise, *state[:, 1:].unbind(1))):
        if given is not None:
            after.addcmul_(factors[:, :, column, None, None, None], given[:, None])
    return after


def _stepped(row: Row, word: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The row's next latents as its own scheduler makes them, where the sampler is not linear."""
    scheduler = row.scheduler
    arguments = step_arguments(scheduler)
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = row.generator
    timestep = scheduler.timesteps[len(scheduler.timesteps) - row.table.ticks + row.tick]
    after: torch.Tensor = scheduler.step(word[None], timestep, latents[None], **arguments, return_dict=False)[0]
    return after[0]


@dataclass
class _Laid:
    """The tensors of all rows, as they lie on the device until somebody joins or leaves.

    A guided row has two UNet rows. Those without the prompt come first, in the rows' order, then each row's with it, then more
    of the last to fill a call up.
    """

    state: torch.Tensor  # (rows, 1 + slots, channels, h, w), float32
    numbers: torch.Tensor  # (rows, ticks, ...) of the tables
    each: torch.Tensor  # 0, 1, 2, ... for each row
    at: torch.Tensor  # the tick of each row
    guidance: torch.Tensor  # (rows, 1, 1, 1)
    source: torch.Tensor  # whose each UNet row is
    with_prompt: torch.Tensor  # where each row's is
    without_prompt: torch.Tensor  # the same one where a row is not guided
    texts: torch.Tensor  # (UNet rows, length, dim)
    text_mask: torch.Tensor | None  # (UNet rows, length), if they are not all of one length
    added: dict[str, torch.Tensor] | None  # SDXL's
    told_guidance: torch.Tensor | None
    beside: torch.Tensor | None
    areas: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None  # masks, images, noises
    whose: Sequence[int]  # `source`, here
    shortcut: Shortcut | None  # where a row's deep blocks are not asked at each tick
    kept: torch.Tensor | None = None  # what they said last, (UNet rows, channels, h, w)


def _lay(rows: Sequence[Row], unet: Any, sizes: Sequence[int], device: torch.device, dtype: torch.dtype) -> _Laid:
    """Lay out the rows' tensors."""

    def there(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        return devices.there(tensor, device, dtype)

    def stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """In one tensor of the UNet's precision; None if the rows have no such thing. They all have it, or none has."""
        held = [tensor for tensor in tensors if tensor is not None]
        return there(torch.stack(held), dtype) if held else None

    # 1. What the samplers know.
    slots = max(row.table.slots for row in rows)
    state = torch.zeros(len(rows), 1 + slots, *rows[0].state.shape[1:], device=device)
    numbers = torch.zeros(len(rows), max(row.table.ticks for row in rows), FACTORS + (1 + slots) * (3 + slots))
    for index, row in enumerate(rows):
        state[index, : len(row.state)] = row.state
        numbers[index, : row.table.ticks] = row.table.widened(slots)

    # 2. The UNet's rows.
    guided = [index for index, row in enumerate(rows) if row.is_guided]
    source = [*guided, *range(len(rows))]
    with_prompt = range(len(guided), len(source))
    without = [guided.index(index) if index in guided else with_prompt[index] for index in range(len(rows))]
    prompts = [rows[index].texts.negative_side for index in guided] + [row.texts.prompt_side for row in rows]
    shortcut = Shortcut(unet) if any(row.deepcache_interval > 1 for row in rows) else None
    larger = () if shortcut else (size for size in sizes if size >= len(source))  # past deep blocks nothing is compiled
    more = next(iter(larger), len(source)) - len(source)
    source, prompts = [*source, *source[-1:] * more], [*prompts, *prompts[-1:] * more]
    texts, text_mask = _side_by_side([text for text, _ in prompts])
    pooled = stacked([None if each is None else each[0] for _, each in prompts])
    time_ids = stacked([rows[index].time_ids for index in source])

    # 3. What is laid over the latents.
    areas = None
    if any(row.area for row in rows):
        nothing = torch.zeros_like(state[0, 0])
        parts = [
            (row.area.mask, row.area.image, row.area.noise) if row.area else (nothing[:1] + 1, nothing, nothing) for row in rows
        ]
        masks, images, noises = (torch.stack(each) for each in zip(*parts, strict=True))
        areas = masks, images, noises
    return _Laid(
        state=state,
        numbers=there(numbers),
        each=torch.arange(len(rows), device=device),
        at=there(torch.tensor([row.tick for row in rows])),
        guidance=there(_wide(torch.tensor([row.guidance_scale for row in rows]))),
        source=there(torch.tensor(source)),
        with_prompt=there(torch.tensor(list(with_prompt))),
        without_prompt=there(torch.tensor(without)),
        texts=there(texts, dtype),
        text_mask=None if text_mask is None else there(text_mask),
        added=None if pooled is None or time_ids is None else {"text_embeds": pooled, "time_ids": time_ids},
        told_guidance=stacked([rows[index].told_guidance for index in source]),
        beside=stacked([row.beside for row in rows]),
        areas=areas,
        whose=source,
        shortcut=shortcut,
        kept=_kept_of(rows, source),
    )


def _kept_of(rows: Sequence[Row], whose: Sequence[int]) -> torch.Tensor | None:
    """What the UNet's deep blocks said last to each of its rows; zeros to those that are due now, None if all are."""
    held = [row.kept for row in rows if row.kept is not None]
    if not held:
        return None
    nothing = torch.zeros_like(held[0][0])
    left = {index: list(row.kept) for index, row in enumerate(rows) if row.kept is not None}
    # From the end, where those with the prompt are: the one without is the one that goes when guidance ends.
    found = [left[index].pop() if left.get(index) else nothing for index in reversed(whose)]
    return torch.stack(found[::-1])


def _side_by_side(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings (1, length, dim) in one tensor, and a mask if their lengths differ: what fills them up is not looked at."""
    length = max(text.shape[1] for text in texts)
    if all(text.shape[1] == length for text in texts):
        return torch.cat(list(texts)), None
    filled = torch.cat([torch.nn.functional.pad(text, (0, 0, 0, length - text.shape[1])) for text in texts])
    return filled, torch.tensor([[place < text.shape[1] for place in range(length)] for text in texts])


def _wide(values: torch.Tensor) -> torch.Tensor:
    """One number for each row, shaped to be multiplied with latents."""
    return values[:, None, None, None]


def _kind(row: Row) -> tuple[bool, bool, bool]:
    """What of the UNet's inputs the row has: all rows have the same."""
    return row.time_ids is not None, row.beside is not None, row.told_guidance is not None
