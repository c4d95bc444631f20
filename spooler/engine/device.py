"""The device: which one, in which number format, how much memory is left, and which errors it does not survive."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

#: A CUDA context that met one of these is lost: every later call in the process fails.
FATAL = ("illegal memory access", "device-side assert", "misaligned address", "launch failure", "CUDA error", "cuDNN error")
#: Memory that ran out somewhere else than in torch's own allocator. The context lives on.
FULL = ("DefaultCPUAllocator: can't allocate", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
#: Families whose activations overflow float16.
BFLOAT16 = frozenset({"flux", "sana", "z-image", "qwen-image"})

#: Errors of a job's own making or of the libraries: they end the job, not the process.
JOB_ERRORS = (RuntimeError, ValueError, ArithmeticError, TypeError, KeyError, IndexError, AttributeError, MemoryError)


Made = TypeVar("Made", bound=Sequence[Mapping[str, Any]])


class UnusableError(RuntimeError):
    """The engine cannot work here as configured, and trying again would not help: met by the operator at the start."""


class NotFiniteError(ArithmeticError):
    """NaN or infinity where a picture should be: met by whoever would otherwise have got a black one."""


def choose(setting: str, model: str) -> torch.device:
    """The device of the setting `device`. Raises UnusableError when it is not there."""
    if setting == "auto":
        if torch.cuda.is_available():
            setting = "cuda"
        elif model == "demo":
            setting = "cpu"
        else:
            raise UnusableError("`device` is auto, but no GPU was found: give --device cpu to draw on the CPU, slowly.")
    try:
        device = torch.device(setting)
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnusableError(f"`device` must be one that torch can use here, but {setting!r} is not: {reason}") from error
    return device


def precision(setting: str, device: torch.device, family: str) -> torch.dtype:
    """The number format to compute in. bfloat16 and float16 on a CPU are possible and unusably slow: only when asked for."""
    if setting != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[setting]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if family in BFLOAT16 else torch.float16


def there(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The tensor on the device, without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.to(dtype=dtype).pin_memory()  # in this order: what a copy has to convert on its way is not pinned
    return tensor.to(device, dtype, non_blocking=True)


def beside(device: torch.device, make: Callable[[], Made]) -> Made:
    """What `make` makes of what has long been on the device, without waiting for what the device is at.

    A copy from ordinary memory, of a prompt's tokens say, waits for all that its stream is still to do. So it has a stream of
    its own, and what is queued afterwards waits for that.
    """
    if device.type != "cuda":
        return make()
    main, side = torch.cuda.current_stream(device), _side(device)
    with torch.cuda.stream(side):
        made = make()
    main.wait_stream(side)
    for tensor in (value for each in made for value in each.values() if isinstance(value, torch.Tensor)):
        tensor.record_stream(main)  # its memory is not given away while what was queued here still reads it
    return made


@cache
def _side(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def settle(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU"


def total_bytes(device: torch.device) -> int:
    """All memory of the device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else psutil.virtual_memory().total


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def resident_bytes() -> int:
    """Memory that this process has of the machine's."""
    return int(_process().memory_info().rss)


@cache
def _process() -> psutil.Process:
    return psutil.Process()  # it looks up when the process began, which takes longer than what is asked


def release(device: torch.device) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def forget_peak(device: torch.device) -> None:
    """Begin a new measurement of the most memory in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from now
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """The most memory in use since `forget_peak`: allocated on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resident_bytes()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), resident_bytes())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less memory in use would help."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in FULL)


def is_fatal(error: BaseException) -> bool:
    """Whether the process is of no more use after this error."""
    return not is_out_of_memory(error) and any(text in str(error) for text in FATAL)


def code_of(error: BaseException) -> str:
    """A failure's code for programs."""
    if is_out_of_memory(error):
        return "out_of_memory"
    return "not_finite" if isinstance(error, NotFiniteError) else "engine_error"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for the log."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
