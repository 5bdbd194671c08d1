"""What an env remembers, found in its attributes: plain values and random generators, by their paths.

An env may keep something from one episode to the next, such as how many it has played or a generator of its own.
Replaying the episode under way does not bring that back, so it is saved beside the journal and put back.
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.generators import generator_state, new_generator, set_generator_state
from rlab.envs.obs_packing import layers

Untouched = dict[int, tuple[Any, Any]]  # generators and their states as they were made, by the ids of these
Path = tuple[str | int, ...]  # attributes, keys and indices, from the outermost wrapper inwards
MOST_VISITS = 10_000  # values that are looked at in all
MOST_PARTS = 1_000  # of one list, tuple, deque or dict, with what is inside
LARGEST = 4096.0  # bytes of an array, characters of a text; larger ones are left to the replay
MOST_OBJECTS = 10  # whose attributes are noted at every reset
MOST_KEPT = 100  # values in a list, deque or dict that are noted at every reset
_PLAIN = (bool, int, float, str)
_DICTS = (dict, defaultdict, OrderedDict, Counter)
_MUTABLE = frozenset((list, deque, np.ndarray, *_DICTS))
NOT_KEPT = object()


class NotDataError(TypeError):
    """A value that is neither numbers and texts nor lists, tuples and dicts of these."""


class Limits:
    """How much of one value is taken: `parts` counts what was looked at."""

    def __init__(self, largest: float, most: float) -> None:
        self.largest, self.most, self.parts = largest, most, 0


def as_data(value: Any, limits: Limits | None = None) -> Any:
    """A copy that a checkpoint takes: a deque becomes a list, a defaultdict or Counter a dict, NumPy's text Python's.

    Raises:
        NotDataError: it is something else, or larger than the limits.
    """
    kind, largest = type(value), float("inf")
    if limits is not None:
        limits.parts += 1
        largest = limits.largest
        if limits.parts > limits.most:
            raise NotDataError(f"more than {limits.most} values")
    if value is None or kind in _PLAIN:
        if kind is str and len(value) > largest:
            raise NotDataError("a text that is too long")
        return value
    if kind is np.str_:
        return as_data(str(value), limits)
    if kind is np.ndarray or issubclass(kind, np.generic):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8 or value.nbytes > largest:
            raise NotDataError(f"an array of {value.dtype}")
        return value.copy()
    if kind in _DICTS:
        if not all(type(key) in (str, int) for key in value):
            raise NotDataError("a dict with other keys than texts and integers")
        return {key: as_data(part, limits) for key, part in value.items()}
    if kind in (list, tuple, deque):
        parts = [as_data(part, limits) for part in value]
        return tuple(parts) if kind is tuple else parts
    raise NotDataError(f"a {kind.__name__}")


def same_data(first: Any, second: Any) -> bool:
    """Whether two values of `as_data` are equal to the bit, in kind and number."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray | np.generic):
        return (first.dtype, first.shape) == (second.dtype, second.shape) and first.tobytes() == second.tobytes()
    if isinstance(first, dict):
        return list(first) == list(second) and all(same_data(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_data, first, second))
    return bool(first == second or (first != first and second != second))  # NaN


def set_part(holder: Any, key: str | int, value: Any) -> None:
    """Put a value of `as_data` where a part of `holder` is, in place where that is possible: others may hold it too.

    Raises:
        LookupError, TypeError: there is no such place.
    """
    try:
        now = part_of(holder, key)
    except KeyError:
        now = None  # an attribute or key that is not there yet
    if isinstance(now, list) and isinstance(value, list):
        now[:] = as_data(value)
    elif isinstance(now, deque):
        now.clear()
        now.extend(as_data(value))
    elif type(now) in _DICTS and type(value) is dict:
        now.clear()
        now.update(as_data(value))
    elif isinstance(now, np.ndarray) and isinstance(value, np.ndarray) and _fits(now, value):
        now[...] = value
    elif isinstance(holder, list | dict | deque):
        holder[key] = as_data(value)  # type: ignore[index]
    elif isinstance(holder, tuple):
        raise TypeError("a tuple does not change")
    else:
        vars(holder)[str(key)] = as_data(value)  # not setattr, which may be a property with effects


def _fits(now: np.ndarray, value: np.ndarray) -> bool:
    return now.shape == value.shape and now.dtype == value.dtype and now.flags.writeable


