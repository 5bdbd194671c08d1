"""NaN or infinity in an observation, a reward, a loss, a gradient or a weight stops a run within one update, and names
the tensor and the member: for agents of every kind, called as they are and in programs.

A program is run here as the graph that was traced, operator by operator, without the compiler's time.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents import load_agent
from rlab.draws import Draws
from rlab.envs import EnvSpec, make_vec
from rlab.errors import RlabError, RlabWarning
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import demonstrations_of
from rlab.jobs.data_sources import data_source, make_storage
from rlab.learning.base_loop import Periods
from rlab.learning.contract import Updated
from rlab.learning.dataset_loop import DatasetLoop
from rlab.learning.dropping import Survivors
from rlab.learning.programs import AS_IT_IS, CompiledPrograms, Programs
from rlab.networks.spaces import Box, Discrete
from rlab.runs.config import RunConfig

NEVER, CPU, SEEDS, AT = 10**9, torch.device("cpu"), (4, 5, 6), 40
SMALL = {"hidden": (8,)}
AGENTS: dict[str, dict[str, Any]] = {
    "dqn": {
        **SMALL,
        "learning_starts": 8,
        "learn_every": 4,
        "updates_per_learn": 1,
        "batch_size": 8,
        "replay_capacity": 64,
    },
    "ppo": {**SMALL, "rollout_steps": 4, "epochs": 1, "minibatches": 1, "normalize_advantage": False},
    "sac": {**SMALL, "learning_starts": 8, "learn_every": 4, "batch_size": 8, "replay_capacity": 64, "n_step": 2},
    "iql": {**SMALL, "batch_size": 8},
    "bc": {**SMALL, "batch_size": 8},
}
Poison = Callable[[Any], None]


class PoisonAt:
    """Breaks something of member 1 when the clock comes to `AT`."""

    loop: Any

    def __init__(self, poison: Poison) -> None:
        self._poison, self.updates = poison, 0

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if env_steps == AT:
            self.updates = self.loop.updates
            with torch.no_grad():
                self._poison(self.loop)

    def on_evaluation(self, env_steps: int, returns: Any, lengths: Any) -> None: ...

    def on_save(self, env_steps: int) -> None: ...


def dataset() -> Dataset:
    rng, length = np.random.default_rng(1), 9
    episodes = [
        Episode(
            rng.normal(size=(length + 1, 3)).astype(np.float32),
            rng.integers(2, size=length),
            rng.normal(size=length).astype(np.float32),
            True,
            False,
        )
        for _ in range(3)
    ]
    return Dataset("nobody", Box((3,), "float32", -math.inf, math.inf), Discrete(2), tuple(episodes))


def loop_of(name: str, programs: Programs, listener: PoisonAt) -> Any:
    """A training loop of three members, with a row of metrics at every step of the clock."""
    agent_class: Any = load_agent(name)
    config, rest = agent_class.Config(**AGENTS[name]), (Periods(4, NEVER, NEVER), None, [listener])
    if agent_class.data == "dataset":
        data = dataset()
        agent = agent_class(config, data.obs_space, data.action_space, SEEDS, CPU)
        storage: Any = demonstrations_of(data, SEEDS)
        sampler = agent.sampler(storage, Draws(SEEDS, "dataset", CPU))
        listener.loop = DatasetLoop(agent, SEEDS, sampler, 80, *rest, programs=programs)
    else:
        env = HostEnv(make_vec(EnvSpec("CartPole-v1"), SEEDS, 4), CPU)
        agent = agent_class(config, env.obs_space, env.action_space, SEEDS, CPU)
        source, run = data_source(name, agent.data), RunConfig(seed=4, seeds=3, num_envs=4, env_steps=80)
        storage = make_storage(source, agent, run, None, env)
        sampler = agent.sampler(storage, Draws(SEEDS, source.loop.stream_use, CPU))
        listener.loop = source.loop(agent, Collector(env), storage, sampler, 80, *rest, programs=programs)
    listener.loop.storage_ = storage
    return listener.loop


def weights(loop: Any) -> None:
    next(loop.agent.policy().network.parameters())[1].view(-1)[0] = math.nan


def moments(loop: Any) -> None:
    for optimizer in loop.agent.optimizers.values():
        for kept in optimizer.torch_optimizer.state.values():
            kept["exp_avg"][1, 0] = math.inf


def other_networks(loop: Any) -> None:
    """The target network of DQN; the critics of the others."""
    agent = loop.agent
    network = agent.target_network if hasattr(agent, "target_network") else list(agent.networks.values())[-1]
    parameter = next(network.parameters())  # of an ensemble it leads with S x C
    parameter[len(parameter) // len(SEEDS)].view(-1)[0] = -math.inf


def stored(name: str, value: float) -> Poison:
    """All of a field that the storage holds of member 1."""

    def put(loop: Any) -> None:
        storage = loop.storage_
        first = storage.rows_written - storage.rows
        values = storage.read_lanes(first, storage.rows, name)[name].numpy().copy()
        values[1] = value
        storage.put_rows(name, first, values)

    return put


POISONS: dict[str, Poison] = {
    "weights": weights,
    "moments": moments,
    "other networks": other_networks,
    "observations": stored("obs", math.nan),
    "rewards": stored("reward", math.inf),
}
READ_AHEAD = ("observations", "rewards")  # of datasets, which are looked at when they are loaded


CASES = [(name, what) for name in AGENTS for what in POISONS if name in ("dqn", "ppo") or what not in READ_AHEAD]
# In programs each agent breaks in one way every day.
IN_PROGRAMS = [
    pytest.param(name, what, True, marks=() if what == "weights" else pytest.mark.prove) for name, what in CASES
]


@pytest.mark.parametrize(("name", "what", "in_programs"), [*((*each, False) for each in CASES), *IN_PROGRAMS])
def test_it_stops_within_one_update_and_the_member_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, what: str, in_programs: bool
) -> None:
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    notes: list[str] = []
    programs = CompiledPrograms(CPU, notes.append) if in_programs else AS_IT_IS
    listener = PoisonAt(POISONS[what])
    loop = loop_of(name, programs, listener)
    with pytest.raises(
        RlabError, match=r"of the member with seed 5 is not finite at update \d+; nothing was saved from"
    ):
        loop.run()
    assert notes == []
    # What breaks a moment breaks the weights in the step, which the next update sees; a row counts once it is drawn.
    assert 1 <= loop.updates - listener.updates <= 2


@pytest.mark.parametrize("name", AGENTS)
def test_a_gradient_that_is_not_finite_under_a_finite_loss_stops_it_in_that_update(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    agent: Any = load_agent(name)
    learn = agent.update

    def update(self: Any, batch: Any, now: Any) -> Updated:
        if loop.updates == listener.updates > 0:
            optimizer = next(iter(self.optimizers.values()))  # the policy's
            step = optimizer.step
            weight = next(self.policy().network.parameters())
            zero = (weight[1:2] - weight[1:2].detach()).abs().sqrt().flatten(1).sum(dim=1)  # 0, of gradient NaN
            added = torch.nn.functional.pad(zero, (1, 1))
            optimizer.step = lambda loss, *args, **more: step(loss + added, *args, **more)
            found: Updated = learn(self, batch, now)
            optimizer.step = step
            return found
        return learn(self, batch, now)

    monkeypatch.setattr(agent, "update", update)
    listener = PoisonAt(lambda loop: None)
    loop = loop_of(name, AS_IT_IS, listener)
    with pytest.raises(RlabError, match=r"^metric 'grad/norm' of the member with seed 5 is not finite at update"):
        loop.run()
    assert loop.updates == listener.updates + 1


@pytest.mark.parametrize("name", AGENTS)
def test_with_survivors_the_others_learn_to_the_bit_what_they_would_have_learned(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    agent: Any = load_agent(name)
    learn, found = agent.update, []

    def update(self: Any, batch: Any, now: Any) -> Updated:
        if poisons and loop.updates == listener.updates > 0:
            batch = {k: v.clone() if v.is_floating_point() else v for k, v in batch.items()}
            for value in batch.values():
                if value.is_floating_point():
                    value[1] = math.nan
        updated: Updated = learn(self, batch, now)
        return updated

    monkeypatch.setattr(agent, "update", update)
    for poisons in (False, True):
        listener = PoisonAt(lambda loop: None)
        loop = loop_of(name, AS_IT_IS, listener)
        loop.members = Survivors(loop.agent, SEEDS)
        with pytest.warns(RlabWarning, match="^seed 5 was dropped at update") if poisons else nullcontext():
            loop.run()
        found.append(dict(loop.agent.policy().state_dict()))
        assert loop.members.left == ((4, 6) if poisons else SEEDS)
    whole, broken = found
    for place, tensor in broken.items():
        assert torch.equal(tensor[[0, 2]], whole[place][[0, 2]]), place
        assert bool(tensor.isfinite().all()), place
