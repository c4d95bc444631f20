"""What looks at a picture before anybody else does. Each layer is a switch of its own; none is on unasked.

layer        looks with                                                    score of its verdict
checker      the model folder's own safety_checker/ (Stable Diffusion 1)   cosine over the concept's limit, above 0
classifier   any transformers image-classification folder                  probability of the label, 0..1
nudenet      the detector packaged with NudeNet                            confidence of the found part, 0..1

Two rules hold for all of them. A layer that cannot load, or that loads only in part, raises SafetyError at the start. A score
that is no number raises too: NaN is above no threshold, and would let everything pass.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub.errors import StrictDataclassError
from PIL import Image, ImageFilter
from PIL.Image import Image as Picture
from safetensors import SafetensorError
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageClassification

#: What the libraries raise for a folder that they cannot load. Not AttributeError: that would be a mistake of ours.
_FAULTS = (OSError, ValueError, TypeError, ImportError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
#: What Nudity looks for unless told. A man's bare chest is not among them.
EXPOSED = ("FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "FEMALE_BREAST_EXPOSED", "ANUS_EXPOSED", "BUTTOCKS_EXPOSED")
ACTIONS = ("withhold", "blur")
#: Pixels on the long side of what is left of a blurred picture.
BLUR_SIDE = 16
CPU = torch.device("cpu")


class SafetyError(RuntimeError):
    """A layer that cannot do its work: met by the operator at the start; later, by the job whose picture it could not judge."""


@dataclass(frozen=True)
class Verdict:
    """Why a picture was flagged. What the score means depends on the layer: see the table above."""

    layer: str
    label: str
    score: float


@dataclass(frozen=True)
class SafetyOptions:
    """Which layers look, and what is done to a picture that one of them flags."""

    checker: bool = False
    classifier: str = ""  # "": off; "nudenet"; or a folder
    labels: tuple[str, ...] = ()  # empty: EXPOSED for nudenet; a folder has no default
    threshold: float = 0.5  # of the classifier, above 0 and at most 1
    action: str = "withhold"  # or "blur"


class Layer(Protocol):
    def judge(self, picture: Picture) -> Verdict | None:
        """Why the picture is flagged, or None. Raises SafetyError when there is no telling."""


class Classifier:
    """An image-classification model of transformers: a picture is flagged for the likeliest of the chosen labels."""

    def __init__(self, model: Any, processor: Any, labels: tuple[str, ...], threshold: float):
        self._model = model
        self._processor = processor
        self._wanted = [index for index, label in sorted(model.config.id2label.items()) if label in labels]
        self._threshold = threshold

    @classmethod
    def load(cls, folder: Path, labels: tuple[str, ...], threshold: float, device: torch.device = CPU) -> Classifier:
        """The model in the folder: safetensors weights, local files, no code of its own. float32 on any device.

        Raises SafetyError: also when `labels` is empty or has one that the model does not know.
        """
        with _loading(f"The classifier in {folder}"):
            # A path that is not there would be taken for a name on the Hub, and the message would be about the network.
            if not (folder / "config.json").is_file():
                raise SafetyError(f"The classifier must be `nudenet` or a folder with a config.json, but is {str(folder)!r}.")
            model = _whole(AutoModelForImageClassification, folder, dtype=torch.float32, trust_remote_code=False)
            known = sorted(model.config.id2label.values())
            if not labels or not set(labels) <= set(known):
                raise SafetyError(
                    f"The labels must be among those of the classifier in {folder} ({', '.join(known)}), "
                    f"but are {', '.join(labels) or 'none'}."
                )
            return cls(model.to(device), _processor(folder), labels, threshold)

    @torch.inference_mode()
    def judge(self, picture: Picture) -> Verdict | None:
        pixels = self._processor(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
        logits = self._model(pixel_values=pixels.to(self._model.device)).logits[0].float().cpu()  # (labels of the model,)
        # As the library's own pipeline has it: labels that exclude each other share one probability, others have one each.
        alone = self._model.config.problem_type == "multi_label_classification" or len(logits) == 1
        scores = logits.sigmoid() if alone else logits.softmax(0)
        index = max(self._wanted, key=lambda each: _number(float(scores[each]), "classifier"))
        score = float(scores[index])
        label = self._model.config.id2label[index]
        return Verdict("classifier", label, round(score, 4)) if score >= self._threshold else None


class Nudity:
    """NudeNet's packaged detector, on the CPU. It reports nothing below 0.25, so a lower threshold is as good as that."""

    def __init__(self, detector: Any, labels: tuple[str, ...] = EXPOSED, threshold: float = 0.5):
        self._detector = detector
        self._labels = labels
        self._threshold = threshold

    @classmethod
    def load(cls, labels: tuple[str, ...] = EXPOSED, threshold: float = 0.5) -> Nudity:
        """The detector, looking for these labels. Raises SafetyError: also for a label that it does not know."""
        with _loading("NudeNet (pip install nudenet)"):
            # Imported here: it brings OpenCV and ONNX, which nobody needs who leaves this layer off.
            module = importlib.import_module("nudenet.nudenet")
            onnx = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
            # By its name as text: in a class, Python would mangle `module.__labels`.
            known = sorted(getattr(module, "__labels"))
            if not labels or not set(labels) <= set(known):
                raise SafetyError(
                    f"The labels must be among NudeNet's ({', '.join(known)}), but are {', '.join(labels) or 'none'}."
                )
            # onnxruntime's errors have no common class below Exception.
            faults = tuple(each for each in vars(onnx).values() if isinstance(each, type) and issubclass(each, Exception))
            try:
                detector = module.NudeDetector()
            except faults as error:
                raise RuntimeError(str(error)) from error
            return cls(detector, labels, threshold)

    def judge(self, picture: Picture) -> Verdict | None:
        # (height, width, 3) of bytes, blue first: what OpenCV would have read from a file. It wants no negative strides.
        pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])
        found = [(float(each["score"]), str(each["class"])) for each in self._detector.detect(pixels)]
        score, label = max((each for each in found if each[1] in self._labels), default=(0.0, ""))
        return Verdict("nudenet", label, round(score, 4)) if score >= self._threshold else None


