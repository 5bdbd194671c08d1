"""The engines by name."""

import os

from rlab.engines.job import JobEngine
from rlab.engines.local import LocalEngine
from rlab.errors import UsageError


def job_engine(name: str, at_once: int | None = None) -> JobEngine:
    """An engine, connected to what it runs jobs on; close it at last.

    Args:
        name: `local` or `ray`.
        at_once: how many jobs it runs at once; None: one for each CPU that it has.

    Raises:
        UsageError: Ray is not installed, no cluster is found, or no job could run.
    """
    if at_once is not None and at_once < 1:
        raise UsageError(f"jobs {at_once} must be 1 or more.")
    if name == "ray":
        from rlab.engines.ray_engine import RayEngine  # Ray takes its time

        return RayEngine(at_once)
    return LocalEngine(at_once or os.cpu_count() or 1)
