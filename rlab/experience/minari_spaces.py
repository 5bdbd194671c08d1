"""Spaces and values between rlab's array form and what Minari keeps: its JSON of a space, and dicts, tuples and arrays
with time in front.

Minari's JSON is what its own `metadata.json` holds. It names the parts of a Dict in the env's order, which a Gymnasium
space that is made from it does not keep.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.networks.spaces import (
    MASK_KEY,
    Bounds,
    Box,
    Dict,
    Discrete,
    Leaf,
    Masked,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    bounds_of,
    choices,
    leaves,
    pack,
)


def space_to_minari(space: Space) -> dict[str, Any]:
    """A space in Minari's JSON.

    A masked Dict becomes a Dict with the mask as its part `action_mask`; any other masked space loses its mask, which
    goes into the infos (see `to_minari`).
    """
    if isinstance(space, Box):
        bounds = {name: _full(bound, space).tolist() for name, bound in (("low", space.low), ("high", space.high))}
        return {"type": "Box", "dtype": space.dtype, "shape": list(space.shape), **bounds}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": space.start, "n": space.n}
    if isinstance(space, MultiDiscrete):
        counts, start = (np.array(numbers).reshape(space.shape).tolist() for numbers in (space.nvec, space.start))
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": counts, "start": start}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape)}
    if isinstance(space, Dict):
        return {"type": "Dict", "subspaces": {name: space_to_minari(part) for name, part in space.items}}
    if isinstance(space, Tuple):
        return {"type": "Tuple", "subspaces": [space_to_minari(part) for part in space.items]}
    inner = space_to_minari(space.obs)
    if isinstance(space.obs, Dict):
        inner["subspaces"][MASK_KEY] = space_to_minari(MultiBinary((space.size,)))
    return inner


def space_from_minari(data: Mapping[str, Any], of: str, *, outermost: bool = True) -> Space:
    """The space that Minari's JSON describes; an outermost Dict with a part `action_mask` is a masked space.

    Args:
        of: the owner of the space, for the error.
        outermost: false for a part of another space.

    Raises:
        UsageError: rlab does not support this kind of space.
    """
    parts: Any = data.get("subspaces") or ()
    if data.get("type") == "Dict" and MASK_KEY in parts and outermost:
        rest = {name: part for name, part in parts.items() if name != MASK_KEY}
        mask = space_from_minari(parts[MASK_KEY], of)
        size = sum(prod(leaf.shape) for leaf in leaves(mask))
        return Masked(space_from_minari({"type": "Dict", "subspaces": rest}, of), size)
    if data.get("type") == "Dict" and parts:
        return Dict(tuple((name, space_from_minari(part, of, outermost=False)) for name, part in parts.items()))
    if data.get("type") == "Tuple" and parts:
        return Tuple(tuple(space_from_minari(part, of, outermost=False) for part in parts))
    return _leaf_from_minari(data, of)


def _leaf_from_minari(data: Mapping[str, Any], of: str) -> Leaf:
    kind = data.get("type")
    if kind == "Box":
        low, high = (bounds_of(np.array(data[name], data["dtype"])) for name in ("low", "high"))
        return Box(tuple(data["shape"]), data["dtype"], low, high)
    if kind == "Discrete":
        return Discrete(int(data["n"]), int(data["start"]))
    if kind == "MultiDiscrete":
        counts = np.array(data["nvec"])
        start = np.array(data.get("start", np.zeros_like(counts)))
        return MultiDiscrete(tuple(counts.ravel().tolist()), tuple(start.ravel().tolist()), counts.shape)
    if kind == "MultiBinary":
        n = data["n"]
        return MultiBinary(tuple(n) if isinstance(n, list) else (n,))
    raise UsageError(
        f"{of} are or contain a {kind} space; rlab supports Box, Discrete, MultiDiscrete and MultiBinary, "
        "and with Dict and Tuple of them."
    )


def to_minari(space: Space, obs: np.ndarray) -> tuple[Any, dict[str, np.ndarray] | None]:
    """Observations `[T, *obs]` in array form as the env gave them, and the infos that go with them.

    Dicts and tuples have an array per part. A mask is a part `action_mask` of a Dict; where the observation is not a
    Dict it is in the infos, as Gymnasium's own envs give it.
    """
    if not isinstance(space, Masked):
        return _unpacked(space, obs), None
    mask = obs[..., -space.size :].astype(np.int8)
    inner = _unpacked(space.obs, obs[..., : -space.size])
    if isinstance(space.obs, Dict):
        return {**inner, MASK_KEY: mask}, None
    return inner, {MASK_KEY: mask}


def from_minari(space: Space, obs: Any, infos: Mapping[str, Any] | None) -> np.ndarray:
    """Observations as Minari gives them, in array form `[T, *obs]`.

    Raises:
        UsageError: a part is missing, or its shape is not that of its space.
    """
    inside = isinstance(space, Masked) and isinstance(obs, Mapping) and MASK_KEY in obs
    mask = None if inside or not isinstance(space, Masked) or infos is None else infos.get(MASK_KEY)
    return pack(space, _without_columns(space.obs if isinstance(space, Masked) else space, obs), mask)


def column(values: Any, axes: int) -> np.ndarray:
    """An array of this many axes; one with a last axis of length 1 too many, a column, loses that."""
    array = np.asarray(values)
    return array[..., 0] if array.ndim == axes + 1 and array.shape[-1] == 1 else array


def _without_columns(space: Space, obs: Any) -> Any:
    """Observations of an episode in which integers that were stored as columns `[T, 1]` are `[T]`."""
    if isinstance(space, Dict) and isinstance(obs, Mapping):
        return {**obs, **{name: _without_columns(part, obs[name]) for name, part in space.items if name in obs}}
    if isinstance(space, Tuple) and isinstance(obs, tuple) and len(obs) == len(space.items):
        return tuple(_without_columns(part, value) for part, value in zip(space.items, obs, strict=True))
    return whole_numbers(space, column(obs, 1) if isinstance(space, Discrete) else obs, "observations")


def check_part_names(space: Space) -> None:
    """Refuse a Dict with a part whose name cannot be stored.

    Raises:
        UsageError: naming the part.
    """
    if isinstance(space, Masked):
        return check_part_names(space.obs)
    for name, part in space.items if isinstance(space, Dict) else ():
        if "/" in name or name in ("", "."):
            raise UsageError(
                f"a dataset cannot store an observation part with the name {name!r}: in its file / separates "
                "names. Rename the part in the env."
            )
        check_part_names(part)
    for part in space.items if isinstance(space, Tuple) else ():
        check_part_names(part)
    return None


def whole_numbers(space: Space, values: Any, what: str) -> Any:
    """The values of a leaf; integers that were stored as floats must not have a fraction.

    Raises:
        UsageError: naming the first value with a fraction.
    """
    array = np.asarray(values)
    if isinstance(space, Leaf) and np.dtype(space.dtype).kind in "biu" and array.dtype.kind == "f":
        wrong = array != np.floor(array)  # NaN too
        if wrong.any():
            raise UsageError(f"its {what} are {space}, which {array[wrong][0]} is not one of")
    return values


def has_masks(infos: Mapping[str, Any] | None, action_space: Space, steps: int) -> bool:
    """Whether the infos of an episode of T steps have a mask for each of its T + 1 observations."""
    mask = (infos or {}).get(MASK_KEY)
    size = sum(choices(action_space))
    return size > 0 and isinstance(mask, np.ndarray) and mask.shape == (steps + 1, size)


def _unpacked(space: Space, packed: np.ndarray) -> Any:
    """The parts of observations `[T, *obs]` in array form, each with its own shape and dtype."""
    if isinstance(space, Leaf):
        return packed.reshape(len(packed), *space.shape).astype(space.dtype)
    ends = np.cumsum([prod(part.shape) for part in space.parts])[:-1]
    pieces = zip(space.parts, np.split(packed, ends, axis=-1), strict=True)
    values = tuple(_unpacked(part, piece) for part, piece in pieces)
    if isinstance(space, Dict):
        return {name: value for (name, _), value in zip(space.items, values, strict=True)}
    return values


def _full(bound: Bounds, space: Box) -> np.ndarray:
    """A bound for each element, in the space's own dtype."""
    dtype = np.dtype(space.dtype)
    shape = space.shape if isinstance(bound, tuple) else ()
    exact = np.broadcast_to(np.asarray(bound, np.float64).reshape(shape), space.shape)
    if dtype.kind in "iu":  # a float does not hold a bound at the edge of 64 bits
        info = np.iinfo(dtype)
        whole = [min(max(int(value), info.min), info.max) for value in exact.ravel()]
        return np.array(whole, dtype).reshape(space.shape)
    return exact.astype(dtype)
