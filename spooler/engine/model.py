"""One model in memory: pipelines that share its parts, its samplers, and what a job lays over it."""

from __future__ import annotations

import copy
import inspect
import itertools
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from safetensors import SafetensorError

from spooler import families, samplers
from spooler.catalogue import loras_of
from spooler.engine import device as devices
from spooler.engine import loading, memory, prompts
from spooler.engine.add_ons import KEPT, AddOns
from spooler.engine.compiled import Compiled
from spooler.engine.device import NotFiniteError, UnusableError, is_out_of_memory
from spooler.engine.memory import Tricks
from spooler.engine.preview import LatentMap, OwnDecoder
from spooler.engine.row import Texts
from spooler.job import Job
from spooler.library import Entry, Library
from spooler.prompt import extract_loras, spelled, written

Task = Literal["txt2img", "img2img", "inpaint"]
#: Texts, and pairs of a prompt and a negative one, whose embeddings are kept.
PROMPTS_KEPT = 64
#: Control tasks and other combinations of parts that are kept; they cost no weights, only their construction.
PIPELINES_KEPT = 8
#: What a file that is damaged, or for another model, raises on its way into this one.
ADD_ON_ERRORS = (ValueError, RuntimeError, KeyError, OSError, TypeError, SafetensorError)

#: diffusers' own choice of the pipeline for a task, by name: only to look at one of them imports every pipeline that there is.
FROM_PIPE: dict[Task, str] = {
    "txt2img": "AutoPipelineForText2Image",
    "img2img": "AutoPipelineForImage2Image",
    "inpaint": "AutoPipelineForInpainting",
}


