"""What several tests of the run folder share: a small policy, a process that dies, and a run to play with."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlab import disk
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.runs import files
from rlab.runs.folder import RunFolder

CONFIG = {
    "agent": "dqn",
    "env": {"env_id": "CartPole-v1"},
    "run": {"env_steps": 1000, "seed": 3, "seeds": 2},
    "settings": {"gamma": 0.9},
}


class Killed(BaseException):
    """The process is dead: nothing catches this."""


class DyingOs:
    """Stands in for `os`: lets `lives` operations on the disk happen, dies in the next one, and stays dead."""

    CHANGES = ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir")

    def __init__(self, lives: int) -> None:
        self.lives = lives

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._mortal(name, real) if name in self.CHANGES else real

    def _mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            self.lives -= 1
            if self.lives == -1 and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])  # a write is what a death cuts in two
            if self.lives < 0:
                raise Killed
            return real(*args, **kwargs)

        return operation


@pytest.fixture
def every_death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Iterator[tuple[Path, bool]]]:
    """`every_death(folder, action)`: copies of `folder` in which `action(copy)` died after 0, 1, 2, ... operations.

    Gives each copy and whether `action` came to its end, which only the last one did.
    """

    def deaths(folder: Path, action: Callable[[Path], None]) -> Iterator[tuple[Path, bool]]:
        for lives in itertools.count():
            copy = Path(tempfile.mkdtemp(prefix=f"dies-after-{lives}-", dir=tmp_path)) / folder.name
            shutil.copytree(folder, copy)
            with monkeypatch.context() as patch:
                dying = DyingOs(lives)
                patch.setattr(files, "os", dying)
                patch.setattr(disk, "os", dying)
                try:
                    action(copy)
                except Killed:
                    survived = False
                else:
                    survived = True
            yield copy, survived
            if survived:
                assert lives > 5, "the action hardly touched the disk; is it still written through rlab.runs.files?"
                return

    return deaths


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG)


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """`make_policy(value)`: two members with seeds 3 and 4, every parameter equal to `value`."""

    def make(value: float, hidden: int = 5) -> Policy:
        box = Box((4,), "float32", float("-inf"), float("inf"))
        network = q_network_spec(box, 2, BodySettings(hidden=(hidden,)))
        preprocess = {"scaling": "running", "scale": None}
        policy = build_policy(PolicySpec(box, Discrete(2), preprocess, network), (3, 4))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.fill_(value)
        return policy

    return make
