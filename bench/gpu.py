"""What do the memory modes, batches, number formats and compiling cost on this GPU, beside what the field says of them?

./run.sh bench gpu [--quick] [--families sd1,sdxl] [--steps N] [--json FILE] [--scratch FOLDER]

    model    full-size SD 1.5, SDXL and SDXL refiner with random weights, from the shipped configs: dense arithmetic takes
             the same time whatever its numbers are. 2, 7 and 6 GB in the scratch folder, removed at the end
    engine   the product's own, in this process (bench/direct.py), made anew for each row's settings
    row      one warm-up, then the median of the repetitions. A row that fails says why, and the rest goes on
    s        GPU work of the job, with torch.cuda.synchronize at both ends: without loading, and without writing the PNGs
    it/s     denoising steps a second, each of the whole batch; without the VAE
    GiB      the most memory that was allocated during the job, weights included

    saturated  jobs of other seeds and prompts that all wait, drawn together as the product draws them, from the first to the
               last file; the GPU's own word how much of the time it was busy stands beside
    one        a job by itself, from its begin to its last file
    restart    from a process that has its libraries to its first picture: load, warm up, draw

Without a GPU the same code runs with tiny models on the CPU, so that it does not rot: those figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import logging
import math
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import diffusers
import numpy as np
import torch
import transformers

from bench.direct import Direct
from spooler import messages
from spooler.engine import device as devices
from spooler.engine import single_file
from spooler.engine.device import JOB_ERRORS
from spooler.engine.memory import GIB

PROMPT = "a red circle on a blue background"
#: What a row may fail with; the rest of the table does not care.
ROW_ERRORS = (*JOB_ERRORS, ImportError, OSError, MemoryError, AssertionError)
#: Standard deviations of the random weights: the next is tried when pictures of the first are not finite.
SCALES = (0.02, 0.005)
TINY = "TINY MODE: no GPU was found. Tiny models were drawn on the CPU; these figures say NOTHING about a GPU."


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    device: str
    sides: Mapping[str, int]  # pixels of a picture, by family
    steps: int
    batches: tuple[int, ...]
    repeats: int
    compile_s: float  # seconds after which a graph is not waited for
    backlog: int  # jobs that wait where a device is saturated

    @property
    def is_tiny(self) -> bool:
        return self.device == "cpu"

    @classmethod
    def chosen(cls, gpu: bool, quick: bool, steps: int | None) -> Scale:
        if gpu:
            batches = (1, 4) if quick else (1, 2, 4, 8, 16)
            sides = {"sd1": 512, "sdxl": 1024}
            return cls("cuda", sides, steps or (10 if quick else 25), batches, 1 if quick else 3, 1200.0, 64)
        batches = (1, 4) if quick else (1, 2, 4)
        return cls("cpu", {"sd1": 64, "sdxl": 64}, steps or 2, batches, 1 if quick else 3, 20.0, 4)


@dataclass(frozen=True)
class Row:
    """One measurement: a job with an engine of these settings."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    how: str = "picture"  # or one more of MEASURES
    against: str = "full"  # the row that its time is compared with


@dataclass
class Figures:
    """What came of a row; None where there is no such figure."""

    family: str
    row: str
    against: str
    gib: float | None = None
    s: float | None = None
    it_s: float | None = None
    images_s: float | None = None
    times: float | None = None  # its seconds over those of `against`
    compile_s: float | None = None
    made_s: float | None = None  # seconds for the engine, where it was made for this row
    busy: float | None = None  # the part of the time in which the GPU was at work
    claim: str = ""
    measured: str = ""
    reason: str = ""  # why there are no figures


