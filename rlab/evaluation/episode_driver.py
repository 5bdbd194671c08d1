"""The one place where policies play whole episodes: for evaluation, recordings, visited states, play and films.

A block of episodes has rows `[P, B]`: P members of a stack side by side, each in B columns, one env a row. Envs do not
reset themselves. `play` steps them; what is done with the steps is up to the caller. `PolicyActor` chooses the actions
and keeps the state of every row, whatever ends beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from rlab.errors import RlabError, UsageError
from rlab.experience.env_contract import EpisodeEnvs
from rlab.networks.finite import check_finite
from rlab.networks.limits import same_form, space_words
from rlab.networks.memory import State, take
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space
from rlab.randomness import FIRST_TRAINING_ENV_SEED, torch_stream

MOST_ENVS = 512  # at once, where nothing is known of what they cost
MOST_STEPS = 50_000  # of one episode of an env without a time limit; the longest of the field, Atari's, has 27 000
CANNOT_PLAY = "the policy cannot play"
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # obs [P, B, *obs], active [P, B] -> actions [P, B, *action]


class PolicyStack(Protocol):
    """One policy per training seed, all called at once.

    For sampled actions it takes `greedy=False` and `generators` as well, one per member or one per row, as
    `rlab.networks.policy.Policy` does; with memory it is a `RecurrentStack`.
    """

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seed of each member."""
        ...

    def __call__(self, obs: np.ndarray, /) -> np.ndarray:
        """Actions `[S, B]` or `[S, B, *action]`, as `env.step` takes them, for observations `[S, B, *obs]`."""
        ...


@runtime_checkable
class RecurrentStack(Protocol):
    """A stack that may have memory. Where its initial state is not `{}`, it is called with `state` and answers
    `(actions, next state)`."""

    def initial_state(self, rows: int, /) -> State:
        """The state that B = `rows` episodes of each member begin with, tensors `[S, B, ...]`."""
        ...


@runtime_checkable
class LimitsEnvs(Protocol):
    """What a function that makes `EpisodeEnvs` may have besides: how many envs should live at once."""

    most: int | None  # that can, in all; None: as many as are asked for

    def most_at_once(self, members: int) -> int:
        """How many envs to have at once for a stack of so many members."""
        ...


@runtime_checkable
class HasSpec(Protocol):
    """A policy that states which spaces it is for."""

    @property
    def spec(self) -> PolicySpec: ...


class HasTimeLimit(Protocol):
    """Envs that know after how many env steps they truncate every episode; None: no limit is known."""

    @property
    def time_limit(self) -> int | None: ...


class EpisodeStep(NamedTuple):
    """One step of a block. Where `active` is false, nothing was played and the other values mean nothing."""

    active: np.ndarray  # [P, B] bool
    obs: np.ndarray  # [P, B, *obs] before the action
    action: np.ndarray  # [P, B, *action]
    reward: np.ndarray  # [P, B]
    next_obs: np.ndarray  # [P, B, *obs]
    terminated: np.ndarray  # [P, B] bool
    truncated: np.ndarray  # [P, B] bool


class StoppedError(Exception):
    """The caller asked to stop before the last episode was over; there is no result."""


class EndlessError(RlabError):
    """An episode of an env without a time limit does not end."""


