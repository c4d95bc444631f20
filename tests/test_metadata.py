"""Settings in the pictures of other tools, as those tools write them, and as a stranger may."""

from __future__ import annotations

import io
import json
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from spooler import metadata
from spooler.job import Job, from_fields
from spooler.mistakes import JobError

A1111 = """masterpiece, a (cat:1.2) <lora:ink:0.7>
second line
Negative prompt: blurry, bad
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Denoising strength: 0.4, Clip skip: 2, Hires upscale: 2, Hires upscaler: Latent, \
ADetailer model: face_yolov8n.pt, Version: v1.10.1"""
SWARM = {
    "sui_image_params": {
        "prompt": "a cat", "negativeprompt": "blurry", "model": "OfficialStableDiffusion/sd_xl_base_1.0", "seed": 77,
        "steps": 20, "cfgscale": 7.0, "aspectratio": "1:1", "width": 1024, "height": 1024, "sampler": "dpmpp_2m",
        "scheduler": "karras", "loras": ["style/ink"], "loraweights": ["0.8"], "automaticvae": True,
        "variationseed": 5, "variationseedstrength": 0.1, "freeubone": 1.1, "swarm_version": "0.9.4.0",
    },
    "sui_extra_data": {"date": "2025-01-01", "generation_time": "3 s"},
}  # fmt: skip
INVOKE = {
    "generation_mode": "sdxl_txt2img", "positive_prompt": "a cat", "negative_prompt": "blurry", "width": 1024, "height": 768,
    "seed": 42, "rand_device": "cpu", "cfg_scale": 6.0, "steps": 30, "scheduler": "dpmpp_2m_k", "clip_skip": 1,
    "model": {"key": "abc", "hash": "blake3:1", "name": "Juggernaut XL", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"name": "ink", "base": "sdxl"}, "weight": 0.75}], "vae": {"name": "sdxl-vae-fix"},
    "refiner_model": {"model_name": "xl-refiner"}, "refiner_start": 0.8, "controlnets": [{"control_model": {"name": "canny"}}],
    "app_version": "5.0.0", "hrf_enabled": False, "seamless_x": False,
}  # fmt: skip
OLD_INVOKE = {
    "model": "stable diffusion", "model_weights": "sd-1.5", "app_version": "2.3.0",
    "image": {"prompt": [{"prompt": "a cat [blurry] in rain", "weight": 1.0}], "steps": 20, "cfg_scale": 7.5, "seed": 9,
              "width": 512, "height": 512, "sampler": "k_euler_a", "perlin": 0.5},
}  # fmt: skip
COMFY: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 8566257, "steps": 20, "cfg": 8.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
                   "denoise": 1.0, "model": ["11", 0], "positive": ["20", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 2}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["30", 0], "clip": ["12", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["12", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "first.safetensors", "strength_model": 0.5, "strength_clip": 0.5,
                                                   "model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "LoraLoader", "inputs": {"lora_name": "second.safetensors", "strength_model": 1, "strength_clip": 1,
                                                   "model": ["10", 0], "clip": ["10", 1]}},
    "12": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["11", 1]}},
    "20": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1.0}},
    "30": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}},
}  # fmt: skip


def png(**texts: str | dict[str, Any]) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        info.add_itxt(keyword.replace("__", "-"), text if isinstance(text, str) else json.dumps(text))
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_a1111() -> None:
    found = metadata.read(png(parameters=A1111))
    assert found.tool == "A1111" and found.left_out == ("ADetailer model",)
    assert found.fields == {
        "prompt": "masterpiece, a (cat:1.2) <lora:ink:0.7>\nsecond line", "negative_prompt": "blurry, bad", "steps": 28,
        "guidance_scale": 6.5, "seed": 1234, "width": 512, "height": 768, "sampler": "DPM++ 2M", "scheduler": "Karras",
        "clip_skip": 2, "model": "v1-5-pruned", "hires": {"scale": 2, "strength": 0.4, "upscaler": "Latent"},
    }  # fmt: skip


def test_our_own_pictures() -> None:
    from spooler.infotext import infotext

    job = Job(prompt="a ring", steps=5, width=64, height=64, guidance_scale=2.0, sampler="Euler", scheduler="Automatic", seed=3)
    found = metadata.read(png(parameters=infotext(job, 3, "demo", "ab" * 32)))
    assert found.tool == "sdspool" and found.left_out == ()
    assert from_fields(found.fields) == job.model_copy(update={"model": "demo"})


def test_a_job_file_and_a_record() -> None:
    assert metadata.read(b'{"prompt": "x", "steps": 3}') == metadata.Metadata("sdspool", {"prompt": "x", "steps": 3})
    record = {"id": "a", "parameters": {"prompt": "x", "seed": 3, "novel": 1}, "images": []}
    assert metadata.read(json.dumps(record).encode()) == metadata.Metadata("sdspool", {"prompt": "x", "seed": 3}, ("novel",))


def test_swarm() -> None:
    found = metadata.read(png(parameters=SWARM))
    assert found == metadata.read(png(sui_image_params=SWARM["sui_image_params"]))
    assert found.tool == "SwarmUI" and found.left_out == ("freeubone",)
    assert found.fields == {
        "prompt": "a cat", "negative_prompt": "blurry", "model": "sd_xl_base_1.0", "seed": 77, "steps": 20,
        "guidance_scale": 7.0, "width": 1024, "height": 1024, "sampler": "DPM++ 2M", "scheduler": "Karras",
        "loras": [{"name": "ink", "weight": 0.8}], "variation_seed": 5, "variation_strength": 0.1,
    }  # fmt: skip


def test_invoke() -> None:
    found = metadata.read(png(invokeai_metadata=INVOKE))
    assert found.tool == "InvokeAI" and found.left_out == ("controlnets",)
    assert found.fields == {
        "prompt": "a cat", "negative_prompt": "blurry", "width": 1024, "height": 768, "seed": 42, "guidance_scale": 6.0,
        "steps": 30, "sampler": "DPM++ 2M", "scheduler": "Karras", "clip_skip": 2, "model": "Juggernaut XL",
        "loras": [{"name": "ink", "weight": 0.75}], "vae": "sdxl-vae-fix", "refiner": {"model": "xl-refiner", "switch_at": 0.8},
    }  # fmt: skip


def test_invoke_before_3() -> None:
    found = metadata.read(png(sd__metadata=OLD_INVOKE))
    assert found.tool == "InvokeAI" and found.left_out == ("perlin",)
    assert found.fields == {
        "prompt": "a cat in rain", "negative_prompt": "blurry", "steps": 20, "guidance_scale": 7.5, "seed": 9, "width": 512,
        "height": 512, "sampler": "Euler a", "model": "sd-1.5",
    }  # fmt: skip


def test_comfy() -> None:
    found = metadata.read(png(prompt=COMFY, workflow={"nodes": []}))
    assert found.tool == "ComfyUI" and found.left_out == ("ControlNetApply", "PrimitiveString")
    assert found.fields == {
        "prompt": "a cat", "negative_prompt": "blurry", "seed": 8566257, "steps": 20, "guidance_scale": 8.0,
        "sampler": "Euler a", "scheduler": "Automatic", "model": "v1-5-pruned", "width": 512, "height": 640, "count": 2,
        "loras": [{"name": "first", "weight": 0.5}, {"name": "second", "weight": 1.0}], "clip_skip": 2,
    }  # fmt: skip


def test_comfy_writes_nan_and_is_understood_all_the_same() -> None:
    text = json.dumps(COMFY).replace('"batch_size": 2', '"is_changed": [NaN]')
    assert metadata.read(png(prompt=text)).fields["steps"] == 20


def test_comfy_from_a_picture() -> None:
    graph = json.loads(json.dumps(COMFY))
    graph["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["40", 0]}}
    graph["3"]["inputs"] |= {"denoise": 0.6, "sampler_name": "res_multistep", "scheduler": "beta"}
    found = metadata.read(png(prompt=graph))
    assert found.fields["strength"] == 0.6 and "sampler" not in found.fields
    assert {"the picture it started from", "sampler res_multistep", "schedule beta"} <= set(found.left_out)


def test_a_graph_that_nobody_here_understands_is_named() -> None:
    found = metadata.read(png(prompt={"1": {"class_type": "SamplerCustomAdvanced", "inputs": {}}}))
    assert found.fields == {} and found.left_out == ("a graph without a KSampler", "SamplerCustomAdvanced")


def test_a_seed_of_64_bits_is_named_not_cut() -> None:
    large = {"sui_image_params": {"prompt": "x", "seed": 2**60}}
    found = metadata.read(png(parameters=large))
    assert "seed" not in found.fields and found.left_out == (f"seed {2**60}",)


def test_a_graph_of_rings_ends() -> None:
    nodes = {
        str(n): {"class_type": "LoraLoader", "inputs": {"lora_name": "a", "model": [str((n + 1) % 900), 0]}} for n in range(900)
    }
    nodes["k"] = {"class_type": "KSampler", "inputs": {"model": ["0", 0], "positive": ["k", 0], "negative": ["k", 0]}}
    assert len(metadata.read(png(prompt=nodes)).fields["loras"]) == metadata.MOST_NODES


def bomb() -> bytes:
    """A PNG with a text that unpacks to a gigabyte's worth of spaces."""
    whole = png()
    body = b"parameters\0\0" + zlib.compress(b" " * (64 << 20), 9)
    chunk = len(body).to_bytes(4) + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4)
    return whole[:33] + chunk + whole[33:]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "must be a whole PNG"),
        (b"GIF89a", "must be a whole PNG"),
        (png()[:40], "without IEND"),
        (png(), "has no text at all"),
        (png(Software="x", comment="y"), 'has only "Software", "comment"'),
        (png(parameters='{"other": 1}'), 'has only "parameters"'),
        (png(prompt="[" * 100_000), 'has only "prompt"'),
        (png(invokeai_metadata="{" * 100_000), "has only"),
        (bomb(), "must have at most"),
        (b"{", "must be JSON"),
        (b'{"a": 1}', "no field of a job"),
        (b'{"a":' * 50_000, "nests too deep"),
    ],
)
def test_what_tells_nothing_is_named_and_bounded(data: bytes, says: str) -> None:
    with pytest.raises(JobError, match=says.replace("[", r"\[")):
        metadata.read(data)


