"""What a client may send, one row a parameter: name, default, what becomes of it, sentence.

Names and defaults are those of A1111 1.10.1; unknown names are ignored, values are coerced, and null means the default, all as
it does. The table of docs/api-a1111.md is made from these rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: What becomes of a parameter: done as A1111 does it; refused (422) when it asks for what cannot be done; left out and named in
#: `info.extra_generation_params.Ignored`, for the picture is nearly the same without; or without any meaning here.
Verdict = Literal["honoured", "refused", "named", "no effect"]


#: Parameters whose default is null in A1111, and in the answer's `parameters`; here it is what null comes to.
NULLS = frozenset(
    (
        "styles",
        "sampler_name",
        "scheduler",
        "restore_faces",
        "tiling",
        "eta",
        "s_min_uncond",
        "s_churn",
        "s_tmax",
        "s_tmin",
        "s_noise",
        "override_settings",
        "refiner_checkpoint",
        "refiner_switch_at",
        "firstpass_image",
        "comments",
        "hr_upscaler",
        "hr_checkpoint_name",
        "hr_sampler_name",
        "hr_scheduler",
        "force_task_id",
        "script_name",
        "infotext",
        "init_images",
        "image_cfg_scale",
        "mask",
        "mask_blur",
        "initial_noise_multiplier",
        "latent_mask",
    )
)


#: Pixels of a side that somebody may ask for: more than there is memory for anywhere, and still a number.
MOST_SIDE = 1 << 16


def _row(default: Any, verdict: Verdict, sentence: str, **rules: Any) -> Any:
    return Field(default, description=sentence, json_schema_extra={"verdict": verdict}, validate_default=False, **rules)


def _whole(value: Any) -> Any:
    """A number with a fraction loses it, as in A1111."""
    return int(value) if isinstance(value, float) and abs(value) < 1e15 else value


Whole = Annotated[int, BeforeValidator(_whole)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, Mapping) else given

    def echo(self) -> dict[str, Any]:
        """The request as A1111 sends it back, with its defaults."""
        return {
            name: None if name in NULLS and name not in self.model_fields_set else value
            for name, value in self.model_dump().items()
        }


class Drawing(_Request):
    """What txt2img and img2img have in common."""

    prompt: str = _row("", "honoured", "With weights, BREAK and LoRAs.")
    negative_prompt: str = _row("", "honoured", "Named for models that have none.")
    styles: list[str] = _row([], "refused", "The server keeps no styles.")
    seed: Whole = _row(-1, "honoured", "-1: one at random, told in `info`; else 0 to 4294967295. Picture i has seed + i.")
    subseed: Whole = _row(-1, "honoured", "Variation seed; picture i has subseed + i, and all the same seed.")
    subseed_strength: float = _row(0.0, "honoured", "txt2img only; with img2img refused.")
    seed_resize_from_h: Whole = _row(-1, "refused", "Above 0.")
    seed_resize_from_w: Whole = _row(-1, "refused", "Above 0.")
    sampler_name: str = _row("", "honoured", "Name or alias, in any case, with the schedule behind it or not; unknown: 400.")
    sampler_index: str = _row("Euler", "honoured", "Used when `sampler_name` is empty.")
    scheduler: str = _row("", "honoured", "Name or label, in any case, that the sampler has; unknown: 400.")
    batch_size: Whole = _row(1, "honoured", "Together with `n_iter` the number of pictures.", ge=1, le=64)
    n_iter: Whole = _row(1, "honoured", "As `batch_size`: the engine itself chooses how many it draws at once.", ge=1, le=64)
    steps: Whole = _row(50, "honoured", "1 to 150.")
    cfg_scale: float = _row(7.0, "honoured", "0 to 30.")
    width: Whole = _row(512, "honoured", "Pixels, 64 to 2048, cut to a multiple of 8.")
    height: Whole = _row(512, "honoured", "Pixels, 64 to 2048, cut to a multiple of 8.")
    restore_faces: bool = _row(False, "named", "There is no face restorer.")
    tiling: bool = _row(False, "refused", "Only false.")
    do_not_save_samples: bool = _row(False, "no effect", "The spool keeps each job until retention removes it.")
    do_not_save_grid: bool = _row(False, "no effect", "`save_images` decides, as in A1111.")
    eta: float | None = _row(None, "named", "Where it is not the sampler's own: 0 for DDIM, 1 for those with an `a`.")
    denoising_strength: float = _row(0.75, "honoured", "For img2img and the second pass of hires fix.")
    s_min_uncond: float = _row(0.0, "named", "Above 0.")
    s_churn: float = _row(0.0, "named", "Above 0.")
    s_tmax: float | None = _row(None, "no effect", "Only says where `s_churn` works.")
    s_tmin: float = _row(0.0, "no effect", "Only says where `s_churn` works.")
    s_noise: float = _row(1.0, "named", "Other than 1.")
    override_settings: dict[str, Any] = _row({}, "honoured", "See the table of options.")
    override_settings_restore_afterwards: bool = _row(True, "honoured", "false: the options stay as this request has them.")
    refiner_checkpoint: str = _row("", "honoured", "txt2img with an SDXL model.")
    refiner_switch_at: float | None = _row(None, "honoured", "0.8 when left out; 1: no refiner.")
    disable_extra_networks: bool = _row(False, "honoured", "LoRAs in the prompt are left out.")
    firstpass_image: str = _row("", "refused", "A second pass alone is img2img.")
    comments: dict[str, Any] = _row({}, "no effect", "A1111 fills it itself.")
    script_name: str = _row("", "refused", "There are no scripts: 422 `Script 'x' not found`.")
    script_args: list[Any] = _row([], "no effect", "Goes with `script_name`.")
    send_images: bool = _row(True, "honoured", "false: `images` is empty, `info` is whole.")
    save_images: bool = _row(False, "honoured", "Of several pictures a grid comes first. Each picture is kept in any case.")
    alwayson_scripts: dict[str, Any] = _row({}, "honoured", "`controlnet` only, see below; another is 422.")
    force_task_id: str = _row("", "honoured", "The job's id, as far as it may be one.")
    infotext: str = _row("", "honoured", "Fills what is not given.")


class Txt2Img(Drawing):
    """POST /sdapi/v1/txt2img."""

    enable_hr: bool = _row(False, "honoured", "Hires fix.")
    firstphase_width: Whole = _row(0, "honoured", "With hires fix: the size drawn first, `width` is then the final one.")
    firstphase_height: Whole = _row(0, "honoured", "With hires fix: the size drawn first, `height` is then the final one.")
    hr_scale: float = _row(2.0, "honoured", "Above 1, to 4.")
    hr_upscaler: str = _row("", "honoured", "Latent, Lanczos, None (which is Lanczos) or the server's; Latent when empty.")
    hr_second_pass_steps: Whole = _row(0, "honoured", "0: those of `steps`.")
    hr_resize_x: Whole = _row(0, "honoured", "In the shape of the first size; another shape is refused.", le=MOST_SIDE)
    hr_resize_y: Whole = _row(0, "honoured", "In the shape of the first size; another shape is refused.", le=MOST_SIDE)
    hr_checkpoint_name: str = _row("", "refused", "Another model than the first pass's.")
    hr_sampler_name: str = _row("", "refused", "Another sampler than the first pass's.")
    hr_scheduler: str = _row("", "refused", "Another schedule than the first pass's.")
    hr_prompt: str = _row("", "refused", "Another prompt than the first pass's.")
    hr_negative_prompt: str = _row("", "refused", "Another negative prompt than the first pass's.")


class Img2Img(Drawing):
    """POST /sdapi/v1/img2img."""

    init_images: list[str] = _row([], "honoured", "One picture: Base64, or a data: URL. No other URL is ever fetched.")
    resize_mode: Whole = _row(0, "honoured", "0 stretch, 1 crop, 2 fill; 3 (latent) is refused.", ge=0, le=3)
    image_cfg_scale: float | None = _row(None, "no effect", "Only for instruct-pix2pix models, of which there are none.")
    mask: str = _row("", "honoured", "White is repainted, black kept to the bit; a picture with transparency counts by it.")
    mask_blur_x: Whole = _row(4, "honoured", "Must be `mask_blur_y`.", ge=0)
    mask_blur_y: Whole = _row(4, "honoured", "Must be `mask_blur_x`.", ge=0)
    mask_blur: Whole | None = _row(None, "honoured", "Stands for both; 0 to 64. It fades in inside the white.")
    mask_round: bool = _row(True, "named", "false.")
    inpainting_fill: Whole = _row(0, "honoured", "0 fill, 1 original; 2 and 3 (latent noise, nothing) are refused.", ge=0, le=3)
    inpaint_full_res: bool = _row(True, "honoured", "true: the masked part at full size, in the picture's own size.")
    inpaint_full_res_padding: Whole = _row(0, "honoured", "Pixels, 0 to 512.")
    inpainting_mask_invert: Whole = _row(0, "honoured", "1: black is repainted.", ge=0, le=1)
    initial_noise_multiplier: float = _row(1.0, "named", "Other than 1.")
    latent_mask: str = _row("", "refused", "Give `mask`.")
    include_init_images: bool = _row(False, "honoured", "`parameters` has the pictures that were sent.")


class Extras(_Request):
    """What both ways of enlarging have in common."""

    resize_mode: Literal[0, 1] = _row(0, "honoured", "0: by `upscaling_resize`, 1: to `upscaling_resize_w` and `_h`.")
    show_extras_results: bool = _row(True, "no effect", "The picture is always sent.")
    gfpgan_visibility: float = _row(0.0, "refused", "Above 0.", ge=0, le=1)
    codeformer_visibility: float = _row(0.0, "refused", "Above 0.", ge=0, le=1)
    codeformer_weight: float = _row(0.0, "no effect", "Goes with `codeformer_visibility`.", ge=0, le=1)
    upscaling_resize: float = _row(2.0, "honoured", "Above 1, to 8.", gt=0)
    upscaling_resize_w: Whole = _row(
        512, "honoured", "Pixels; the picture is enlarged, never made smaller.", ge=1, le=MOST_SIDE
    )
    upscaling_resize_h: Whole = _row(
        512, "honoured", "Pixels; the picture is enlarged, never made smaller.", ge=1, le=MOST_SIDE
    )
    upscaling_crop: bool = _row(True, "honoured", "Cut to the size where the shape is another.")
    upscaler_1: str = _row("None", "honoured", "None leaves the picture as it is.")
    upscaler_2: str = _row("None", "refused", "With a visibility above 0.")
    extras_upscaler_2_visibility: float = _row(0.0, "refused", "Above 0, with `upscaler_2`.", ge=0, le=1)
    upscale_first: bool = _row(False, "no effect", "Goes with the face restorers.")


class ExtraSingle(Extras):
    """POST /sdapi/v1/extra-single-image."""

    image: str = _row("", "honoured", "The picture.")


class NamedPicture(_Request):
    """One of the pictures of extra-batch-images."""

    data: str
    name: str


class ExtraBatch(Extras):
    """POST /sdapi/v1/extra-batch-images."""

    imageList: list[NamedPicture] = _row(..., "honoured", "The pictures, 64 at most: `data` and `name`.", max_length=64)


class PngInfo(_Request):
    """POST /sdapi/v1/png-info."""

    image: str


class TaskProgress(_Request):
    """POST /internal/progress."""

    id_task: str = ""
    id_live_preview: Whole = -1
    live_preview: bool = True


#: The requests of the table, by their routes.
TABLE: tuple[tuple[str, type[_Request]], ...] = (
    ("txt2img and img2img", Drawing),
    ("txt2img", Txt2Img),
    ("img2img", Img2Img),
    ("extra-single-image and extra-batch-images", Extras),
)


def markdown_table() -> str:
    """The table of docs/api-a1111.md."""
    rows = ["| request | parameter | default | what becomes of it | |", "|---|---|---|---|---|"]
    for title, model in TABLE:
        inherited = set(Drawing.model_fields) if model in (Txt2Img, Img2Img) else set()
        for name, field in model.model_fields.items():
            if name not in inherited:
                verdict = field.json_schema_extra["verdict"] if isinstance(field.json_schema_extra, dict) else ""
                default = "null" if name in NULLS else json.dumps(field.default)
                rows.append(f"| {title} | `{name}` | `{default}` | {verdict} | {field.description} |")
    return "\n".join(rows) + "\n"