def play(
    envs: EpisodeEnvs,
    act: Act,
    seeds: np.ndarray,
    active: np.ndarray,
    training_seeds: Sequence[int] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpisodeStep]:
    """Play one episode in each of `P x B` envs, and give every step.

    Args:
        act: chooses the actions; a row that is not active needs some action that the env would accept.
        seeds: of the episodes, `[P, B]`.
        active: `[P, B]`; rows where it is false (spare ones, or members that rest) are reset and never stepped.
        training_seeds: of the P members, for messages.
        should_stop: called before every step.

    Raises:
        StoppedError: `should_stop` returned true.
        EndlessError: an episode does not end and its env has no time limit.
        RlabError: an episode goes on after its env's time limit, or an env fails.
    """
    if not active.any():
        return
    obs = envs.reset(seeds.ravel().tolist())
    obs = obs.reshape(*seeds.shape, *obs.shape[1:])
    most = most_steps(envs)
    for steps in count(1):
        if should_stop():
            raise StoppedError
        action = act(obs, active)
        next_obs, reward, terminated, truncated = envs.step(action.reshape(-1, *action.shape[2:]), active.ravel())
        next_obs, reward = next_obs.reshape(obs.shape), reward.reshape(seeds.shape)
        terminated, truncated = terminated.reshape(seeds.shape), truncated.reshape(seeds.shape)
        yield EpisodeStep(active, obs, action, reward, next_obs, terminated, truncated)
        obs, active = next_obs, active & ~(terminated | truncated)
        if not active.any():
            return
        if steps >= most:
            row, column = np.argwhere(active)[0]
            whose = "" if training_seeds is None else f" of training seed {training_seeds[row]}"
            raise endless(f"{seeds[row, column]}{whose}", envs)


def play_one(envs: EpisodeEnvs, policy: PolicyStack, seed: int, greedy: bool = True) -> Iterator[EpisodeStep]:
    """The steps of one episode of a stack of one member, in one env: the episode that an evaluation plays."""
    generators = None if greedy else episode_streams(policy.seeds, [seed])
    act = PolicyActor(policy, np.zeros(1, np.int64), 1, generators)
    return play(envs, act, np.full((1, 1), seed), np.ones((1, 1), dtype=bool), policy.seeds)


