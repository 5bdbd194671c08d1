"""Policies with memory in whole episodes: each row keeps its state, whatever ends beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlab.compression.visits import FIRST_VISIT_SEED, WIDTH, visited
from rlab.evaluation.episode_driver import PolicyActor
from rlab.evaluation.evaluate import evaluate
from rlab.evaluation.record import record
from rlab.networks import memory
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec

OBS = Box((3,), "float32", -100.0, 100.0)
SEEDS = (4, 5, 6)


class Worlds:
    """Observes `seed % 4` and two random numbers of seed and step. Action a at step t (from 0) pays `a * 2**t`, so that
    the return tells the actions. An episode ends after `1 + seed % 9` steps, or earlier with the second action 2."""

    time_limit = None
    obs_space, action_space = OBS, Discrete(3)

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self, seeds):
        self.seeds, self.t, self.twos = np.array(seeds), np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        return self._obs()

    def step(self, action, active):
        reward = np.where(active, action * 2.0**self.t, 0.0)
        self.t += active
        self.twos += active & (action == 2)
        return self._obs(), reward, active & (self.twos == 2), active & (self.t == 1 + self.seeds % 9)

    def close(self):
        pass

    def _obs(self):
        rows = [np.random.default_rng([s, t]).normal(size=2) for s, t in zip(self.seeds, self.t, strict=True)]
        return np.column_stack([self.seeds % 4, rows]).astype(np.float32)


class Sums(nn.Module):
    """Gives the sum of the first numbers that the row has seen in this episode, integers: exact in any batch."""

    def __init__(self, members):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, 1))

    def initial_state(self, rows):
        return {"sum": torch.zeros(len(self.weight), rows, dtype=torch.int64)}

    def step(self, x, state):
        total = state["sum"] + x[..., 0].long()
        return total.unsqueeze(-1) * self.weight, {"sum": total}

    def unroll(self, x, state, begins):
        raise NotImplementedError


def summing_policy(seeds=SEEDS, epsilon=0.0, at=(3, 12, 7)):
    """Member i takes action 0 until its sum is `at[i]` or more, and action 1 from then on."""
    linear = LayerSpec("linear", {"in_features": 1, "out_features": 3})
    network = NetworkSpec((LayerSpec(f"{__name__}:Sums"), linear))
    head = {"kind": "q", "epsilon": epsilon}
    policy = build_policy(PolicySpec(OBS, Discrete(3), {"scaling": "none", "scale": None}, network, head), seeds, True)
    with torch.no_grad():
        policy.network[1].weight.copy_(torch.tensor([0.0, 1.0, 0.0]).expand(len(seeds), 1, 3))
        for member, least in enumerate(at[: len(seeds)]):
            policy.network[1].bias[member] = torch.tensor([0.0, 0.5 - least, -100.0])
    return policy


def recurrent_policy(epsilon=0.0):
    """A GRU of fresh weights, a few times as large: what it does depends on what it saw before."""
    network = q_network_spec(OBS, 3, BodySettings((8,), memory=MemorySettings("gru", 8, 1)))
    head = {"kind": "q", "epsilon": epsilon}
    policy = build_policy(PolicySpec(OBS, Discrete(3), {"scaling": "none", "scale": None}, network, head), SEEDS)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter *= 2.0
    return policy


def returns_of(policy, first_seed, episodes, most=512, greedy=True):
    return evaluate(policy, Worlds, episodes, first_seed, most, greedy).returns


def test_the_returns_of_a_policy_that_sums_are_those_known_on_paper():
    # Seed 15: 7 steps that show 3, sums 3, 6, 9, 12 ...: action 1 from step 0, 3 and 2 on, which pays 127, 120 and 124.
    # Seed 10: 2 steps that show 2, sums 2 and 4: the first member acts at step 1 and gets 2. Seed 12 shows 0.
    expected = {15: [127.0, 120.0, 124.0], 10: [2.0, 0.0, 0.0], 12: [0.0, 0.0, 0.0]}
    for seed, returns in expected.items():
        assert returns_of(summing_policy(), seed, 1)[:, 0].tolist() == returns


@given(first=st.integers(0, 50), episodes=st.integers(1, 12), most=st.integers(1, 40), greedy=st.booleans())
@settings(deadline=None, max_examples=30)
def test_an_exact_state_gives_the_same_returns_in_any_company(first, episodes, most, greedy):
    policy = summing_policy(epsilon=0.3)
    together = returns_of(policy, first, episodes, most, greedy)
    for index, seed in enumerate(SEEDS):
        assert returns_of(policy.only(seed), first, episodes, greedy=greedy)[0].tolist() == together[index].tolist()
    for column in range(episodes):
        assert returns_of(policy, first + column, 1, greedy=greedy)[:, 0].tolist() == together[:, column].tolist()


@pytest.mark.parametrize("greedy", [True, False])
def test_a_gru_judged_alone_returns_what_it_returns_beside_others(greedy):
    policy, episodes = recurrent_policy(epsilon=0.3), 20
    together = returns_of(policy, 0, episodes, greedy=greedy)
    assert (together[0] != together[1]).any()
    for index, seed in enumerate(SEEDS):
        assert returns_of(policy.only(seed), 0, episodes, greedy=greedy)[0].tolist() == together[index].tolist()
        one_by_one = [returns_of(policy.only(seed), k, 1, greedy=greedy)[0, 0] for k in range(episodes)]
        assert one_by_one == together[index].tolist()
    assert returns_of(policy, 0, episodes, most=2, greedy=greedy).tolist() == together.tolist()


def test_those_returns_do_not_depend_on_rounding():
    # Batches of one shape give the same bits. In one of another width the sums may run in another order, which moves a
    # Q value by no more than about what float32 loses to float64; the two largest Q values are further apart than that.
    policy = recurrent_policy()
    for episode in record(policy, Worlds, (OBS, Discrete(3)), 30, 0):
        member = policy.only(SEEDS[episode.seed % 3])
        obs = torch.from_numpy(episode.obs[:-1])[None]  # [1, T, 3]
        begins = torch.zeros(1, 1, obs.shape[1], dtype=torch.bool)
        rounded, _ = memory.unroll(member.network, obs, member.initial_state(1), begins)
        network = member.network.double()
        exact, _ = memory.unroll(network, obs.double(), memory.initial_state(network, 1), begins)
        best = exact.topk(2, dim=-1).values
        assert (best[..., 0] - best[..., 1]).min() > 20 * (exact - rounded).abs().max()


def test_recorded_actions_are_those_of_the_member_alone():
    policy = recurrent_policy()
    episodes = record(policy, Worlds, (OBS, Discrete(3)), 30, 0, max_envs=9)
    assert len({len(episode.action) for episode in episodes}) > 3  # episodes of different lengths side by side
    for episode in episodes:
        member = policy.member(SEEDS[episode.seed % 3])
        state, actions = member.initial_state(), []
        for obs in episode.obs[:-1]:
            action, state = member(obs, state=state)
            actions.append(int(action))
        assert episode.action.tolist() == actions


def test_recordings_with_noise_and_samples_keep_the_state_too():
    # Noise takes some actions, and never the state: 0.7 + 0.3 / 3 of the actions are those of the sums, of about 110.
    noisy = record(summing_policy(at=(7, 7, 7)), Worlds, (OBS, Discrete(3)), 30, 0, noise=0.3)
    own = [(np.cumsum(episode.obs[:-1, 0]) >= 7) == episode.action for episode in noisy]
    assert np.concatenate(own).mean() == pytest.approx(0.8, abs=0.12)
    without = record(summing_policy(), Worlds, (OBS, Discrete(3)), 12, 0)
    sampled = record(summing_policy(epsilon=1e-9), Worlds, (OBS, Discrete(3)), 12, 0, greedy=False)
    assert [e.action.tolist() for e in sampled] == [e.action.tolist() for e in without]


class EndsOnOne(Worlds):
    """Observes the number of the episode and the step. Action 1 ends an episode, or the end of 1 + seed % 5 steps."""

    def step(self, action, active):
        self.t += active
        return self._obs(), np.zeros(self.num_envs), active & (action == 1), active & (self.t == 1 + self.seeds % 5)

    def _obs(self):
        return np.stack([self.seeds - FIRST_VISIT_SEED, self.t, self.t], axis=1).astype(np.float32)


@pytest.mark.parametrize("most", [None, 1, 4, 30])
@pytest.mark.parametrize("sampled", [0.0, 0.5])
def test_visited_states_are_those_of_policies_with_memory(most, sampled):
    class Makes:
        def __call__(self, n):
            return EndsOnOne(n)

    makes = Makes()
    makes.most, makes.most_at_once = most, lambda members: WIDTH * members
    # Episode k shows k at every step, so that a member ends it after at / k steps, or the world after 1 + k % 5.
    limits = (8, 20, 13)
    shown = [{(k, t) for k in range(WIDTH) for t in range(1 + k % 5) if k * t < at} for at in limits]
    for states in (min(map(len, shown)), max(map(len, shown))):
        found = visited(summing_policy(epsilon=1e-9, at=limits), makes, states, sampled=sampled)
        for member, expected in enumerate(shown):
            first_ten = {(int(k), int(t)) for k, t, _ in found[member] if k < WIDTH}
            assert first_ten <= expected
            assert len(expected) != states or first_ten == expected


def test_the_state_is_asked_for_the_columns_that_still_play():
    class Spy:
        seeds = (0, 1)

        def __init__(self):
            self.seen = []

        def initial_state(self, rows):
            return {"column": torch.arange(rows).repeat(2, 1)}

        def __call__(self, obs, *, state):
            self.seen.append(state["column"].tolist())
            return np.zeros(obs.shape[:2], int), state

    spy = Spy()
    act = PolicyActor(spy, np.arange(2), 4)
    rows = np.zeros((2, 4, 3))
    for live in ([1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]):
        assert act(rows, np.array([live, [0, 0, 0, 0]], bool)).shape == (2, 4)
    assert spy.seen == [[[0, 1, 2, 3]] * 2, [[0, 2, 3]] * 2, [[0, 2]] * 2, [[2]] * 2]
