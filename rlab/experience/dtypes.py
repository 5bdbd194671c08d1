"""NumPy's dtypes as torch has them, by name."""

from collections.abc import Sequence

import numpy as np
import torch

# torch has few operations on unsigned integers: their bits lie in memory as those of signed ones.
_SIGNED = {"uint16": torch.int16, "uint32": torch.int32, "uint64": torch.int64}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of torch that NumPy calls so."""
    found: torch.dtype = getattr(torch, name)
    return found


def memory_dtype(name: str) -> torch.dtype:
    """As what values of this dtype lie in memory: `value.view(memory_dtype(name))` and back."""
    return _SIGNED.get(name, torch_dtype(name))


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros whose memory, on the CPU, is taken page by page when it is first written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, str(dtype).removeprefix("torch.")))
