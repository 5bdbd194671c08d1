"""Code from outside rlab that a folder names, and whether it may run: its agent, env, wrappers and network."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlab.envs import EnvSpec
from rlab.errors import RlabError
from rlab.trust import Trust, advice, in_force, trusts
from rlab.types import LOCAL


def foreign_code(config: Mapping[str, Any], env: EnvSpec) -> list[str]:
    """The modules from outside rlab that a run with this `config.json` imports."""
    settings = config["settings"] if isinstance(config.get("settings"), dict) else {}
    return [*foreign_agent_module(config["agent"]), *env.foreign_modules, *foreign_network_module(settings)]


def resume_command(name: str, config: Mapping[str, Any], **changes: Any) -> str:
    """The command that goes on with a run, with `--trust` where it needs that in this working folder; the call from
    Python where the env or the network can be given again there alone."""
    env_id, network = str(config["env"]["env_id"]), str((config.get("settings") or {}).get("network") or "")
    again = [f"env={env_id if env_id.isidentifier() else '...'}"] if config["env"].get("local") else []
    again += ["network=..."] if network.startswith(LOCAL) else []
    if again:
        return f"rlab.resume({', '.join([repr(name), *again, *(f'{n}={value}' for n, value in changes.items())])})"
    flags = [f"--{n.replace('_', '-')}{'' if value is True else f' {value}'}" for n, value in changes.items()]
    env, trusted = EnvSpec.from_json(config["env"]), in_force(False)
    modules = {*foreign_code(config, env), *env.modules_elsewhere}  # another process asks for the env's, too
    needed = not all(trusts(trusted, module) for module in modules)
    processes = str((config.get("computed_with") or {}).get("processes", 1))
    rlab = "rlab" if processes == "1" else f"torchrun --nproc-per-node {processes} -m rlab"
    return " ".join([rlab, "resume", name, *(["--trust"] if needed else []), *flags])


def foreign_agent_module(agent: str) -> list[str]:
    """The module that running this agent imports, where it is none of rlab's."""
    return [agent.partition(":")[0]] if ":" in agent else []


def foreign_network_module(settings: Mapping[str, Any]) -> list[str]:
    """The module that making a network of the user's own imports."""
    named = str(settings.get("network") or "")
    return [named.partition(":")[0]] if ":" in named and not named.startswith(LOCAL) else []


def check_trust(where: str, modules: Sequence[str], trust: Trust) -> None:
    """Raise RlabError where a folder names modules from outside rlab that are not trusted: neither by the call nor by
    the list of this project."""
    if not modules or trust is True:
        return
    allowed = in_force(trust)
    unknown = [module for module in dict.fromkeys(modules) if not trusts(allowed, module)]
    if unknown:
        raise RlabError(f"{where} names {', '.join(unknown)}, which is code from outside rlab; {advice(unknown)}")


def only_here(env_id: str) -> str:
    """The note for people on a run whose env no other process finds."""
    return (
        f"note: only this process can play {env_id}, which no module names; later: rlab.evaluate(run, env=...), "
        "or move it into a module"
    )
