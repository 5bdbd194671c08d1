"""Datasets on the disk in Minari's format, written by rlab or by anything else. Nothing is ever downloaded. What reads
them reads the recordings of a server too.

A folder `DIR` holds `DIR/data/metadata.json` and `DIR/data/main_data.hdf5`, so that it is found by its Minari id when
it is under Minari's own root. Observations and actions are stored as the env gave and took them (see
`minari_spaces`); floats of actions have been float32 on the way. Images are stored as they are, not as JPEG.
"""

import importlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rlab.disk import UNSUPPORTED, UNSUPPORTED_OF_FOLDERS, fsync_path, if_supported
from rlab.errors import RlabError, UsageError, pip_install
from rlab.experience.dataset import Dataset, Episode, action_field, action_from_env, action_to_env
from rlab.experience.minari_check import check_arrays, read_metadata, read_space
from rlab.experience.minari_spaces import (
    check_part_names,
    column,
    from_minari,
    has_masks,
    space_from_minari,
    space_to_minari,
    to_minari,
    whole_numbers,
)
from rlab.experience.recording_lines import SEGMENTS
from rlab.experience.recordings import read_recording, recording_at
from rlab.networks.spaces import MASK_KEY, Masked, Space, choices
from rlab.types import json_number
from rlab.version import VERSION

DATA, METADATA, MAIN = "data", "metadata.json", "main_data.hdf5"
COLUMNS = (
    *("name", "env_id", "agent", "episodes", "transitions", "return_mean", "return_min", "return_max"),
    *("terminated", "truncated", "obs_space", "action_space", "state", "reason"),
)
MINARI_MODULES = ("data_collector.episode_buffer", "dataset.minari_storage", "serialization")
FLOAT32_MAX = float(np.finfo(np.float32).max)
OURS = "rlab"  # the key in metadata.json of what Minari has no field for
# What a file that was cut off, edited or written by something else may raise inside Minari, h5py and NumPy.
BROKEN = (
    *(OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError, RuntimeError),
    *(MemoryError, OverflowError, RecursionError),
)


