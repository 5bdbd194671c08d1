"""What a training loop expects of an agent, and what listeners may expect of a loop."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.memory import State
from rlab.networks.outliers import Outliers
from rlab.networks.policy import Policy
from rlab.networks.spaces import Space
from rlab.types import Clock

# What `Agent.prepare` receives is what the agent's sampler gives. From `UniformSampler`, by name; S members, B rows,
# n = n_step transitions in a window:
#   row         [S, B] int64     the id of the window's first row in storage
#   obs         [S, B, *obs]     the first observation of the window, in the dtype of storage, not yet preprocessed
#   action      [S, B]           what was done there
#   reward      [S, B, n]        rewards in the window, zero after its end
#   steps       [S, B]           how many transitions the window holds, 1 .. n
#   terminated  [S, B] bool      the world ended with the window's last transition: nothing follows
#   truncated   [S, B] bool      a time limit cut the episode there: next_obs is still worth bootstrapping from
#   next_obs    [S, B, *obs]     the true successor of the window's last transition
# `Agent.update` receives whatever `prepare` returned, cut along B.
#
# From `RolloutSampler`; S members, N envs, T vector steps:
#   obs         [S, N, T + 1, *obs]   what was acted on, and after it what the last row led to
#   action      [S, N, T, *action]    what was done there
#   reward, terminated, truncated, valid   [S, N, T]; a row that is not valid is not a transition
#   final_obs   [S, K, *obs]          successors that are not the next row of obs, and
#   final_row   [S, K]                the rows n * T + t that they follow
# and gives rows [S, N * T, ...], of which `update` receives a minibatch at a time, `epochs` times over.
#
# From `SequenceSampler`, windows of L rows in time order: see `read_sequences`. Further fields have their names.
#
# Where rows come from demonstrations, and where they are mixed with others, the batch says which are demonstrated:
#   demonstration   [S, B] bool
# The clock of an agent that learns from a dataset counts updates instead of env steps.
Batch = dict[str, Tensor]

# What `Agent.scheduled` gives: numbers, and arrays `[S]` where members differ (`rlab.learning.per_member`).
Scheduled = Mapping[str, float | np.ndarray]
# What it gave for the present time: numbers where a function is called as it is, tensors `[]` where it is part of a
# program, which goes on to use their present values, and `[S, 1]` where members differ. Arithmetic takes them all.
Scalar = float | Tensor
Now = Mapping[str, Scalar]


class Updated(NamedTuple):
    """What one update reports."""

    metrics: Mapping[str, Tensor]  # [S] each, on the device; any names, which may differ from update to update
    feedback: Tensor | None = None  # [S, B], what the sampler learns about the batch's rows, such as their TD errors


class ReplayConfig(Protocol):
    """How often an agent that learns from replay does so."""

    @property
    def replay_capacity(self) -> int: ...  # transitions per member, summed over its envs
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_starts(self) -> int: ...  # env steps
    @property
    def learn_every(self) -> int: ...  # env steps
    @property
    def updates_per_learn(self) -> int: ...  # where a setting `utd`, updates per env step, says nothing else


def updates_in_round(config: ReplayConfig) -> int:
    """How many updates follow on every multiple of `learn_every`."""
    utd: int | None = getattr(config, "utd", None)
    return config.updates_per_learn if utd is None else utd * config.learn_every


def updates_due(config: ReplayConfig, before: int, now: int) -> int:
    """Updates between two env-step counts: a round of them for each multiple of `learn_every` from `learning_starts`
    on that was passed, also where one vector step passes several."""
    start = max(before, config.learning_starts - 1)
    return max(0, now // config.learn_every - start // config.learn_every) * updates_in_round(config)


class RolloutConfig(Protocol):
    """How an agent that learns from rollouts does so."""

    @property
    def rollout_steps(self) -> int: ...  # T, vector steps
    @property
    def epochs(self) -> int: ...  # passes over each rollout
    @property
    def minibatches(self) -> int: ...  # updates in each pass

    def check_rollout(self, rows: int) -> None:
        """Raise UsageError where a rollout of so many rows per member, `rollout_steps * num_envs`, is too short."""
        ...


class Agent(Protocol):
    """What every agent has. Tensors come in, actions and metrics go out: it never sees an env, a writer, a path or the
    loop.

    One vector step calls `act`, then `observe`. Where something is due to be learned, `prepare` is called once for
    several updates, then `update` for each of them.

    `act`, `observe`, `prepare` and `update` are functions of tensors on the agent's device, which a loop may turn into
    a program (`rlab.learning.program`): their Python then runs once, and what it did with tensors is repeated. So they
    read no tensor on the host (`.item()`, `if tensor`), take what follows the clock from `now`, draw from
    `rlab.draws.Draws`, and change the tensors that they keep in place (`copy_`, `add_`) instead of replacing them. An
    agent that cannot do so says why in `needs_host`, and is called as it is.
    """

    Config: ClassVar[type]  # a frozen dataclass: every field is a setting, its comment the line of help
    data: ClassVar[str]  # what it learns from: "replay", "rollout" or "dataset"
    action_spaces: ClassVar[tuple[type[Space], ...]]  # those that it can choose actions in
    config: Any
    device: torch.device

    def __init__(
        self, config: Any, obs_space: Space, action_space: Space, seeds: Sequence[int], device: torch.device
    ) -> None: ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What is trained, by name; the first is the policy's."""
        ...

    @property
    def optimizers(self) -> Mapping[str, StackedOptimizer]:
        """By name; together they hold the parameters of `networks`. Fine-tuning regroups them, pruning hooks into the
        one that trains the policy's network."""
        ...

    def fields(self) -> tuple[Field, ...]:
        """What storage keeps of every row besides rewards and endings: `obs`, `action`, then those that `act` adds."""
        ...

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        """How batches are drawn from storage with these random numbers, one stream per member. Called once for the
        online storage, and once for demonstrations where they are mixed in. With `data = "rollout"` a `RolloutSampler`.
        """
        ...

    def scheduled(self, clock: Clock) -> Scheduled:
        """The numbers that follow the clock, by name: what `now` has. Called on the host, once for every vector step.

        Those whose name has a slash, such as `explore/epsilon`, are logged.
        """
        ...

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Exploring actions `[S, N]` for observations `[S, N, *obs]`, in the dtype that storage has.

        Args:
            state: what the last call returned; in rows where an episode begins, `policy().initial_state`, or that of an
                agent that `CarriesState`, whose names it has. Empty without memory.
        """
        ...

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """A vector step happened: `now` is the time after it. Running statistics and target networks live on this."""
        ...

    def prepare(self, batch: Batch) -> Batch:
        """Turn sampled rows `[S, many, ...]`, enough for several updates, into what `update` takes `[S, B, ...]` of.

        Work that does not depend on those updates belongs here.
        """
        ...

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step."""
        ...

    def policy(self) -> Policy:
        """The greedy policy of all members; it shares its weights with the agent."""
        ...

    def state(self) -> dict[str, Any]:
        """All that training needs to go on: nested dicts of tensors and plain values. Every float in it is finite: what
        is not is neither saved nor gone on from."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in an agent that was built of the same config and spaces."""


