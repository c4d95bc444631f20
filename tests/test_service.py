"""A spooler whose engine cannot work as configured ends, and says why. What one that works does is in test_contract.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import Spooler

from spooler.spool import Spool


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "/nowhere"), "but '/nowhere' is none"),
        (("--device", "cuda:7"), "'cuda:7' is not"),
    ],
)
def test_the_engine_refuses_to_start_without_weights_or_device(spool: Spool, options: tuple[str, ...], sentence: str) -> None:
    refused = Spooler(spool, *options)
    assert refused.ended() == 2
    assert sentence in refused.log


def test_p9_pickled_weights_are_no_weights(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused = Spooler(spool, "--model", str(tmp_path / "model"))
    assert refused.ended() == 2
    assert "pickles are not loaded" in refused.log