def write_dataset(path: Path | str, dataset: Dataset, env_spec: str | None = None) -> str:
    """Write a dataset to the new folder `path`, completely or not at all, and return its Minari id.

    The id follows from the path: the part behind Minari's root where it lies there, else the folder's name.

    Args:
        env_spec: Gymnasium's JSON of the env, from which `MinariDataset.recover_environment` makes it again.

    Raises:
        UsageError: Minari is not installed, or `path` exists.
        RlabError: the disk refuses.
    """
    path, minari = Path(path), _minari()
    check_can_write(path, dataset.obs_space, dataset.action_space)
    dataset_id = _id_of(path)
    # Minari joins a relative folder to itself.
    temporary = path.absolute().with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        (temporary / DATA).mkdir(parents=True)
        _write(minari, temporary / DATA, dataset, dataset_id, env_spec)
        for written in (temporary / DATA / METADATA, temporary / DATA / MAIN, temporary / DATA, temporary):
            _sync(written)
        os.rename(temporary, path)  # an empty folder gives way
        _sync(path.parent)
    except OSError as error:
        raise RlabError(f"cannot write the dataset {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return dataset_id


def check_can_write(path: Path | str, obs_space: Space, action_space: Space) -> None:
    """Raise UsageError where `write_dataset` would: Minari is missing, the folder taken, the space not supported."""
    minari, path = _minari(), Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path} exists and is not empty; nothing in it was touched. Name a new folder with --out")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; a dataset needs a folder. Name a new one with --out")
    action_field(action_space)
    check_part_names(obs_space)
    for space in (obs_space, action_space):
        minari.serialization.deserialize_space(space_to_minari(space))
    above = next(folder for folder in Path(os.path.abspath(path)).parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UsageError(f"{path} cannot be made: {above} is not a folder that can be written. Name another --out")


def read_dataset(path: Path | str) -> Dataset:
    """The dataset in a folder, in its `data` folder, or of a Minari id that is on this machine; or the recording there
    that a server wrote.

    Raises:
        UsageError: Minari is not installed, or the folder or id does not exist.
        RlabError: the dataset is broken or empty, or has spaces that rlab does not support.
    """
    recording = recording_at(Path(path))
    if recording is not None:
        return read_recording(recording)
    minari = _minari()
    folder = _folder_of(path)
    try:
        return _read(minari, folder)
    except RlabError as error:
        raise RlabError(f"{path}: {error}") from error
    except ImportError as error:
        raise UsageError(f"{path} is stored in a format that needs another package: {error}") from error
    except BROKEN as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RlabError(f"the dataset {path} cannot be read ({what}). Was it cut off or edited?") from error


def list_datasets(root: Path | str) -> list[dict[str, Any]]:
    """One dict per dataset or recording under `root`, by path; an empty list where that folder does not exist.

    Keys: `path`, those of `Dataset.summary`, `agent`, `state` (`"whole"` or `"broken"`) and `reason` (why broken, else
    None). Unknown values are None. Every dataset is read completely.

    Raises:
        UsageError: Minari is not installed.
    """
    _minari()
    root = Path(root)
    files = [path for name in (METADATA, MAIN, SEGMENTS) for path in root.rglob(name)]
    folders = {path.parent for path in files if not any(part[0] == "." for part in path.relative_to(root).parts)}
    return [_described(folder) for folder in sorted(folders)]


def _described(folder: Path) -> dict[str, Any]:
    known: dict[str, Any] = {"path": str(folder.parent if folder.name == DATA else folder), **dict.fromkeys(COLUMNS)}
    try:
        dataset = read_dataset(folder)
    except RlabError as error:
        return {**known, "state": "broken", "reason": str(error)}
    return {**known, **dataset.summary(), "agent": dataset.facts.get("agent"), "state": "whole"}


def _minari() -> Any:
    """The package, with those of its modules that are used here imported."""
    try:
        for name in ("h5py", *(f"minari.{module}" for module in MINARI_MODULES)):  # Minari itself imports h5py late
            importlib.import_module(name)
        return importlib.import_module("minari")
    except ImportError as error:
        raise UsageError(f"datasets need Minari: {pip_install('minari')} ({error})") from error


def _write(minari: Any, folder: Path, dataset: Dataset, dataset_id: str, env_spec: str | None) -> None:
    obs_space, action_space = (space_to_minari(space) for space in (dataset.obs_space, dataset.action_space))
    storage = minari.dataset.minari_storage.MinariStorage.new(
        folder,
        observation_space=minari.serialization.deserialize_space(obs_space),
        action_space=minari.serialization.deserialize_space(action_space),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    storage.update_episodes(_buffer(minari, dataset, episode) for episode in dataset.episodes)
    metadata = read_metadata(folder / METADATA)
    metadata |= {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "description": f"recorded by rlab {VERSION}",
        # Gymnasium sorts the parts of a Dict; their order is a part of the array form.
        "observation_space": json.dumps(obs_space),
        OURS: {"version": VERSION, "env": dataset.env, "facts": dataset.facts},
    }
    if env_spec is not None:
        metadata["env_spec"] = env_spec
    if isinstance(dataset.facts.get("agent"), str):
        metadata["algorithm_name"] = dataset.facts["agent"]
    (folder / METADATA).write_text(json.dumps(metadata, indent=2, default=json_number) + "\n")


def _buffer(minari: Any, dataset: Dataset, episode: Episode) -> Any:
    """An episode as Minari takes it, from finished arrays: its own collector would pull in JAX."""
    obs, infos = to_minari(dataset.obs_space, episode.obs)
    terminated, truncated = np.zeros((2, episode.length), bool)
    terminated[-1], truncated[-1] = episode.terminated, episode.truncated
    return minari.data_collector.episode_buffer.EpisodeBuffer(
        seed=episode.seed,
        observations=obs,
        actions=action_to_env(dataset.action_space, episode.action),
        rewards=episode.reward,
        terminations=terminated,
        truncations=truncated,
        infos=infos,
    )


def _read(minari: Any, folder: Path) -> Dataset:
    metadata = read_metadata(folder / METADATA)
    obs_space = space_from_minari(read_space(metadata, "observation_space"), "its observations")
    action_space = space_from_minari(read_space(metadata, "action_space"), "its actions")
    check_arrays(folder / MAIN, metadata["total_episodes"])
    found = minari.MinariDataset(folder.absolute())
    action_field(action_space)
    if isinstance(obs_space, Masked) and obs_space.size != sum(choices(action_space)):
        raise RlabError(f"its observations have a mask of {obs_space.size}, which does not fit actions {action_space}.")
    if not isinstance(obs_space, Masked) and len(found) and has_masks(found[0].infos, action_space, len(found[0])):
        obs_space = Masked(obs_space, sum(choices(action_space)))
    seeds = (facts.get("seed") for facts in found.storage.get_episode_metadata(found.episode_indices))
    episodes = tuple(_episode(data, seed, obs_space, action_space) for data, seed in zip(found, seeds, strict=True))
    return Dataset(found.id, obs_space, action_space, episodes, *_ours(metadata.get(OURS, {})))


def _ours(written: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The env and the facts that rlab wrote beside Minari's own fields."""
    env, facts = written.get("env"), written.get("facts", {})
    named = env is None or (isinstance(env, dict) and isinstance(env.get("env_id"), str))
    if not named or not isinstance(facts, dict):
        raise RlabError(f"the entry {OURS!r} of its {METADATA} is invalid. Was it edited?")
    return env, facts


def _episode(data: Any, seed: int | None, obs_space: Space, action_space: Space) -> Episode:
    rewards, terminations, truncations = (
        column(values, 1) for values in (data.rewards, data.terminations, data.truncations)
    )
    actions = column(data.actions, 1 + len(action_space.shape))
    steps = len(rewards)
    if not all(len(values) == steps for values in (actions, terminations, truncations)):
        raise RlabError(f"episode {data.id} has {len(actions)} actions for {steps} rewards.")
    ends = {"terminates": np.flatnonzero(terminations), "is truncated": np.flatnonzero(truncations)}
    for what, found in ends.items():
        if len(found) and found[0] != steps - 1:
            raise RlabError(
                f"episode {data.id} {what} at step {found[0]} of {steps} and continues. Split it there in two."
            )
    inside = isinstance(data.observations, dict) and MASK_KEY in data.observations
    if isinstance(obs_space, Masked) and not inside and not has_masks(data.infos, action_space, steps):
        raise RlabError(f"episode {data.id} has no {MASK_KEY} in its infos, though the first one has.")
    try:
        obs = from_minari(obs_space, data.observations, data.infos)
        action = action_from_env(action_space, whole_numbers(action_space, actions, "actions"))
    except UsageError as error:
        raise RlabError(f"episode {data.id}: {error}") from error
    if (too_large := np.abs(rewards) > FLOAT32_MAX).any():  # infinity too; NaN is found later
        step = int(too_large.argmax())
        what = f"a reward of {rewards[step]} at step {step}"
        raise RlabError(f"episode {data.id} has {what}, which float32 does not hold.")
    terminated = bool(len(ends["terminates"]))
    truncated = bool(len(ends["is truncated"])) and not terminated  # an ending outranks a time limit
    return Episode(obs, action, rewards.astype(np.float32), terminated, truncated, seed)


def _folder_of(path: Path | str) -> Path:
    """The folder with the files of a dataset that is named by a folder or by a Minari id."""
    for folder in (Path(path), Path(path) / DATA, dataset_root() / path / DATA):
        if (folder / METADATA).is_file():
            return folder
        if (folder / MAIN).is_file():
            raise RlabError(f"{folder} has no {METADATA}: the dataset is incomplete")
    what = "not a Minari dataset" if Path(path).is_dir() else "neither a folder nor a Minari id that is on this machine"
    raise UsageError(f"{path} is {what}. rlab list datasets shows those here; minari download ID fetches one")


def dataset_root() -> Path:
    """Where Minari keeps datasets by id."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def _id_of(path: Path) -> str:
    """A Minari id for the dataset at `path`, without the names of the folders above it."""
    full, root = Path(os.path.abspath(path)), Path(os.path.abspath(dataset_root()))
    parts = full.relative_to(root).parts if full.is_relative_to(root) else (full.name,)
    words = [re.sub(r"[^-\w]+", "-", part).strip("-") or "dataset" for part in parts]
    name = "/".join(word for word in words if len(word) > 1 or word is words[-1])  # a namespace has two letters
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk where the file system supports that."""
    allowed = UNSUPPORTED_OF_FOLDERS if path.is_dir() else UNSUPPORTED
    if_supported(fsync_path, path, consequence="a power cut may cost the dataset", unsupported=allowed)
