"""From prompts to what a diffusers pipeline is called with: its own encoding where that does, else weighted embeddings.

A prompt of plain text that fits the text encoder goes to the pipeline as it is, so that the picture is the one that
diffusers draws by itself. Weights, BREAK, long prompts and clip_skip go through compel, one text encoder at a time:

    prompt -> chunks -> fragments with weights (spooler/prompt.py) -> tokens, 75 to a block -> text encoder -> one layer
    of it -> each token moved from the empty prompt's embedding, or towards it, by its weight -> the blocks, end to end
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode

from spooler import prompt as language
from spooler.prompt import Fragment


@torch.no_grad()
def encode(pipe: Any, family: str, prompt: str, negative_prompt: str, clip_skip: int, guidance: bool) -> dict[str, Any]:
    """Keyword arguments for a call of the StableDiffusion or StableDiffusionXL pipeline `pipe`.

    `family` is sd1, sd2, sdxl or sdxl-refiner. `clip_skip` is A1111's: 1 is the layer that the model was made for, each
    more is one layer earlier, for both prompts. Without `guidance` the negative prompt is not looked at.

    Either `prompt`, `negative_prompt` (None when empty) and `clip_skip` (None), or `prompt_embeds` and, with guidance,
    `negative_prompt_embeds` of one shape (1, n * 77, dim); for SDXL also `pooled_prompt_embeds` and
    `negative_pooled_prompt_embeds` (1, pooled dim).

    Raises PromptError for a prompt that cannot be parsed and ValueError for a clip_skip that the encoder has no layer for.
    """
    is_xl = family.startswith("sdxl")
    texts = [prompt, negative_prompt] if guidance else [prompt]
    parsed = [language.parse(text) for text in texts]
    pairs = _encoders(pipe, family)

    # 1. What the library does by itself is left to it.
    if is_the_librarys(pipe, family, texts, clip_skip):
        return {"prompt": prompt, "negative_prompt": (guidance and negative_prompt) or None, "clip_skip": None}

    # 2. Each prompt with each text encoder.
    device = pipe._execution_device
    providers = [_provider(tokenizer, _Layer(encoder, device, clip_skip, is_xl)) for tokenizer, encoder in pairs]
    embeds = [[_embed(pipe, provider, chunks) for provider in providers] for chunks in parsed]

    # 3. One length for all, the rest filled with the empty prompt, and the encoders side by side.
    length = max(tensor.shape[1] for of_prompt in embeds for tensor in of_prompt)
    joined = [
        torch.cat([_padded(tensor, provider, length) for tensor, provider in zip(of_prompt, providers, strict=True)], dim=-1)
        for of_prompt in embeds
    ]  # (1, length, dim) each
    result = dict(zip(("prompt_embeds", "negative_prompt_embeds"), joined, strict=False))
    if not is_xl:
        return result

    # 4. SDXL's second encoder also sums up the prompt; weights do not reach that.
    pooled = [_pooled(pipe, providers[-1], pairs[-1][1], chunks[0]) for chunks in parsed]
    result |= zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), pooled, strict=False)
    if guidance and not negative_prompt and pipe.config.force_zeros_for_empty_prompt:
        # As the pipeline does it: SDXL's base model was trained with zeros for no prompt.
        for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
            result[name] = torch.zeros_like(result[name])
    return result


def is_the_librarys(pipe: Any, family: str, texts: Sequence[str], clip_skip: int) -> bool:
    """Whether the library encodes these texts as they are meant: without weights, and short enough for its encoders.

    (Not clip_skip: diffusers takes the negative prompt from the last layer all the same, and with transformers 5 it looks for
    the encoder's layer norm where it no longer is.)
    """
    return clip_skip == 1 and all(
        language.is_plain(text)
        and count_tokens(tokenizer, _spelled_out(pipe, tokenizer, text)) + 2 <= tokenizer.model_max_length
        for tokenizer, _ in _encoders(pipe, family)
        for text in texts
    )


@torch.no_grad()
def plain(pipe: Any, texts: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """The embeddings of plain texts that fit the encoder, as the pipeline itself makes them, by one call of it: of each
    `prompt_embeds` (1, 77, dim), and for SDXL `pooled_prompt_embeds` (1, pooled dim). `device` is the pipeline's, which itself
    walks all modules to find it.
    """
    found = pipe.encode_prompt(prompt=[*texts], device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    names = {"prompt_embeds": found[0]} | ({"pooled_prompt_embeds": found[2]} if len(found) > 2 else {})
    # Copies, not views: one that is kept would keep all.
    return [{name: tensor[index : index + 1].clone() for name, tensor in names.items()} for index in range(len(texts))]


def _encoders(pipe: Any, family: str) -> list[tuple[Any, Any]]:
    """The tokenizers and their text encoders."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    if family.startswith("sdxl"):
        pairs = [pair for pair in [*pairs, (pipe.tokenizer_2, pipe.text_encoder_2)] if pair[1] is not None]
    return pairs


def count_tokens(tokenizer: Any, text: str) -> int:
    """How many tokens the text is, without the marks of its begin and end and without truncation."""
    return len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


class _Layer:
    """A text encoder as compel calls it, whose last hidden states are those of the chosen layer.

    It is asked for the pipeline's device and not for its own, which is `cpu` or `meta` while accelerate has it offloaded.
    """

    def __init__(self, encoder: Any, device: torch.device, clip_skip: int, is_xl: bool):
        # SDXL was made for the last layer but one, without its norm.
        self._from_end = clip_skip + is_xl
        layers = encoder.config.num_hidden_layers
        if not 1 <= clip_skip <= layers - is_xl:
            raise ValueError(f"`clip_skip` must be from 1 to {layers - is_xl} with this model but is {clip_skip}.")
        self._encoder = encoder
        # transformers 5 moved it up from `text_model` in CLIPTextModel, but not in CLIPTextModelWithProjection.
        self._norm = None if is_xl else getattr(encoder, "text_model", encoder).final_layer_norm
        self.device = device
        self.dtype: torch.dtype = encoder.dtype
        self.longest: int = encoder.config.max_position_embeddings

    def __call__(self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> SimpleNamespace:
        output = self._encoder(token_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = output.hidden_states[-self._from_end]  # (1, 77, dim), before the final norm
        return SimpleNamespace(last_hidden_state=states if self._norm is None else self._norm(states))


def _provider(tokenizer: Any, layer: _Layer) -> Any:
    """compel's encoder of fragments, which cuts long prompts between words and never truncates them."""
    return EmbeddingsProvider(
        tokenizer=tokenizer,
        text_encoder=layer,
        truncate=False,
        split_long_text_mode=SplitLongTextMode.WORDS,
        # Some converted tokenizers say 10^30.
        model_max_length=min(tokenizer.model_max_length, layer.longest),
        device=layer.device,
    )


def _embed(pipe: Any, provider: Any, chunks: list[list[Fragment]]) -> torch.Tensor:
    """The embeddings of a prompt with one encoder: (1, n * 77, dim)."""
    tensors = []
    for chunk in chunks:
        texts, weights = _texts_and_weights(pipe, provider.tokenizer, chunk)
        tensors.append(
            provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=provider.text_encoder.device)
        )
    return torch.cat(tensors, dim=1)


def _pooled(pipe: Any, provider: Any, encoder: Any, chunk: list[Fragment]) -> torch.Tensor:
    """The pooled embedding of the chunk's first 75 tokens, (1, dim), from the whole encoder whatever clip_skip is."""
    texts, weights = _texts_and_weights(pipe, provider.tokenizer, chunk)
    token_ids, _, _ = provider.get_token_ids_and_expand_weights(texts, weights, device=provider.text_encoder.device)
    pooled: torch.Tensor = encoder(token_ids[None, : provider.max_token_count]).text_embeds
    return pooled


def _padded(tensor: torch.Tensor, provider: Any, length: int) -> torch.Tensor:
    """The tensor (1, n * 77, dim) filled up to (1, length, dim) with the encoded empty prompt."""
    blocks = (length - tensor.shape[1]) // provider.max_token_count
    return torch.cat([tensor, *[provider.empty_z] * blocks], dim=1) if blocks else tensor


def _texts_and_weights(pipe: Any, tokenizer: Any, chunk: list[Fragment]) -> tuple[list[str], list[float]]:
    """The chunk as compel takes it, without the fragments that have no token: compel cannot weigh those down."""
    spelled = [(_spelled_out(pipe, tokenizer, fragment.text), fragment.weight) for fragment in chunk]
    kept = [(text, weight) for text, weight in spelled if count_tokens(tokenizer, text)] or [("", 1.0)]
    return [text for text, _ in kept], [weight for _, weight in kept]


def _spelled_out(pipe: Any, tokenizer: Any, text: str) -> str:
    """The text with a name for each vector of a textual inversion that has several.

    Here and not by compel's own manager, which goes through the tokens and back and knows only the first tokenizer.
    """
    spelled: str = pipe.maybe_convert_prompt(text, tokenizer)
    return spelled