PARTS = (
    *("Config", "data", "action_spaces", "networks", "optimizers", "fields", "sampler", "act", "observe", "prepare"),
    *("update", "scheduled", "policy", "state", "load_state"),
)


def missing_parts(agent_class: type) -> list[str]:
    """What a class neither has nor annotates of all that an agent must have."""
    given = {name for each in agent_class.__mro__ for name in vars(each).get("__annotations__", {})}
    return [name for name in PARTS if not hasattr(agent_class, name) and name not in given]


# What an agent may have besides, each under a name of its own.


@runtime_checkable
class LoadsWeights(Protocol):
    """The weights of its policy can be replaced."""

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of `policy().state_dict()` that `tensors` names; copies, such as target networks, follow."""
        ...


@runtime_checkable
class Adaptable(LoadsWeights, Protocol):
    """It can begin from an existing policy: its constructor takes `start`, a `PolicySpec` that fits the spaces, in
    place of the networks that its settings would ask for."""

    heads: ClassVar[tuple[str, ...]]  # kinds of policy heads that it can learn with

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        """The policy head that the settings ask for, as plain data."""
        ...


def heads_of(agent_class: type) -> tuple[str, ...]:
    """The kinds of policy heads that agents of this class can begin from; none where they begin from scratch alone."""
    return agent_class.heads if isinstance(agent_class, Adaptable) else ()


@runtime_checkable
class LearnsWithMemory(Protocol):
    """It learns with policies that have memory: its `act` gives the state after each step, its updates unroll
    sequences. Any other agent refuses such a policy before it begins."""

    learns_with_memory: ClassVar[bool]  # true


@runtime_checkable
class CarriesState(Protocol):
    """It carries a state of its own from step to step, such as that of a critic beside the policy's."""

    def initial_state(self, rows: int) -> State:
        """What `act` is given where an episode begins, `[S, rows, ...]`; in place of the policy's."""
        ...


