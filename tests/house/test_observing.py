"""What policies observe while they are judged is recorded with them, and changes nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import UsageError
from rlab.evaluation.episode_driver import EpisodeStep
from rlab.jobs import observing
from rlab.jobs.observing import ObsRecorder, reference
from rlab.networks.spaces import Box
from rlab.runs.folder import RunFolder
from rlab.runs.observed import load_observed

pytestmark = pytest.mark.usefixtures("quick_disk")
TINY: dict[str, Any] = {
    "experiment": "none",
    "env_steps": 64,
    "num_envs": 2,
    "hidden": (8,),
    "max_episode_steps": 12,
    "eval_every": 0,
    "final_eval_episodes": 6,
}
LINE = Box((1,), "float32", -9.0, 9.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rlab.train("ppo", "CartPole-v1", out=tmp_path_factory.mktemp("runs") / "run", seeds=2, **TINY).path


def heard(recorder: ObsRecorder, values: np.ndarray, first_episode: int = 0, alive: np.ndarray | None = None) -> None:
    """A block in which row p of B columns observes `values [T, P, B]`; `alive [T, P, B]` says whose episode goes on."""
    playing = np.arange(values.shape[1])
    for time, row in enumerate(values):
        active = np.ones(row.shape, bool) if alive is None else alive[time]
        step = EpisodeStep(active, row[..., None].astype(np.float32), *[np.zeros(row.shape)] * 5)
        recorder(playing, first_episode, step)


def test_each_member_has_the_statistics_of_its_own_episodes_in_their_order() -> None:
    recorder = ObsRecorder(LINE, (3, 4))
    values = np.random.default_rng(0).normal(size=(20, 2, 6)).round(2)
    alive = np.arange(20)[:, None, None] < np.array([20, 10, 20, 5, 20, 20])  # episodes of these lengths
    heard(recorder, values, 0, np.broadcast_to(alive, values.shape))
    heard(recorder, values + 1.0, 6)
    found = recorder.references()
    assert [found[place].seed for place in (0, 1)] == [3, 4]
    for place in (0, 1):
        first = [values[:length, place, column] for column, length in enumerate([20, 10, 20, 5, 20, 20])]
        whole = np.concatenate([*first, *(values[:, place, column] + 1.0 for column in range(6))])
        own = found[place]
        assert (own.episodes, own.observations, own.longest) == (12, 95 + 120, 20)
        assert own.mean[0] == pytest.approx(whole.mean(), abs=1e-6)
        assert own.std[0] == pytest.approx(whole.std(), abs=1e-6)
        lengths = np.array([20, 10, 20, 5, 20, 20] + [20] * 6)
        again = reference(0, ("obs[0]",), whole.astype(np.float32)[:, None].astype(np.float64), lengths)
        assert own.window_variance == pytest.approx(again.window_variance)
        assert own.long_run_variance == pytest.approx(again.long_run_variance)


def test_windows_of_consecutive_observations_are_as_correlated_as_their_episodes_are() -> None:
    # 40 episodes of 16 steps, each of which stays where it is: at 0 or at 1, in turn. Ranks 0.25 and 0.75 about.
    whole = np.repeat(np.tile([0.0, 1.0], 20), 16)[:, None]
    found = reference(0, ("x",), whole, np.full(40, 16))
    assert found.windows == (1, 2, 4, 8, 16, 32)
    variance = found.window_variance[:, 0] / found.window_variance[0, 0]
    # The mean of a window of w <= 16 changes from one side to the other over w of 16 steps: 1 - 2/3 w/16 of the
    # variance is left, but for the ends; windows of two episodes are all alike.
    assert variance[:5] == pytest.approx([1 - w / 24 for w in (1, 2, 4, 8, 16)], abs=0.05)
    assert variance[5] == pytest.approx(0.0, abs=1e-9)
    # An episode is 16 times as far from the mean as an observation: variance 16 times, per step of an episode.
    assert found.long_run_variance[0] / found.window_variance[0, 0] == pytest.approx(16 * 40 / 39)


def test_where_observations_are_too_many_steps_at_equal_distances_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "MOST_NUMBERS", 100)
    recorder = ObsRecorder(LINE, (0,))
    values = np.broadcast_to(np.arange(32)[:, None, None], (32, 1, 6))
    heard(recorder, values)  # 192 numbers: every second step is left
    heard(recorder, values, 6)  # 384: every fourth
    own = recorder.references()[0]
    assert set(own.quantiles[0]) == set(range(0, 32, 4))
    assert own.windows[0] == 4
    assert (own.observations, own.longest, own.episodes) == (384, 32, 12)
    assert own.mean[0] == 14.0


def test_nothing_is_said_of_few_episodes_and_of_observations_with_too_many_features() -> None:
    recorder = ObsRecorder(LINE, (0,))
    heard(recorder, np.zeros((3, 1, 4)))
    assert recorder.references() == {}
    wide = ObsRecorder(Box((3000,), "float32", 0.0, 1.0), (0,))
    wide(np.zeros(1, int), 0, EpisodeStep(np.ones((1, 1), bool), np.zeros((1, 1, 3000)), *[np.zeros((1, 1))] * 5))
    assert wide.references() == {}
    assert ObsRecorder(LINE, ()).references() == {}


def test_a_run_records_what_its_final_policy_observed(run: Path) -> None:
    found = load_observed(run / "policy")
    assert found.keys() == {0, 1}
    lengths = json.loads((run / "result.json").read_text())["per_seed"]
    for own, judged in zip(found.values(), lengths, strict=True):
        assert own.episodes == 6
        assert own.observations == round(6 * judged["length_mean"])
        assert own.features == tuple(f"obs[{place}]" for place in range(4))
        assert (np.abs(own.mean) < 0.5).all()
        assert (own.std > 0.01).all()


def test_eval_records_it_of_a_policy_without_and_in_place_of_what_there_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "alone"
    policy.mkdir()
    for file in (run / "policy").iterdir():
        if file.name != "observed.json":
            (policy / file.name).write_bytes(file.read_bytes())
    rlab.evaluate(policy, episodes=6)
    assert load_observed(policy) == {}
    assert main(["eval", str(policy), "--episodes", "6", "--record-observed", "--json"]) == 0
    capsys.readouterr()
    again, recorded = load_observed(policy), load_observed(run / "policy")
    assert [each.to_json() for each in again.values()] == [each.to_json() for each in recorded.values()]  # same seeds
    rlab.evaluate(run, episodes=8, record_observed=True)
    assert load_observed(run / "policy")[0].episodes == 8
    RunFolder.open(run)
    rlab.load(run)


def test_what_cannot_be_recorded_is_refused_before_anything_is_played(run: Path) -> None:
    with pytest.raises(UsageError, match="needs 5 episodes or more, not 4"):
        rlab.evaluate(run, episodes=4, record_observed=True)
    with pytest.raises(UsageError, match="leave --stochastic out"):
        rlab.evaluate(run, stochastic=True, record_observed=True)


def test_each_set_of_settings_has_its_own(tmp_path: Path) -> None:
    varied = rlab.train("ppo", "CartPole-v1", out=tmp_path / "varied", vary={"gamma": [0.9, 0.99]}, **TINY)
    assert [load_observed(each.path / "policy").keys() for each in varied.runs] == [{0}, {0}]


@pytest.mark.usefixtures("few_visits")
def test_a_compressed_policy_has_its_own(run: Path, tmp_path: Path) -> None:
    done = rlab.compress(run, "int8", out=tmp_path / "small", episodes=6, member=1)
    assert load_observed(done.path)[1].episodes == 6
