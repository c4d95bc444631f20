"""The running batch: a picture that shares its steps with others is the one that the stock pipeline draws of it alone."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from PIL.Image import Image as Picture
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spooler import samplers
from spooler.engine import ends
from spooler.engine.batch import Batch
from spooler.engine.row import Desk, Row, Texts
from spooler.engine.table import FACTORS, OF_IMAGE, OF_NOISE, SCALE, TIME, step_arguments, tabulate

#: What a job in company may differ from the stock pipeline alone in float32: the norm of the difference over the norm.
CLOSE = 2e-6
#: Some jobs cannot be told that closely: the model blows up what differs in the last digit, so that the stock pipeline in
#: float32 is as far from itself in float64. Such a job may be so many times as far away. (A wrong factor: 1e-3 and more.)
TIMES_ITS_OWN = 8
#: Every sampler with every schedule that it has.
PAIRS = [(sampler, schedule) for sampler in samplers.SAMPLERS for schedule in sampler.schedules]
SIZE = 64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Asked:
    """What a job asks for."""

    sampler: samplers.Sampler
    schedule: str
    steps: int
    guidance: float
    seed: int
    prompt: str = "a large red circle on a blue background"
    negative: str = ""
    size: int = SIZE
    image: Picture | None = None
    mask: Picture | None = None
    strength: float = 0.6

    @property
    def name(self) -> str:
        return f"{self.seed}: {self.sampler.name} {self.schedule}, {self.steps} steps, guidance {self.guidance}"

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(self.seed)


_MADE: dict[str, Any] = {}


def scheduler(config: dict[str, Any], sampler: samplers.Sampler, schedule: str) -> Any:
    """A fresh one, copied as the engine does it: to make DPM2's takes a quarter of a second."""
    key = repr((sampler.scheduler_class, sampler.config(schedule), config))
    if key not in _MADE:
        _MADE[key] = getattr(diffusers, sampler.scheduler_class).from_config(config, **sampler.config(schedule))
    return copy.deepcopy(_MADE[key])


class Studio:
    """A stock pipeline and its sisters for the other tasks, in one precision."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.config = dict(pipe.scheduler.config)  # its constructor rewrites parts of it
        sisters = diffusers.AutoPipelineForImage2Image, diffusers.AutoPipelineForInpainting
        self.over, self.within = (sister.from_pipe(pipe) for sister in sisters)
        for each in (pipe, self.over, self.within):
            each.set_progress_bar_config(disable=True)
        self.desk = Desk()

    def ready(self, asked: Asked) -> Any:
        """The pipeline for the job, with the job's sampler."""
        pipe = self.within if asked.mask else self.over if asked.image else self.pipe
        pipe.scheduler = scheduler(self.config, asked.sampler, asked.schedule)
        return pipe

    @torch.inference_mode()
    def alone(self, asked: Asked, output_type: str = "latent") -> Any:
        """The latents, (channels, h, w), or the picture of the job by the stock pipeline."""
        more: dict[str, Any] = {"width": asked.size, "height": asked.size}
        if asked.image:
            more = {"image": asked.image, "strength": asked.strength}
        if asked.mask:
            more |= {"mask_image": asked.mask, "width": asked.size, "height": asked.size}
        with _SameNoise() if self.pipe.dtype == torch.float64 else nullcontext():
            return self.ready(asked)(
                asked.prompt,
                negative_prompt=asked.negative or None,
                num_inference_steps=asked.steps,
                guidance_scale=asked.guidance,
                generator=[asked.generator],
                output_type=output_type,
                **more,
            ).images[0]

    def row(self, asked: Asked, texts: Texts | None = None) -> Row:
        pipe, generator = self.ready(asked), asked.generator
        texts = texts or ends.read(pipe, [(asked.prompt, asked.negative if asked.guidance > 1 else None)])[0]
        common = (pipe, asked.name, texts, asked.guidance, asked.steps)
        if asked.image and asked.mask:
            return self.desk.within_mask(*common, asked.image, asked.mask, asked.strength, generator)
        if asked.image:
            return self.desk.over_picture(*common, asked.image, asked.strength, generator)
        noise = torch.randn((1, 4, asked.size // 8, asked.size // 8), generator=generator, dtype=pipe.dtype)
        return self.desk.from_noise(*common, noise, generator)

    def batch(self, **more: Any) -> Batch:
        return Batch(self.pipe.unet, CPU, self.pipe.dtype, **more)

    def in_company(self, jobs: list[Asked], batch: Batch | None = None, at_once: int = 8) -> dict[str, torch.Tensor]:
        """The latents of the jobs, which join three at a time whenever there is room, so that each tick has others in it.

        Another one joins when half are done, and is cancelled at the next tick but one.
        """
        batch = self.batch() if batch is None else batch
        stranger = replace(jobs[0], seed=10_000, steps=30)
        left, done, goes_at, ticks = list(jobs), dict[str, torch.Tensor](), -1, 0
        while left or len(batch):
            room = at_once - len(batch)
            for asked in left[: min(3, room)]:
                batch.join(self.row(asked))
            left = left[min(3, room) :]
            if goes_at < 0 and len(done) >= len(jobs) / 2:
                batch.join(self.row(stranger))
                goes_at = ticks + 2
            if ticks == goes_at:
                assert batch.leave(stranger.name).tick == 2
            done |= {row.name: row.latents for row in batch.tick()}
            ticks += 1
        assert goes_at > 0, "somebody was cancelled"
        return done

    def in_double(self) -> Studio:
        return Studio(copy.deepcopy(self.pipe).to(torch.float64))


class _SameNoise(TorchFunctionMode):
    """In float64 too the noise is that of float32: drawn in another precision it would be another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn and kwargs.get("dtype") == torch.float64:
            return func(*args, **kwargs | {"dtype": torch.float32}).double()
        return func(*args, **kwargs)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def assert_as_alone(studio: Studio, jobs: list[Asked], drawn: dict[str, torch.Tensor]) -> None:
    """That each job in company is the one alone."""
    double: Studio | None = None
    close = 0
    for asked in jobs:
        alone = studio.alone(asked)
        differs = difference(drawn[asked.name], alone)
        if differs <= CLOSE:
            close += 1
            continue
        double = double or studio.in_double()
        own = difference(alone, double.alone(asked))
        assert differs <= TIMES_ITS_OWN * own, f"{asked.name}: {differs:.1e}, the stock pipeline itself is off by {own:.1e}"
    assert close >= 0.75 * len(jobs), f"{close} of {len(jobs)} jobs are within {CLOSE}"


@pytest.fixture(scope="module")
def studio() -> Callable[[str], Studio]:
    """The studio with a family's tiny model, or with the demo model."""
    made: dict[str, Studio] = {}

    def get(name: str) -> Studio:
        if name not in made:
            torch.manual_seed(0)
            if name == "demo":
                pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny.DEMO, dtype=torch.float32)
            else:
                pipe = tiny.FAMILIES[name]()
            made[name] = Studio(pipe)
        return made[name]

    return get


def mixed(pairs: list[tuple[samplers.Sampler, str]], guidances: list[float], **more: Any) -> list[Asked]:
    """A job for each sampler and schedule, with different steps, guidances, prompts and seeds."""
    return [
        Asked(
            sampler,
            schedule,
            steps=4 + number % 6,
            guidance=guidances[number % len(guidances)],
            seed=number,
            prompt=["a small yellow star", "a large red circle on a blue background", ""][number % 3],
            negative=["", "green"][number // 2 % 2],
            **more,
        )
        for number, (sampler, schedule) in enumerate(pairs)
    ]


#: Each sampler once, with one of its schedules.
ONE_EACH = [(sampler, sampler.schedules[number % len(sampler.schedules)]) for number, sampler in enumerate(samplers.SAMPLERS)]


# -- the table -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", samplers.SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_table_is_what_the_scheduler_does(sampler: samplers.Sampler) -> None:
    """Every sampler with every schedule, from noise and from a picture, fed with the same made-up words of a UNet."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    for schedule in sampler.schedules:
        for prediction, begun in (("epsilon", False), ("v_prediction", True), ("epsilon", True)):
            told = config | {"prediction_type": prediction}
            stock = scheduler(told, sampler, schedule)
            stock.set_timesteps(8)
            begin = 3 * stock.order if begun else None
            if begin is not None and hasattr(stock, "set_begin_index"):
                stock.set_begin_index(begin)
            table = tabulate(scheduler(told, sampler, schedule), 8, begin)
            assert table.is_linear and table.ticks == len(stock.timesteps[begin or 0 :])
            assert table.start == float(stock.init_noise_sigma)

            arguments = step_arguments(stock)
            if "generator" in inspect.signature(stock.step).parameters:
                arguments["generator"] = torch.Generator().manual_seed(1)
            ours, image = torch.Generator().manual_seed(1), torch.randn(1, 4, 4, 4)
            latents = torch.randn(1, 4, 4, 4) * table.start
            state = torch.zeros(1 + table.slots, 4, 4, 4)
            state[0] = latents[0]
            for tick, timestep in enumerate(stock.timesteps[begin or 0 :]):
                numbers, word = table.numbers[tick], torch.randn(1, 4, 4, 4)
                assert numbers[TIME] == timestep.float()  # as the UNet makes it
                assert difference(numbers[SCALE] * latents, stock.scale_model_input(latents, timestep)) < 1e-6
                latents = stock.step(word, timestep, latents, **arguments, return_dict=False)[0]
                draws = table.draws[tick] is not None
                noise = torch.randn((1, 4, 4, 4), generator=ours) if draws else torch.zeros(1, 4, 4, 4)
                factors = numbers[FACTORS:].view(1 + table.slots, 3 + table.slots)
                state = torch.einsum("ij,jchw->ichw", factors, torch.cat([state[:1], word, noise, state[1:]]))
                assert difference(state[0], latents[0]) < CLOSE, (schedule, prediction, tick)
                if begun and tick + 1 < table.ticks:
                    noised = stock.add_noise(image, word, stock.timesteps[begin + tick + 1][None])
                    assert difference(numbers[OF_IMAGE] * image + numbers[OF_NOISE] * word, noised) < 1e-6


def test_a_sampler_that_clips_is_found_out() -> None:
    """The table knows that it is not all there is to it."""
    linear, clipping = diffusers.DDIMScheduler(clip_sample=False), diffusers.DDIMScheduler(clip_sample=True)
    assert tabulate(linear, 5).is_linear and not tabulate(clipping, 5).is_linear
    assert not tabulate(diffusers.DDPMScheduler(clip_sample=False, thresholding=True), 5).is_linear


# -- the batch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "pairs", "guidances"),
    [("demo", PAIRS, [1.0, 2.0, 1.5]), ("sd2", ONE_EACH, [1.0, 3.0, 7.5]), ("sdxl", ONE_EACH, [1.0, 3.0, 7.5])],
    ids=["demo, every schedule", "sd2 with v", "sdxl"],
)
def test_a_job_in_company_is_the_job_alone(
    studio: Callable[[str], Studio], family: str, pairs: list[tuple[samplers.Sampler, str]], guidances: list[float]
) -> None:
    """Jobs of all samplers with different steps, guidances, prompts and seeds, which come and go, and one that is cancelled."""
    made = studio(family)
    jobs = mixed(pairs, guidances)
    assert_as_alone(made, jobs, made.in_company(jobs))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_pictures_and_masks_join_those_from_noise(studio: Callable[[str], Studio], family: str) -> None:
    made = studio(family)
    image = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB")
    mask = Image.new("L", (SIZE, SIZE), "black")
    mask.paste(255, (16, 8, 48, 40))
    pairs = PAIRS[::4] if family == "sdxl" else ONE_EACH
    jobs = mixed(pairs, [1.0, 3.0])
    over = [replace(asked, image=image, seed=100 + asked.seed, strength=0.3 + asked.seed % 3 / 3) for asked in jobs]
    within = [replace(asked, mask=mask, seed=100 + asked.seed, strength=min(1.0, asked.strength + 0.1)) for asked in over]
    together = [asked for trio in zip(jobs[::3], over, within, strict=False) for asked in trio]
    together += over[len(together) // 3 :] + within[len(together) // 3 :]
    assert_as_alone(made, together, made.in_company(together))


def test_an_inpainting_checkpoint_sees_each_ones_own_mask() -> None:
    torch.manual_seed(0)
    base = tiny.FAMILIES["sd1"]()
    parts = {name: part for name, part in base.components.items() if name not in ("unet", "image_encoder")}
    unet = tiny._unet(32, in_channels=9, out_channels=4)
    made = Studio(diffusers.StableDiffusionInpaintPipeline(**parts, unet=unet, requires_safety_checker=False))
    jobs = []
    for number, asked in enumerate(mixed(ONE_EACH[::3], [1.0, 3.0])):
        mask = Image.new("L", (SIZE, SIZE), "black")
        mask.paste(255, (8 * number, 0, 8 * number + 24, 32))
        image = Image.linear_gradient("L").resize((SIZE, SIZE)).rotate(90 * number).convert("RGB")
        jobs.append(replace(asked, image=image, mask=mask, strength=1.0))
    assert_as_alone(made, jobs, made.in_company(jobs, at_once=4))


def test_prompts_of_different_lengths_share_a_call(studio: Callable[[str], Studio]) -> None:
    """One, two and three times 77 tokens: what fills the short ones is not looked at."""
    made = studio("sd2")
    base = Asked(samplers.SAMPLERS[0], "Karras", 5, 3.0, 0)
    jobs = [replace(base, seed=seed, steps=4 + seed) for seed in range(4)]
    rows = []
    for length, asked in zip((1, 2, 3, 1), jobs, strict=True):
        short = ends.read(made.pipe, [(asked.prompt, f"{length} green"), ("a small yellow star", "")])
        long = [torch.cat([short[0].prompt, *[short[1].prompt] * (length - 1)], dim=1)]
        long.append(torch.cat([short[0].negative, *[short[1].negative] * (length - 1)], dim=1))
        rows.append(made.row(asked, Texts(*long)))
    alone = {}
    for row, asked in zip(rows, jobs, strict=True):
        pipe = made.ready(asked)
        alone[row.name] = pipe(
            prompt_embeds=row.texts.prompt,
            negative_prompt_embeds=row.texts.negative,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            generator=[asked.generator],
            width=SIZE,
            height=SIZE,
            output_type="latent",
        ).images[0]
    batch = made.batch()
    for row in rows:
        batch.join(row)
    while len(batch):
        for row in batch.tick():
            assert difference(row.latents, alone[row.name]) <= CLOSE


def test_at_one_size_of_call_company_changes_no_bit(studio: Callable[[str], Studio]) -> None:
    """A call that is filled up to a fixed size: the same bits alone, in company, and beside somebody who is cancelled."""
    made = studio("demo")
    jobs = mixed(ONE_EACH, [1.0, 7.5, 2.0])
    company = made.in_company(jobs, made.batch(sizes=(18,)))
    for asked in jobs[::3]:
        batch = made.batch(sizes=(18,))
        batch.join(made.row(asked))
        while not (done := batch.tick()):
            pass
        assert torch.equal(done[0].latents, company[asked.name]), asked.name


def test_half_precision_is_within_40_db_of_the_stock_pipeline(studio: Callable[[str], Studio]) -> None:
    half = Studio(copy.deepcopy(studio("demo").pipe).to(torch.float16))
    jobs = mixed([*ONE_EACH[:6:2], *ONE_EACH[7::4]], [2.0], size=64)
    drawn = half.in_company(jobs, at_once=4)
    for asked in jobs:
        ours = ends.decoded(half.pipe, [drawn[asked.name]])[0]
        error = np.asarray(ours, dtype=float) - np.asarray(half.alone(asked, "pil"), dtype=float)
        assert 20 * math.log10(255 / max(1e-9, math.sqrt((error**2).mean()))) >= 40, asked.name


class _Memory(torch.nn.Module):
    """A UNet for which memory runs out when a call has more rows than it can bear."""

    def __init__(self, unet: Any, bears: int):
        super().__init__()
        self.unet, self.bears, self.refused = unet, bears, 0

    def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > self.bears:
            self.refused += 1
            raise torch.OutOfMemoryError(f"{len(sample)} rows are too many.")
        return self.unet(sample, *args, **kwargs)


def test_when_memory_runs_out_the_tick_is_done_again_in_smaller_calls(studio: Callable[[str], Studio]) -> None:
    """Nothing is lost, and chance is not drawn twice."""
    made = studio("sdxl")
    jobs = mixed([PAIRS[5], PAIRS[20], PAIRS[38]], [3.0])
    unet = _Memory(made.pipe.unet, bears=2)
    batch, done = Batch(unet, CPU, torch.float32), dict[str, torch.Tensor]()
    for asked in jobs:
        batch.join(made.row(asked))
    while len(batch):
        try:
            done |= {row.name: row.latents for row in batch.tick()}
        except torch.OutOfMemoryError:
            batch.most = 2 if batch.most is None else batch.most // 2
    assert unet.refused == 1
    assert_as_alone(made, jobs, done)


class _Shortage(TorchDispatchMode):
    """Lets memory run out at one operation, the UNet's apart."""

    def __init__(self, unet: Any, at: int):
        super().__init__()
        self.unet, self.left = unet, at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= not self.unet.is_busy
        if self.left == 0:
            raise torch.OutOfMemoryError("no more memory")
        return func(*args, **kwargs or {})


class _Watched(torch.nn.Module):
    """A UNet that tells when it is at work."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet, self.is_busy = unet, False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.is_busy = True
        try:
            return self.unet(*args, **kwargs)
        finally:
            self.is_busy = False


def test_wherever_memory_runs_out_the_tick_is_done_again_as_if_it_had_not(studio: Callable[[str], Studio]) -> None:
    """At each of its operations in turn: chance is drawn once, a scheduler steps once, and who is done leaves once."""
    made = studio("sd1")
    unet = _Watched(made.pipe.unet)
    few = [(samplers.find(name), "Uniform") for name in ("Euler a", "DDPM", "DPM++ 2M SDE")]
    jobs = [replace(asked, steps=2, guidance=1.0) for asked in mixed([(each, how) for each, how in few if each], [1.0])]
    cut = replace(jobs[0], seed=50, steps=3, guidance=3.0)
    texts = {asked.name: made.row(asked).texts for asked in (*jobs, cut)}

    def drawn(at: int) -> tuple[dict[str, torch.Tensor], bool]:
        batch, done = Batch(unet, CPU, torch.float32), list[Row]()
        for asked in (*jobs, cut):
            row = made.row(asked, texts[asked.name])
            if asked is cut:
                row.guidance_cutoff = 0.4
            elif asked.sampler.name == "DDPM":
                row.scheduler = scheduler(made.config | {"clip_sample": True}, asked.sampler, asked.schedule)
                row.scheduler.set_timesteps(asked.steps)
            batch.join(row)
        with _Shortage(unet, at) as shortage:
            while len(batch):
                try:
                    done += batch.tick()
                except torch.OutOfMemoryError:
                    continue
        return {row.name: row.latents for row in done}, shortage.left <= 0

    expected, _ = drawn(0)
    assert len(expected) == 4
    at, is_short = 1, True
    while is_short:
        found, is_short = drawn(at)
        for name, latents in expected.items():
            assert torch.equal(found[name], latents), f"operation {at}: {name}"
        at += 1
    assert at > 100


class _Looks(TorchDispatchMode):
    """Notes every operation that would wait for a device to tell the host a number."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(name.startswith(each) for each in self.WAITS):
            self.seen.append(name)
        return func(*args, **kwargs or {})


def test_between_joins_the_host_looks_at_no_tensor(studio: Callable[[str], Studio]) -> None:
    made, batch = studio("sdxl"), studio("sdxl").batch()
    for asked in mixed(PAIRS[::6], [1.0, 3.0]):
        if made.row(asked).table.is_linear:
            batch.join(made.row(replace(asked, steps=9)))
    batch.tick()
    with _Looks() as looks:
        torch.ones(1).item()
        assert looks.seen == ["_local_scalar_dense"], "it sees such a look"
        assert not batch.tick()
    assert len(looks.seen) == 1, looks.seen


def test_what_cannot_share_is_refused_by_name(studio: Callable[[str], Studio]) -> None:
    made = studio("sd2")
    batch, first = made.batch(), mixed(PAIRS[:1], [2.0])[0]
    batch.join(made.row(first))
    with pytest.raises(ValueError, match="There is a row"):
        batch.join(made.row(first))
    with pytest.raises(ValueError, match=r"size of a row must be .* but is torch.Size\(\[4, 12, 12\]\)"):
        batch.join(made.row(replace(first, size=96, seed=1)))
    with pytest.raises(ValueError, match="width of the prompt's embedding"):
        batch.join(studio("sdxl").row(replace(first, seed=1)))
    with pytest.raises(KeyError):
        batch.leave("nobody")
    with pytest.raises(ValueError, match=r"`strength` must leave one of 4 steps at least but is 0\.1"):
        made.row(replace(first, image=Image.new("RGB", (SIZE, SIZE)), strength=0.1))
    assert batch.names == [first.name]
    assert made.batch().tick() == []


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_both_ends_are_the_pipelines_own(studio: Callable[[str], Studio], family: str) -> None:
    """Texts in one call of each encoder, pictures four at a time: as the pipeline does one."""
    made = studio(family)
    pairs = [("a small yellow star", ""), ("a large red circle", None), ("", "green"), ("a small yellow star", "green")]
    for (prompt, negative), texts in zip(pairs, ends.read(made.pipe, pairs), strict=True):
        stock = made.pipe.encode_prompt(
            prompt=prompt,
            device=CPU,
            num_images_per_prompt=1,
            do_classifier_free_guidance=negative is not None,
            negative_prompt=negative or None,
        )
        for ours, theirs in zip((texts.prompt, texts.negative, texts.pooled, texts.negative_pooled), stock, strict=False):
            assert (ours is None and theirs is None) or torch.allclose(ours, theirs, atol=1e-5)
    jobs = mixed(PAIRS[:5], [2.0])
    drawn = made.in_company(jobs, at_once=5)
    pictures = ends.decoded(made.pipe, [drawn[asked.name] for asked in jobs])
    for asked, picture in zip(jobs, pictures, strict=True):
        stock = made.alone(asked, "pil")
        assert picture.size == stock.size
        assert np.abs(np.asarray(picture, dtype=int) - np.asarray(stock, dtype=int)).max() <= 2
