"""Every agent as part of a program: acting, storing, drawing, preparing and learning give what plain calls give.

A program is run here as the graph that was traced, operator by operator, without the compiler's time.
"""

import copy
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlab.agents import AGENTS, load_agent
from rlab.draws import Draws
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import demonstrations_of
from rlab.experience.env_contract import Acted, Step
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Now, UpdatesInTurn, initial_state
from rlab.learning.distillation import Teacher
from rlab.learning.novel_agent import with_novelty
from rlab.learning.program import Program
from rlab.learning.sparsity import GradualPruning
from rlab.networks.memory import State, reset
from rlab.networks.policy import build_policy
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Space, pack
from rlab.runs.encoding import decode, encode
from rlab.types import Clock

OUTSIDE = Path(__file__).parent / "outside"
SEEDS, ENVS, STEPS, ROUNDS = (3, 5), 3, 4, 4
VECTOR, ROOM = Box((3,), "float32", -1.0, 1.0), Masked(Discrete(3), 4)
PLACE = Dict((("at", VECTOR), ("in", Discrete(2))))  # of which one part is scaled
FOUR, PUSH = Discrete(4), Box((2,), "float32", -2.0, 2.0)
CHOICES, BITS = MultiDiscrete((3, 2), (0, 0), (2,)), MultiBinary((3,))

# An optimizer divides by the size of a gradient: with this in its denominator a rounding of a gradient near 1, of 1e-7,
# moves a weight by 1e-5 of the learning rate at most.
STABLE = {"hidden": (8,), "optimizer_eps": 1e-2}
DATA = {**STABLE, "batch_size": 8}
REPLAY = {**DATA, "replay_capacity": 30, "learning_starts": 0}
DQN = {**REPLAY, "target_every": 9}
ROLLOUT = {**STABLE, "rollout_steps": STEPS, "entropy_weight": 0.01}
PPO = {**ROLLOUT, "epochs": 2, "minibatches": 2}
WINDOWS = {**DQN, "learning_starts": 12, "sequence_length": 3, "burn_in": 1, "memory_size": 4, "memory_window": 3}
NOVEL = {"novelty": "rnd", "novelty_hidden": (8,), "novelty_features": 4}


@dataclass(frozen=True)
class Case:
    """An agent, its settings, what it acts on and with, and what it gets from outside."""

    agent: str
    settings: dict[str, Any]
    actions: Space = FOUR
    obs: Space = VECTOR
    more: str = ""  # teacher, pruning or demonstrations


