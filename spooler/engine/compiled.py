"""torch.compile without waiting for it: eager code serves at once, compiled code takes over for each shape when it is ready."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

log = logging.getLogger(__name__)

Shape = tuple[Any, ...]
SWITCH_S = 0.0001
STOP_WAIT_S = 120.0
MAX_GRAPHS = 64
TRIES = 2
_CALL_MODULE = torch.fx.Tracer.call_module


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
        self._blocks: list[_Block] = []
        self._ready: set[Shape] = set()
        self._wanted: SimpleQueue[tuple[Shape, tuple[Any, ...], dict[str, Any]] | None] = SimpleQueue()
        self._tries: Counter[Shape] = Counter()
        self.failed: str | None = None
        #: While a LoRA is on: its layers are others each time. And for the warm-up, whose shape no job has.
        self.paused = False
        # A graph for each size and batch; past the limit, code would run eager and be taken for compiled.
        torch._dynamo.config.recompile_limit = MAX_GRAPHS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        torch.fx.Tracer.call_module = _call_module
        module.forward = self._forward
        self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> int:
        """How many shapes run compiled."""
        return len(self._ready)

    @property
    def asked(self) -> int:
        """How many shapes were to."""
        return len(self._tries)

    def stop(self) -> None:
        """Let go of the module, so that its memory can be freed; waits for a compilation at work, which holds it too."""
        self._wanted.put(None)
        self._thread.join(STOP_WAIT_S)
        self._module.forward = self._eager
        for block in self._blocks:
            block.take_off()

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.paused or self.failed:
            return self._eager(*args, **kwargs)
        # Some schedulers count their steps in whole numbers, others not. The UNet takes either: one graph is enough.
        args = tuple(_as_float(each) for each in args)
        shape = _shape((args, kwargs))
        if shape in self._ready and self._compiled:
            return self._compiled(*args, **kwargs)
        if self._tries[shape] == 0:
            self._tries[shape] = 1
            self._wanted.put((shape, _zeros(args), _zeros(kwargs)))
        return self._eager(*args, **kwargs)

    def _work(self) -> None:
        try:
            while (work := self._wanted.get()) is not None:
                shape, args, kwargs = work
                try:
                    self._compile_for(args, kwargs)
                except (torch.OutOfMemoryError, OSError) as error:  # of this shape, or of this moment
                    log.warning("not compiled for %s: %s", shape, error)
                    if self._tries[shape] < TRIES:
                        self._tries[shape] += 1
                        self._wanted.put(work)
                    continue
                self._ready.add(shape)
                log.info("compiled for %s", shape)
        except (RuntimeError, ValueError, TypeError, ImportError, AttributeError, NameError) as error:
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
        if self._mode != "regional":
            return torch.compile(self._eager, dynamic=False)
        repeated = set(getattr(self._module, "_repeated_blocks", None) or ())
        self._blocks = [_Block(part) for part in self._module.modules() if type(part).__name__ in repeated]

        def regional(*args: Any, **kwargs: Any) -> Any:
            _Block.switch.on = True
            try:
                return self._eager(*args, **kwargs)
            finally:
                _Block.switch.on = False

        return regional


class _Block:
    """One of the repeated parts of a backbone: it runs compiled where the thread's switch is on, else eager."""

    switch = threading.local()

    def __init__(self, part: torch.nn.Module):
        self._part = part
        self._eager: Callable[..., Any] = part.forward
        self._compiled: Callable[..., Any] = torch.compile(self._eager, dynamic=False)
        part.forward = self._forward

    def take_off(self) -> None:
        self._part.forward = self._eager

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self._compiled if getattr(self.switch, "on", False) else self._eager)(*args, **kwargs)


def _call_module(
    tracer: torch.fx.Tracer, module: torch.nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """In the place of the tracer's own, which the compiler puts into Module.__call__ for the whole process for some moments: it
    raises NameError at a stranger, and what other threads draw with then is that. A stranger is called as ever."""
    try:
        tracer.path_of_module(module)
    except NameError:
        return forward(*args, **kwargs)
    return _CALL_MODULE(tracer, module, forward, args, kwargs)


def _as_float(value: Any) -> Any:
    """A time step as float32, as the UNet makes of it anyway; anything else as it is."""
    is_step = isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_floating_point()
    return value.float() if is_step else value


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
