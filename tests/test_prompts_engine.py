"""What the engine makes of a prompt: the library's own encoding, or compel's with weights, chunks and a chosen layer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from tiny import build
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from bench.direct import Direct
from spooler import library
from spooler.engine import model as model_module
from spooler.engine.knee import Knee
from spooler.engine.prompts import count_tokens, encode
from spooler.job import Job
from spooler.prompt import PromptError

#: A weight too near to 1 to move anything: the way through compel for what is plain otherwise.
NUDGE = "(circle:1.0)"
#: How the library's own pipelines are asked for both prompts, and the names of what they answer.
ASKED: dict[str, Any] = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
#: 150 words of one token each.
LONG = ["red", "green", "blue", "large", "small", "circle", "star", "ring", "top", "left"] * 15


def _deepen(pipe: Any) -> Any:
    """The pipeline with text encoders of four layers, so that clip_skip has some to skip."""
    torch.manual_seed(1)
    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if encoder := getattr(pipe, name, None):
            encoder.config.num_hidden_layers = 4
            # Far from the usual small values: one layer should not look like the next.
            encoder.config.initializer_factor = 5.0
            setattr(pipe, name, kind(encoder.config).eval())
    return pipe


@pytest.fixture(scope="module")
def demo() -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(library.DEMO, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def sd1(demo: Any) -> Any:
    """Deeper than the demo model; with transformers 5's CLIPTextModel as diffusers' clip_skip expects it."""
    parts = dict(demo.components)
    parts["text_encoder"] = CLIPTextModel(CLIPTextModel.config_class(**demo.text_encoder.config.to_dict()))
    pipe = _deepen(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    if not hasattr(pipe.text_encoder, "text_model"):
        # diffusers 0.42 looks there for the norm. Not setattr: the module would be its own child.
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    return pipe


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build("sdxl", tmp_path_factory.mktemp("sdxl") / "tiny")
    return _deepen(StableDiffusionXLPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def refiner(sdxl: Any) -> Any:
    parts = {name: sdxl.components[name] for name in ("vae", "text_encoder_2", "tokenizer_2", "unet", "scheduler")}
    return StableDiffusionXLImg2ImgPipeline(text_encoder=None, tokenizer=None, requires_aesthetics_score=True, **parts)


@pytest.fixture
def pipe(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def family_of(pipe: Any) -> str:
    if not hasattr(pipe, "tokenizer_2"):
        return "sd1"
    return "sdxl" if pipe.tokenizer else "sdxl-refiner"


def embeds(pipe: Any, prompt: str, negative_prompt: str = "", clip_skip: int = 1) -> dict[str, torch.Tensor]:
    """What encode gives, which must be embeddings."""
    result = encode(pipe, family_of(pipe), prompt, negative_prompt, clip_skip, guidance=True)
    assert "prompt" not in result
    return result


def stock(pipe: Any, prompt: str, clip_skip: int = 1) -> dict[str, torch.Tensor]:
    """What the pipeline itself makes of a plain prompt, named as encode names it."""
    skip = None if clip_skip == 1 else clip_skip - 1
    if family_of(pipe) == "sd1":
        return {"prompt_embeds": pipe.encode_prompt(prompt, "cpu", 1, False, clip_skip=skip)[0]}
    tensor, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, clip_skip=skip)
    return {"prompt_embeds": tensor, "pooled_prompt_embeds": pooled}


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-5)


def moved(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    """The places, 0 to 77 * n - 1, at which embeddings (1, 77 * n, dim) differ."""
    return torch.nonzero((one - other).abs().amax(dim=(0, 2)) > 1e-5).flatten().tolist()


every_family = pytest.mark.parametrize("pipe", ["sd1", "sdxl", "refiner"], indirect=True)


@every_family
def test_what_is_plain_and_fits_is_left_to_the_library(pipe: Any) -> None:
    given = encode(pipe, family_of(pipe), "a red ring", "blue", 1, guidance=True)
    assert given == {"prompt": "a red ring", "negative_prompt": "blue", "clip_skip": None}
    assert encode(pipe, family_of(pipe), "a red ring", "", 1, guidance=True)["negative_prompt"] is None
    # A negative prompt that is not looked at changes nothing.
    assert "prompt" in encode(pipe, family_of(pipe), "a red ring", "(blue:1.4)", 1, guidance=False)
    fits = " ".join(["red"] * 75)
    assert count_tokens(pipe.tokenizer_2 if hasattr(pipe, "tokenizer_2") else pipe.tokenizer, fits) == 75
    assert "prompt" in encode(pipe, family_of(pipe), fits, fits, 1, guidance=True)
    assert embeds(pipe, fits + " red")["prompt_embeds"].shape[1] == 154


@every_family
def test_without_weights_compel_gives_the_librarys_embeddings(pipe: Any) -> None:
    given = embeds(pipe, f"a large red {NUDGE} on a blue background", "(green:1.0)")
    expected = stock(pipe, "a large red circle on a blue background")
    assert set(given) == {*expected, *(f"negative_{name}" for name in expected)}
    for name, tensor in expected.items():
        assert equal(given[name], tensor)
        assert equal(given[f"negative_{name}"], stock(pipe, "green")[name])


@every_family
@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_is_the_librarys_less_one_for_both_prompts(pipe: Any, clip_skip: int) -> None:
    given = embeds(pipe, f"a red {NUDGE}", "(green:1.0)", clip_skip)
    for name, tensor in stock(pipe, "a red circle", clip_skip).items():
        assert equal(given[name], tensor)
        assert equal(given[f"negative_{name}"], stock(pipe, "green", clip_skip)[name])
    assert clip_skip == 1 or not equal(given["prompt_embeds"], stock(pipe, "a red circle")["prompt_embeds"])
    # Plain prompts take the same way.
    if clip_skip > 1:
        assert equal(embeds(pipe, "a red circle", "green", clip_skip)["prompt_embeds"], given["prompt_embeds"])


def test_clip_skip_works_with_the_demo_model_as_it_is_loaded(demo: Any) -> None:
    given = embeds(demo, "a red circle", clip_skip=2)["prompt_embeds"]
    states = demo.text_encoder(
        demo.tokenizer("a red circle", padding="max_length", return_tensors="pt").input_ids, output_hidden_states=True
    ).hidden_states
    norm = getattr(demo.text_encoder, "text_model", demo.text_encoder).final_layer_norm
    assert equal(given, norm(states[-2]))


@every_family
@pytest.mark.parametrize("clip_skip", [0, 5])
def test_a_layer_that_is_not_there_is_an_error_with_the_rule(pipe: Any, clip_skip: int) -> None:
    last = 4 if family_of(pipe) == "sd1" else 3
    with pytest.raises(ValueError, match=f"`clip_skip` must be from 1 to {last} with this model but is {clip_skip}"):
        embeds(pipe, "(a:1.1)", clip_skip=clip_skip)


def test_a_prompt_that_cannot_be_parsed_is_the_writers_error(demo: Any) -> None:
    with pytest.raises(PromptError, match="from -10 to 10"):
        encode(demo, "sd1", "a circle", "(red:11)", 1, guidance=True)


@every_family
def test_a_weight_moves_its_own_tokens(pipe: Any) -> None:
    plain = stock(pipe, "a large red circle")["prompt_embeds"]
    # Tokens: 0 the begin, 1 a, 2 large, 3 red, 4 circle. More weight stretches the token's embedding and no other.
    more = embeds(pipe, "a large (red:1.5) circle")["prompt_embeds"]
    assert moved(more, plain) == [3]
    empty = stock(pipe, "")["prompt_embeds"]
    assert equal(more[:, 3], empty[:, 3] + 1.5 * (plain - empty)[:, 3])
    # Less of it also takes it from what comes after, which the encoder had let see it, and never from what comes before.
    less = moved(embeds(pipe, "a large (red:0.5) circle")["prompt_embeds"], plain)
    assert less[0] == 3 and 4 in less


@every_family
def test_a_weight_of_zero_leaves_nothing_of_the_word(pipe: Any) -> None:
    red, green = (embeds(pipe, f"a ({colour}:0) circle", f"({colour}:0)") for colour in ("red", "green"))
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        assert torch.allclose(red[name], green[name], atol=1e-3)
    assert not torch.allclose(red["prompt_embeds"], embeds(pipe, "a (red:0.3) circle")["prompt_embeds"], atol=1e-3)


@every_family
def test_long_prompts_are_read_to_their_end(pipe: Any) -> None:
    given = embeds(pipe, " ".join(LONG))["prompt_embeds"]
    assert given.shape[:2] == (1, 154)
    other = embeds(pipe, " ".join([*LONG[:99], "yellow", *LONG[100:]]))["prompt_embeds"]
    # Word 100 is the 25th of the second block, whose place 0 is the mark of its begin. The encoder looks only backwards, and
    # sees one block at a time: what differs begins at the word and nothing before it.
    assert moved(given, other) == list(range(77 + 25, 154))
    blocks = [stock(pipe, " ".join(words))["prompt_embeds"] for words in (LONG[:75], LONG[75:])]
    assert equal(given, torch.cat(blocks, dim=1))
    # With commas it is 300 tokens.
    assert embeds(pipe, ", ".join([*LONG, ""]))["prompt_embeds"].shape[1] == 4 * 77


@every_family
def test_the_shorter_of_the_two_prompts_is_filled_with_the_empty_one(pipe: Any) -> None:
    empty, red = (stock(pipe, text)["prompt_embeds"] for text in ("", "red"))
    given = embeds(pipe, "red", " ".join(["blue"] * 150))
    assert equal(given["prompt_embeds"], torch.cat([red, empty], dim=1))
    assert given["negative_prompt_embeds"].shape == given["prompt_embeds"].shape
    given = embeds(pipe, " ".join(["blue"] * 150), "red")
    assert equal(given["negative_prompt_embeds"], torch.cat([red, empty], dim=1))


@every_family
def test_break_puts_chunks_side_by_side(pipe: Any) -> None:
    given = embeds(pipe, "a red circle BREAK blue")
    red, blue = (stock(pipe, text) for text in ("a red circle", "blue"))
    assert equal(given["prompt_embeds"], torch.cat([red["prompt_embeds"], blue["prompt_embeds"]], dim=1))
    if "pooled_prompt_embeds" in red:
        assert equal(given["pooled_prompt_embeds"], red["pooled_prompt_embeds"])


def test_literal_brackets_reach_the_encoder(demo: Any) -> None:
    given = embeds(demo, r"a \(red\) circle")
    assert equal(given["prompt_embeds"], stock(demo, "a (red) circle")["prompt_embeds"])


@pytest.mark.parametrize("pipe", ["sd1", "sdxl"], indirect=True)
@pytest.mark.parametrize(
    "prompt",
    ["(:0.5)", "( :0.5) red", "(red:0)", "BREAK", "[[]]", "red BREAK (,:0.5)", "(!!:0.5) !(!:0)!", "(<|endoftext|>:0.5)"],
)
def test_odd_prompts_draw_something(pipe: Any, prompt: str) -> None:
    for tensor in embeds(pipe, prompt, prompt).values():
        assert torch.isfinite(tensor).all()


def test_without_guidance_there_is_no_negative(sdxl: Any) -> None:
    assert set(encode(sdxl, "sdxl", "(red)", "(blue", 1, guidance=False)) == {"prompt_embeds", "pooled_prompt_embeds"}


def test_sdxl_has_zeros_for_no_negative_prompt_where_the_pipeline_has_them(sdxl: Any, refiner: Any) -> None:
    assert sdxl.config.force_zeros_for_empty_prompt
    for name, tensor in embeds(sdxl, "(red) " * 80).items():
        assert name.startswith("negative") == (not tensor.any())
    refiner.register_to_config(force_zeros_for_empty_prompt=False)
    given = embeds(refiner, "(red)")
    refiner.register_to_config(force_zeros_for_empty_prompt=True)
    assert equal(given["negative_prompt_embeds"], stock(refiner, "")["prompt_embeds"])


@every_family
def test_nothing_is_printed(pipe: Any) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        embeds(pipe, " ".join(LONG) + " (red:0.5) BREAK (blue:1.4)")
    assert out.getvalue() == ""


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_negative_prompt_of_an_earlier_job_is_not_encoded_again(family: str, tmp_path: Path) -> None:
    direct = Direct(tmp_path, model=build(family, tmp_path / family))
    model = direct.engine._residents.get(family)
    pipe = model.pipeline("txt2img")
    asked: list[int] = []  # the warm-up had no negative prompt
    pipe.text_encoder.register_forward_pre_hook(lambda module, given: asked.append(1))
    for prompt, negative, calls in (("a cat", "a dog", 2), ("a cow", "a dog", 1), ("a cow", "", 0), ("a dog", "a cat", 0)):
        asked.clear()
        given = model.encode(pipe, Job(prompt=prompt, negative_prompt=negative, guidance_scale=3.0))
        assert len(asked) == calls, (prompt, negative)
        by_itself = pipe.encode_prompt(prompt=prompt, **ASKED, negative_prompt=negative or None)
        expected = {name: value for name, value in zip(EMBEDS, by_itself, strict=False) if value is not None}
        assert given.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in given.items()), "to the bit"
    direct.close()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_plain_prompts_of_waiting_jobs_are_encoded_by_one_call(family: str, tmp_path: Path) -> None:
    """To the last digit but one as each by itself; what has weights, or is too long, is encoded when its job begins."""
    direct = Direct(tmp_path, model=build(family, tmp_path / family))
    model = direct.engine._residents.get(family)
    pipe = model.pipeline("txt2img")
    asked: list[int] = []
    pipe.text_encoder.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    prompts = [("a cat", "a dog"), ("a cow", "a dog"), ("a (red:1.3) bird", ""), ("a cat " * 60, "a fly"), ("a cat", "a cow")]
    jobs = [Job(prompt=prompt, negative_prompt=negative, guidance_scale=3.0) for prompt, negative in prompts]
    model.encode_together([*jobs, Job(prompt="a bee", guidance_scale=1.0)])
    assert asked == [4], "a cat, a dog, a cow, and a bee, which has no guidance"
    for job in (jobs[0], jobs[1], jobs[4]):
        given = model.encode(pipe, job)
        by_itself = pipe.encode_prompt(prompt=job.prompt, **ASKED, negative_prompt=job.negative_prompt)
        for name, value in zip(EMBEDS, by_itself, strict=False):
            assert value is None or torch.allclose(given[name], value, rtol=0, atol=2e-6), name
    asked.clear()
    model.encode_together([jobs[0], Job(prompt="a new one", guidance_scale=1.0)])
    assert not asked, "one alone is encoded when its job begins"
    images = direct.run_all([({"prompt": f"{n} apples", "steps": 2, "guidance_scale": 1.0}, {}) for n in range(4)])
    assert len(images) == 4 and asked in ([4], [1, 3]), asked
    direct.close()


def test_more_waiting_jobs_than_prompts_are_kept_of_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "PROMPTS_KEPT", 8)
    monkeypatch.setattr(Knee, "rows", 60)  # all join at once
    direct = Direct(tmp_path, model=build("sd1", tmp_path / "sd1"), together=30)
    encoder = direct.engine._residents.get("sd1").pipeline("txt2img").text_encoder
    asked: list[int] = []
    encoder.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    direct.run_all([({"prompt": f"{n} apples", "steps": 1}, {}) for n in range(30)])
    assert sum(asked) == 30, "the negative prompt, which is empty, was the warm-up's"
    assert len(asked) < 15
    direct.close()


@pytest.fixture
def inverted(tmp_path: Path) -> Iterator[Any]:
    """The demo model with two textual inversions: `onevec` of one vector, `twovec` of two."""
    pipe = StableDiffusionPipeline.from_pretrained(library.DEMO, safety_checker=None, dtype=torch.float32)
    torch.manual_seed(2)
    for name, vectors in (("onevec", 1), ("twovec", 2)):
        torch.save({name: torch.randn(vectors, 96) if vectors > 1 else torch.randn(96)}, tmp_path / f"{name}.bin")
        pipe.load_textual_inversion(tmp_path / f"{name}.bin", token=name, local_files_only=True)
    yield pipe


def test_textual_inversions_are_read(inverted: Any) -> None:
    for prompt in ("a onevec circle", "a twovec circle", "onevec, twovec"):
        given = embeds(inverted, f"{prompt}(, red:1.0)" if prompt[0] == "a" else f"({prompt}:1.0), red")
        assert equal(given["prompt_embeds"], stock(inverted, f"{prompt}, red")["prompt_embeds"])
    # begin, a, two vectors, circle
    assert moved(
        embeds(inverted, "a (twovec:1.3) circle")["prompt_embeds"], stock(inverted, "a twovec circle")["prompt_embeds"]
    ) == [2, 3]
    # Both vectors count where it is decided whether the prompt fits.
    assert "prompt" in encode(inverted, "sd1", "red " * 73 + "twovec", "", 1, guidance=True)
    assert embeds(inverted, "red " * 74 + "twovec")["prompt_embeds"].shape[1] == 154


@pytest.mark.parametrize("how", ["model", "sequential"])
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_it_works_while_the_encoders_are_offloaded(sdxl: Any, sd1: Any, how: str, clip_skip: int) -> None:
    for pipe in (sd1, sdxl):
        prompt, negative = "a (red:1.4) [circle]", "(blue:0.2) " + "green " * 80
        expected = embeds(pipe, prompt, negative, clip_skip)
        # As the pipeline's own enable_..._cpu_offload does it, which refuses to offload from a CPU to a CPU.
        modules = [module for module in pipe.components.values() if isinstance(module, torch.nn.Module)]
        for module in modules:
            if how == "model":
                accelerate.cpu_offload_with_hook(module, execution_device="cpu")
            else:
                accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
        assert pipe.text_encoder.device.type == ("cpu" if how == "model" else "meta")
        try:
            given = embeds(pipe, prompt, negative, clip_skip)
        finally:
            for module in modules:
                accelerate.hooks.remove_hook_from_module(module, recurse=True)
        assert all(equal(given[name], tensor) for name, tensor in expected.items())


def test_half_precision_stays_half(tmp_path: Path) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(build("sdxl", tmp_path / "tiny"), dtype=torch.bfloat16)
    for tensor in embeds(pipe, "(red:0.5) (blue:1.5)", "(green:0)").values():
        assert tensor.dtype == torch.bfloat16 and torch.isfinite(tensor).all()


def test_the_embeddings_go_into_the_pipelines(sdxl: Any, sd1: Any) -> None:
    for pipe in (sd1, sdxl):
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": 1, "width": 64, "height": 64, "output_type": "latent"}
        for guidance in (True, False):
            given = encode(pipe, family_of(pipe), "(red:1.3) BREAK blue", "[green]", 2, guidance)
            assert torch.isfinite(pipe(**given, **call, guidance_scale=3.0 if guidance else 1.0).images).all()


def _draw(demo: Any, prompt: str) -> torch.Tensor:
    """The picture of the prompt, (128, 128, 3) in 0..1."""
    given = encode(demo, "sd1", prompt, "", 1, guidance=True)
    call = {"num_inference_steps": 12, "guidance_scale": 2.0, "width": 128, "height": 128, "output_type": "pt"}
    with torch.inference_mode():
        return demo(**given, **call, generator=torch.Generator().manual_seed(1)).images[0].permute(1, 2, 0)


def _share(picture: torch.Tensor, colour: str) -> float:
    """How much of the picture, 0 to 1, is red or blue."""
    red, green, blue = picture.unbind(-1)
    mask = {"red": (red > 0.6) & (green < 0.4) & (blue < 0.4), "blue": (blue > 0.5) & (red < 0.4)}[colour]
    return mask.float().mean().item()


def test_a_weight_below_one_takes_the_word_out_of_the_picture(demo: Any) -> None:
    sizes = [_share(_draw(demo, f"a (large:{weight}) red circle on a blue background"), "red") for weight in (0, 0.5, 1)]
    assert sizes[0] + 0.04 < sizes[1] < sizes[2] - 0.04  # 0.18, 0.26 and 0.37 of the picture
    colourless = _draw(demo, "a large (red:0) circle on a blue background")
    assert _share(colourless, "red") == 0 and _share(colourless, "blue") > 0.5
    assert _share(_draw(demo, "a large red circle on a (blue:0) background"), "blue") == 0


def test_a_weight_above_one_gives_a_phrase_more_of_the_picture(demo: Any) -> None:
    # Of a single word that nothing contends with, such a weight changes next to nothing with this model: it is there already.
    prompt = "(a large blue circle:{}) large red circle on a white background"
    weak, even, strong = (_draw(demo, prompt.format(weight)) for weight in (0.5, 1, 1.5))
    assert _share(weak, "red") > 0.3 and _share(weak, "blue") == 0
    assert _share(even, "red") == 0 and _share(even, "blue") + 0.02 < _share(strong, "blue")  # 0.36 and 0.40
