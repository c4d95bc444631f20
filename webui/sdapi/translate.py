"""A request of A1111 -> a job and its pictures. Pure: no disk, no clock; chance is passed in.

What the engine cannot do is either a mistake, with field, rule and value, or it is left out and named (`Wish.ignored`): the
rows of requests.py say which.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image as Picture

from spooler import families, infotext
from spooler.catalogue import Catalogue, ModelCard
from spooler.families import Family
from spooler.job import MAX_SEED
from spooler.mistakes import JobError, Mistake, show
from spooler.prompt import PromptError, extract_loras
from webui.sdapi import controlnet, names, starts
from webui.sdapi.errors import AnswerError
from webui.sdapi.kept import Options
from webui.sdapi.requests import Drawing, Img2Img, Txt2Img

#: A first size beyond this is no number to calculate with; what hires fix makes of a smaller one is checked with the job.
MOST_SIDE = 1 << 16
#: Settings of A1111 whose values there are no others of here: another is left out and named.
FIXED: dict[str, Any] = {"randn_source": "CPU", "eta_noise_seed_delta": 0, "samples_format": "png", "enable_emphasis": True}
#: Settings that change nothing in a picture: taken, without effect.
NO_EFFECT = re.compile(
    r"live_previews?_.*|show_progress_.*|samples_.*|grid_.*|save_.*|outdir_.*|directories_.*|return_.*|do_not_.*|send_s.*|"
    r"enable_pnginfo|add_.*_to_info|jpeg_quality|webp_lossless|notification_.*|memmon_.*|sd_checkpoint_hash|"
    r"sd_checkpoints_.*|sd_checkpoint_cache|sd_vae_checkpoint_cache|forge_inference_memory|forge_unet_storage_dtype"
)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NETWORK = re.compile(r"<(?!lora:)\w+:")
ANCESTRAL = ("Euler a", "DPM2 a")
SAME = ("", "none", "use same checkpoint", "use same sampler", "use same scheduler")


@dataclass
class Wish:
    """A job that was asked for in A1111's words."""

    job: dict[str, Any]
    pictures: dict[str, bytes] = field(default_factory=dict)
    #: What was left out, by parameter, each with what it had asked for.
    ignored: dict[str, str] = field(default_factory=dict)
    #: Of each picture, in order.
    seeds: tuple[int, ...] = ()
    subseeds: tuple[int, ...] = ()
    card: ModelCard | None = None
    options: Options = field(default_factory=Options)


class _Desk:
    """Where a request becomes a job: what is wrong with it, and what is left out of it."""

    def __init__(self, request: Drawing, catalogue: Catalogue, kept: Options):
        self.request = request
        self.catalogue = catalogue
        self.mistakes: list[Mistake] = []
        self.ignored: dict[str, str] = {}
        self.options = self._options(kept)
        self.card = catalogue.card(self.options.model)

    @property
    def family(self) -> Family | None:
        """None before any spooler told of its models."""
        return families.get(self.card.family) if self.card else None

    def can(self, kind: str) -> bool:
        return self.family is None or kind in self.family.kinds

    def refuse(self, name: str, rule: str, value: Any) -> None:
        self.mistakes.append(Mistake(name, f"`{name}` {rule}, but is {show(value)}."))

    def leave_out(self, name: str, value: Any) -> None:
        self.ignored[name] = str(value)[:100]

    def _options(self, kept: Options) -> Options:
        """Those of the server with `override_settings` over them."""
        model, vae, clip_skip = kept.model, kept.vae, kept.clip_skip
        for name, value in self.request.override_settings.items():
            if value is None:
                continue
            if name == "sd_model_checkpoint":
                if str(value).strip():
                    found = names.model(str(value), self.catalogue)
                    model = found.name if found else str(value)
                    if found is None and self.catalogue.models:
                        known = ", ".join(names.title(card) for card in self.catalogue.models[:20])
                        rule = f"`override_settings.{name}` must be one of {known}, but is {show(value)}."
                        self.mistakes.append(Mistake(f"override_settings.{name}", rule))
                        model = ""
            elif name == "sd_vae":
                vae = vae_named(value, self.catalogue)
            elif name == "CLIP_stop_at_last_layers":
                try:
                    clip_skip = int(value)
                except (TypeError, ValueError, OverflowError):
                    self.refuse(f"override_settings.{name}", "must be a whole number", value)
            elif name in FIXED:
                if str(value).lower() != str(FIXED[name]).lower():
                    self.leave_out(f"override_settings.{name}", value)
            elif not NO_EFFECT.fullmatch(name):
                self.leave_out(f"override_settings.{name}", value)
        return Options(model, vae, clip_skip)


