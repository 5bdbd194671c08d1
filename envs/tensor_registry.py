"""Which envs have a tensor version. The table names classes as text: they import torch, which takes its time."""

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.drawing import creator
from rlab.envs.specs import EnvSpec
from rlab.envs.velocities import KEPT
from rlab.errors import UsageError
from rlab.places import message_of

if TYPE_CHECKING:
    from rlab.envs.tensor_env import TensorEnv

# Entry point of an env of Gymnasium's -> its tensor version. Another env names its version itself, in the attribute
# `tensor_env` of its class: a class, or "module:Class".
_CLASSIC, _TABLES = "gymnasium.envs.classic_control", "gymnasium.envs.toy_text"
TENSOR_ENVS: Mapping[str, str] = {
    f"{_CLASSIC}.acrobot:AcrobotEnv": "rlab.envs.tensor_acrobot:Acrobot",
    f"{_CLASSIC}.cartpole:CartPoleEnv": "rlab.envs.tensor_classic:CartPole",
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": "rlab.envs.tensor_classic:ContinuousMountainCar",
    f"{_CLASSIC}.mountain_car:MountainCarEnv": "rlab.envs.tensor_classic:MountainCar",
    f"{_CLASSIC}.pendulum:PendulumEnv": "rlab.envs.tensor_classic:Pendulum",
    f"{_TABLES}.cliffwalking:CliffWalkingEnv": "rlab.envs.tensor_tables:CliffWalking",
    f"{_TABLES}.frozen_lake:FrozenLakeEnv": "rlab.envs.tensor_tables:FrozenLake",
    f"{_TABLES}.taxi:TaxiEnv": "rlab.envs.tensor_tables:Taxi",
}
NO_VELOCITY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("NoVelocity", {}),
)  # the wrappers of a spec that can be stepped as tensors


def tensor_env_of(spec: EnvSpec) -> "TensorEnv":
    """The tensor version of an env, with the spec's keywords and its time limit.

    Raises:
        UsageError: it has none, or not for these keywords and wrappers, or it cannot be made.
    """
    why = why_not_tensor(spec)
    if why is not None:
        raise UsageError(f"--vector tensor: {why}; use --vector auto")
    found = spec.check()
    version, kwargs = _version_of(found), {**found.kwargs, **spec.kwargs}
    assert version is not None
    try:
        env = version(**kwargs)
    except Exception as error:  # Gymnasium's constructors raise anything about their arguments
        raise UsageError(f"{spec.env_id} cannot be made: {message_of(error)}") from error
    limits = [limit for limit in (env.time_limit, spec.max_episode_steps or found.max_episode_steps) if limit]
    env.time_limit = min(limits, default=None)
    if not spec.wrappers:
        return env
    wrapper = _class_named("rlab.envs.tensor_velocities:NoVelocity")
    without: TensorEnv = wrapper(env, KEPT[str(found.entry_point)])
    return without


def why_not_tensor(spec: EnvSpec) -> str | None:
    """Why an env cannot be stepped as tensors; None where it can.

    Raises:
        UsageError: the env or a wrapper does not exist.
    """
    found = spec.check()
    if spec.wrappers not in ((), NO_VELOCITY) or found.additional_wrappers:
        return "a tensor env takes no wrappers but NoVelocity"
    version = _version_of(found)
    if version is None:
        return f"{spec.env_id} has no tensor version"
    if spec.wrappers and found.entry_point not in KEPT:
        return f"which elements of {spec.env_id}'s observation are velocities is not known"
    kwargs = {**found.kwargs, **spec.kwargs}
    parameters = inspect.signature(version).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        strange = sorted(kwargs.keys() - parameters.keys())
        if strange:
            return f"the tensor version of {spec.env_id} does not take {', '.join(strange)}"
    return version.why_not(kwargs)


def is_shipped(spec: EnvSpec) -> bool:
    """Whether rlab itself pairs an env with its tensor version; that these are equal is tested."""
    found = spec.check()
    return found.entry_point in TENSOR_ENVS or creator(found).__module__ in (
        "rlab.envs.probe",
        "rlab.envs.probe_spaces",
        "rlab.envs.probe_sparse",
    )


def _version_of(found: Registered) -> "type[TensorEnv] | None":
    """The class of the tensor version; None where there is none."""
    named: Any = TENSOR_ENVS.get(found.entry_point) if isinstance(found.entry_point, str) else None
    if named is None:
        try:
            made_by = creator(found)
        except Exception:  # making the env says why its module cannot be imported
            return None
        named = vars(made_by).get("tensor_env") if hasattr(made_by, "__dict__") else None  # not that of a base class
    return _class_named(named) if isinstance(named, str) else named


def _class_named(location: str) -> Any:
    """The class at `module:Class`."""
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(module), name)
