"""Whose code a line is: a user's own, or of something installed."""

import json

import pytest

from rlab.places import _is_own


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("/srv/ada/lab/my_envs.py", True),
        ("/opt/base/lib/python3.12/site-packages/torch/tensor.py", False),  # of the installation that a venv looks into
        ("/usr/lib/python3/dist-packages/numpy/core.py", False),
        (json.__file__, False),
        ("<string>", False),
    ],
)
def test_what_is_installed_is_no_code_of_the_user(file: str, own: bool) -> None:
    assert _is_own(file) == own