class Model:
    """A model on its device."""

    def __init__(
        self, entry: Entry, library: Library, pipe: Any, digest: str, tricks: Tricks, device: torch.device, dtype: torch.dtype
    ):
        self.entry = entry
        self.family = families.get(entry.card.family)
        self.hash = digest
        self.tricks = tricks
        self.device = device
        self.dtype = dtype
        #: Called when the VAE begins to decode.
        self.on_decode: Callable[[], None] = lambda: None
        #: Called when it has, with the seconds that it took.
        self.on_decoded: Callable[[float], None] = lambda seconds: None
        self.latent_map: LatentMap | OwnDecoder | None = None
        self.compiled: Compiled | None = None
        self._library = library
        self._base = pipe
        self._pipelines: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._placed: Any = None
        self._grouped: set[int] = set()
        self._vaes = AddOns(self._load_vae)
        self._controlnets = AddOns(lambda name: loading.load_controlnet(library.add_ons["controlnets"][name], dtype))
        self._dressed: dict[str, float] = {}
        self._embeddings: dict[str, str] = {}  # those that it has learnt, and their tokens
        self._tokens = itertools.count()  # one that failed halfway may have left its own in a tokenizer
        self._prompts: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        # The pipeline's constructor rewrites parts of the scheduler's config (steps_offset, clip_sample): take it from there.
        self._scheduler_config = dict(pipe.scheduler.config)
        self._schedulers: dict[tuple[Any, ...], Any] = {}  # fresh ones, by class and arguments
        if vae := getattr(pipe, "vae", None):
            self._guard(vae)

    @classmethod
    def load(
        cls, entry: Entry, library: Library, tricks: Tricks, device: torch.device, dtype: torch.dtype, hashes: loading.Hashes
    ) -> Model:
        """The entry's model, placed as the tricks say. Raises UnusableError, or torch.OutOfMemoryError."""
        digest = hashes.of(entry)  # before its files are read: later they may be others
        pipe = loading.load(entry, dtype)
        try:
            memory.prepare(pipe, tricks, dtype)
        except ValueError as error:
            raise UnusableError(f"The model {entry.card.name!r} cannot be run as configured: {error}.") from error
        model = cls(entry, library, pipe, digest, tricks, device, dtype)
        if model.is_unet:
            model.latent_map = OwnDecoder.of(pipe.vae) or LatentMap.fitted(pipe.vae)  # before any hook hangs on the VAE
        model._place(pipe)
        return model

    @property
    def name(self) -> str:
        return self.entry.card.name

    @property
    def is_unet(self) -> bool:
        """Whether it is of the Stable Diffusion 1.x, 2.x, XL line: our own noise, samplers and prompt weights."""
        return self.family.name in ("sd1", "sd2", "sdxl", "sdxl-refiner")

    @property
    def backbone(self) -> Any:
        """The UNet or the transformer."""
        return getattr(self._base, "unet", None) or self._base.transformer

    def bytes(self) -> int:
        """What the weights take."""
        modules = [part for part in self._base.components.values() if isinstance(part, torch.nn.Module)]
        modules += [*self._controlnets, *self._vaes]
        return sum(tensor.numel() * tensor.element_size() for module in modules for tensor in module.parameters())

    def watched(self) -> list[weakref.ref[Any]]:
        """Weak references to the parts: after the model was dropped, all of them must be dead."""
        return [weakref.ref(part) for part in self._base.components.values() if isinstance(part, torch.nn.Module)]

    def tile(self, tricks: Tricks) -> None:
        """Switch the VAE's tricks without loading anything anew."""
        self.tricks = tricks
        for pipe in (self._base, *self._pipelines.values()):
            memory.tile(pipe, tricks)

    # -- pipelines -----------------------------------------------------------------------------------------------------------

    def pipeline(self, task: Task, controls: tuple[str, ...] = (), vae: str = "") -> Any:
        """The diffusers pipeline for a task, in place and ready to be called."""
        key = (task, controls, vae)
        if key not in self._pipelines:
            self.spare(controls, vae, KEPT)
        nets = [self._controlnets.get(name) for name in controls]
        more: dict[str, Any] = {"vae": self._vaes.get(vae)} if vae else {}
        if nets:
            more["controlnet"] = nets[0] if len(nets) == 1 else nets
        if key not in self._pipelines:
            self._pipelines[key] = self._make(task, more)
            while len(self._pipelines) > PIPELINES_KEPT:
                self._pipelines.popitem(last=False)
        self._pipelines.move_to_end(key)
        pipe = self._pipelines[key]
        if pipe is not self._placed:
            self._place(pipe)
        return pipe

    def spare(self, controls: Collection[str] = (), vae: str = "", kept: int = 0) -> bool:
        """Let go of all ControlNets and VAEs but these, and so many more of each. Returns whether there were any."""
        nets, vaes = self._controlnets.let_go(controls, kept), self._vaes.let_go([vae], kept)
        gone = [id(part) for part in (*nets.values(), *vaes.values())]
        self._grouped.difference_update(gone)  # another part may come to lie there
        for key in [key for key in self._pipelines if key[2] in vaes or not nets.keys().isdisjoint(key[1])]:
            del self._pipelines[key]
        if gone:
            self._placed = None
        return bool(gone)

    def _make(self, task: Task, more: dict[str, Any]) -> Any:
        """The base's pipeline for the task, with other parts."""
        if task == "txt2img" and not more:
            return self._base
        pipe = getattr(diffusers, FROM_PIPE[task]).from_pipe(self._base, **more)
        pipe.set_progress_bar_config(disable=True)
        memory.tile(pipe, self.tricks)
        return pipe

    def _place(self, pipe: Any) -> None:
        if self.tricks.offload == "group":
            # A part that has these hooks must not get them twice, and brings them into any pipeline that it is part of.
            new = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
            done = [name for name, part in new.items() if id(part) in self._grouped]
            if len(done) < len(new):
                pipe.enable_group_offload(
                    onload_device=self.device,
                    offload_device=torch.device("cpu"),
                    offload_type="leaf_level",
                    exclude_modules=done,
                )
            self._grouped |= {id(part) for part in new.values()}
        else:
            memory.place(pipe, self.tricks.offload, self.device)
        self._placed = pipe

    def _load_vae(self, name: str) -> Any:
        vae = loading.load_vae(self._library.add_ons["vaes"][name], self.family.name, self.dtype)
        self._guard(vae)
        return vae

    def _guard(self, vae: Any) -> None:
        """Let no decode of this VAE pass that is not finite: half precision overflows in some (SDXL's), float32 does not.

        `decode.unguarded` looks at nothing and waits for nothing; `decode.in_float32` is for what came to nothing finite by it.
        """
        decode = vae.decode

        def in_float32(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            _check_latents(latents)
            dtype = vae.dtype
            vae.to(torch.float32)
            try:
                result = decode(latents.float(), *args, **kwargs)
            finally:
                vae.to(dtype)
            if not torch.isfinite(result[0]).all():
                raise NotFiniteError("The decoded picture is not finite, in float32 too.")
            return result

        def guarded(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.on_decode()
            _check_latents(latents)
            begun = time.perf_counter()
            result = decode(latents, *args, **kwargs)
            if not torch.isfinite(result[0]).all():
                result = in_float32(latents, *args, **kwargs)
            self.on_decoded(time.perf_counter() - begun)
            return result

        vae.decode = guarded
        vae.decode.unguarded, vae.decode.in_float32 = decode, in_float32

    # -- what a job sets -------------------------------------------------------------------------------------------------------

    def set_sampler(self, pipe: Any, job: Job) -> None:
        """Give the pipeline a fresh scheduler for the job's sampler and schedule; a family of its own ways keeps its own."""
        sampler = samplers.find(job.sampler or "")
        if "sampler" in self.family.kinds or self.family.name == "sdxl-refiner":
            assert sampler and job.scheduler  # noqa: S101 - the spooler fills every field in
            kind, more = getattr(diffusers, sampler.scheduler_class), sampler.config(job.scheduler)
        else:
            kind, more = type(pipe.scheduler), {}
        key = (kind, *sorted(more.items()))
        if key not in self._schedulers:
            self._schedulers[key] = kind.from_config(self._scheduler_config, **more)
        # To copy one takes a fifth of a millisecond, to make one five times as long, and DPM2's a quarter of a second.
        pipe.scheduler = copy.deepcopy(self._schedulers[key])

    def dress(self, job: Job) -> None:
        """Lay the job's LoRAs over the model, take off what an earlier job had, and learn the embeddings that it names.

        Raises ValueError for a file that does not fit this model.
        """
        wanted = {lora.name: lora.weight for lora in loras_of(job) if lora.weight}
        if wanted != self._dressed:
            self._take_off()
            if self.tricks.offload in ("model", "sequential"):
                # `_place` hangs its hooks anew: the library does so too, but where it pleases, and on a CPU not at all.
                self._base.remove_all_hooks()
            try:
                for number, name in enumerate(wanted):
                    path = self._library.add_ons["loras"][name]
                    self._base.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"lora{number}")
                if wanted:
                    self._base.set_adapters([f"lora{number}" for number in range(len(wanted))], list(wanted.values()))
            except BaseException as error:
                self._take_off()  # whatever it was: half a LoRA would be in every later picture
                if not isinstance(error, ADD_ON_ERRORS) or is_out_of_memory(error):
                    raise
                what = f"The LoRAs {', '.join(wanted)} do not fit the model {self.name!r}"
                raise ValueError(f"{what}: {_briefly(error)}") from error
            devices.settle(self.device)  # before anything is encoded beside it
            self._dressed = wanted
            self._prompts.clear()  # a LoRA may change the text encoder
            self._placed = None
        words = job.prompt + "\n" + job.negative_prompt
        for name, path in self._library.add_ons["embeddings"].items():
            if "embeddings" in self.family.kinds and name not in self._embeddings and written(name, words):
                self._learn(name, path)

    @property
    def is_dressed(self) -> bool:
        """Whether LoRAs are on it now."""
        return bool(self._dressed)

    def _take_off(self) -> None:
        if hasattr(self._base, "unload_lora_weights"):
            self._base.unload_lora_weights()
        self._dressed = {}

    def _learn(self, name: str, path: Path) -> None:
        """Add a textual inversion's vectors to the text encoders under its name."""
        from safetensors.torch import load_file

        pipe = self._base
        # Under a name that no text has: "cat" would from then on be cut out of the word "concatenate" of other people's jobs.
        token = f"<emb{next(self._tokens)}>"
        try:
            state = load_file(path)
            if self.family.name == "sdxl":
                for key, tokenizer, encoder in (
                    ("clip_l", pipe.tokenizer, pipe.text_encoder),
                    ("clip_g", pipe.tokenizer_2, pipe.text_encoder_2),
                ):
                    vectors = state[key]
                    pipe.load_textual_inversion(vectors, token=token, text_encoder=encoder, tokenizer=tokenizer)
            else:
                vectors = state["emb_params"] if "emb_params" in state else next(iter(state.values()))
                pipe.load_textual_inversion(vectors, token=token)
        except (*ADD_ON_ERRORS, StopIteration) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(f"The embedding {name!r} does not fit the model {self.name!r}: {_briefly(error)}") from error
        devices.settle(self.device)  # before anything is encoded beside it
        self._embeddings[name] = token
        self._prompts.clear()
        self._placed = None

    def encode(self, pipe: Any, job: Job) -> dict[str, Any]:
        """The prompts as the pipeline takes them: embeddings, kept for the next picture, or texts for other families."""
        prompt, negative_prompt, guidance = _texts(job)
        if not self.is_unet:
            if self.family.name == "qwen-image" and guidance:
                negative_prompt = negative_prompt or " "  # without one its pipeline takes no notice of the guidance
            given = {"prompt": prompt}
            if negative_prompt and "negative_prompt" in parameters(pipe):
                given["negative_prompt"] = negative_prompt
            return given
        key = (self._spelled(prompt), self._spelled(negative_prompt), job.clip_skip, guidance)
        return self._kept(key, lambda: self._encode(pipe, *key))

    def encode_together(self, jobs: Iterable[Job]) -> None:
        """Encode the plain prompts of several jobs by one call, so that `encode` has them. The model is dressed for them.

        Only when the first job's are wanted: of more than can be kept, those of later ones would else push out what is needed
        before them, job after job.
        """
        wanted: dict[str, None] = {}
        for number, job in enumerate(jobs):
            prompt, negative_prompt, guidance = _texts(job)
            texts = [self._spelled(text) for text in ([prompt, negative_prompt] if guidance else [prompt])]
            new = [text for text in texts if (text,) not in self._prompts]
            if new and prompts.is_the_librarys(self._base, self.family.name, texts, job.clip_skip):
                wanted |= dict.fromkeys(new)
            elif number == 0:
                return
        texts = list(wanted)[: PROMPTS_KEPT // 2]
        if len(texts) > 1:
            for text, found in zip(texts, self._beside(lambda: prompts.plain(self._base, texts, self.device)), strict=True):
                self._kept((text,), lambda found=found: found)  # type: ignore[misc]

    def _spelled(self, text: str) -> str:
        """The text with the tokens of the embeddings that it names."""
        return spelled(text, self._embeddings)

    def _kept(self, key: tuple[Any, ...], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self._prompts:
            [self._prompts[key]] = self._beside(lambda: [make()])
            while len(self._prompts) > PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _beside(self, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What is made by the text encoders, without waiting for the UNet. Those that come and go have to take their turn."""
        return devices.beside(self.device, make) if self.tricks.offload == "none" else make()

    def texts(self, pipe: Any, job: Job) -> Texts:
        """The prompts of a job as the rows of a batch have them: encoded, whoever does that otherwise."""
        given = self.encode(pipe, job)
        return Texts.of({name: value for name, value in given.items() if name.endswith("_embeds")})

    def _encode(self, pipe: Any, prompt: str, negative_prompt: str, clip_skip: int, guidance: bool) -> dict[str, Any]:
        given = prompts.encode(pipe, self.family.name, prompt, negative_prompt, clip_skip, guidance)
        if "prompt" not in given:
            return given
        # The two are encoded one by one, as the pipeline does it: most jobs have a negative prompt that others had before.
        embeds = self._kept((prompt,), lambda: prompts.plain(pipe, [prompt], self.device)[0])
        if not guidance:
            return embeds
        negative = self._kept((negative_prompt,), lambda: prompts.plain(pipe, [negative_prompt], self.device)[0])
        if "pooled_prompt_embeds" in negative and not negative_prompt and pipe.config.force_zeros_for_empty_prompt:
            # As the pipeline does it: SDXL's base model was trained with zeros for no prompt.
            negative = {name: torch.zeros_like(value) for name, value in negative.items()}
        return embeds | {f"negative_{name}": value for name, value in negative.items()}

    def guidance(self, pipe: Any, job: Job) -> dict[str, Any]:
        """The job's guidance_scale under the pipeline's own name for it."""
        name = "true_cfg_scale" if self.family.name == "qwen-image" else "guidance_scale"
        return {name: job.guidance_scale} if name in parameters(pipe) else {}

    def noise(self, job: Job, seeds: list[int]) -> torch.Tensor:
        """The first latents for each seed, (len(seeds), channels, height/8, width/8), unscaled, on the CPU.

        Drawn in float32 on the CPU whatever the device is: the same seed draws the same noise everywhere. The variation seed
        is mixed in on the sphere, as A1111 does it.
        """
        factor = self._base.vae_scale_factor
        shape = (1, self._base.vae.config.latent_channels, (job.height or 0) // factor, (job.width or 0) // factor)

        def draw(seed: int) -> torch.Tensor:
            return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))

        noises = [draw(seed) for seed in seeds]
        if job.variation_strength:
            other = [draw(job.variation_seed_of(seed)) for seed in seeds]
            noises = [slerp(job.variation_strength, one, two) for one, two in zip(noises, other, strict=True)]
        return torch.cat(noises).to(self.dtype)


def _check_latents(latents: torch.Tensor) -> None:
    if not torch.isfinite(latents).all():  # waits for the device: what follows is decoding alone
        raise NotFiniteError("The denoised latents are not finite; try another sampler or a lower guidance_scale.")


def _texts(job: Job) -> tuple[str, str, bool]:
    """The prompt and the negative one, and whether the latter counts: there is guidance."""
    # What names a LoRA is no text: `dress` has seen to it. Nor is the space before it, which some tokenizers keep.
    prompt, negative_prompt = (extract_loras(text)[0].strip() for text in (job.prompt, job.negative_prompt))
    return prompt, negative_prompt, (job.guidance_scale or 0) > 1


def _briefly(error: Exception) -> str:
    """The first line or two of a library's error, which may go on for pages of tensors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2])[:300]


def slerp(part: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """`low` turned by `part` of the angle towards `high`, both taken as single vectors: Gaussian noise stays Gaussian."""
    cosine = torch.sum((low / low.norm()) * (high / high.norm())).clamp(-1, 1)
    if cosine.abs() > 0.9995:
        return (1 - part) * low + part * high
    angle = torch.acos(cosine)
    return (torch.sin((1 - part) * angle) * low + torch.sin(part * angle) * high) / torch.sin(angle)


def parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What the pipeline may be called with, by name."""
    return inspect.signature(type(pipe).__call__).parameters
