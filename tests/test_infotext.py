"""The text in a picture is read back: sdspool's own, and as A1111 and its heirs write it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spooler.infotext import infotext, parse
from spooler.job import Job, from_fields

PLAIN = {"steps": 20, "guidance_scale": 7.0, "width": 512, "height": 768}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a cat"},
        {"prompt": "a cat,\n  with a hat: red\n\nBREAK a dog", "negative_prompt": "dull,\nSteps: many\nand: so, on: x, y: z"},
        {"prompt": "a cat", "sampler": "Euler a"},
        {"prompt": "a cat", "sampler": "DPM++ 2M", "scheduler": "SGM Uniform", "clip_skip": 2, "vae": "soft.pt"},
        {"prompt": "a cat", "hires": {"scale": 1.5, "strength": 0.35}},
        {"prompt": "a cat", "hires": {"scale": 2.0, "strength": 1e-05, "steps": 9, "upscaler": "Latent"}},
        {"prompt": "a cat", "refiner": {"model": 'odd [abcdef12], "name": x', "switch_at": 0.75}},
        {"prompt": "a cat", "upscale": {"scale": 4.0, "upscaler": "big, and: sharp"}},
        {"prompt": "a cat", "variation_seed": 9, "variation_strength": 0.25},
    ],
)
def test_what_sdspool_wrote_into_a_picture_comes_back_as_the_job(fields: dict[str, Any]) -> None:
    job = from_fields(PLAIN | fields)
    again = from_fields(parse(infotext(job, 41, "my model.safetensors, v2", "0123456789abcdef")))
    assert again == job.model_copy(update={"seed": 41, "model": "my model.safetensors, v2"})


def test_loras_come_back_in_the_prompt_as_a1111_has_them() -> None:
    job = from_fields(PLAIN | {"prompt": "a cat", "loras": [{"name": "ink", "weight": 0.8}]})
    assert parse(infotext(job, 1, "m", "0" * 10))["prompt"] == "a cat <lora:ink:0.8>"


#: Lines as people write them: any letters, and what the format itself is made of.
LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20),
        st.sampled_from(["Steps: 5, Seed: 1, Size: 64x64", "a: b", ", ", '"', "\\", "Negative prompts", "Steps: 3", "x:1.2"]),
    ),
    max_size=4,
).map("\n".join)


#: A name that has no quotation mark, and no blank at its ends.
NAMES = st.text(max_size=20).filter(lambda name: name and name == name.strip() and '"' not in name)


@given(LINES, LINES, st.integers(0, 2**32 - 1), NAMES, st.sampled_from([None, "Euler", "DPM++ 2M"]))
def test_any_prompt_that_names_no_negative_prompt_comes_back(
    prompt: str, negative: str, seed: int, model: str, sampler: str | None
) -> None:
    fields = PLAIN | {"prompt": f"a {prompt}".strip(), "negative_prompt": negative.strip(), "sampler": sampler}
    job = Job.model_construct(**fields)
    told = parse(infotext(job, seed, model, "0" * 10))
    assert (told["prompt"], told.get("negative_prompt", "")) == (fields["prompt"], fields["negative_prompt"])
    assert (told["seed"], told.get("sampler"), told["width"], told["height"]) == (seed, sampler, 512, 768)
    assert told["model"] == model


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        pytest.param(
            "a castle on a hill, ((old)), <lora:ink:0.4>\nwith a moat\nNegative prompt: dull,\nflat\n"
            "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 3735928559, Size: 512x768, Model hash: 6ce0161689, "
            "Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000-ema-pruned.safetensors, Clip skip: 2, "
            'Lora hashes: "ink: f8324b7af7d9, other: 0123456789ab", TI hashes: "easy: c74b4e810b03", Version: v1.6.0',
            {
                "prompt": "a castle on a hill, ((old)), <lora:ink:0.4>\nwith a moat",
                "negative_prompt": "dull,\nflat",
                "steps": 28,
                "sampler": "DPM++ 2M",
                "scheduler": "Karras",
                "guidance_scale": 6.5,
                "seed": 3735928559,
                "width": 512,
                "height": 768,
                "model": "v1-5-pruned-emaonly",
                "vae": "vae-ft-mse-840000-ema-pruned",
                "clip_skip": 2,
            },
            id="a1111-1.6",
        ),
        pytest.param(
            "a lake\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 5, Seed: 1, Size: 576x768, "
            "Model: sub/dir/name.safetensors [ad0e54efe2], Denoising strength: 0.5, ENSD: 31337, Hires upscale: 2.5, "
            "Hires steps: 10, Hires upscaler: SwinIR_4x, Hires schedule type: Karras, RNG: CPU, Version: v1.10.1",
            {
                "prompt": "a lake",
                "steps": 20,
                "sampler": "Euler a",
                "scheduler": "Automatic",
                "guidance_scale": 5,
                "seed": 1,
                "width": 576,
                "height": 768,
                "model": "name",
                "hires": {"scale": 2.5, "strength": 0.5, "steps": 10, "upscaler": "SwinIR_4x"},
            },
            id="a1111-1.10-hires",
        ),
        pytest.param(
            "a\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x768, Denoising strength: 0.7, Hires resize: 1024x0",
            {"width": 512, "height": 768, "hires": {"scale": 2.0, "strength": 0.7}},
            id="hires-by-size",
        ),
        pytest.param(
            "a\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 1024x1536, Denoising strength: 0.7, "
            "First pass size: 512x768",
            {"width": 512, "height": 768, "hires": {"scale": 2.0, "strength": 0.7}},
            id="hires-of-2022",
        ),
        pytest.param(
            "a\nSteps: 20, Sampler: LMS, CFG scale: 7, Seed: 1, Face restoration: CodeFormer, Size: 512x512, Batch size: 4, "
            "Batch pos: 2, Denoising strength: 0.75, Mask blur: 8, Inpaint area: Only masked, Masked area padding: 16",
            {"strength": 0.75, "mask_blur": 8, "inpaint_area": "masked", "inpaint_padding": 16, "hires": None},
            id="inpainting",
        ),
        pytest.param(
            "ink\nSteps: 20, Sampler: UniPC, CFG scale: 5, Seed: 2806862934, Size: 1000x1000, Model: m, "
            'ControlNet 0: "Module: scribble_pidinet, Model: control_v11p_sd15_scribble [d4ba51ff], Weight: 1", '
            "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.8, Variation seed: 7, Variation seed strength: .1",
            {
                "width": 1000,
                "model": "m",
                "refiner": {"model": "sd_xl_refiner_1.0", "switch_at": 0.8},
                "variation_seed": 7,
                "variation_strength": 0.1,
                "controls": None,
            },
            id="controlnet-refiner",
        ),
        pytest.param(
            "a house\nNegative prompt: b\nSteps: 20, Sampler: Heun, CFG scale: 7, Seed: 1, Size: 512x512\n"
            "Template: a {house|tree}\nNegative Template: b",
            {"prompt": "a house", "negative_prompt": "b", "steps": 20},
            id="lines-behind-the-settings",
        ),
        pytest.param("only words, a: b", {"prompt": "only words, a: b", "steps": None}, id="no-settings"),
        pytest.param(
            "Negative prompt: b\nSteps: 20, Sampler: Euler, Seed: x, Size: big",
            {"negative_prompt": "b", "seed": "x", "width": None, "prompt": None},
            id="no-prompt-and-no-numbers",
        ),
        pytest.param("a\r\nNegative prompt: b\r\nSteps: 20, Seed: 4, Size: 64x64\r\n", {"prompt": "a", "seed": 4}, id="crlf"),
        pytest.param(
            'a\nSteps: 20, Seed: 4, Model: "un, closed, Size: 64x64', {"model": '"un', "width": 64}, id="open-quotation"
        ),
    ],
)
def test_what_others_wrote_is_understood(text: str, fields: dict[str, Any]) -> None:
    told = parse(text)
    assert {name: told.get(name) for name in fields} == fields
    assert set(told) <= set(Job.model_fields)


def test_a_long_line_of_half_settings_takes_no_long_time() -> None:
    """A pattern that tries every beginning anew would take hours here; the watchdog of the parser's proof bounds it."""
    for line in ('a: "\\", ' * 60_000, "word " * 200_000, "a: " * 300_000, '"' * 1_000_000, "Steps: " + " " * 1_000_000):
        parse(line)
