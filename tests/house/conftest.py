"""What the tests from demonstrations to fine-tuning share: tiny experts, a dataset, and runs with listeners."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab import api
from rlab.cli import finetune, pretrain, train
from rlab.jobs.inputs import open_inputs
from rlab.jobs.listeners import Audience
from rlab.jobs.request import Request
from rlab.jobs.session import Outcome, Session
from rlab.learning.runtime import torch_settings
from rlab.networks.policy import Policy
from rlab.runs.folder import RunFolder
from rlab.runs.logs import read_json_lines
from rlab.runs.policies import load_policy

SEEDS = (3, 4)
JUDGED: dict[str, Any] = {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 1}
# Three layers: network.0, network.2 and network.4.
TINY: dict[str, Any] = {**JUDGED, "experiment": "none", "num_envs": 4, "hidden": (16, 8), "seed": 3, "seeds": 2}
Hook = Callable[[Session, int], None]
LIMIT = 30  # env steps of an episode of CartPole-v1, so that episodes are short


class Hearing:
    """A listener that calls `on_report(session, time)` and `on_save(session, time)`; `begin` gives it the session."""

    session: Session

    def __init__(self, on_report: Hook | None = None, on_save: Hook | None = None) -> None:
        self._on_report, self._on_save = on_report, on_save

    @property
    def hears_saves(self) -> bool:
        """Whether it looks at what was saved."""
        return self._on_save is not None

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if self._on_report is not None:
            self._on_report(self.session, env_steps)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None:
        if self._on_save is not None:
            self._on_save(self.session, env_steps)


class HearsSaves:
    """A user's listener for whom saves are on the disk before the run goes on."""

    def on_save(self, env_steps: int) -> None: ...


class StopAt(Hearing):
    """Presses Ctrl+C at the first report, or the first evaluation, from `time` on."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self.time = time

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if env_steps >= self.time:
            signal.raise_signal(signal.SIGINT)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        self.on_metrics(env_steps, {})


def flags(**settings: Any) -> list[str]:
    """Settings as the command line writes them."""
    words = []
    for name, value in settings.items():
        words.append(f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}")
        if not isinstance(value, bool):
            words += [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
    return words


def asked(verb: str, *words: str, **settings: Any) -> Request:
    """What a command line asks for, without doing it."""
    rest = flags(**settings)
    if verb == "train":
        return train.read_request(words[0], words[1], [*words[2:], *rest])[0]
    if verb == "pretrain":
        return pretrain.read_request(words[0], words[1], [*words[2:], *rest])[0]
    return finetune.read_request([*words, *rest])[0]


def begin(request: Request, out: Path, listeners: Sequence[Hearing] = ()) -> tuple[Session, RunFolder, Outcome]:
    """Carry a request out as `rlab.jobs.running.start` does, with listeners."""
    with torch_settings(request.run.threads):
        sources = open_inputs(request)
        session = Session(request, sources)
        for listener in listeners:
            listener.session = session
        folder = RunFolder.create(out, request.to_json(), None, sources.keep)
        heard = Audience([HearsSaves()] if any(listener.hears_saves for listener in listeners) else [])
        return session, folder, session.train(folder, listeners, heard)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All that a policy on the disk consists of, by name."""
    return load_policy(path).policy.state_dict()


def check_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Every tensor is there on both sides, with the same bits."""
    assert one.keys() == other.keys()
    assert all(torch.equal(value.cpu(), other[name].cpu()) for name, value in one.items())


def outputs(path: Path, obs: torch.Tensor) -> torch.Tensor:
    """What the members of a policy on the disk say of `obs [S, B, *obs]`."""
    with torch.no_grad():
        found: torch.Tensor = load_policy(path).policy.outputs(obs)
        return found


def copied(policy: Policy) -> dict[str, torch.Tensor]:
    """The tensors of a policy as they are now, on the CPU."""
    return {name: value.cpu().clone() for name, value in policy.state_dict().items()}


def rows(path: Path, log: str = "metrics") -> list[dict[str, Any]]:
    """The rows of a log of a run."""
    return read_json_lines(path / f"{log}.jsonl")[1]


@pytest.fixture(scope="session")
def road() -> SimpleNamespace:
    """The helpers and settings above."""
    return SimpleNamespace(
        SEEDS=SEEDS,
        JUDGED=JUDGED,
        TINY=TINY,
        LIMIT=LIMIT,
        Hearing=Hearing,
        StopAt=StopAt,
        flags=flags,
        asked=asked,
        begin=begin,
        weights=weights,
        check_same=check_same,
        outputs=outputs,
        copied=copied,
        rows=rows,
    )


@pytest.fixture(scope="session")
def ppo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members that PPO trained for CartPole-v1, hardly at all."""
    out = tmp_path_factory.mktemp("runs") / "ppo"
    rlab.train("ppo", "CartPole-v1", out=out, env_steps=512, rollout_steps=32, max_episode_steps=LIMIT, **TINY)
    return out


@pytest.fixture(scope="session")
def dqn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members that DQN trained for CartPole-v1, hardly at all, with the layers of `ppo_run`."""
    out = tmp_path_factory.mktemp("runs") / "dqn"
    learning = {"env_steps": 256, "learning_starts": 64, "batch_size": 16, "layer_norm": False}
    rlab.train("dqn", "CartPole-v1", out=out, max_episode_steps=LIMIT, **learning, **TINY)
    return out


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, ppo_run: Path) -> Path:
    """Twelve episodes of the first member of `ppo_run`."""
    pytest.importorskip("minari")
    out = tmp_path_factory.mktemp("datasets") / "cartpole"
    api.collect(ppo_run, out, episodes=12, noise=0.3)
    return out


@pytest.fixture(scope="session")
def cloned_run(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """Two members that were cloned from `dataset` for PPO, with the same layers as `ppo_run`."""
    out = tmp_path_factory.mktemp("runs") / "cloned"
    settings = {"updates": 40, "batch_size": 32, "hidden": (16, 8), "seed": 3, "seeds": 2}
    rlab.pretrain("bc", dataset, out=out, **settings, **JUDGED)
    return out


@pytest.fixture(scope="session")
def obs() -> torch.Tensor:
    """Observations of CartPole-v1 for two members, `[2, 50, 4]`."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 50, 4)).astype(np.float32))
