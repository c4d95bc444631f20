"""Single-file checkpoints for the tests: a diffusers pipeline's weights under the names that LDM checkpoints have.

The inverse of the conversion in diffusers' loaders/single_file_utils.py, for SD 1, SD 2, SDXL and the SDXL refiner. The
refiner is the pipeline without a first text encoder; SD 2 is told by `open_clip`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

Renames = list[tuple[str, str]]

RESNET = [
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
]
VAE_ATTENTION = [("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."), ("to_out.0.", "proj_out.")]
OPEN_CLIP = [
    ("encoder.layers.", "transformer.resblocks."),
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
]


def to_ldm(pipe: Any, open_clip: bool = False) -> dict[str, Tensor]:
    """The pipeline's weights in the LDM layout; `open_clip` where its only text encoder is SD 2's."""
    weights = _prefixed("model.diffusion_model.", unet_to_ldm(pipe.unet))
    weights |= _prefixed("first_stage_model.", vae_to_ldm(pipe.vae))
    first, second = pipe.text_encoder, getattr(pipe, "text_encoder_2", None)
    if second is not None:
        number = 0 if first is None else 1
        weights |= _prefixed(f"conditioner.embedders.{number}.model.", open_clip_to_ldm(second))
        if first is not None:
            weights |= _prefixed("conditioner.embedders.0.transformer.", clip_to_ldm(first))
    elif open_clip:
        weights |= _prefixed("cond_stage_model.model.", open_clip_to_ldm(first))
    else:
        weights |= _prefixed("cond_stage_model.transformer.", clip_to_ldm(first))
    return weights


def unet_to_ldm(unet: Any) -> dict[str, Tensor]:
    """LDM numbers the layers of all blocks through, a down- or upsampler being a layer or the end of one."""
    layers = unet.config.layers_per_block
    places: Renames = [
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
    ]
    number = 1
    for block, module in enumerate(unet.down_blocks):
        for layer in range(layers):
            places.append((f"down_blocks.{block}.resnets.{layer}.", f"input_blocks.{number}.0."))
            places.append((f"down_blocks.{block}.attentions.{layer}.", f"input_blocks.{number}.1."))
            number += 1
        if module.downsamplers:
            places.append((f"down_blocks.{block}.downsamplers.0.conv.", f"input_blocks.{number}.0.op."))
            number += 1
    number = 0
    for block, module in enumerate(unet.up_blocks):
        for layer in range(layers + 1):
            places.append((f"up_blocks.{block}.resnets.{layer}.", f"output_blocks.{number}.0."))
            places.append((f"up_blocks.{block}.attentions.{layer}.", f"output_blocks.{number}.1."))
            number += 1
        if module.upsamplers:
            after = 2 if hasattr(module, "attentions") else 1
            places.append((f"up_blocks.{block}.upsamplers.0.conv.", f"output_blocks.{number - 1}.{after}.conv."))
    weights = {}
    for name, weight in unet.state_dict().items():
        here, there = next((old, new) for old, new in places if name.startswith(old))
        rest = name.removeprefix(here)
        weights[there + (_rename(rest, RESNET) if "resnets" in here else rest)] = weight
    return weights


def vae_to_ldm(vae: Any) -> dict[str, Tensor]:
    """LDM numbers the decoder's blocks from the picture inwards, and its attention is made of 1 by 1 convolutions."""
    last = len(vae.config.up_block_types) - 1
    weights = {}
    for name, weight in vae.state_dict().items():
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in new:
            new = _rename(new.replace("mid_block.attentions.0.", "mid.attn_1."), VAE_ATTENTION)
            weight = weight[:, :, None, None] if weight.dim() == 2 else weight
        weights[new] = weight
    return weights


def clip_to_ldm(encoder: Any) -> dict[str, Tensor]:
    """transformers' own names of the time of SD 1, with the positions' numbers, which were a weight then."""
    weights = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in encoder.state_dict().items()}
    return weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def open_clip_to_ldm(encoder: Any) -> dict[str, Tensor]:
    """OpenCLIP's names: query, key and value in one matrix, the projection transposed."""
    weights: dict[str, Tensor] = {"logit_scale": torch.tensor(4.6)}
    state = {name.removeprefix("text_model."): weight for name, weight in encoder.state_dict().items()}
    for name, weight in state.items():
        if name == "text_projection.weight":
            weights["text_projection"] = weight.T
        elif found := re.fullmatch(r"(.*\.self_attn\.)q_proj\.(weight|bias)", name):
            parts = [state[f"{found[1]}{part}_proj.{found[2]}"] for part in "qkv"]
            weights[_rename(found[1], OPEN_CLIP) + f"in_proj_{found[2]}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            weights[_rename(name, OPEN_CLIP)] = weight
    return weights


def _rename(name: str, renames: Renames) -> str:
    for old, new in renames:
        name = name.replace(old, new)
    return name


def _prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copies: safetensors saves no tensors that share their memory.
    return {prefix + name: weight.clone().contiguous() for name, weight in weights.items()}