def rows(family: str, scale: Scale) -> list[Row]:
    """The rows of a family. Neighbours with the same settings share an engine."""
    # 1. What each trick costs.
    made = [Row("full")]
    made += [Row(f"batch {count}", job={"count": count}, against="batch 1") for count in scale.batches]
    made += [Row(f"vae {name}", how="decode", against="vae float16") for name in ("float16", "float32")]
    made += [Row(mode, {"memory": mode}) for mode in ("tiled", "offload", "group", "sequential")]
    made += [Row(f"attention {name}", {"attention": name}) for name in ("sliced", "xformers")]
    made += [Row(f"weights {name}", {"weights": name}) for name in ("fp8", "int8")]
    made += [Row("float32", {"precision": "float32"})]
    if family == "sdxl":
        made += [Row("base + refiner", job={"refiner": {"model": "sdxl-refiner", "switch_at": 0.8}})]
    made += [Row(f"compile {mode}", {"compile": mode}, how="compile") for mode in ("regional", "full")]
    # 2. What a server comes to.
    if family == "sd1":
        return [*made, _saturated("saturated", 25, scale)]
    bf16 = {"precision": "float32" if scale.is_tiny else "bfloat16"}  # which takes a CPU minutes
    thirty = {"steps": 2 if scale.is_tiny else 30}
    return [
        *made,
        _saturated("saturated bf16", 20, scale, bf16),
        _saturated("saturated fp8", 20, scale, bf16 | {"weights": "fp8"}),
        Row("one bf16", bf16, thirty, "one", "one bf16"),
        Row("one compiled", bf16 | {"compile": "regional"}, thirty, "compile", "one bf16"),
        Row("restart", bf16 | {"batch": "1"}, {"steps": 2 if scale.is_tiny else 20}, "restart", "restart"),
    ]


def _saturated(name: str, steps: int, scale: Scale, settings: Mapping[str, str] | None = None) -> Row:
    together = {"together": str(min(32, scale.backlog))}
    return Row(name, together | dict(settings or {}), {"steps": 2 if scale.is_tiny else steps}, "saturated", name)


def _pace(row: Figures, base: Figures) -> str:
    busy = "?" if row.busy is None else f"{row.busy:.0%}"
    return f"{row.images_s or 0:.2f} images/s, busy {busy}"


def _change(now: float | None, then: float | None) -> str:
    """By how much `now` is more or less than `then`."""
    return f"{100 * (now / then - 1):+.0f} %" if now and then else "?"


#: What the field says of a row, and how the row's figures and those of "full" (for a batch: of "batch 1") read beside it.
CLAIMS: dict[str, tuple[str, Callable[[Figures, Figures], str]]] = {
    "float32": ("fp16 halves memory", lambda row, base: f"fp16: {_change(base.gib, row.gib)} memory"),
    "attention sliced": ("-30 % memory", lambda row, base: f"{_change(row.gib, base.gib)} memory"),
    "attention xformers": ("+20 to 40 % speed", lambda row, base: f"{_change(base.s, row.s)} speed"),
    "offload": ("about 4 GB", lambda row, base: f"{row.gib:.2f} GiB"),
    "sequential": ("under 3 GB at 3x the time", lambda row, base: f"{row.gib:.2f} GiB at {row.times or 0:.1f}x"),
    "batch 4": ("4 images in 1.5x the time of 1", lambda row, base: f"{row.times or 0:.2f}x"),
    "compile full": (
        "+20 to 40 % after 60 to 120 s",
        lambda row, base: f"{_change(base.s, row.s)} speed after {row.compile_s:.0f} s",
    ),
    "saturated": ("4 images/s, one by one, H100", _pace),
    "saturated bf16": ("2.30 images/s, best server", _pace),
    "saturated fp8": ("2.30 images/s, best server", _pace),
    "one bf16": ("1.47 s on H100, TensorRT", lambda row, base: f"{row.s:.2f} s"),
    "one compiled": ("1.47 s on H100, TensorRT", lambda row, base: f"{row.s:.2f} s"),
    "compile regional": ("", lambda row, base: f"{_change(base.s, row.s)} speed after {row.compile_s:.0f} s"),
}


# -- models ------------------------------------------------------------------------------------------------------------------


def build(family: str, folder: Path, scale: float = SCALES[0]) -> Path:
    """A full-size model of the family with random half-precision weights, as a diffusers folder.

    The weights are normal with the standard deviation `scale`, norms are ones and biases zeros: activations stay small.
    They go to the file tensor by tensor, so that no more than the largest of them is in memory (0.25 GB in float32).
    """
    folder.mkdir(parents=True)
    single_file.write_config(folder, family)
    rng = np.random.default_rng(0)
    for part, (library, kind) in _parts(folder):
        with torch.device("meta"):
            if library == "diffusers":
                module = getattr(diffusers, kind).from_config(json.loads((folder / part / "config.json").read_bytes()))
            else:
                module = getattr(transformers, kind)(transformers.CLIPTextConfig.from_pretrained(folder / part))
        name = "diffusion_pytorch_model.safetensors" if library == "diffusers" else "model.safetensors"
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        _write(folder / part / name, shapes, rng, scale)
    return folder


