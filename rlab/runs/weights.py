"""Networks and policies on the disk: a folder with one JSON file (spec, seeds, facts) and one file of weights.

The weights file is named after its content, and the JSON file names the valid weights: a process that dies while it
replaces a network leaves the old one or the new one, whole.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from rlab.errors import RlabError
from rlab.networks.allocation import AtMost
from rlab.networks.finite import check_finite
from rlab.runs import files
from rlab.runs.tensors import tensors_from_bytes, tensors_to_bytes

# What building a network may take: so much, and times the size of its weights: floats are made of integers of 2 bits.
SPARE_BYTES, SPARE_RATIO = 64 * 2**20, 32
MOST_SEED = 10**15
# What a spec that was edited raises in the layers, heads and spaces that it names.
BUILDING = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, MemoryError, ArithmeticError),
    *(AssertionError, StopIteration, NotImplementedError),
)
STEM, SUFFIX = "weights", ".safetensors"

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class LoadedModule(Generic[M]):
    """What `load_module` found."""

    module: M
    spec: Any  # its JSON
    seeds: tuple[int, ...]
    extra: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ModuleCopy:
    """A module as it was at one moment: nothing in it changes when training goes on."""

    weights: dict[str, Tensor]  # its `state_dict()`, on the CPU
    spec: Mapping[str, Any]  # JSON
    seeds: tuple[int, ...]  # one training seed per member

    @classmethod
    def of(cls, module: nn.Module, spec: Mapping[str, Any], seeds: Sequence[int]) -> "ModuleCopy":
        """Copy a module.

        Raises:
            RlabError: a weight is NaN or infinite.
        """
        check_finite(module, seeds, "nothing was saved")
        weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
        return cls(weights, spec, tuple(seeds))


def save_module(
    path: Path,
    copied: ModuleCopy,
    extra: Mapping[str, Any],
    replacing: Callable[[dict[str, str]], AbstractContextManager[None]] = lambda checksums: nullcontext(),
) -> None:
    """Write a module's weights beside `path`, and `path` with its spec, training seeds and `extra` facts (JSON).

    Args:
        replacing: gets the checksums of the new files by name; `path` is replaced within the context that it gives.

    Raises:
        DiskError: the disk refuses.
    """
    folder = path.parent
    files.make_folder(folder)
    files.clean(folder)
    entry = files.write_named(folder, STEM, tensors_to_bytes(copied.weights), SUFFIX)
    facts = {"spec": copied.spec, "seeds": list(copied.seeds), "extra": dict(extra)}
    content = files.to_json({**facts, "weights": entry}, path)
    with replacing({path.name: files.sha256(content), entry["name"]: entry["sha256"]}):
        files.write_bytes(path, content)
    files.keep_only(folder, {entry["name"]}, f"{STEM}-*{SUFFIX}")


def load_module(
    path: Path,
    rebuild: Callable[[Any, tuple[int, ...]], M],
    check: Callable[[str, bytes], None] = lambda name, content: None,
) -> LoadedModule[M]:
    """The module that `save_module` wrote, on the CPU.

    Args:
        rebuild: makes it, with any weights, from the spec's JSON and the training seeds.
        check: gets the name and the content of each file before it is used; raises RlabError to refuse it.

    Raises:
        RlabError: one line on what is missing, changed, damaged or does not fit.
    """
    content = files.read_bytes(path)
    check(path.name, content)
    data = files.parse_json(content, path)
    weights = files.read_checked(path.parent, data.get("weights"), STEM, SUFFIX, path)
    where = path.parent / data["weights"]["name"]
    check(where.name, weights)
    seeds, extra = _seeds(data.get("seeds"), path), data.get("extra", {})
    if not isinstance(extra, dict):
        raise RlabError(f"{path}: 'extra' must be an object, not {extra!r:.80}")
    tensors = tensors_from_bytes(weights, where)
    rows = max((tensor.shape[0] for tensor in tensors.values() if tensor.ndim), default=1)
    if len(seeds) > rows:
        raise RlabError(f"{path}: 'seeds' names {len(seeds)} members, and the weights are of {rows} at most")
    try:
        with AtMost(SPARE_BYTES + SPARE_RATIO * len(weights)):
            module = rebuild(data["spec"], seeds)
    except RlabError as error:
        raise RlabError(f"{path}: {error}") from error  # name the file, whose spec was refused
    except BUILDING as error:
        reason = " ".join(str(error).split())
        raise RlabError(f"{path}: nothing can be built from its spec ({type(error).__name__}: {reason})") from error
    _check_fit(module.state_dict(), tensors, where, path.name)
    module.load_state_dict(tensors)
    check_finite(module, seeds, f"{path.parent} cannot be used")
    return LoadedModule(module, data["spec"], seeds, extra)


def _seeds(seeds: Any, path: Path) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RlabError(f"{path}: 'seeds' must be a list of training seeds, not {seeds!r:.200}")
    if not all(0 <= seed <= MOST_SEED for seed in seeds):
        raise RlabError(f"{path}: 'seeds' must be from 0 to {MOST_SEED:,}, not {seeds!r:.200}")
    if len(set(seeds)) < len(seeds):
        raise RlabError(f"{path}: 'seeds' names a training seed twice: {seeds!r:.200}")
    return tuple(seeds)


def _check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, described_in: str) -> None:
    """Raise RlabError naming the first tensor that is missing, unknown, or has a different shape or type."""
    for name in sorted(expected.keys() - found.keys()):
        raise RlabError(f"{path} lacks the tensor {name!r} {list(expected[name].shape)} that the spec needs")
    for name in sorted(found.keys() - expected.keys()):
        raise RlabError(f"{path} has a tensor {name!r} that the spec does not know")
    for name, tensor in found.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise RlabError(
                f"{path}: the tensor {name!r} is {_kind(tensor)} where the spec expects {_kind(want)}. "
                f"Does {described_in} belong to other weights?"
            )


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
