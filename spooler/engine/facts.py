"""`python -m spooler.engine.facts`: what torch can do on this machine, as one JSON object. For `sdspool doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from typing import Any

#: Packages that a feature needs, and the feature.
PACKAGES = {
    "torch": "everything",
    "diffusers": "everything",
    "transformers": "everything",
    "compel": "prompt weights",
    "peft": "LoRA",
    "torchao": "--weights int8",
    "xformers": "--attention xformers",
    "spandrel": "ESRGAN upscalers",
    "nudenet": "--classifier nudenet",
}


def facts() -> dict[str, Any]:
    """Devices, the formats that they compute in, and the versions of the packages that are there."""
    import torch

    found: dict[str, Any] = {
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": [],
        "cpu_threads": torch.get_num_threads(),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found["gpus"].append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "total_bytes": total,
                "free_bytes": free,
                "capability": f"{properties.major}.{properties.minor}",
                "bfloat16": properties.major >= 8,
            }
        )
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name) if importlib.util.find_spec(name) else None
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts()))
