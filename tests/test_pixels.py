"""Each kind of work with the demo model, by what the pictures show: the model draws a coloured shape on a coloured ground."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import diffusers
import numpy as np
import pytest
import tiny
from house import ROOT, picture
from PIL import Image, ImageChops
from PIL.Image import Image as Picture
from safetensors import safe_open

from bench.direct import Direct
from bench.shape_checker import Seen, look
from spooler import messages
from spooler.engine.album import Album
from spooler.engine.preview import LatentMap, Previews
from spooler.engine.work import Work
from spooler.infotext import parse
from spooler.job import JobError
from tools import train_demo_lora
from tools.drawings import COLOURS, Drawing

LORA = ROOT / "examples" / "loras" / "green-ground.safetensors"
RED_ON_BLUE = "a large red circle on a blue background"
RED_ON_WHITE = "a large red circle on a white background"


@pytest.fixture(scope="module")
def add_ons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with LoRAs and embeddings: good ones, one for another model, damaged ones."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "loras").mkdir()
    (folder / "embeddings").mkdir()
    shutil.copy(LORA, folder / "loras")
    tiny.lora(tiny.FAMILIES["sd1"](), folder / "loras" / "for-another.safetensors")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny.DEMO, local_files_only=True)
    tiny.embedding(pipe, folder / "embeddings" / "vermilion.safetensors", "vermilion", "red")
    for kind in ("loras", "embeddings"):
        (folder / kind / "damaged.safetensors").write_bytes(b"this is no safetensors file " * 9)
    return folder


@pytest.fixture(scope="module")
def demo(add_ons: Path) -> Iterator[Direct]:
    engine = Direct(models=add_ons, preview_s=0)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def previewing() -> Iterator[Direct]:
    """An engine that makes a preview at every step, at once: on a busy machine one beside the drawing may be passed over."""
    engine = Direct(preview_s=0.001)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Album, "show", lambda album, preview: preview())
        yield engine
    engine.close()


def draw(demo: Direct, inputs: dict[str, Picture] | None = None, **fields: Any) -> list[Picture]:
    """The pictures of a job; in half of the model's own steps, which is enough for what is looked at here."""
    return demo.draw(inputs, **({"steps": 10} | fields))


def numbers(image: Picture) -> np.ndarray:
    """The picture as (height, width, 3) floats."""
    return np.asarray(image, dtype=float)


def apart(one: Picture, other: Picture) -> float:
    """The mean difference of two pictures, in levels of 255."""
    return float(np.abs(numbers(one) - numbers(other)).mean())


def same(one: Picture, other: Picture) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def within_a_level(one: Picture, other: Picture) -> bool:
    """As a picture is that was drawn in a call with others, beside the same drawn by itself (docs/engine.md): on some CPUs the
    sums differ in their last digit, and a colour is rounded otherwise here and there."""
    if one.size != other.size:
        return False
    return all(high <= 1 for _, high in ImageChops.difference(one, other).getextrema())


def colours(seen: Seen) -> tuple[str, str | None]:
    return seen.background, seen.colour


def found_at(sheet: Picture, part: Picture) -> tuple[int, int]:
    """The x and y at which the sheet holds the picture, to the bit; exactly one place."""
    paper, wanted = np.asarray(sheet.convert("RGB")), np.asarray(part.convert("RGB"))
    height, width = wanted.shape[:2]
    rows, columns = paper.shape[0] - height + 1, paper.shape[1] - width + 1
    likely = np.ones((rows, columns), dtype=bool)
    for y, x in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        likely &= (paper[y : y + rows, x : x + columns] == wanted[y, x]).all(axis=2)
    places = [(x, y) for y, x in np.argwhere(likely) if np.array_equal(paper[y : y + height, x : x + width], wanted)]
    assert len(places) == 1, f"the picture is on the sheet {len(places)} times"
    return int(places[0][0]), int(places[0][1])


# -- img2img ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blue_square() -> Picture:
    """A blue square on white, at the top."""
    return Drawing("square", "blue", "white", "", "top").image(random.Random(0))


