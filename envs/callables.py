"""The user's own envs, from Python: a class, a function or another callable that makes one, as an `EnvSpec`.

A run folder is read by other processes, so what it keeps is a name that they can import: `module:Class`,
`module:function`, or `module:Id` for an id that a user's module registers. Where there is none (a lambda, a class in
a notebook), the spec is `local`: this process makes the env, and another process has to be given it again.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.drawing import creator
from rlab.envs.ids import comes_with_package
from rlab.envs.plain import plain
from rlab.envs.specs import EnvSpec, named_here
from rlab.errors import UsageError
from rlab.naming import importable_name

EnvLike: TypeAlias = str | EnvSpec | Registered | Callable[..., gym.Env]
IMPORT_TIME_LIMIT = 60.0  # seconds; a module that takes longer to import is skipped

# Run by another Python: which of these modules registers the id, the empty name being Gymnasium itself.
_ASK = """
import importlib, json, sys
env_id, sys.path[:], names = json.loads(sys.argv[1])
import gymnasium
for name in names:
    try:
        if name:
            importlib.import_module(name)
    except BaseException:
        continue
    if env_id in gymnasium.registry:
        print("\\nregistered by:" + name)
        break
"""


def env_spec(
    env: EnvLike,
    env_kwargs: Sequence[str] | Mapping[str, Any] = (),
    wrappers: Sequence[str] = (),
    max_episode_steps: int | None = None,
) -> EnvSpec:
    """The spec of a given env, checked: the env and the wrappers exist here.

    Args:
        env: an id, `module:Id`, `module:Class`, a class or function that makes an env, or Gymnasium's record of one.
        env_kwargs, wrappers, max_episode_steps: as for `EnvSpec.parse`; keywords come on top of the env's own.

    Raises:
        UsageError: it is none of these; for an instance the message has the one-line fix.
    """
    base = _base(env)
    named_here.add(base.env_id)
    given = base.changed(env_kwargs or None, wrappers or None)
    given = replace(given, kwargs={**base.kwargs, **given.kwargs})
    return replace(given, max_episode_steps=max_episode_steps or base.max_episode_steps)


def given_again(saved: EnvSpec, env: EnvLike) -> EnvSpec:
    """The spec of a saved policy with its env given again from Python, where only the training process could make it.

    A saved `local` spec keeps its keywords, wrappers and time limit, and `env` makes it; any other is replaced.

    Raises:
        UsageError: as for `env_spec`.
    """
    given = _base(env)
    if not (saved.local and callable(env)):
        return given
    kwargs = {**saved.kwargs, **given.kwargs}
    again = replace(saved, kwargs=kwargs, maker=given.maker or creator(given.check()))
    again.check()
    return again


def _base(env: EnvLike) -> EnvSpec:
    if isinstance(env, EnvSpec):
        return env
    if isinstance(env, str):
        return _found_again(EnvSpec.parse(env))
    if isinstance(env, Registered):
        return _of_record(env)
    if isinstance(env, (gym.Env, gym.vector.VectorEnv)):
        raise UsageError(_instance_hint(env))
    if not callable(env):
        raise UsageError(
            f"an env is an id such as 'CartPole-v1', a class or a function that makes one, not {env!r:.80} "
            f"({type(env).__name__})"
        )
    return _of_callable(env)


def _instance_hint(env: Any) -> str:
    inner = env.unwrapped
    name = type(inner).__name__
    if isinstance(env, gym.vector.VectorEnv):
        return f"a vector env ({name}) cannot be used: pass the single env's class or id, and num_envs=8"
    known = inner.spec is not None and inner.spec.id in gym.registry
    fix = f'"{inner.spec.id}"' if known and env.spec.max_episode_steps is not None else f"lambda: {name}(...)"
    return f"this is one {name}, and rlab makes its envs itself, several of them: give {fix} in its place"


def _of_callable(make: Callable[..., gym.Env]) -> EnvSpec:
    kwargs: dict[str, Any] = {}
    if isinstance(make, partial) and not make.args:
        with contextlib.suppress(UsageError):  # keywords that JSON cannot hold stay in the partial
            kwargs, make = plain(make.keywords, "keywords"), make.func
    name = importable_name(make)
    if name is not None and EnvSpec(name).check().entry_point == make:  # else an id of that name is registered
        spec = EnvSpec(name, kwargs)
    else:
        spec = EnvSpec(_label(make), kwargs, maker=make)
    spec.check()
    return spec


def _label(make: Any) -> str:
    """A name for a callable: its own, or that of the function that a partial calls."""
    while isinstance(make, partial):
        make = make.func
    name = getattr(make, "__name__", type(make).__name__)
    return "lambda" if name == "<lambda>" else name


def _of_record(found: Registered) -> EnvSpec:
    """Gymnasium's record: of a registered id, of an env that was made with other keywords, or of a user's own env."""
    known = gym.registry.get(found.id)
    if found.additional_wrappers and (known is None or found.additional_wrappers != known.additional_wrappers):
        raise UsageError(
            f"{found.id} comes with wrappers ({', '.join(each.name for each in found.additional_wrappers)}), which "
            "rlab would not find again; name them: wrappers=['FlattenObservation']."
        )
    if known is None:
        spec = _of_entry_point(found)
        if spec is None:
            raise UsageError(f"{found.id} is not registered and has no env class or function.")
        return spec
    changed = {key: value for key, value in found.kwargs.items() if known.kwargs.get(key, known) != value}
    changed.pop("render_mode", None)
    limit = found.max_episode_steps if found.max_episode_steps != known.max_episode_steps else None
    spec = _found_again(EnvSpec.parse(found.id))
    return replace(spec, kwargs={**spec.kwargs, **changed}, max_episode_steps=limit or spec.max_episode_steps)


def _found_again(spec: EnvSpec) -> EnvSpec:
    """The spec of an id under a name that other processes find: the id alone, with the module that registers it, or the
    env's class; else `local`."""
    found = spec.check()
    if ":" in spec.env_id or comes_with_package(found) or _is_gymnasium_s(found.id):
        return spec
    module = _registering_module(found.id, _candidates(found))
    if module is not None:
        return replace(spec, env_id=f"{module}:{spec.env_id}" if module else spec.env_id)
    made = _of_entry_point(found)
    if made is not None and not made.local and not found.additional_wrappers:
        return replace(made, wrappers=spec.wrappers)
    return replace(spec, local=True)


