"""torch.compile without waiting for it: eager code serves at once, compiled code takes over for each shape when it is ready."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

log = logging.getLogger(__name__)

Shape = tuple[Any, ...]
SWITCH_S = 0.0001


class Compiled:
    """A backbone whose forward is compiled in a background thread, shape by shape.

    A call of a shape that is compiled runs compiled; any other runs eager and has its shape compiled for the next time. The
    thread compiles with inputs of zeros of that shape, outside the caller's way but for the machine's cores.
    """

    def __init__(self, module: torch.nn.Module, mode: str):
        self._module = module
        self._eager: Callable[..., Any] = module.forward
        self._compiled: Callable[..., Any] | None = None
        self._mode = mode
        self._ready: set[Shape] = set()
        self._wanted: SimpleQueue[tuple[Shape, tuple[Any, ...], dict[str, Any]] | None] = SimpleQueue()
        self._asked: set[Shape] = set()
        self.failed: str | None = None
        self.paused = False  # while a LoRA is on: its layers are others each time
        module.forward = self._forward
        self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> int:
        """How many shapes run compiled."""
        return len(self._ready)

    def stop(self) -> None:
        """Let go of the module, so that its memory can be freed."""
        self._wanted.put(None)
        self._module.forward = self._eager

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.paused or self.failed:
            return self._eager(*args, **kwargs)
        shape = _shape((args, kwargs))
        if shape in self._ready and self._compiled:
            return self._compiled(*args, **kwargs)
        if shape not in self._asked:
            self._asked.add(shape)
            self._wanted.put((shape, _zeros(args), _zeros(kwargs)))
        return self._eager(*args, **kwargs)

    def _work(self) -> None:
        try:
            while (work := self._wanted.get()) is not None:
                shape, args, kwargs = work
                self._compile_for(args, kwargs)
                self._ready.add(shape)
                log.info("compiled for %s", shape)
        except (RuntimeError, OSError, ValueError, TypeError, ImportError, AttributeError) as error:
            # No compiler on this machine, an operation that cannot be compiled: eager code goes on serving.
            self.failed = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            log.warning("torch.compile does not work here, eager code goes on: %s", self.failed)
        finally:
            self.failed = self.failed or "the compiler's thread has ended"

    def _compile_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        usual_s = sys.getswitchinterval()
        # The compiler is Python that does not let go of the interpreter by itself. Each of the thousand operations of an
        # eager step would wait out the usual 5 ms to get it back; a job in the foreground would stand still.
        sys.setswitchinterval(SWITCH_S)
        try:
            with torch.inference_mode():
                if self._compiled is None:
                    self._compiled = self._compile()
                self._compiled(*args, **kwargs)
        finally:
            sys.setswitchinterval(usual_s)

    def _compile(self) -> Callable[..., Any]:
        if self._mode == "regional":
            repeated = set(getattr(self._module, "_repeated_blocks", None) or ())
            for part in self._module.modules():
                if type(part).__name__ in repeated:
                    part.compile(dynamic=False)
            return self._eager
        return torch.compile(self._eager, dynamic=False)


def _shape(value: Any) -> Shape:
    """What a compiled graph depends on: shapes and formats of tensors, values of everything else."""
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), str(value.dtype))
    if isinstance(value, (tuple, list)):
        return tuple(_shape(each) for each in value)
    if isinstance(value, dict):
        return tuple((key, _shape(value[key])) for key in sorted(value))
    return (value,) if isinstance(value, (int, float, str, bool, type(None))) else (type(value).__name__,)


def _zeros(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_zeros(each) for each in value)
    if isinstance(value, dict):
        return {key: _zeros(each) for key, each in value.items()}
    return value
