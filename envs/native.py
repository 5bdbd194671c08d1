"""Native vector envs with one random stream per sub-env, so that no sub-env depends on another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.utils import seeding

from rlab.envs.generators import checked


class SeededCartPole(CartPoleVectorEnv):
    """Gymnasium's native CartPole; sub-env i draws from `seeds[i]`, as `gym.make("CartPole-v1").reset(seed=seeds[i])`.

    The original draws all sub-envs from one stream, so what env 0 does decides where env 1 starts.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = _Trusted(np.full(self.num_envs, 2))

    def reset(  # type: ignore[override]  # the base class takes one seed for all
        self, *, seed: Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every sub-env. `seed` holds one seed per sub-env; None continues the streams."""
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"{len(seed)} seeds for {self.num_envs} sub-envs")
            self._np_random = _Streams(self, seed)  # type: ignore[assignment]
        return super().reset(options=options)

    def get_state(self) -> dict[str, Any]:
        """All that decides its future, as data; `reset` comes first."""
        streams: Any = self._np_random
        arrays = {name: getattr(self, name).copy() for name in ("state", "steps", "prev_done")}
        return {**arrays, "streams": streams.state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `get_state` was called, on an env of as many sub-envs."""
        if len(state["streams"]) != self.num_envs:
            raise ValueError(f"{len(state['streams'])} random streams for {self.num_envs} sub-envs")
        for name, kind, shape in (("state", "f", (4, self.num_envs)), ("steps", "i", None), ("prev_done", "b", None)):
            if state[name].dtype.kind != kind or state[name].shape != (shape or (self.num_envs,)):
                raise ValueError(f"{name} is {state[name].dtype} {state[name].shape}")
            setattr(self, name, state[name].copy())
        streams = _Streams(self, [0] * self.num_envs)
        streams.load_state(state["streams"])
        self._np_random = streams  # type: ignore[assignment]


class _Trusted(gym.spaces.MultiDiscrete):
    """A batch of actions that is not checked in every step: an agent makes valid ones only."""

    def contains(self, x: Any) -> bool:
        return True


class _Streams:
    """Replaces the generator of a native env: every row is drawn from the stream of its own sub-env."""

    def __init__(self, env: SeededCartPole, seeds: Sequence[int]) -> None:
        self._env = env
        self._streams = [seeding.np_random(int(seed))[0] for seed in seeds]

    def state(self) -> list[Any]:
        return [stream.bit_generator.state for stream in self._streams]

    def load_state(self, states: Sequence[Any]) -> None:
        for stream, state in zip(self._streams, states, strict=True):
            stream.bit_generator.state = checked(state)

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
        """`size` is (4, count): count sub-envs reset now, all of them or else those that ended one step ago."""
        width, count = size
        drawn = np.empty((width, count))
        if count == 0:  # nearly every step
            return drawn
        everyone = count == self._env.num_envs
        rows = range(count) if everyone else np.flatnonzero(self._env.prev_done).tolist()
        for column, row in enumerate(rows):
            drawn[:, column] = self._streams[row].uniform(low, high, size=width)
        return drawn


# Vector entry points that can be seeded per sub-env -> our class for them, and the env keywords that it takes.
NATIVE: Mapping[str, tuple[Callable[..., gym.vector.VectorEnv], frozenset[str]]] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv": (SeededCartPole, frozenset({"sutton_barto_reward"})),
}
NO_LIMIT = int(np.iinfo(np.int32).max)  # native envs count their steps in int32


def why_not_native(found: Registered, kwargs: Mapping[str, Any], wrappers: Sequence[Any]) -> str | None:
    """Why a registered env, made with these keywords and wrappers, cannot run natively; None where it can."""
    entry_point = found.vector_entry_point
    if entry_point is None:
        return f"{found.id} has no native vector env"
    if not isinstance(entry_point, str) or entry_point not in NATIVE:
        return f"{found.id}'s native vector env is not known to give each sub-env its own random stream"
    if wrappers or found.additional_wrappers:
        return "a native vector env takes no wrappers"
    strange = sorted(kwargs.keys() - NATIVE[entry_point][1])
    return f"{found.id}'s native vector env does not take {', '.join(strange)}" if strange else None


def make_native(
    found: Registered, num_envs: int, max_episode_steps: int | None, kwargs: Mapping[str, Any]
) -> gym.vector.VectorEnv:
    """The native vector env of `num_envs` sub-envs; `max_episode_steps` None takes the registered time limit."""
    limit = max_episode_steps or found.max_episode_steps or NO_LIMIT
    assert isinstance(found.vector_entry_point, str)  # `why_not_native` checks it
    native_class, _ = NATIVE[found.vector_entry_point]
    return native_class(num_envs=num_envs, max_episode_steps=limit, **{**found.kwargs, **kwargs})
