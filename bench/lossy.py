"""What the ways that change the picture give, and how much they change it: `./run.sh bench lossy` (`--rounds 5`, `--json F`).

The demo model on the CPU: six prompts of its own at 128 pixels with 20 steps and its guidance of 2, each drawn alone as the
engine draws it: in full, with `guidance_cutoff` at parts of the steps, with `deepcache_interval`, and with both. A gain is how
many times as fast the denoising is (the record's own time; each prompt is drawn in all ways in a row, in an order by chance,
and the figure is the median over prompts and rounds of the ratio within such a row). Beside it the rows that the UNet's
outermost blocks and its deep ones see, and what the picture differs from the one in full: PSNR in dB, SSIM over windows of 8
pixels, mean of the absolute difference of 255, each the mean over the prompts. And what those of another seed differ: what is
as far away as that is another picture, not the same with a loss.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from bench.direct import Direct
from spooler import messages
from spooler.engine.cutoff import guided_ticks
from spooler.engine.deepcache import is_due

FULL = "in full"
PROMPTS = (
    "a large red circle on a blue background",
    "a small yellow star",
    "a green square on a white background",
    "a large purple triangle at the left",
    "a white ring on a black background",
    "an orange circle at the top",
)
STEPS, GUIDANCE, SIZE = 20, 2.0, 128
WAYS: dict[str, dict[str, float]] = {
    FULL: {},
    **{f"guidance_cutoff {part:g}": {"guidance_cutoff": part} for part in (0.8, 0.6, 0.4, 0.2)},
    **{f"deepcache_interval {ticks}": {"deepcache_interval": ticks} for ticks in (2, 3, 5)},
    "cutoff 0.6, interval 3": {"guidance_cutoff": 0.6, "deepcache_interval": 3},
}
OTHER_SEED = "another seed"
Pixels = np.ndarray[Any, np.dtype[np.float64]]


def psnr(one: Pixels, other: Pixels) -> float:
    """In dB, of pictures of 0 to 255; 99 where they are the same."""
    error = float(((one - other) ** 2).mean())
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Pixels, other: Pixels, window: int = 8) -> float:
    """The mean structural similarity over windows side by side, in grey; 1 where they are the same (Wang et al., 2004)."""

    def tiles(picture: Pixels) -> Pixels:
        grey = picture.mean(axis=2)
        height, width = (side // window for side in grey.shape)
        cut = grey[: height * window, : width * window].reshape(height, window, width, window)
        return cut.swapaxes(1, 2).reshape(-1, window * window)

    a, b = tiles(one), tiles(other)
    means = a.mean(axis=1), b.mean(axis=1)
    shared = ((a - means[0][:, None]) * (b - means[1][:, None])).mean(axis=1)
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    light = (2 * means[0] * means[1] + small) / (means[0] ** 2 + means[1] ** 2 + small)
    return float((light * (2 * shared + smaller) / (a.var(axis=1) + b.var(axis=1) + smaller)).mean())


def rows_of(way: dict[str, float]) -> tuple[int, int]:
    """The rows that the UNet's outermost blocks see, and its deep ones."""
    guided = guided_ticks(STEPS, way.get("guidance_cutoff", 1.0))
    asked = [1 + (tick < guided) for tick in range(STEPS)]
    interval = int(way.get("deepcache_interval", 1))
    return sum(asked), sum(rows for tick, rows in enumerate(asked) if is_due(tick, interval))


def drawn(direct: Direct, prompt: str, way: dict[str, float], seed: int = 5) -> tuple[Pixels, float]:
    """The picture, and the seconds that its denoising took."""
    fields: dict[str, Any] = {"prompt": prompt, "seed": seed, "steps": STEPS, "guidance_scale": GUIDANCE, **way}
    [picture] = direct.draw(**fields, width=SIZE, height=SIZE)
    assert isinstance(direct.ended, messages.Finished)
    return np.asarray(picture, dtype=np.float64), direct.ended.timings.denoise


def measure(rounds: int) -> dict[str, Any]:
    direct = Direct()
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    pictures: dict[tuple[str, str], Pixels] = {}
    for number in range(rounds + 1):
        for prompt in PROMPTS:
            order = list(WAYS)
            random.Random(f"{number} {prompt}").shuffle(order)
            for name in order:
                pictures[name, prompt], took = drawn(direct, prompt, WAYS[name])
                if number:  # the first round is slower
                    taken[name].append(took)
    others = {prompt: drawn(direct, prompt, {}, seed=6)[0] for prompt in PROMPTS}
    direct.close()

    def row(way: dict[str, float], mine: dict[str, Pixels], times: list[float]) -> dict[str, Any]:
        pairs = [(pictures[FULL, prompt], mine[prompt]) for prompt in PROMPTS]
        outer, deep = rows_of(way)
        return {
            "unet_rows": outer,
            "deep_rows": deep,
            "times_as_fast": round(statistics.median(full / took for full, took in zip(taken[FULL], times, strict=True)), 2),
            "psnr_db": round(statistics.mean(psnr(*pair) for pair in pairs), 1),
            "ssim": round(statistics.mean(ssim(*pair) for pair in pairs), 3),
            "mean_abs_of_255": round(statistics.mean(float(abs(one - other).mean()) for one, other in pairs), 2),
        }

    rows = {name: row(way, {prompt: pictures[name, prompt] for prompt in PROMPTS}, taken[name]) for name, way in WAYS.items()}
    rows[OTHER_SEED] = row({}, others, taken[FULL])
    return {"rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.rounds)
    print(f"{len(PROMPTS)} prompts, {SIZE} px, {STEPS} steps, {found['threads']} threads, median of {given.rounds} rounds")
    print(f"{'':24} {'outer rows':>10} {'deep':>5} {'times as fast':>14} {'PSNR dB':>8} {'SSIM':>6} {'mean abs':>9}")
    for name, row in found["rows"].items():
        print(
            f"{name:24} {row['unet_rows']:10} {row['deep_rows']:5} {row['times_as_fast']:13.2f}x {row['psnr_db']:8.1f} "
            f"{row['ssim']:6.3f} {row['mean_abs_of_255']:9.2f}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
