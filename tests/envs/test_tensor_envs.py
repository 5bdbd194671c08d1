"""Every tensor env against Gymnasium's own: spaces, resets and transitions, field by field."""

import numpy as np
import pytest
import torch

from rlab.envs import EnvSpec, TensorVectorEnv, check_tensor_env, make_vec, tensor_env_of

SPECS = [
    EnvSpec("CartPole-v1"),
    EnvSpec("CartPole-v0"),
    EnvSpec("CartPole-v1", {"sutton_barto_reward": True}),
]
LABELS = [spec.label for spec in SPECS]


def broad_states(spec: EnvSpec, n: int) -> dict[str, torch.Tensor] | None:
    """States all over the space, many of them near an ending; None: those that random play visits will do."""
    generator = torch.Generator().manual_seed(1)
    if spec.env_id.startswith("CartPole"):
        return {"cart": (torch.rand(n, 4, generator=generator) * 2 - 1) * torch.tensor([2.6, 3.0, 0.23, 3.0])}
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


@pytest.mark.parametrize("env_id", ["CartPole-v1"])
def test_in_float64_the_formulas_are_gymnasiums_to_rounding(env_id):
    # the same check with units of 2e-16: a constant that is wrong in its tenth digit is found
    spec = EnvSpec(env_id)
    check_tensor_env(tensor_env_of(spec), spec, 300, broad_states(spec, 300), torch.float64)


def test_semi_implicit_cartpole_is_gymnasiums():
    def semi_implicit():
        import gymnasium as gym

        env = gym.make("CartPole-v1")
        env.unwrapped.kinematics_integrator = "semi-implicit euler"
        return env

    env = tensor_env_of(EnvSpec("CartPole-v1"))
    env.kinematics_integrator = "semi-implicit euler"
    check_tensor_env(env, semi_implicit, 300, broad_states(EnvSpec("CartPole-v1"), 300), torch.float64)


def test_cartpole_starts_within_005_around_0():
    obs = TensorVectorEnv(tensor_env_of(EnvSpec("CartPole-v1")), (0, 1), 5000).reset()
    assert (obs.abs() <= 0.05).all()
    # the mean of 10 000 numbers uniform in (-.05, .05) has a standard error of .05 / sqrt(3) / 100 = .00029
    np.testing.assert_allclose(obs.mean((0, 1)).numpy(), 0.0, atol=5 * 0.00029)
    assert len(obs.unique()) > 30_000  # of 40 000: none is used twice but by chance (24 bits)
