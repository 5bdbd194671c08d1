"""Episodes played as tensors are those that Gymnasium's env plays from the same seeds."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.agents.ppo import PPOConfig
from rlab.envs import BOX_PROBES, MEMORY_PROBES, PROBES, SPACE_PROBES, EnvSpec, EpisodeMaker, make_env, tensor_env_of
from rlab.envs.tensor_episodes import TensorEpisodes, why_not_tensor_episodes
from rlab.evaluation.evaluate import evaluate
from rlab.evaluation.tensor_evaluation import TensorEvaluation
from rlab.learning.actor_critic import actor_spec
from rlab.learning.programs import AS_IT_IS, Programs
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box
from rlab.networks.spec import LayerSpec, NetworkSpec

FIRST_SEED = 500_000
PLAIN = {"scaling": "none", "scale": None}
# Weights of a linear policy, by action (or element of one): outputs of observations.
LINEAR: dict[str, list[list[float]]] = {
    "CartPole-v1": [[0, 0, 0, 0], [0.1, 0.5, 8, 1.5]],
    "MountainCar-v0": [[0, -1], [0, 0], [0, 1]],
    "MountainCarContinuous-v0": [[0, 20]],
    "Pendulum-v1": [[-1, -3, -1]],
    "Acrobot-v1": [[0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]],
}
NEWEST = {  # that the installed Gymnasium has
    name: f"{name}-v{max(found.version for found in gym.registry.values() if found.name == name)}"
    for name in ("CliffWalking", "Taxi")
}
TABLES = [
    EnvSpec("FrozenLake-v1"),
    EnvSpec("FrozenLake-v1", {"is_slippery": False}),
    EnvSpec("FrozenLake-v1", {"desc": ["SFFS", "FHFF", "FFFG"]}),  # two starts: resetting draws too
    EnvSpec(NEWEST["CliffWalking"], {"is_slippery": True}, max_episode_steps=60),
    EnvSpec(NEWEST["Taxi"], {"is_rainy": True}, max_episode_steps=20),
    EnvSpec(NEWEST["Taxi"], max_episode_steps=20),
]
WITHOUT = EnvSpec("CartPole-v1", wrappers=(("NoVelocity", {}),))
SMALL = [*TABLES, WITHOUT, *(EnvSpec(env_id) for env_id in {**PROBES, **MEMORY_PROBES, **SPACE_PROBES, **BOX_PROBES})]


class Walk(gym.Env):
    """An env of a user's own, that names its tensor version."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    tensor_env = "rlab.envs.tensor_probes:ProbeConstant"


def linear_policy(spec: EnvSpec, weights: torch.Tensor) -> Policy:
    """A stack of linear policies; `weights [S, outputs, inputs]`."""
    env = tensor_env_of(spec)
    members, outputs, inputs = weights.shape
    network = NetworkSpec((LayerSpec("linear", {"in_features": inputs, "out_features": outputs}),))
    head = {"kind": "deterministic" if isinstance(env.action_space, Box) else "categorical"}
    policy = build_policy(PolicySpec(env.obs_space, env.action_space, PLAIN, network, head), tuple(range(members)))
    with torch.no_grad():
        policy.network[0].weight.copy_(weights.mT)
        policy.network[0].bias.zero_()
    return policy


def drawn_policy(spec: EnvSpec) -> Policy:
    """Three networks of fresh weights."""
    env = tensor_env_of(spec)
    return build_policy(actor_spec(PPOConfig(hidden=(8,)), env.obs_space, env.action_space), (0, 1, 2))


def both(spec: EnvSpec, policy: Policy, episodes: int):
    """The evaluation as tensors, and Gymnasium's."""
    played = TensorEpisodes(spec, range(FIRST_SEED, FIRST_SEED + episodes))
    as_tensors = TensorEvaluation(policy, played, FIRST_SEED, AS_IT_IS)()
    return as_tensors, evaluate(policy, EpisodeMaker(spec), episodes, FIRST_SEED)


