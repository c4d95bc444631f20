"""The settings that other tools leave in their pictures, read as fields of a job: as far as they can be, and the rest is named.

| tool | where | what |
|---|---|---|
| sdspool, A1111, Forge | PNG text `parameters`; JPEG and WebP: EXIF UserComment | A1111's lines (infotext.py) |
| SwarmUI | `parameters`, JSON with `sui_image_params` | its parameters |
| InvokeAI | `invokeai_metadata`; before 3.0 `sd-metadata` | its parameters |
| ComfyUI | `prompt`, the graph | the first sampler found, and what leads to it |

Contracts: the tools' own writers, as of A1111 1.10, SwarmUI 0.9, InvokeAI 5, ComfyUI 0.3. Nothing is judged here: a value that
no job may have is for the rules of a job to name. The file is a stranger's: png.py bounds what is read of it.
A file that begins as JSON does is a job file, or the record of one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from spooler import infotext, pictures, png, samplers
from spooler.job import MAX_SEED, Job
from spooler.mistakes import JobError, Mistake, show
from spooler.strict_json import parse_object

Fields = dict[str, Any]
#: Nodes that are followed from a ComfyUI sampler, so that a ring of links ends.
MOST_NODES = 200
#: Names of what was not understood: a page shows them, so not thousands.
MOST_LEFT = 30
#: Characters of the text in a JPEG or WebP.
MOST_TEXT = 1 << 20


@dataclass(frozen=True)
class Metadata:
    """What a picture tells: the tool that wrote it, fields of a job, and the names of what could not be taken over."""

    tool: str
    fields: Fields
    left_out: tuple[str, ...] = ()


def read(data: bytes) -> Metadata:
    """The settings in a picture or a job file. Raises JobError for one that tells none, is not whole, or is too large."""
    if data[:1] == b"{" or data[:4] == b"\xef\xbb\xbf{":
        return _of_record(parse_object(data, "The file"))
    if data[:3] == b"\xff\xd8\xff" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return _of_comment(data)
    for keyword, of in _READERS:
        text, keywords = png.read_text(data, keyword)
        if text is not None and (found := of(text)):
            return found
    has = f"has only {', '.join(map(show, keywords[:8]))}" if keywords else "has no text at all"
    known = ", ".join(keyword for keyword, _ in _READERS)
    raise JobError(Mistake("", f"The picture must tell how it was made, in one of the texts {known}, but it {has}."))


def _of_comment(data: bytes) -> Metadata:
    """The settings that A1111 and its heirs leave in a JPEG or WebP."""
    try:
        text = pictures.comment(data)
    except pictures.InputError as error:
        raise JobError(Mistake("", str(error))) from error
    if text is not None and len(text) > MOST_TEXT:
        raise JobError(Mistake("", f"The text in a picture must have at most {MOST_TEXT} characters, but has {len(text)}."))
    if text is None or (found := _of_parameters(text.strip("\0"))) is None:
        has = "has none" if text is None else "there is something else"
        raise JobError(Mistake("", f"The picture must tell how it was made, in the UserComment of its EXIF, but {has}."))
    return found


def _of_record(record: Fields) -> Metadata:
    fields = record["parameters"] if isinstance(record.get("parameters"), dict) else record
    known = {name: value for name, value in fields.items() if name in Job.model_fields and value is not None}
    left = [name for name in fields if name not in Job.model_fields]
    if not known:
        raise JobError(Mistake("", "The file must be a job or the record of one, but it has no field of a job."))
    return Metadata("sdspool", known, tuple(left[:MOST_LEFT]))


# -- A1111 and its heirs -------------------------------------------------------------------------------------------------


def _of_parameters(text: str) -> Metadata | None:
    if text.lstrip().startswith("{"):
        return _of_swarm(text)
    fields = infotext.parse(text)
    *_, settings = infotext.split(text)
    version = settings.get("Version", "")
    tool = "sdspool" if version.startswith("sdspool ") else "Forge" if version.startswith("f") else "A1111"
    left = [key for key in settings if key not in infotext.KEYS and not key.startswith("ControlNet")]
    if "Denoising strength" in settings and "strength" in fields:
        left.append("the picture it started from")
    if "ControlNet 0" in settings:
        left.append("ControlNet and its picture")
    return Metadata(tool, _seeded(fields, left), tuple(left[:MOST_LEFT]))


# -- SwarmUI -----------------------------------------------------------------------------------------------------------------


_SWARM = {
    "prompt": "prompt",
    "negativeprompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfgscale": "guidance_scale",
    "width": "width",
    "height": "height",
    "variationseed": "variation_seed",
    "variationseedstrength": "variation_strength",
    "images": "count",
    "batchsize": "count",
}
_SWARM_QUIET = frozenset({"swarm_version", "date", "generation_time", "aspectratio", "automaticvae", "loras", "loraweights"})


def _of_swarm(text: str) -> Metadata | None:
    whole = _object(text)
    given = whole.get("sui_image_params") if whole else None
    if not isinstance(given, dict):
        return None
    fields, left = _renamed(given, _SWARM, _SWARM_QUIET | {"model", "sampler", "scheduler", "vae", "clipstopatlayer"})
    fields |= _model(given.get("model"))
    fields |= _sampler(given.get("sampler"), given.get("scheduler"), left)
    if isinstance(vae := given.get("vae"), str) and vae not in ("", "None", "Automatic"):
        fields["vae"] = infotext.stem(vae)
    stop = given.get("clipstopatlayer")
    if isinstance(stop, int) and stop < 0:
        fields["clip_skip"] = -stop
    names, weights = given.get("loras"), given.get("loraweights")
    if isinstance(names, list):
        numbers = weights if isinstance(weights, list) and len(weights) == len(names) else [1.0] * len(names)
        fields["loras"] = [_lora(name, weight) for name, weight in zip(names, numbers, strict=True) if isinstance(name, str)]
    return Metadata("SwarmUI", _seeded(fields, left), tuple(left[:MOST_LEFT]))


# -- InvokeAI ----------------------------------------------------------------------------------------------------------------


_INVOKE = {
    "positive_prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
_INVOKE_QUIET = frozenset(
    {
        "app_version",
        "generation_mode",
        "rand_device",
        "cfg_rescale_multiplier",
        "positive_style_prompt",
        "negative_style_prompt",
    }
    | {"seamless_x", "seamless_y", "canvas_v2_metadata", "regions", "ref_images", "metadata_version"}
)


def _of_invoke(text: str) -> Metadata | None:
    given = _object(text)
    if not given:
        return None
    quiet = _INVOKE_QUIET | {"model", "scheduler", "vae", "clip_skip", "loras", "strength"}
    quiet |= {"refiner_model", "refiner_start"}
    fields, left = _renamed(
        {name: value for name, value in given.items() if value not in (None, [], {}, "", 0, False)}, _INVOKE, quiet
    )
    fields |= _model(_named(given.get("model")))
    fields |= _invoke_sampler(given.get("scheduler"), left)
    if vae := _named(given.get("vae")):
        fields["vae"] = vae
    if isinstance(skip := given.get("clip_skip"), int) and skip > 0:
        fields["clip_skip"] = skip + 1  # Invoke counts the layers that are left out
    if isinstance(given.get("loras"), list):
        found = [
            (_named(each.get("model") or each.get("lora")), each.get("weight"))
            for each in given["loras"]
            if isinstance(each, dict)
        ]
        if loras := [_lora(name, weight) for name, weight in found if name]:
            fields["loras"] = loras
    if refiner := _named(given.get("refiner_model")):
        fields["refiner"] = {"model": refiner}
        if isinstance(start := given.get("refiner_start"), int | float):
            fields["refiner"]["switch_at"] = start
    if "img2img" in str(given.get("generation_mode")) or "inpaint" in str(given.get("generation_mode")):
        left.append("the picture it started from")
        if isinstance(strength := given.get("strength"), int | float):
            fields["strength"] = strength
    return Metadata("InvokeAI", _seeded(fields, left), tuple(left[:MOST_LEFT]))


def _of_old_invoke(text: str) -> Metadata | None:
    whole = _object(text)
    given = whole.get("image") if whole else None
    if not whole or not isinstance(given, dict):
        return None
    prompts = given.get("prompt")
    if isinstance(prompts, list):
        pieces = [str(each["prompt"]) for each in prompts if isinstance(each, dict) and "prompt" in each]
        words = " ".join(pieces)
    else:
        words = str(prompts or "")
    # It wrote what to steer away from in square brackets into the prompt.
    negative = ", ".join(re.findall(r"\[([^\[\]]*)\]", words))
    names = {"seed": "seed", "steps": "steps", "cfg_scale": "guidance_scale", "width": "width", "height": "height"}
    fields, left = _renamed(given, names, frozenset({"prompt", "sampler", "type", "hires_fix", "variations", "postprocessing"}))
    # Cut at the brackets, then the ends: one pattern for a bracket and the spaces around it takes hours with a text of spaces.
    prompt = " ".join(piece.strip() for piece in re.split(r"\[[^\[\]]*\]", words)).strip()
    fields |= {"prompt": prompt} | ({"negative_prompt": negative} if negative else {})
    fields |= _model(whole.get("model_weights")) | _sampler(given.get("sampler"), None, left)
    return Metadata("InvokeAI", _seeded(fields, left), tuple(left[:MOST_LEFT]))


def _named(value: Any) -> str:
    """The name of a model as Invoke writes it: an object with it under one of two names."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("model_name")
    return value if isinstance(value, str) else ""


