"""The layers that look at pictures, over small models that truly tell one picture from another."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image, ImageDraw
from PIL.Image import Image as Picture
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPVisionConfig, ViTConfig, ViTForImageClassification

from spooler.engine.safety import (
    CPU,
    EXPOSED,
    Classifier,
    ModelChecker,
    Nudity,
    Safety,
    SafetyError,
    SafetyOptions,
    Verdict,
    blurred,
)

RED, BLUE = (210, 30, 20), (20, 40, 220)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (48, 40)) -> Picture:
    return Image.new("RGB", size, colour)


# The classifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return red_classifier(tmp_path_factory.mktemp("classifier"))


def red_classifier(folder: Path) -> Path:
    """A ViT of a thousand weights that has learnt, in a second, to tell red pictures from others."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        id2label={0: "red", 1: "other"},
        label2id={"red": 0, "other": 1},
    )
    model = ViTForImageClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        colours = torch.rand(16, 3, 1, 1) * 2 - 1
        pixels = colours + 0.1 * torch.randn(16, 3, 8, 8)
        red = (colours[:, 0] > colours[:, 1:].amax(1)).flatten()
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=(~red).long()).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    how = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(how | {"image_std": [0.5] * 3}))
    return folder


@pytest.fixture
def classifier(trained: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "classifier"))


def safety(classifier: Path | str, labels: tuple[str, ...] = ("red",), **more: Any) -> Safety:
    return Safety.load(SafetyOptions(classifier=str(classifier), labels=labels, **more), None, CPU, torch.float32)


@pytest.mark.parametrize("name", ["ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor"])
def test_the_classifier_tells_red_from_blue(name: str, classifier: Path) -> None:
    how = json.loads((classifier / "preprocessor_config.json").read_text())
    del how["image_processor_type"]
    how["feature_extractor_type" if name.endswith("Extractor") else "image_processor_type"] = name
    (classifier / "preprocessor_config.json").write_text(json.dumps(how))
    red = Classifier.load(classifier, ("red",), 0.5)
    verdict = red.judge(plain(RED))
    assert verdict and (verdict.layer, verdict.label) == ("classifier", "red") and 0.8 < verdict.score <= 1
    assert red.judge(plain(BLUE)) is None
    assert red.judge(plain(RED).convert("RGBA")) == verdict
    assert Classifier.load(classifier, ("red",), 1.0).judge(plain(RED)) is None


def test_the_likeliest_of_the_chosen_labels_is_the_verdict_s(classifier: Path) -> None:
    both = Classifier.load(classifier, ("other", "red"), 0.5)
    assert [verdict.label for colour in (RED, BLUE) if (verdict := both.judge(plain(colour)))] == ["red", "other"]


def test_labels_that_do_not_exclude_each_other_have_a_probability_each(classifier: Path) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    with torch.no_grad():
        weights = load_file(classifier / "model.safetensors")
        weights["classifier.weight"] = torch.zeros(2, 8)
        weights["classifier.bias"] = torch.tensor([2.0, 3.0])
        save_file(weights, classifier / "model.safetensors", {"format": "pt"})
    assert Classifier.load(classifier, ("red",), 0.5).judge(plain(BLUE)) == Verdict("classifier", "red", 0.8808)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def broken(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 64)


def headless(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def too_large(folder: Path) -> None:
    how = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(how | {"size": {"height": 12, "width": 12}}))


def code_of_its_own(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config | own))


