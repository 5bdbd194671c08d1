"""`check_tensor_env` finds what differs from Gymnasium's env; and which envs have a tensor version."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab import RlabError, UsageError
from rlab.envs import EnvSpec, TensorEnv, check_tensor_env, tensor_env_of, why_not_tensor
from rlab.envs.episodes import time_limit_of
from rlab.envs.tensor_classic import CartPole, MountainCar
from rlab.envs.tensor_noise import GivenUniforms
from rlab.envs.tensor_rounding import largest_differences

HERE = __name__


class Walk(gym.Env):
    """A walk on a line that drifts; it ends beyond 1 and pays the place."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2, start=3)
    tensor_env = f"{HERE}:TensorWalk"

    def __init__(self, drift: float = 0.1) -> None:
        self.drift = drift

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return self.observe(), {}

    def step(self, action):
        self.place += self.drift * (1 if action == 4 else -1) + 0.01 * self.np_random.normal()
        return self.observe(), self.place, abs(self.place) > 1, False, {}

    def observe(self):
        return np.array([self.place], np.float32)


class TensorWalk(TensorEnv):
    reset_uniforms = step_uniforms = 1

    def __init__(self, drift: float = 0.1) -> None:
        super().__init__(Walk())
        self.drift = drift

    def reset(self, u):
        return {"place": 2 * u[..., 0] - 1}

    def step(self, state, action, u):
        noise = torch.special.ndtri(u[..., 0].clamp(1e-7, 1 - 1e-7))
        place = state["place"] + self.drift * (2 * action - 1) + 0.01 * noise
        return {"place": place}, place.clone(), place.abs() > 1

    def obs(self, state):
        return state["place"].unsqueeze(-1)

    def state_of(self, gym_env):
        return {"place": gym_env.place}

    def set_state(self, gym_env, state):
        gym_env.place = float(state["place"])


class SlowWalk(Walk):
    """Another env: it must not go by the tensor version of its parent."""


def changed(**methods):
    """A tensor walk with other methods."""
    return type("Changed", (TensorWalk,), methods)()


def wrong_step(self, state, action, u, **wrong):
    after, reward, terminated = TensorWalk.step(self, state, action, u)
    found = {"place": after["place"], "reward": reward, "terminated": terminated}
    found |= {name: change(found[name]) for name, change in wrong.items()}
    return {"place": found["place"]}, found["reward"], found["terminated"]


def test_an_env_of_the_users_own_is_compared_with_noise_and_all():
    checked = check_tensor_env(TensorWalk(), Walk, 500)
    assert checked.transitions == 500
    assert 0 < checked.terminated < 250
    assert {"reset obs", "state place", "obs", "reward", "terminated", "truncated"} <= checked.worst.keys()
    assert max(checked.worst.values()) < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reward": lambda reward: reward * 1.0001}, r"differ in a step: reward is -?\d"),
        ({"place": lambda place: place + 1e-4}, r"differ in a step: state place is -?\d"),
        ({"terminated": lambda terminated: ~terminated}, r"terminated is \d.0 here and \d.0 in Gymnasium"),
        ({"reward": lambda reward: reward * float("nan")}, "reward is nan here"),
    ],
)
def test_the_first_field_that_differs_is_named_with_state_action_and_both_values(wrong, message):
    env = changed(step=lambda self, state, action, u: wrong_step(self, state, action, u, **wrong))
    with pytest.raises(RlabError, match=message) as error:
        check_tensor_env(env, Walk, 200)
    assert "in Gymnasium, at state place " in str(error.value)
    assert ", action " in str(error.value)


def test_a_difference_in_resets_or_observations_is_found():
    with pytest.raises(RlabError, match="differ in a reset: state place is"):
        check_tensor_env(changed(reset=lambda self, u: {"place": 2.01 * u[..., 0] - 1}), Walk, 100)
    with pytest.raises(RlabError, match=r"differ in a reset: obs\[0\] is"):
        check_tensor_env(changed(obs=lambda self, state: state["place"].unsqueeze(-1) + 0.001), Walk, 100)


