"""What a policy observed, beside the policy on the disk; and what it says of windows of observations."""

import json
import shutil

import numpy as np
import pytest

from rlab.errors import RlabError
from rlab.runs.folder import read_manifest
from rlab.runs.observed import EDGES, Closeness, ObsReference, load_observed, save_observed
from rlab.runs.policies import save_policy


def made_up(seed=3, **changes):
    """A reference of two features: the numbers 0 to 32, and 0 or 1."""
    facts = {
        "seed": seed,
        "features": ("obs[0]", "obs[1]"),
        "episodes": 101,
        "observations": 10_100,
        "longest": 100,
        "mean": np.array([16.0, 0.5]),
        "std": np.array([9.5, 0.5]),
        "quantiles": np.array([np.arange(EDGES), np.arange(EDGES) > 16], float),
        "rank_mean": np.full(4, 0.5),
        "windows": (1, 2, 4),
        "window_variance": np.array([[0.08] * 4, [0.06] * 4, [0.04] * 4]),
        "window_excess": np.array([[0.0] * 4, [1.0] * 4, [0.5] * 4]),
        "long_run_variance": np.full(4, 1.6),
        "closeness": Closeness(np.array([0]), np.array([0.5]), 0.1, 0.6, 0.2, 0.01),
    }
    return ObsReference(**{**facts, **changes})


CLOSE = made_up().closeness.to_json()


@pytest.fixture
def saved(run, make_policy):
    save_policy(run.policy, make_policy(0.5), {})
    save_observed(run.policy, [made_up(3), made_up(4, episodes=50)])
    return run


def test_what_was_observed_comes_back_and_the_manifest_vouches_for_it(saved, tmp_path):
    found = load_observed(saved.policy)
    assert found.keys() == {3, 4}
    assert found[4].episodes == 50
    for name in ("features", "longest", "windows"):
        assert getattr(found[3], name) == getattr(made_up(), name)
    for name in ("mean", "std", "quantiles", "rank_mean", "window_variance", "long_run_variance"):
        assert np.array_equal(getattr(found[3], name), getattr(made_up(), name)), name
    assert "policy/observed.json" in read_manifest(saved.path)["files"]
    assert not read_manifest(saved.path)["pending"]
    shutil.copytree(saved.policy, tmp_path / "shared")
    assert load_observed(tmp_path / "shared").keys() == {3, 4}
    data = json.loads((saved.policy / "observed.json").read_text())
    data["members"][0]["mean"][0] += 1
    (saved.policy / "observed.json").write_text(json.dumps(data))
    with pytest.raises(RlabError, match=r"observed.json has a different SHA-256"):
        load_observed(saved.policy)


def test_it_belongs_to_the_weights_that_were_judged_and_goes_with_them(saved, make_policy, tmp_path):
    shutil.copytree(saved.policy, tmp_path / "shared")
    kept = (saved.policy / "observed.json").read_bytes()
    save_policy(saved.policy, make_policy(0.6), {})
    assert load_observed(saved.policy) == {}
    assert not (saved.policy / "observed.json").exists()
    assert not any("observed" in name for name in read_manifest(saved.path)["files"])
    save_policy(tmp_path / "shared", make_policy(0.6), {})
    (tmp_path / "shared" / "observed.json").write_bytes(kept)  # as a crash between the two steps leaves it
    assert load_observed(tmp_path / "shared") == {}


