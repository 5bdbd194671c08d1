"""Visited states, in a world whose every state names its episode and its step."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.compression import visits
from rlab.compression.visits import END_OF_VISIT_SEEDS, FIRST_VISIT_SEED, WIDTH, seeds_needed, visited
from rlab.errors import RlabError, UsageError
from rlab.jobs.judging import COLLECTED_EPISODE_SEED, FINAL_EPISODE_SEED, TRAINING_EPISODE_SEED
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec
from rlab.randomness import stream

OBS = Box((3,), "float32", 0.0, 1e6)
NEVER = 10**9


class NamedStates:
    """Observes [seed, step, last action]. Action 0 goes on, until 1 + seed % 5 steps; action 1 ends the episode."""

    time_limit = None

    def __init__(self, num_envs, length=lambda seeds: 1 + seeds % 5):
        self.num_envs, self.length = num_envs, length
        self.seeds_of_resets, self.steps, self.closed = [], np.zeros(num_envs, int), False

    def reset(self, seeds):
        assert len(seeds) == self.num_envs
        self.seeds_of_resets.append(list(seeds))
        self.obs = np.zeros((self.num_envs, 3), np.float32)
        self.obs[:, 0], self.end = seeds, self.length(np.array(seeds))
        self.over = np.zeros(self.num_envs, bool)
        return self.obs.copy()

    def step(self, action, active):
        assert action.shape == active.shape == (self.num_envs,)
        assert not (active & self.over).any(), "a finished episode was stepped"
        self.steps += active
        self.obs[active, 1] += 1
        self.obs[active, 2] = action[active]
        truncated = active & (self.obs[:, 1] >= self.end)
        self.over |= truncated | (active & (action == 1))
        return self.obs.copy(), np.zeros(self.num_envs), active & (action == 1), truncated & (action == 0)

    def close(self):
        self.closed = True


class Makes:
    """`make_envs` that remembers what it made."""

    def __init__(self, **options):
        self.options, self.made = options, []

    def __call__(self, n):
        self.made.append(NamedStates(n, **self.options))
        return self.made[-1]

    @property
    def seeds(self):
        return [seed for envs in self.made for seeds in envs.seeds_of_resets for seed in seeds]


def constant_policy(*actions, seeds=None, epsilon=0.0):
    """Member i has Q values that make it take `actions[i]`."""
    network = NetworkSpec((LayerSpec("linear", {"in_features": 3, "out_features": 2}),))
    head = {"kind": "q", "epsilon": epsilon}
    spec = PolicySpec(OBS, Discrete(2), {"scaling": "none", "scale": None}, network, head)
    policy = build_policy(spec, seeds or tuple(range(len(actions))))
    with torch.no_grad():
        policy.network[0].weight.zero_()
        policy.network[0].bias.zero_()
        for member, action in enumerate(actions):
            policy.network[0].bias[member, 0, action] = 1.0
    return policy


def test_the_states_are_those_of_whole_episodes_from_the_seeds_for_visits():
    # ten episodes of 1, 2, 3, 4, 5, 1, 2, 3, 4, 5 steps: 30 states, the last observation of an episode is none of them
    found = visited(constant_policy(0, 0), Makes(), rows=30)
    assert found.shape == (2, 30, 3)
    want = {(FIRST_VISIT_SEED + k, t) for k in range(WIDTH) for t in range(1 + k % 5)}
    for member in found:
        assert {(int(seed), int(t)) for seed, t, _ in member} == want


def test_fewer_rows_are_a_sample_without_repetition_of_the_same_episodes():
    makes = Makes()
    found = visited(constant_policy(0), makes, rows=12)[0]
    assert len({tuple(row) for row in found.tolist()}) == 12
    assert max(makes.seeds) == FIRST_VISIT_SEED + WIDTH - 1
    assert makes.made[0].closed


@pytest.mark.parametrize(("most", "made"), [(1, 1), (2, 2), (3, 3), (7, 6), (30, 30), (99, 30)])
def test_the_states_are_the_same_with_few_envs_at_once(most, made):
    makes = Makes()
    makes.most, makes.most_at_once = most, lambda members: WIDTH * members
    found = visited(constant_policy(0, 1, 0), makes, rows=10)
    assert [envs.num_envs for envs in makes.made] == [made]  # whole columns: 7 envs serve 3 members with 2 each
    # member 1 ends each of its ten episodes at once; the others sample 10 of the 30 states of theirs
    assert sorted(found[1, :, 0]) == list(range(FIRST_VISIT_SEED, FIRST_VISIT_SEED + WIDTH))
    assert (found[1, :, 1:] == 0).all()
    all_of_them = visited(constant_policy(0, 1, 0), makes, rows=30)
    want = {(FIRST_VISIT_SEED + k, t) for k in range(WIDTH) for t in range(1 + k % 5)}
    for member in (0, 2):
        assert {(int(seed), int(t)) for seed, t, _ in all_of_them[member]} == want
    assert len({tuple(row) for row in all_of_them[1].tolist()}) == 30


@pytest.mark.parametrize("most", [1, 3, None])
def test_with_few_envs_the_same_episodes_are_sampled_ones(most):
    makes = Makes(length=lambda seeds: np.full(len(seeds), 9))
    makes.most, makes.most_at_once = most, lambda members: WIDTH * members
    # greedy actions end an episode at once, so that only the second half of each ten, which sample, can go on
    found = visited(constant_policy(1, epsilon=1.0), makes, rows=40, sampled=0.5)[0]
    long = {int(seed - FIRST_VISIT_SEED) % WIDTH for seed, step, _ in found if step > 0}
    assert long
    assert long <= {5, 6, 7, 8, 9}


def test_no_env_at_all_is_one_line():
    makes = Makes()
    makes.most, makes.most_at_once = 0, lambda members: WIDTH * members
    with pytest.raises(UsageError, match=r"^visits need one env or more, not 0\.$"):
        visited(constant_policy(0), makes, rows=3)


def test_a_member_plays_until_it_has_seen_enough_and_then_rests():
    # Member 0 ends every episode at once, so that 30 states take it 30 episodes; member 1 has them after 10.
    makes = Makes()
    found = visited(constant_policy(1, 0), makes, rows=30)
    (envs,) = makes.made
    assert envs.steps.reshape(2, WIDTH).sum(axis=1).tolist() == [30, 30]
    assert [seeds[0] for seeds in envs.seeds_of_resets] == [FIRST_VISIT_SEED + k for k in (0, 10, 20)]
    assert sorted(found[0, :, 0]) == list(range(FIRST_VISIT_SEED, FIRST_VISIT_SEED + 30))
    assert (found[0, :, 1] == 0).all()


def test_a_member_visits_what_it_visits_alone():
    together = visited(constant_policy(1, 0, 0, seeds=(4, 5, 6), epsilon=0.3), Makes(), rows=25, sampled=0.5)
    for member, action in enumerate((1, 0, 0)):
        alone = constant_policy(action, seeds=(4 + member,), epsilon=0.3)
        assert (visited(alone, Makes(), rows=25, sampled=0.5)[0] == together[member]).all()


def test_a_share_of_the_episodes_is_played_with_sampled_actions():
    # The greedy action goes on; sampled at epsilon 1 half of the actions end the episode.
    makes = Makes(length=lambda seeds: np.full(len(seeds), 20))
    visited(constant_policy(0, epsilon=1.0), makes, rows=100, sampled=0.3)
    steps = makes.made[0].steps
    assert (steps[:7] == 20).all()
    assert (steps[7:] < 20).all()


def test_the_seeds_for_visits_meet_none_that_evaluation_training_or_recordings_use():
    assert FINAL_EPISODE_SEED < COLLECTED_EPISODE_SEED < FIRST_VISIT_SEED < END_OF_VISIT_SEEDS <= TRAINING_EPISODE_SEED


@given(rows=st.integers(1, 60), action=st.integers(0, 1), first=st.integers(0, 10**5))
def test_no_more_seeds_are_used_than_are_said_to_be_needed(rows, action, first):
    makes = Makes()
    found = visited(constant_policy(action), makes, rows, FIRST_VISIT_SEED + first)
    assert found.shape == (1, rows, 3)
    assert min(makes.seeds) == FIRST_VISIT_SEED + first
    assert max(makes.seeds) < FIRST_VISIT_SEED + first + seeds_needed(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "one row or more, not 0"),
        ({"sampled": 1.5}, r"in \[0, 1\], not 1.5"),
        ({"sampled": math.nan}, r"in \[0, 1\], not nan"),
        ({"first_seed": FINAL_EPISODE_SEED}, "those for visits are 300000 to 499999"),
        ({"first_seed": END_OF_VISIT_SEEDS - 29}, "may need seeds up to 500000"),
    ],
)
def test_what_cannot_be_visited_is_refused_before_an_env_is_made(options, message):
    makes = Makes()
    with pytest.raises(UsageError, match=message):
        visited(constant_policy(0), makes, **{"rows": 30, **options})
    assert makes.made == []


def test_an_episode_that_never_ends_is_named_and_the_envs_are_closed(monkeypatch):
    monkeypatch.setattr("rlab.evaluation.episode_driver.MOST_STEPS", 7)
    makes = Makes(length=lambda seeds: np.where(seeds == FIRST_VISIT_SEED + 3, NEVER, 2))
    with pytest.raises(
        RlabError, match=f"seed {FIRST_VISIT_SEED + 3} of training seed 0 has not ended after 7 env steps"
    ):
        visited(constant_policy(0), makes, rows=30)
    assert makes.made[0].closed


@given(size=st.integers(1, 8), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_a_sample_is_the_same_however_its_rows_arrive(size, cuts):
    rows = np.arange(200)
    samples = [visits._Sample(size, stream(3, "sample")) for _ in range(2)]
    samples[0].add(rows, rows)
    for first, last in pairwise(sorted([0, *cuts, 200])):
        samples[1].add(rows[first:last], rows[first:last])
    assert samples[0].rows()[0].tolist() == samples[1].rows()[0].tolist()
    assert samples[1].seen == 200


def test_every_row_is_as_likely_to_be_kept_as_any_other():
    counts = np.zeros(20)
    for seed in range(400):
        sample = visits._Sample(5, stream(seed, "sample"))
        for row in np.arange(20):
            sample.add(row[None], row[None])
        counts[sample.rows()[0]] += 1
    # 400 x 5 / 20 = 100 each, with a standard deviation of sqrt(400 x 1/4 x 3/4) = 8.7
    assert (abs(counts - 100) < 4 * 8.7).all()