def no_object(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit", "hidden_size": "eight"}')


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (shutil.rmtree, "folder with a config.json"),
        (without_config, "folder with a config.json"),
        (without_processor, "must have a preprocessor_config.json"),
        (as_pickle, "no file named model.safetensors"),
        (broken, "could not be loaded"),
        (headless, "must be whole, but 1 are missing: classifier.weight"),
        (not_a_number, "must be a number, but is nan"),
        (too_large, "could not be loaded: Input image size"),
        (code_of_its_own, "could not be loaded"),
        (no_object, "could not be loaded"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_classifier_that_cannot_load_is_refused(spoil: Callable[[Path], None], why: str, classifier: Path) -> None:
    spoil(classifier)
    with pytest.raises(SafetyError, match=why) as raised:
        safety(classifier)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_a_label_that_the_classifier_does_not_have_is_refused(trained: Path) -> None:
    for labels, but in ((("red", "green"), "red, green"), ((), "none")):
        with pytest.raises(SafetyError, match=rf"\(other, red\), but are {but}\."):
            safety(trained, labels)


# NudeNet


def circle() -> Picture:
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=RED, outline="black", width=3)
    return picture


def test_nudenet_loads_and_passes_a_drawing_of_a_circle() -> None:
    nudenet = safety("nudenet", ())
    picture = circle()
    passed, verdict = nudenet.check(picture)
    assert passed is picture and verdict is None


def test_nudenet_s_labels_are_checked() -> None:
    Nudity.load(EXPOSED)
    with pytest.raises(SafetyError, match=r"must be among NudeNet's .*BELLY_COVERED.*, but are red"):
        safety("nudenet")


def test_a_nudenet_that_cannot_load_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = importlib.import_module("nudenet.nudenet")
    monkeypatch.setattr(packaged, "__file__", str(tmp_path / "nudenet.py"))
    with pytest.raises(SafetyError, match=r"NudeNet \(pip install nudenet\) could not be loaded: .*320n\.onnx"):
        safety("nudenet", ())
    (tmp_path / "320n.onnx").write_bytes(b"\0" * 64)
    with pytest.raises(SafetyError, match="could not be loaded"):
        safety("nudenet", ())
    monkeypatch.setitem(sys.modules, "nudenet.nudenet", None)
    with pytest.raises(SafetyError, match="could not be loaded: import of nudenet"):
        safety("nudenet", ())


class Finds:
    """NudeNet's detector, sure of what it finds. No picture to find it in belongs in a repository."""

    def __init__(self, **found: float):
        self.found = found
        self.seen: list[Any] = []

    def detect(self, pixels: Any) -> list[dict[str, Any]]:
        self.seen.append(pixels)
        return [{"class": label, "score": score, "box": [0, 0, 1, 1]} for label, score in self.found.items()]


def test_what_nudenet_finds_is_flagged_by_label_and_threshold() -> None:
    finds = Finds(FACE_FEMALE=0.9, BUTTOCKS_EXPOSED=0.55, ANUS_EXPOSED=0.6)
    assert Nudity(finds).judge(plain(RED)) == Verdict("nudenet", "ANUS_EXPOSED", 0.6)
    assert Nudity(finds, threshold=0.7).judge(plain(RED)) is None
    assert Nudity(finds, ("FACE_FEMALE",), 0.7).judge(plain(RED)) == Verdict("nudenet", "FACE_FEMALE", 0.9)
    pixels = finds.seen[0]
    assert pixels.shape == (40, 48, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert tuple(pixels[0, 0]) == RED[::-1], "OpenCV has blue first"


# The model's own checker


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tiny random checker: its concepts are random directions, their limits the tests' to set."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=8,
    )
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=8))
    for each in (model.concept_embeds, model.special_care_embeds, model.visual_projection.weight):
        torch.nn.init.normal_(each)
    model.save_pretrained(folder / "safety_checker")
    # As Stable Diffusion 1.5 has it: the name and the sizes of an older library.
    how = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 16, "crop_size": 16, "resample": 3}
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(how))
    return folder


@pytest.fixture
def model(checked: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(checked, tmp_path / "model"))


def set_weights(model: Path, **values: float) -> None:
    file = model / "safety_checker" / "model.safetensors"
    weights = load_file(file)
    for name, value in values.items():
        weights[name].fill_(value)
    save_file(weights, file, {"format": "pt"})