def part_of(holder: Any, key: str | int) -> Any:
    """An attribute, or a part of a list, tuple, deque or dict.

    Raises:
        LookupError: there is none.
    """
    if isinstance(holder, dict):
        return holder[key]
    return holder[int(key)] if isinstance(holder, list | tuple | deque) else vars(holder)[str(key)]


@dataclass(frozen=True)
class Found:
    """What is found in the attributes of an env, its wrappers and their own objects, by path."""

    values: list[tuple[Path, Any]]  # plain ones, as data
    generators: dict[Path, Any]
    objects: list[Path]  # the outermost ones, wrappers and env included


def memory_of(found: Found) -> dict[str, Any]:
    """All that was found, as data: lists of `[path, value]` (see `generator_states`)."""
    values = [[list(path), value] for path, value in found.values]
    return {"values": values, "generators": generator_states(found.generators)}


def generators_at(env: gym.Env, paths: Sequence[Path]) -> dict[Path, Any]:
    """What it holds at these paths now."""
    found = {}
    for path in paths:
        with suppress(LookupError, TypeError):
            found[path] = held_at(env, path)
    return found


def generator_states(generators: Mapping[Path, Any]) -> list[list[Any]]:
    """Lists of `[path, state]`; the state of one that was met before is the path where that was."""
    first: dict[int, Path] = {}
    found: list[list[Any]] = []
    for path, generator in generators.items():
        state = list(first[id(generator)]) if id(generator) in first else generator_state(generator)
        if state is not None:
            first.setdefault(id(generator), path)
            found.append([list(path), state])
    return found


def set_generators(env: gym.Env, untouched: Untouched, states: Sequence[Any]) -> str | None:
    """Let the generators draw on from the states of `generator_states`, made where there is none, and the untouched
    ones from their beginning; the place of one with which that is impossible."""
    for generator, state in untouched.values():
        set_generator_state(generator, state)
    for path, state in states:
        try:
            holder = held_at(env, path[:-1])
            if isinstance(state, list):
                vars(holder)[str(path[-1])] = held_at(env, state)
                continue
            now = None
            with suppress(KeyError):  # not there yet
                now = part_of(holder, path[-1])
            if now is None:
                vars(holder)[str(path[-1])] = new_generator(state)
            else:
                set_generator_state(now, state)
        except (AttributeError, LookupError, TypeError, ValueError):
            return _words(path)
    return None


def seed_spaces(env: gym.Env, seed: int) -> Untouched:
    """Seed the generators of its spaces that are not yet seeded: Gymnasium would from the operating system's."""
    held = [part for layer in layers(env) for part in vars(layer).values()]
    waiting: list[Any] = [part for part in held if issubclass(type(part), gym.Space)]
    untouched: Untouched = {}
    for space in waiting:  # grows
        if space._np_random is None:
            gym.Space.seed(space, seed)  # not those of its parts
            untouched[id(space._np_random)] = (space._np_random, generator_state(space._np_random))
        parts = getattr(space, "spaces", ())
        waiting.extend(parts.values() if isinstance(parts, Mapping) else parts)
    return untouched


