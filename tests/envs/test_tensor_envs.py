"""Every tensor env against Gymnasium's own: spaces, resets and transitions, field by field."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab import RlabError
from rlab.envs import (
    BOX_PROBES,
    MEMORY_PROBES,
    PROBES,
    SPACE_PROBES,
    SPARSE_PROBES,
    EnvSpec,
    TensorVectorEnv,
    check_tensor_env,
    make_vec,
    tensor_env_of,
)
from rlab.envs.tensor_noise import GivenUniforms

# The newest versions that the installed Gymnasium has: they differ between its releases.
VERSIONS = {
    name: max(found.version for found in gym.registry.values() if (found.namespace, found.name) == (None, name))
    for name in ("CliffWalking", "Taxi")
}
SPECS = [
    EnvSpec("CartPole-v1"),
    EnvSpec("CartPole-v0"),
    EnvSpec("CartPole-v1", {"sutton_barto_reward": True}),
    EnvSpec("MountainCar-v0"),
    EnvSpec("MountainCar-v0", {"goal_velocity": 0.02}),
    EnvSpec("MountainCarContinuous-v0"),
    EnvSpec("MountainCarContinuous-v0", {"goal_velocity": 0.02}),
    EnvSpec("Pendulum-v1"),
    EnvSpec("Pendulum-v1", {"g": 9.81}),
    EnvSpec("Acrobot-v1"),
    EnvSpec("FrozenLake-v1"),
    EnvSpec("FrozenLake-v1", {"is_slippery": False}),
    EnvSpec("FrozenLake-v1", {"desc": ["SFFS", "FHFF", "FFFG"]}),  # not square, with two starts
    EnvSpec("FrozenLake8x8-v1"),
    EnvSpec("FrozenLake-v1", {"map_name": "8x8"}),
    *(EnvSpec("CliffWalkingSlippery-v1") for _ in range("CliffWalkingSlippery-v1" in gym.registry)),
    *(EnvSpec("Taxi-v4", {"is_rainy": True}) for _ in range("Taxi-v4" in gym.registry)),
    *(EnvSpec(f"{name}-v{version}") for name, version in VERSIONS.items()),
    EnvSpec("rlab/ProbeMemory-v0", {"delay": 9}),
    *(EnvSpec(env_id, wrappers=(("NoVelocity", {}),)) for env_id in ("CartPole-v1", "Pendulum-v1", "MountainCar-v0")),
    *(EnvSpec(env_id, wrappers=(("NoVelocity", {}),)) for env_id in ("MountainCarContinuous-v0", "Acrobot-v1")),
    *(EnvSpec(env_id) for env_id in [*PROBES, *MEMORY_PROBES, *SPACE_PROBES, *BOX_PROBES, *SPARSE_PROBES]),
]
LABELS = [spec.label for spec in SPECS]


def broad_states(spec: EnvSpec, n: int) -> dict[str, torch.Tensor] | None:
    """States all over the space, many of them near an ending; None: those that random play visits will do."""
    bounds = {
        "CartPole": ("cart", [2.6, 3.0, 0.23, 3.0]),  # over 2.4 and 0.2095, where it ends
        "MountainCar": ("car", [0.9, 0.07]),
        "Pendulum": ("pole", [math.pi, 8.0]),
        "Acrobot": ("links", [math.pi, math.pi, 4 * math.pi, 9 * math.pi]),
    }
    for name, (field, most) in bounds.items():
        if spec.env_id.startswith(name):
            numbers = torch.rand(n, len(most), generator=torch.Generator().manual_seed(1)) * 2 - 1
            states = numbers * torch.tensor(most)
            return {field: states - torch.tensor([0.3, 0.0]) if name == "MountainCar" else states}  # in [-1.2, 0.6]
    return None


@pytest.mark.parametrize("spec", SPECS, ids=LABELS)
def test_a_tensor_env_steps_and_resets_as_gymnasiums_does(spec):
    checked = check_tensor_env(tensor_env_of(spec), spec, 600, broad_states(spec, 600))
    assert checked.transitions == 600
    played = check_tensor_env(tensor_env_of(spec), spec, 400, seed=1)
    assert played.transitions == 400


@pytest.mark.prove
@pytest.mark.parametrize("spec", SPECS, ids=LABELS)
def test_a_hundred_thousand_transitions_are_gymnasiums(spec):
    check_tensor_env(tensor_env_of(spec), spec, 50_000, broad_states(spec, 50_000))
    check_tensor_env(tensor_env_of(spec), spec, 50_000, seed=1)


@pytest.mark.parametrize("spec", SPECS, ids=LABELS)
def test_spaces_dtypes_and_time_limit_are_those_of_make_vec(spec):
    env, on_host = TensorVectorEnv(tensor_env_of(spec), (3, 5), 2), make_vec(spec, (3, 5), 2, "sync")
    assert env.obs_space == on_host.obs_space
    assert env.action_space == on_host.action_space
    obs = on_host.reset()
    assert env.reset().numpy().dtype == obs.dtype
    assert tuple(env.reset().shape) == obs.shape
    if on_host.time_limit is not None:
        assert env.time_limit == on_host.time_limit
    on_host.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"])
def test_in_float64_the_formulas_are_gymnasiums_to_rounding(env_id):
    # the same check with units of 2e-16: a constant that is wrong in its tenth digit is found
    spec = EnvSpec(env_id)
    check_tensor_env(tensor_env_of(spec), spec, 300, broad_states(spec, 300), torch.float64)


@pytest.mark.parametrize(
    ("env_id", "attribute", "value"),
    [
        ("CartPole-v1", "kinematics_integrator", "semi-implicit euler"),
        ("Acrobot-v1", "book_or_nips", "nips"),
        ("Acrobot-v1", "dt", 0.05),
    ],
)
def test_what_gymnasiums_env_takes_as_an_attribute_is_one_here(env_id, attribute, value):
    def changed():
        env = gym.make(env_id)
        setattr(env.unwrapped, attribute, value)
        return env

    env, states = tensor_env_of(EnvSpec(env_id)), broad_states(EnvSpec(env_id), 300)
    with pytest.raises(RlabError, match="differ in a step"):
        check_tensor_env(env, changed, 300, states)
    setattr(env, attribute, value)
    check_tensor_env(env, changed, 300, states, torch.float64)


def test_cartpole_starts_within_005_around_0():
    obs = TensorVectorEnv(tensor_env_of(EnvSpec("CartPole-v1")), (0, 1), 5000).reset()
    assert (obs.abs() <= 0.05).all()
    # the mean of 10 000 numbers uniform in (-.05, .05) has a standard error of .05 / sqrt(3) / 100 = .00029
    np.testing.assert_allclose(obs.mean((0, 1)).numpy(), 0.0, atol=5 * 0.00029)
    assert len(obs.unique()) > 30_000  # of 40 000: none is used twice but by chance (24 bits)


@pytest.mark.parametrize(
    ("env_id", "low", "high", "mean"),
    [
        ("MountainCar-v0", [-0.6, 0.0], [-0.4, 0.0], [-0.5, 0.0]),
        ("MountainCarContinuous-v0", [-0.6, 0.0], [-0.4, 0.0], [-0.5, 0.0]),
        ("Pendulum-v1", [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),  # cos, sin, speed
        ("Acrobot-v1", [math.cos(0.1), -0.1] * 2 + [-0.1] * 2, [1.0, 0.1] * 2 + [0.1] * 2, None),
        ("rlab/ProbeObservation-v0", [-1.0], [1.0], [0.0]),
        ("rlab/ProbeDictObservation-v0", [-1.0, 0.0], [1.0, 1.0], [0.0, 0.5]),
    ],
)
def test_resets_spread_over_the_whole_range(env_id, low, high, mean):
    obs = TensorVectorEnv(tensor_env_of(EnvSpec(env_id)), (0,), 10_000).reset()[0].double()
    low, high = torch.tensor(low).double(), torch.tensor(high).double()
    slack = 0.01 * (high - low) + 1e-6  # 10 000 numbers leave a gap of 1 % at an end once in 10**43 times
    assert ((obs >= low - 1e-6) & (obs <= high + 1e-6)).all()
    assert (obs.amin(0) <= low + slack).all()
    assert (obs.amax(0) >= high - slack).all()
    if mean is not None:
        # the standard deviation is half of the range at most, the standard error a hundredth of that
        assert ((obs.mean(0) - torch.tensor(mean).double()).abs() <= 5 * (high - low) / 200 + 1e-6).all()


def test_taxi_starts_in_each_of_its_300_states_and_observes_the_mask():
    env = TensorVectorEnv(tensor_env_of(EnvSpec(f"Taxi-v{VERSIONS['Taxi']}")), (0,), 6000)
    obs = env.reset()[0]
    of_gymnasium = gym.make(f"Taxi-v{VERSIONS['Taxi']}").unwrapped
    # 20 of each are expected; that one is missing has a chance of 300 exp(-20)
    assert set(obs[:, 0].tolist()) == set(np.flatnonzero(of_gymnasium.initial_state_distrib).tolist())
    for row in obs[:50].tolist():
        assert row[1:] == of_gymnasium.action_mask(row[0]).tolist()


@pytest.mark.parametrize("name", ["CliffWalking", "Taxi", "FrozenLake"])
def test_every_cell_of_a_table_is_gymnasiums_also_for_actions_that_a_mask_forbids(name):
    spec = EnvSpec(f"{name}-v{VERSIONS.get(name, 1)}")
    env, table = tensor_env_of(spec), gym.make(spec.env_id).unwrapped.P
    for place, action in itertools.product(table, range(env.action_space.n)):
        passed = 0.0
        for chance, after, reward, terminated in table[place][action]:
            u = torch.tensor([passed + chance / 2])[: env.step_uniforms]  # in the middle of what leads there
            passed += chance
            state, *rest = env.step({"place": torch.tensor(place)}, torch.tensor(action), u)
            assert (state["place"].item(), *(value.item() for value in rest)) == (after, reward, terminated)


def test_a_number_that_is_a_sum_of_chances_takes_the_next_outcome():
    # two starts, 0 and 3: Gymnasium takes the first at which the sum passes the number, and 0.5 does not pass 0.5
    spec = EnvSpec("FrozenLake-v1", {"desc": ["SFFS", "FHFF", "FFFG"]})
    env = tensor_env_of(spec)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert env.reset(torch.tensor([[below], [0.5]]))["place"].tolist() == [0, 3]
    # from place 0 action 0 (left) slides up, left or down, a third each: 0, 0 and 4; two thirds are not a number of
    # 24 bits, and the next one above it, which is in float32 what they round to, is past them: 11184811 / 2**24
    state = {"place": torch.zeros(2, dtype=torch.int64)}
    u = torch.tensor([[11184810 / 2**24], [11184811 / 2**24]])
    assert sorted(outcome[1] for outcome in gym.make(spec.env_id, desc=["SF", "FG"]).unwrapped.P[0][0]) == [0, 0, 2]
    places = env.step(state, torch.zeros(2, dtype=torch.int64), u)[0]["place"].tolist()
    assert places == [of_gymnasium(spec, number) for number in u.flatten().tolist()]
    assert len(set(places)) == 2


def of_gymnasium(spec, u):
    """Where Gymnasium's env goes from place 0 with action 0 and this random number."""
    env = gym.make(spec.env_id, **spec.kwargs).unwrapped
    env.reset(seed=0)
    env.s, env.np_random = 0, GivenUniforms(np.array([u]))
    return env.step(0)[0]


def test_actions_count_from_0_whatever_the_spaces_start():
    env = TensorVectorEnv(tensor_env_of(EnvSpec("rlab/ProbeMultiDiscrete-v0")), (0,), 64)
    x = env.reset()[..., 0]
    best = torch.where(
        x.unsqueeze(-1) < 0, torch.tensor([0, 2]), torch.tensor([1, 1])
    )  # (5, 1) and (6, 0) in Gymnasium
    assert env.step(best).reward.unique().tolist() == [1.5]
