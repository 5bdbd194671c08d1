"""What tests of several rooms share."""

import functools
import os
from collections.abc import Iterator

import pytest

from rlab.compression.distil import DistilSettings


@pytest.fixture(scope="module")
def few_visits() -> Iterator[None]:
    """Compression visits a tenth of the states that it does for people: what is kept, told and refused is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlab.jobs.compress.DistilSettings", functools.partial(DistilSettings, rows=200))
        patch.setattr("rlab.compression.steps.FEATURE_ROWS", 200)
        yield


@pytest.fixture(scope="module")
def quick_disk() -> Iterator[None]:
    """Nothing waits for the disk, which many small runs would do most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_terminal() -> Iterator[None]:
    """Tests that care for the width of a terminal set one themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield
