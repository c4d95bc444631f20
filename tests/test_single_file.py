"""Single-file checkpoints: told apart by their headers, and loaded to the same weights and the same picture."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ldm
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from house import ROOT
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from spooler.checkpoint import CheckpointError, kind_of, read_shapes
from spooler.engine import single_file

sys.path.insert(0, str(ROOT / "tools"))
import make_pipeline_configs

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _text(hidden_size: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=hidden_size,
        hidden_act=act,
        eos_token_id=2,
    )


def _unet(cross_attention_dim: int, linear: bool, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=linear,
        **more,
    )


def _tokenizer(family: str, part: str, folder: Path) -> CLIPTokenizer:
    single_file.write_config(folder / family, family)
    return CLIPTokenizer.from_pretrained(folder / family / part)


def build(family: str) -> Any:
    """A tiny random pipeline of the family. The widths of SDXL's text encoders differ: the library tells them so."""
    torch.manual_seed(len(family))
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
    )
    with tempfile.TemporaryDirectory() as temporary:
        configs = Path(temporary)
        parts: dict[str, Any] = {"vae": vae, "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
        if family in ("sd1", "sd2"):
            return StableDiffusionPipeline(
                unet=_unet(8, linear=family == "sd2"),
                text_encoder=CLIPTextModel(_text(8, "gelu" if family == "sd2" else "quick_gelu")).eval(),
                tokenizer=_tokenizer(family, "tokenizer", configs),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                **parts,
            )
        second = {
            "text_encoder_2": CLIPTextModelWithProjection(_text(16, "gelu")).eval(),
            "tokenizer_2": _tokenizer(family, "tokenizer_2", configs),
        }
        text_time = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "transformer_layers_per_block": (1, 2, 1),
        }
        if family == "sdxl-refiner":
            unet = _unet(16, linear=True, projection_class_embeddings_input_dim=5 * 4 + 16, **text_time)
            none = {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
            return StableDiffusionXLImg2ImgPipeline(unet=unet, **parts, **second, **none)
        return StableDiffusionXLPipeline(
            unet=_unet(8 + 16, linear=True, projection_class_embeddings_input_dim=6 * 4 + 16, **text_time),
            text_encoder=CLIPTextModel(_text(8, "quick_gelu")).eval(),
            tokenizer=_tokenizer(family, "tokenizer", configs),
            **parts,
            **second,
        )


def save(pipe: Any, family: str, folder: Path, **more: torch.Tensor) -> tuple[Path, Path]:
    """The pipeline as a single file with `more` tensors in it, and the config folder that goes with it."""
    path = folder / f"{family}.safetensors"
    save_file(ldm.to_ldm(pipe, open_clip=family == "sd2") | more, path)
    config = folder / f"{family}-config"
    pipe.save_pretrained(config)
    # No weights in the config, and the tokenizer's words only once in the world: where they are missing, CLIP's are meant.
    for file in [*config.glob("*/*.safetensors"), *config.glob("*/tokenizer.json")]:
        file.unlink()
    return path, config


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    modules = {part: module for part, module in pipe.components.items() if isinstance(module, torch.nn.Module)}
    return {f"{part}.{name}": weight for part, module in modules.items() for name, weight in module.state_dict().items()}


def draw(pipe: Any) -> np.ndarray[Any, Any]:
    pipe.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}
    if isinstance(pipe, StableDiffusionXLImg2ImgPipeline):
        size = {"image": torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64), "num_inference_steps": 4, "strength": 0.5}
    generator = torch.Generator().manual_seed(3)
    return np.asarray(pipe("a photo of a cat", generator=generator, output_type="np", **size).images[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_gives_the_same_weights_and_the_same_picture(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build(family)
    # What real files have besides: the moving average of a weight, and the schedule.
    path, config = save(original, family, tmp_path, **{"model_ema.decay": torch.ones(()), "betas": torch.ones(1000)})
    assert kind_of(read_shapes(path)) == family
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    loaded = single_file.load(path, family, torch.float32, config)
    assert not any((tmp_path / "temporary").iterdir())
    assert type(loaded) is type(original)
    expected, got = weights(original), weights(loaded)
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(got[name], weight), name
    schedule = {key: value for key, value in original.scheduler.config.items() if key[0] != "_"}
    assert {key: value for key, value in loaded.scheduler.config.items() if key[0] != "_"} == schedule
    picture = draw(original)
    assert picture.shape == (64, 64, 3) and picture.std() > 0
    assert np.array_equal(draw(loaded), picture)

    half = single_file.load(path, family, torch.float16, config, prediction_type="v_prediction")
    assert {weight.dtype for weight in weights(half).values() if weight.is_floating_point()} == {torch.float16}
    assert half.scheduler.config.prediction_type == "v_prediction"


def test_a_tensor_named_v_pred_says_what_the_unet_predicts(tmp_path: Path) -> None:
    path, config = save(build("sd1"), "sd1", tmp_path, v_pred=torch.zeros(0))
    assert single_file.load(path, "sd1", torch.float32, config).scheduler.config.prediction_type == "v_prediction"
    loaded = single_file.load(path, "sd1", torch.float32, config, prediction_type="epsilon")
    assert loaded.scheduler.config.prediction_type == "epsilon"


def test_what_cannot_be_loaded_is_a_sentence_with_the_file_s_name(tmp_path: Path) -> None:
    pipe = build("sd1")
    path, config = save(pipe, "sd1", tmp_path)
    with pytest.raises(ValueError, match=r"sd1\.safetensors must be a whole model of the family sdxl, but is sd1"):
        single_file.load(path, "sdxl", torch.float32, config)
    with pytest.raises(ValueError, match=r"The family of .*sd1\.safetensors must be one of sd1, sd2, .* but is 'sd9'"):
        single_file.load(path, "sd9", torch.float32)
    with pytest.raises(ValueError, match=r"sd1\.safetensors could not be loaded .* expected shape .*\[77, 8\]\)\.$"):
        single_file.load(path, "sd1", torch.float32)
    with pytest.raises(ValueError, match=r"sd1\.safetensors could not be loaded .*`prediction_type` must be one of .*'eps'"):
        single_file.load(path, "sd1", torch.float32, config, prediction_type="eps")
    with pytest.raises(ValueError, match=r"sd1\.safetensors could not be loaded .* model_index\.json"):
        single_file.load(path, "sd1", torch.float32, tmp_path)
    shutil.copy(path, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, but is .*model\.ckpt"):
        single_file.load(tmp_path / "model.ckpt", "sd1", torch.float32, config)

    whole = ldm.to_ldm(pipe)
    lost = {
        "no vae": "first_stage_model.",
        "no unet block": "model.diffusion_model.middle_block.0.",
        "no clip": "cond_stage_model.transformer.text_model.embeddings.position_embedding.",
        "no text layer": "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.",
    }
    for what, start in lost.items():
        part = tmp_path / f"{what}.safetensors"
        save_file({name: weight for name, weight in whole.items() if not name.startswith(start)}, part)
        with pytest.raises(ValueError, match=rf"{what}\.safetensors (lacks|could not be loaded)") as raised:
            single_file.load(part, "sd1", torch.float32, config)
        assert str(raised.value).count("\n") == 0, what


def _shipped(family: str, part: str) -> Any:
    """The part at its full size as the shipped config has it, on the meta device: nothing is allocated."""
    folder = single_file.CONFIGS / family / part
    if not folder.exists():
        return None
    values = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        if part in ("unet", "vae"):
            return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(values)
        cls = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        assert values["architectures"] == [cls.__name__]
        return cls(CLIPTextConfig.from_pretrained(folder))


@pytest.mark.parametrize(
    ("family", "part", "millions"),
    [
        ("sd1", "unet", 859.5),
        ("sd1", "vae", 83.7),
        ("sd1", "text_encoder", 123.1),
        ("sd2", "unet", 865.9),
        ("sd2", "text_encoder", 340.4),
        ("sdxl", "unet", 2567.5),
        ("sdxl", "vae", 83.7),
        ("sdxl", "text_encoder_2", 694.7),
        ("sdxl-refiner", "unet", 2259.5),
    ],
)
def test_the_shipped_configs_have_the_known_numbers_of_parameters(family: str, part: str, millions: float) -> None:
    parameters = sum(weight.numel() for weight in _shipped(family, part).parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("family", "known_as", "gigabytes"),
    [("sd1", "v1", 2.13), ("sd2", "v2", 2.58), ("sdxl", "xl_base", 6.94), ("sdxl-refiner", "xl_refiner", 6.08)],
)
def test_a_checkpoint_of_full_size_loads_by_the_shipped_config(
    family: str, known_as: str, gigabytes: float, tmp_path: Path
) -> None:
    parts = {part: _shipped(family, part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
    if parts["text_encoder_2"] is None:
        del parts["text_encoder_2"]
    tensors = ldm.to_ldm(SimpleNamespace(**parts), open_clip=family == "sd2")
    assert infer_diffusers_model_type(tensors) == known_as
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    assert end / 1e9 == pytest.approx(gigabytes, abs=0.01)  # the published half-precision files' size
    if family != "sd1":
        return  # each of the others would take seconds more, for the same code
    # A hole for all the weights: neither the disk nor, as they are mapped and not read, the memory has to hold them.
    path = tmp_path / "full.safetensors"
    with path.open("wb") as file:
        file.write(_file(json.dumps(header).encode()))
        file.truncate(file.tell() + end)
    pipe = single_file.load(path, family, torch.float16)
    path.unlink()
    assert (pipe.unet.config.sample_size, pipe.tokenizer.model_max_length) == (64, 77)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_tokenizers_are_clip_s(family: str, tmp_path: Path) -> None:
    single_file.write_config(tmp_path, family)
    for part in tmp_path.glob("tokenizer*"):
        tokenizer = CLIPTokenizer.from_pretrained(part)
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        padded = tokenizer("a photo of a cat", padding="max_length", truncation=True).input_ids
        first = part.name == "tokenizer" and family != "sd2"
        assert len(padded) == 77 and set(padded[7:]) == {49407 if first else 0}
        assert tokenizer("Ünïcode, 3 déjà-vu! 🐱").input_ids[0] == 49406


def test_the_shipped_configs_are_what_the_tool_writes() -> None:
    found = {path.relative_to(single_file.CONFIGS).as_posix() for path in single_file.CONFIGS.rglob("*") if path.is_file()}
    assert found == {*make_pipeline_configs.FILES, "clip/merges.txt", "clip/vocab.json", "clip/LICENSE"}
    for name, value in make_pipeline_configs.FILES.items():
        assert json.loads((single_file.CONFIGS / name).read_text()) == value, name
    merges = (single_file.CLIP / "merges.txt").read_text("utf-8").splitlines()[1:]
    words = make_pipeline_configs.vocabulary(merges)
    assert words == json.loads((single_file.CLIP / "vocab.json").read_text("utf-8")) and len(words) == 49408
    assert sum(path.stat().st_size for path in single_file.CONFIGS.rglob("*")) < 2_000_000


UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sd1", [UNET, "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"]),
        ("sd2", [UNET, "cond_stage_model.model.token_embedding.weight", "cond_stage_model.model.ln_final.bias"]),
        ("sdxl", [UNET, "conditioner.embedders.0.transformer.text_model.x", "conditioner.embedders.1.model.ln_final.bias"]),
        ("sdxl-refiner", [UNET, "conditioner.embedders.0.model.text_projection", "first_stage_model.quant_conv.weight"]),
        (None, [UNET]),
        (None, ["model.diffusion_model.joint_blocks.0.x", "text_encoders.clip_l.transformer.text_model.x", "x"]),
        ("lora", ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "lora_te_text_model.alpha"]),
        ("lora", ["unet.mid_block.attentions.0.proj_in.lora_A.weight"]),
        ("lora", ["unet.mid_block.attentions.0.processor.to_q_lora.down.weight"]),
        ("vae", ["decoder.conv_in.weight", "post_quant_conv.weight", "encoder.conv_in.weight"]),
        ("vae", ["first_stage_model.decoder.conv_in.weight", "first_stage_model.post_quant_conv.weight"]),
        ("controlnet", ["control_model.input_hint_block.0.weight", UNET, "cond_stage_model.transformer.x"]),
        ("controlnet", ["controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "time_embedding.linear_1.weight"]),
        ("upscaler", ["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"]),
        ("upscaler", ["conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "conv_last.weight"]),
        ("upscaler", ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", "model.3.weight"]),
        (None, ["conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight", "norm.weight"]),
        (None, ["a", "b", "c"]),
        (None, []),
    ],
)
def test_kind_by_names(kind: str | None, names: list[str]) -> None:
    assert kind_of(dict.fromkeys(names, (4, 4))) == kind


def test_kind_of_embeddings() -> None:
    assert kind_of({"emb_params": (2, 768), "a": (1,), "b": (1,)}) == "embedding"
    assert kind_of({"clip_l": (2, 768), "clip_g": (2, 1280)}) == "embedding"
    assert kind_of({"<cat-toy>": (768,)}) == "embedding"
    assert kind_of({"weight": (3, 3, 3, 3)}) is None


def _file(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "does not begin with a header's length"),
        (b"\0\0\0", "does not begin with a header's length"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "is a web page"),
        (b"\n <html>", "is a web page"),
        (pickle.dumps({"state_dict": {"x": 1}}), "is a pickle"),
        (b"PK\x03\x04" + bytes(100), "is a zip file, most likely a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ((200_000_000).to_bytes(8, "little") + b"{}", "does not begin with a header's length"),
        ((3000).to_bytes(8, "little") + b'{"x":', "is cut off: its header has 3000 bytes"),
        (_file(b'{"x": nonsense}'), "is no JSON"),
        (_file(b"\xff\xfe\xff"), "is no JSON"),
        (_file(b"[" * 100_000), "is no JSON"),
        (_file(b"[1]"), "is no JSON object"),
        (_file(b'{"x": 3}'), "wrong at 'x'"),
        (_file(b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', bytes(4)), "wrong at 'x'"),
        (_file(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}', bytes(8)), "wrong at 'x'"),
        (_file(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(7)), "is cut off: it must have"),
    ],
)
def test_what_is_no_safetensors_file_is_a_sentence(raw: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=sentence) as raised:
        read_shapes(path)
    assert str(raised.value).startswith(str(path))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        single_file.load(path, "sd1", torch.float32)


def test_p9_files_that_torch_saved_are_pickles(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"x": torch.zeros(3)}, tmp_path / "x.safetensors", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="pickle"):
            read_shapes(tmp_path / "x.safetensors")


def test_shapes_are_read_and_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(())}, path, metadata={"ss_tag": "x"})
    assert read_shapes(path) == {"a": (2, 3), "b": ()}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is cut off"):
        read_shapes(path)
    with pytest.raises(CheckpointError, match=r"none\.safetensors could not be read: No such file"):
        read_shapes(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="could not be read"):
        read_shapes(tmp_path)
