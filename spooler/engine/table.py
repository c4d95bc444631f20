"""A sampler's run as numbers: what each tick does to the latents, so that one update serves jobs at any step of any sampler.

A diffusers scheduler computes the next latents as a sum of multiples: of the latents, of what the UNet said, of fresh noise,
and of what it kept from earlier steps. The factors depend on the step alone. They are not written down here a second time but
read off the scheduler itself: it is stepped once through its whole schedule with unit vectors in the place of pictures, and
what comes out are the factors. So a table is as diffusers computes it, for every sampler, prediction type and schedule, in
any version.

    tick   one call of the UNet and of the scheduler's `step`: Heun and DPM2 take two for a step, PLMS one more than its steps
    slot   one tensor of the latents' shape that the sampler keeps from one tick to the next

What is not linear (`clip_sample`, `thresholding`) is found out while the table is made, and said: `Table.is_linear`.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Tables that are kept; one of 50 ticks takes some 20 kB.
TABLES_KEPT = 256
#: Positions in the vectors: latents, the UNet's word, noise, from here on what the scheduler keeps.
LATENTS, WORD, NOISE, KEPT = 0, 1, 2, 3
#: Room for the three above, twelve kept tensors, and last the sum that tells whether the step was linear.
WIDTH = 16
#: What is in that last place of each vector. Large, so that what clips at 1 shows.
CHECK = [29.0, -17.0, 13.0, 23.0, -31.0, 19.0, -37.0, 41.0, 11.0, -43.0, 47.0, 53.0, -59.0, 61.0, -67.0]
#: Columns of a row of numbers before the factors.
TIME, SCALE, OF_IMAGE, OF_NOISE, FACTORS = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Table:
    """One run of a sampler, from its first tick to its last.

    `numbers` is (ticks, 4 + (1 + slots) * (3 + slots)) in float32 on the CPU. A tick's row has

        TIME      the time step, as the UNet is told it
        SCALE     the factor of the latents before the UNet sees them
        OF_IMAGE, OF_NOISE
                  what of a picture's latents and of their first noise makes a picture as noisy as the latents are after
                  this tick: for inpainting, which lays the picture over them outside the mask
        FACTORS   (1 + slots, 3 + slots): the next latents, then the next slots, each from latents, word, noise and slots
    """

    numbers: torch.Tensor
    slots: int
    #: The factor of the first noise of a job that starts from noise.
    start: float
    #: For each tick the precision in which noise is drawn: None for none, "model" for the UNet's own.
    draws: tuple[torch.dtype | str | None, ...]
    #: Whether the factors are all there is to it. If not, the scheduler itself must do the steps.
    is_linear: bool

    @property
    def ticks(self) -> int:
        return len(self.numbers)

    def widened(self, slots: int) -> torch.Tensor:
        """The numbers with room for so many slots, not fewer than its own: (ticks, 4 + (1 + slots) * (3 + slots))."""
        factors = torch.zeros(self.ticks, 1 + slots, 3 + slots)
        factors[:, : 1 + self.slots, : 3 + self.slots] = self.numbers[:, FACTORS:].view(-1, 1 + self.slots, 3 + self.slots)
        return torch.cat([self.numbers[:, :FACTORS], factors.flatten(1)], dim=1)


class Tables:
    """Makes tables and keeps them: one takes some milliseconds, in which the others on the device would wait."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Table] = OrderedDict()

    def get(self, scheduler: Any, steps: int, begin: int | None = None) -> Table:
        """The table of such a scheduler, which itself is not touched; see `tabulate`."""
        key = json.dumps([type(scheduler).__name__, dict(scheduler.config), steps, begin], sort_keys=True, default=repr)
        if key not in self._kept:
            # To make one from its config takes DPM2's a quarter of a second.
            self._kept[key] = tabulate(copy.deepcopy(scheduler), steps, begin)
            while len(self._kept) > TABLES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def tabulate(scheduler: Any, steps: int, begin: int | None = None) -> Table:
    """Step a scheduler through its schedule and write down what it does.

    `begin` is the first of its ticks for a job that starts from a picture, and None for one that starts from noise: some
    schedulers tell the two apart.
    """
    scheduler.set_timesteps(steps)
    if begin is not None and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin or 0 :]
    extra = step_arguments(scheduler)

    scales, blends, matrices, draws = [], [], [], []
    is_linear = True
    for tick, timestep in enumerate(timesteps):
        # 1. Unit vectors in the place of everything that goes in, then one step of its own.
        latents, word, noise = (_unit(position) for position in (LATENTS, WORD, NOISE))
        scales.append(float(scheduler.scale_model_input(latents, timestep).flatten()[LATENTS]))
        kept = _held(scheduler, latents.shape)
        for position, (_, put) in enumerate(kept, KEPT):
            put(_unit(position))
        with _Drawing(noise) as drawing:
            after = scheduler.step(word, timestep, latents, **extra, return_dict=False)[0]
        draws.append(drawing.precision)

        # 2. What came out are the factors; and the last place tells whether they are all.
        written = [after, *(held for held, _ in _held(scheduler, after.shape))]
        matrix = torch.stack([tensor.double().flatten() for tensor in written])
        check = torch.tensor(CHECK, dtype=torch.float64)
        sums, sizes = matrix[:, :-1] @ check, matrix[:, :-1].abs() @ check.abs()
        is_linear &= bool(((sums - matrix[:, -1]).abs() <= 1e-4 * sizes).all())
        matrices.append(matrix[:, : KEPT + len(kept)])

        # 3. A picture as noisy as the latents now are.
        blend = (1.0, 0.0)
        if begin is not None and tick + 1 < len(timesteps):
            noised = scheduler.add_noise(latents, noise, timesteps[tick + 1][None]).flatten()
            blend = float(noised[LATENTS]), float(noised[NOISE])
        blends.append(blend)

    matrices, slots = _without_dead_slots(matrices)
    numbers = torch.zeros(len(timesteps), FACTORS + (1 + slots) * (3 + slots))
    numbers[:, TIME] = timesteps.float()
    numbers[:, SCALE] = torch.tensor(scales)
    numbers[:, OF_IMAGE : OF_NOISE + 1] = torch.tensor(blends)
    factors = numbers[:, FACTORS:].view(len(timesteps), 1 + slots, 3 + slots)
    for tick, matrix in enumerate(matrices):
        factors[tick, : matrix.shape[0], : matrix.shape[1]] = matrix
    return Table(numbers, slots, float(scheduler.init_noise_sigma), tuple(draws), is_linear)


