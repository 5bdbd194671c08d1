"""What a mask forbids is never done in training, by any agent, and takes no part in what is learned."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.agents import AGENTS, load_agent
from rlab.learning.contract import Now
from rlab.networks.spaces import Discrete, Masked, MultiDiscrete, pack
from rlab.types import Clock

ON_POLICY = ("a2c", "ppo", "reinforce")
CHOOSERS = [name for name in AGENTS if Discrete in load_agent(name).action_spaces]
EXPLORERS = sorted(name for name in CHOOSERS if load_agent(name).data != "dataset")  # the others try nothing
WORLDS = ("rlab/ProbeMasked-v0", "Taxi-v4")
# Few updates: it is acting that is looked at.
QUICK: dict[str, dict[str, Any]] = {
    **{
        name: {"learning_starts": 200, "learn_every": 400, "updates_per_learn": 1, "hidden": (16,)}
        for name in ("dqn", "double_dqn", "sac", "rainbow")
    },
    "droq": {"learning_starts": 200, "learn_every": 400, "utd": None, "updates_per_learn": 1, "hidden": (16,)},
    **{name: {"rollout_steps": 20, "hidden": (16,)} for name in ON_POLICY},
    "ppo": {"rollout_steps": 20, "hidden": (16,), "epochs": 1},
}


class Strict(gym.Wrapper[Any, Any, Any, Any]):
    """Breaks when it is told to do what its own mask forbids; counts what all of them together were told to do."""

    obeyed = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        self.allowed = info["action_mask"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.allowed[action], f"action {action} is forbidden by {self.allowed}"
        Strict.obeyed += 1
        obs, reward, terminated, truncated, info = super().step(action)
        self.allowed = info["action_mask"]
        return obs, reward, terminated, truncated, info


@pytest.fixture
def strict_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a world that breaks where its mask is not kept."""
    world = request.param  # of a parametrisation of the test
    strict_id = f"rlab-test/Strict{world.removeprefix('rlab/')}"
    if strict_id not in gym.registry:
        gym.register(
            strict_id,
            entry_point=lambda **kwargs: Strict(gym.make(world, **kwargs)),
            disable_env_checker=True,
            order_enforce=False,
        )
    monkeypatch.setattr(Strict, "obeyed", 0)
    return strict_id


def check_obeyed(lab: SimpleNamespace, name: str, world: str, env_steps: int, num_envs: int) -> None:
    """Two members take half of `env_steps` each."""
    lab.train_members(name, world, (0, 1), env_steps // 2, num_envs=num_envs, **QUICK[name])
    assert Strict.obeyed >= env_steps


IN_EVERY_WORLD = pytest.mark.parametrize("strict_world", WORLDS, indirect=True)


@pytest.mark.parametrize(
    ("name", "strict_world"),
    # `make prove` has each in both
    [
        *((name, WORLDS[0]) for name in ("droq", "ppo", "rainbow", "sac")),
        *((name, WORLDS[1]) for name in ("dqn", "a2c")),
    ],
    indirect=["strict_world"],
)
def test_nothing_forbidden_is_done_in_two_thousand_steps(lab: SimpleNamespace, name: str, strict_world: str) -> None:
    check_obeyed(lab, name, strict_world, 2_000, num_envs=50)


@pytest.mark.prove
@IN_EVERY_WORLD
@pytest.mark.parametrize("name", EXPLORERS)
def test_nothing_forbidden_is_done_in_a_million_steps(lab: SimpleNamespace, name: str, strict_world: str) -> None:
    check_obeyed(lab, name, strict_world, 1_000_000, num_envs=50)


@IN_EVERY_WORLD
def test_a_strict_world_notices(lab: SimpleNamespace, strict_world: str) -> None:
    class Blind(load_agent("ppo")):  # type: ignore[misc]
        def act(self, obs: torch.Tensor, now: Now, state: Any) -> Any:
            obs[..., -self.head.mask_width :] = 1
            return super().act(obs, now, state)

    with pytest.raises(Exception, match="is forbidden by"):
        lab.train_members(Blind, strict_world, (0, 1), 1_000, **QUICK["ppo"])


CHOICES = {"one choice": Discrete(4), "several choices": MultiDiscrete((3, 2), (0, 0), (2,))}


def masked_rows(name: str, actions: Any, rng: np.random.Generator) -> tuple[Any, dict[str, torch.Tensor]]:
    """An agent of two members and rows to learn from: its own actions under random masks."""
    bits = actions.n if isinstance(actions, Discrete) else sum(actions.nvec)
    agent_class: Any = load_agent(name)
    config = agent_class.Config(hidden=(8,), entropy_weight=0.1)
    agent = agent_class(config, Masked(Discrete(3), bits), actions, (0, 1), torch.device("cpu"))
    masks = rng.random((2, 30, bits)) < 0.5
    masks[..., [0, 3]] = True  # something is allowed, in each choice
    obs = torch.from_numpy(pack(Masked(Discrete(3), bits), rng.integers(3, size=(2, 30)), masks))
    action = agent.act(obs, agent.scheduled(Clock(0, 10)), {}).action
    rows = {"obs": agent.preprocess(obs), "action": action, "mask": agent.preprocess.mask(obs)}
    numbers = torch.from_numpy(rng.normal(size=(3, 2, 30)).astype(np.float32))
    rows |= {"advantage": numbers[0], "target": numbers[1], "value": numbers[2], "weight": torch.ones(2, 30)}
    with torch.no_grad():
        rows["log_prob"] = agent.head.log_prob(agent.actor(rows["obs"]), action, rows["mask"])
    return agent, rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("name", ON_POLICY)
def test_what_is_forbidden_neither_gets_a_gradient_nor_changes_another_s(name: str, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    agent, rows = masked_rows(name, CHOICES[kind], rng)
    shape = (2, 30, agent.head.width)
    outputs = torch.from_numpy(rng.normal(size=shape).astype(np.float32))  # a policy that has moved on since
    forbidden = ~rows["mask"]
    assert forbidden.flatten(0, 1).any(dim=0).any()

    def learned_from(outputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """The loss `[S]`, its metrics, and its gradient by the outputs."""
        outputs.requires_grad_()
        agent.forward = lambda features: (outputs, torch.zeros(2, 30))
        loss, _, metrics = agent.loss(rows, agent.scheduled(Clock(1, 10)))
        return loss.detach(), metrics, torch.autograd.grad(loss.sum(), outputs)[0]

    loss, metrics, grad = learned_from(outputs.clone())
    assert (grad[forbidden] == 0.0).all()
    assert (grad[~forbidden] != 0.0).float().mean() > 0.5
    for much in (-50.0, 7.0, 1e4):
        noise = torch.from_numpy(rng.normal(much, 1.0, size=shape).astype(np.float32))
        loss_now, metrics_now, grad_now = learned_from(torch.where(forbidden, outputs + noise, outputs))
        assert torch.equal(loss_now, loss)
        assert torch.equal(grad_now, grad)
        assert all(torch.equal(metrics_now[key], value) for key, value in metrics.items())