def _parts(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """The parts of the pipeline that have weights: name, library and class."""
    index = json.loads((folder / "model_index.json").read_bytes())
    for part, value in index.items():
        if isinstance(value, list) and value[0] and (folder / part / "config.json").exists():
            yield part, (value[0], value[1])


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator, scale: float) -> None:
    """A safetensors file of random numbers: length of the header, header, tensors in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, shape in shapes.items():
            if len(shape) > 1:
                numbers = rng.standard_normal(shape, np.float32) * scale
            else:
                numbers = np.full(shape, 1.0 if name.endswith("weight") else 0.0)
            file.write(numbers.astype("<f2").tobytes())


class Shelf:
    """The models of the run, each made when it is first wanted."""

    def __init__(self, folder: Path, scale: Scale):
        self.folder = folder
        self._scale = scale

    def need(self, families: Iterable[str]) -> None:
        """See to it that the models are there. Raises what building them did."""
        for family in families:
            if not (self.folder / family).exists():
                begun = time.monotonic()
                self._make(family)
                _say(f"made {family} in {time.monotonic() - begun:.0f} s")

    def _make(self, family: str) -> None:
        if self._scale.is_tiny:
            import tiny

            tiny.build(family, self.folder / family)
            return
        for scale in SCALES:
            build(family, self.folder / family, scale)
            if family == "sdxl-refiner" or self._draws(family):
                return
            shutil.rmtree(self.folder / family)
        raise RuntimeError(f"no random {family} draws a finite picture")

    def _draws(self, family: str) -> bool:
        """Whether a picture of the model comes out finite."""
        engine = self.engine(family, {})
        try:
            draw(engine, self.job(family) | {"steps": 4})
        except NotFinite:
            return False
        finally:
            engine.close()
        return True

    def engine(self, family: str, settings: Mapping[str, str]) -> Direct:
        """An engine for the family's rows. `full` and not `auto`: the mode is what is measured."""
        fixed = {
            "device": self._scale.device,
            "memory": "full",
            "preview_s": 0,
            "together": 1,
            "batch": max(self._scale.batches),
        }
        places = {"models": self.folder, "model": family, "cache": self.folder.parent / "cache"}
        engine = Direct(**fixed | places | dict(settings))
        tell = engine.engine._alone._on_decode

        def on_decode() -> None:  # else the clock would count the end of the denoising as decoding
            synchronize()
            tell()

        engine.engine._alone._on_decode = on_decode  # type: ignore[method-assign]
        return engine

    def job(self, family: str) -> dict[str, Any]:
        side = self._scale.sides[family]
        return {"prompt": PROMPT, "seed": 1, "steps": self._scale.steps, "width": side, "height": side}


# -- measuring ---------------------------------------------------------------------------------------------------------------


class NotFinite(RuntimeError):
    """Random weights that were too large."""


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def draw(direct: Direct, job: Mapping[str, Any]) -> tuple[float, messages.Finished]:
    """Seconds of GPU work for the job, and the engine's last word. Raises RuntimeError when it was not drawn as asked for."""
    synchronize()
    begun = time.perf_counter()
    folder = direct.run(job)
    synchronize()
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    ended = direct.ended
    if isinstance(ended, messages.Failed):
        raise (NotFinite if ended.code == "not_finite" else RuntimeError)(f"{ended.code}: {ended.reason}")
    if ended.facts.rung:
        raise RuntimeError(f"out of memory; it fitted on the rung {ended.facts.rung!r} of the ladder")
    return seconds - ended.timings.encode - ended.timings.load, ended