def step_arguments(scheduler: Any) -> dict[str, Any]:
    """What the pipelines give to `step` besides the tensors and the generator: an `eta` of zero where it is known."""
    return {"eta": 0.0} if "eta" in inspect.signature(scheduler.step).parameters else {}


class _Drawing(TorchFunctionMode):
    """While it is on, `torch.randn` gives the noise that it was made with, and the precision that was asked for is noted."""

    def __init__(self, noise: torch.Tensor):
        super().__init__()
        self._noise = noise
        self.precision: torch.dtype | str | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn:
            return func(*args, **kwargs)
        if self.precision is not None:
            raise ValueError("A scheduler whose step draws noise twice has no table: its job is drawn alone.")
        asked = kwargs["dtype"]
        self.precision = "model" if asked == self._noise.dtype else asked
        return self._noise.to(asked)


def _unit(position: int) -> torch.Tensor:
    """1 at the position, and the position's number for the check in the last place: shaped as latents, (1, WIDTH, 1, 1)."""
    vector = torch.zeros(1, WIDTH, 1, 1, dtype=torch.float64)
    vector[0, position], vector[0, -1] = 1.0, CHECK[position]
    return vector


def _held(scheduler: Any, shape: torch.Size) -> list[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    """The tensors of latents' shape that the scheduler keeps, as attributes or in lists, each with how to put another there."""
    found: list[tuple[torch.Tensor, Callable[[torch.Tensor], None]]] = []
    for name, value in sorted(vars(scheduler).items()):
        if isinstance(value, torch.Tensor) and value.shape == shape:
            found.append((value, partial(setattr, scheduler, name)))
        elif isinstance(value, list):
            places = [place for place, item in enumerate(value) if isinstance(item, torch.Tensor) and item.shape == shape]
            found += [(value[place], partial(value.__setitem__, place)) for place in places]
    return found


def _without_dead_slots(matrices: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """The matrices with those slots alone that come to something in the end, and the most that there are of them at once.

    A scheduler's list shifts: what falls off at its end in the next step need not be carried there.
    """
    live: list[int] = []  # of what this tick writes: what the next one reads
    cut, most = [], 0
    for matrix in reversed(matrices):
        rows = matrix[[0, *(1 + slot for slot in live)]]
        most = max(most, len(live))
        live = [slot for slot in range(matrix.shape[1] - KEPT) if bool(rows[:, KEPT + slot].any())]
        cut.append(rows[:, [LATENTS, WORD, NOISE, *(KEPT + slot for slot in live)]])
    return cut[::-1], most