def initial_state(agent: Agent, rows: int) -> State:
    """What an agent's `act` is given where an episode begins."""
    return agent.initial_state(rows) if isinstance(agent, CarriesState) else agent.policy().initial_state(rows)


@runtime_checkable
class NeedsHost(Protocol):
    """Its functions cannot be part of a program."""

    needs_host: ClassVar[str | None]  # why, for people: "it draws with NumPy"; None: they can


@runtime_checkable
class NeedsBounds(Protocol):
    """Of actions in a Box it chooses those alone whose numbers have two finite bounds each."""

    needs_bounds: ClassVar[bool]


@runtime_checkable
class UpdatesInTurn(Protocol):
    """Every so many updates one does more than the others, such as moving the policy too: there are two kinds.

    An update that is called as it is counts itself in `updates`. In a program, where Python does not run, it is of the
    kind that comes after so many `updates`, and the loop counts.
    """

    updates: int  # made so far; part of its state

    @property
    def update_period(self) -> int:
        """An update whose number, from 1, is a multiple of this is one that does more."""
        ...


@runtime_checkable
class FollowsRollouts(Protocol):
    """It does something behind the last update of a rollout, such as folding it into running statistics."""

    def rollout_learned(self, batch: Batch) -> None:
        """The rollout, as the sampler gave it, was learned from."""
        ...


@runtime_checkable
class CarriesEpisodes(Protocol):
    """It carries something out of a rollout into the next one, such as the discounted return of an episode."""

    def cut_episodes(self) -> None:
        """The next rollout begins fresh episodes."""
        ...


@runtime_checkable
class LoadsCritic(Protocol):
    """It can begin with the critic of another agent."""

    def load_critic(self, state: Mapping[str, Any], members: Sequence[int]) -> str | None:
        """Take the critic of another agent's `state()`, member i that of `members[i]`; why it cannot, else None.

        `rlab.networks.spec.load_members` does it for one stack. `load_weights` is called next, for target networks.
        """
        ...


@runtime_checkable
class NeedsEndings(Protocol):
    """It may be unable to learn from episodes that a time limit cuts."""

    @property
    def needs_endings(self) -> str | None:
        """Which setting makes it so, and what to change, for people; None where it can learn from them."""
        ...


@runtime_checkable
class ScalesRewards(Protocol):
    """It keeps running statistics of rewards, and leaves absurd ones out."""

    @property
    def reward_outliers(self) -> Outliers | None:
        """Those that were left out; None where rewards are not scaled."""
        ...


@runtime_checkable
class FitsStatistics(Protocol):
    """It has running statistics and `data = "dataset"`: it is shown the data before it begins."""

    def fit_statistics(self, obs: Tensor, valid: Tensor) -> None:
        """All observations of the data `[S, R, *obs]`, once, before the first update; `valid [S, R]` tells the rows
        that count."""
        ...


@runtime_checkable
class Validates(Protocol):
    """It can be judged on rows that are held out of a dataset."""

    def validate(self, batch: Batch) -> Mapping[str, Tensor]:
        """Metrics `[S]` of prepared rows, with `weight [S, R]` 0 where a member has fewer; early stopping watches
        `validation/loss`."""
        ...


class LoopListener(Protocol):
    """Hears what a loop has to say. It must not change anything that training reads."""

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Values are `[S]`, NaN where a member has nothing to report, or 0-d for the whole population."""
        ...

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Returns and lengths `[S, E]` of greedy episodes."""
        ...

    def on_save(self, env_steps: int) -> None:
        """Now is the time to write a checkpoint."""
        ...