def _invoke_sampler(name: Any, left: list[str]) -> Fields:
    if not isinstance(name, str) or not name:
        return {}
    karras = name.endswith("_k")
    return _sampler(name.removesuffix("_k"), "karras" if karras else None, left)


# -- ComfyUI -----------------------------------------------------------------------------------------------------------------


def _of_comfy(text: str) -> Metadata | None:
    graph = {name: node for name, node in (_object(text) or {}).items() if isinstance(node, dict) and "class_type" in node}
    if not graph:
        return None
    samplers_found = [node for node in graph.values() if str(node["class_type"]) in ("KSampler", "KSamplerAdvanced")]
    if not samplers_found:
        kinds = sorted({str(node["class_type"])[:40] for node in graph.values()})
        return Metadata("ComfyUI", {}, ("a graph without a KSampler", *kinds[: MOST_LEFT - 1]))
    node = samplers_found[0]
    left: list[str] = ["further samplers"] if len(samplers_found) > 1 else []
    inputs = _inputs(node)
    fields: Fields = {}
    for name, field in (("seed", "seed"), ("noise_seed", "seed"), ("steps", "steps"), ("cfg", "guidance_scale")):
        value = _value(graph, inputs.get(name))
        if isinstance(value, int | float):
            fields[field] = value
    fields |= _sampler(inputs.get("sampler_name"), inputs.get("scheduler"), left)
    used = {id(node)}
    for side, field in (("positive", "prompt"), ("negative", "negative_prompt")):
        texts = []
        for each in _upstream(graph, inputs.get(side), "CLIPTextEncode"):
            used.add(id(each))
            given = _inputs(each)
            words = [_value(graph, given.get(key)) for key in ("text", "text_g", "text_l") if key in given]
            texts += [word for word in words if isinstance(word, str) and word.strip()][:1]
        if texts:
            fields[field] = ", ".join(texts)
    loras = []
    for each in _upstream(graph, inputs.get("model"), "LoraLoader", "Checkpoint", "UNETLoader", through=True):
        used.add(id(each))
        given, kind = _inputs(each), str(each["class_type"])
        if kind.startswith("LoraLoader") and isinstance(given.get("lora_name"), str):
            loras.append(_lora(given["lora_name"], given.get("strength_model")))
        else:
            fields |= _model(given.get("ckpt_name") or given.get("unet_name"))
    if loras:
        fields["loras"] = loras[::-1]  # the first that is laid over the model is the last that is met on the way to it
    for each in _upstream(graph, inputs.get("latent_image"), "EmptyLatentImage", "EmptySD3LatentImage", "VAEEncode"):
        used.add(id(each))
        given = _inputs(each)
        if str(each["class_type"]).startswith("VAEEncode"):
            left.append("the picture it started from")
            if isinstance(denoise := inputs.get("denoise"), int | float):
                fields["strength"] = denoise
            continue
        for name, field in (("width", "width"), ("height", "height"), ("batch_size", "count")):
            if isinstance(number := _value(graph, given.get(name)), int):
                fields[field] = number
    for each in _upstream(graph, {"link": "CLIPSetLastLayer"}, "CLIPSetLastLayer"):
        used.add(id(each))
        if isinstance(stop := _inputs(each).get("stop_at_clip_layer"), int) and stop < 0:
            fields["clip_skip"] = -stop
    plain = ("VAEDecode", "SaveImage", "PreviewImage", "VAELoader", "CLIPLoader", "LoadImage", "PrimitiveNode", "Note")
    left += sorted(
        {str(each["class_type"])[:40] for each in graph.values() if id(each) not in used} - set(plain) - {"KSampler"}
    )
    return Metadata("ComfyUI", _seeded(fields, left), tuple(left[:MOST_LEFT]))


