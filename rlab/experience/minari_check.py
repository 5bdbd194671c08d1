"""What a dataset of somebody else must not hold, found before any of its arrays is read: links, data outside of its
files, and arrays that would become much larger than the file."""

import importlib
import math
from pathlib import Path
from typing import Any

from rlab import door
from rlab.errors import RlabError

FORMAT = "hdf5"
DEPTH = 12  # of groups in groups: an episode, its observations and their parts
# How large an array may be: so many bytes, and times what it takes in the file; images have been seen at a fiftieth.
MOST_UNPACKED, MOST_RATIO = 16 * door.MIB, 100
MOST_EPISODES = 10_000_000
NUMBERS, TEXTS = "biufc", "SOU"


def read_metadata(path: Path) -> dict[str, Any]:
    """What `metadata.json` says.

    Raises:
        RlabError: it is not a file of JSON, or is of another format than HDF5, or counts what cannot be.
    """
    found = door.parse_json(door.read_file(path, door.MOST_JSON), path)
    if not isinstance(found, dict):
        raise RlabError(f"{path} must hold an object, not {door.clean(repr(found)):.60}")
    if found.get("data_format", FORMAT) != FORMAT:
        raise RlabError(f"it is stored as {door.clean(repr(found['data_format'])):.40}; rlab reads {FORMAT} alone")
    door.check_counts(path, MOST_EPISODES, total_episodes=found.get("total_episodes"))
    for name in ("observation_space", "action_space"):
        if not isinstance(found.get(name), str):
            raise RlabError(f"{path} lacks the text {name!r}. Was it edited?")
    return found


def read_space(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """A space in Minari's JSON, in which bounds may be infinite, with the size of what it states checked.

    Raises:
        RlabError: it is not such JSON.
    """
    found = door.parse_json(metadata[name], name, infinite=True)
    _check_sizes(found, name)
    space: dict[str, Any] = found
    return space


def _check_sizes(space: Any, name: str) -> None:
    if not isinstance(space, dict) or not isinstance(space.get("type"), str):
        raise RlabError(f"its {name} holds {door.clean(repr(space)):.60} where a space is expected")
    parts = space.get("subspaces") or ()
    if not isinstance(parts, dict | list | tuple):
        raise RlabError(f"its {name} holds parts {door.clean(repr(parts)):.60}")
    for part in parts.values() if isinstance(parts, dict) else parts:
        _check_sizes(part, name)
    shape = space.get("shape", [])
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > 2**26:
        raise RlabError(f"its {name} has an impossible shape {door.clean(repr(shape)):.60}")


def check_arrays(path: Path, episodes: int) -> None:
    """Look at all that an HDF5 file holds, without reading an array.

    Raises:
        RlabError: it is not a file, holds a link or an array that lies elsewhere or is too large, or lacks episodes.
        OSError: it is not HDF5.
    """
    with door.opened(path):
        pass  # a regular file
    h5py: Any = importlib.import_module("h5py")
    with h5py.File(path, "r") as file:
        if len(file) < episodes:
            raise RlabError(f"it has {len(file)} episodes, and {episodes} are declared")
        _check_group(file, "", 0, h5py)


def _check_group(group: Any, place: str, depth: int, h5py: Any) -> None:
    if depth > DEPTH:
        raise RlabError(f"{place} is nested more than {DEPTH} deep")
    for name in group:
        inside = f"{place}/{name}" if place else str(name)
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise RlabError(f"{door.clean(inside)} is a link, which is not followed")
        found = group[name]
        if isinstance(found, h5py.Group):
            _check_group(found, inside, depth + 1, h5py)
        elif isinstance(found, h5py.Dataset):
            _check_array(found, door.clean(inside))
        else:
            raise RlabError(f"{door.clean(inside)} is neither a group nor an array")


def _check_array(found: Any, place: str) -> None:
    if found.external or found.is_virtual:
        raise RlabError(f"{place} lies in another file, which is not read")
    if found.dtype.kind not in NUMBERS + TEXTS:
        raise RlabError(f"{place} is an array of {found.dtype!s:.40}")
    size, stored = math.prod(found.shape or ()) * found.dtype.itemsize, found.id.get_storage_size()
    if found.shape is None or size > MOST_UNPACKED + MOST_RATIO * stored:
        raise RlabError(f"{place} takes {stored:,} bytes, which would become {size:,}: too many to unpack")