def repaint(demo: Direct, start: Picture, **fields: Any) -> list[Picture]:
    prompt = "a red square on a white background"
    return draw(demo, {"in.png": start}, **({"prompt": prompt, "image": "in.png", "seed": 0, "steps": 20} | fields))


def test_a_low_strength_keeps_the_input_and_a_high_one_follows_the_prompt(demo: Direct, blue_square: Picture) -> None:
    by_strength = {strength: repaint(demo, blue_square, strength=strength)[0] for strength in (0.2, 0.55, 0.95)}
    distances = [apart(blue_square, drawn) for drawn in by_strength.values()]
    assert distances == sorted(distances) and distances[0] < 8, distances
    kept, followed = look(by_strength[0.2]), look(by_strength[0.95])
    assert (kept.colour, kept.shape, kept.place) == ("blue", "square", "top")
    assert (followed.colour, followed.shape, followed.place) == ("red", "square", ""), "the prompt names no place"


def test_a_middling_strength_changes_the_colour_and_keeps_the_place(demo: Direct, blue_square: Picture) -> None:
    seen = [look(drawn) for drawn in repaint(demo, blue_square, strength=0.55, count=6)]
    both = [each for each in seen if (each.colour, each.place) == ("red", "top")]
    assert len(both) >= 5, seen


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "Heun"])
def test_the_smallest_strengths_are_no_error(demo: Direct, blue_square: Picture, sampler: str) -> None:
    [untouched] = repaint(demo, blue_square, strength=0.0, sampler=sampler)
    assert same(untouched, blue_square)
    [hardly] = repaint(demo, blue_square, strength=0.01, sampler=sampler)  # of 20 steps a fifth of one
    assert 0 < apart(hardly, blue_square) < 5 and look(hardly).place == "top"


# -- inpaint ---------------------------------------------------------------------------------------------------------------


