"""Tiny random models of every family and what can be added to them, saved as the real ones are: for tests of the real code."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, GemmaTokenizer, Qwen2Tokenizer, T5Tokenizer

DEMO = Path(__file__).parent.parent / "spooler" / "demo_model"
#: Words that are one token each. The second line is Qwen-Image's own template, of which its pipeline drops 34 tokens.
WORDS = (
    "a an the on in of and small large huge red green blue yellow white black circle square triangle ring background "
    "Describe the image by detailing the color shape size texture quantity text spatial relationships of the objects and "
    "system user assistant"
)
PRINTABLE = [chr(code) for code in range(33, 127)]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _words() -> list[str]:
    """Every word as it is at the start of a text, and after a space."""
    return [form for word in dict.fromkeys(WORDS.split()) for form in (word, f" {word}")]


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(DEMO / "tokenizer")


def _t5_tokenizer() -> T5Tokenizer:
    words = [(f"▁{word}", -2.0) for word in dict.fromkeys(WORDS.split())]
    letters = [(letter, -9.0) for letter in PRINTABLE if f"▁{letter}" not in dict(words)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *words, *letters]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _pairs(words: list[str], special: list[str], alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges that make one token of each word."""
    tokenizer = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=10_000, min_frequency=0, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    made = json.loads(tokenizer.to_str())["model"]
    return made["vocab"], [tuple(pair) for pair in made["merges"]]


def _gemma_tokenizer() -> GemmaTokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary, merges = _pairs([word.replace(" ", "▁") for word in _words()], special, [*PRINTABLE, "▁"])
    return GemmaTokenizer(vocab=vocabulary, merges=merges, model_max_length=2048)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    words = [word.replace(" ", "Ġ") for word in _words()]
    vocabulary, merges = _pairs(words, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=2048, chat_template=CHAT)
    special = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    tokenizer.add_tokens([AddedToken(f"<|{name}|>", special=True) for name in special])
    return tokenizer


def _clip(tokenizer: CLIPTokenizer, kind: str = "CLIPTextModel", **more: Any) -> Any:
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**config | more))


def _t5(tokenizer: T5Tokenizer, width: int) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _language_model(tokenizer: Any) -> dict[str, Any]:
    """What the configs of the decoders that serve as text encoders have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _vae(latent_channels: int = 4, **more: Any) -> Any:
    """Four levels, so 8 pixels a latent, as in the real models."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        norm_num_groups=4,
        **more,
    )


def _flow_vae(scaling_factor: float, shift_factor: float) -> Any:
    return _vae(16, scaling_factor=scaling_factor, shift_factor=shift_factor, use_quant_conv=False, use_post_quant_conv=False)


def _unet(cross_attention_dim: int, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=8,
        **more,
    )


def _sd1() -> Any:
    tokenizer = _clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        unet=_unet(32),
        vae=_vae(),
        tokenizer=tokenizer,
        text_encoder=_clip(tokenizer),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd2() -> Any:
    # The width of the text encoder is how the family is told from SD 1, so it is the real one.
    tokenizer = _clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        unet=_unet(1024, use_linear_projection=True),
        vae=_vae(),
        tokenizer=tokenizer,
        text_encoder=_clip(tokenizer, hidden_size=1024, hidden_act="gelu"),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
            prediction_type="v_prediction",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _euler() -> Any:
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )


def _xl_unet(text_width: int, time_ids: int) -> Any:
    return _unet(
        text_width,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=time_ids * 8 + 32,
        use_linear_projection=True,
    )


def _sdxl() -> Any:
    # Its own layer is the last but one: with three, clip_skip has one to skip.
    tokenizer = _clip_tokenizer()
    return diffusers.StableDiffusionXLPipeline(
        unet=_xl_unet(64, 6),
        vae=_vae(),
        tokenizer=tokenizer,
        text_encoder=_clip(tokenizer, num_hidden_layers=3),
        tokenizer_2=tokenizer,
        text_encoder_2=_clip(tokenizer, "CLIPTextModelWithProjection", num_hidden_layers=3),
        scheduler=_euler(),
    )


def _sdxl_refiner() -> Any:
    tokenizer = _clip_tokenizer()
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=_xl_unet(32, 5),  # two sizes and one aesthetic score
        vae=_vae(),
        tokenizer=None,
        text_encoder=None,
        tokenizer_2=tokenizer,
        text_encoder_2=_clip(tokenizer, "CLIPTextModelWithProjection"),
        scheduler=_euler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )


def _sd3() -> Any:
    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=16,
            pos_embed_max_size=24,
            qk_norm="rms_norm",
        ),
        vae=_flow_vae(1.5305, 0.0609),
        tokenizer=clip,
        text_encoder=_clip(clip, "CLIPTextModelWithProjection"),
        tokenizer_2=clip,
        text_encoder_2=_clip(clip, "CLIPTextModelWithProjection"),
        tokenizer_3=t5,
        text_encoder_3=_t5(t5, 64),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux() -> Any:
    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=_flow_vae(0.3611, 0.1159),
        tokenizer=clip,
        text_encoder=_clip(clip),
        tokenizer_2=t5,
        text_encoder_2=_t5(t5, 32),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _pixart() -> Any:
    t5 = _t5_tokenizer()
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=32,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=32,
            use_additional_conditions=False,
        ),
        vae=_vae(),
        tokenizer=t5,
        text_encoder=_t5(t5, 32),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def _sana() -> Any:
    tokenizer = _gemma_tokenizer()
    text = transformers.Gemma2Config(**_language_model(tokenizer), head_dim=8, query_pre_attn_scalar=8)
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            sample_size=4,
            patch_size=1,
            in_channels=8,
            out_channels=8,
            num_layers=2,
            num_attention_heads=4,
            attention_head_dim=8,
            num_cross_attention_heads=4,
            cross_attention_head_dim=8,
            cross_attention_dim=32,
            caption_channels=32,
        ),
        # Six levels, so 32 pixels a latent, as in the real one.
        vae=diffusers.AutoencoderDC(
            latent_channels=8,
            attention_head_dim=4,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8,) * 6,
            decoder_block_out_channels=(8,) * 6,
            encoder_layers_per_block=(1,) * 6,
            decoder_layers_per_block=(1,) * 6,
            encoder_qkv_multiscales=((),) * 3 + ((5,),) * 3,
            decoder_qkv_multiscales=((),) * 3 + ((5,),) * 3,
            scaling_factor=0.41407,
        ),
        tokenizer=tokenizer,
        text_encoder=transformers.Gemma2Model(text),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _z_image() -> Any:
    tokenizer = _qwen_tokenizer()
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        ),
        vae=_flow_vae(0.3611, 0.1159),
        tokenizer=tokenizer,
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**_language_model(tokenizer), head_dim=8)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _qwen_image() -> Any:
    tokenizer = _qwen_tokenizer()
    names = ("vision_start", "vision_end", "image", "video")
    tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    text = transformers.Qwen2_5_VLConfig(
        text_config=_language_model(tokenizer)
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, tokens, strict=True)},
    )
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        tokenizer=tokenizer,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(text),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sdxl-refiner": _sdxl_refiner,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
    "sana": _sana,
    "z-image": _z_image,
    "qwen-image": _qwen_image,
}


def build(family: str, folder: Path) -> Path:
    """A tiny random model of the family in the folder."""
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder, safe_serialization=True)
    return folder


def shelf(folder: Path) -> Callable[[str], Path]:
    """Where a family's tiny model lies: below the folder, made when it is first asked for."""

    def get(family: str) -> Path:
        return folder / family if (folder / family).exists() else build(family, folder / family)

    return get


def controlnet(pipe: Any, folder: Path) -> Path:
    """A ControlNet for the pipeline's UNet in the folder. It has an effect, though a new one has none."""
    torch.manual_seed(0)
    model = diffusers.ControlNetModel.from_unet(pipe.unet)
    zero = (model.controlnet_cond_embedding.conv_out, *model.controlnet_down_blocks, model.controlnet_mid_block)
    for convolution in zero:
        torch.nn.init.normal_(convolution.weight, std=0.2)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def lora(pipe: Any, file: Path, rank: int = 4) -> Path:
    """A random LoRA for the attention of the pipeline's UNet or transformer. The pipeline itself stays as it is."""
    torch.manual_seed(0)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    model = copy.deepcopy(getattr(pipe, part))
    # Not "gaussian" or True: those start with B at zero, which has no effect.
    model.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    pipe.save_lora_weights(
        file.parent,
        **{f"{part}_lora_layers": get_peft_model_state_dict(model)},
        weight_name=file.name,
        safe_serialization=True,
    )
    return file


def embedding(pipe: Any, file: Path, token: str, like_word: str) -> Path:
    """A textual inversion in A1111's layout that means what the word means, with a vector for each token of the word.

    The layout has no place for the token, the file's name is it; here it is in the metadata too.
    """
    tokenizer, encoder = (pipe.tokenizer, pipe.text_encoder) if pipe.text_encoder else (pipe.tokenizer_2, pipe.text_encoder_2)
    numbers = tokenizer(like_word, add_special_tokens=False).input_ids
    vectors = encoder.get_input_embeddings().weight.detach()[numbers]
    save_file({"emb_params": vectors.clone()}, file, metadata={"name": token})
    return file
