"""What the rest of rlab may expect of environments. `envs/` fulfils these contracts; nothing here knows Gymnasium.

Envs live on the host and give NumPy arrays (`VectorEnv`), or on the agent's device and give tensors (`DeviceEnv`).
`rlab.experience.border` makes a `DeviceEnv` of a `VectorEnv`, so that the collector and the agents see tensors alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from rlab.networks.spaces import Space

if TYPE_CHECKING:  # torch takes its time, and rlab.envs is imported by every command
    import torch
    from torch import Tensor

    from rlab.networks.memory import State

NOTHING: Mapping[str, Any] = {}  # never changed
NO_STATE: "State" = {}  # of an agent without memory; never changed


class Acted(NamedTuple):
    """What an agent gives for one vector step."""

    action: "Tensor"  # [S, N] or [S, N, *action], as `DeviceEnv.step` takes it
    extras: Mapping[str, "Tensor"] = NOTHING  # [S, N, ...], the value of every field beside obs and action
    state: "State" = NO_STATE  # [S, N, ...], what the next step is given; empty without memory


class Fault(NamedTuple):
    """An env gave a number that is not finite, and what it gave was replaced by zeros."""

    member: int
    env: int  # of the member's
    line: str  # what it was, for people


@dataclass(frozen=True, slots=True)
class Step:
    """What one vector step led to, for every member and env, on the agent's device.

    `next_obs` is the true successor of the action. `obs` is what to act on next: it differs from `next_obs` only in
    rows that were reset at once. `truncated` is false where `terminated` is true: an ending outranks a time limit.
    """

    obs: "Tensor"  # [S, N, *obs]
    next_obs: "Tensor"  # [S, N, *obs]
    reward: "Tensor"  # [S, N] float32 or float64
    terminated: "Tensor"  # [S, N] bool
    truncated: "Tensor"  # [S, N] bool
    valid: "Tensor"  # [S, N] bool; false for a reset row: it costs a step but is not a transition
    # What the host knows of most steps, stated once; with the defaults, readers look at the tensors.
    all_valid: bool = False  # true: every row is a transition
    none_ended: bool = False  # true: no row terminated or truncated
    faults: tuple[Fault, ...] = ()  # of envs on the host that are made with `on_nan="drop-member"`
    cuts: bool = False  # true: rows that are not valid cut the episode before them: their env failed and was made again
    life_lost: "Tensor | None" = None  # [S, N] bool; rows that are learned from as endings, though the episode goes on


@dataclass(frozen=True, slots=True)
class HostStep:
    """What one vector step of envs on the host led to: `Step` in NumPy arrays.

    `next_obs` is the true successor of the action. `obs` is what to act on next: it differs from `next_obs` only in
    rows that were reset at once. `truncated` is false where `terminated` is true: an ending outranks a time limit.
    """

    obs: np.ndarray  # [S, N, *obs]
    next_obs: np.ndarray  # [S, N, *obs]
    reward: np.ndarray  # [S, N] float64
    terminated: np.ndarray  # [S, N] bool
    truncated: np.ndarray  # [S, N] bool
    valid: np.ndarray  # [S, N] bool; false for a reset row: it costs a step but is not a transition
    # What holds for most steps, stated once; with the defaults, readers look at the arrays.
    all_valid: bool = False  # true: every row is a transition
    none_ended: bool = False  # true: no row terminated or truncated
    faults: tuple[Fault, ...] = ()  # of envs that are made with `on_nan="drop-member"`
    cuts: bool = False  # true: rows that are not valid cut the episode before them: their env failed and was made again
    life_lost: np.ndarray | None = None  # [S, N] bool; rows learned from as endings, though the episode goes on


class VectorEnv(Protocol):
    """S x N training envs that reset themselves, each sub-env on its own random stream."""

    obs_space: Space
    action_space: Space
    seeds: tuple[int, ...]  # one training seed per member
    num_envs: int  # N, per member
    time_limit: int | None  # env steps after which an episode is truncated; None: none is known
    has_reset_rows: bool  # whether rows may not be valid: a step behind an end that is the reset, or one that was lost

    @property
    def restarts(self) -> np.ndarray | None:
        """How often the envs of each member were made again because they failed, `[S]`; None where they never are."""
        ...

    def reset(self) -> np.ndarray:
        """Start every env; observations `[S, N, *obs]`."""
        ...

    def step(self, action: np.ndarray) -> HostStep:
        """Apply actions `[S, N]` (discrete) or `[S, N, *action]`.

        Integers count from 0, whatever the action space's start; continuous actions are in the env's own units.
        """
        ...

    def state(self) -> dict[str, Any]:
        """All that decides the future of the envs and of the episodes under way: nested dicts of arrays and plain JSON
        values, as `rlab.runs.encoding` takes them."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Go on where `state` was saved; a run calls this instead of `reset`, or before it.

        None: the episodes under way go on exactly where they were, so that the next call is `step`. Else one clause
        that says why they cannot, for all sub-envs; the next call is `reset`. Any `reset` after it starts fresh
        episodes on seeds that were not used before.
        """
        ...

    def close(self) -> None:
        """Let go of what the envs hold, such as processes; nothing is called after it."""
        ...


class DeviceEnv(Protocol):
    """S x N training envs that reset themselves, seen from the agent's device."""

    obs_space: Space
    action_space: Space
    seeds: tuple[int, ...]
    num_envs: int
    time_limit: int | None
    has_reset_rows: bool
    device: "torch.device"
    on_host: bool  # whether a step crosses to the host, so that it cannot be part of a program

    @property
    def restarts(self) -> np.ndarray | None:
        """As of `VectorEnv`."""
        ...

    def reset(self) -> "Tensor":
        """Start every env; observations `[S, N, *obs]`."""
        ...

    def step(self, action: "Tensor") -> Step:
        """Apply actions `[S, N]` (discrete, from 0) or `[S, N, *action]` (in the env's own units)."""
        ...

    def state(self) -> dict[str, Any]:
        """All that decides the future of the envs and of the episodes under way: see `VectorEnv`; tensors too."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Go on where `state` was saved, or say why that is impossible: see `VectorEnv`."""
        ...

    def suspend(self) -> None:
        """Close the envs, as `close` does, but for the state that they had: `state` still gives it."""
        ...

    def close(self) -> None:
        """Let go of what the envs hold, such as processes; nothing is called after it."""
        ...


class EpisodeEnvs(Protocol):
    """n envs for evaluation: one episode each, from a seed of its own, never reset by themselves."""

    num_envs: int
    time_limit: int | None  # env steps after which every episode is truncated; None: none is known

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Start env i with `seeds[i]`; observations `[n, *obs]`."""
        ...

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step the envs where `active [n]` is true: `obs [n, *obs]`, `reward [n]`, `terminated [n]`, `truncated [n]`.

        Actions `[n]` or `[n, *action]` are what a policy gives: elements of the action space, its start included.
        A row that is not active is not stepped; its observation is the last one and its reward 0. The arrays are new
        ones: the next step leaves them alone.
        """
        ...

    def close(self) -> None:
        """Let go of what the envs hold, such as processes; nothing is called after it."""
        ...
