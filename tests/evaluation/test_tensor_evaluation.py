"""Evaluation on a device, in episodes whose every return is known."""

import math
import re

import numpy as np
import pytest
import torch

from rlab import RlabError, UsageError
from rlab.evaluation import episode_driver
from rlab.evaluation.episode_driver import EndlessError, StoppedError
from rlab.evaluation.tensor_evaluation import LOOK_EVERY, TensorEvaluation
from rlab.learning.programs import AS_IT_IS, CompiledPrograms, Programs
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec

OBS = Box((1,), "float32", -math.inf, math.inf)
PLAIN = {"scaling": "none", "scale": None}


class Countdown:
    """Episode k begins at `starts[k]`; action a takes 1 + a from it and pays what is left; at 0 or below it ends."""

    obs_space, action_space = OBS, Discrete(2)

    def __init__(self, *starts, time_limit=None):
        self.start = {"left": torch.tensor(starts, dtype=torch.float64)}
        self.time_limit = time_limit

    def obs(self, state):
        return state["left"].float().unsqueeze(-1)

    def step(self, state, action, steps):
        left = state["left"] - 1 - action
        return {"left": left}, left, left <= 0


def constant_policy(*actions):
    """Member i always takes `actions[i]`."""
    network = NetworkSpec((LayerSpec("linear", {"in_features": 1, "out_features": 2}),))
    seeds = tuple(range(7, 7 + len(actions)))
    policy = build_policy(PolicySpec(OBS, Discrete(2), PLAIN, network, {"kind": "q", "epsilon": 0.0}), seeds)
    with torch.no_grad():
        policy.network[0].weight.zero_()
        policy.network[0].bias.copy_(torch.nn.functional.one_hot(torch.tensor(actions), 2).unsqueeze(1))
    return policy


def judge(policy, episodes, programs: Programs = AS_IT_IS, first_seed=10):
    return TensorEvaluation(policy, episodes, first_seed, programs)


def test_returns_and_lengths_are_those_known_on_paper():
    # From 3 by ones: 2 + 1 + 0. From 5 by ones: 4 + 3 + 2 + 1 + 0. By twos: 1 - 1, and 3 + 1 - 1.
    result = judge(constant_policy(0, 1), Countdown(3, 5))()
    assert result.returns.tolist() == [[3.0, 10.0], [0.0, 3.0]]
    assert result.lengths.tolist() == [[3, 5], [2, 3]]
    assert (result.returns.dtype, result.lengths.dtype) == (np.float64, np.int64)
    assert (result.seeds, result.first_seed, result.greedy) == ((7, 8), 10, True)


def test_a_time_limit_cuts_episodes_that_go_on():
    result = judge(constant_policy(0, 1), Countdown(3, 9, time_limit=4))()
    assert result.lengths.tolist() == [[3, 4], [2, 4]]
    assert result.returns.tolist() == [[3.0, 8 + 7 + 6 + 5], [0.0, 7 + 5 + 3 + 1]]


def test_it_judges_the_weights_of_the_moment_and_each_time_anew():
    policy = constant_policy(0)
    evaluation = judge(policy, Countdown(3))
    assert [evaluation().returns.item(), evaluation().returns.item()] == [3.0, 3.0]
    with torch.no_grad():
        policy.network[0].bias.copy_(policy.network[0].bias.flip(-1))
    assert evaluation().returns.item() == 0.0


def test_results_stay_what_they_were_when_it_judges_again():
    evaluation = judge(constant_policy(0), Countdown(3))
    first = evaluation()
    evaluation.policy.network[0].bias.data = evaluation.policy.network[0].bias.flip(-1).data
    evaluation()
    assert first.returns.tolist() == [[3.0]]


@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.prove)], ids=["traced", "compiled"])
def test_a_step_as_a_program_gives_the_same_with_the_weights_of_the_moment(compiles, monkeypatch):
    if not compiles:  # the graph is run operator by operator, without the compiler's time
        monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    policy, notes = constant_policy(0, 1), []
    evaluation = judge(policy, Countdown(3, 5, 40), CompiledPrograms(torch.device("cpu"), notes.append))
    expected = [[3.0, 10.0, 780.0], [0.0, 3.0, 380.0]]
    assert evaluation().returns.tolist() == expected
    with torch.no_grad():
        policy.network[0].bias.copy_(policy.network[0].bias.flip(0))
    assert evaluation().returns.tolist() == expected[::-1]
    assert notes == []


def test_the_state_of_a_policy_with_memory_is_carried_and_begins_anew():
    network = q_network_spec(OBS, 2, BodySettings((4,), memory=MemorySettings("gru", 4, 1)))
    policy = build_policy(PolicySpec(OBS, Discrete(2), PLAIN, network, {"kind": "q", "epsilon": 0.0}), (0, 1, 2))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter *= 3.0
    episodes = Countdown(*range(5, 15))
    # the same by hand
    state, memory = episodes.start["left"].expand(3, 10), policy.initial_state(10)
    returns, active = torch.zeros(3, 10, dtype=torch.float64), torch.ones(3, 10, dtype=torch.bool)
    while active.any():
        action, memory = policy(state.float().unsqueeze(-1), state=memory)
        state = state - 1 - action
        returns += torch.where(active, state, 0.0)
        active = active & (state > 0)
    evaluation = judge(policy, episodes)
    for _ in range(2):
        assert evaluation().returns.tolist() == returns.tolist()


def test_it_looks_whether_to_stop_every_few_steps():
    class Counted(Countdown):
        calls = 0

        def step(self, *args):
            self.calls += 1
            return super().step(*args)

    asked = []
    evaluation = judge(constant_policy(0), episodes := Counted(1000))
    with pytest.raises(StoppedError):
        evaluation(lambda: len(asked) == 2 or asked.append(None))
    assert episodes.calls == 2 * LOOK_EVERY


def test_an_episode_without_an_end_names_its_member_and_its_seed(monkeypatch):
    monkeypatch.setattr(episode_driver, "MOST_STEPS", 2 * LOOK_EVERY)
    with pytest.raises(EndlessError, match=re.escape("the episode of seed 11 of training seed 7 has not ended after")):
        judge(constant_policy(0), Countdown(3, 1000))()


def test_a_return_that_is_not_finite_names_its_member_and_its_seed():
    with pytest.raises(RlabError, match="training seed 7 in the episode of seed 11 is inf"):
        judge(constant_policy(0), Countdown(3, math.inf, time_limit=3))()


def test_seeds_of_training_envs_are_refused():
    with pytest.raises(UsageError, match="episode seeds must lie between"):
        judge(constant_policy(0), Countdown(3), first_seed=2**30)
