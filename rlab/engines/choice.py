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
        UsageError: what it runs on cannot be reached.
    """
    if name != "local":
        raise UsageError(f"--engine {name} is not there yet; --engine local is.")
    return LocalEngine(at_once or os.cpu_count() or 1)
