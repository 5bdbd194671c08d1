"""Training state as data: nested dicts with tensors at the leaves become one JSON value and named tensors, and back.

JSON has no tensors, no infinity, no tuples and no keys that are integers, and training state has all of them (an
optimizer numbers its parameters). They become objects with one key that begins with "$":

    {"$torch": name}  {"$numpy": name}  {"$scalar": name}     a tensor, an array, a NumPy number, by name
    {"$float": "inf" | "-inf" | "nan"}
    {"$tuple": [...]}
    {"$items": [[key, value], ...]}                           a dict whose keys are not all plain strings
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def encode(state: Mapping[Any, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """`state` as a JSON value and the tensors that it names.

    Leaves are torch tensors, NumPy arrays and scalars of any numeric dtype, and JSON values.

    Raises:
        TypeError: a leaf or a key has another type; the message names the place.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _encode(state, "state", tensors), tensors


def decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `encode` was given: equal values of the same kinds, tensors on the CPU.

    Raises:
        KeyError, TypeError, ValueError: this is not what `encode` makes.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: decode(item, tensors) for key, item in value.items()}
    ((kind, content),) = value.items()
    return _decode_tagged(kind, content, tensors)


def _encode(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return _encode_tensor(value, where, tensors)
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, tensors)
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{where}/{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if type(value) is float and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where}: a checkpoint cannot hold a {type(value).__name__}; tensors, arrays and JSON values only")


def _encode_mapping(value: Mapping[Any, Any], where: str, tensors: dict[str, torch.Tensor]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"{where}: a key of a checkpoint is a string or an integer, not {key!r}")
    items = [(key, _encode(item, f"{where}/{key}", tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(items)
    return {"$items": [list(item) for item in items]}


def _encode_tensor(
    value: torch.Tensor | np.ndarray | np.generic, where: str, tensors: dict[str, torch.Tensor]
) -> dict[str, str]:
    name = f"{len(tensors)}/{where}"  # the number makes it unique, the path readable
    if value.dtype in (torch.complex128, np.dtype(np.complex128)):
        raise TypeError(f"{where}: a checkpoint cannot hold complex128, which safetensors does not know")
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"$torch": name}
    try:
        # A copy: torch takes neither read-only memory nor foreign byte orders.
        tensors[name] = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise TypeError(f"{where}: a checkpoint cannot hold NumPy's {value.dtype}") from error
    return {"$numpy" if isinstance(value, np.ndarray) else "$scalar": name}


def _decode_tagged(kind: str, content: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if kind == "$torch":
        return tensors[content]
    if kind == "$numpy":
        return tensors[content].numpy()
    if kind == "$scalar":
        return tensors[content].numpy()[()]
    if kind == "$float":
        return float(content)
    if kind == "$tuple":
        return tuple(decode(item, tensors) for item in content)
    if kind == "$items":
        return {key: decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown kind of value {kind!r}")