def _of_entry_point(found: Registered) -> EnvSpec | None:
    """The env by its entry point, with the keywords and the time limit of its record."""
    make = found.entry_point
    if make is None:
        return None
    base = EnvSpec(make) if isinstance(make, str) else _of_callable(make)
    return replace(base, kwargs={**base.kwargs, **found.kwargs}, max_episode_steps=found.max_episode_steps)


def _is_gymnasium_s(env_id: str) -> bool:
    """Whether importing Gymnasium, or rlab, is what registers the id."""
    if env_id.startswith("rlab/"):
        return True
    try:
        return f'"{env_id}"' in _source_of("gymnasium.envs")
    except OSError:
        return False


@lru_cache
def _source_of(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def _candidates(found: Registered) -> tuple[str, ...]:
    """Modules that may register an id, the likeliest first; packages before what is in them."""
    make = found.entry_point
    place = make.partition(":")[0] if isinstance(make, str) else getattr(make, "__module__", "") or ""
    parts = [] if place == "__main__" else place.split(".")
    around = [".".join(parts[: length + 1]) for length in range(len(parts))]
    others = [name for name, path in _own_modules() if f'{found.id}"' in path.read_text(errors="ignore")]
    return ("", *dict.fromkeys([*filter(None, around), *others]))


def _own_modules() -> list[tuple[str, Path]]:
    """Modules of this process that belong to no installed package: the user's own."""
    installed = tuple(str(Path(path)) for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix})
    own = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not os.path.isfile(path) or path.startswith(installed):
            continue
        if path.endswith(".py") and name.partition(".")[0] not in ("__main__", "rlab"):
            own.append((name, Path(path)))
    return own


@lru_cache
def _registering_module(env_id: str, candidates: tuple[str, ...]) -> str | None:
    """The first of these modules whose import registers the id in a fresh Python; None where none does."""
    question = json.dumps([env_id, sys.path, candidates])
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, question],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=IMPORT_TIME_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    _, found, name = asked.stdout.rpartition("\nregistered by:")
    return name.strip() if found else None
