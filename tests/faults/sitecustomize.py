"""Faults of the engine, at will: what a full or broken GPU, a bad kernel or a leaking library does. For tests/ward.py.

Python imports this module at its start when its folder is on PYTHONPATH. It does something in the engine's process only, and
there what the file named by the variable FAULT says: names separated by blanks, read at every call of the UNet and of the VAE,
so that a test may change them while the engine runs. `name*2` strikes twice at most. Each stroke adds a line to <file>.struck,
which counts across processes. The 64x64 pixels of the warm-up are spared by all but exit-at-start.

    oom                     the UNet has too little memory
    oom-unless:offload      ... unless its parts are offloaded; also `sequential`, and `batch=N`: unless there are at most N
    oom-unless:vae_tiling   the VAE has, unless it works in tiles
    oom-above:WxH           the UNet has, for pictures of more pixels
    as:cublas               such errors are not torch's own but cuBLAS's; also `cpu` and `python`
    nan-latents             the UNet gives NaN
    nan-vae                 the VAE gives NaN
    abort, hang             the process ends, or stands still, in the second step
    cuda-error              the second step meets an error that no later call would survive
    leak:N                  each decode keeps N MB for ever
    no-free                 the UNet is kept for ever
    exit-at-start           the process ends before it has loaded anything, with status 1
"""

from __future__ import annotations

import importlib.abc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

#: Latents of the warm-up's side.
WARM_UP = 8


class Faults:
    """What the file says now."""

    def __init__(self, path: Path):
        self._path = path
        self._struck = path.with_name(f"{path.name}.struck")
        self._state: object = None
        self._kept: list[Any] = []
        self.calls = 0  # of the UNet since the file was written

    def read(self) -> dict[str, str]:
        """The faults by name, each with what follows its colon. Those that have struck often enough are left out."""
        try:
            text, state = self._path.read_text(), self._path.stat().st_mtime_ns
        except FileNotFoundError:
            text, state = "", 0
        if state != self._state:
            self._state, self.calls = state, 0
        struck = self._struck.read_text().splitlines() if self._struck.exists() else []
        found = {}
        for word in text.split():
            fault, _, times = word.partition("*")
            name, _, argument = fault.partition(":")
            if not times or struck.count(name) < int(times):
                found[name] = argument
        return found

    def strike(self, name: str) -> None:
        with self._struck.open("a") as file:
            file.write(f"{name}\n")

    def start(self) -> None:
        if "exit-at-start" in self.read():
            self.strike("exit-at-start")
            sys.stderr.write("a fault ends the engine\n")
            os._exit(1)

    def run_out(self, kind: str) -> NoReturn:
        import torch

        self.strike("oom")
        raise {
            "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nA second line."),
            "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 2 GiB"),
            "python": MemoryError("Unable to allocate 2.00 GiB"),
        }[kind]

    def in_unet(self, unet: Any, sample: Any) -> None:
        faults = self.read()
        self.calls += 1
        if "no-free" in faults and unet not in self._kept:
            self.strike("no-free")
            self._kept.append(unet)
        wanted = faults.get("oom-unless")
        if wanted and wanted.startswith("batch="):
            short = sample.shape[0] // 2 > int(wanted[6:])  # with guidance, a picture is there twice
        elif wanted == "offload":
            short = not hasattr(unet, "_hf_hook")
        elif wanted == "sequential":
            short = next(unet.parameters()).device.type != "meta"
        elif limit := faults.get("oom-above"):
            width, height = (int(side) // 8 for side in limit.split("x"))
            short = sample.shape[-1] * sample.shape[-2] > width * height
        else:
            short = "oom" in faults
        if short:
            self.run_out(faults.get("as", "torch"))
        if self.calls < 2:
            return
        if "abort" in faults:
            self.strike("abort")
            os.abort()
        if "hang" in faults:
            self.strike("hang")
            while True:  # the hang itself: nothing is waited for here
                time.sleep(60)
        if "cuda-error" in faults:
            self.strike("cuda-error")
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def after_unet(self, output: Any) -> None:
        if "nan-latents" in self.read():
            self.strike("nan-latents")
            output[0].fill_(float("nan"))

    def in_vae(self, vae: Any) -> None:
        faults = self.read()
        if faults.get("oom-unless") == "vae_tiling" and not vae.use_tiling:
            self.run_out(faults.get("as", "torch"))
        if megabytes := faults.get("leak"):
            self.strike("leak")
            self._kept.append(b"x" * (int(megabytes) << 20))

    def after_vae(self, output: Any) -> None:
        if "nan-vae" in self.read():
            self.strike("nan-vae")
            output[0].fill_(float("nan"))

    def install(self) -> None:
        """Wrap the classes before a model is made of them."""
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

        forward = UNet2DConditionModel.forward

        def unet_forward(unet: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            if sample.shape[-1] == WARM_UP:
                return forward(unet, sample, *args, **kwargs)
            self.in_unet(unet, sample)
            output = forward(unet, sample, *args, **kwargs)
            self.after_unet(output)
            return output

        UNet2DConditionModel.forward = unet_forward
        for kind in (AutoencoderKL, AutoencoderTiny):
            self._wrap_decode(kind)

    def _wrap_decode(self, kind: Any) -> None:
        decode = kind.decode

        def vae_decode(vae: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
            if latents.shape[-1] == WARM_UP:
                return decode(vae, latents, *args, **kwargs)
            self.in_vae(vae)
            output = decode(vae, latents, *args, **kwargs)
            self.after_vae(output)
            return output

        kind.decode = vae_decode


class Hook(importlib.abc.MetaPathFinder):
    """Finds no module, but hears of the engine's first import of one that needs torch."""

    def __init__(self, faults: Faults):
        self._faults = faults

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name == "spooler.engine.worker":
            sys.meta_path.remove(self)
            self._faults.start()
            self._faults.install()


if "spooler.engine" in sys.orig_argv and "FAULT" in os.environ:
    sys.meta_path.insert(0, Hook(Faults(Path(os.environ["FAULT"]))))