@pytest.mark.parametrize(("env_id", "episodes"), [(name, 3 if name == "Acrobot-v1" else 10) for name in LINEAR])
def test_classic_control_has_the_lengths_and_returns_of_gymnasium(env_id, episodes):
    """Both compute in float64, and differ in its last digits. Continuous actions are float32, as are the terms that
    Gymnasium makes of them: a relative error of 2^-24 at each step, which these policies let shrink."""
    spec, weights = EnvSpec(env_id), torch.tensor(LINEAR[env_id])
    as_tensors, gymnasium = both(spec, linear_policy(spec, torch.stack([weights, 0.5 * weights + 0.01])), episodes)
    assert as_tensors.lengths.tolist() == gymnasium.lengths.tolist()
    assert as_tensors.returns == pytest.approx(gymnasium.returns, rel=1e-6)
    assert len(np.unique(gymnasium.returns)) > 1 or env_id == "CartPole-v1"  # not all of them run into the time limit


@pytest.mark.parametrize("spec", SMALL, ids=[spec.label for spec in SMALL])
def test_small_worlds_are_played_exactly_as_gymnasium_plays_them(spec):
    assert why_not_tensor_episodes(spec) is None
    as_tensors, gymnasium = both(spec, drawn_policy(spec), 8)
    assert as_tensors.lengths.tolist() == gymnasium.lengths.tolist()
    assert as_tensors.returns == pytest.approx(gymnasium.returns, rel=1e-6)  # tables keep rewards as float32


def test_states_at_the_start_are_those_of_gymnasium_to_the_last_bit():
    spec = EnvSpec("CartPole-v1")
    env = make_env(spec)
    env.reset(seed=7)
    assert TensorEpisodes(spec, [6, 7]).start["cart"][1].tolist() == list(env.unwrapped.state)
    env.close()


def test_actions_are_counted_as_the_policy_counts_them():
    episodes = TensorEpisodes(EnvSpec("rlab/ProbeMultiDiscrete-v0"), [0])
    space = episodes.action_space
    assert any(space.start)
    first = torch.zeros(1, dtype=torch.int64)
    rewards = {
        (a, b): float(episodes.step(episodes.start, torch.tensor([[a, b]]), first)[1])
        for a in range(space.start[0], space.start[0] + space.nvec[0])
        for b in range(space.start[1], space.start[1] + space.nvec[1])
    }
    env = make_env(EnvSpec("rlab/ProbeMultiDiscrete-v0"))
    for action, reward in rewards.items():
        env.reset(seed=0)
        assert env.step(np.array(action))[1] == reward
    env.close()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (EnvSpec("CartPole-v1", wrappers=(("FlattenObservation", {}),)), "a tensor env takes no wrappers"),
        (
            EnvSpec(NEWEST["CliffWalking"], {"is_slippery": True}),
            f"{NEWEST['CliffWalking']} has no time limit, so that",
        ),
        (EnvSpec(f"{__name__}:Walk"), "the tensor version of"),
    ],
)
def test_episodes_that_are_not_known_to_be_equal_are_left_to_gymnasium(spec, why):
    assert why_not_tensor_episodes(spec).startswith(why)


class ChecksCrossings(Programs):
    """Programs on a stand-in for a GPU, in which nothing may cross to the host."""

    def __init__(self, gpu):
        self.gpu = gpu

    def run(self, name, function, *args):
        with self.gpu.program():
            return function(*args)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "FrozenLake-v1", "rlab/ProbeMemory-v0"])
def test_a_step_of_an_evaluation_on_a_gpu_reads_nothing_on_the_host(env_id, gpu):
    spec = EnvSpec(env_id, max_episode_steps=20)
    expected = both(spec, drawn_policy(spec), 3)[0]
    with gpu:
        policy = drawn_policy(spec).to(gpu.device)
        episodes = TensorEpisodes(spec, range(FIRST_SEED, FIRST_SEED + 3), gpu.device)
        found = TensorEvaluation(policy, episodes, FIRST_SEED, ChecksCrossings(gpu))()
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.returns.tolist() == expected.returns.tolist()
