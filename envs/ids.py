"""Env ids: which exist, which package each needs, and the error for one that does not exist."""

import contextlib
import difflib
import importlib
import importlib.util
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import parse_env_id

from rlab.errors import UsageError, extra, unknown
from rlab.places import message_of


@dataclass(frozen=True)
class Package:
    """A package that some envs need: the module that it installs, and the words that install it."""

    name: str
    module: str
    install: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


ALE = "ALE/"

# Id prefixes that are registered on demand, since Gymnasium 1.0 loads no plugins by itself.
ON_DEMAND = {
    ALE: Package("ale-py", "ale_py", extra("atari")),
    "MinAtar/": Package("MinAtar", "minatar", extra("minatar")),
    "MiniGrid-": Package("minigrid", "minigrid", extra("minigrid")),
    "BabyAI-": Package("minigrid", "minigrid", extra("minigrid")),
    **dict.fromkeys(
        ("Fetch", "PointMaze_", "AntMaze_", "HandReach", "HandManipulate", "AdroitHand", "FrankaKitchen-"),
        Package("gymnasium-robotics", "gymnasium_robotics", extra("robotics")),
    ),
}

MINATAR = "rlab.envs.minatar:MinAtarEnv"  # in the place of MinAtar's own class

# Envs that Gymnasium registers although the package that they need may be missing: start of the entry point -> package.
ENTRY_POINTS = {
    "gymnasium.envs.box2d": Package("Box2D", "Box2D", extra("box2d")),
    "gymnasium.envs.mujoco": Package("MuJoCo", "mujoco", "gymnasium[mujoco]"),
    "gymnasium.envs.phys2d": Package("JAX", "jax", "gymnasium[jax]"),
    "gymnasium.envs.tabular": Package("JAX", "jax", "gymnasium[jax]"),
}


# `PongNoFrameskip-v4`, `Pong-ramDeterministic-v0`, `Pong-v4`: Gym's names of the Atari games.
_ATARI = re.compile(r"(?P<game>[A-Z]\w*?)(?P<kind>(-ram)?(NoFrameskip|Deterministic)|-ram)?-v[045]")
_GAMES = frozenset(
    {"Alien", "Asterix", "Asteroids", "BeamRider", "Boxing", "Breakout", "Enduro", "Freeway", "Frostbite", "Gravitar"}
    | {"MontezumaRevenge", "MsPacman", "Pitfall", "Pong", "Qbert", "Riverraid", "Seaquest", "SpaceInvaders", "Tennis"}
)


@dataclass(frozen=True)
class EnvRow:
    """One line of `rlab list envs`. `install` is the package for pip, None where nothing more is needed."""

    env_id: str
    install: str | None
    installed: bool


def registered(env_id: str) -> Registered:
    """Gymnasium's own record of an id; `module:Env-v0` imports the module, known prefixes register on demand.

    `module:Class` and `module:function` are envs too, without registration.

    Raises:
        UsageError: no such env (with the near miss), an outdated id (with the current one), or a missing package
            (with the pip line).
    """
    module = _imported_module_of(env_id)
    name = env_id if module is None else env_id.rpartition(":")[2]
    for prefix, package in ON_DEMAND.items():
        if name.startswith(prefix):
            _require(name, package)
            _register(prefix)
    found = gym.registry.get(name)
    if found is None and module is not None:
        return _made_by(module, name)
    if found is None:
        _register_installed()  # families hold ids without their prefix too, such as ALE's older ones
        found = gym.registry.get(name)
    if found is None or _is_relic(found):
        raise _unknown_env(name)
    package_needed = package_of(found)
    if package_needed is not None:
        _require(name, package_needed)
    return found


def package_of(found: Registered) -> Package | None:
    """The optional package that a registered env needs, if any."""
    for prefix, package in ON_DEMAND.items():
        if found.id.startswith(prefix):
            return package
    entry_point = found.entry_point if isinstance(found.entry_point, str) else ""
    return next((package for start, package in ENTRY_POINTS.items() if entry_point.startswith(start)), None)


def comes_with_package(found: Registered) -> bool:
    """Whether the id is one that is registered on demand."""
    entry_point = found.entry_point if isinstance(found.entry_point, str) else ""
    modules = {package.module for package in ON_DEMAND.values()}
    return found.id.startswith(tuple(ON_DEMAND)) or entry_point.partition(":")[0].partition(".")[0] in modules


def list_envs() -> list[EnvRow]:
    """All ids that Gymnasium knows here, sorted. A family whose package is missing is one row, as `ALE/*`."""
    _register_installed()
    missing = [(prefix, package) for prefix, package in ON_DEMAND.items() if not package.installed]
    rows = [EnvRow(f"{prefix}*", package.install, False) for prefix, package in missing]
    for found in _listed():
        package_needed = package_of(found)
        if package_needed is None:
            rows.append(EnvRow(found.id, None, True))
        else:
            rows.append(EnvRow(found.id, package_needed.install, package_needed.installed))
    return sorted(rows, key=lambda row: row.env_id)


def foreign_module(env_id: str) -> str | None:
    """The module that a `module:Env-v0` id would import, or None."""
    module, colon, _ = env_id.rpartition(":")
    return module if colon else None


def record_of(env_id: str, make: Callable[..., gym.Env]) -> Registered:
    """A record like Gymnasium's of an env that is not registered; the registry is left as it is."""
    return Registered(env_id, entry_point=make)