def attributes_at(env: gym.Env, paths: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """The attributes of the objects at these paths as they are, those that can change in place as copies: quick enough
    for every episode."""
    found = []
    for path in paths:
        with suppress(LookupError, TypeError):
            items = vars(held_at(env, path)).items()
            kept = {name: _kept(value) if type(value) in _MUTABLE else value for name, value in items}
            found.append((path, kept))
    return found


def plain_attributes(kept: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[list[Any]]:
    """Those of `attributes_at` that are plain values, as data."""
    found: list[list[Any]] = []
    for path, attributes in kept:
        plain = {}
        for name, value in attributes.items():
            with suppress(NotDataError):
                plain[name] = as_data(value, Limits(LARGEST, MOST_PARTS))
        found.append([list(path), plain])
    return found


def set_attributes(env: gym.Env, saved: Sequence[Any]) -> None:
    """Give the objects of `plain_attributes` what they had, those that are there."""
    for path, attributes in saved:
        with suppress(LookupError, TypeError):
            holder = held_at(env, path)
            for name, value in attributes.items():
                if not _is_now(holder, name, value):
                    set_part(holder, name, value)


def make_new_again(env: gym.Env, new: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Give the objects of `attributes_at` the plain values that they had, and remove the attributes that are new."""
    for path, attributes in new:
        with suppress(LookupError, TypeError):
            now = vars(held_at(env, path))
            for name in now.keys() - attributes.keys():
                del now[name]
    set_attributes(env, plain_attributes(new))


def _kept(value: Any) -> Any:
    try:
        return as_data(value, Limits(LARGEST, MOST_KEPT))
    except NotDataError:
        return NOT_KEPT


def put_back(env: gym.Env, untouched: Untouched, memory: Mapping[str, Any]) -> str | None:
    """Give what differs from a `memory_of` its saved value; the place of something with which that is impossible."""
    place = set_generators(env, untouched, memory["generators"])
    if place is not None:
        return place
    for path, value in memory["values"]:
        try:
            holder = held_at(env, path[:-1])
            if not _is_now(holder, path[-1], value):
                set_part(holder, path[-1], value)
        except (LookupError, TypeError):
            return _words(path)
    return None


def held_at(env: gym.Env, path: Any) -> Any:
    """What is at a path.

    Raises:
        LookupError: nothing.
    """
    found: Any = env
    for key in path:
        found = part_of(found, key)
    return found


def _words(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _is_now(holder: Any, key: str | int, value: Any) -> bool:
    try:
        return same_data(as_data(part_of(holder, key)), value)
    except (LookupError, TypeError):
        return False


def look_through(env: gym.Env, untouched: Untouched) -> Found:
    """All that an env holds, sorted: attributes may be in another order after a replay. The generators of spaces that
    it has never drawn from are left out."""
    packages = {_package(kind) for layer in layers(env) for kind in _env_classes(layer)}
    waiting: deque[tuple[Path, Any]] = deque([((), env)])
    seen: set[int] = set()
    found = Found([], {}, [])
    visits = 0
    while waiting and visits < MOST_VISITS:
        path, value = waiting.popleft()
        limits = Limits(LARGEST, MOST_PARTS)
        state = generator_state(value)
        if state is not None:
            if id(value) not in untouched or untouched[id(value)][1] != state:
                found.generators[path] = value
        else:
            try:
                found.values.append((path, as_data(value, limits)))
            except NotDataError:
                if id(value) not in seen:
                    seen.add(id(value))
                    own = _attributes(value, packages)
                    if own and len(found.objects) < MOST_OBJECTS:
                        found.objects.append(path)
                    waiting.extend(((*path, key), part) for key, part in own or _parts(value))
        visits += 1 + limits.parts
    generators = dict(sorted(found.generators.items(), key=_by_path))
    return Found(sorted(found.values, key=_by_path), generators, found.objects)


def _by_path(item: tuple[Path, Any]) -> list[str]:
    return [str(key) for key in item[0]]


def _env_classes(layer: gym.Env) -> list[type]:
    """The class of an env or wrapper and those that it extends, which may be of another package, but for Gymnasium's
    own beginning of all."""
    return [kind for kind in type(layer).__mro__ if issubclass(kind, gym.Env) and kind is not gym.Env]


def _package(kind: type) -> str:
    return str(getattr(kind, "__module__", "")).partition(".")[0]  # types of some extensions have none


def _attributes(value: Any, packages: set[str]) -> list[tuple[str, Any]]:
    """Of an object that is the env's own, by the packages of its classes: those of others may lead out of the env, and
    others may share an Enum or something frozen."""
    kind = type(value)  # not isinstance, which asks a proxy for the class of what it stands for
    if issubclass(kind, gym.Space | type | Registered | Enum) or _package(kind) not in packages:
        return []
    if is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return []
    try:
        return list(object.__getattribute__(value, "__dict__").items())
    except AttributeError:  # it has slots
        return []


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    """What a container holds, and the generators of a space and of its parts."""
    kind = type(value)
    if issubclass(kind, gym.Space):
        return [(name, part) for name, part in vars(value).items() if name in ("_np_random", "spaces")]
    if kind in (list, tuple, deque):
        return list(enumerate(value)) if len(value) <= MOST_PARTS else []
    if kind in _DICTS:
        return [(key, part) for key, part in value.items() if type(key) in (str, int)][:MOST_PARTS]
    return []
