"""Observations that nobody made: what a model is tried on when it is opened."""

import numpy as np

from rlab.networks.limits import all_integer_bounds
from rlab.networks.spaces import Box, Leaf, Space, leaves


def probes(space: Space, rows: int, seed: int = 0) -> np.ndarray:
    """`[rows, *obs]` in array form that the space holds: floats around 0 within their bounds, integers uniformly."""
    rng = np.random.default_rng(seed)
    parts = [_leaf(leaf, rows, rng) for leaf in leaves(space)]
    if len(parts) == 1 and parts[0].shape[1:] == space.shape:
        return np.ascontiguousarray(parts[0], space.dtype)
    return np.concatenate([part.reshape(rows, -1).astype(space.dtype) for part in parts], axis=1)


def _leaf(leaf: Leaf, rows: int, rng: np.random.Generator) -> np.ndarray:
    dtype, shape = np.dtype(leaf.dtype), (rows, *leaf.shape)
    if dtype.kind == "f":
        assert isinstance(leaf, Box)
        bounds = [np.reshape(bound, leaf.shape if isinstance(bound, tuple) else ()) for bound in (leaf.low, leaf.high)]
        return np.clip(rng.standard_normal(shape), *bounds).astype(dtype)
    low, high = all_integer_bounds(leaf)
    drawn = np.asarray(low) + rng.random(shape) * (np.asarray(high, np.float64) - np.asarray(low, np.float64))
    return np.clip(np.rint(drawn), low, high).astype(dtype)
