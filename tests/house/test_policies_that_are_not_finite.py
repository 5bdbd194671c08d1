"""A policy with NaN or infinity in it is never saved, and whatever is asked of one is refused in one line."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlab.cli.main import main
from rlab.compression.export.member_file import export
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import RlabError
from rlab.evaluation.evaluate import evaluate
from rlab.evaluation.record import record
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.runs import weights
from rlab.runs.policies import load_policy, save_policy

CARTPOLE = EnvSpec("CartPole-v1", max_episode_steps=10)
SEEDS = (3, 4)
FACTS = {"agent": "dqn", "env": CARTPOLE.to_json()}


def policy(value: float = 0.0) -> Policy:
    """Two members for CartPole, with this number in one bias of the second."""
    envs = make_episodes(CARTPOLE, 1)
    network = q_network_spec(envs.obs_space, 2, BodySettings(hidden=(8,)), False)
    spec = PolicySpec(envs.obs_space, envs.action_space, {"scaling": "none", "scale": None}, network)
    made = build_policy(spec, SEEDS)
    with torch.no_grad():
        made.network[0].bias[1, 0, 0] = value
    return made


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as somebody may send it: names and checksums are right, a weight is NaN."""
    folder = tmp_path_factory.mktemp("broken") / "policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "check_finite", lambda *_: None)
        save_policy(folder, policy(math.nan), FACTS)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "eval {0} --episodes 1",
        "play {0} --video {1}/film.gif",
        "collect {0} --episodes 1 --out {1}/data",
        "export {0} --format numpy --out {1}/a.npz",
        "compress {0} --steps prune:0.5 --out {1}/small",
        "compress {0} --steps distil:8 --out {1}/small",
        "finetune {0} CartPole-v1 --env-steps 100 --out {1}/run",
        "train dqn CartPole-v1 --teacher {0} --env-steps 100 --out {1}/run",
    ],
)
def test_every_verb_refuses_it_in_one_line(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(words.format(broken, tmp_path).split()) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{broken} cannot be used: 'network.0.bias' of the member with seed 4 is NaN or infinite." in line
    assert list(tmp_path.iterdir()) == []


def test_a_good_policy_is_not_replaced_by_a_broken_one(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    save_policy(folder, policy(1.5), FACTS)
    with pytest.raises(RlabError, match=r"nothing was saved: 'network\.0\.bias' of the member with seed 4"):
        save_policy(folder, policy(math.inf), FACTS)
    assert load_policy(folder).policy.network[0].bias[1, 0, 0] == 1.5
    assert len(list(folder.iterdir())) == 2


def test_a_policy_in_memory_is_refused_where_it_would_play() -> None:
    with pytest.raises(RlabError, match=r"^the policy cannot play: 'network\.0\.bias' of the member with seed 4"):
        evaluate(policy(math.nan), lambda n: make_episodes(CARTPOLE, n), 1, 100_000)
    alone = policy(math.nan).only(4)
    spaces = alone.spec.obs_space, alone.spec.action_space
    with pytest.raises(RlabError, match=r"^the policy cannot play"):
        record(alone, lambda n: make_episodes(CARTPOLE, n), spaces, 1, 200_000)


def test_a_policy_in_memory_is_not_exported(tmp_path: Path) -> None:
    obs = np.zeros((1000, 4), np.float32)
    with pytest.raises(
        RlabError, match=r"^the policy cannot be exported: 'network\.0\.bias' of the member with seed 4"
    ):
        export(policy(math.inf).member(4), obs, "numpy", tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