def vae_named(value: Any, catalogue: Catalogue) -> str:
    """The VAE's name; "" for the model's own."""
    text = str(value).strip()
    return "" if text.lower() in names.NO_NAME else names.listed(text, catalogue.vaes)


def txt2img(request: Txt2Img, catalogue: Catalogue, kept: Options, chance: Callable[[], int]) -> Wish:
    """The job of a txt2img. Raises JobError with all that cannot be done, AnswerError in A1111's words."""
    desk = _Desk(request, catalogue, kept)
    width, height = _sides(request)
    fields = _common(desk)
    if request.enable_hr:
        width, height = _hires(desk, request, fields, width, height)
    if request.refiner_checkpoint.lower() not in SAME and request.refiner_switch_at != 1:
        found = names.model(request.refiner_checkpoint, catalogue)
        fields["refiner"] = {"model": found.name if found else request.refiner_checkpoint}
        if request.refiner_switch_at is not None:
            fields["refiner"]["switch_at"] = request.refiner_switch_at
    fields |= {"width": width, "height": height}
    pictures = controlnet.add(request.alwayson_scripts, catalogue, (width, height), None, fields, desk.mistakes)
    return _wish(desk, fields, pictures, chance)


def img2img(request: Img2Img, catalogue: Catalogue, kept: Options, chance: Callable[[], int]) -> Wish:
    """The job of an img2img, or of an inpainting. Raises as `txt2img` does."""
    if not request.init_images:
        raise AnswerError(404, "Init image not found")
    desk = _Desk(request, catalogue, kept)
    size = _sides(request)
    fields = _common(desk) | {"width": size[0], "height": size[1], "strength": request.denoising_strength}
    if len(request.init_images) > 1:
        desk.refuse("init_images", "must have one picture", f"{len(request.init_images)} pictures")
    if request.resize_mode == 3:
        desk.refuse("resize_mode", "must be 0, 1 or 2: the latents are not resized", 3)
    if request.latent_mask:
        desk.refuse("latent_mask", "must be empty: give `mask`", "a picture")
    if request.refiner_checkpoint.lower() not in SAME and request.refiner_switch_at != 1:
        desk.refuse("refiner_checkpoint", "goes with txt2img only", request.refiner_checkpoint)
    if request.initial_noise_multiplier != 1:
        desk.leave_out("initial_noise_multiplier", request.initial_noise_multiplier)
    data = starts.data_of(request.init_images[0])
    start = starts.decoded(data)
    if request.mask:
        pictures = _inpaint(desk, request, start, size, fields)
    else:
        # The engine crops what has another shape; what has the same, or is to be cropped, it resizes better at once.
        same = start.size[0] * size[1] == start.size[1] * size[0]
        ready = request.resize_mode == 1 or same
        fields["image"] = "image.png"
        pictures = {"image.png": starts.encoded(start if ready else starts.resized(start, size, request.resize_mode))}
    pictures |= controlnet.add(request.alwayson_scripts, catalogue, size, start, fields, desk.mistakes)
    return _wish(desk, fields, pictures, chance)


