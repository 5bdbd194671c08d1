"""Tensor envs in a batch: autoreset, time limits, random streams, saved states, and steps inside a traced program."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from rlab.envs import EnvSpec, TensorEnv, TensorVectorEnv, tensor_env_of
from rlab.experience.env_contract import Step
from rlab.learning.compiler import why_not_compile
from rlab.learning.program import Program
from rlab.networks.spaces import Box, Discrete

NO_COMPILER = why_not_compile(torch.device("cpu"))


class Count(TensorEnv):
    """Counts from a fraction; action 1 adds 1 and action 0 nothing; ends at 3 or more. The fraction is kept too."""

    obs_space = Box((2,), "float32", 0.0, 4.0)
    action_space = Discrete(2)
    reset_uniforms = 1

    def reset(self, u):
        return {"count": u[..., 0], "start": u[..., 0]}

    def step(self, state, action, u):
        count = state["count"] + action
        return {"count": count, "start": state["start"]}, count - state["count"], count >= 3

    def obs(self, state):
        return torch.stack((state["count"], state["start"]), -1)


class Views(Count):
    """Observes, and pays, views of what it is given."""

    obs_space = Box((1,), "float32", 0.0, 1.0)

    def step(self, state, action, u):
        after, _, terminated = super().step(state, action, u)
        return after, state["count"], terminated

    def obs(self, state):
        return state["start"].unsqueeze(-1)


def vector(env_class=Count, seeds=(0, 1), num_envs=3, time_limit=None):
    env = env_class()
    env.time_limit = time_limit
    return TensorVectorEnv(env, seeds, num_envs)


def ones(env):
    return torch.ones(len(env.seeds), env.num_envs, dtype=torch.int64)


def test_an_ended_env_is_reset_in_the_same_step_and_its_true_successor_is_kept():
    env = vector()
    first = env.reset()
    env.step(ones(env))
    step = env.step(ones(env))
    torch.testing.assert_close(step.obs, first + torch.tensor([2.0, 0.0]))
    assert not step.terminated.any()
    last = env.step(ones(env))
    assert last.terminated.all()
    assert not last.truncated.any()
    torch.testing.assert_close(last.next_obs, first + torch.tensor([3.0, 0.0]))
    assert (last.obs < 1).all()
    assert (last.obs[..., 0] == last.obs[..., 1]).all()
    assert (last.obs != first).all()  # each start is a new draw
    assert torch.equal(env.step(0 * ones(env)).next_obs, last.obs)


def test_only_the_rows_that_ended_are_reset():
    env = vector(num_envs=2, seeds=(0,))
    first = env.reset()
    for _ in range(3):
        step = env.step(torch.tensor([[1, 0]]))
    assert step.terminated.tolist() == [[True, False]]
    assert torch.equal(step.obs[0, 1], first[0, 1])
    assert (step.obs[0, 0] < 1).all()


def test_a_time_limit_truncates_and_the_count_of_steps_begins_anew():
    env = vector(time_limit=2)
    env.reset()
    truncated = [env.step(0 * ones(env)).truncated for _ in range(6)]
    assert [bool(t.all()) for t in truncated] == [False, True] * 3
    assert [bool(t.any()) for t in truncated] == [False, True] * 3


def test_a_termination_takes_precedence_over_a_time_limit():
    env = vector(time_limit=3)
    env.reset()
    for _ in range(3):
        step = env.step(ones(env))
    assert step.terminated.all()
    assert not step.truncated.any()
    # the count begins anew after a termination too: the next limit is three steps later
    assert [bool(env.step(0 * ones(env)).truncated.all()) for _ in range(3)] == [False, False, True]


def test_every_row_is_a_transition_in_the_dtypes_of_the_contract():
    env = vector()
    env.reset()
    step = env.step(ones(env))
    assert step.valid.all()
    assert step.all_valid
    assert not step.none_ended  # nobody has looked
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (torch.float32, torch.bool, torch.bool)
    assert {tuple(t.shape) for t in (step.reward, step.terminated, step.truncated, step.valid)} == {(2, 3)}


@pytest.mark.parametrize("env_class", [Count, Views])
def test_what_a_step_gave_does_not_change_in_later_steps(env_class):
    env = vector(env_class)
    kept = [env.reset(), env.obs()]
    for _ in range(5):
        step = env.step(ones(env))
        kept += [step.obs, step.next_obs, step.reward, step.terminated]
        copies = [tensor.clone() for tensor in kept]
        env.step(ones(env))
        assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_the_state_stays_in_the_same_tensors():
    env = vector(time_limit=5)
    env.reset()
    storages = [tensor.data_ptr() for tensor in (*env._state.values(), env._steps, env._draws.counter)]
    saved = env.state()
    for _ in range(4):
        env.step(ones(env))
    env.load_state(saved)
    env.reset()
    assert storages == [tensor.data_ptr() for tensor in (*env._state.values(), env._steps, env._draws.counter)]


def test_a_saved_state_goes_on_exactly_where_it_was():
    env = vector(time_limit=4)
    env.reset()
    for _ in range(5):
        env.step(ones(env))
    saved, obs = env.state(), env.obs()
    expected = rows(env, ones(env), 7)
    again = vector(time_limit=4)
    again.load_state(saved)
    assert torch.equal(again.obs(), obs)
    same(rows(again, ones(env), 7), expected)
    env.load_state(saved)  # also in the same object, and from what later steps did not change
    same(rows(env, ones(env), 7), expected)


def test_an_env_plays_the_same_beside_any_others():
    spec = EnvSpec("CartPole-v1")
    alone = TensorVectorEnv(tensor_env_of(spec), (7,), 2)
    beside = TensorVectorEnv(tensor_env_of(spec), (3, 7), 5)
    actions = torch.randint(2, (60, 2, 5), generator=torch.Generator().manual_seed(0))
    obs, other = alone.reset(), beside.reset()
    np.testing.assert_array_equal(obs[0], other[1, :2])
    ended = 0
    for action in actions:
        one, many = alone.step(action[1:, :2]), beside.step(action)
        # 60 steps, each of which may double a difference that began as a rounding, would be beyond any tolerance;
        # an episode of random play lasts about 20, and begins with equal numbers
        np.testing.assert_allclose(one.obs[0], many.obs[1, :2], rtol=1e-4, atol=1e-5)
        assert torch.equal(one.terminated[0], many.terminated[1, :2])
        ended += int(one.terminated.sum())
    assert ended > 2  # resets draw from the env's own stream too


def test_two_envs_of_a_member_and_two_members_start_differently():
    obs = TensorVectorEnv(tensor_env_of(EnvSpec("CartPole-v1")), (0, 1), 2).reset()
    assert len({tuple(row) for row in obs.reshape(4, 4).tolist()}) == 4


@pytest.mark.prove  # 15 s
@pytest.mark.skipif(NO_COMPILER is not None, reason=NO_COMPILER or "")
def test_a_compiled_step_gives_the_rows_of_the_eager_one():
    spec = EnvSpec("CartPole-v1", max_episode_steps=8)
    eager, compiled = (TensorVectorEnv(tensor_env_of(spec), (0, 1), 3) for _ in range(2))
    assert torch.equal(eager.reset(), compiled.reset())
    step = Program(lambda action: as_dict(compiled.step(action)), "step")
    actions = torch.randint(2, (40, 2, 3), generator=torch.Generator().manual_seed(0))
    for action in actions:
        # a rounding more or less in each of 8 steps, on numbers of about 1 that no step multiplies by 2
        torch.testing.assert_close(step(action), as_dict(eager.step(action)), rtol=0, atol=8 * 2**8 * 2.0**-24)
    torch.testing.assert_close(compiled.obs(), eager.obs(), rtol=0, atol=8 * 2**8 * 2.0**-24)
    assert compiled.state()["draws"] == eager.state()["draws"]
    assert torch.equal(compiled.reset(), eager.reset())  # eager calls go on where the program was


def as_dict(step: Step) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def rows(env, action, steps):
    return [as_dict(env.step(action)) for _ in range(steps)]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
