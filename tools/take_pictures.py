"""Take the pictures of the docs: the real pages, over the real spooler and the demo model, in the tests' browser.

.venv/bin/python tools/take_pictures.py [--out docs/pictures] [--dark]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import open_browser, phone, screenshot, served, unfold
from house import drop, spooler, wait_running, wait_state

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

PROMPTS = (
    "a small yellow star on a black background",
    "a large green ring on a white background",
    "a purple triangle on an orange background",
    "a large blue square on a yellow background",
    "a white circle on a purple background",
    "a small black star on a red background",
    "an orange ring on a blue background",
    "a large red circle on a blue background",
)
SWEEP = {"prompt": "a large orange star on a purple background", "seed": 5, "steps": [4, 8, 20], "guidance_scale": [1, 2, 4]}
LONG = {"steps": 150, "count": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--phone", action="store_true", help="390 pixels wide instead of 1280")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as scratch:
        spool = Spool(Path(scratch) / "spool")
        spool.create()
        app = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache"))
        with served(app) as address, spooler(spool), open_browser(Path(scratch) / "profile") as browser:
            if options.dark:
                media = [{"name": "prefers-color-scheme", "value": "dark"}]
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

            def take(name: str, path: str) -> None:
                browser.get(f"{address}/{path}")
                unfold(browser)
                screenshot(browser, options.out / f"{name}.png")

            for number, prompt in enumerate(PROMPTS):
                drop(spool, f"picture-{number}.json", {"prompt": prompt, "seed": 5, "count": 3 if number == 7 else 1})
                wait_state(spool, f"picture-{number}", "done")
            drop(spool, "sweep.json", SWEEP)
            wait_state(spool, "sweep", "done")
            drop(spool, "typing-error.json", b'{"prompt": "a ring", "stepps": 20, "width": 100}')
            drop(spool, "long.json", LONG | {"prompt": "a large white star on a green background", "owner": "anna"})
            wait_running(spool, "long")
            for number, owner in enumerate(("anna", "anna", "ben")):
                drop(spool, f"waits-{number}.json", LONG | {"prompt": PROMPTS[number], "owner": owner})
            if options.phone:
                phone(browser)
            take("create", "")
            take("job", "jobs/picture-7")
            take("running", "jobs/long")
            take("sweep", "jobs/sweep")
            take("queue", "queue")
            take("gallery", "gallery")
            take("failed", "failed")
            for name in ("waits-0", "waits-1", "waits-2", "long"):
                spool.cancel(name)
            wait_state(spool, "long", "cancelled")


if __name__ == "__main__":
    main()