def test_a_wrong_constant_of_cartpole_is_found():
    env = tensor_env_of(EnvSpec("CartPole-v1"))
    assert isinstance(env, CartPole)
    env.gravity *= 1.001
    with pytest.raises(RlabError, match=r"state cart\[3\] is .* at state cart \[.*\], action"):
        check_tensor_env(env, "CartPole-v1", 300)


def test_termination_may_differ_where_the_value_is_within_rounding_of_the_threshold_and_nowhere_else():
    class Still(Walk):
        def step(self, action):
            self.np_random.normal()
            return self.observe(), self.place, self.place > 0.5, False, {}

    def still(threshold):
        return changed(step=lambda self, s, a, u: (s, s["place"].clone(), s["place"] > threshold))

    near = np.nextafter(np.float32(0.5), np.float32(1))  # one float32 above
    states = {"place": torch.tensor([0.3, float(near), 0.7])}
    check_tensor_env(still(0.5), Still, states=states)
    check_tensor_env(still(float(near)), Still, states=states)  # false for the second, where Gymnasium says true
    with pytest.raises(RlabError, match=r"terminated is 1.0 here and 0.0 in Gymnasium, at state place 0.3"):
        check_tensor_env(still(0.25), Still, states=states)


def test_other_spaces_and_time_limits_are_found():
    env = TensorWalk()
    env.action_space = CartPole().action_space
    with pytest.raises(RlabError, match=r"TensorWalk and .*Walk differ in the action space"):
        check_tensor_env(env, Walk, 10)
    env = tensor_env_of(EnvSpec("CartPole-v1"))
    env.time_limit = 499
    with pytest.raises(RlabError, match="differ in the time limit: 499 here, 500 in Gymnasium"):
        check_tensor_env(env, "CartPole-v1", 10)


def test_a_step_must_be_a_function_of_tensors():
    def in_place(self, state, action, u):
        state["place"] += 1
        return state, state["place"].clone(), state["place"] > 1

    def looks(self, state, action, u):
        return state, state["place"].clone(), torch.full_like(action, state["place"].max().item() > 1, dtype=torch.bool)

    def doubles(self, state, action, u):
        return state, state["place"].double(), state["place"] > 1

    with pytest.raises(RlabError, match=r"Changed.step changes the state 'place' that it is given"):
        check_tensor_env(changed(step=in_place), Walk, 10)
    with pytest.raises(RlabError, match=r"cannot run in a compiled program.*test_tensor_check.py"):
        check_tensor_env(changed(step=looks), Walk, 10)
    with pytest.raises(
        RlabError, match=r"gives as reward torch.float64 \[2\] for 2 envs; expected torch.float32 \[2\]"
    ):
        check_tensor_env(changed(step=doubles), Walk, 10)


def without_noise(self, state, action, u):
    place = state["place"] + self.drift * (2 * action - 1)
    return {"place": place}, place.clone(), place.abs() > 1


def test_an_env_that_draws_more_than_its_tensor_version_is_found():
    with pytest.raises(RlabError, match="draws more than the 0 random numbers that the tensor env uses"):
        check_tensor_env(changed(step_uniforms=0, step=without_noise), Walk, 10)


def test_given_uniforms_draw_as_numpys_generator_names_them():
    given = GivenUniforms(np.array([0.25, 0.5, 0.75, 0.5, 0.9, 0.5]))
    assert given.random() == 0.25
    assert given.uniform(-1, 3) == 1.0
    assert given.integers(2) == 1
    assert given.integers(5, 7) == 6
    assert given.uniform(low=np.array([0.0]), high=np.array([10.0])) == pytest.approx([9.0])
    assert given.normal(3.0) == pytest.approx(3.0)  # the median
    assert given.left == 0
    with pytest.raises(RlabError, match=r"np_random.choice, .* override TensorEnv.give_noise"):
        given.choice([1, 2])


def test_rounding_is_what_inputs_a_few_units_away_change():
    x = torch.tensor([1.0, 2.0])
    step = lambda inputs: {"y": 1000 * (inputs["x"] - 1)}  # noqa: E731
    # 32 units of 2**-23 of the largest x, 2, make 1000 * 32 * 2**-22 = 0.0076 of y, and 32 of its own 1000, 0.0038
    _, fine = largest_differences(step, {"x": x}, {"y": np.array([0.011, 1000.0])}, {})
    assert fine is None
    _, apart = largest_differences(step, {"x": x}, {"y": np.array([0.0, 1000.012])}, {})
    assert (apart.field, apart.row, apart.here) == ("y", 1, 1000.0)
    assert apart.allowed == pytest.approx(1000 * 32 * 2.0**-22 + 32 * 2.0**-23 * 1000.012, rel=1e-2)