def _inputs(node: Fields) -> Fields:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _node(graph: Fields, link: Any) -> Fields | None:
    """The node that an input leads to: a link is [id, number of its output]."""
    if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str):
        node = graph.get(link[0])
        return node if isinstance(node, dict) else None
    return None


def _value(graph: Fields, value: Any) -> Any:
    """A value, or what the node that it is linked to has: a primitive, a seed, a text."""
    node = _node(graph, value)
    if node is None:
        return value
    return next((each for each in _inputs(node).values() if isinstance(each, str | int | float)), None)


def _upstream(graph: Fields, link: Any, *kinds: str, through: bool = False) -> Iterator[Fields]:
    """The nodes of those kinds (the beginnings of their names) against the flow of the links, the nearest first.

    Each ends its way, unless `through`. A link that is no list but {"link": kind} is any node of that kind.
    """
    if isinstance(link, dict):
        yield from (node for node in graph.values() if str(node["class_type"]) == link.get("link"))
        return
    waiting, seen = [link], 0
    met: set[int] = set()
    while waiting and seen < MOST_NODES:
        node = _node(graph, waiting.pop(0))
        seen += 1
        if node is None or id(node) in met:
            continue
        met.add(id(node))
        wanted = str(node["class_type"]).startswith(kinds)
        if wanted:
            yield node
        if not wanted or through:
            waiting += [value for value in _inputs(node).values() if isinstance(value, list)]


