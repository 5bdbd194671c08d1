"""An agent that breaks the contract gets one line: before the first step where that can be known, else at the first
step, draw or update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.errors import RlabError, UsageError
from rlab.experience.env_contract import Acted
from rlab.experience.fields import Field
from rlab.experience.samplers import RandomSampler, UniformSampler
from rlab.learning.contract import Updated
from rlab.learning.contract_checks import check_acted
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.terms import LossTerms
from rlab.networks.spaces import Box, Discrete


@pytest.fixture(autouse=True)
def _in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def the_line(monkeypatch: pytest.MonkeyPatch, parts: Mapping[str, Any], out: Path) -> str:
    """What a run of expected SARSA says with these parts in place of its own."""
    import own_agent  # type: ignore[import-not-found]

    mistaken = type("Mistaken", (own_agent.ExpectedSarsa,), dict(parts))
    monkeypatch.setattr(own_agent, "Mistaken", mistaken, raising=False)
    with pytest.raises(RlabError) as caught:
        rlab.train("own_agent:Mistaken", "CartPole-v1", seeds=2, num_envs=3, env_steps=600, eval_every=0, out=out)
    return str(caught.value)


@dataclass(frozen=True)
class WithoutDefault:
    gamma: float


@dataclass(frozen=True)
class OfNoLoop:
    gamma: float = 0.99


@dataclass
class Changeable:
    gamma: float = 0.99


class Plain:
    gamma = 0.99


def short_of(part: str) -> Callable[..., None]:
    def init(self: Any, *args: Any) -> None:
        super(type(self), self).__init__(*args)
        delattr(self, part)

    return init


def one_weight_alone(self: Any, *args: Any) -> None:
    super(type(self), self).__init__(*args)
    first = next(self.q_network.parameters())
    self.optimizer = StackedOptimizer(OptimizerSettings("adam", 1e-3), [first])


def named_alike(self: Any) -> dict[str, StackedOptimizer]:
    return {"q_network": self.optimizer, "other": self.optimizer}


OBS, ACTION = Field("obs", (4,), "float32"), Field("action", (), "int64")
BEFORE: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({"Config": Plain}, "Mistaken.Config is not a dataclass; write @dataclass(frozen=True)"),
    "instance": ({"Config": OfNoLoop()}, "Mistaken.Config is not a dataclass"),
    "changeable": ({"Config": Changeable}, "Mistaken.Config can be changed; write @dataclass(frozen=True) above it."),
    "required": ({"Config": WithoutDefault}, "Mistaken.Config has no default for gamma; every setting needs one."),
    "loop": (
        {"Config": OfNoLoop},
        "lacks replay_capacity, batch_size, learning_starts, learn_every, updates_per_learn",
    ),
    "spaces": (
        {"action_spaces": ("Discrete",)},
        "it must be a tuple of classes of rlab.networks.spaces: Box, Discrete",
    ),
    "arguments": (
        {"act": lambda self, obs, now: None},
        "Mistaken.act(self, obs, now) is called as act(obs, now, state): too many positional arguments.",
    ),
    "device": ({"__init__": short_of("device")}, "Mistaken has no attribute device once it is built"),
    "method": ({"networks": lambda self: {}}, "Mistaken.networks is a method; write @property above it."),
    "names": ({"optimizers": property(named_alike)}, "Mistaken are called optimizer, optimizer, and `scheduled` gives"),
    "scheduled": (
        {"scheduled": lambda self, clock: None},
        "Mistaken.scheduled gives a value of type NoneType; it must",
    ),
    "number": (
        {"scheduled": lambda self, clock: {"x": torch.ones(())}},
        "gives 'x' as a value of type Tensor; it must",
    ),
    "none": ({"optimizers": {}}, "Mistaken.optimizers is {}; it must be a dict with one entry or more"),
    "untrained": ({"__init__": one_weight_alone}, "has the parameter 0.bias of its network 'q_network', which would"),
    "policy": ({"policy": lambda self: self.q_network}, "policy() gives a value of type StackedNetwork; it must be"),
    "tuple": ({"fields": lambda self: (OBS, ("action", (), "int64"))}, "each must be a Field(name, shape, dtype)."),
    "dtype": ({"fields": lambda self: (OBS, ACTION, Field("p", (), "float23"))}, "'float23' of the field 'p' is not a"),
    "state": ({"state": lambda self: {"x": {1, 2}}}, "Mistaken.state(): state/x: a checkpoint cannot hold a set"),
}


@pytest.mark.parametrize("mistake", BEFORE)
def test_a_mistake_that_shows_in_the_agent_is_named_before_anything_is_written(
    mistake: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts, line = BEFORE[mistake]
    assert line in the_line(monkeypatch, parts, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def acts(**parts: Any) -> dict[str, Any]:
    """An `act` with actions [S, N] of 0, and these parts in their place."""
    given = {"action": torch.zeros(2, 3, dtype=torch.int64), **parts}
    return {"act": lambda self, obs, now, state: Acted(**given)}


def updates(metrics: Any, **parts: Any) -> dict[str, Any]:
    return {"update": lambda self, batch, now: Updated(metrics, **parts)}


class FewRows(UniformSampler):
    draws_ahead = False  # each batch is drawn by itself

    def sample(self, batch_size: int) -> Any:
        return super().sample(batch_size - 1)


class Ordered(UniformSampler):
    draws_ahead = False


class Rowless(RandomSampler):
    def sample(self, batch_size: int) -> Any:
        return {"obs": torch.zeros(2, batch_size, 4)}


def stored(value: Any) -> dict[str, Any]:
    return {"fields": lambda self: (OBS, ACTION, Field("p", (), "float32")), **acts(extras={"p": value})}


class Weighty:
    name = "weighty"

    def prepare(self, batch: Any) -> Any:
        return {}

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return outputs.mean(dim=(1, 2))

    def weight(self, clock: Any) -> float:
        return 1.0


def forgets_the_term(self: Any, batch: Any, now: Any) -> Any:
    q = self._policy.outputs(batch["obs"])
    loss, _ = LossTerms(Weighty()).add_to(q.mean(dim=(1, 2)), q, batch, now)
    return Updated({"loss": loss.detach()})


AT_FIRST: dict[str, tuple[dict[str, Any], str]] = {
    "array": ({"act": lambda self, obs, now, state: torch.zeros(2, 3)}, "act gives a value of type Tensor; it must"),
    "flat": (
        acts(action=torch.zeros(6, dtype=torch.int64)),
        "the action has the shape (6,); it must be [S, N, ...], here (2, 3).",
    ),
    "ndarray": (acts(action=np.zeros((2, 3))), "the action is a value of type ndarray; it must be a tensor"),
    "float": (
        acts(action=torch.zeros(2, 3).double()),
        "the action has the dtype float64; `fields` stores it as int64.",
    ),
    "range": (acts(action=torch.full((2, 3), 2)), "act gives actions from 2 to 2; they count from 0"),
    "broadcast": (stored(torch.zeros(3)), "the value of the field 'p' has the shape (3,); it must be [S, N, ...]"),
    "extras": (acts(extras=torch.zeros(3)), "act gives a value of type Tensor as extras; it must be a dict"),
    "memory": (acts(state={"h": torch.zeros(2, 3, 4)}), "a state with the shapes {'h': (2, 3, 4)}; it must be like"),
    "sampler": ({"sampler": lambda self, *a: None}, "gives a value of type NoneType, which lacks draws_ahead, sample"),
    "few": ({"sampler": lambda self, *a: FewRows(*a)}, "'row' with the shape (2, 63); sample(64) must give [2, 64"),
    "rowless": ({"sampler": lambda self, *a: Rowless(*a)}, 'gives no batch with "row", the ids [S, B] of the rows'),
    "dict": (
        {"update": lambda self, batch, now: {}},
        "update gives a value of type dict; it must be Updated(metrics)",
    ),
    "mean": (
        updates({"x": torch.zeros(())}),
        "the metric 'x' is a tensor of the shape (); each must be a tensor [S], ",
    ),
    "rate": (
        {"scheduled": lambda self, clock: {"explore/epsilon": 0.1}},
        "`scheduled` lacks 'optimizer/learning_rate': hand on what optimizer.scheduled(clock) gives.",
    ),
    "term": ({"update": forgets_the_term}, "lacks 'weight of weighty': hand on what terms.scheduled(clock) gives."),
    "number": (updates({"x": 1.0}), "the metric 'x' is a value of type float; each must be a tensor [S], here [2]"),
    "feedback": (
        {"sampler": lambda self, *a: Ordered(*a), **updates({}, feedback=torch.zeros(2, 1))},
        "gives as feedback a tensor of the shape (2, 1); it must be a tensor [2, 64], a number for each row.",
    ),
}


@pytest.mark.parametrize("mistake", AT_FIRST)
def test_a_mistake_that_shows_at_work_is_named_the_first_time(
    mistake: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts, line = AT_FIRST[mistake]
    assert line in the_line(monkeypatch, parts, tmp_path / "run")


def test_what_act_gives_on_another_device_is_refused(gpu: Any) -> None:
    import own_agent

    spaces = Box((4,), "float32", -1.0, 1.0), Discrete(2)
    agent = own_agent.ExpectedSarsa(own_agent.ExpectedSarsaConfig(), *spaces, (0, 1), torch.device("cpu"))
    with gpu:
        obs = torch.zeros(2, 3, 4, device=gpu.device)
        acted = Acted(torch.zeros(2, 3, dtype=torch.int64))
        with pytest.raises(UsageError, match="the action is on cpu; it must be where observations are, on cuda:0"):
            check_acted(agent, acted, obs, spaces[1], agent.fields())


@pytest.mark.parametrize("shape", [(), (2, 64)])
def test_a_step_refuses_a_loss_that_is_not_one_number_for_each_member(shape: tuple[int, ...]) -> None:
    weights = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = StackedOptimizer(OptimizerSettings("adam", 1e-3), [weights])
    with pytest.raises(UsageError, match=r"takes one loss for each member, \[S\], here \[2\]: average over the batch"):
        optimizer.step(weights.sum() * torch.ones(shape))
    with pytest.raises(UsageError, match="the loss depends on no parameter: it was detached"):
        optimizer.step(weights.detach().sum(dim=1))