def _imported_module_of(env_id: str) -> ModuleType | None:
    """The module that the id names, imported; None where it names none."""
    name = foreign_module(env_id)
    if name is None:
        return None
    if name.endswith(".py") or "/" in name or os.sep in name:
        path = Path(name.removesuffix(".py"))
        folder = f" in the folder {path.parent}" if path.is_absolute() or ".." in path.parts else ""
        module = path.name if folder else ".".join(path.parts)
        wanted = f"{module}:{env_id.rpartition(':')[2]}"
        raise UsageError(f"env {env_id!r}: a module goes by its name, not by its file: write {wanted}{folder}")
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a foreign module may raise anything when imported, such as sys.exit()
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        hint = ". Run this in the folder that holds it, or install it" if missing else ""
        raise UsageError(f"env {env_id!r}: cannot import the module {name!r}: {message_of(error)}{hint}") from error


def _made_by(module: ModuleType, name: str) -> Registered:
    """The env that a class or function of the module makes; `name` may have dots, as `Outer.make`."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return record_of(f"{module.__name__}:{name}", found)
    entry_points = ((known.id, known.entry_point) for known in _listed())
    ids = [env_id for env_id, entry in entry_points if isinstance(entry, str) and entry.startswith(module.__name__)]
    classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, gym.Env)]
    if not ids and not classes:
        raise UsageError(
            f"{module.__name__} has no env {name!r}: importing it registers none, and it has no class of gymnasium.Env"
        )
    raise unknown("env", f"{module.__name__}:{name}", [f"{module.__name__}:{known}" for known in (*ids, *classes)])


def _require(env_id: str, package: Package) -> None:
    if not package.installed:
        raise UsageError(f'{env_id} needs {package.name}: pip install "{package.install}"')


def _register(prefix: str) -> None:
    """Let the installed package of a prefix register its envs; a second call changes nothing."""
    if any(env_id.startswith(prefix) for env_id in gym.registry):
        return
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecations and notices inside other packages do not concern the user
        module = importlib.import_module(ON_DEMAND[prefix].module)
        if prefix == "MinAtar/":
            importlib.import_module("minatar.gym").register_envs()
            for found in gym.registry.values():
                if found.id.startswith(prefix):
                    found.entry_point = MINATAR
        else:
            gym.register_envs(module)  # the import itself has registered them
        if prefix == ALE:
            module.ALEInterface.setLoggerMode(module.LoggerMode.Error)  # it would print its name for every env


def _register_installed() -> None:
    for prefix, package in ON_DEMAND.items():
        if package.installed:
            _register(prefix)


def _is_relic(found: Registered) -> bool:
    """Ids that Gymnasium keeps only for the message that they are gone, such as `Ant-v2`."""
    return getattr(found.entry_point, "__name__", "").startswith("_raise_")


def _listed() -> Iterator[Registered]:
    return (found for found in gym.registry.values() if not _is_relic(found))


def _unknown_env(env_id: str) -> UsageError:
    """The error for an id that does not exist: with the version that does, else the near miss, else where to look."""
    module = env_id.removesuffix(".py").strip("./").replace("/", ".")
    if module.replace(".", "").isidentifier() and _is_module(module):
        return UsageError(f"unknown env {env_id!r}. It is a module; name the env in it too: {module}:ITS_CLASS")
    try:
        namespace, name, version = parse_env_id(env_id)
    except gym.error.Error:
        return UsageError(f"{env_id!r} is not an env id: expected Name-v0, space/Name-v0, module:Class or module:Id")
    whole = {found.id.lower(): found.id for found in _listed()}
    bare = {found.id.lower().rpartition("/")[2]: found.id for found in _listed() if "/" in found.id}
    exact = whole.get(env_id.lower()) or bare.get(env_id.lower())  # letter case or namespace is wrong
    if exact:
        return UsageError(f"unknown env {env_id!r}. Did you mean {exact!r}?")
    siblings = [found for found in _listed() if (found.namespace, found.name) == (namespace, name)]
    if siblings:
        newest = max(siblings, key=lambda found: found.version or 0)
        what = "has no version" if version is None else "does not exist (any more)"
        return UsageError(f"env {env_id!r} {what}. Did you mean {newest.id!r}?")
    game = _ATARI.fullmatch(env_id)
    if game is not None and (game["kind"] or game["game"] in _GAMES):
        needed = "" if ON_DEMAND[ALE].installed else f' It needs ale-py: pip install "{extra("atari")}".'
        frames = " --wrapper Atari skips and stacks frames." if "NoFrameskip" in env_id else ""
        return UsageError(
            f"env {env_id!r} is an older name of an Atari game. Did you mean 'ALE/{game['game']}-v5'?{needed}{frames}"
        )
    for known in (whole, bare):
        near = difflib.get_close_matches(env_id.lower(), sorted(known), n=1, cutoff=0.75)
        if near:
            return UsageError(f"unknown env {env_id!r}. Did you mean {known[near[0]]!r}?")
    return UsageError(f"unknown env {env_id!r}. `rlab list envs` shows all envs; name your own as module:Class.")


def _is_module(name: str) -> bool:
    """Whether this names a module of the user's: a file or package in the working folder."""
    place = Path(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
