"""The agents, one file per algorithm, and the names that they go by."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.bounds import is_bound
from rlab.networks.spaces import Box, Space

if __name__ != "rlab.agents":
    raise ImportError(f"import rlab.agents, not {__name__}: other packages own that name")

AGENTS = {
    "a2c": "rlab.agents.a2c:A2C",
    "bc": "rlab.agents.bc:BC",
    "cql": "rlab.agents.cql:CQL",
    "crossq": "rlab.agents.crossq:CrossQ",
    "ddpg": "rlab.agents.ddpg:DDPG",
    "dqfd": "rlab.agents.dqfd:DQfD",
    "dqn": "rlab.agents.dqn:DQN",
    "double_dqn": "rlab.agents.double_dqn:DoubleDQN",
    "droq": "rlab.agents.droq:DroQ",
    "encoder": "rlab.agents.encoder:Encoder",
    "iql": "rlab.agents.iql:IQL",
    "ppo": "rlab.agents.ppo:PPO",
    "rainbow": "rlab.agents.rainbow:Rainbow",
    "reinforce": "rlab.agents.reinforce:Reinforce",
    "sac": "rlab.agents.sac:SAC",
    "td3": "rlab.agents.td3:TD3",
}


_NUMBERS = "For actions that are numbers it has sac, td3, ddpg, crossq and droq, and ppo, a2c and reinforce."
_CHOICES = "For a choice among actions it has dqn, double_dqn, rainbow and sac, and ppo, a2c and reinforce."

_SETTING = "It is a setting: rlab train {} ENV {}."
_HEADS = {"c51": "c51", "categoricaldqn": "c51", "qrdqn": "qr", "iqn": "iqn"}

# Agents that other libraries have and rlab has not: the setting that they are, or what takes the actions that they are
# for.
ELSEWHERE = {
    **dict.fromkeys(("tqc", "mpo"), _NUMBERS),
    "redq": "It is droq with --critics 10 --target-critics 2 --dropout 0 --no-layer-norm.",
    "apex": _CHOICES,
    "r2d2": "It is double_dqn with --memory lstm --replay prioritised --value-rescaling --n-step 5.",
    "drqn": _SETTING.format("dqn", "--memory lstm"),
    **{name: _SETTING.format("dqn", f"--value-head {head}") for name, head in _HEADS.items()},
    **dict.fromkeys(("mdqn", "munchausendqn"), _SETTING.format("dqn", "--munchausen")),
    **dict.fromkeys(("per", "dqnper"), _SETTING.format("dqn", "--replay prioritised")),
    **dict.fromkeys(("noisydqn", "noisynet"), _SETTING.format("dqn", "--noisy")),
    "duelingdqn": _SETTING.format("dqn", "--dueling"),
    **dict.fromkeys(("trpo", "impala", "a3c", "acktr", "acer", "vtrace", "ppg"), "Closest are ppo and a2c."),
    "sacdiscrete": "sac takes choices too: rlab train sac.",
    **dict.fromkeys(("recurrentppo", "ppolstm"), _SETTING.format("ppo", "--memory lstm")),
    "maskableppo": "ppo takes masks by itself: rlab train ppo.",
    **dict.fromkeys(("dreamer", "dreamerv2", "dreamerv3", "muzero", "pets", "mbpo", "ars"), f"{_NUMBERS} {_CHOICES}"),
    **dict.fromkeys(("rnd", "ppornd"), _SETTING.format("ppo", "--novelty rnd")),
    "her": "Goals in hindsight are a setting of the agents that learn from replay, such as dqn: --hindsight future.",
    **dict.fromkeys(("gail", "airl"), f"Demonstrations are for bc, dqfd, cql and iql. {_NUMBERS}"),
    **dict.fromkeys(("td3bc", "bcq", "awac", "awr"), "From datasets learn bc, cql, iql and dqfd."),
}


def load_agent(name: str) -> type:
    """The class of a registered agent, or of anyone's agent by `their.module:Class`.

    Raises:
        UsageError: no agent has that name, its module or class does not exist, or the class is not an agent.
        RlabError: its module fails when imported.
    """
    if ":" not in name and name not in AGENTS:
        raise _unknown_agent(name)
    module_name, _, class_name = AGENTS.get(name, name).partition(":")
    module = _import(module_name, name)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        raise unknown(f"class in {module_name}", class_name, classes)
    from rlab.learning.contract_checks import check_class  # torch takes its time; the agent's module has it already

    check_class(name, found)
    return found


def _unknown_agent(name: str) -> UsageError:
    """What to say of a name that is not registered: what takes such actions where it is one of others, or the near
    miss."""
    plain = name.lower().translate(str.maketrans("", "", "-_ "))
    if plain not in ELSEWHERE:
        return unknown("agent", name, AGENTS)
    return UsageError(f"rlab does not have the agent {name!r}. {ELSEWHERE[plain]} An agent of your own: module:Class.")


def check_action_space(name: str, agent: type, space: Space, env_id: str) -> None:
    """Refuse actions that an agent's `action_spaces` do not name.

    No agent takes integers in a Box: they are neither choices nor numbers that can be moved a little.

    Raises:
        UsageError: naming the space and the registered agents that choose such actions.
    """
    if _is_kind(agent, space):  # one that needs bounds says itself which number has none
        return
    able = choosers(space)
    acting = [other for other, found in able.items() if found.data != "dataset"]
    taught = ", ".join(other for other in able if other not in acting)
    from_data = f"; from a dataset: {taught}" if taught else ""
    hint = f"agents that can: {', '.join(acting)}{from_data}." if acting else "no registered agent can."
    if isinstance(space, Box) and np.dtype(space.dtype).kind != "f":
        hint += (
            " Make the space a MultiDiscrete where its integers are choices, or its dtype float32 where they are not."
        )
    raise UsageError(f"{name} cannot choose the actions {space} of {env_id}; {hint}")


def choosers(space: Space) -> dict[str, Any]:
    """The registered agents that can choose such actions, by name."""
    able = {name: agent for name in sorted(AGENTS) if _is_kind(agent := load_agent(name), space)}
    if isinstance(space, Box) and not (is_bound(space.low, space.dtype) & is_bound(space.high, space.dtype)).all():
        from rlab.learning.contract import NeedsBounds  # torch takes its time; the agents' modules have it already

        return {
            name: agent for name, agent in able.items() if not (isinstance(agent, NeedsBounds) and agent.needs_bounds)
        }
    return able


def _is_kind(agent: Any, space: Space) -> bool:
    if isinstance(space, Box) and np.dtype(space.dtype).kind != "f":
        return False
    return isinstance(space, agent.action_spaces)


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
