"""A GPU's rules without a GPU: `cuda:0` for torch in this process, whose tensors are covers over tensors that are here.

    two devices   a tensor that is there and one that is here do not meet in an operation: it raises, as on a GPU
    waits         whatever would have the host wait for the device is written down (`WAITS`), with who asked for it
    copies        one that nobody waits for has come when an event that was recorded after it has: until then there is
                  nothing where it is to lie

The numbers are those of this processor. What a GPU rounds otherwise, how fast it is, and its memory are not shown by this.

`python -m tests.faraway GROUPS SETTINGS` (JSON) draws groups of jobs with the engine, here and there, and prints what came of
them.
The covers change torch for the whole process, so it is one of its own.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import accelerate
import diffusers
import numpy as np
import torch
import torch._dynamo
import torch._inductor
import transformers
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("cuda:0")
#: What the host waited for while somebody wanted to know, each with the functions of the engine that led there.
WAITS: list[str] = []
#: Events that are asked whether the device has come to them say no so many times.
LATE = 2
#: Operations that may have tensors of both.
MEETING = {"to", "_to_copy", "copy_", "index", "index_put_", "_has_compatible_shallow_copy_type"}
#: Operations whose result's shape or value the host has to know.
LOOKS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}

_copies: list[tuple[torch.Tensor, torch.Tensor]] = []
_here = threading.local()
# Here before torch is told of the device: they would look for more of it than there is.
assert accelerate and diffusers and transformers


def waited(what: str) -> None:
    """Write down that the host waits, where that is for the stream on which pictures are drawn."""
    if getattr(_here, "is_watched", False) and not getattr(_here, "beside", 0):
        frames = [each for each in traceback.extract_stack() if "spooler/engine" in each.filename]
        WAITS.append(f"{what}: " + " > ".join(f"{Path(each.filename).stem}.{each.name}" for each in frames[-4:]))


@contextmanager
def watched() -> Iterator[None]:
    """What this thread waits for meanwhile is written down."""
    _here.is_watched = True
    try:
        yield
    finally:
        _here.is_watched = False


class Far(torch.Tensor):
    """A tensor that is there."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor, requires_grad: bool = False, **_: Any) -> Any:
        if isinstance(near, Far) or near.device.type == "meta":  # a parameter's class is made anew by its own name
            return near
        with torch.inference_mode(False):
            made: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, near.size(), near.stride(), near.storage_offset(), dtype=near.dtype, layout=near.layout, device=THERE
            )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return memo.setdefault(id(self), Far(self.near.clone()))

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near})"

    # torch asks the device itself before these come to any dispatch.
    def __getitem__(self, index: Any) -> Any:
        for each in index if isinstance(index, tuple) else (index,):
            if isinstance(each, list) or (isinstance(each, torch.Tensor) and not isinstance(each, Far) and each.dim()):
                waited("an index of numbers that are here")
            elif isinstance(each, Far) and (not each.dim() or each.dtype == torch.bool):
                waited("an index that is there")
        return Far(self.near[near(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor) and not isinstance(value, Far) and value.dim():
            waited("a part that is set from here")
        self.near[near(index)] = near(value)

    def __len__(self) -> int:
        return len(self.near) if self.near.dim() else 0

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__

    def item(self) -> Any:
        waited("a number")
        return self.near.item()

    def tolist(self) -> Any:
        waited("a list")
        return self.near.tolist()

    def nonzero(self, *args: Any, **kwargs: Any) -> Any:
        waited("nonzero")
        return tree_map(
            lambda found: Far(found) if isinstance(found, torch.Tensor) else found, self.near.nonzero(*args, **kwargs)
        )

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    __array__ = numpy

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
        made = self.near.contiguous(memory_format=memory_format)
        return self if made is self.near else Far(made)

    def record_stream(self, stream: Any) -> None:
        """Nothing is given away here."""


def near(given: Any) -> Any:
    """The tensors that are covered."""
    return tree_map(lambda each: each.near if isinstance(each, Far) else each, given)


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on what is covered, by the rules of two devices."""
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, Far)]
    named = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
    device = named.get("device")
    is_there = bool(there) if device is None else torch.device(device).type == THERE.type
    alien = [each for each in tensors if not isinstance(each, Far) and each.dim()]
    if there and alien and name not in MEETING:
        shapes = [tuple(each.shape) for each in there], [tuple(each.shape) for each in alien]
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {shapes[0]} there and {shapes[1]} here.")

    # 1. Who waits.
    is_patient = bool(named.get("non_blocking"))
    is_brought = name in ("to", "_to_copy") and device is not None and is_there != bool(there)
    is_brought |= name == "copy_" and isinstance(args[0], Far) != isinstance(args[1], Far)
    if name in LOOKS or (is_brought and not is_patient):
        waited(name)

    # 2. What comes of it.
    covers: dict[int, Far] = {id(each.near): each for each in there}

    def uncovered(each: Any) -> Any:
        if isinstance(each, Far):
            return each.near
        return torch.device("cpu") if isinstance(each, torch.device) else each

    made = func(*tree_map(uncovered, args), **tree_map(uncovered, kwargs))
    if is_brought and there and not is_there:
        return _on_its_way(made) if is_patient else made.clone()

    def covered(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not is_there:
            return each
        return covers[id(each)] if id(each) in covers else Far(each)

    return tree_map(covered, made)


def _on_its_way(made: torch.Tensor) -> torch.Tensor:
    """Where a copy will lie."""
    place = torch.full_like(made, 77)
    _copies.append((place, made.clone()))
    return place


class Mode(TorchDispatchMode):
    """What makes a tensor there has none in its arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [*tree_leaves(args), *tree_leaves(kwargs)]
        if any(isinstance(each, Far) or (isinstance(each, torch.device) and each.type == THERE.type) for each in given):
            return dispatched(func, args, kwargs)
        return func(*args, **kwargs)


class Event:
    """Comes when it has been asked for often enough, or is waited for; what was copied before it is there then."""

    _clock: ClassVar[float] = 0.0

    def __init__(self, **_: Any):
        self._asked = 0
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(self, *_: Any) -> None:
        self._before = [*_copies]
        _copies.clear()
        Event._clock += 1
        self._at = Event._clock

    def query(self) -> bool:
        self._asked += 1
        if self._asked > LATE:
            self.synchronize()
        return self._asked > LATE

    def synchronize(self) -> None:
        for place, made in self._before:
            place.copy_(made)
        self._before = []

    def elapsed_time(self, later: Event) -> float:
        return later._at - self._at


class Stream:
    """Another than the one on which pictures are drawn: whoever waits on it waits for nothing of theirs."""

    def __init__(self, *_: Any):
        """All of them are one."""

    def __enter__(self) -> None:
        _here.beside = getattr(_here, "beside", 0) + 1

    def __exit__(self, *_: Any) -> None:
        _here.beside -= 1

    def wait_stream(self, stream: Any) -> None:
        """What is queued is done at once here."""


def install() -> None:
    """Have torch believe in the device, in this process and all its threads."""
    _device_constructors()  # it keeps what it finds, and must not find what is put there below
    known: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: waited("synchronize"),
        "current_stream": lambda *_: Stream(),
        "stream": lambda stream: stream,
        "Stream": Stream,
        "Event": Event,
        "get_device_name": lambda *_: "far away",
        "get_device_properties": lambda *_: SimpleNamespace(name="far away", total_memory=24 << 30, major=9, minor=0),
        "mem_get_info": lambda *_: (20 << 30, 24 << 30),
    }
    known |= dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated"), lambda *_: 1 << 30)
    known |= dict.fromkeys(("empty_cache", "reset_peak_memory_stats"), lambda *_: None)
    for name, value in known.items():
        setattr(torch.cuda, name, value)

    move, make, module_move, run = torch.Tensor.to, torch.tensor, torch.nn.Module.to, threading.Thread.run

    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        return move(self, *tree_map(_numbered, args), **tree_map(_numbered, kwargs))

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if isinstance(data, (list, tuple)):
            data = [each.item() if isinstance(each, Far) else each for each in data]
        found = make(data, *args, **kwargs)
        return found if device is None else found.to(device)

    def module_moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        held = [*self.parameters(), *self.buffers()]
        is_there = device is None or all(each.device.type == device.type for each in held)
        if is_there and (dtype is None or all(each.dtype == dtype for each in held if each.is_floating_point())):
            return self
        with torch.inference_mode(False):
            return module_move(self, *args, **kwargs)

    def ran(self: Any) -> None:
        with Mode():
            run(self)

    torch.__future__.set_overwrite_module_params_on_conversion(True)
    put: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch, "tensor", made),
        (torch.Tensor, "to", moved),
        (torch.Tensor, "pin_memory", lambda self, *_: self.clone()),
        (torch.nn.Module, "to", module_moved),
        (threading.Thread, "run", ran),
    ]
    for where, name, function in put:
        setattr(where, name, function)
    Mode().__enter__()


