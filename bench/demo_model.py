"""Does the demo model draw what it is asked for? Prompts from its grammar, judged by bench/shape_checker.py.

./run.sh bench demo_model [--prompts 200] [--steps N] [--guidance G] [--sampler NAME]
"""

from __future__ import annotations

import argparse
import datetime
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.direct import Direct
from bench.shape_checker import look
from spooler import library, samplers
from tools.drawings import Drawing

#: The checker's size (share of the picture's side) to the word for it.
SIZE_BOUNDS = (("small", 0.0, 0.375), ("", 0.375, 0.55), ("large", 0.55, 1.0))
#: What the project promises of the shipped model, in per cent.
TARGETS = {"background": 98, "colour": 95, "shape": 90}


def main() -> int:
    card = library.read(library.DEMO, "demo").card
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=card.steps)
    parser.add_argument("--guidance", type=float, default=card.guidance_scale)
    parser.add_argument("--sampler", default=card.sampler, choices=samplers.SAMPLER_NAMES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--misses", action="store_true", help="print each prompt that was not obeyed")
    options = parser.parse_args()

    engine = Direct(model=options.model, device="cpu" if options.model == "demo" else "auto")
    rng = random.Random(options.seed)
    right: Counter[str] = Counter()
    begun = time.monotonic()
    for number in range(options.prompts):
        drawing = Drawing.random(rng)
        prompt = drawing.sentence(rng, noise=0)
        [picture] = engine.draw(
            prompt=prompt,
            seed=options.seed * 10_000 + number,
            steps=options.steps,
            guidance_scale=options.guidance,
            sampler=options.sampler,
        )
        seen = look(picture)
        size = next(word for word, least, most in SIZE_BOUNDS if least <= seen.size < most)
        for what, wanted, found in (
            ("background", drawing.background, seen.background),
            ("colour", drawing.colour, seen.colour),
            ("shape", drawing.shape, seen.shape),
            ("place", drawing.place, seen.place),
            ("size", drawing.size, size),
        ):
            right[what] += wanted == found
            if options.misses and wanted != found:
                print(f"  {prompt!r}: {what} is {found!r}")
    seconds = (time.monotonic() - begun) / options.prompts

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = ", ".join(f"{name} {version}" for name, version in engine.facts.versions.items())
    print(
        f"demo model {engine.facts.hash[:10]}, {datetime.date.today()}, {platform.machine()} CPU, commit {commit}, {versions}"
    )
    how = f"{options.steps} steps, guidance {options.guidance:g}, {options.sampler}"
    print(f"{options.prompts} prompts, {how}: {seconds:.2f} s each")
    print("| what | right | target |\n|---|---|---|")
    shares = {what: 100 * right[what] / options.prompts for what in ("background", "colour", "shape", "place", "size")}
    for what, share in shares.items():
        print(f"| {what} | {share:.1f} % | {f'{TARGETS[what]} %' if what in TARGETS else ''} |")
    return 0 if all(shares[what] >= target for what, target in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