def with_infotext(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request with what its `infotext` tells in the place of what it does not say."""
    text = given.get("infotext")
    if not isinstance(text, str) or not text.strip():
        return dict(given)
    told = infotext.parse(text)
    renamed = {
        "guidance_scale": "cfg_scale",
        "sampler": "sampler_name",
        "strength": "denoising_strength",
        "variation_seed": "subseed",
        "variation_strength": "subseed_strength",
    }
    same = ("prompt", "negative_prompt", "steps", "seed", "width", "height", "scheduler", "mask_blur")
    fields = {renamed.get(name, name): told[name] for name in (*same, *renamed) if name in told}
    if hires := told.get("hires"):
        fields["enable_hr"] = True
        parts = {"scale": "hr_scale", "steps": "hr_second_pass_steps", "upscaler": "hr_upscaler"}
        fields |= {parts.get(name, "denoising_strength"): value for name, value in hires.items()}
    if refiner := told.get("refiner"):
        fields |= {"refiner_checkpoint": refiner["model"], "refiner_switch_at": refiner.get("switch_at")}
    settings = {"model": "sd_model_checkpoint", "vae": "sd_vae", "clip_skip": "CLIP_stop_at_last_layers"}
    override = {settings[name]: told[name] for name in settings if name in told}
    own = {name: value for name, value in given.items() if value is not None}
    if isinstance(own.get("override_settings", {}), Mapping):
        own["override_settings"] = override | dict(own.get("override_settings", {}))
    return fields | own


def _sides(request: Drawing) -> tuple[int, int]:
    """As A1111 draws them: cut to what its latents can have. Raises JobError for what no job may have."""
    size = request.width // 8 * 8, request.height // 8 * 8
    if not isinstance(request, Txt2Img) or max(size) > MOST_SIDE:
        starts.check(size)
    return size


def _common(desk: _Desk) -> dict[str, Any]:
    """The fields that txt2img and img2img have in common, the size left out."""
    request = desk.request
    fields: dict[str, Any] = {"steps": request.steps, "guidance_scale": request.cfg_scale}
    fields["prompt"], negative = _prompts(desk)
    if negative and not desk.can("negative_prompt"):
        desk.leave_out("negative_prompt", "the model has none")
    elif negative:
        fields["negative_prompt"] = negative
    _sampler(desk, fields)
    if desk.options.model:
        fields["model"] = desk.options.model
    if desk.options.vae:
        fields["vae"] = desk.options.vae
    if desk.options.clip_skip != 1:
        if desk.can("clip_skip"):
            fields["clip_skip"] = desk.options.clip_skip
        else:
            desk.leave_out("CLIP_stop_at_last_layers", desk.options.clip_skip)
    if request.styles:
        desk.refuse("styles", "must be empty: the server keeps no styles", request.styles)
    if request.firstpass_image:
        desk.refuse("firstpass_image", "must be empty: a second pass alone is img2img", "a picture")
    if request.tiling:
        desk.refuse("tiling", "must be false: the engine draws no tiles", True)
    for name in ("seed_resize_from_w", "seed_resize_from_h"):
        if getattr(request, name) > 0:
            desk.refuse(name, "must be 0 or -1: noise is not resized", getattr(request, name))
    if request.script_name.lower() not in SAME:
        raise AnswerError(422, f"Script '{request.script_name[:100]}' not found")
    for name in request.alwayson_scripts:
        if name.lower() != "controlnet":
            raise AnswerError(422, f"always on script {name[:100]} not found")
    _leave_out_small_things(desk, fields)
    return fields


def _leave_out_small_things(desk: _Desk, fields: Mapping[str, Any]) -> None:
    """Parameters without which the picture is nearly the same: named, for their clients send them always."""
    request = desk.request
    own_eta = 1.0 if fields.get("sampler") in ANCESTRAL else 0.0 if fields.get("sampler") == "DDIM" else request.eta
    usual: dict[str, Any] = {"restore_faces": False, "s_min_uncond": 0, "s_churn": 0, "s_noise": 1, "eta": own_eta}
    if isinstance(request, Img2Img):
        usual["mask_round"] = True
    for name, value in usual.items():
        if (asked := getattr(request, name)) is not None and asked != value:
            desk.leave_out(name, asked)


def _prompts(desk: _Desk) -> tuple[str, str]:
    """Both prompts; without their LoRAs where no extra networks are wanted. What is not understood in them is named."""
    request = desk.request
    texts = [request.prompt.replace("\r\n", "\n"), request.negative_prompt.replace("\r\n", "\n")]
    if request.disable_extra_networks:
        with contextlib.suppress(PromptError):  # the job's own rules name it
            texts = [extract_loras(text)[0].strip() for text in texts]
    for what in dict.fromkeys(what for text in texts for what in _not_understood(text)):
        desk.leave_out(what, "drawn as it stands in the prompt")
    return texts[0], texts[1]


def _not_understood(text: str) -> Iterator[str]:
    """The names of A1111's syntax that is in the text and is drawn as it stands here.

    Nobody has looked yet how long the text is, so each is looked for in one pass: a pattern that has to guess where its parts
    end takes minutes with some.
    """
    inside = [found[1].rstrip() for found in _BRACKETS.finditer(text)]
    if any(each[-1:].isdecimal() and ":" in each for each in inside):
        yield "prompt editing [from:to:when]"
    if any("|" in each for each in inside):
        yield "alternating words [a|b]"
    if re.search(r"\bAND\b", text):
        yield "composition with AND"
    if (found := _NETWORK.search(text)) and ">" in text[found.end() :]:
        yield "extra networks other than <lora:...>"


def _sampler(desk: _Desk, fields: dict[str, Any]) -> None:
    request = desk.request
    if not desk.can("sampler"):
        for name in ("sampler_name", "scheduler"):
            if (asked := getattr(request, name)) and asked.lower() not in names.NO_NAME:
                desk.leave_out(name, f"{asked}: the model has its own")
        return
    asked = request.sampler_name or request.sampler_index
    sampler, schedule = names.sampler(asked)
    if sampler is None:
        raise AnswerError(400, "Sampler not found", why=f"`sampler_name` must be one of GET samplers, but is {show(asked)}.")
    if schedule is None and request.scheduler:
        schedule = names.schedule(request.scheduler)
        if schedule is None:
            rule = "`scheduler` must be one of GET schedulers"
            raise AnswerError(400, "Scheduler not found", why=f"{rule}, but is {show(request.scheduler)}.")
    fields |= {"sampler": sampler.name, "scheduler": schedule or "Automatic"}


def _hires(desk: _Desk, request: Txt2Img, fields: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    """Fills `hires` in and returns the size that is drawn first."""
    x, y = request.hr_resize_x, request.hr_resize_y
    if request.firstphase_width > 0 or request.firstphase_height > 0:
        x, y = width, height
        width = request.firstphase_width // 8 * 8 or width
        height = request.firstphase_height // 8 * 8 or height
    scale = request.hr_scale
    if x > 0 or y > 0:
        scale = x / max(1, width) if x > 0 else y / max(1, height)
        if x > 0 and y > 0 and abs(height * scale - y) > 8:
            rule = f"must have the shape of {width}x{height}, which is {x}x{round(height * scale)}"
            desk.refuse("hr_resize_y", rule, f"{x}x{y}")
    upscaler = request.hr_upscaler or ("Latent" if desk.can("sampler") else "Lanczos")
    if upscaler.lower() == "none":
        upscaler = "Lanczos"  # as A1111 resizes without an upscaler
    upscaler = names.listed(upscaler, ("Latent", *desk.catalogue.upscalers))
    fields["hires"] = {"scale": round(scale, 6), "strength": request.denoising_strength, "upscaler": upscaler}
    if request.hr_second_pass_steps:
        fields["hires"]["steps"] = request.hr_second_pass_steps
    checkpoint = request.hr_checkpoint_name
    if checkpoint.lower() not in SAME and names.model(checkpoint, desk.catalogue) != desk.card:
        desk.refuse("hr_checkpoint_name", "must be that of the first pass", checkpoint)
    _hires_sampler(desk, request, fields)
    for name, own in (("hr_prompt", request.prompt), ("hr_negative_prompt", request.negative_prompt)):
        if getattr(request, name) not in ("", own):
            desk.refuse(name, "must be that of the first pass", getattr(request, name))
    return width, height


def _hires_sampler(desk: _Desk, request: Txt2Img, fields: Mapping[str, Any]) -> None:
    """The second pass has the first one's sampler and schedule; a model that has its own has them in both."""
    for name, read, own in (
        ("hr_sampler_name", lambda asked: getattr(names.sampler(asked)[0], "name", None), "sampler"),
        ("hr_scheduler", names.schedule, "scheduler"),
    ):
        asked = getattr(request, name)
        if asked.lower() in SAME:
            continue
        if not desk.can("sampler"):
            desk.leave_out(name, f"{asked}: the model has its own")
        elif read(asked) != fields.get(own):
            desk.refuse(name, "must be that of the first pass", asked)


def _inpaint(desk: _Desk, request: Img2Img, start: Picture, size: starts.Size, fields: dict[str, Any]) -> dict[str, bytes]:
    """Fills the fields of an inpainting in and returns its pictures."""
    mask = starts.mask_of(starts.data_of(request.mask), bool(request.inpainting_mask_invert))
    blur = request.mask_blur if request.mask_blur is not None else request.mask_blur_x
    if request.mask_blur is None and request.mask_blur_x != request.mask_blur_y:
        desk.refuse("mask_blur_y", f"must be `mask_blur_x`, {request.mask_blur_x}", request.mask_blur_y)
    if request.inpainting_fill > 1:
        desk.refuse("inpainting_fill", "must be 0 (fill) or 1 (original)", request.inpainting_fill)
    mask = starts.fitted_mask(mask, start)
    if not request.inpaint_full_res:  # the result has the size that is asked for; else the picture's own
        start = starts.resized(start, size, request.resize_mode)
        mask = starts.resized(mask, size, request.resize_mode).point(lambda value: 255 if value > 128 else 0)
    if request.inpainting_fill == 0:
        start = starts.filled(start, mask)
    area = "masked" if request.inpaint_full_res else "whole"
    fields |= {"image": "image.png", "mask": "mask.png", "mask_blur": blur, "inpaint_area": area}
    fields["inpaint_padding"] = request.inpaint_full_res_padding
    return {"image.png": starts.encoded(start), "mask.png": starts.encoded(mask)}


def _wish(desk: _Desk, fields: dict[str, Any], pictures: dict[str, bytes], chance: Callable[[], int]) -> Wish:
    """All of it together: seeds, numbers, and what was found wrong."""
    request = desk.request
    count = request.batch_size * request.n_iter
    seed = chance() if request.seed == -1 else request.seed
    subseed = chance() if request.subseed == -1 else request.subseed
    varied = request.subseed_strength != 0
    fields |= {"seed": seed, "count": count}
    if varied:
        # A1111 keeps the seed and counts the variation seeds on; a sweep over them does just that.
        fields["variation_strength"] = request.subseed_strength
        fields["variation_seed"] = subseed
        if count > 1:
            fields["sweep"] = {"variation_seed": _counted(subseed, count)}
            fields["count"] = 1
    if desk.mistakes:
        raise JobError(*desk.mistakes)
    seeds = [seed] * count if varied else _counted(seed, count)
    card, options = desk.card, desk.options
    return Wish(fields, pictures, desk.ignored, tuple(seeds), tuple(_counted(subseed, count)), card, options)


def _counted(first: int, count: int) -> Iterable[Any]:
    return [(first + index) % (MAX_SEED + 1) for index in range(count)]
