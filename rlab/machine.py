"""What this process runs on, for records of results: versions of packages and the hardware."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from rlab.version import VERSION


def versions() -> dict[str, str | None]:
    """What this process runs on, for config.json; None where a package is not installed."""
    known: dict[str, str | None] = {"python": platform.python_version(), "rlab": VERSION}
    for package in ("torch", "numpy", "gymnasium"):
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            known[package] = None
    return known


def hardware() -> dict[str, Any]:
    """What this process runs on, for records of speed: the processor, its cores, and the GPU where torch sees one."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # where platform only knows the architecture
        named = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(named, model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": model, "cores": os.cpu_count(), "gpu": gpu}
