"""Observations that somebody gives a policy by hand are looked at before the network makes an action of them."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.networks.limits import (
    FLOAT32_MAX,
    all_integer_bounds,
    first_outside,
    float32_holds,
    held_by_float32,
    integer_bounds,
    space_words,
)
from rlab.networks.spaces import Dict, Leaf, Masked, Space, Tuple

Keys = tuple[str | int, ...]  # what leads to a part of dicts and tuples


class ObsLook:
    """Refuses NaN and infinity, floats in the place of integers, and integers that a space does not have.

    Numbers beyond the bounds of a Box of floats pass, as in training. Shapes are not looked at: an observation of
    another shape passes, and the policy itself says what fits.
    """

    def __init__(self, space: Space) -> None:
        inner = space.obs if isinstance(space, Masked) else space
        self._leaves = [(keys, _LeafLook(leaf, place)) for keys, place, leaf in _named(inner, (), "an observation")]
        packed = space is not inner or isinstance(inner, Dict | Tuple)
        self._vector = _VectorLook(space) if packed else None

    def __call__(self, obs: Any) -> None:
        """Look at an observation as the env gives it or in array form, `[*obs]` or `[B, *obs]`.

        Raises:
            UsageError: it holds what the space does not, naming both.
        """
        obs = _as_numpy(obs)
        if self._vector is not None and isinstance(obs, np.ndarray) and self._vector.fits(obs):
            self._vector(obs)
            return
        for keys, look in self._leaves:
            value = obs
            try:
                for key in keys:
                    value = value[key]
            except (TypeError, KeyError, IndexError):
                return  # a part is missing, which the policy says
            look(_as_numpy(value))


class _LeafLook:
    """Looks at the values of one leaf, `[*leaf]` or `[B, *leaf]`."""

    def __init__(self, leaf: Leaf, place: str) -> None:
        self._leaf, self._place, self._dtype = leaf, place, np.dtype(leaf.dtype)
        self._is_float = self._dtype.kind == "f"
        self._bounds = None if self._is_float else all_integer_bounds(leaf)
        self._any_of_dtype = integer_bounds(leaf) is None  # whatever has the dtype of the leaf is inside

    def __call__(self, value: Any) -> None:
        array = value if type(value) is np.ndarray else np.asarray(value)
        kind = array.dtype.kind
        if self._is_float and kind == "f":
            if not float32_holds(array):
                raise self._misfit(str(array[~held_by_float32(array)][0]))
        elif kind not in "biuf":
            raise self._misfit(f"{array.dtype} values")
        elif self._bounds is not None:
            if kind == "f":
                raise self._misfit(f"{array.dtype} numbers")
            if self._any_of_dtype and array.dtype == self._dtype:
                return
            if array.shape[array.ndim - len(self._leaf.shape) :] != self._leaf.shape:
                return
            outside = first_outside(array, self._bounds)
            if outside is not None:
                raise self._misfit(str(array[outside]))

    def _misfit(self, found: str) -> UsageError:
        return _misfit(self._place, found, self._leaf)


class _VectorLook:
    """Looks at the array form of a space that is packed into a vector, `[size]` or `[B, size]`."""

    def __init__(self, space: Space) -> None:
        self._size = space.shape[0]
        obs, bits = (space.parts[0], space.parts[1:]) if isinstance(space, Masked) else (space, ())
        named = [(place, leaf) for _, place, leaf in _named(obs, (), "an observation")]
        named += [("the mask of an observation", leaf) for part in bits for _, _, leaf in _named(part, (), "")]
        self._parts: list[tuple[str, Leaf]] = []  # of each column
        low, high = [], []
        for place, leaf in named:
            bounds = (-FLOAT32_MAX, FLOAT32_MAX) if np.dtype(leaf.dtype).kind == "f" else all_integer_bounds(leaf)
            low.append(np.broadcast_to(np.asarray(bounds[0], space.dtype), leaf.shape).ravel())
            high.append(np.broadcast_to(np.asarray(bounds[1], space.dtype), leaf.shape).ravel())
            self._parts += [(place, leaf)] * low[-1].size
        self._bounds = np.concatenate(low), np.concatenate(high)

    def fits(self, vector: np.ndarray) -> bool:
        return vector.shape[-1:] == (self._size,) and vector.dtype.kind in "biuf"

    def __call__(self, vector: np.ndarray) -> None:
        outside = first_outside(vector, self._bounds)
        if outside is not None:
            raise _misfit(self._parts[outside[-1]][0], str(vector[outside]), self._parts[outside[-1]][1])


def _named(space: Space, keys: Keys, place: str) -> Iterator[tuple[Keys, str, Leaf]]:
    """Every leaf with what leads to it, and with what people call it."""
    if isinstance(space, Dict):
        for name, part in space.items:
            yield from _named(part, (*keys, name), f"the part {name!r} of {place}")
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.items):
            yield from _named(part, (*keys, index), f"part {index} of {place}")
    else:
        assert not isinstance(space, Masked)  # it is never a part
        yield keys, place, space


def _as_numpy(value: Any) -> Any:
    """A tensor as NumPy sees it: on the CPU nothing is copied, but for dtypes that NumPy lacks; anything else as it is.

    torch, which takes a second, is not imported for it: a server does without.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _misfit(place: str, found: str, leaf: Leaf) -> UsageError:
    finite = " Only finite numbers fit." if found in ("nan", "inf", "-inf") else ""
    return UsageError(f"{place} holds {found}, but its space is {space_words(leaf)}.{finite}")
