"""The agents, one file per algorithm, and the names that they go by."""

import importlib
from types import ModuleType

from rlab.errors import RlabError, UsageError, unknown

if __name__ != "rlab.agents":
    raise ImportError(f"import rlab.agents, not {__name__}: other packages own that name")

AGENTS = {
    "dqn": "rlab.agents.dqn:DQN",
    "double_dqn": "rlab.agents.double_dqn:DoubleDQN",
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
