"""A request in A1111's words becomes a job: pure, without a server."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import pytest
from house import ROOT
from PIL import Image

from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job, from_fields
from spooler.mistakes import JobError
from webui.sdapi import names, requests, starts, translate
from webui.sdapi.errors import AnswerError
from webui.sdapi.kept import Kept, Options
from webui.sdapi.requests import Img2Img, Txt2Img

DIGEST = "ab" * 32
CATALOGUE = Catalogue(
    models=(
        ModelCard(name="demo", family="sd1", width=128, height=128, hash=DIGEST),
        ModelCard(name="sub/My Model v2", family="sdxl", width=1024, height=1024, hash="cd" * 32),
        ModelCard(name="dev", family="flux", width=1024, height=1024),
        ModelCard(name="refiner", family="sdxl-refiner", width=1024, height=1024),
    ),
    loras=("ink",),
    vaes=("soft",),
    controlnets=("canny",),
    upscalers=("Lanczos", "4x-Sharp"),
    default="demo",
)


def picture(colour: Any = "red", size: tuple[int, int] = (64, 64), mode: str = "RGB") -> str:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def wish(kept: Options = Options(), **given: Any) -> translate.Wish:  # noqa: B008 - it is frozen
    asked = {"prompt": "a cat", **given}
    if "init_images" in asked:
        return translate.img2img(Img2Img.model_validate(translate.with_infotext(asked)), CATALOGUE, kept, lambda: 7)
    return translate.txt2img(Txt2Img.model_validate(translate.with_infotext(asked)), CATALOGUE, kept, lambda: 7)


def job(kept: Options = Options(), **given: Any) -> Job:  # noqa: B008
    made = from_fields(wish(kept, **given).job)
    CATALOGUE.check(made)
    return made


def mistakes(**given: Any) -> str:
    with pytest.raises(JobError) as error:
        job(**given)
    return str(error.value)


def test_a_bare_prompt_has_a1111_s_defaults() -> None:
    made = job()
    assert (made.steps, made.guidance_scale, made.width, made.height, made.count) == (50, 7.0, 512, 512, 1)
    assert (made.sampler, made.scheduler, made.seed, made.model) == ("Euler", "Automatic", 7, "")


def test_values_are_coerced_null_is_the_default_and_unknown_names_are_ignored() -> None:
    made = job(steps="7", width=512.9, cfg_scale="3", height=None, seed=None, nonsense={"x": 1}, url="http://x", auth="")
    assert (made.steps, made.width, made.guidance_scale, made.height) == (7, 512, 3.0, 512)


@pytest.mark.parametrize(
    ("given", "sampler", "schedule"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "dpm++ 2m sde", "scheduler": "karras"}, "DPM++ 2M SDE", "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "sgm_uniform"}, "DPM++ 2M", "SGM Uniform"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "SGM Uniform"}, "DPM++ 2M", "SGM Uniform"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Exponential"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "k_euler_a"}, "Euler a", "Automatic"),
        ({"sampler_name": "", "sampler_index": "LMS"}, "LMS", "Automatic"),
        ({"sampler_name": None, "sampler_index": "k_lms"}, "LMS", "Automatic"),
        ({"sampler_name": "DDIM", "scheduler": "normal"}, "DDIM", "Uniform"),
    ],
)
def test_samplers_and_schedules_by_their_names(given: dict[str, Any], sampler: str, schedule: str) -> None:
    made = job(**given)
    assert (made.sampler, made.scheduler) == (sampler, schedule)


@pytest.mark.parametrize(
    ("given", "status", "detail"),
    [
        ({"sampler_name": "Restart"}, 400, "Sampler not found"),
        ({"sampler_index": "PLMS Karras Karras"}, 400, "Sampler not found"),
        ({"scheduler": "kl_optimal"}, 400, "Scheduler not found"),
        ({"script_name": "x/y/z"}, 422, "Script 'x/y/z' not found"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, 422, "always on script ADetailer not found"),
        ({"init_images": []}, 404, "Init image not found"),
        ({"init_images": ["https://example.org/x.png"]}, 500, "Requests not allowed"),
        ({"init_images": ["HTTP://127.0.0.1/x.png"]}, 500, "Requests not allowed"),
        ({"init_images": ["nonsense"]}, 500, "Invalid encoded image"),
        ({"init_images": [""]}, 500, "Invalid encoded image"),
        ({"init_images": [picture()[:60]]}, 500, "Invalid encoded image"),
        ({"init_images": [picture()], "mask": "http://x/y"}, 500, "Requests not allowed"),
    ],
)
def test_s7_no_url_is_fetched_and_what_a1111_itself_says(given: dict[str, Any], status: int, detail: str) -> None:
    with pytest.raises(AnswerError) as error:
        wish(**given)
    assert (error.value.status, error.value.detail) == (status, detail)


@pytest.mark.parametrize(
    "alias",
    [
        "sub/My Model v2",
        "sub/my model v2",
        "My Model v2",
        "my model V2.safetensors",
        "My Model v2.safetensors [cdcdcdcdcd]",
        f"sub/My Model v2 [{'cd' * 5}]",
        "cd" * 5,
        "CD" * 32,
        "renamed.ckpt [cdcdcdcdcd]",
    ],
)
def test_a_model_by_all_its_names(alias: str) -> None:
    assert job(override_settings={"sd_model_checkpoint": alias}).model == "sub/My Model v2"
    found = names.model(alias, CATALOGUE)
    assert found and names.title(found) == "sub/My Model v2 [cdcdcdcdcd]"


def test_the_options_that_were_set_are_the_defaults_and_a_request_may_override_them() -> None:
    kept = Options("sub/My Model v2", "soft", 2)
    assert (job(kept).model, job(kept).vae, job(kept).clip_skip) == ("sub/My Model v2", "soft", 2)
    override = {"sd_model_checkpoint": "demo", "sd_vae": "Automatic", "CLIP_stop_at_last_layers": "1"}
    made = job(kept, override_settings=override)
    assert (made.model, made.vae, made.clip_skip) == ("demo", "", 1)


def test_seeds_count_on_and_of_a_variation_the_variation_seeds() -> None:
    plain = wish(seed=40, batch_size=2, n_iter=3)
    assert plain.job["count"] == 6 and plain.seeds == (40, 41, 42, 43, 44, 45)
    varied = wish(seed=40, subseed=9, subseed_strength=0.2, batch_size=3)
    made = from_fields(varied.job)
    assert varied.seeds == (40, 40, 40) and varied.subseeds == (9, 10, 11)
    assert [(cell.seed, cell.variation_seed, cell.count) for cell in made.cells()] == [(40, 9, 1), (40, 10, 1), (40, 11, 1)]


def test_hires_fix() -> None:
    made = job(enable_hr=True, denoising_strength=0.4, hr_scale=1.5, hr_upscaler="None", hr_second_pass_steps=9)
    assert made.hires and vars(made.hires) == {"scale": 1.5, "strength": 0.4, "steps": 9, "upscaler": "Lanczos"}
    assert job(enable_hr=True).hires == job(enable_hr=True, hr_upscaler="latent").hires
    made = job(enable_hr=True, width=512, height=768, hr_resize_x=1024, hr_resize_y=1536, hr_upscaler="4x-sharp")
    assert made.hires and (made.hires.scale, made.hires.upscaler) == (2.0, "4x-Sharp")
    made = job(enable_hr=True, width=1024, height=1536, firstphase_width=512, firstphase_height=768)
    assert made.hires and (made.width, made.height, made.hires.scale) == (512, 768, 2.0)
    assert job(hr_scale=9, hr_upscaler="nonsense", hr_prompt="x").hires is None, "without enable_hr they mean nothing"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"styles": ["anime"]}, "`styles` must be empty"),
        ({"tiling": True}, "`tiling` must be false"),
        ({"seed_resize_from_w": 512}, "`seed_resize_from_w`"),
        ({"firstpass_image": "x"}, "`firstpass_image`"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, "`override_settings.sd_model_checkpoint` must be one of"),
        ({"override_settings": {"sd_vae": "nope"}}, "`vae` must be one of soft"),
        ({"enable_hr": True, "hr_upscaler": "Latent (bicubic)"}, "`hires.upscaler` must be one of"),
        ({"enable_hr": True, "hr_resize_x": 1024, "hr_resize_y": 512}, "`hr_resize_y` must have the shape"),
        ({"enable_hr": True, "hr_prompt": "a dog"}, "`hr_prompt` must be that of the first pass"),
        ({"enable_hr": True, "hr_sampler_name": "DDIM"}, "`hr_sampler_name`"),
        ({"enable_hr": True, "hr_scheduler": "Karras"}, "`hr_scheduler`"),
        ({"enable_hr": True, "hr_checkpoint_name": "dev"}, "`hr_checkpoint_name`"),
        ({"prompt": "a <lora:nope:1>"}, "The LoRA in `prompt` must be one of ink"),
        ({"init_images": [picture(), picture()]}, "`init_images` must have one"),
        ({"init_images": [picture()], "resize_mode": 3}, "`resize_mode` must be 0, 1 or 2"),
        ({"init_images": [picture()], "latent_mask": "x"}, "`latent_mask`"),
        ({"init_images": [picture()], "mask": picture("white"), "inpainting_fill": 2}, "`inpainting_fill` must be 0"),
        ({"init_images": [picture()], "mask": picture("white"), "mask_blur_x": 1}, "`mask_blur_y` must be `mask_blur_x`, 1"),
        ({"init_images": [picture()], "subseed_strength": 0.5}, "`variation_strength` mixes"),
    ],
)
def test_what_cannot_be_done_and_would_be_another_picture_is_refused(given: dict[str, Any], sentence: str) -> None:
    assert sentence in mistakes(**given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"restore_faces": True}, {"restore_faces"}),
        ({"eta": 1.0, "sampler_name": "Euler a"}, set()),
        ({"eta": 0.0, "sampler_name": "DDIM"}, set()),
        ({"eta": 1.0, "sampler_name": "DDIM"}, {"eta"}),
        ({"s_churn": 0, "s_tmax": 0, "s_noise": 1, "s_min_uncond": None}, set()),
        ({"s_churn": 3, "s_noise": 1.1, "s_min_uncond": 1}, {"s_churn", "s_noise", "s_min_uncond"}),
        ({"override_settings": {"samples_format": "png", "live_previews_enable": False, "save_to_dirs": True}}, set()),
        ({"override_settings": {"eta_noise_seed_delta": 31337}}, {"override_settings.eta_noise_seed_delta"}),
        ({"override_settings": {"forge_additional_modules": []}}, {"override_settings.forge_additional_modules"}),
        ({"prompt": "a [cat:dog:0.5]"}, {"prompt editing [from:to:when]"}),
        ({"prompt": "a [cat|dog]"}, {"alternating words [a|b]"}),
        ({"prompt": "a cat AND a dog"}, {"composition with AND"}),
        ({"prompt": "a [b] [cat:dog] <lyco:ink> c"}, {"extra networks other than <lora:...>"}),
        ({"prompt": "a [cat], BREAK (a dog:1.2) <lora:ink:1>"}, set()),
        ({"override_settings": {"sd_model_checkpoint": "dev"}, "negative_prompt": "x"}, {"negative_prompt"}),
        (
            {"override_settings": {"sd_model_checkpoint": "dev", "CLIP_stop_at_last_layers": 2}, "sampler_name": "Euler a"},
            {"sampler_name", "CLIP_stop_at_last_layers"},
        ),
        (
            {"override_settings": {"sd_model_checkpoint": "dev"}, "sampler_name": "Euler", "scheduler": "Karras"}
            | {"enable_hr": True, "hr_upscaler": "Lanczos", "hr_sampler_name": "Euler", "hr_scheduler": "Karras"},
            {"sampler_name", "scheduler", "hr_sampler_name", "hr_scheduler"},
        ),
        ({"enable_hr": True, "sampler_name": "DDIM", "hr_sampler_name": "DDIM"}, set()),
        ({"init_images": [picture()], "initial_noise_multiplier": 0.9, "mask_round": False, "image_cfg_scale": 1.5},
         {"initial_noise_multiplier", "mask_round"}),
    ],
)  # fmt: skip
def test_what_is_left_out_is_named(given: dict[str, Any], named: set[str]) -> None:
    job(**given)
    assert set(wish(**given).ignored) == named


@pytest.mark.parametrize("piece", ["[", ":", "[:", "[:1 ", "|", "[|", "<a:", "<a", " ", "1 "])
def test_the_longest_texts_are_read_at_once(piece: str) -> None:
    text = "a[" + piece * (200_000 // len(piece)) + "b"
    begun = time.perf_counter()
    wish(prompt=text)
    assert names.model(text, CATALOGUE) is None
    assert time.perf_counter() - begun < 5


def test_extra_networks_are_left_out_of_the_prompt_where_that_is_asked_for() -> None:
    assert job(prompt="a cat <lora:nope:1>", disable_extra_networks=True).prompt == "a cat"


def test_an_infotext_fills_what_is_not_given() -> None:
    text = "a dog\nNegative prompt: dull\nSteps: 9, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 3, "
    text += "Size: 256x320, Model: demo, Clip skip: 2"
    made = wish(infotext=text, steps=11).job
    assert (made["prompt"], made["steps"], made["guidance_scale"], made["seed"]) == ("a cat", 11, 4.0, 3)
    assert (made["sampler"], made["scheduler"], made["width"], made["height"]) == ("DPM++ 2M", "Karras", 256, 320)
    assert (made["negative_prompt"], made["clip_skip"], made["model"]) == ("dull", 2, "demo")


def test_refiner() -> None:
    made = job(override_settings={"sd_model_checkpoint": "my model v2"}, refiner_checkpoint="refiner", refiner_switch_at=0.7)
    assert made.refiner and (made.refiner.model, made.refiner.switch_at) == ("refiner", 0.7)
    assert job(refiner_checkpoint="None", refiner_switch_at=0.5).refiner is None


def shown(made: translate.Wish, name: str = "image.png") -> Image.Image:
    return Image.open(io.BytesIO(made.pictures[name]))


def test_img2img_stretches_crops_or_fills_as_it_is_told() -> None:
    wide = Image.new("RGB", (200, 100), "red")
    wide.paste("blue", (0, 0, 20, 100))
    file = io.BytesIO()
    wide.save(file, "PNG")
    start = base64.b64encode(file.getvalue()).decode()
    same = {"init_images": [f"data:image/png;base64,{start}"], "width": 100, "height": 100}
    stretched = shown(wish(**same, resize_mode=0))
    assert stretched.size == (96, 96) and stretched.getpixel((4, 48)) == (0, 0, 255)
    assert shown(wish(**same, resize_mode=1)).size == (200, 100), "the engine crops it"
    filled = shown(wish(**same, resize_mode=2))
    assert filled.size == (96, 96) and filled.getpixel((90, 2)) == filled.getpixel((90, 94)) == (255, 0, 0)
    assert filled.getpixel((2, 2)) == (0, 0, 255), "the edge is drawn out"


def test_inpaint_white_is_repainted_and_a_mask_with_transparency_counts_by_it() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 32, 64))  # black strokes on nothing, as some clients send them
    for each in (mask, clear):
        file = io.BytesIO()
        each.save(file, "PNG")
        encoded = base64.b64encode(file.getvalue()).decode()
        same = {"init_images": [picture()], "mask": encoded, "width": 64, "height": 64}
        made = wish(**same, inpainting_mask_invert=0, mask_blur=2, inpaint_full_res_padding=8)
        assert (shown(made, "mask.png").getpixel((5, 5)), shown(made, "mask.png").getpixel((60, 5))) == (255, 0)
        assert (made.job["inpaint_area"], made.job["mask_blur"], made.job["inpaint_padding"]) == ("masked", 2, 8)
        turned = wish(**same, inpainting_mask_invert=True)
        assert (shown(turned, "mask.png").getpixel((5, 5)), shown(turned, "mask.png").getpixel((60, 5))) == (0, 255)


def test_inpaint_of_the_whole_picture_has_the_size_that_is_asked_for() -> None:
    made = wish(
        init_images=[picture(size=(100, 50))], mask=picture("white", (100, 50)), inpaint_full_res=False, width=64, height=64
    )
    assert shown(made).size == shown(made, "mask.png").size == (64, 64) and made.job["inpaint_area"] == "whole"
    made = wish(init_images=[picture(size=(104, 56))], mask=picture("white", (52, 28)), width=64, height=64)
    assert shown(made).size == shown(made, "mask.png").size == (104, 56)


def test_a_hole_is_filled_with_what_is_around_it_and_nothing_else_is_touched() -> None:
    start = Image.new("RGB", (128, 64), "red")
    start.paste("blue", (64, 0, 128, 64))
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (8, 8, 40, 56))
    start.paste("lime", (8, 8, 40, 56))
    filled = starts.filled(start, mask)
    assert all(filled.getpixel(at) == start.getpixel(at) for at in ((0, 0), (7, 30), (40, 30), (100, 30)))
    red, green, blue = filled.getpixel((10, 30))  # type: ignore[misc]
    assert red > 200 and green < 20 and blue < 60
    assert starts.filled(start, Image.new("L", (128, 64), 255)).tobytes() == start.tobytes()


def test_controlnet_units_as_the_extension_takes_them() -> None:
    unit = {"image": picture(), "model": "canny [d14c016b]", "module": "none", "weight": 0.8, "guidance_end": 0.5}
    made = wish(alwayson_scripts={"ControlNet": {"args": [unit, {"enabled": False}, {"model": "None"}, {}]}})
    (control,) = from_fields(made.job).controls
    assert (control.model, control.weight, control.start, control.end) == ("canny", 0.8, 0.0, 0.5)
    assert shown(made, control.image).size == (512, 512)
    given = {"init_images": [picture()], "alwayson_scripts": {"controlnet": {"args": [{"model": "canny"}]}}}
    assert from_fields(wish(**given).job).controls, "a unit without a picture takes that of img2img"
    assert "must be a list of units" in mistakes(alwayson_scripts={"controlnet": {"args": [True, "x"]}})
    for wrong in ({"module": "canny"}, {"control_mode": "ControlNet is more important"}, {"image": None}, {"model": "nope"}):
        args = [unit | wrong]
        assert "control" in mistakes(alwayson_scripts={"controlnet": {"args": args}})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"init_images": [picture()], "width": 16000, "height": 16000}, "`width` must be"),
        ({"init_images": [picture()], "width": -8}, "`width` must be"),
        ({"init_images": [picture()], "width": 1 << 40, "height": 8}, "`width` must be"),
        ({"enable_hr": True, "firstphase_width": 512, "width": 10**400}, "`width` must be"),
        (
            {"width": 16000, "alwayson_scripts": {"controlnet": {"args": [{"image": picture(), "model": "canny"}]}}},
            "`width` must be",
        ),
        ({"alwayson_scripts": {"controlnet": {"args": [{"image": picture(), "model": "canny"}] * 5}}}, "at most 4 units"),
    ],
)
def test_s5_nothing_is_made_of_a_size_or_a_number_that_no_job_may_have(
    given: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(starts, "resized", lambda *asked: made.append(asked))
    assert told in mistakes(**given)
    assert not made


def test_one_persons_task_is_nobody_elses() -> None:
    kept = Kept()
    kept.note_task("ann", "task-1", "task-1")
    kept.note_task("mal", "task-1", "task-1-2")
    assert (kept.job_of("ann", "task-1"), kept.job_of("mal", "task-1")) == ("task-1", "task-1-2")


#: What programs send, each with its habits: all of it is taken, and nothing of it is named.
CLIENTS: dict[str, dict[str, Any]] = {
    "SillyTavern": {
        "prompt": "a cat", "negative_prompt": "dull", "sampler_name": "DDIM", "scheduler": "normal", "steps": 20,
        "cfg_scale": 7, "width": 512, "height": 512, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent",
        "hr_scale": 1,
        "hr_additional_steps": 0, "hr_second_pass_steps": 0, "denoising_strength": 0.7, "seed": None, "clip_skip": 1,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": True,
        "save_images": True, "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False, "url": "http://x",
        "auth": "",
    },
    "LibreChat": {
        "prompt": "a cat", "negative_prompt": "dull", "cfg_scale": 4.5, "steps": 22, "width": 1024, "height": 1024,
    },
    "AI Render": {
        "init_images": [picture()], "prompt": "a cat", "negative_prompt": "", "seed": 12, "sampler_index": "LMS", "steps": 10,
        "cfg_scale": 7.0, "width": 512, "height": 512, "denoising_strength": 0.4, "restore_faces": False, "tiling": False,
    },
    "Easy Diffusion": {
        "force_task_id": "1f0c9c0e-5c7e-4d1c-a8a7-3f6b3d6f6b3d", "prompt": "a cat", "negative_prompt": "", "seed": 42,
        "sampler_name": "Euler a", "scheduler": "Automatic", "batch_size": 1, "n_iter": 1, "steps": 25, "cfg_scale": 7.5,
        "width": 512, "height": 512, "tiling": None, "alwayson_scripts": {}, "send_images": True,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_model_checkpoint": "demo", "live_previews_enable": True},
    },
    "Open WebUI": {"prompt": "a cat", "batch_size": 1, "width": 512, "height": 512, "steps": 50},
    "SwarmUI": {
        "prompt": "a cat", "negative_prompt": "", "seed": 1, "steps": 20, "width": 512, "height": 512, "batch_size": 1,
        "n_iter": 1, "sampler_name": "Euler", "cfg_scale": 7, "subseed": -1, "subseed_strength": 0,
        "do_not_save_samples": True, "do_not_save_grid": True, "save_images": False,
        "override_settings": {"sd_model_checkpoint": "My Model v2.safetensors"}, "alwayson_scripts": {},
    },
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_what_known_clients_send_is_taken_as_it_is(client: str) -> None:
    job(**CLIENTS[client])
    assert wish(**CLIENTS[client]).ignored == {}


#: For each parameter of which the table says that it is refused, named, or without effect: a value that asks for it.
ASKING: dict[str, dict[str, Any]] = {
    "refused": {
        "styles": ["anime"], "seed_resize_from_h": 64, "seed_resize_from_w": 64, "tiling": True, "firstpass_image": "x",
        "script_name": "x", "hr_checkpoint_name": "dev", "hr_sampler_name": "DDIM", "hr_scheduler": "Karras", "hr_prompt": "x",
        "hr_negative_prompt": "x", "latent_mask": "x",
    },
    "named": {
        "restore_faces": True, "eta": 0.5, "s_min_uncond": 1, "s_churn": 1, "s_noise": 2, "mask_round": False,
        "initial_noise_multiplier": 0.5,
    },
    "no effect": {
        "do_not_save_samples": True, "do_not_save_grid": True, "s_tmax": 1, "s_tmin": 1, "comments": {"a": "b"},
        "script_args": [1], "image_cfg_scale": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("model", [Txt2Img, Img2Img])
def test_each_parameter_is_treated_as_the_table_says(model: type[requests.Drawing]) -> None:
    usual: dict[str, Any] = {"sampler_name": "DDIM"} if model is Img2Img else {"sampler_name": "DDIM", "enable_hr": True}
    usual |= {"init_images": [picture()]} if model is Img2Img else {}
    for name, row in model.model_fields.items():
        assert isinstance(row.json_schema_extra, dict)
        verdict = str(row.json_schema_extra["verdict"])
        if verdict == "honoured":
            continue
        value = ASKING[verdict][name]
        if name == "hr_sampler_name":
            value = "Euler"
        asked = usual | {name: value}
        if verdict == "refused":
            with pytest.raises((JobError, AnswerError), match=name if name != "script_name" else "Script"):
                wish(**asked)
        else:
            assert wish(**asked).job == wish(**usual).job, name
            assert list(wish(**asked).ignored) == ([name] if verdict == "named" else [])


def test_the_page_has_the_code_s_table_of_parameters() -> None:
    assert requests.markdown_table() in (ROOT / "docs" / "api-a1111.md").read_text()
