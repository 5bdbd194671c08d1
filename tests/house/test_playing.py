"""Watching and judging with sampled actions: the same from Python and the command line, and the same seed, the same."""

import json
from pathlib import Path

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.runs.policies import load_policy, save_policy

CARTPOLE = EnvSpec("CartPole-v1", max_episode_steps=40)
SEEDS = (3, 4, 9)


def saved(folder: Path, epsilon: float) -> Path:
    """Three untrained members for CartPole."""
    envs = make_episodes(CARTPOLE, 1)
    network = q_network_spec(envs.obs_space, 2, BodySettings((16,), "tanh", init="orthogonal"), False)
    head = {"kind": "q", "epsilon": epsilon}
    spec = PolicySpec(envs.obs_space, envs.action_space, {"scaling": "none", "scale": None}, network, head)
    save_policy(folder, build_policy(spec, SEEDS), {"agent": "dqn", "env": CARTPOLE.to_json()})
    return folder


@pytest.fixture(scope="module")
def exploring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("exploring"), 0.5)


def test_play_returns_what_an_evaluation_of_the_member_returns(exploring: Path) -> None:
    done = rlab.play(exploring, member=4, episodes=3, frames=True)
    judged = rlab.evaluate(exploring, member=4, episodes=3)
    assert done.seeds == (100_000, 100_001, 100_002)
    assert list(done.returns) == judged.returns[0].tolist()
    assert list(done.lengths) == judged.lengths[0].tolist()
    assert len(done.frames) == sum(done.lengths)  # one picture after each step
    assert done.frames[0].dtype == np.uint8
    assert done.frames[0].shape[2] == 3
    assert done.video is None


def test_a_film_shows_itself_in_a_notebook_and_the_command_line_says_the_same(
    exploring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("moviepy")
    film = tmp_path / "a.gif"
    done = rlab.play(exploring, video=film)
    assert '<img src="data:image/gif;base64,R0lGOD' in str(done._repr_html_())  # GIF8, in base64
    capsys.readouterr()
    film.unlink()  # play leaves one that is there
    assert main(["play", str(exploring), "--video", str(film), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": 1,
        "episodes": [{"seed": 100_000, "return": done.returns[0], "length": done.lengths[0]}],
        "video": str(film),
    }


def test_sampled_episodes_are_repeatable_differ_from_greedy_ones_and_say_so(
    exploring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, again = (rlab.play(exploring, episodes=4, stochastic=True, frames=True).returns for _ in range(2))
    assert once == again
    assert list(once) == rlab.evaluate(exploring, member=3, episodes=4, stochastic=True).returns[0].tolist()
    assert once != rlab.play(exploring, episodes=4, frames=True).returns
    outputs = []
    for words in (["--stochastic"], ["--stochastic"], []):
        assert main(["eval", str(exploring), "--episodes", "5", "--json", *words]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert [each["greedy"] for each in outputs] == [False, False, True]
    assert outputs[0]["per_seed"] != outputs[2]["per_seed"]
    assert main(["eval", str(exploring), "--episodes", "2", "--stochastic"]) == 0
    assert "episode seeds 100000 to 100001, sampled actions" in capsys.readouterr().out


def test_a_sampled_episode_is_the_same_whoever_and_however_many_play_beside_it(exploring: Path) -> None:
    policy = load_policy(exploring).policy

    def returns(stack: object, episodes: int, first: int, most: int) -> np.ndarray:
        return evaluate(stack, lambda n: make_episodes(CARTPOLE, n), episodes, first, most, greedy=False).returns

    together = returns(policy, 6, 50, 512)  # one block of 3 x 6 envs
    assert together.tolist() == returns(policy, 6, 50, 6).tolist()  # blocks of two episodes
    assert together[1].tolist() == returns(policy.only(4), 6, 50, 512)[0].tolist()
    assert together[:, 4:].tolist() == returns(policy, 2, 54, 512).tolist()


@pytest.mark.parametrize("how", ["evaluate", "play", "collect"])
def test_q_values_without_recorded_exploration_are_not_sampled(tmp_path: Path, how: str) -> None:
    folder = saved(tmp_path / "policy", 0.0)
    words = (tmp_path / "out",) if how == "collect" else ()
    with pytest.raises(UsageError, match=r"this policy records no exploration .* epsilon=0\.05\)"):
        getattr(rlab, how)(folder, *words, stochastic=True)


def test_a_loaded_policy_samples_from_the_seed_that_it_is_given(exploring: Path) -> None:
    obs = np.zeros((50, 4), np.float32)
    first, again, other = (rlab.load(exploring, 4, sample_seed=seed)(obs, greedy=False) for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()
