"""What this process runs on, for records of results: versions of packages and the hardware."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlab.version import VERSION

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun puts into the environment


def versions() -> dict[str, str | None]:
    """What this process runs on, for config.json; None where a package is not installed."""
    known: dict[str, str | None] = {"python": platform.python_version(), "rlab": VERSION}
    for package in ("torch", "numpy", "gymnasium"):
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            known[package] = None
    return known


@cache
def commit() -> str | None:
    """The git commit of rlab's own code, with `-dirty` behind it where tracked files differ from that; None where rlab
    is installed without its repository, or there is no git."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # not of another repository
    try:
        found = subprocess.run(words, env=own, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def is_installed(module: str) -> bool:
    """Whether a module could be imported; nothing is."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def processor() -> str:
    """The model of the CPU, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # where platform only knows the architecture
        named = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        if model := next(named, None):
            return model
    return platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """What this process runs on, for records of speed: the processor, its cores, and the GPU where torch sees one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor(), "cores": os.cpu_count(), "gpu": gpu}


def computed_with(device: str, processes: int = 1) -> dict[str, str | None]:
    """What decides how the numbers of a run are rounded: the kind of device (`cpu`, `cuda`), versions of packages, the
    processor with the instructions that torch uses of it, the GPU where one computes, and how many processes train one
    learner."""
    import torch

    of_cpu = {"cpu": processor(), "cpu instructions": torch.backends.cpu.get_cpu_capability()}
    on_gpu = device == "cuda" and torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if on_gpu else None
    return {**versions(), **of_cpu, "device": gpu or device, "processes": str(processes)}


def differences(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """What is not as it was, in words: `torch 2.12.0 (now 2.13.0)`."""
    return [f"{name} {was} (now {now[name]})" for name, was in before.items() if now.get(name, was) != was]


def ranks_started() -> tuple[int, int]:
    """The rank of this process and how many there are, as `torchrun` says; (0, 1) where it did not start this one."""
    if any(name not in os.environ for name in TORCHRUN):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def ranks_here() -> tuple[int, int]:
    """The rank of this process among those of its machine, and how many there are; (0, 1) without `torchrun`."""
    if ranks_started()[1] == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