def checker(folder: Path | None, dtype: torch.dtype = torch.float32, **more: Any) -> Safety:
    return Safety.load(SafetyOptions(checker=True, **more), folder, CPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_checker_flags_everything_or_nothing_by_its_limits(dtype: torch.dtype, model: Path) -> None:
    set_weights(model, concept_embeds_weights=-2, special_care_embeds_weights=2)
    withheld, verdict = checker(model, dtype).check(circle())
    assert withheld is None
    assert verdict and verdict.layer == "checker" and verdict.label.startswith("concept ") and 1 < verdict.score <= 3
    set_weights(model, concept_embeds_weights=2)
    picture = circle()
    assert checker(model, dtype).check(picture) == (picture, None)


def test_the_checker_s_verdict_is_that_of_the_model_s_own_forward(model: Path) -> None:
    # Limits among the cosines: some pictures are flagged, some by the hundredth that a special concept adds, some not.
    torch.manual_seed(1)
    own = StableDiffusionSafetyChecker.from_pretrained(model / "safety_checker")
    pictures = torch.randn(40, 3, 16, 16)
    with torch.no_grad():
        embeddings = torch.nn.functional.normalize(own.visual_projection(own.vision_model(pictures)[1]))
        highest, special = (
            (embeddings @ torch.nn.functional.normalize(embeds).T).amax(1)
            for embeds in (own.concept_embeds, own.special_care_embeds)
        )
    set_weights(model, concept_embeds_weights=float(highest.median()), special_care_embeds_weights=float(special.median()))
    own = StableDiffusionSafetyChecker.from_pretrained(model / "safety_checker")
    layer = ModelChecker.load(model, CPU, torch.float32)
    margins = [max(layer.margins(each[None])) for each in pictures]
    ours = [margin > 0 for margin in margins]
    theirs = [own(each[None], [np.zeros((1, 1, 3))])[1][0] for each in pictures]
    assert ours == theirs and 0 < sum(ours) < len(ours)
    assert any(0 < margin <= 0.01 for margin in margins), "none was flagged by the hundredth: the test has lost a case"


def test_a_checker_saved_by_an_older_library_loads_whole(model: Path) -> None:
    file = model / "safety_checker" / "model.safetensors"
    before = ModelChecker.load(model, CPU, torch.float32).margins(torch.ones(1, 3, 16, 16))
    weights = {
        name.replace("vision_model.", "vision_model.vision_model.") if name.startswith("vision_model.") else name: value
        for name, value in load_file(file).items()
    }
    weights["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(weights, file, {"format": "pt"})
    assert ModelChecker.load(model, CPU, torch.float32).margins(torch.ones(1, 3, 16, 16)) == before
    # Half-precision weights alone will do for any precision.
    file.rename(file.with_name("model.fp16.safetensors"))
    assert ModelChecker.load(model, CPU, torch.float32).margins(torch.ones(1, 3, 16, 16)) == before


def test_a_checker_that_cannot_load_is_refused(model: Path) -> None:
    with pytest.raises(SafetyError, match="there is no model folder"):
        checker(None)
    weights = model / "safety_checker"
    file = weights / "model.safetensors"
    whole = load_file(file)
    set_weights(model, **{"visual_projection.weight": float("nan")})
    with pytest.raises(SafetyError, match="checker's score must be a number, but is nan"):
        checker(model)
    save_file({name: value for name, value in whole.items() if name != "concept_embeds"}, file, {"format": "pt"})
    with pytest.raises(SafetyError, match="must be whole, but 1 are missing: concept_embeds"):
        checker(model)
    file.write_bytes(b"\0" * 64)
    with pytest.raises(SafetyError, match=r"The safety checker in .* could not be loaded"):
        checker(model)
    file.unlink()
    torch.save(whole, weights / "pytorch_model.bin")
    with pytest.raises(SafetyError, match=r"no file named model\.safetensors"):
        checker(model)
    save_file(whole, file, {"format": "pt"})
    checker(model)
    (model / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(SafetyError, match=r"feature_extractor must have a preprocessor_config\.json"):
        checker(model)
    shutil.rmtree(weights)
    with pytest.raises(SafetyError, match="has no safety_checker/ folder: switch the checker off"):
        checker(model)


# What is done to a flagged picture


def test_without_a_layer_every_picture_passes_untouched() -> None:
    picture = circle()
    assert Safety.load(SafetyOptions(), None, CPU, torch.float32).check(picture) == (picture, None)


def test_a_flagged_picture_is_withheld_or_blurred_and_others_are_the_very_same(trained: Path) -> None:
    for action in ("withhold", "blur"):
        layer = safety(trained, action=action)
        for picture, flagged in ((plain(RED), True), (plain(BLUE), False)):
            shown, verdict = layer.check(picture)
            assert (verdict is not None) == flagged
            if not flagged:
                assert shown is picture
            elif action == "withhold":
                assert shown is None
            else:
                assert shown is not None and shown is not picture and shown.size == picture.size


def test_layers_are_asked_in_turn_and_the_first_that_objects_is_named(trained: Path, model: Path) -> None:
    set_weights(model, concept_embeds_weights=-2)
    options = SafetyOptions(checker=True, classifier=str(trained), labels=("red",))
    assert [layer_of(options, model, colour) for colour in (RED, BLUE)] == ["checker", "checker"]
    set_weights(model, concept_embeds_weights=2)
    assert [layer_of(options, model, colour) for colour in (RED, BLUE)] == ["classifier", None]


def layer_of(options: SafetyOptions, model: Path, colour: tuple[int, int, int]) -> str | None:
    verdict = Safety.load(options, model, CPU, torch.float32).check(plain(colour))[1]
    return verdict.layer if verdict else None


def test_a_blur_leaves_nothing_that_can_be_read() -> None:
    # Two letters on stripes; after the blur, the two pictures are the same but for a shade.
    def page(letter: str) -> Picture:
        picture = Image.new("RGB", (256, 192), "white")
        draw = ImageDraw.Draw(picture)
        for x in range(0, 256, 8):
            draw.rectangle((x, 0, x + 3, 191), fill="black")
        draw.text((118, 90), letter, fill=RED)
        picture.info["parameters"] = "a prompt"
        return picture

    pictures = [page("O"), page("X")]
    blurs = [blurred(each) for each in pictures]
    for picture, blur in zip(pictures, blurs, strict=True):
        assert blur.size == picture.size and blur.mode == "RGB" and not blur.info
        assert steepest(picture) == 255 and steepest(blur) <= 4
        # The means of all pixels, not a sample of some: that would be a stripe's black or white.
        assert abs(np.asarray(picture, float).mean() - np.asarray(blur, float).mean()) < 2
    sharp, soft = (np.abs(np.subtract(*(np.asarray(each, float) for each in pair))).max() for pair in (pictures, blurs))
    assert sharp > 200 and soft < 5
    # The colours stay about where they were, so that one sees that there was a picture.
    half = Image.new("RGB", (64, 64), RED)
    half.paste(BLUE, (32, 0, 64, 64))
    left, right = (blurred(half).getpixel((x, 32)) for x in (4, 60))
    assert isinstance(left, tuple) and isinstance(right, tuple) and left[0] > right[0] + 60
    # Slim pictures and tiny ones have no side of nought.
    for size in ((1024, 8), (8, 1024), (3, 3), (1, 1)):
        assert blurred(Image.new("RGB", size)).size == size


def steepest(picture: Picture) -> float:
    """The greatest step of brightness from one pixel to its neighbour, 0..255."""
    return float(np.abs(np.diff(np.asarray(picture.convert("L"), float), axis=1)).max())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (SafetyOptions(action="pass"), "must be withhold or blur, but is 'pass'"),
        (SafetyOptions(threshold=0), "^`--classifier-threshold` must be above 0 and at most 1, but is 0"),
        (SafetyOptions(threshold=float("nan")), "^`--classifier-threshold` must be above 0 and at most 1, but is nan"),
        (SafetyOptions(threshold=50), "^`--classifier-threshold` must be above 0 and at most 1, but is 50"),
    ],
)
def test_options_out_of_range_are_refused(options: SafetyOptions, why: str) -> None:
    with pytest.raises(SafetyError, match=why):
        Safety.load(options, None, CPU, torch.float32)