HELD = {**DQN, "epsilon_duration": 2.0, "epsilon_end": 0.7}
CASES = {
    "dqn": Case("dqn", DQN),
    "dqn dueling n-step": Case("dqn", {**DQN, "dueling": True, "n_step": 3, "l1": 1e-3}, more="pruning"),
    "dqn soft targets": Case("dqn", {**DQN, "target_tau": 0.1, "target_every": 2, "loss": "squared"}, more="teacher"),
    "dqn masks": Case("dqn", HELD, obs=ROOM),
    "dqn running statistics": Case("dqn", {**HELD, "obs_scaling": "running"}, obs=PLACE),
    "c51": Case("dqn", {**DQN, "value_head": "c51", "atoms": 5, "dueling": True}),
    "qr": Case("double_dqn", {**DQN, "value_head": "qr", "quantiles": 4}, obs=ROOM),
    "iqn": Case("double_dqn", {**DQN, "value_head": "iqn", "iqn_samples": 3, "iqn_points": 4, "munchausen": True}),
    "dqn munchausen": Case("dqn", {**DQN, "munchausen": True}, obs=ROOM),
    "dqn demonstrations": Case("dqn", {**DQN, "demonstration_loss": "margin"}, more="demonstrations"),
    "dqn gru": Case(
        "dqn", {**WINDOWS, "memory": "gru", "stored_state": True, "munchausen": True}, obs=ROOM, more="teacher"
    ),
    "dqn transformer": Case(
        "dqn", {**WINDOWS, "memory": "transformer", "demonstration_loss": "margin"}, more="demonstrations"
    ),
    "double_dqn lstm": Case("double_dqn", {**WINDOWS, "memory": "lstm", "n_step": 2, "dueling": True, "dropout": 0.2}),
    "double_dqn": Case("double_dqn", {**DQN, "n_step": 2, "optimizer": "rmsprop", "dropout": 0.2}),
    "dqn prioritised": Case("dqn", {**DQN, "replay": "prioritised"}),
    "dqn windows prioritised": Case("dqn", {**WINDOWS, "memory": "gru", "replay": "prioritised", "noisy": True}),
    "double_dqn noisy": Case("double_dqn", {**DQN, "noisy": True, "replay": "prioritised", "dueling": True}),
    "rainbow": Case("rainbow", {**DQN, "dueling": True}),
    "reinforce": Case("reinforce", {**ROLLOUT, "reward_scaling": "running"}),
    "reinforce without a baseline": Case("reinforce", {**ROLLOUT, "baseline": False}),
    "a2c": Case("a2c", {**ROLLOUT, "reward_scaling": "running", "weight_decay": 1e-2}, more="teacher"),
    "ppo": Case("ppo", {**PPO, "clip_value": 0.2, "clip_final": 0.5}, obs=ROOM),
    "ppo target_kl": Case("ppo", {**PPO, "target_kl": 1e-4, "learning_rate": 1e-2}, CHOICES),
    "ppo running statistics": Case("ppo", {**PPO, "reward_scaling": "running", "obs_scaling": "running"}, PUSH),
    "ppo shared body": Case("ppo", {**PPO, "shared_body": True}, BITS, more="pruning"),
    "ppo squashed": Case("ppo", {**PPO, "squash": True}, PUSH),
    "ppo lstm shared body": Case("ppo", {**PPO, "memory": "lstm", "memory_size": 4, "shared_body": True}, obs=ROOM),
    "a2c transformer": Case(
        "a2c", {**ROLLOUT, "memory": "transformer", "memory_size": 4, "reward_scaling": "running"}, more="teacher"
    ),
    "bc": Case("bc", {**DATA, "class_weights": "balanced", "label_smoothing": 0.1, "obs_noise": 0.1}),
    "bc squared": Case("bc", {**DATA, "loss": "squared", "obs_scaling": "running"}, PUSH),
    "iql": Case("iql", {**DATA, "dropout": 0.2}),
    "iql continuous": Case("iql", DATA, PUSH),
    "cql": Case("cql", {**DATA, "target_every": 3, "dueling": True}),
    "dqfd": Case("dqfd", {**DATA, "target_every": 3, "n_step": 3}, obs=ROOM),
    "encoder": Case("encoder", DATA),
    "encoder continuous": Case("encoder", {**DATA, "objective": "inverse"}, PUSH),
    "sac": Case("sac", {**REPLAY, "obs_scaling": "running", "exploration_noise": "pink"}, PUSH),
    "sac choices": Case("sac", {**REPLAY, "policy_delay": 2, "n_step": 2}, obs=ROOM),
    "sac fixed temperature": Case("sac", {**REPLAY, "temperature": 0.2}, PUSH, more="teacher"),
    "crossq": Case("crossq", {**REPLAY, "policy_delay": 2, "critic_hidden": (6,)}, PUSH),
    "droq": Case("droq", {**REPLAY, "utd": 2, "policy_delay": 2, "dropout": 0.2}, PUSH),
    "droq with the targets of redq": Case("droq", {**REPLAY, "utd": 1, "critics": 4, "target_critics": 2}, obs=ROOM),
    "td3": Case("td3", {**REPLAY, "policy_delay": 3, "learning_starts": 12}, PUSH),
    "ddpg": Case("ddpg", {**REPLAY, "exploration_noise": "ornstein_uhlenbeck"}, PUSH, more="pruning"),
    "dqn novelty": Case("dqn", {**DQN, **NOVEL, "n_step": 2}, obs=ROOM),
    "ppo novelty": Case("ppo", {**PPO, **NOVEL}, obs=PLACE),
    "sac novelty": Case("sac", {**REPLAY, **NOVEL}, PUSH),
    "dqn memory novelty": Case("dqn", {**WINDOWS, **NOVEL, "memory": "gru"}),
    "own": Case("own_agent:ExpectedSarsa", {"hidden": (8,), "batch_size": 8, "learning_rate": 1e-4}),
}