class ModelChecker:
    """The safety checker that a Stable Diffusion folder brings along: 17 unnamed concepts, each with a limit of its own."""

    def __init__(self, model: Any, processor: Any):
        self._model = model
        self._processor = processor

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> ModelChecker:
        """The checker of the model in the folder: its safety_checker/ and feature_extractor/. Raises SafetyError."""
        weights = folder / "safety_checker"
        if not weights.is_dir():
            raise SafetyError(
                f"The model in {folder} has no safety_checker/ folder: switch the checker off, or use a classifier."
            )
        with _loading(f"The safety checker in {weights}"):
            half = (weights / "model.fp16.safetensors").is_file()
            variant = "fp16" if half and (dtype == torch.float16 or not (weights / "model.safetensors").is_file()) else None
            model = _whole(StableDiffusionSafetyChecker, weights, dtype=dtype, variant=variant)
            return cls(model.to(device), _processor(folder / "feature_extractor"))

    @torch.inference_mode()
    def judge(self, picture: Picture) -> Verdict | None:
        pixels = self._processor(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
        margins = self.margins(pixels)
        worst = max(range(len(margins)), key=lambda each: _number(margins[each], "checker"))
        return Verdict("checker", f"concept {worst}", margins[worst]) if margins[worst] > 0 else None

    @torch.inference_mode()
    def margins(self, pixels: torch.Tensor) -> list[float]:
        """How far one picture's cosine with each concept is above the concept's limit. `pixels`: (1, 3, height, width).

        The same sums as the model's own forward(), which keeps them to itself and returns a black picture.
        """
        model = self._model
        pooled = model.vision_model(pixels.to(model.device, model.dtype))[1]  # (1, hidden)
        embedding = functional.normalize(model.visual_projection(pooled))  # (1, projection)

        def over(embeds: torch.Tensor, limits: torch.Tensor) -> list[float]:
            cosines = (embedding @ functional.normalize(embeds).T)[0]  # (concepts,)
            return [float(cosine) - float(limit) for cosine, limit in zip(cosines.cpu(), limits.cpu(), strict=True)]

        adjustment = 0.0
        for margin in over(model.special_care_embeds, model.special_care_embeds_weights):
            if round(margin + adjustment, 3) > 0:
                adjustment = 0.01  # what asks for special care lowers every other limit
        return [round(margin + adjustment, 3) for margin in over(model.concept_embeds, model.concept_embeds_weights)]


class Safety:
    """The layers that are switched on, asked in turn."""

    def __init__(self, layers: tuple[Layer, ...], action: str):
        self._layers = layers
        self._action = action

    @property
    def is_on(self) -> bool:
        """Whether any layer looks at the pictures."""
        return bool(self._layers)

    @classmethod
    def load(cls, options: SafetyOptions, model_folder: Path | None, device: torch.device, dtype: torch.dtype) -> Safety:
        """The layers of the options, each tried once. `device` and `dtype` are the pipeline's.

        Raises SafetyError, whose sentence says what to change.
        """
        if options.action not in ACTIONS:
            raise SafetyError(f"The action must be withhold or blur, but is {options.action!r}.")
        if not 0 < options.threshold <= 1:
            raise SafetyError(f"`--classifier-threshold` must be above 0 and at most 1, but is {options.threshold}.")
        layers: list[Layer] = []
        if options.checker:
            if model_folder is None:
                raise SafetyError("The checker comes with a model, but there is no model folder: switch it off.")
            layers.append(ModelChecker.load(model_folder, device, dtype))
        if options.classifier == "nudenet":
            layers.append(Nudity.load(options.labels or EXPOSED, options.threshold))
        elif options.classifier:
            folder = Path(options.classifier).expanduser()
            layers.append(Classifier.load(folder, options.labels, options.threshold, device))
        for layer in layers:
            # A processor that does not fit its model, or a weight that is NaN, should say so now.
            with _loading(f"The {type(layer).__name__} layer"):
                layer.judge(Image.new("RGB", (64, 64), (128, 128, 128)))
        return cls(tuple(layers), options.action)

    def check(self, picture: Picture) -> tuple[Picture | None, Verdict | None]:
        """The picture itself and None when no layer objects; else None or a blurred one, and the first layer's verdict.

        Raises SafetyError when a layer cannot tell: the picture must not be shown then.
        """
        for layer in self._layers:
            if verdict := layer.judge(picture):
                return (blurred(picture) if self._action == "blur" else None), verdict
        return picture, None


def blurred(picture: Picture) -> Picture:
    """A picture of the same size that holds at most 16 by 16 means of the given one, smoothed."""
    long = max(picture.size)
    side = max(1, min(BLUR_SIDE, long // 8))
    width, height = (max(1, round(each * side / long)) for each in picture.size)
    # The box filter takes every pixel's mean: what a cell showed in detail is lost before anything is scaled up again.
    coarse = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    result = coarse.resize(picture.size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(long / side))
    result.info = {}  # a thumbnail or a text of the original does not travel along
    return result


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn what the libraries raise in the block into a SafetyError: one sentence that begins with `what`."""
    try:
        yield
    except SafetyError:
        raise
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__  # some have pages of advice
        raise SafetyError(f"{what} could not be loaded: {reason.rstrip('.')}.") from error


def _whole(kind: Any, folder: Path, **more: Any) -> Any:
    """A model from a local folder with every one of its weights. Raises SafetyError or whatever the library raises."""
    model, report = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **more)
    # The library fills gaps with random numbers and logs a line: a filter made so would pass, or flag, by chance.
    if gaps := sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]})):
        raise SafetyError(f"The weights in {folder} must be whole, but {len(gaps)} are missing: {gaps[0]} is the first.")
    return model.eval()


def _processor(folder: Path) -> Any:
    """The image processor that the folder's preprocessor_config.json names, in its Pillow form: no torchvision."""
    if not (folder / "preprocessor_config.json").is_file():
        raise SafetyError(f"The folder {folder} must have a preprocessor_config.json: how the model wants its pictures.")
    return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)


def _number(score: float, layer: str) -> float:
    if not math.isfinite(score):
        raise SafetyError(f"The {layer}'s score must be a number, but is {score}: the picture cannot be judged.")
    return score
