"""`get_state` and `set_state` of single envs: those that rlab knows, and those that bring both themselves.

A known env, in known wrappers, is saved by the attributes that change while it is played, and its generator. The table
is open: a row names a class and these attributes. An env of your own may have `get_state()`, which gives
arrays, numbers, texts and lists, tuples and dicts of these, and `set_state(state)`, which makes the env, or another
instance of it, go on from there. Any other env is replayed (`rlab.envs.journal`).
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import PassiveEnvChecker

from rlab.envs.env_memory import Untouched, as_data, look_through, memory_of, put_back, set_part
from rlab.envs.generators import generator_state, new_generator
from rlab.envs.obs_packing import layers

_CLASSIC = "gymnasium.envs.classic_control"
_TOY = "gymnasium.envs.toy_text"
_PROBE = ("t", "x", "cue", "over", "switch", "paid", "goal")
_CARD = ("dealer_top_card_suit", "dealer_top_card_value_str")

# `module:Class` -> the attributes that change while it is played, those that pictures show included
ENVS: dict[str, tuple[str, ...]] = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
    f"{_CLASSIC}.mountain_car:MountainCarEnv": ("state",),
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": ("state",),
    f"{_CLASSIC}.pendulum:PendulumEnv": ("state", "last_u"),
    f"{_CLASSIC}.acrobot:AcrobotEnv": ("state",),
    f"{_TOY}.frozen_lake:FrozenLakeEnv": ("s", "lastaction"),
    f"{_TOY}.cliffwalking:CliffWalkingEnv": ("s", "lastaction"),
    f"{_TOY}.taxi:TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
    f"{_TOY}.blackjack:BlackjackEnv": ("dealer", "player", *_CARD),
    **{
        f"rlab.envs.probe:Probe{name}": _PROBE
        for name in ("Constant", "Observation", "Delayed", "Action", "ActionObservation", "Endless", "Credit", "Memory")
    },
    **{f"rlab.envs.probe_sparse:Probe{name}": _PROBE for name in ("BitFlip", "Chain")},
    **{
        f"rlab.envs.probe_spaces:Probe{name}": _PROBE
        for name in (
            *("Masked", "Continuous", "MultiDiscrete", "MultiBinary", "DiscreteObservation", "DictObservation"),
            *("BoxEndless", "BoxCredit"),
        )
    },
}
WRAPPERS: dict[str, tuple[str, ...]] = {
    "rlab.envs.sub_env:InterfaceCheck": (),
    "rlab.envs.pixels:Pixels": (),
    "rlab.envs.velocities:NoVelocity": (),
    "rlab.envs.frames:FrameStack": ("_stack",),
    "rlab.envs.wrappers:ChannelsLast": (),
    "rlab.envs.wrappers:CartPolePhysics": (),
    "gymnasium.wrappers.common:TimeLimit": ("_elapsed_steps",),
    "gymnasium.wrappers.common:OrderEnforcing": ("_has_reset",),
    "gymnasium.wrappers.common:PassiveEnvChecker": (),
    "gymnasium.wrappers.stateful_observation:TimeAwareObservation": ("timesteps",),
    "gymnasium.wrappers.stateful_observation:DelayObservation": ("observation_queue",),
    "gymnasium.wrappers.stateful_observation:FrameStackObservation": ("obs_queue",),
    "gymnasium.wrappers.stateful_observation:MaxAndSkipObservation": ("_obs_buffer",),
    "gymnasium.wrappers.stateful_action:StickyAction": (
        *("last_action", "is_sticky_actions", "num_repeats", "repeats_taken"),
    ),
    "gymnasium.wrappers.stateful_action:RepeatAction": (),
    **{
        f"gymnasium.wrappers.transform_observation:{name}": ()
        for name in (
            *("FlattenObservation", "DiscretizeObservation", "GrayscaleObservation", "ResizeObservation"),
            *("AddRenderObservation", "RescaleObservation", "ReshapeObservation", "DtypeObservation"),
        )
    },
    **{
        f"gymnasium.wrappers.transform_action:{name}": ()
        for name in ("DiscretizeAction", "ClipAction", "RescaleAction")
    },
}


class KnownState:
    """The attributes of the tables, and the env's own generator."""

    def __init__(self, env: gym.Env) -> None:
        self._env, self._layers = env, list(layers(env))

    def get(self) -> dict[str, Any]:
        """The state, as data."""
        return {"fields": _fields(self._layers), "generator": generator_state(self._env.unwrapped._np_random)}

    def set(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            LookupError, TypeError, ValueError: it is not one of this env.
        """
        _set_fields(self._layers, state["fields"])
        self._env.unwrapped._np_random = new_generator(state["generator"])


class OwnState:
    """An env's own `get_state` and `set_state`, the attributes of the known wrappers around it, and what else they
    remember (see `memory_of`)."""

    def __init__(self, env: gym.Env, untouched: Untouched) -> None:
        self._env, self._untouched, (*self._wrappers, _) = env, untouched, layers(env)

    def get(self) -> dict[str, Any]:
        """The state, as data.

        Raises:
            NotDataError: what the env gave is not data.
        """
        own: Any = self._env.unwrapped
        return {
            "own": as_data(own.get_state()),
            "fields": _fields(self._wrappers),
            "memory": memory_of(look_through(self._env, self._untouched)),
        }

    def set(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: by the env's own method first.

        Raises:
            LookupError, TypeError, ValueError: it is not one of this env.
        """
        own: Any = self._env.unwrapped
        own.set_state(as_data(state["own"]))
        _set_fields(self._wrappers, state["fields"])
        obstacle = put_back(self._env, self._untouched, state["memory"])
        if obstacle is not None:
            raise ValueError(f"{obstacle} cannot be put back")


def state_pair(env: gym.Env, untouched: Untouched) -> KnownState | OwnState | None:
    """How the state of an env in its wrappers is saved; None where its episodes are replayed. `untouched`: as of
    `look_through`."""
    *wrappers, inner = layers(env)
    if not all(class_name(layer) in WRAPPERS for layer in wrappers):
        return None
    if class_name(inner) in ENVS:
        return KnownState(env)
    return OwnState(env, untouched) if _takes(inner, "get_state", 0) and _takes(inner, "set_state", 1) else None


def class_name(thing: Any) -> str:
    """`module:Class`."""
    return f"{type(thing).__module__}:{type(thing).__qualname__}"


def _takes(env: gym.Env, name: str, arguments: int) -> bool:
    """Whether it has a method that can be called with so many arguments."""
    method = getattr(env, name, None)
    try:
        inspect.signature(method).bind(*[None] * arguments)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _fields(of: Sequence[gym.Env]) -> list[dict[str, Any]]:
    """The attributes that the tables name, for each of these layers."""
    return [{name: as_data(vars(layer)[name]) for name in _names(layer) if name in vars(layer)} for layer in of]


def _names(layer: gym.Env) -> tuple[str, ...]:
    name = class_name(layer)
    return WRAPPERS[name] if name in WRAPPERS else ENVS[name]


def _set_fields(of: Sequence[gym.Env], saved: Sequence[Mapping[str, Any]]) -> None:
    for layer, fields in zip(of, saved, strict=True):
        for name in _names(layer):
            if name in fields:
                set_part(layer, name, fields[name])
        if isinstance(layer, PassiveEnvChecker):  # what it checks once was checked
            layer.checked_reset = layer.checked_step = layer.checked_data_reuse = True