# -- what they have in common --------------------------------------------------------------------------------------------


#: k-diffusion's names as the node tools write them, where they are not an alias of ours with "k_" before it.
_SAMPLERS = {
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_3m_sde_gpu": "DPM++ 3M SDE",
    "dpm_2": "DPM2",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "euler_a": "Euler a",
    "dpmpp_sde": "",
}
_SCHEDULES = {"normal": "Automatic", "karras": "Karras", "exponential": "Exponential", "sgm_uniform": "SGM Uniform"}


def _sampler(name: Any, schedule: Any, left: list[str]) -> Fields:
    """The sampler and its schedule by our names; what we have none for is named in `left`."""
    fields: Fields = {}
    if isinstance(name, str) and name:
        known = _SAMPLERS.get(name)
        found = samplers.find(known if known is not None else name) or samplers.find(f"k_{name}")
        if found:
            fields["sampler"] = found.name
        else:
            left.append(f"sampler {name[:40]}")
    if isinstance(schedule, str) and schedule:
        ours = _SCHEDULES.get(schedule)
        sampler = samplers.find(fields.get("sampler", ""))
        if ours and sampler and ours in sampler.schedules:
            fields["scheduler"] = ours
        elif ours != "Automatic":
            left.append(f"schedule {schedule[:40]}")
    return fields


def _object(text: str) -> Fields | None:
    """The JSON object in a text of at most the mebibyte that png.py lets through; None when it is none.

    Not strictly: ComfyUI writes NaN for what it cannot write, and that is no reason to know nothing of the rest.
    """
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(text: str) -> float | None:
    return number if math.isfinite(number := float(text)) else None


def _renamed(given: Fields, names: dict[str, str], quiet: frozenset[str]) -> tuple[Fields, list[str]]:
    """The values under our names, and the names of those that nobody looks at."""
    fields = {names[name]: value for name, value in given.items() if name in names and isinstance(value, str | int | float)}
    return fields, [name[:40] for name in given if name not in names and name not in quiet]


def _model(name: Any) -> Fields:
    return {"model": infotext.stem(name)} if isinstance(name, str) and name else {}


def _lora(name: str, weight: Any) -> Fields:
    try:
        number = float(weight) if isinstance(weight, str | int | float) else 1.0
    except (ValueError, OverflowError):
        number = 1.0
    return {"name": infotext.stem(name), "weight": number if math.isfinite(number) else 1.0}


def _seeded(fields: Fields, left: list[str]) -> Fields:
    """The fields without a seed that is larger than ours may be: other tools have 64 bits, and cut off it would be another."""
    for name in ("seed", "variation_seed"):
        if isinstance(seed := fields.get(name), int) and not 0 <= seed <= MAX_SEED:
            del fields[name]
            left.append(f"{name} {seed}")
    return fields


_READERS: tuple[tuple[str, Callable[[str], Metadata | None]], ...] = (
    ("parameters", _of_parameters),
    ("sui_image_params", lambda text: _of_swarm('{"sui_image_params": ' + text + "}")),
    ("invokeai_metadata", _of_invoke),
    ("sd-metadata", _of_old_invoke),
    ("prompt", _of_comfy),
)
