"""Whether an agent keeps the contract: its class before anything is built, the agent before the first step, and what it
and its sampler give at the first step, draw and update. Later ones are not looked at: a run should not pay for it."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.experience.dtypes import torch_dtype
from rlab.experience.env_contract import Acted
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.learning.contract import (
    PARTS,
    Agent,
    Batch,
    ReplayConfig,
    RolloutConfig,
    Updated,
    initial_state,
    missing_parts,
)
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.memory import State
from rlab.networks.policy import Policy
from rlab.networks.spaces import Discrete, Space
from rlab.types import Clock

SPACES = get_args(Space)
READ_BY_LOOPS: Mapping[str, Any] = {"replay": ReplayConfig, "rollout": RolloutConfig}
CALLED = {"__init__", *PARTS}
SAMPLER_PARTS = ("draws_ahead", "sample", "feedback", "check", "state", "load_state")


@functools.cache  # a run asks for its agent's class a dozen times
def check_class(name: str, agent_class: Any) -> None:
    """Refuse a class that lacks parts of the contract, takes other arguments, or has settings that no loop can read.

    Raises:
        UsageError: naming what is missing or wrong.
    """
    if missing := missing_parts(agent_class):
        raise UsageError(
            f"{name} is not an agent: it lacks {', '.join(missing)}. rlab/learning/contract.py says what an agent has; "
            "what __init__ sets counts where the class annotates it."
        )
    _check_calls(name, agent_class)
    _check_config(name, agent_class)
    spaces = agent_class.action_spaces
    if not (isinstance(spaces, tuple) and all(isinstance(each, type) and each in SPACES for each in spaces)):
        names = ", ".join(each.__name__ for each in SPACES)
        raise UsageError(
            f"{name}.action_spaces is {spaces!r}; it must be a tuple of classes of rlab.networks.spaces: {names}."
        )


def check_agent(name: str, agent: Agent) -> None:
    """Refuse an agent whose parts are not of the kinds that the contract states.

    Raises:
        UsageError: naming the part, and what it should be.
    """
    if lacking := [part for part in ("config", "device") if not hasattr(agent, part)]:
        raise UsageError(f"{name} has no attribute {' and '.join(lacking)} once it is built; set it in __init__.")
    _check_mapping(name, "networks", agent.networks, nn.Module, "a torch.nn.Module")
    _check_mapping(name, "optimizers", agent.optimizers, StackedOptimizer, "a StackedOptimizer")
    stepped = {id(p) for each in agent.optimizers.values() for group in each.groups for p in group.parameters}
    for network, module in agent.networks.items():
        for parameter, tensor in module.named_parameters():
            if tensor.requires_grad and id(tensor) not in stepped:
                raise UsageError(
                    f"no optimizer of {name} has the parameter {parameter} of its network {network!r}, which would "
                    "never learn; give it to one of `optimizers`, or freeze it with requires_grad_(False)."
                )
    names = [optimizer.name for optimizer in agent.optimizers.values()]
    if len(set(names)) < len(names):
        raise UsageError(
            f"the optimizers of {name} are called {', '.join(names)}, and `scheduled` gives each its learning rate by "
            "its name; give them different ones: StackedOptimizer(..., name=...)."
        )
    if not isinstance(agent.policy(), Policy):
        raise UsageError(f"{name}.policy() gives {_kind(agent.policy())}; it must be a rlab.networks.policy.Policy.")
    _check_scheduled(name, agent.scheduled(Clock(0, 1)), len(agent.policy().seeds))
    for field in agent.fields():
        if not isinstance(field, Field):
            raise UsageError(f"{name}.fields() gives {field!r}; each must be a Field(name, shape, dtype).")
        try:
            np.dtype(field.dtype)
        except TypeError:
            raise UsageError(f"{name}.fields(): {field.dtype!r} of the field {field.name!r} is not a dtype.") from None


def check_sampler(agent: Agent, sampler: Sampler) -> None:
    """Refuse what an agent gave as its sampler and is none.

    Raises:
        UsageError: it lacks a part, or cannot read rollouts for an agent that learns from them.
    """
    name = type(agent).__name__
    if lacking := [part for part in SAMPLER_PARTS if not hasattr(sampler, part)]:
        raise UsageError(
            f"{name}.sampler gives {_kind(sampler)}, which lacks {', '.join(lacking)}; derive it from "
            "rlab.experience.samplers.RandomSampler."
        )
    if agent.data == "rollout" and not isinstance(sampler, RolloutSampler):
        raise UsageError(
            f"{name} learns from rollouts, so its sampler must be a RolloutSampler, not a {type(sampler).__name__}."
        )


def check_acted(agent: Agent, acted: Acted, obs: Tensor, action_space: Space, fields: Sequence[Field]) -> None:
    """Refuse what `act` gave for `obs [S, N, *obs]`, before an env or a storage sees it.

    Args:
        fields: of the storage.

    Raises:
        UsageError: actions, extras or the state have another shape or type than the fields and the policy's state.
    """
    call = f"{type(agent).__name__}.act"
    if not isinstance(acted, Acted):
        raise UsageError(f"{call} gives {_kind(acted)}; it must be Acted(action), of rlab.experience.env_contract.")
    stored, lead = {field.name: field for field in fields}, (obs.shape[0], obs.shape[1])
    if tuple(obs.shape[2:]) != stored["obs"].shape:
        raise UsageError(
            f"the field 'obs' has the shape {stored['obs'].shape}; observations have {tuple(obs.shape[2:])}."
        )
    _check_tensor(f"{call}: the action", acted.action, lead, stored["action"], obs.device)
    if isinstance(action_space, Discrete) and not 0 <= acted.action.min() <= acted.action.max() < action_space.n:
        raise UsageError(
            f"{call} gives actions from {acted.action.min()} to {acted.action.max()}; they count from 0, whatever the "
            f"start of the env's, and are below {action_space.n}."
        )
    if not isinstance(acted.extras, Mapping):
        raise UsageError(f"{call} gives {_kind(acted.extras)} as extras; it must be a dict of tensors by field name.")
    for name in stored.keys() & acted.extras.keys():  # storage names those that are missing
        _check_tensor(f"{call}: the value of the field {name!r}", acted.extras[name], lead, stored[name], obs.device)
    _check_state(call, acted.state, initial_state(agent, lead[1]))


def check_batch(agent: Agent, drawn: Batch, rows: int, members: int) -> None:
    """Refuse what a sampler gave for `rows` rows of each member.

    Raises:
        UsageError: a value is not a tensor, or has another number of members or rows.
    """
    call = f"the sampler of {type(agent).__name__}"
    if not isinstance(drawn, dict) or "row" not in drawn:
        raise UsageError(f'{call} gives no batch with "row", the ids [S, B] of the rows; read_windows gives it.')
    for name, value in drawn.items():
        if not isinstance(value, Tensor):
            raise UsageError(f"{call} gives {name!r} as {_kind(value)}; all of a batch must be torch tensors.")
        if value.shape[:2] != (members, rows):
            raise UsageError(
                f"{call} gives {name!r} with the shape {tuple(value.shape)}; sample({rows}) must give [{members}, "
                f"{rows}, ...]."
            )


def check_updated(agent: Agent, updated: Updated, seeds: Sequence[int], row: Tensor, sampler: Sampler) -> None:
    """Refuse what `update` reported.

    Raises:
        UsageError: a metric is not a tensor `[S]`, or the feedback not one value for each row.
    """
    call = f"{type(agent).__name__}.update"
    if not isinstance(updated, Updated):
        raise UsageError(f"{call} gives {_kind(updated)}; it must be Updated(metrics), of rlab.learning.contract.")
    check_metrics(agent, updated.metrics, len(seeds))
    feedback = updated.feedback
    if feedback is None or sampler.draws_ahead or row.dim() != 2:
        return
    if not (isinstance(feedback, Tensor) and feedback.shape == row.shape):
        found = f"a tensor of the shape {tuple(feedback.shape)}" if isinstance(feedback, Tensor) else _kind(feedback)
        raise UsageError(
            f"{call} gives as feedback {found}; it must be a tensor {list(row.shape)}, a number for each row."
        )


def check_metrics(agent: Agent, metrics: Mapping[str, Tensor], members: int) -> None:
    """Refuse what is not one number for each member.

    Raises:
        UsageError: naming the metric.
    """
    for name, value in metrics.items():
        found = f"a tensor of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else _kind(value)
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.shape == (members,)):
            raise UsageError(
                f"{type(agent).__name__}.update: the metric {name!r} is {found}; each must be a tensor [S], here "
                f"[{members}], under a text: average over the batch and never over members."
            )


def _check_calls(name: str, agent_class: Any) -> None:
    for method, wanted in vars(Agent).items():
        given = inspect.getattr_static(agent_class, method, None)
        if method not in CALLED or not (isinstance(given, FunctionType) and isinstance(wanted, FunctionType)):
            continue
        parameters = [*inspect.signature(wanted).parameters]
        try:
            inspect.signature(given).bind(*parameters)
        except TypeError as error:
            call = f"{method}({', '.join(parameters[1:])})"
            raise UsageError(f"{name}.{method}{inspect.signature(given)} is called as {call}: {error}.") from None


def _check_config(name: str, agent_class: Any) -> None:
    config = agent_class.Config
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and "__dataclass_params__" in vars(config)):
        raise UsageError(
            f"{name}.Config is not a dataclass; write @dataclass(frozen=True) above the class of settings."
        )
    if not vars(config)["__dataclass_params__"].frozen:
        raise UsageError(f"{name}.Config can be changed; write @dataclass(frozen=True) above it.")
    unset = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(config)
    if required := [each.name for each in fields if (each.default, each.default_factory) == unset]:
        raise UsageError(f"{name}.Config has no default for {', '.join(required)}; every setting needs one.")
    read = [each for each in vars(READ_BY_LOOPS.get(agent_class.data, object)) if not each.startswith("_")]
    known = {each.name for each in fields}
    if lacking := [each for each in read if each not in known and not hasattr(config, each)]:
        raise UsageError(
            f"{name}.Config lacks {', '.join(lacking)}, which training reads where `data` is {agent_class.data!r}."
        )


def _check_scheduled(name: str, scheduled: Any, members: int) -> None:
    if not isinstance(scheduled, Mapping):
        raise UsageError(f"{name}.scheduled gives {_kind(scheduled)}; it must be a dict of numbers by name.")
    for number, value in scheduled.items():
        if isinstance(value, np.ndarray) and value.shape == (members,):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(
                f"{name}.scheduled gives {number!r} as {_kind(value)}; it must be a Python number, or an array [S] "
                "where members differ."
            )


def _check_mapping(name: str, part: str, found: Any, kind: type, words: str) -> None:
    if callable(found):
        raise UsageError(f"{name}.{part} is a method; write @property above it.")
    if not (isinstance(found, Mapping) and found and all(isinstance(each, kind) for each in found.values())):
        raise UsageError(
            f"{name}.{part} is {found!r:.60}; it must be a dict with one entry or more, each {words} by name."
        )


def _check_tensor(what: str, value: Any, lead: tuple[int, ...], field: Field, device: torch.device) -> None:
    shape = (*lead, *field.shape)
    if not isinstance(value, Tensor):
        raise UsageError(f"{what} is {_kind(value)}; it must be a tensor of the shape {shape}.")
    if value.shape != shape:
        raise UsageError(f"{what} has the shape {tuple(value.shape)}; it must be [S, N, ...], here {shape}.")
    if not torch.can_cast(value.dtype, torch_dtype(field.dtype)):
        dtype = str(value.dtype).removeprefix("torch.")
        raise UsageError(f"{what} has the dtype {dtype}; `fields` stores it as {field.dtype}.")
    if value.device != device:
        raise UsageError(f"{what} is on {value.device}; it must be where observations are, on {device}.")


def _check_state(call: str, state: State, initial: State) -> None:
    given, wanted = ({k: tuple(v.shape) for k, v in each.items()} for each in (state, initial))
    if given != wanted:
        raise UsageError(
            f"{call} gives a state with the shapes {given}; it must be like policy().initial_state(N), {wanted}, which "
            "every episode begins with."
        )


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
