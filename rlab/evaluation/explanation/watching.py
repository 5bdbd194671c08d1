"""Greedy episodes of one policy, with what it says at each step and the state of its memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import Tensor

from rlab.evaluation.episode_driver import CANNOT_PLAY, EpisodeStep, check_spaces, envs_at_once, play
from rlab.evaluation.explanation.question import States
from rlab.evaluation.explanation.target import Contrast, Target
from rlab.experience.env_contract import EpisodeEnvs
from rlab.networks import memory
from rlab.networks.finite import check_finite
from rlab.networks.memory import State
from rlab.networks.policy import MemberPolicy
from rlab.randomness import stream


@dataclass(frozen=True, eq=False)
class Said:
    """What the policy said at one step of B episodes."""

    obs: Tensor  # [B, *obs]
    state: State  # before the step, tensors [B, ...]
    outputs: Tensor  # [B, width]
    mask: Tensor | None  # [B, bits]


class Watcher:
    """Chooses the greedy actions of B episodes side by side, and shows what the policy says of each step.

    Episodes that are over keep their column, whose action the env would accept; nothing else depends on it.
    """

    def __init__(self, policy: MemberPolicy, columns: int, show: Callable[[Said, np.ndarray], None]) -> None:
        self._policy, self._state, self._show = policy, policy.initial_state(columns), show

    @torch.no_grad()
    def __call__(self, obs: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Actions `[1, B, *action]` for observations `[1, B, *obs]`."""
        batch, head = torch.from_numpy(obs[0].copy()), self._policy.head
        outputs, following = self._policy.step(batch, self._state)
        mask = self._policy.preprocess.mask(batch)
        self._show(Said(batch, self._state, outputs, mask), active[0])
        self._state = following
        action: np.ndarray = head.to_env(head.act(outputs, mask)).numpy()
        return action[None]


def watch(
    policy: MemberPolicy,
    envs: EpisodeEnvs,
    seeds: Sequence[int],
    show: Callable[[Said, np.ndarray], None],
    after: Callable[[EpisodeStep], None] = lambda step: None,
) -> None:
    """Play one greedy episode in each env.

    Args:
        seeds: of the episodes, one for each env.
        show: hears what the policy says before each step, and which episodes are not over, `[B]` bool.
        after: hears each step.

    Raises:
        RlabError: a weight is not finite, or an episode does not end.
    """
    check_finite(policy, (policy.seed,), CANNOT_PLAY)
    act = Watcher(policy, len(seeds), show)
    for step in play(envs, act, np.array([seeds]), np.ones((1, len(seeds)), bool), (policy.seed,)):
        after(step)


@dataclass(eq=False)
class _Kept:
    """A uniform sample of the steps of one episode (Vitter 1985, algorithm R)."""

    rng: np.random.Generator
    most: int
    seen: int = 0
    rows: list[tuple[Tensor, State, int]] = field(default_factory=list)

    def place(self) -> int | None:
        """Where the next step goes; None: it is not kept."""
        self.seen += 1
        if len(self.rows) < self.most:
            return len(self.rows)
        drawn = int(self.rng.integers(self.seen))
        return drawn if drawn < self.most else None

    def keep(self, place: int, row: tuple[Tensor, State, int]) -> None:
        self.rows[place : place + 1] = [row]


def visit(
    policy: MemberPolicy,
    target: Target,
    make_envs: Callable[[int], EpisodeEnvs],
    seeds: Sequence[int],
    most: int,
) -> States:
    """A uniform sample of at most `most` states of each greedy episode of a policy, with the memory that it had there.

    Args:
        make_envs: makes n envs without autoreset; they are closed.
        seeds: of the episodes.

    Raises:
        UsageError: the envs have other spaces than the policy's.
        RlabError: as `watch`.
    """
    returns = np.zeros(len(seeds))
    kept = [_Kept(stream(seed, "states to explain"), most) for seed in seeds]
    at_once = envs_at_once(make_envs, 1)
    for first in range(0, len(seeds), at_once):
        some = kept[first : first + at_once]
        envs = make_envs(len(some))
        try:
            check_spaces(policy, envs)
            block = slice(first, first + at_once)
            watch(policy, envs, seeds[block], _keeping(some), _adding(returns[block]))
        finally:
            envs.close()
    return _states(policy, target, seeds, [each.rows for each in kept], returns)


def _adding(returns: np.ndarray) -> Callable[[EpisodeStep], None]:
    """Hears of every step, and adds its rewards to the returns `[B]` of the episodes."""

    def add(step: EpisodeStep) -> None:
        returns[:] += np.where(step.active[0], step.reward[0], 0.0)

    return add


def _keeping(kept: Sequence[_Kept]) -> Callable[[Said, np.ndarray], None]:
    """Hears of every step, and keeps what the samples want."""
    steps = count()

    def show(said: Said, active: np.ndarray) -> None:
        step = next(steps)
        for column in np.flatnonzero(active).tolist():
            place = kept[column].place()
            if place is not None:
                state = {name: tensor[column].clone() for name, tensor in said.state.items()}
                kept[column].keep(place, (said.obs[column].clone(), state, step))

    return show


@torch.no_grad()
def _states(
    policy: MemberPolicy,
    target: Target,
    seeds: Sequence[int],
    kept: list[list[tuple[Tensor, State, int]]],
    returns: np.ndarray,
) -> States:
    rows = [row for each in kept for row in each]
    episode = np.repeat(np.asarray(seeds), [len(each) for each in kept])
    obs = torch.stack([row[0] for row in rows])
    state = {name: torch.stack([row[1][name] for row in rows]) for name in rows[0][1]}
    features = policy.preprocess(obs)
    outputs = memory.step(policy.network, features, state)[0] if policy.has_memory else policy.network(features)
    scores = target.scores(outputs)
    contrast: Contrast = target.contrast(scores, policy.preprocess.mask(obs))
    return States(obs, features, state, contrast, scores, episode, np.array([row[2] for row in rows]), returns)
