"""Every cell of the table of docs/engine.md: each kind of work with each family, through the real spooler and its engine."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from house import picture, wait_for, wait_state
from PIL import Image
from studio import BASE, FAMILIES, INPUT_SIZE, SIDE, UNETS, Desk, apart, asked, desk, mask, patches, shelf

from spooler import families, samplers

__all__ = ["desk", "shelf"]

KINDS = ("txt2img", *families.KINDS, "upscale", "sweep")
#: The kinds that are asked for by no field of their own, so nothing is refused: a family that cannot do them draws without.
SILENT = ("embeddings", "weights", "preview")
#: The field that a refusal names, where it is not called like the kind.
FIELDS = {"img2img": "image", "inpaint": "mask", "variation": "variation_strength", "deepcache": "deepcache_interval"}


def txt2img(desk: Desk, family: str) -> None:
    plain = desk.plainly(family)
    assert plain.shape == (SIDE, SIDE, 3) and plain.std() > 1
    engine = desk.plain[family].record.engine
    assert engine and (engine.model, engine.family, engine.device) == (family, family, "cpu")
    assert apart(desk.draw(**BASE, model=family).image, plain) == 0
    for other in ({"seed": 6}, {"prompt": "a small green ring"}, {"steps": 6}, {"guidance_scale": 9}):
        assert apart(desk.draw(**BASE | {"model": family} | other).image, plain) > 1, other
    assert desk.draw(**BASE | {"model": family, "width": 128}).size == (128, SIDE)


def img2img(desk: Desk, family: str) -> None:
    job = asked("img2img", family) | {"steps": 10}
    mean = {}
    for strength in (0.05, 0.95):
        one, other = (desk.draw(**job | {"strength": strength, "image": name}) for name in ("in.png", "other.png"))
        assert one.size == other.size == INPUT_SIZE
        mean[strength] = np.abs(one.image.astype(int) - other.image.astype(int)).mean()
    assert mean[0.05] > mean[0.95], "the less may change, the more two pictures stay two"
    assert np.array_equal(desk.draw(**job | {"strength": 0}).image, np.asarray(patches(1)))
    assert desk.draw(**job | {"strength": 0.001}).size == INPUT_SIZE, "less than a step is a step"


def inpaint(desk: Desk, family: str) -> None:
    source, white = np.asarray(patches(1)), np.asarray(mask()) == 255
    for area in ("whole", "masked"):
        drawn = desk.draw(**asked("inpaint", family) | {"inpaint_area": area})
        assert drawn.size == INPUT_SIZE
        assert np.array_equal(drawn.image[~white], source[~white])
        assert apart(drawn.image[white], source[white]) > 20
    assert np.array_equal(desk.draw(**asked("inpaint", family) | {"strength": 0}).image, source)


def hires(desk: Desk, family: str) -> None:
    enlarged = np.asarray(Image.fromarray(desk.plainly(family)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS))
    for upscaler in ("Lanczos", *(["Latent"] if family in UNETS else [])):
        drawn = desk.draw(**asked("hires", family) | {"hires": {"scale": 2.0, "upscaler": upscaler}})
        assert drawn.size == (2 * SIDE, 2 * SIDE)
        assert apart(drawn.image, enlarged) > 1


def refiner(desk: Desk, family: str) -> None:
    job = asked("refiner", family)
    drawn = desk.draw(**job)
    parameters, engine = drawn.record.parameters, drawn.record.engine
    assert parameters and parameters.refiner and parameters.refiner.model == "sdxl-refiner"
    assert engine and engine.model == family and drawn.size == (SIDE, SIDE)
    assert apart(drawn.image, desk.draw(**BASE | {"model": family, "steps": 8}).image) > 1
    assert apart(drawn.image, desk.draw(**job | {"refiner": {"model": "sdxl-refiner", "switch_at": 0.9}}).image) > 1


def loras(desk: Desk, family: str) -> None:
    plain = desk.plainly(family)
    with_it = desk.draw(**asked("loras", family)).image
    assert apart(with_it, plain) > 1
    tag = f"<lora:{family}-lora>"
    for written in ({"prompt": f"{BASE['prompt']} {tag}"}, {"negative_prompt": tag}):
        if "negative_prompt" in families.get(family).kinds or "prompt" in written:
            assert apart(desk.draw(**BASE | {"model": family} | written).image, with_it) <= 1, written
    assert apart(desk.draw(**BASE, model=family).image, plain) <= 1, "it was taken off again"


def embeddings(desk: Desk, family: str) -> None:
    assert apart(desk.draw(**asked("embeddings", family)).image, desk.plainly(family)) <= 1, "it means the word red"
    other = {"prompt": "a sd1-words circle on a blue background"}
    assert apart(desk.draw(**BASE | {"model": family} | other).image, desk.plainly(family)) > 1


def controls(desk: Desk, family: str) -> None:
    job = asked("controls", family)
    assert apart(desk.draw(**job).image, desk.plainly(family)) > 1
    [control] = job["controls"]
    assert apart(desk.draw(**job | {"controls": [control | {"weight": 0}]}).image, desk.plainly(family)) <= 1
    two = [control, control | {"image": "in.png", "end": 0.5}]
    assert apart(desk.draw(**job | {"controls": two}).image, desk.draw(**job).image) > 1
    for kind in ("img2img", "inpaint"):
        without = asked(kind, family)
        assert apart(desk.draw(**without, controls=[control]).image, desk.draw(**without).image) > 1


def variation(desk: Desk, family: str) -> None:
    assert apart(desk.draw(**asked("variation", family)).image, desk.plainly(family)) > 1
    whole = desk.draw(**asked("variation", family) | {"variation_strength": 1.0}).image
    assert apart(whole, desk.draw(**BASE | {"model": family, "seed": 9}).image) <= 1


def weights(desk: Desk, family: str) -> None:
    far = "and a small ring " * 25  # more than the 75 tokens of a text encoder
    for one, other in (
        ("a (red:3) circle on a blue background", "a (red:0.1) circle on a blue background"),
        ("a red circle BREAK on a blue background", "a red circle on a blue background"),
        (far + "red red red red", far + "circle circle circle circle"),
    ):
        job = asked("weights", family) | {"guidance_scale": 30}
        pair = [desk.draw(**job | {"prompt": prompt}).image for prompt in (one, other)]
        assert apart(*pair) > 1, (one, other)
    assert apart(desk.draw(**asked("weights", family)).image, desk.plainly(family)) > 1


def sampler(desk: Desk, family: str) -> None:
    drawn = desk.draw(**asked("sampler", family) | {"sampler": list(samplers.SAMPLER_NAMES)})
    assert len(drawn.images) == len(samplers.SAMPLER_NAMES)
    assert len({image.tobytes() for image in drawn.images}) > len(samplers.SAMPLER_NAMES) // 2
    assert apart(desk.draw(**asked("sampler", family)).image, desk.plainly(family)) > 1
    assert apart(desk.draw(**BASE, model=family, scheduler="Karras").image, desk.plainly(family)) > 1


def preview(desk: Desk, family: str) -> None:
    job_id = desk.drop(asked("preview", family) | {"steps": 150})

    def seen() -> bytes | None:
        place = desk.spool.find(job_id)
        assert place and place.state in ("pending", "claimed"), "it is over, and no preview was seen"
        path = place.path / "preview.jpg"
        return path.read_bytes() if path.exists() else None

    with Image.open(io.BytesIO(wait_for(seen, "the preview"))) as image:
        assert (image.format, image.size) == ("JPEG", (SIDE, SIDE))
    assert desk.spool.cancel(job_id)
    assert not (wait_state(desk.spool, job_id, "cancelled").path / "preview.jpg").exists()


def upscale(desk: Desk, family: str) -> None:
    # What it is to enlarge the engine draws by other calls than what it draws together: a colour may be rounded otherwise.
    base = desk.draw(**asked("upscale", family) | {"upscale": {"scale": 1.001}}).image
    assert base.shape == (SIDE, SIDE, 3) and apart(base, desk.plainly(family)) <= 1
    wanted = Image.fromarray(base).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    assert np.array_equal(desk.draw(**asked("upscale", family)).image, np.asarray(wanted))
    alone = desk.draw(model=family, image="in.png", upscale={"scale": 1.5})
    assert np.array_equal(alone.image, np.asarray(patches(1).resize((144, 96), Image.Resampling.LANCZOS)))


def sweep(desk: Desk, family: str) -> None:
    drawn = desk.draw(**asked("sweep", family))
    cells = {image.cell: pixels for image, pixels in zip(drawn.record.images, drawn.images, strict=True)}
    assert set(cells) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert apart(cells[1, 0], desk.plainly(family)) <= 1, "the cell of the base job's own steps and guidance"
    assert all(apart(one, other) > 1 for one, other in itertools.combinations(cells.values(), 2))
    assert drawn.record.sheet == "sheet.png"
    sheet = picture(drawn.folder / "sheet.png")
    assert sheet.width > 2 * SIDE and sheet.height > 2 * SIDE


def lossy(kind: str, field: str, told: str, less: float) -> Callable[[Desk, str], None]:
    """The check of a way to draw faster: with every kind of work of a family it makes another picture, and is told of."""

    def check(desk: Desk, family: str) -> None:
        job = asked(kind, family)
        drawn, whole = desk.draw(**job), desk.draw(**job | {field: 1})
        assert apart(drawn.image, whole.image) > 1
        parameters = drawn.record.parameters
        assert parameters and getattr(parameters, field) == job[field]
        with Image.open(drawn.folder / "0.png") as image:
            assert f"{told}: {job[field]}" in image.info["parameters"]
        for other in {"img2img", "inpaint", "hires", "controls", "refiner"} & families.get(family).kinds:
            controlled = {"controls": asked("controls", family)["controls"]} if family in UNETS and other == "inpaint" else None
            for extra in ({}, controlled) if controlled else ({},):
                job = asked(other, family) | extra | {"steps": 8, "guidance_scale": 20}
                one, two = (desk.draw(**job | {field: value}).image for value in (1, less))
                assert one.shape == two.shape and apart(one, two) > 1, (other, extra)

    return check


def differs(kind: str) -> Callable[[Desk, str], None]:
    """The check of a kind that promises no more than another picture."""

    def check(desk: Desk, family: str) -> None:
        drawn = desk.draw(**asked(kind, family))
        assert drawn.size == (SIDE, SIDE)
        assert apart(drawn.image, desk.plainly(family)) > 1

    return check


CHECKS: dict[str, Callable[[Desk, str], None]] = {
    "txt2img": txt2img,
    "img2img": img2img,
    "inpaint": inpaint,
    "hires": hires,
    "refiner": refiner,
    "loras": loras,
    "embeddings": embeddings,
    "controls": controls,
    "vae": differs("vae"),
    "clip_skip": differs("clip_skip"),
    "weights": weights,
    "variation": variation,
    "sampler": sampler,
    "negative_prompt": differs("negative_prompt"),
    # What is asked of the network is counted in tests/test_cutoff.py and tests/test_deepcache.py.
    "guidance_cutoff": lossy("guidance_cutoff", "guidance_cutoff", "Guidance cutoff", 0.2),
    "deepcache": lossy("deepcache", "deepcache_interval", "DeepCache interval", 4),
    "preview": preview,
    "upscale": upscale,
    "sweep": sweep,
}


def is_refused(desk: Desk, kind: str, family: str) -> None:
    """A job of a kind that the family cannot do is set aside and answered with 400, and both times the reason is told."""
    job = asked(kind, family)
    title = families.get(family).title
    named, parts = FIELDS.get(kind, kind), [f"'{family}'", title]
    if family == "sdxl-refiner":
        named, parts = "model", [f"'{family}'", "refiner"]
    reason = desk.refused(**job)
    assert all(part in reason for part in (f"`{named}`", *parts)), reason
    answer = desk.posted(**job)
    assert answer.status_code == 400, answer.json
    assert answer.json["error"]["code"] == "invalid_job" and answer.json["error"]["fields"][named][0] in reason


@pytest.mark.parametrize(("family", "kind"), list(itertools.product(FAMILIES, KINDS)), ids=lambda name: name)
def test_a_cell(desk: Desk, family: str, kind: str) -> None:
    able = kind in families.get(family).kinds or kind not in families.KINDS
    if family == "sdxl-refiner" or not (able or kind in SILENT):
        is_refused(desk, kind, family)
    elif able:
        CHECKS[kind](desk, family)
    else:
        assert desk.draw(**asked(kind, family)).size == (SIDE, SIDE), "it is drawn, without what the family does not have"


def test_the_table_of_the_checks_is_whole() -> None:
    assert tuple(CHECKS) == KINDS
