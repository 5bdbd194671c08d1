"""How a run that trains in a tensor env is judged: as tensors on the way, in Gymnasium's own env in the end."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.agents.ppo import PPOConfig
from rlab.envs import EnvSpec, tensor_env_of
from rlab.evaluation.tensor_evaluation import TensorEvaluation
from rlab.jobs import judging
from rlab.jobs.engine import CPU, Engine
from rlab.learning.actor_critic import actor_spec
from rlab.learning.programs import AS_IT_IS, Programs
from rlab.networks.policy import build_policy
from rlab.runs.config import RunConfig

pytestmark = pytest.mark.usefixtures("quick_disk")
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seeds": 2, "env_steps": 128, "rollout_steps": 16}
SMALL |= {"epochs": 1, "minibatches": 1, "hidden": (4,), "eval_every": 64, "eval_episodes": 3, "device": "cpu"}
SMALL |= {"final_eval_episodes": 2, "vector": "tensor", "compile": "off", "progress": True}


class Walk(gym.Env[np.ndarray, np.int64]):
    """A user's own env with a tensor version, which pays 1 and is over."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space: gym.spaces.Space = gym.spaces.Discrete(2)
    tensor_env = "rlab.envs.tensor_probes:ProbeConstant"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1, np.float32), 1.0, True, False, {}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The first episode seed of each judgement, of those as tensors and of those in Gymnasium's env."""
    found: dict[str, list[int]] = {"tensors": [], "gymnasium": []}
    call, evaluate = TensorEvaluation.__call__, judging.evaluate

    def as_tensors(self: TensorEvaluation, *args: Any) -> Any:
        found["tensors"].append(self.first_seed)
        return call(self, *args)

    def in_gymnasium(policy: Any, envs: Any, episodes: int, first_seed: int, **rest: Any) -> Any:
        found["gymnasium"].append(first_seed)
        return evaluate(policy, envs, episodes, first_seed, **rest)

    monkeypatch.setattr(TensorEvaluation, "__call__", as_tensors)
    monkeypatch.setattr(judging, "evaluate", in_gymnasium)
    return found


def evaluations(path: Path) -> list[Any]:
    return [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()[1:]]


def test_the_log_is_the_same_however_a_run_is_judged(
    tmp_path: Path, judged: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    as_tensors = rlab.train("ppo", "CartPole-v1", out=tmp_path / "a", **SMALL)
    assert judged == {"tensors": [500_000, 500_000], "gymnasium": [100_000]}
    assert "\njudged as tensors during training, and in the end in Gymnasium's env\n" in capsys.readouterr().out
    gymnasium = rlab.train("ppo", "CartPole-v1", out=tmp_path / "b", judge="gymnasium", **SMALL)
    assert judged == {"tensors": [500_000, 500_000], "gymnasium": [100_000, 500_000, 500_000, 100_000]}
    assert "\njudged in Gymnasium's env: as asked for\n" in capsys.readouterr().out
    assert evaluations(as_tensors.path) == evaluations(gymnasium.path)


def test_a_tensor_env_of_ones_own_is_judged_in_the_env_that_it_stands_for(
    tmp_path: Path, judged: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    rlab.train("ppo", Walk, out=tmp_path / "a", **SMALL)
    assert judged == {"tensors": [], "gymnasium": [500_000, 500_000, 100_000]}
    assert "\njudged in Gymnasium's env: the tensor version of" in capsys.readouterr().out


def test_a_run_that_trains_in_gymnasiums_env_is_judged_there(
    tmp_path: Path, judged: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    rlab.train("ppo", "CartPole-v1", out=tmp_path / "a", **SMALL | {"vector": "native"})
    assert judged == {"tensors": [], "gymnasium": [500_000, 500_000, 100_000]}
    assert "judged" not in capsys.readouterr().out


@pytest.mark.parametrize(("eval_every", "compiled"), [(10, 1), (1000, 0)])
def test_episodes_begin_once_and_one_policy_at_most_is_compiled_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, eval_every: int, compiled: int
) -> None:
    made: list[str] = []

    def programs(self: Engine) -> Programs:
        made.append("programs")
        return AS_IT_IS

    class Counted(judging.TensorEpisodes):
        def __init__(self, *args: Any) -> None:
            made.append("episodes")
            super().__init__(*args)

    monkeypatch.setattr(Engine, "programs", programs)
    monkeypatch.setattr(judging, "TensorEpisodes", Counted)
    run = RunConfig(env_steps=1000, eval_every=eval_every, eval_episodes=2)
    request: Any = SimpleNamespace(run=run, env=EnvSpec("rlab/ProbeConstant-v0"))
    judge = judging.Judge(request, Engine(CPU, compiled=True, tensor=True), lambda: False)
    env = tensor_env_of(request.env)
    policies = [build_policy(actor_spec(PPOConfig(hidden=(4,)), env.obs_space, env.action_space), (0,)) for _ in "ab"]
    for policy in (policies[0], policies[0], policies[1], policies[1]):
        found = judge(policy, verdict=False)
        assert found is not None
        assert found.returns.tolist() == [[1.0, 1.0]]
    assert (made.count("episodes"), made.count("programs")) == (1, compiled)