def test_the_time_limit_is_the_specs_the_registered_one_or_the_envs_own():
    assert tensor_env_of(EnvSpec("CartPole-v1")).time_limit == 500
    assert tensor_env_of(EnvSpec("CartPole-v1", max_episode_steps=7)).time_limit == 7
    assert tensor_env_of(EnvSpec("rlab/ProbeEndless-v0")).time_limit == 3
    assert tensor_env_of(EnvSpec("rlab/ProbeEndless-v0", max_episode_steps=2)).time_limit == 2
    assert tensor_env_of(EnvSpec("rlab/ProbeEndless-v0", max_episode_steps=9)).time_limit == 3
    assert tensor_env_of(EnvSpec("rlab/ProbeConstant-v0")).time_limit is None


@pytest.mark.parametrize("name", ["Endless", "BitFlip", "Chain", "Constant"])
def test_both_versions_of_a_world_that_truncates_its_episodes_state_the_same_time_limit(name):
    spec = EnvSpec(f"rlab/Probe{name}-v0")
    assert time_limit_of(gym.make(spec.env_id)) == tensor_env_of(spec).time_limit


def test_an_env_names_its_own_tensor_version_and_a_subclass_does_not_inherit_it():
    env = tensor_env_of(EnvSpec(f"{HERE}:Walk", {"drift": 0.2}))
    assert type(env) is TensorWalk
    assert env.drift == 0.2
    assert why_not_tensor(EnvSpec(f"{HERE}:SlowWalk")) == f"{HERE}:SlowWalk has no tensor version"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (EnvSpec("CartPole-v1", wrappers=(("FlattenObservation", {}),)), "a tensor env takes no wrappers"),
        (
            EnvSpec("FrozenLake-v1", wrappers=(("NoVelocity", {}),)),
            "which elements of FrozenLake-v1's observation are velocities is not known",
        ),
        (EnvSpec("Blackjack-v1"), "Blackjack-v1 has no tensor version"),
        (EnvSpec("Pendulum-v1", {"h": 1.0}), "the tensor version of Pendulum-v1 does not take h"),
        (EnvSpec("FrozenLake-v1", {"map_name": None}), "FrozenLake without a map draws one at random"),
        (EnvSpec("Taxi-v4", {"fickle_passenger": True}), "the tensor version of Taxi has no fickle passenger"),
    ],
)
def test_what_cannot_be_stepped_as_tensors_says_why(spec, why):
    if spec.env_id.startswith("Taxi") and spec.env_id not in gym.registry:
        pytest.skip("this Gymnasium has no Taxi with a fickle passenger")
    assert why_not_tensor(spec).startswith(why)
    with pytest.raises(UsageError, match=f"--vector tensor: {why}.*; use --vector auto"):
        tensor_env_of(spec)


def test_an_env_that_is_registered_with_wrappers_is_not_stepped_as_tensors():
    flat = gym.make("CartPole-v1")
    flat = gym.wrappers.FlattenObservation(flat).spec  # its record has the wrapper in it
    gym.register("FlatCartPole-v0", flat.entry_point, additional_wrappers=flat.additional_wrappers)
    try:
        assert why_not_tensor(EnvSpec("FlatCartPole-v0")) == "a tensor env takes no wrappers but NoVelocity"
    finally:
        del gym.registry["FlatCartPole-v0"]


def test_a_map_that_does_not_exist_is_named():
    spec = EnvSpec("FrozenLake-v1", {"map_name": "5x5"})
    assert why_not_tensor(spec) is None
    with pytest.raises(UsageError, match=r"FrozenLake-v1 cannot be made: .*5x5"):
        tensor_env_of(spec)


def test_keywords_reach_the_tensor_env():
    env = tensor_env_of(EnvSpec("MountainCar-v0", {"goal_velocity": 0.03}))
    assert isinstance(env, MountainCar)
    assert env.goal_velocity == 0.03