def measure_picture(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """Fill in the figures of a job that is drawn."""
    draw(direct, job)
    drawn = [draw(direct, job) for _ in range(scale.repeats)]
    found.s = statistics.median(seconds for seconds, _ in drawn)
    found.it_s = job["steps"] / statistics.median(ended.timings.denoise for _, ended in drawn)
    found.images_s = job.get("count", 1) / found.s
    found.gib = max(ended.facts.peak_bytes or 0 for _, ended in drawn) / GIB


def measure_compiled(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """As a picture, and how long it took from the first one until compiled code drew it."""
    compiled = direct.engine._residents.get(found.family).compiled
    assert compiled

    def wait() -> None:
        end = time.monotonic() + scale.compile_s
        while compiled.ready < compiled.asked and not compiled.failed and time.monotonic() < end:
            time.sleep(0.05)
        if compiled.failed:
            raise RuntimeError(f"torch.compile failed: {compiled.failed}")
        if compiled.ready < compiled.asked:
            raise RuntimeError(f"not compiled within {scale.compile_s:g} s")

    wait()  # the engine's warm-up has a shape of its own
    begun = time.perf_counter()
    draw(direct, job)
    wait()
    draw(direct, job)
    elapsed = time.perf_counter() - begun
    measure_picture(direct, job, scale, found)
    # What those two took longer than they do now: work in the background, and what made the caller wait.
    found.compile_s = max(0.0, elapsed - 2 * (found.s or 0.0))


@torch.inference_mode()
def measure_decode(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """Seconds and memory of the VAE alone, for one picture."""
    model = direct.engine._residents.get(found.family)
    vae = model.pipeline("txt2img").vae
    dtype = getattr(torch, found.row.split()[1])
    shape = (1, vae.config.latent_channels, job["height"] // 8, job["width"] // 8)
    usual = vae.dtype
    vae.to(dtype)
    try:
        latents = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0)).to(model.device, dtype)
        times = []
        for _ in range(1 + scale.repeats):
            devices.forget_peak(model.device)
            synchronize()
            begun = time.perf_counter()
            type(vae).decode(vae, latents)  # without the engine's look at whether it is finite
            synchronize()
            times.append(time.perf_counter() - begun)
    finally:
        vae.to(usual)
    found.s = statistics.median(times[1:])
    found.gib = devices.peak_bytes(model.device) / GIB


def measure_saturated(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """Jobs of several samplers that all wait, twice: the first time the knee is found."""
    samplers = ("DPM++ 2M", "Euler a", "DDIM", "UniPC")
    colours = ("red", "green", "blue", "white", "black")
    jobs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({**job, "seed": n, "sampler": samplers[n % 4], "prompt": f"{PROMPT}, {colours[n % 5]}"}, {})
        for n in range(scale.backlog)
    ]
    for _ in range(2):
        with Busy() as busy:
            begun = time.perf_counter()
            folders = direct.run_all(jobs)
            seconds = time.perf_counter() - begun
        for folder in folders:
            shutil.rmtree(folder)
        if failed := [each for each in direct.ended_all if isinstance(each, messages.Failed)]:
            raise RuntimeError(f"{failed[0].code}: {failed[0].reason}")
    found.s, found.images_s, found.busy = seconds / len(jobs), len(jobs) / seconds, busy.part
    found.gib = max(each.facts.peak_bytes or 0 for each in direct.ended_all if isinstance(each, messages.Finished)) / GIB


class Busy:
    """The part of the time in which the GPU was at work, as its driver tells it; None without one."""

    part: float | None = None

    def __enter__(self) -> Busy:
        command = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]
        try:
            self._asked: subprocess.Popen[str] | None = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError:
            self._asked = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._asked is None:
            return
        self._asked.terminate()
        said = [int(line) for line in self._asked.communicate()[0].split() if line.isdecimal()]
        if said:
            self.part = statistics.mean(said) / 100


def measure_one(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """Seconds of a job, with its files."""
    measure_picture(direct, job, scale, found)
    times = []
    for _ in range(scale.repeats):
        begun = time.perf_counter()
        shutil.rmtree(direct.run(job))
        times.append(time.perf_counter() - begun)
    found.s = statistics.median(times)


def measure_restart(direct: Direct, job: Mapping[str, Any], scale: Scale, found: Figures) -> None:
    """Seconds from nothing but the libraries to the first picture; the weights are in the machine's memory by then."""
    seconds, ended = draw(direct, job)
    if found.made_s is None:
        raise RuntimeError("the engine was there before")
    found.s, found.gib = found.made_s + seconds, (ended.facts.peak_bytes or 0) / GIB


MEASURES = {
    "picture": measure_picture,
    "compile": measure_compiled,
    "decode": measure_decode,
    "saturated": measure_saturated,
    "one": measure_one,
    "restart": measure_restart,
}


def measure(family: str, shelf: Shelf, scale: Scale) -> Iterator[Figures]:
    """All rows of the family, one after the other."""
    direct: Direct | None = None
    engine_of: Mapping[str, str] | None = None
    done: dict[str, Figures] = {}
    for row in rows(family, scale):
        found = done[row.name] = Figures(family, row.name, row.against)
        try:
            shelf.need([family, *(["sdxl-refiner"] if "refiner" in row.job else [])])
            if direct is None or engine_of != row.settings or "refiner" in row.job:
                _close(direct)
                direct = None  # should the next not come up
                begun = time.perf_counter()
                direct, engine_of = shelf.engine(family, row.settings), row.settings
                found.made_s = time.perf_counter() - begun
            MEASURES[row.how](direct, shelf.job(family) | row.job, scale, found)
        except ROW_ERRORS as error:
            found.reason = " ".join(str(error).split()) or type(error).__name__
            engine_of = None  # the ladder may have left it with other tricks
        base = done.get(row.against)
        if base and base.s and found.s:
            found.times = found.s / base.s
        if row.name in CLAIMS:
            found.claim, read = CLAIMS[row.name]
            if base and base.s and found.s and not found.reason:
                found.measured = read(found, base)
        yield found
    _close(direct)


def _close(direct: Direct | None) -> None:
    if direct is not None:
        direct.close()
        if direct.engine._residents.leaked:
            _say("the model was dropped, but its memory did not come back")
    devices.release(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


# -- telling -----------------------------------------------------------------------------------------------------------------

COLUMNS = ("family", "row", "GiB", "s", "it/s", "images/s", "time", "the field says", "measured")
WIDTHS = (6, 18, 6, 8, 8, 8, 20, 30, 28)
#: Characters of a reason in the table; the JSON has all of it.
REASON = 110


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)) + " |"


def shown(found: Figures) -> str:
    """The row of the table."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    if found.reason:
        return line((found.family, found.row, *[""] * 5, found.claim, f"no: {found.reason[:REASON]}"))
    times = "" if found.times is None else f"{found.times:.2f}x {found.against}"
    numbers = (number(found.gib, ".2f"), number(found.s, ".4f"), number(found.it_s, ".2f"), number(found.images_s, ".3f"))
    return line((found.family, found.row, *numbers, times, found.claim, found.measured))


def head(scale: Scale) -> dict[str, str]:
    """What the figures are of."""
    gpu = not scale.is_tiny
    commit = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return {
        "device": devices.name(torch.device(scale.device)),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else "none",
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": str(datetime.date.today()),
        "commit": commit,
        "python": platform.python_version(),
        "compile": "traced only" if scale.is_tiny else "inductor",
        "full": "eager, float32, sdpa" if scale.is_tiny else "eager, float16, sdpa, channels_last",
        "steps": str(scale.steps),
        "sizes": ", ".join(f"{family} {side}x{side}" for family, side in scale.sides.items()),
        "repetitions": str(scale.repeats),
    }


def _output(*command: str) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return ended.stdout.strip().replace("\n", ", ") or "unknown"


def _say(text: str) -> None:
    """To the error output: it is no part of the table."""
    print(f"# {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches and steps, each row once")
    parser.add_argument("--families", default="sd1,sdxl", help="of sd1 and sdxl, separated by a comma")
    parser.add_argument("--steps", type=int, help="denoising steps of a picture (25; with --quick 10)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too, after each row")
    parser.add_argument("--scratch", type=Path, help="make the models in a new folder in this one (16 GB)")
    options = parser.parse_args()
    families = options.families.split(",")
    if wrong := set(families) - {"sd1", "sdxl"}:
        parser.error(f"--families must be of sd1 and sdxl, but has {', '.join(sorted(wrong))}")
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, but is {options.steps}")

    scale = Scale.chosen(torch.cuda.is_available(), options.quick, options.steps)
    logging.disable(logging.ERROR)  # the ladder's and the compiler's warnings are rows of the table here
    told = {"tiny": scale.is_tiny, "head": head(scale), "rows": []}
    if scale.is_tiny:
        print(TINY, flush=True)
        # Graphs are traced and run as they are: C++ for them would take a minute to compile.
        torch.compiler.set_stance("default", force_backend="eager")
    print(", ".join(f"{name} {value}" for name, value in told["head"].items()))
    print(line(COLUMNS))
    print("|" + "|".join("-" * (width + 2) for width in WIDTHS) + "|", flush=True)
    gc.freeze()  # each engine that is dropped has the collector look through everything: half a second for the libraries alone
    with tempfile.TemporaryDirectory(prefix="sdspool-gpu-", dir=options.scratch) as scratch:
        shelf = Shelf(Path(scratch) / "models", scale)
        for family in families:
            for found in measure(family, shelf, scale):
                print(shown(found), flush=True)
                told["rows"].append(asdict(found))
                if options.json:  # after each row: an error that the CUDA context does not survive ends the process
                    options.json.write_text(json.dumps(told, indent=1))
            if not scale.is_tiny:
                shutil.rmtree(shelf.folder, ignore_errors=True)
    if scale.is_tiny:
        print(TINY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