# What they do, others do one by one; `make prove` has all, for longer.
OF_SEVERAL_OTHERS = {
    *("dqn", "dqn masks", "dqn munchausen", "dqn demonstrations", "dqn prioritised", "double_dqn noisy", "c51"),
    *("double_dqn", "double_dqn lstm", "dqn transformer", "dqn windows prioritised", "droq with the targets of redq"),
    *("ppo lstm shared body", "ppo running statistics", "sac fixed temperature", "bc squared", "encoder continuous"),
    *("sac novelty", "ppo novelty", "dqn memory novelty", "iql continuous", "dqn soft targets", "qr", "sac choices"),
    *("ppo target_kl", "ppo shared body", "reinforce without a baseline"),
}


@pytest.fixture(autouse=True)
def _graphs_without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OUTSIDE.parent)
    monkeypatch.syspath_prepend(OUTSIDE)
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    monkeypatch.delitem(sys.modules, "own_agent", raising=False)


def observations(space: Space, rng: np.random.Generator, lead: tuple[int, ...]) -> np.ndarray:
    """Some of a space, `[*lead, *obs]`."""
    if space == PLACE:
        return pack(PLACE, {"at": rng.normal(size=(*lead, 3)), "in": rng.integers(2, size=lead)})
    if not isinstance(space, Masked):
        return rng.normal(size=(*lead, 3)).astype(np.float32)
    allowed = rng.random((*lead, 4)) < 0.6
    allowed[..., 1] = True
    return pack(space, rng.integers(3, size=lead), allowed)


def recorded(case: Case) -> Dataset:
    """Five episodes of nobody in particular."""
    rng, episodes = np.random.default_rng(1), []
    for number in range(5):
        length = 4 + number
        actions = rng.integers(2, size=(length, *case.actions.shape)).astype(case.actions.dtype)
        obs, reward = observations(case.obs, rng, (length + 1,)), rng.normal(size=length).astype(np.float32)
        if isinstance(case.obs, Masked):
            obs[:-1, -4:-2] = 1  # of what is done all is allowed
        episodes.append(Episode(obs, actions, reward, number % 2 == 0, number % 2 == 1))
    return Dataset("nobody", case.obs, case.actions, tuple(episodes))