@pytest.mark.parametrize("piece", [" ", "[", "[ ", " ]", "[a] "])
def test_the_longest_prompts_of_another_tool_are_read_at_once(piece: str) -> None:
    words = "a" + piece * (1_000_000 // len(piece)) + "b"
    begun = time.perf_counter()
    metadata.read(png(sd__metadata={"image": {"prompt": words}}))
    assert time.perf_counter() - begun < 10


@pytest.mark.parametrize("weight", [10**400, "nan", "1e999", "much"])
def test_a_weight_that_is_no_number_is_the_usual_one(weight: Any) -> None:
    found = metadata.read(png(parameters={"sui_image_params": {"loras": ["ink"], "loraweights": [weight]}}))
    assert found.fields["loras"] == [{"name": "ink", "weight": 1.0}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = [*SWARM["sui_image_params"], *INVOKE, *OLD_INVOKE["image"]]  # type: ignore[misc,list-item]


@given(st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1), st.sampled_from(["swarm", "invoke", "old"]))
def test_no_value_under_a_known_name_is_more_than_left_out(values: dict[str, Any], tool: str) -> None:
    texts: dict[str, dict[str, Any]] = {
        "swarm": {"parameters": {"sui_image_params": values}},
        "invoke": {"invokeai_metadata": values},
        "old": {"sd__metadata": {"image": values}},
    }
    found = metadata.read(png(**texts[tool]))
    assert set(found.fields) <= set(Job.model_fields) and json.dumps(found.fields)


@given(
    st.dictionaries(
        st.sampled_from(list(COMFY)),
        st.fixed_dictionaries(
            {"class_type": st.sampled_from([node["class_type"] for node in COMFY.values()])},
            optional={"inputs": st.dictionaries(st.sampled_from([*COMFY["3"]["inputs"], "text", "width", "lora_name"]), JSON)},
        ),
        min_size=1,
    )
)
def test_no_graph_is_more_than_left_out(graph: dict[str, Any]) -> None:
    assert set(metadata.read(png(prompt=graph)).fields) <= set(Job.model_fields)


# -- JPEG and WebP -----------------------------------------------------------------------------------------------------------


def with_comment(kind: str, comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("head", ["utf-16-be", "utf-16-le", "ascii"])
def test_a1111_s_settings_are_read_from_a_jpeg_and_a_webp(kind: str, head: str) -> None:
    """As piexif writes them for A1111: UNICODE, then UTF-16 with the high byte first. Others write otherwise."""
    comment = b"ASCII\0\0\0" + A1111.encode() if head == "ascii" else b"UNICODE\0" + A1111.encode(head)
    found = metadata.read(with_comment(kind, comment))
    assert found.tool == "A1111" and found.fields["seed"] == 1234 and found.fields["steps"] == 28
    assert found.fields["prompt"].startswith("masterpiece, a (cat:1.2)")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_jpeg_or_webp_that_tells_nothing_or_is_damaged_is_refused(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    whole = with_comment(kind, b"UNICODE\0" + A1111.encode("utf-16-be"))
    for data in (file.getvalue(), with_comment(kind, b"x"), with_comment(kind, b"JIS\0\0\0\0\0abc"), whole[:40], whole[:12]):
        with pytest.raises(JobError, match="The picture must"):
            metadata.read(data)


@given(st.data())
def test_no_damaged_jpeg_or_webp_does_more_than_be_refused(data: st.DataObject) -> None:
    raw = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(12, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        metadata.read(bytes(raw))
    except JobError as error:
        assert error.mistakes


WHOLE = {kind: with_comment(kind, b"UNICODE\0" + A1111.encode("utf-16-be")) for kind in ("JPEG", "WEBP")}