class PolicyActor:
    """The actions of a stack of policies in one block of episodes, with the state of every row; make one per block.

    The policy is called with the columns that have an active row alone. A column that is over gets the action of its
    neighbour, which is not used, but which the env would accept. With one generator per member, the draws of a column
    depend on which columns are over; a caller that must avoid this passes an `active` that is all true.

    Args:
        policy: the stack of S members.
        playing: the members that play, `[P]`; where one is listed twice, its first row is the one that counts.
        columns: B.
        generators: None: greedy actions; else what sampled ones are drawn from, `[S]` or, one per row, `[S, B]`.

    Raises:
        RlabError: a weight of the policy is NaN or infinite.
    """

    def __init__(
        self, policy: PolicyStack, playing: np.ndarray, columns: int, generators: np.ndarray | None = None
    ) -> None:
        if isinstance(policy, nn.Module):
            check_finite(policy, policy.seeds, CANNOT_PLAY)
        self._policy: Any = policy  # sampling and memory are more than the protocol demands
        self._playing, self._members, self._generators = playing, len(policy.seeds), generators
        self._state: State = policy.initial_state(columns) if isinstance(policy, RecurrentStack) else {}
        self._columns = np.ones(columns, dtype=bool)  # those that the state holds

    def __call__(self, obs: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Actions `[P, B, *action]` for observations `[P, B, *obs]`."""
        live: np.ndarray = np.any(active, axis=0)  # [B]
        all_live = bool(live.all())
        playing, some_wait = self._playing, len(self._playing) < self._members
        asked = obs if all_live else obs[:, live]
        if some_wait:  # a stack answers for all its members: those that wait get others' rows
            rows = asked
            asked = rows[np.arange(self._members) % len(playing)]
            asked[playing[::-1]] = rows[::-1]  # backwards: of a member listed twice the first row plays
        chosen = np.asarray(self._chosen(asked, live))
        if chosen.shape[:2] != asked.shape[:2]:
            raise ValueError(f"the policy answered actions {chosen.shape} to observations {asked.shape}")
        spread = chosen if all_live else chosen[:, np.maximum(live.cumsum() - 1, 0)]
        return spread[playing] if some_wait else spread

    def _chosen(self, asked: np.ndarray, live: np.ndarray) -> Any:
        how: dict[str, Any] = {}
        if (generators := self._generators) is not None:
            how = {"greedy": False, "generators": (generators if generators.ndim == 1 else generators[:, live]).ravel()}
            how["generators"] = how["generators"].tolist()
        if not self._state:
            return self._policy(asked, **how)
        # The columns that are over leave the state; the others keep theirs.
        stays = torch.from_numpy(live[self._columns])
        state = self._state if stays.all() else take(self._state, (slice(None), stays))
        chosen, self._state = self._policy(asked, state=state, **how)
        self._columns = live
        return chosen


def episode_streams(training_seeds: Sequence[int], episode_seeds: Sequence[int]) -> np.ndarray:
    """One stream for the sampled actions of each member in each episode, `[S, B]`, on the CPU whatever the device: what
    else is played makes no difference to them."""
    streams = np.empty((len(training_seeds), len(episode_seeds)), dtype=object)
    for member, seed in enumerate(training_seeds):
        streams[member] = [torch_stream(seed, f"judged episode {int(episode)}") for episode in episode_seeds]
    return streams


def member_streams(policy: torch.nn.Module, training_seeds: Sequence[int], use: str) -> np.ndarray:
    """One stream for the sampled actions of each member, `[S]`, on the policy's device."""
    device = next(policy.parameters()).device
    streams = np.empty(len(training_seeds), dtype=object)
    streams[:] = [torch_stream(seed, use, device) for seed in training_seeds]
    return streams


def check_episodes(what: str, episodes: int, first_seed: int) -> None:
    """Refuse to play no episodes, or those of seeds that training envs may have used.

    Raises:
        UsageError: the message begins with `what`.
    """
    if episodes < 1:
        raise UsageError(f"{what} needs one episode or more, not {episodes}")
    if first_seed < 0 or first_seed + episodes > FIRST_TRAINING_ENV_SEED:
        raise UsageError(
            f"episode seeds must lie between 0 and {FIRST_TRAINING_ENV_SEED - 1}, since training envs use those from "
            f"{FIRST_TRAINING_ENV_SEED} up; {episodes} episodes from seed {first_seed} do not"
        )


def check_spaces(policy: Any, envs: Any) -> None:
    """Refuse a policy in envs of other spaces; bounds of Boxes may differ. Policies without a spec are not checked."""
    if isinstance(policy, HasSpec):
        check_suits(policy.spec, envs.obs_space, envs.action_space)


def check_suits(spec: PolicySpec, obs_space: Space, action_space: Space) -> None:
    """Refuse a policy where the env has other spaces; bounds of Boxes may differ.

    Raises:
        UsageError: naming the spaces of both.
    """
    if same_form(spec.obs_space, obs_space) and same_form(spec.action_space, action_space):
        return
    raise UsageError(
        f"this policy is for observations {space_words(spec.obs_space)} and actions {space_words(spec.action_space)}; "
        f"this env has observations {space_words(obs_space)} and actions {space_words(action_space)}. rlab finetune "
        "goes on with a policy in other spaces."
    )


def envs_at_once(make_envs: Callable[[int], EpisodeEnvs], members: int) -> int:
    """How many envs to have at once: as many as `make_envs` recommends where it limits them, else `MOST_ENVS`."""
    limits = limits_of(make_envs)
    return MOST_ENVS if limits is None else limits.most_at_once(members)


def limits_of(make_envs: object) -> LimitsEnvs | None:
    """How many envs should live at once, where a maker of envs knows."""
    return make_envs if isinstance(make_envs, LimitsEnvs) else None


def most_steps(envs: HasTimeLimit) -> int:
    """After how many env steps an episode counts as endless: the envs' own time limit where it is known."""
    return envs.time_limit or MOST_STEPS


def endless(seed: str, envs: HasTimeLimit) -> RlabError:
    """The error for an episode that has not ended after `most_steps(envs)`."""
    hint = "Give the env a time limit: --max-episode-steps N, or max_episode_steps=N from Python."
    if envs.time_limit is not None:
        hint = "That is the env's own time limit: does one of its wrappers hide the truncation?"
    kind = EndlessError if envs.time_limit is None else RlabError
    return kind(f"the episode of seed {seed} has not ended after {most_steps(envs)} env steps. {hint}")
