"""torch.compile in the background: eager code serves meanwhile, and goes on serving when nothing can be compiled."""

from __future__ import annotations

import threading

import pytest
import torch
from house import wait_for

from spooler.engine.compiled import Compiled


class Block(torch.nn.Module):
    """One of the parts that a regional compilation compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x)) + x


class Backbone(torch.nn.Module):
    """As a UNet is called: a sample, a time step, and keywords."""

    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(Block(), Block())
        self.eager_calls = 0

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.eager_calls += 1
        return self.blocks(sample) * scale + timestep


# What the compiler warns of is not ours, and it works in a thread where a warning as an error would end it.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["full", "regional"])
def test_the_first_call_of_a_shape_is_eager_and_later_ones_are_compiled_and_the_same(mode: str) -> None:
    module = Backbone().eval()
    sample, timestep = torch.randn(2, 8), torch.tensor(3.0)
    with torch.inference_mode():
        plain = module(sample, timestep, scale=2.0)
        compiled = Compiled(module, mode)
        assert torch.equal(module(sample, timestep, scale=2.0), plain), "the eager result while the compiler is at work"
        wait_for(lambda: compiled.ready or compiled.failed, "the shape to be compiled")
        assert compiled.failed is None
        eager_calls = module.eager_calls
        assert torch.allclose(module(sample, timestep, scale=2.0), plain, atol=1e-6)
        if mode == "full":
            assert module.eager_calls == eager_calls, "compiled code ran"

        # A LoRA changes the layers: eager until it is off again.
        compiled.paused = True
        module(sample, timestep, scale=2.0)
        assert module.eager_calls > eager_calls

        # Another shape is another graph.
        compiled.paused = False
        module(torch.randn(4, 8), timestep, scale=2.0)
        wait_for(lambda: compiled.ready == 2 or compiled.failed, "the second shape to be compiled")
    assert compiled.ready == 2
    compiled.stop()
    assert torch.equal(module(sample, timestep, scale=2.0), plain)


def test_what_cannot_be_compiled_goes_on_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    module = Backbone().eval()
    compiled = Compiled(module, "full")
    sample, timestep = torch.randn(2, 8), torch.tensor(3.0)
    with torch.inference_mode():
        before = module(sample, timestep)
        assert wait_for(lambda: compiled.failed, "the failure to be noted") == "no C++ compiler found"
        assert torch.equal(module(sample, timestep), before)
    compiled.stop()


def test_what_other_threads_draw_with_is_none_of_the_tracer_s() -> None:
    """Any module: those that are not compiled, too (the VAE, the text encoder, a UNet with DeepCache or a LoRA)."""
    tracing, go_on = threading.Event(), threading.Event()

    class Traced(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tracing.set()
            go_on.wait(60)
            return super().forward(x)

    compiled, module, x = Compiled(Backbone(), "full"), Block(), torch.randn(2, 8)
    plain = module(x)
    graphs: list[torch.fx.Graph] = []
    thread = threading.Thread(target=lambda: graphs.append(torch.fx.Tracer().trace(Traced())))
    thread.start()
    try:
        assert tracing.wait(60)
        assert torch.equal(module(x), plain)
    finally:
        go_on.set()
        thread.join()
        compiled.stop()
    assert "linear" in [node.target for node in graphs[0].nodes], "it still sees what it traces"


def test_a_stopped_one_lets_go_of_its_module() -> None:
    threads = threading.active_count()
    compiled = Compiled(Backbone(), "full")
    compiled.stop()
    wait_for(lambda: threading.active_count() <= threads or None, "the thread to end")
