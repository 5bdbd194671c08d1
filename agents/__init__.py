"""The agents, one file per algorithm, and the names that they go by."""

import importlib
from types import ModuleType

import numpy as np

from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.spaces import Box, Space

if __name__ != "rlab.agents":
    raise ImportError(f"import rlab.agents, not {__name__}: other packages own that name")

AGENTS = {
    "a2c": "rlab.agents.a2c:A2C",
    "bc": "rlab.agents.bc:BC",
    "cql": "rlab.agents.cql:CQL",
    "dqfd": "rlab.agents.dqfd:DQfD",
    "dqn": "rlab.agents.dqn:DQN",
    "double_dqn": "rlab.agents.double_dqn:DoubleDQN",
    "encoder": "rlab.agents.encoder:Encoder",
    "iql": "rlab.agents.iql:IQL",
    "ppo": "rlab.agents.ppo:PPO",
    "reinforce": "rlab.agents.reinforce:Reinforce",
}


def load_agent(name: str) -> type:
    """The class of a registered agent, or of anyone's agent by `their.module:Class`.

    Raises:
        UsageError: no agent has that name, or its module or class does not exist.
        RlabError: its module fails when imported.
    """
    if ":" not in name and name not in AGENTS:
        raise unknown("agent", name, AGENTS)
    module_name, _, class_name = AGENTS.get(name, name).partition(":")
    module = _import(module_name, name)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        raise unknown(f"class in {module_name}", class_name, classes)
    return found


def check_action_space(name: str, agent: type, space: Space, env_id: str) -> None:
    """Refuse actions that an agent's `action_spaces` do not name; an agent that has no such attribute is not checked.

    Integers in a Box are no actions to any agent of ours: they are neither choices nor numbers to be moved a little.

    Raises:
        UsageError: naming the space and the registered agents that choose such actions.
    """
    if not hasattr(agent, "action_spaces") or _chooses(agent, space):
        return
    able = [other for other in AGENTS if _chooses(load_agent(other), space)]
    hint = f"agents that have: {', '.join(able)}." if able else "no registered agent has."
    raise UsageError(f"{name} has no use for the actions {space} of {env_id}; {hint}")


def _chooses(agent: type, space: Space) -> bool:
    if isinstance(space, Box) and np.dtype(space.dtype).kind != "f":
        return False
    return isinstance(space, getattr(agent, "action_spaces", ()))


def _import(module_name: str, agent: str) -> ModuleType:
    try:
        if all(part.isidentifier() for part in module_name.split(".")):
            return importlib.import_module(module_name)
    except Exception as error:
        # A module that is there may still fail, for instance over something that it imports.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            why = f"{type(error).__name__}: {error}"
            raise RlabError(f"agent {agent!r}: importing {module_name} failed: {why}") from error
    raise UsageError(
        f"agent {agent!r}: there is no module {module_name!r}. "
        "An agent of your own is named module:Class, the module installed or in the current folder."
    )
