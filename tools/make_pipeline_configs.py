"""Writes spooler/engine/configs: what a single-file checkpoint does not say of itself, so that it loads without a network.

    python tools/make_pipeline_configs.py bpe_simple_vocab_16e6.txt.gz

The values are facts of the published models, in the form in which diffusers reads them, with what diffusers has as its
default left out: Stable Diffusion 1.5 and 2.1 (768 pixels, v-prediction), Stable Diffusion XL base 1.0 and refiner 1.0.
They agree with the training configs of the same models: v1-inference.yaml (github.com/CompVis/stable-diffusion),
v2-inference-v.yaml (github.com/Stability-AI/stablediffusion), sd_xl_base.yaml and sd_xl_refiner.yaml
(github.com/Stability-AI/generative-models). tests/test_single_file.py holds them to the known numbers of parameters.

The tokenizer is CLIP's, the same for all of them. Its merges come from the file bpe_simple_vocab_16e6.txt.gz of the
package open_clip_torch (MIT), which has it from github.com/openai/CLIP (MIT); the vocabulary follows from the merges. The
licence is written beside them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent.parent / "spooler" / "engine" / "configs"
#: Of the merges in the file, CLIP uses those that make 49408 words with the 512 symbols and the two marks.
MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"

LICENCE = """\
merges.txt and vocab.json are the vocabulary of CLIP, taken from the package open_clip_torch.

MIT License

Copyright (c) 2021 OpenAI
Copyright (c) 2012-2021 Gabriel Ilharco, Mitchell Wortsman, Nicholas Carlini, Rohan Taori, Achal Dave,
Vaishaal Shankar, John Miller, Hongseok Namkoong, Hannaneh Hajishirzi, Ali Farhadi, Ludwig Schmidt

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

PARTS = {
    "scheduler": None,
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SD_PARTS = PARTS | {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
}
XL_PARTS = PARTS | {
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}


def _unet(blocks: tuple[int, ...], attention: tuple[bool, ...], **more: Any) -> dict[str, Any]:
    """The UNet with so many channels in each block, and attention to the text in those that are so marked."""
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "block_out_channels": list(blocks),
        "center_input_sample": False,
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attention],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)],
        **more,
    }


def _vae(sample_size: int, **more: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": sample_size,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        **more,
    }


def _text(width: int, layers: int, heads: int, projection: int, act: str, class_name: str = "CLIPTextModel") -> dict[str, Any]:
    return {
        "architectures": [class_name],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        # Not the true id of <|endoftext|>, but what is published, and what transformers knows by its falsehood: with 2 it
        # takes the pooled embedding at the token of the highest id, which is the first <|endoftext|>.
        "eos_token_id": 2,
        "hidden_act": act,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": projection,
        "vocab_size": 49408,
    }


def _tokenizer(pad: str) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": START,
        "do_lower_case": True,
        "eos_token": END,
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }


def _scheduler(class_name: str, **more: Any) -> dict[str, Any]:
    return {
        "_class_name": class_name,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        **more,
    }


CLIP_L = _text(768, 12, 12, 768, "quick_gelu")
# SD 2 was trained on the last but one of 24 layers, so the last one is left out.
CLIP_H = _text(1024, 23, 16, 512, "gelu")
CLIP_BIG_G = _text(1280, 32, 20, 1280, "gelu", "CLIPTextModelWithProjection")
XL_SCHEDULER = _scheduler("EulerDiscreteScheduler", interpolation_type="linear", sample_max_value=1.0, use_karras_sigmas=False)
XL_VAE = _vae(1024, scaling_factor=0.13025, force_upcast=True)
XL_UNET = {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "sample_size": 128,
    "use_linear_projection": True,
}

