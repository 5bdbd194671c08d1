"""Datasets of recorded episodes as plain data, independent of the file format they were read from."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.experience.fields import Field
from rlab.networks.spaces import (
    Box,
    Dict,
    Discrete,
    Leaf,
    Masked,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    choices,
    leaves,
)

TOLERANCE = 1e-6  # how far beyond a bound an action may be, relative to it: float32 rounds


@dataclass(frozen=True, eq=False)
class Episode:
    """One recorded episode of T steps in array form (see `rlab.networks.spaces`).

    An episode that neither terminated nor was truncated was cut by the recording; learners treat it as truncated.
    """

    # [T + 1, *obs], of the observation space's dtype; the last one is what the last action led to
    obs: np.ndarray = field(repr=False)
    action: np.ndarray = field(repr=False)  # [T, *action], as `action_field` says; integers count from 0
    reward: np.ndarray = field(repr=False)  # [T] float32
    terminated: bool  # the world ended with the last row
    truncated: bool  # a time limit cut it there
    seed: int | None = None  # that the env was reset with, where known

    @property
    def length(self) -> int:
        """T, in transitions."""
        return len(self.reward)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes of one pair of spaces.

    `env` is an env spec as JSON (`EnvSpec.to_json`) where it is known; `facts` holds further JSON values, such as the
    agent that played.

    Raises:
        RlabError: there are no episodes, or one is invalid; the message names it.
    """

    name: str
    obs_space: Space
    action_space: Space
    episodes: tuple[Episode, ...] = field(repr=False)
    env: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.episodes:
            raise RlabError(f"the dataset {self.name} has no episodes; record some: rlab collect RUN --out DIR")
        for index, episode in enumerate(self.episodes):
            problem = problem_of(episode, self.obs_space, self.action_space)
            if problem:
                raise RlabError(f"the dataset {self.name}: episode {index} {problem}.")

    @property
    def transitions(self) -> int:
        """Over all episodes."""
        return int(self.lengths.sum())

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted, float64 `[E]`."""
        return np.array([episode.reward.sum(dtype=np.float64) for episode in self.episodes])

    @property
    def lengths(self) -> np.ndarray:
        """Transitions of each episode, `[E]`."""
        return np.array([episode.length for episode in self.episodes])

    def summary(self) -> dict[str, Any]:
        """Counts, returns and spaces, as JSON."""
        returns = self.returns
        return {
            "name": self.name,
            "env_id": self.env["env_id"] if self.env else None,
            "episodes": len(self.episodes),
            "transitions": self.transitions,
            "return_mean": float(returns.mean()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "terminated": sum(episode.terminated for episode in self.episodes),
            "truncated": sum(episode.truncated for episode in self.episodes),
            "obs_space": str(self.obs_space),
            "action_space": str(self.action_space),
        }

    def check_fits(self, obs_space: Space, action_space: Space, where: str) -> None:
        """Check that the episodes have these spaces; the bounds of observations may differ.

        Args:
            where: the owner of the spaces, for the message, such as `"CartPole-v1"`.

        Raises:
            UsageError: naming both spaces.
        """
        if _unbounded(self.obs_space) != _unbounded(obs_space):
            raise UsageError(
                f"the dataset {self.name} has observations {self.obs_space}; those of {where} are {obs_space}."
            )
        if self.action_space != action_space:
            raise UsageError(
                f"the dataset {self.name} has actions {_with_bounds(self.action_space)}; "
                f"those of {where} are {_with_bounds(action_space)}."
            )

    def subset(self, indices: Iterable[int]) -> "Dataset":
        """The episodes with these indices, in this order."""
        return replace(self, episodes=tuple(self.episodes[index] for index in indices))

    @classmethod
    def joined(cls, datasets: Sequence["Dataset"], name: str) -> "Dataset":
        """All episodes of several datasets, one after the other; `facts["joined"]` describes each of them.

        Raises:
            UsageError: the list is empty, or the spaces differ.
        """
        if not datasets:
            raise UsageError("no dataset to join was given; name two or more.")
        first = datasets[0]
        for other in datasets[1:]:
            other.check_fits(first.obs_space, first.action_space, f"the dataset {first.name}")
        env = first.env if all(other.env == first.env for other in datasets) else None
        parts = [{"name": d.name, "episodes": len(d.episodes), **d.facts} for d in datasets]
        episodes = tuple(episode for d in datasets for episode in d.episodes)
        return cls(name, first.obs_space, first.action_space, episodes, env, {"joined": parts})


def action_field(space: Space) -> Field:
    """The form in which actions are stored: integers counted from 0, floats in the env's units as float32.

    Raises:
        UsageError: the actions are a Dict or a Tuple.
    """
    if not isinstance(space, Leaf):
        raise UsageError(f"actions {space} are not supported; use Box, Discrete, MultiDiscrete or MultiBinary.")
    is_float = isinstance(space, Box) and np.issubdtype(np.dtype(space.dtype), np.floating)
    return Field("action", space.shape, "float32" if is_float else space.dtype)


def action_from_env(space: Space, action: np.ndarray) -> np.ndarray:
    """Actions `[..., *action]` that `env.step` takes, in the form in which they are stored."""
    if isinstance(space, Discrete | MultiDiscrete):
        action = action - np.array(space.start).reshape(space.shape)
    return action.astype(action_field(space).dtype)


def action_to_env(space: Space, action: np.ndarray) -> np.ndarray:
    """Stored actions `[..., *action]`, as `env.step` takes them."""
    if isinstance(space, Discrete | MultiDiscrete):
        action = action + np.array(space.start).reshape(space.shape)
    return action.astype(space.dtype)


def problem_of(episode: Episode, obs_space: Space, action_space: Space) -> str | None:
    """Why an episode is invalid, as the end of a sentence about it; None where it is valid.

    Raises:
        UsageError: as `action_field`.
    """
    steps, expected = episode.length, action_field(action_space)
    if not steps:
        return "has no step"
    shapes = ((steps + 1, *obs_space.shape), (steps, *expected.shape), (steps,))
    dtypes = (obs_space.dtype, expected.dtype, "float32")
    arrays = {"observations": episode.obs, "actions": episode.action, "rewards": episode.reward}
    for (name, array), shape, dtype in zip(arrays.items(), shapes, dtypes, strict=True):
        if array.shape != shape or array.dtype != dtype:
            return f"has {name} {array.dtype} {array.shape}; expected {dtype} {shape} for its {steps} steps"
        if not np.isfinite(array).all():
            return f"has {name} that are not finite"
    if episode.terminated and episode.truncated:
        return "ends twice, terminated and truncated; an ending outranks a time limit"
    wrong_obs = _wrong_obs(obs_space, episode.obs)
    if wrong_obs:
        return wrong_obs
    wrong = outside(action_space, episode.action)
    if wrong.any():
        step = int(wrong.argmax())
        return f"has an action outside of {_with_bounds(action_space)} at step {step}: {episode.action[step]}"
    if isinstance(obs_space, Masked):
        forbidden = _forbidden(action_space, episode.action, episode.obs[:-1, -obs_space.size :] != 0)
        if forbidden.any():
            step = int(forbidden.argmax())
            return f"has an action that its mask forbids at step {step}: {episode.action[step]}"
    return None


def _wrong_obs(space: Space, obs: np.ndarray) -> str | None:
    """The first integer in observations `[T + 1, *obs]` that is outside its space; floats may exceed their bounds."""
    flat, first = obs.reshape(len(obs), -1), 0
    for leaf in leaves(space.obs if isinstance(space, Masked) else space):
        values = flat[:, first : first + math.prod(leaf.shape)]
        first += math.prod(leaf.shape)
        if np.dtype(leaf.dtype).kind == "f":
            continue
        if isinstance(leaf, Box):
            low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (leaf.low, leaf.high))
        elif isinstance(leaf, MultiBinary):
            low, high = np.array(0), np.array(1)
        else:
            low = np.array(leaf.start)
            high = low + np.array(choices(leaf)) - 1
        wrong = (values < low) | (values > high)
        if wrong.any():
            step, place = np.argwhere(wrong)[0]
            return f"has an observation outside of {_with_bounds(leaf)} at step {step}: {values[step, place]}"
    return None


def outside(space: Space, action: np.ndarray) -> np.ndarray:
    """Which of the stored actions `[T, *action]` are outside the space, bool `[T]`."""
    flat = action.reshape(len(action), -1)  # [T, elements]
    if isinstance(space, Box):
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        slack_low, slack_high = (TOLERANCE * np.maximum(1.0, np.abs(bound)) for bound in (low, high))
        wrong = (flat < low - slack_low) | (flat > high + slack_high)
    else:
        wrong = (flat < 0) | (flat >= (2 if isinstance(space, MultiBinary) else np.array(choices(space))))
    return np.any(wrong, axis=-1)


def _forbidden(space: Space, action: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Which of the actions `[T, *action]` the masks `allowed [T, size]` forbid; a choice without options is free."""
    sizes = np.array(choices(space), np.int64)
    first = np.cumsum(sizes) - sizes  # where the bits of each choice begin
    chosen = np.take_along_axis(allowed, action.reshape(len(action), -1) + first, axis=1)  # [T, choices]
    return np.any(~chosen & np.logical_or.reduceat(allowed, first, axis=1), axis=1)


def _unbounded(space: Space) -> Space:
    """The space without the bounds of its Boxes."""
    if isinstance(space, Box):
        return replace(space, low=0.0, high=0.0)
    if isinstance(space, Dict):
        return Dict(tuple((name, _unbounded(part)) for name, part in space.items))
    if isinstance(space, Tuple):
        return Tuple(tuple(map(_unbounded, space.items)))
    return Masked(_unbounded(space.obs), space.size) if isinstance(space, Masked) else space


def _with_bounds(space: Space) -> str:
    """The space in words; of a Box with the range of its bounds."""
    if not isinstance(space, Box):
        return str(space)
    return f"Box({space.shape}, {space.dtype}, from {_range(space.low)} to {_range(space.high)})"


def _range(bounds: float | tuple[float, ...]) -> str:
    return " ".join(f"{bound:g}" for bound in bounds) if isinstance(bounds, tuple) else f"{bounds:g}"
