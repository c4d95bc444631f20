"""The running batch: pictures at different steps of different samplers share each call of the UNet.

    join     between any two ticks; a row brings its own texts, guidance, seed, sampler, number of steps, picture, mask
    tick     1. the latents of all rows, scaled        2. one call of the UNet, with and without the prompt side by side
             3. guidance                               4. one update from the rows' tables (table.py)      5. masks
    leave    when done, or cancelled: the others do not notice

What they share is the model with its LoRAs, and the size. Between two ticks without a join or leave nothing waits for the device:
the tables lie there, each row's tick is counted there and here, and here nobody looks at a tensor.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from spooler.engine.row import Row
from spooler.engine.table import FACTORS, OF_IMAGE, OF_NOISE, SCALE, TIME, step_arguments


class Batch:
    """The rows of one model at one size.

    `sizes` are the numbers of UNet rows that calls are filled up to, ascending, where a graph is compiled for each: past the
    last one, and without any, a call is as large as it is. `most` is how many rows one call may have, when memory is short.
    """

    def __init__(self, unet: Any, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (), most: int | None = None):
        self.most = most
        self._unet = unet
        self._device = device
        self._dtype = dtype
        self._sizes = sizes
        self._rows: list[Row] = []
        self._is_arranged = True

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        return [row.name for row in self._rows]

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
        self._settle()
        for index, row in enumerate(self._rows):
            if row.name == name:
                return self._rows.pop(index)
        raise KeyError(name)

    def latents(self, name: str) -> torch.Tensor:
        """A row's latents as they are now, for a preview: (channels, h, w), on the device."""
        index = self.names.index(name)
        return self._state[index, 0] if self._is_arranged else self._rows[index].latents

    @torch.inference_mode()
    def tick(self) -> list[Row]:
        """Move every row on by one call of the UNet; the rows that are done have left.

        When it raises torch.OutOfMemoryError nothing has happened: lower `most`, and call it again.
        """
        if not self._rows:
            return []
        if not self._is_arranged:
            self._arrange()
        now = self._numbers[self._each, self._at]  # (rows, 4 + factors)
        state = self._state
        word = self._asked(state[:, 0] * _wide(now[:, SCALE]), now[:, TIME])

        # From here on chance is drawn, and there is no way back.
        state = self._updated(state, word, now[:, FACTORS:].unflatten(1, (state.shape[1], -1)))
        for index, row in enumerate(self._rows):
            if row.scheduler is not None:
                state[index, 0] = _stepped(row, word[index], self._state[index, 0])
        if self._masks is not None:
            kept = _wide(now[:, OF_IMAGE]) * self._images + _wide(now[:, OF_NOISE]) * self._noises
            state[:, 0] = (1 - self._masks) * kept + self._masks * state[:, 0]
        self._state = state
        self._at += 1
        for row in self._rows:
            row.tick += 1
        done = [row for row in self._rows if row.is_done]
        if done:
            self._settle()
            self._rows = [row for row in self._rows if not row.is_done]
        return done

    # -- the parts of a tick ---------------------------------------------------------------------------------------------------

    def _asked(self, scaled: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the UNet says to the scaled latents, with guidance: (rows, channels, h, w) in float32."""
        seen = scaled.to(self._dtype)
        if self._beside is not None:
            seen = torch.cat([seen, self._beside], dim=1)
        seen, times = seen.index_select(0, self._source), times.index_select(0, self._source)
        count, most = len(seen), self.most or len(seen)
        parts = [self._called(seen, times, slice(first, first + most)) for first in range(0, count, most)]
        said = torch.cat(parts).float()
        without, with_prompt = said.index_select(0, self._without), said.index_select(0, self._with)
        return without + self._guidance * (with_prompt - without)

    def _called(self, seen: torch.Tensor, times: torch.Tensor, part: slice) -> torch.Tensor:
        added = None if self._pooled is None else {"text_embeds": self._pooled[part], "time_ids": self._time_ids[part]}
        said: torch.Tensor = self._unet(
            seen[part],
            times[part],
            encoder_hidden_states=self._texts[part],
            timestep_cond=None if self._told_guidance is None else self._told_guidance[part],
            encoder_attention_mask=None if self._text_mask is None else self._text_mask[part],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return said

    def _updated(self, state: torch.Tensor, word: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The fused update: (rows, 1 + slots, channels, h, w).

        Products and then sums of elements, in one order: no matrix product, whose TF32 would be too coarse, and none that adds to a
        product unrounded, which a CPU does to some elements and not to others. So a row's bits are the same whoever else is there.
        """
        noise = self._drawn()
        inputs = [state[:, 0], word, noise, *state[:, 1:].unbind(1)]
        after = torch.zeros_like(state)
        for column, given in enumerate(inputs):
            if given is not None:
                after += factors[:, :, column, None, None, None] * given[:, None]
        return after

    def _drawn(self) -> torch.Tensor | None:
        """Fresh noise for the rows whose samplers want it now, each from its own generator; None if none does."""
        wanted = [row.table.draws[row.tick] if row.scheduler is None else None for row in self._rows]
        if not any(wanted):
            return None
        shape = self._state.shape[2:]
        noise = torch.zeros(len(self._rows), *shape, pin_memory=self._device.type == "cuda")
        for index, (row, precision) in enumerate(zip(self._rows, wanted, strict=True)):
            if precision:
                dtype = precision if isinstance(precision, torch.dtype) else self._dtype
                noise[index] = torch.randn((1, *shape), generator=row.generator, dtype=dtype)[0]
        return noise.to(self._device, non_blocking=True)

    # -- who is there ----------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Give every row its own state back: the tensors are laid out anew at the next tick."""
        if self._rows and self._is_arranged:
            for index, row in enumerate(self._rows):
                row.state = self._state[index, : len(row.state)].clone()
        self._is_arranged = False

    def _arrange(self) -> None:
        """Lay out the tensors of all rows."""
        rows = self._rows
        slots = max(row.table.slots for row in rows)
        ticks = max(row.table.ticks for row in rows)
        self._state = torch.zeros(len(rows), 1 + slots, *rows[0].state.shape[1:], device=self._device)
        numbers = torch.zeros(len(rows), ticks, FACTORS + (1 + slots) * (3 + slots))
        for index, row in enumerate(rows):
            self._state[index, : len(row.state)] = row.state
            numbers[index, : row.table.ticks] = row.table.widened(slots)
        self._numbers = self._there(numbers)
        self._each = torch.arange(len(rows), device=self._device)
        self._at = self._there(torch.tensor([row.tick for row in rows]))
        self._guidance = self._there(_wide(torch.tensor([row.guidance_scale for row in rows])))

        # 1. The UNet's rows: those without the prompt first, then each with it; and whose each is.
        guided = [index for index, row in enumerate(rows) if row.is_guided]
        source = [*guided, *range(len(rows))]
        with_prompt = range(len(guided), len(source))
        without = [guided.index(index) if index in guided else with_prompt[index] for index in range(len(rows))]
        texts = [rows[index].texts.negative for index in guided] + [row.texts.prompt for row in rows]
        pooled = [rows[index].texts.negative_pooled for index in guided] + [row.texts.pooled for row in rows]
        # 2. Filled up to a size that there is a graph for, with more of the last.
        more = next((size for size in self._sizes if size >= len(source)), len(source)) - len(source)
        source, texts, pooled = ([*each, *each[-1:] * more] for each in (source, texts, pooled))
        self._source, self._with, self._without = (
            self._there(torch.tensor(list(each))) for each in (source, with_prompt, without)
        )
        self._texts, self._text_mask = self._laid_side_by_side(texts)
        self._pooled = self._time_ids = None
        if rows[0].time_ids is not None:
            self._pooled = self._there(torch.cat(pooled).to(self._dtype))
            self._time_ids = self._there(torch.stack([rows[index].time_ids for index in source]).to(self._dtype))
        self._told_guidance = None
        if rows[0].told_guidance is not None:
            self._told_guidance = self._there(torch.stack([rows[index].told_guidance for index in source]).to(self._dtype))

        # 3. What is laid beside the latents, and over them.
        self._beside = None
        if rows[0].beside is not None:
            self._beside = self._there(torch.stack([row.beside for row in rows]).to(self._dtype))
        self._masks = None
        if any(row.area for row in rows):
            empty = torch.zeros_like(self._state[0, 0])
            self._masks = torch.stack([row.area.mask if row.area else torch.ones_like(empty[:1]) for row in rows])
            self._images = torch.stack([row.area.image if row.area else empty for row in rows])
            self._noises = torch.stack([row.area.noise if row.area else empty for row in rows])
        self._is_arranged = True

    def _laid_side_by_side(self, texts: list[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The embeddings in one tensor, (UNet rows, length, dim), and a mask if their lengths differ: what fills is not looked at."""
        length = max(text.shape[1] for text in texts)
        if all(text.shape[1] == length for text in texts):
            return self._there(torch.cat(texts).to(self._dtype)), None
        filled = torch.zeros(len(texts), length, texts[0].shape[-1], dtype=self._dtype, device=self._device)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for index, text in enumerate(texts):
            filled[index, : text.shape[1]] = text[0]
            mask[index, : text.shape[1]] = True
        return filled, self._there(mask)

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, without waiting for it."""
        if self._device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """One number for each row, shaped to be multiplied with latents."""
    return values[:, None, None, None]


def _kind(row: Row) -> tuple[bool, bool, bool]:
    """What of the UNet's inputs the row has: all rows have the same."""
    return row.time_ids is not None, row.beside is not None, row.told_guidance is not None


def _stepped(row: Row, word: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The row's next latents as its own scheduler makes them, where the sampler is not linear."""
    scheduler = row.scheduler
    arguments = step_arguments(scheduler)
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = row.generator
    timestep = scheduler.timesteps[len(scheduler.timesteps) - row.table.ticks + row.tick]
    after: torch.Tensor = scheduler.step(word[None], timestep, latents[None], **arguments, return_dict=False)[0]
    return after[0]
