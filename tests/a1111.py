"""A web app and a spooler that A1111's clients meet, and what those send: what the tests of /sdapi share."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
import webuiapi
from house import ROOT, Spooler, wait_for
from PIL import Image

from spooler.spool import Spool

RED = "a large red circle on a blue background"
SMALL = {"prompt": RED, "width": 128, "height": 128, "steps": 15, "cfg_scale": 3, "sampler_name": "DPM++ 2M", "seed": 5}
LONG = SMALL | {"steps": 80, "n_iter": 9, "prompt": "a large green square on a white background"}
INFO = """
    prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength width height
    sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name sd_model_hash sd_vae_name
    sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength extra_generation_params index_of_first_image infotexts
    styles job_timestamp clip_skip is_using_inpainting_conditioning version
"""
STATE = "skipped interrupted stopping_generation job job_count job_timestamp job_no sampling_step sampling_steps"


class Web:
    """The real `python -m webui` on a port of its own."""

    def __init__(self, spool: Spool, *options: str):
        self.spool = spool
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        cache = spool.root.parent / f"cache-{self.port}"
        command = [sys.executable, "-m", "webui", f"--spool={spool.root}", f"--port={self.port}", f"--cache={cache}", *options]
        self.process = subprocess.Popen(command, cwd=ROOT)
        wait_for(self._answers, "the web app")

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.address}/internal/ping", timeout=60).json() == {}
        return False

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.address}{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, json: Any = None) -> requests.Response:
        return requests.post(f"{self.address}{path}", json=json, timeout=300)

    def txt2img(self, **given: Any) -> Any:
        answer = self.post("/sdapi/v1/txt2img", SMALL | given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


@contextlib.contextmanager
def web(spool: Spool, *options: str) -> Iterator[Web]:
    made = Web(spool, *options)
    try:
        yield made
    finally:
        made.stop()


class House:
    """A spooler that draws one picture after the other, and a web app."""

    def __init__(self, spool: Spool, served: Web):
        self.spool = spool
        self.served = served
        self.start()

    def start(self) -> None:
        self.spooler = Spooler(self.spool, "--batch=1", "--together=1", "--preview-s=0.05")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    spool = Spool(tmp_path_factory.mktemp("sdapi") / "spool")
    spool.create()
    with web(spool) as served:
        made = House(spool, served)
        try:
            made.spooler.ready()
            yield made
        finally:
            made.spooler.stop()


@pytest.fixture(scope="module")
def served(house: House) -> Web:
    return house.served


@pytest.fixture(scope="module")
def api(served: Web) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=served.port, sampler="DPM++ 2M", steps=15)


@contextlib.contextmanager
def beside(call: Callable[[], Any]) -> Iterator[Future[Any]]:
    """The call at work in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def opened(encoded: str) -> Image.Image:
    assert not encoded.startswith("data:")
    return Image.open(io.BytesIO(base64.b64decode(encoded)))