class Plain:
    """Calls functions as they are."""

    def run(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def now(self, values: dict[str, float]) -> Now:
        return values


class Graphs(Plain):
    """Calls functions as programs, but for those that are named."""

    def __init__(self, plain: Collection[str] = ()) -> None:
        self._programs: dict[str, Program] = {}
        self._plain = plain

    def run(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        if name in self._plain:
            return function(*args)
        return self._programs.setdefault(name, Program(function, name))(*args)

    def now(self, values: dict[str, float]) -> Now:
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


class OnGpu(Plain):
    """Calls functions as they are, which may let nothing cross between the devices."""

    def __init__(self, gpu: Any) -> None:
        self._gpu = gpu

    def run(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        with self._gpu.program():
            return function(*args)


class Life:
    """An agent with its storage and sampler, in a world that is the same whatever it does."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        settings = load_agent(case.agent).Config(**case.settings)  # type: ignore[attr-defined]
        agent_class = with_novelty(load_agent(case.agent), settings)
        self.agent: Any = agent_class(settings, case.obs, case.actions, SEEDS, device)
        self.rng, self.clock = np.random.default_rng(0), Clock(0, 400, ENVS)
        self.obs = torch.from_numpy(observations(case.obs, self.rng, (len(SEEDS), ENVS))).to(device)
        self.ended, self.updates = np.zeros((len(SEEDS), ENVS), bool), 0
        if case.more == "teacher":
            term = Teacher(build_policy(self.agent.policy().spec, SEEDS).to(device), self.agent.head, 2.0, 0.5)
            self.agent.terms.append(term)
        if case.more == "pruning":
            GradualPruning.of_policy(0.5, self.agent)
        self.initial: State = initial_state(self.agent, ENVS)
        self.carried = {name: value.clone() for name, value in self.initial.items()}
        draws = Draws(SEEDS, "replay", device)
        if self.agent.data == "dataset":
            self.clock = Clock(0, 400)
            self.storage: Storage = demonstrations_of(recorded(case), SEEDS, device=device)
            self.agent.fit_statistics(*self.storage.observations())
            self.sampler: Any = self.agent.sampler(self.storage, draws)
            return
        capacity = case.settings.get("replay_capacity", STEPS * ENVS)
        self.storage = Storage(len(SEEDS), ENVS, capacity, self.agent.fields(), device)
        self.sampler = self.agent.sampler(self.storage, draws)
        if case.more == "demonstrations":
            shown, draws = demonstrations_of(recorded(case), SEEDS, device=device), Draws(SEEDS, "shown", device)
            self.sampler = MixtureSampler(self.sampler, self.agent.sampler(shown, draws), 0.5)

    def round(self, how: Plain) -> list[Any]:
        """Some vector steps and the updates behind them; returns all that they gave."""
        found: list[Any] = []
        for _ in range(STEPS if self.agent.data != "dataset" else 1):
            before = how.now(self.agent.scheduled(self.clock))
            self.clock = self.clock.after()
            for optimizer in self.agent.optimizers.values():
                optimizer.at(self.clock)
            now = how.now(self.agent.scheduled(self.clock))
            if self.agent.data != "dataset":
                found.append(self._step(how, before, now))
        return found + self._learn(how, now)

    def _step(self, how: Plain, before: Now, now: Now) -> Acted:
        acted = how.run("act", self._act, self.obs.clone(), before, self.carried)
        step = self._happens()
        how.run("store", self._store, self.obs, acted, step, now)
        self.storage.wrote(1)
        self.carried = reset(acted.state, self.initial, ~step.valid | step.terminated | step.truncated)
        self.obs = step.obs
        return acted

    def _act(self, obs: Tensor, now: Now, state: State) -> Acted:
        acted: Acted = self.agent.act(obs, now, state)
        return acted

    def _store(self, obs: Tensor, acted: Acted, step: Step, now: Now) -> None:
        self.storage.write(obs, acted.action, step, **acted.extras)
        self.agent.observe(obs, step, now)

    def _happens(self) -> Step:
        """Some envs end and hide the last observation, some are reset in a row of its own, others go on."""
        lanes, there = self.ended.shape, lambda array: torch.from_numpy(array).to(self.device)
        ended = ~self.ended & (self.rng.random(lanes) < 0.3)
        terminated = ended & (self.rng.random(lanes) < 0.5)
        after, following = (observations(self.case.obs, self.rng, lanes) for _ in range(2))
        hidden = ended & (self.rng.random(lanes) < 0.5)
        following[~hidden] = after[~hidden]
        valid, self.ended = ~self.ended, ended & ~hidden
        reward = there(self.rng.normal(size=lanes).astype(np.float32))
        return Step(there(following), there(after), reward, there(terminated), there(ended & ~terminated), there(valid))

    def _learn(self, how: Plain, now: Now) -> list[Any]:
        agent, rows = self.agent, 0 if self.agent.data == "rollout" else self.agent.config.batch_size
        drawn = how.run("sample", self.sampler.sample, rows)
        prepared = how.run("prepare", agent.prepare, drawn)
        batches = list(self.sampler.batches(prepared)) if agent.data == "rollout" else [prepared]
        found = [prepared, *(how.run(self._kind(), self._update, batch, drawn["row"], now) for batch in batches)]
        if agent.data == "rollout":
            how.run("follow", agent.rollout_learned, drawn)
        return found

    def _kind(self) -> str:
        """The kind of update that is due; one that a program makes is counted here, as the loop does."""
        if not isinstance(self.agent, UpdatesInTurn):
            return "update"
        self.agent.updates, self.updates = self.updates, self.updates + 1
        return "update" if self.updates % self.agent.update_period == 0 else "update in between"

    def _update(self, batch: dict[str, Tensor], row: Tensor, now: Now) -> dict[str, Tensor]:
        updated = self.agent.update(batch, now)
        if not self.sampler.draws_ahead and self.agent.data == "replay":
            self.sampler.feedback(row, updated.feedback)
        return dict(updated.metrics)

    def gone_on(self) -> "Life":
        """Another one, in which all goes on from what a checkpoint of this one holds."""
        other = Life(self.case, self.device)
        other.rng, other.clock, other.ended = self.rng, self.clock, self.ended
        other.obs, other.carried, other.updates = self.obs, self.carried, self.updates
        for mine, its in ((self.agent, other.agent), (self.sampler, other.sampler)):
            its.load_state(decode(*copy.deepcopy(encode(mine.state()))))
        other.storage.load(self.storage.state(), [chunk.arrays() for chunk in self.storage.chunks()])
        return other

    def state(self) -> dict[str, Tensor]:
        """Every tensor that is reached from the agent, the storage and the sampler, by the way to it."""
        found = dict(tensors_of({"agent": self.agent, "storage": self.storage, "sampler": self.sampler}, "", {}))
        return found | {".storage.finals.table": self.storage.finals.table[1:]}  # before it is what is never read


def tensors_of(thing: Any, way: str, seen: dict[int, Any]) -> Iterator[tuple[str, Tensor]]:
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, Tensor):
        yield way, thing
    elif isinstance(thing, Draws):
        yield f"{way}.draw", torch.tensor(thing.state()["draw"])  # not what is worked out ahead
    elif isinstance(thing, dict):
        for number, (key, value) in enumerate(thing.items()):
            yield from tensors_of(value, f"{way}.{key if isinstance(key, str) else number}", seen)
    elif isinstance(thing, list | tuple):
        for number, value in enumerate(thing):
            yield from tensors_of(value, f"{way}.{number}", seen)
    elif hasattr(thing, "__dict__") and not isinstance(thing, type | Dataset):
        yield from tensors_of(vars(thing), way, seen)


def leaves(found: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, Tensor)]


def check_alike(one: Tensor, other: Tensor, name: str) -> None:
    """Numbers to some roundings of float32 for each of some hundred updates, all else to the bit."""
    if one.is_floating_point():
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")
    else:
        assert torch.equal(one, other), name


# What they have beside sac and td3, dropout and renormalisation, is traced in tests of its own.
TRACED_ELSEWHERE = {"crossq", "ddpg", "droq"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_SEVERAL_OTHERS | TRACED_ELSEWHERE])
def test_an_agent_in_programs_does_and_learns_what_it_does_and_learns_by_itself(name: str) -> None:
    # what samplers draw in programs is tested in tests/experience
    check_programs(name, ROUNDS, Graphs(plain=["sample"]))


@pytest.mark.prove
@pytest.mark.parametrize("name", CASES)
def test_an_agent_in_programs_goes_on_doing_so_for_200_vector_steps(name: str) -> None:
    check_programs(name, 200 // STEPS, Graphs())


def check_programs(name: str, rounds: int, programs: Graphs) -> None:
    eager, traced = (Life(CASES[name], torch.device("cpu")) for _ in range(2))
    for number in range(rounds + 1):
        # All is called as it is once: behind that there is all that programs change in place.
        found = eager.round(Plain()), traced.round(programs if number else Plain())
        one, other = leaves(found[0]), leaves(found[1])
        assert len(one) == len(other)
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            check_alike(a, b, f"round {number}, result {i}")
        states = eager.state(), traced.state()
        assert states[0].keys() == states[1].keys()
        for way, tensor in states[0].items():
            check_alike(tensor, states[1][way], f"round {number}, {way}")


def lived(life: Life, how: Plain) -> list[Tensor]:
    """What it does in some rounds, the first of them as it is, and what another one does that goes on from it."""
    found = [life.round(Plain()), life.round(how)]
    other = life.gone_on()
    return leaves([*found, other.round(Plain()), other.round(how)])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.prove if name in OF_SEVERAL_OTHERS else ()) for name in CASES]
)
def test_an_agent_on_a_gpu_mixes_no_devices_reads_nothing_there_and_goes_on_from_its_state(name: str, gpu: Any) -> None:
    expected = lived(Life(CASES[name], torch.device("cpu")), Plain())
    with gpu:
        found = lived(Life(CASES[name], gpu.device), OnGpu(gpu))
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        check_alike(one, other, f"result {number}")


def test_every_registered_agent_is_tried() -> None:
    assert CASES.keys() > OF_SEVERAL_OTHERS
    assert {CASES[name].agent for name in CASES.keys() - OF_SEVERAL_OTHERS} >= AGENTS.keys()
