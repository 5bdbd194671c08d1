"""Keywords of envs and wrappers as plain data, so that an env gets the same in training and later.

What an env receives is fixed before the first one is made, and `config.json`, policies and datasets give it back to the
type: numbers, texts, true/false, None, lists, tuples, and dicts with text keys in alphabetical order (as the files
have them). NumPy numbers become Python's, small NumPy arrays become lists, and everything else is refused.
JSON has no tuples: the tuple (3, 9) is written as `{"__tuple__": [3, 9]}`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlab.errors import UsageError

TUPLE = "__tuple__"  # the one key of the JSON object that stands for a tuple
LARGEST_ARRAY = 10_000  # elements of a NumPy array that become a list; larger ones belong into files
DEEPEST = 50  # nested lists; JSON readers have limits too
HINT = (
    "use numbers, texts, true/false, None, lists, tuples and dicts with text keys, or make the env in your own function"
)


def plain(values: Mapping[str, Any], where: str, lists_as_tuples: bool = False) -> dict[str, Any]:
    """Keywords as an env receives them: a copy that shares nothing with `values`.

    Args:
        where: what the values are, for errors: `env_kwargs`.
        lists_as_tuples: for shapes, which Gymnasium's wrappers take as tuples.

    Raises:
        UsageError: a value that JSON cannot hold, by the name of its keyword, with what to use in its place.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} must be a dict of keywords, not {_shown(values)}")
    return _plain_dict(values, where, lists_as_tuples, 0)


def to_json(value: Any) -> Any:
    """A plain value as JSON holds it."""
    if isinstance(value, tuple):
        return {TUPLE: [to_json(item) for item in value]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(value: Any) -> Any:
    """The plain value that `to_json` wrote."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict) and value.keys() == {TUPLE} and isinstance(value[TUPLE], list):
        return tuple(from_json(item) for item in value[TUPLE])
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return value


def _plain(value: Any, where: str, lists_as_tuples: bool, depth: int) -> Any:
    if isinstance(value, np.ndarray):
        if value.size > LARGEST_ARRAY:
            raise UsageError(f"{where}: an array of {value.size} numbers is too large for config.json; name a file")
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    kind = type(value)  # exactly: an enum or a named tuple would be read back as something else
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        if not math.isfinite(value):
            raise UsageError(f"{where}: {value} cannot be written to config.json, which holds finite numbers only")
        return value
    if depth > DEEPEST:
        raise UsageError(f"{where[:80]}...: too many nested lists for config.json (or one that contains itself)")
    if kind is dict:
        return _plain_dict(value, where, lists_as_tuples, depth + 1)
    if kind in (list, tuple):
        items = [_plain(item, f"{where}[{i}]", lists_as_tuples, depth + 1) for i, item in enumerate(value)]
        return tuple(items) if lists_as_tuples or kind is tuple else items
    raise UsageError(f"{where}: {_shown(value)} cannot be written to config.json; {HINT}")


def _plain_dict(values: Mapping[Any, Any], where: str, lists_as_tuples: bool, depth: int) -> dict[str, Any]:
    for key in values:
        if type(key) is not str:
            raise UsageError(f"{where}: the key {_shown(key)} cannot be written to config.json; {HINT}")
        if key == TUPLE:
            raise UsageError(f"{where}: the key {TUPLE!r} is how config.json writes tuples; use another")
    return {key: _plain(values[key], f"{where}[{key!r}]", lists_as_tuples, depth) for key in sorted(values)}


def _shown(value: Any) -> str:
    """`{1, 2} (set)`, in one short line."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
