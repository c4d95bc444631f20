"""What a process keeps of the pictures that went through it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil
from a1111 import png, web
from house import wait_for
from PIL import Image

from spooler.spool import Spool


def test_large_pictures_leave_no_memory_behind(spool: Spool) -> None:
    """Eight at a time: each thread kept some of them for good, the process 850 MiB."""
    picture = Image.linear_gradient("L").resize((3000, 3000)).convert("RGB")
    asked = {"image": png(picture), "upscaler_1": "Lanczos"}
    with web(spool, "--wait-s=0.2", "--floor-mib=0") as served, ThreadPoolExecutor(8) as pool:
        process = psutil.Process(served.process.pid)
        assert served.post("/sdapi/v1/extra-single-image", asked).status_code == 504, "nobody draws here"
        for _ in range(2):
            told = [pool.submit(served.post, "/sdapi/v1/extra-single-image", asked) for _ in range(8)]
            assert {each.result().status_code for each in told} == {504}
        wait_for(lambda: process.memory_info().rss < 100 << 20, "what the pictures took to be given back")