FILES: dict[str, dict[str, Any]] = {
    "sd1/model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        **SD_PARTS,
        "scheduler": ["diffusers", "PNDMScheduler"],
    },
    # attention_head_dim is the number of heads here: a misnomer that diffusers keeps for the sake of such configs.
    "sd1/unet/config.json": _unet(
        (320, 640, 1280, 1280),
        (True, True, True, False),
        attention_head_dim=8,
        cross_attention_dim=768,
        sample_size=64,
    ),
    "sd1/vae/config.json": _vae(512),
    "sd1/text_encoder/config.json": CLIP_L,
    "sd1/tokenizer/tokenizer_config.json": _tokenizer(END),
    "sd1/scheduler/scheduler_config.json": _scheduler("PNDMScheduler"),
    "sd2/model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        **SD_PARTS,
        "scheduler": ["diffusers", "DDIMScheduler"],
    },
    "sd2/unet/config.json": _unet(
        (320, 640, 1280, 1280),
        (True, True, True, False),
        attention_head_dim=[5, 10, 20, 20],
        cross_attention_dim=1024,
        sample_size=96,
        upcast_attention=True,  # 2.1 overflows in half precision without it
        use_linear_projection=True,
    ),
    "sd2/vae/config.json": _vae(768),
    "sd2/text_encoder/config.json": CLIP_H,
    "sd2/tokenizer/tokenizer_config.json": _tokenizer("!"),
    "sd2/scheduler/scheduler_config.json": _scheduler("DDIMScheduler", prediction_type="v_prediction"),
    "sdxl/model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        **XL_PARTS,
        "force_zeros_for_empty_prompt": True,
    },
    "sdxl/unet/config.json": _unet(
        (320, 640, 1280),
        (False, True, True),
        **XL_UNET,
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        projection_class_embeddings_input_dim=2816,
        transformer_layers_per_block=[1, 2, 10],
    ),
    "sdxl/vae/config.json": XL_VAE,
    "sdxl/text_encoder/config.json": CLIP_L,
    "sdxl/text_encoder_2/config.json": CLIP_BIG_G,
    "sdxl/tokenizer/tokenizer_config.json": _tokenizer(END),
    "sdxl/tokenizer_2/tokenizer_config.json": _tokenizer("!"),
    "sdxl/scheduler/scheduler_config.json": XL_SCHEDULER,
    "sdxl-refiner/model_index.json": {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        **XL_PARTS,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
    },
    "sdxl-refiner/unet/config.json": _unet(
        (384, 768, 1536, 1536),
        (False, True, True, False),
        **XL_UNET,
        attention_head_dim=[6, 12, 24, 24],
        cross_attention_dim=1280,
        projection_class_embeddings_input_dim=2560,
        transformer_layers_per_block=4,
    ),
    "sdxl-refiner/vae/config.json": XL_VAE,
    "sdxl-refiner/text_encoder_2/config.json": CLIP_BIG_G,
    "sdxl-refiner/tokenizer_2/tokenizer_config.json": _tokenizer("!"),
    "sdxl-refiner/scheduler/scheduler_config.json": XL_SCHEDULER,
}


def vocabulary(merges: list[str]) -> dict[str, int]:
    """Every word and its id: the 256 byte symbols, the same at a word's end, what the merges make, the two marks."""
    # Bytes that print are their own symbol, and come first; the others have the characters from 256 on.
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in printing] + [chr(256 + n) for n in range(256 - len(printing))]
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge.split()) for merge in merges), START, END]
    return {word: id_ for id_, word in enumerate(words)}


def main(bpe: Path, folder: Path = CONFIGS) -> None:
    """Write the whole folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    # The first line is a heading. The merges come in the order of their use: those of rarer words follow, unused.
    merges = gzip.decompress(bpe.read_bytes()).decode().split("\n")[1 : 1 + MERGES]
    clip = folder / "clip"
    clip.mkdir()
    (clip / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (clip / "vocab.json").write_text(
        json.dumps(vocabulary(merges), ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
    (clip / "LICENSE").write_text(LICENCE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
