"""safetensors to and from bytes, with one-line errors. Nothing that is read here can run code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.ctypeslib  # which safetensors would import in the thread that saves, where an import may wait for ever
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from rlab.errors import RlabError

T = TypeVar("T")


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Named torch tensors as the content of a safetensors file; equal tensors give equal bytes."""
    # A clone each: safetensors refuses tensors that share memory or are not contiguous.
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return safetensors.torch.save(whole)


def tensors_from_bytes(data: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The tensors in `data`, on the CPU; `path` is where it came from.

    Raises:
        RlabError: `data` is cut off or not safetensors.
    """
    return _parsed(safetensors.torch.load, data, path)


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named NumPy arrays (bool, integers, floats) as the content of a safetensors file."""
    # safetensors takes the memory as it lies: a view with strides would be stored scrambled.
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def arrays_from_bytes(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays in `data`, writable; `path` is where it came from.

    Raises:
        RlabError: `data` is cut off or not safetensors.
    """
    return _parsed(safetensors.numpy.load, data, path)


def _parsed(load: Callable[[bytes], dict[str, T]], data: bytes, path: Path) -> dict[str, T]:
    try:
        return load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RlabError(f"{path} is not a complete safetensors file ({error}). Was it cut off or damaged?") from error