def _numbered(given: Any) -> Any:
    """A device that is there, with its number: torch would ask itself for it."""
    is_there = (isinstance(given, torch.device) and given.type == THERE.type) or given == "cuda"
    return THERE if is_there else given


# -- the engine there ----------------------------------------------------------------------------------------------------------


class Alone(logging.Handler):
    """Keeps what the engine says of jobs that it draws alone, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "drawn alone" in (text := record.getMessage()):
            self.said.append(text)


def drawn(groups: list[list[dict[str, Any]]], settings: dict[str, str]) -> list[dict[str, Any]]:
    """What comes of groups of jobs, those of each drawn together: the ends, the pictures, who was alone, the waits."""
    from PIL import Image

    from bench.direct import Direct
    from spooler import messages

    alone = Alone()
    engine_log = logging.getLogger("spooler.engine")
    engine_log.setLevel(logging.INFO)
    engine_log.addHandler(alone)
    engine = Direct(**settings)
    inputs = {name: Image.new("RGB", (64, 64), colour) for name, colour in (("in.png", "teal"), ("mask.png", "black"))}
    inputs["mask.png"].paste((255, 255, 255), (16, 16, 48, 48))
    results = []
    for group in groups:
        WAITS.clear()
        alone.said.clear()
        with watched():
            folders = engine.run_all([(job, {name: inputs[name] for name in inputs if name in job.values()}) for job in group])
        ended = [each.reason if isinstance(each, messages.Failed) else each.type for each in engine.ended_all]
        pictures = []
        for path in (path for folder in folders for path in sorted(folder.glob("[0-9]*.png"))):
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture).astype(int))
        results.append({"ended": ended, "pictures": pictures, "alone": [*alone.said], "waits": [*WAITS]})
    return results


if __name__ == "__main__":
    groups, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    here = drawn(groups, settings | {"device": "cpu"})
    install()
    there = drawn(groups, settings | {"device": "cuda:0", "precision": "float32", "channels_last": "off"})
    for ours, theirs in zip(there, here, strict=True):
        pairs = zip(ours["pictures"], theirs.pop("pictures"), strict=True)
        ours["pictures"] = [int(np.abs(one - other).max()) for one, other in pairs]  # levels of 255 between the two
        assert not theirs["alone"] and set(theirs["ended"]) == {"finished"}, theirs
    sys.stdout.write(json.dumps(there))