def test_death_at_any_instant_leaves_the_old_statistics_or_the_new_ones(saved, every_death):
    seen = set()
    for copy, _ in every_death(saved.path, lambda copy: save_observed(copy / "policy", [made_up(3, episodes=7)])):
        found = load_observed(copy / "policy")
        seen.add(found[3].episodes)
        save_observed(copy / "policy", [made_up(9)])
        assert load_observed(copy / "policy").keys() == {9}
    assert seen == {7, 101}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": []}, "'features' must be a list"),
        ({"features": ["a", 2]}, "'features' must be a list"),
        ({"members": {}}, "'members' must be a list"),
        ({"members": [3]}, "must be an object, not 3"),
        ({"mean": [1.0]}, r"'mean' must be finite numbers of shape \[2\]"),
        ({"mean": ["x", "y"]}, "'mean' must be finite numbers"),
        ({"std": [1.0, -1.0]}, "not those of observations"),
        ({"rank_mean": [0.5, 0.5, 0.5, 1.5]}, "not those of observations"),
        ({"quantiles": [[9.0] + [0.0] * 32] * 2}, "not those of observations"),
        ({"windows": [1, 3, 6]}, "not those of observations"),
        ({"windows": []}, "'windows' must be a list"),
        ({"windows": [1, 2, "4"]}, r"windows\[2\] must be a whole number"),
        ({"window_variance": [[0.1] * 4] * 2}, r"'window_variance' must be finite numbers of shape \[3, 4\]"),
        ({"episodes": 1}, "not those of observations"),
        ({"longest_episode": 20_000}, "not those of observations"),
        ({"observations": -1}, "observations must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"closeness": None}, "'closeness' must name up to 4 features by their places"),
        ({"closeness": {"features": [2], "steps": [1.0]}}, "'closeness' must name up to 4 features"),
        ({"closeness": {"features": [0], "steps": [0.0, 1.0]}}, "'steps' must be finite numbers"),
        ({"closeness": {**CLOSE, "steps": [0.0]}}, "steps must be above 0"),
        ({"closeness": {**CLOSE, "variance": 2.0}}, "the rest from 0 to 1"),
    ],
)
def test_a_file_that_was_edited_is_refused_with_one_line(saved, tmp_path, change, message):
    shutil.copytree(saved.policy, tmp_path / "alone")
    path = tmp_path / "alone" / "observed.json"
    data = json.loads(path.read_text())
    (data if change.keys() & {"features", "members"} else data["members"][0]).update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(RlabError, match=message):
        load_observed(tmp_path / "alone")


def test_ranks_are_shares_of_the_quantiles_and_ties_count_half():
    ranks = made_up().ranks(np.array([[-1.0, 0.0], [16.0, 1.0], [16.5, 0.5], [99.0, 9.0]]))
    # 16 lies above 16 of 33 quantiles and equals one; of the zeros there are 17, of the ones 16.
    low = [0.0, 16.5 / 33, 17 / 33, 1.0]
    assert ranks[:, 0] == pytest.approx(low)
    assert ranks[:, 1] == pytest.approx([8.5 / 33, 25 / 33, 17 / 33, 1.0])
    assert ranks[:, 2:] == pytest.approx(np.abs(2 * ranks[:, :2] - 1))


def test_observations_are_close_where_they_are_a_step_apart():
    # In units of two steps of 0.5: exp(-1/2 d^2).
    close = made_up().closeness(np.array([0.0, 9.0]), np.array([[0.0, -9.0], [0.5, 0.0], [4.0, 9.0]]))
    assert close == pytest.approx([1.0, np.exp(-0.125), np.exp(-8.0)])


def test_a_window_varies_as_on_record_then_as_one_over_its_length_and_more_where_episodes_are_few():
    # chi squared of 100 degrees of freedom: 5 % lie below 77.93, so that a variance may be 1.283 times as large.
    # An episode of 100 like no other in 10 200 steps, at rank 0 or 1: 1/102 of 0.5 squared, 1/408.
    unseen = 1 / 408
    found = made_up().variance(np.array([1, 3.9, 4, 100, 1000, 10_100]))[:, 0]
    recorded = np.array([0.08, 0.06, 0.04, 1.6 / 100, 1.6 / 1000, 1.6 / 10_100])
    rare = unseen * np.array([1, 1, 1, 1, 1 / 10, 1 / 101])
    assert found == pytest.approx(recorded * 1.283 + rare, rel=1e-3)
    assert made_up().mean_variance[0] == found[-1]
    assert made_up().excess(np.array([1, 3, 4, 100]))[:, 0].tolist() == [0.0, 1.0, 0.5, 0.02]
    few = made_up(episodes=5).variance(np.ones(1))[0, 0]
    assert few == pytest.approx(0.08 * 5.63 + unseen, rel=0.03)  # 4 / 0.711, as tables have it


def test_what_never_varied_may_still_vary_in_an_episode_that_was_not_seen():
    still = made_up(window_variance=np.zeros((3, 4)), long_run_variance=np.zeros(4))
    assert still.variance(np.array([10, 100_000]))[:, 0] == pytest.approx([1 / 408, 1 / 408 / 1000])
