"""The engines by name."""

import os

from rlab.engines.job import JobEngine
from rlab.engines.local import LocalEngine


def job_engine(name: str, at_once: int | None = None) -> JobEngine:
    """An engine, connected to what it runs jobs on; close it at last.

    Args:
        name: `local` or `ray`.
        at_once: how many jobs it runs at once; None: one for each CPU that it has.

    Raises:
        UsageError: Ray is not installed, or no cluster is found.
    """
    if name == "ray":
        from rlab.engines.ray_engine import RayEngine  # Ray takes its time

        return RayEngine(at_once)
    return LocalEngine(at_once or os.cpu_count() or 1)