def left_half(size: tuple[int, int]) -> Picture:
    """A mask that is white on the left."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("blur", [0, 4, 32])
def test_what_the_mask_keeps_black_is_kept_to_the_bit(demo: Direct, blue_square: Picture, blur: int) -> None:
    given = {"in.png": blue_square, "mask.png": left_half((128, 128))}
    fields = {"prompt": "a large red circle on a green background", "image": "in.png", "mask": "mask.png", "seed": 0}
    [drawn] = draw(demo, given, **fields, mask_blur=blur)
    assert np.array_equal(numbers(drawn)[:, 64:], numbers(blue_square)[:, 64:])
    left = drawn.crop((0, 0, 20, 128))
    assert look(left).background == "green"
    # Next to the edge the blur lets more of the white below through.
    [hard] = draw(demo, given, **fields, mask_blur=0)
    edge = numbers(drawn)[100:, 60:64].mean() - numbers(hard)[100:, 60:64].mean()
    assert edge > 15 if blur else edge == 0


def test_a_mask_of_another_size_is_stretched_over_the_picture(demo: Direct, blue_square: Picture) -> None:
    fields = {"prompt": "a large red circle on a green background", "image": "in.png", "mask": "mask.png", "seed": 0}
    one, other = (
        draw(demo, {"in.png": blue_square, "mask.png": left_half(size)}, **fields)[0] for size in ((128, 128), (32, 50))
    )
    assert same(one, other)


@pytest.mark.parametrize("area", ["whole", "masked"])
def test_an_all_black_mask_gives_the_input_back(demo: Direct, blue_square: Picture, area: str) -> None:
    given = {"in.png": blue_square, "mask.png": Image.new("L", (128, 128), 0)}
    [drawn] = draw(demo, given, prompt=RED_ON_BLUE, image="in.png", mask="mask.png", inpaint_area=area)
    assert same(drawn, blue_square)


def test_what_is_transparent_on_a_mask_is_not_repainted(demo: Direct, blue_square: Picture) -> None:
    strokes = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 64, 128))
    fields = {"prompt": "a large red circle on a green background", "image": "in.png", "mask": "mask.png", "seed": 0}
    one, other = (
        draw(demo, {"in.png": blue_square, "mask.png": mask}, **fields)[0] for mask in (strokes, left_half((128, 128)))
    )
    assert same(one, other)


@pytest.mark.parametrize("padding", [0, 16])
def test_the_masked_area_of_a_larger_picture_is_drawn_at_full_size(demo: Direct, padding: int) -> None:
    wide = Image.new("RGB", (384, 256), COLOURS["blue"])
    for x in range(0, 160, 7):  # something that no encoding and decoding keeps to the bit
        wide.paste(COLOURS["yellow"], (x, 0, x + 3, 256))
    box = (200, 80, 300, 180)
    mask = Image.new("L", wide.size, 0)
    mask.paste(255, box)
    fields = {"image": "in.png", "mask": "mask.png", "inpaint_area": "masked", "inpaint_padding": padding, "strength": 0.9}
    given = {"in.png": wide, "mask.png": mask}
    drawn = draw(demo, given, prompt=RED_ON_BLUE, width=128, height=128, seed=0, count=3, **fields)
    black = np.asarray(mask) == 0
    for each in drawn:
        assert each.size == wide.size
        assert np.array_equal(numbers(each)[black], numbers(wide)[black])
        seen = look(each.crop(box))
        assert (seen.shape, *colours(seen)) == ("circle", "blue", "red")


# -- a second pass, upscaling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent"])
def test_a_hires_pass_is_the_same_drawing_at_twice_the_size(demo: Direct, upscaler: str) -> None:
    fields = {"prompt": RED_ON_BLUE, "seed": 3}
    first = draw(demo, **fields)
    second = draw(demo, **fields, hires={"scale": 2, "upscaler": upscaler, "strength": 0.4})
    for small, large in zip(first, second, strict=True):
        seen = look(large)
        assert large.size == (256, 256)
        assert (seen.shape, *colours(seen)) == ("circle", "blue", "red")
        enlarged = small.resize((256, 256), Image.Resampling.LANCZOS)
        assert 0 < apart(large, enlarged) < 20


def test_a_hires_pass_of_strength_0_is_the_picture_enlarged(demo: Direct) -> None:
    fields = {"prompt": RED_ON_BLUE, "seed": 3}
    [small], [large] = draw(demo, **fields), draw(demo, **fields, hires={"strength": 0.0})
    assert same(large, small.resize((256, 256), Image.Resampling.LANCZOS))
    [decoded] = draw(demo, **fields, hires={"strength": 0.0, "upscaler": "Latent"})
    assert decoded.size == (256, 256) and colours(look(decoded)) == ("blue", "red")


def test_upscaling_alone_keeps_the_colours(demo: Direct, blue_square: Picture) -> None:
    [large] = draw(demo, {"in.png": blue_square}, image="in.png", upscale={"scale": 3.0})
    assert large.size == (384, 384)
    before, after = look(blue_square), look(large)
    assert (before.shape, *colours(before), before.place) == (after.shape, *colours(after), after.place)
    assert apart(large.resize((128, 128), Image.Resampling.BOX), blue_square) < 1


# -- what a prompt may name --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(demo: Direct) -> Picture:
    return draw(demo, prompt=RED_ON_WHITE, seed=3)[0]


@pytest.mark.parametrize(
    "fields",
    [{"loras": [{"name": "green-ground"}]}, {"prompt": f"{RED_ON_WHITE} <lora:green-ground:1>"}],
    ids=["field", "prompt"],
)
def test_a_lora_changes_the_picture_of_its_own_job_only(demo: Direct, plain: Picture, fields: dict[str, Any]) -> None:
    assert colours(look(plain)) == ("white", "red")
    [drawn] = draw(demo, **({"prompt": RED_ON_WHITE, "seed": 3} | fields))
    seen = look(drawn)
    assert (seen.shape, *colours(seen)) == ("circle", "green", "red")
    assert same(draw(demo, prompt=RED_ON_WHITE, seed=3)[0], plain)


def test_a_lora_is_the_same_by_field_and_by_prompt_and_nothing_at_weight_0(demo: Direct, plain: Picture) -> None:
    by_field = draw(demo, prompt=RED_ON_WHITE, seed=3, loras=[{"name": "green-ground", "weight": 0.8}])[0]
    by_prompt = draw(demo, prompt=f"{RED_ON_WHITE}<lora:green-ground:0.8>", seed=3)[0]
    assert same(by_field, by_prompt) and not same(by_field, plain)
    assert same(draw(demo, prompt=f"{RED_ON_WHITE}<lora:green-ground:0>", seed=3)[0], plain)


def test_a_lora_named_in_the_negative_prompt_is_no_text_there(demo: Direct) -> None:
    loras = [{"name": "green-ground", "weight": 1.0}]
    by_field = draw(demo, prompt=RED_ON_WHITE, seed=3, loras=loras, negative_prompt="blue")[0]
    by_prompt = draw(demo, prompt=RED_ON_WHITE, seed=3, negative_prompt="blue<lora:green-ground:1>")[0]
    assert same(by_field, by_prompt)


@pytest.mark.parametrize("background", [colour for colour in COLOURS if colour not in ("green", "yellow")])
def test_the_lora_makes_green_of_every_background(demo: Direct, background: str) -> None:
    seen = look(
        draw(demo, prompt=f"a large yellow square on a {background} background", seed=5, loras=[{"name": LORA.stem}])[0]
    )
    assert colours(seen) == ("green", "yellow")


def test_a_lora_that_does_not_fit_is_refused_and_a_damaged_one_is_not_offered(demo: Direct) -> None:
    with pytest.raises(JobError, match="'for-another' was made for models that read text 32 wide, but 'demo' is one of"):
        draw(demo, prompt=RED_ON_WHITE, seed=3, loras=[{"name": "for-another"}])
    with pytest.raises(JobError, match="must be one of for-another, green-ground"):
        draw(demo, prompt=RED_ON_WHITE, seed=3, loras=[{"name": "damaged"}])
    assert any(reason.startswith("loras/damaged.safetensors cannot be read") for reason in demo.library.refused)


def test_a_lora_whose_misfit_shows_only_on_the_model_is_a_sentence_and_the_next_job_is_untouched(
    demo: Direct, plain: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a file that does not tell for what it was made.
    monkeypatch.setattr(demo, "catalogue", demo.catalogue.model_copy(update={"made_for": {}}))
    with pytest.raises(RuntimeError, match=r"The LoRAs for-another do not fit the model 'demo': .{10,300}\n"):
        draw(demo, prompt=RED_ON_WHITE, seed=3, loras=[{"name": "for-another"}])
    assert same(draw(demo, prompt=RED_ON_WHITE, seed=3)[0], plain)


def test_the_lora_tool_writes_such_a_file_as_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_demo_lora.py", "--out", str(made), "--steps=1", "--drawings=4"])
    train_demo_lora.main()

    def shapes(file: Path) -> dict[str, Any]:
        with safe_open(file, "np") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - it is no dict

    assert shapes(made) == shapes(LORA)
    assert LORA.stat().st_size < 200_000


def test_an_embedding_means_what_it_was_made_to_mean(demo: Direct) -> None:
    fields = {"seed": 3, "count": 3}
    without = draw(demo, prompt="a large circle on a blue background", **fields)
    assert all(look(each).colour != "red" for each in without)
    for text in ("vermilion", "(vermilion:1.1)"):
        drawn = draw(demo, prompt=f"a large {text} circle on a blue background", **fields)
        assert {colours(look(each)) for each in drawn} == {("blue", "red")}, text


def test_a_damaged_embedding_is_not_offered(demo: Direct) -> None:
    assert "damaged" not in demo.catalogue.embeddings
    assert any(reason.startswith("embeddings/damaged.safetensors cannot be read") for reason in demo.library.refused)


@pytest.mark.parametrize(("weight", "colour"), [(0.5, "red"), (1.5, "blue")])
def test_a_weight_decides_which_of_two_descriptions_is_drawn(demo: Direct, weight: float, colour: str) -> None:
    prompt = f"(a large blue circle:{weight}) large red circle on a white background"
    drawn = draw(demo, prompt=prompt, seed=3, count=3)
    assert {(look(each).shape, *colours(look(each))) for each in drawn} == {("circle", "white", colour)}


def test_a_word_of_weight_0_is_not_drawn_and_half_of_it_is_in_between(demo: Direct) -> None:
    def red(weight: float) -> float:
        """Pixels that are red, over all."""
        drawn = draw(demo, prompt=f"a (large:{weight}) red circle on a white background", seed=3)[0]
        return float((np.abs(numbers(drawn) - COLOURS["red"]).max(axis=2) < 40).mean())

    none, half, whole = red(0), red(0.5), red(1)
    assert 1.2 * none < half and 1.2 * half < whole, (none, half, whole)


def test_a_negative_prompt_removes_what_it_names_and_not_what_it_does_not(demo: Direct) -> None:
    def backgrounds(**fields: Any) -> set[str]:
        return {
            look(each).background for each in draw(demo, prompt="a large circle on a background", seed=100, count=3, **fields)
        }

    assert backgrounds() == {"blue"}
    assert "blue" not in backgrounds(negative_prompt="blue")
    assert backgrounds(negative_prompt="red") == {"blue"}


def test_guidance_pulls_further_from_the_unguided_picture_the_higher_it_is(demo: Direct) -> None:
    fields = {"prompt": "a small yellow star on a black background", "seed": 3}
    unguided = draw(demo, **fields, guidance_scale=1.0)[0]
    distances = [apart(unguided, draw(demo, **fields, guidance_scale=scale)[0]) for scale in (1.5, 3.0, 6.0)]
    assert 0 < distances[0] < distances[1] < distances[2], distances
    for scale in (0.0, 1.0):  # no guidance, so no negative prompt
        assert same(draw(demo, **fields, guidance_scale=scale, negative_prompt="yellow")[0], unguided), (
            "no guidance, no negative"
        )


# -- seeds, sweeps, batches --------------------------------------------------------------------------------------------------


def test_a_variation_lies_between_two_seeds(demo: Direct) -> None:
    one, other = (draw(demo, prompt="a circle", seed=seed)[0] for seed in (3, 77))
    fields = {"prompt": "a circle", "seed": 3, "variation_seed": 77}
    mixed = {part: draw(demo, **fields, variation_strength=part)[0] for part in (0.0, 0.1, 0.9, 1.0)}
    assert same(mixed[0.0], one) and same(mixed[1.0], other)
    assert 0 < apart(mixed[0.1], one) < apart(mixed[0.1], other)
    assert 0 < apart(mixed[0.9], other) < apart(mixed[0.9], one)


def test_p8_variations_are_counted_on_with_the_seeds_however_many_are_drawn_at_once(demo: Direct) -> None:
    """As the page takes them for when a picture is to be made again, and as each picture tells."""
    fields = {"prompt": "a circle", "steps": 4, "variation_strength": 0.5}
    batch = demo.run(fields | {"seed": 3, "variation_seed": 2**32 - 1, "count": 3})
    for index in range(3):
        made = picture(batch / f"{index}.png")
        again = parse(str(made.info["parameters"]))
        assert (again["seed"], again["variation_seed"]) == (3 + index, (2**32 - 1 + index) % 2**32)
        assert within_a_level(draw(demo, **again)[0], made.convert("RGB"))


def swept(demo: Direct, fields: dict[str, Any]) -> tuple[Picture, list[Picture], list[dict[str, str]]]:
    """The contact sheet of a sweep, its pictures, and what is written into each."""
    folder = demo.run(fields)
    assert isinstance(demo.ended, messages.Finished) and demo.ended.sheet == "sheet.png", demo.ended
    files = [picture(path) for path in sorted(folder.glob("[0-9]*.png"), key=lambda path: int(path.stem))]
    settings = [str(each.info["parameters"]).splitlines() for each in files]
    told = [dict(entry.split(": ", 1) for entry in lines[-1].split(", ")) | {"prompt": lines[0]} for lines in settings]
    return picture(folder / "sheet.png"), files, told


def test_a_sweep_of_seeds_and_steps_has_each_pair_in_its_cell(demo: Direct) -> None:
    prompt = "a star on a black background"
    sheet, drawn, told = swept(demo, {"prompt": prompt, "sweep": {"seed": [5, 6], "steps": [8, 20]}})
    pairs = [(seed, steps) for steps in (8, 20) for seed in (5, 6)]
    assert [(int(each["Seed"]), int(each["Steps"])) for each in told] == pairs
    for (seed, steps), each in zip(pairs, drawn, strict=True):
        assert within_a_level(draw(demo, prompt=prompt, seed=seed, steps=steps)[0], each.convert("RGB"))
    places = {pair: found_at(sheet, each) for pair, each in zip(pairs, drawn, strict=True)}
    for row in (8, 20):
        assert places[5, row][0] < places[6, row][0]
        assert len({places[seed, row][1] for seed in (5, 6)}) == 1
    for column in (5, 6):
        assert places[column, 8][0] == places[column, 20][0] and places[column, 8][1] < places[column, 20][1]


def test_a_sweep_of_prompts_has_its_colours_in_order_and_one_seed(demo: Direct) -> None:
    names = ["red", "green", "purple"]
    prompts = [f"a large {name} square on a white background" for name in names]
    sheet, drawn, told = swept(demo, {"prompt": prompts, "count": 2, "steps": 10})
    assert [each["prompt"] for each in told] == [prompt for prompt in prompts for _ in range(2)]
    seeds = [int(each["Seed"]) for each in told]
    assert seeds == [seeds[0], seeds[0] + 1] * 3
    places = [found_at(sheet, each) for each in drawn]
    assert [x for x, _ in places] == sorted({x for x, _ in places}) and len({y for _, y in places}) == 1
    shown = [look(sheet.crop((x, y, x + 128, y + 128))).colour for x, y in places]
    assert shown == [name for name in names for _ in range(2)]


def test_p8_a_batch_of_four_is_four_single_pictures(demo: Direct) -> None:
    fields = {"prompt": "a small star on a blue background"}
    batch = draw(demo, **fields, seed=20, count=4)
    for index, each in enumerate(batch):
        single = draw(demo, **fields, seed=20 + index)[0]
        # Not to the bit: a product of larger matrices is added up in another order.
        assert np.abs(numbers(each) - numbers(single)).max() <= 2
        assert all(apart(single, other) > 1 for number, other in enumerate(batch) if number != index)


@pytest.mark.parametrize("background", COLOURS)
def test_the_last_preview_has_the_colours_of_the_picture(previewing: Direct, background: str) -> None:
    colour = "yellow" if background in ("blue", "black", "purple") else "blue"
    folder = previewing.run({"prompt": f"a large {colour} circle on a {background} background", "seed": 3, "steps": 10})
    preview = picture(folder / "preview.jpg")
    assert preview.size == (128, 128)
    assert colours(look(preview)) == colours(look(picture(folder / "0.png"))) == (background, colour)


def test_a_job_that_is_over_before_its_first_preview_is_due_has_none() -> None:
    slow, work, latent_map = Previews(3600.0), cast(Work, SimpleNamespace(next_preview=0.0)), cast(LatentMap, object())
    assert not any(slow.is_due(work, latent_map) for _ in range(20))
    work.next_preview = 1e-9  # long ago
    assert slow.is_due(work, latent_map) and not slow.is_due(work, latent_map)


def test_the_preview_of_a_large_picture_has_its_colours_too(previewing: Direct) -> None:
    folder = previewing.run({"prompt": RED_ON_BLUE, "seed": 3, "steps": 4, "hires": {"scale": 3, "strength": 0.1}})
    drawn, preview = picture(folder / "0.png"), picture(folder / "preview.jpg")
    assert (drawn.size, preview.size) == ((384, 384), (384, 384))
    assert colours(look(preview)) == colours(look(drawn)) == ("blue", "red")
