"""A member as one model of a Triton repository: `NAME/config.pbtxt` and `NAME/VERSION/model.onnx`.

Triton and KServe load such a folder with the onnxruntime backend as it is. The file is the `.onnx` that `export`
writes, so its inputs and outputs have the same names here as everywhere; with memory, `state` goes in and `next_state`
comes out, and the caller carries it. Where inputs are rounded to the range of their batch, Triton does not put requests
together: an answer does not depend on who else asks.
"""

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlab import door
from rlab.compression.export.member_file import Exported, export
from rlab.compression.export.metadata import Origin
from rlab.compression.export.runtimes import open_exported
from rlab.compression.quantized_layers import QuantizedLayer
from rlab.disk import fsync_path, if_supported
from rlab.errors import RlabError, UsageError
from rlab.networks.policy import MemberPolicy
from rlab.types import Json

CONFIG, MODEL = "config.pbtxt", "model.onnx"
FORMAT = "triton"
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # which need no escapes in the config, nor in the URL of the model
MOST_ROWS = 1024  # of a batch: what Triton puts together, and the largest that a request may have
TYPES = {"bool": "TYPE_BOOL", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"} | {
    f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def config_text(name: str, inputs: Json, outputs: Json, batching: bool) -> str:
    """The content of `config.pbtxt`, in the text form of `inference.ModelConfig` (model_config.proto of Triton).

    Args:
        inputs: the ports of the file's metadata: name -> shape of one row and dtype. Triton has no row without axes:
            such a port is `[1]` outside, and reshaped.
        batching: whether Triton may answer several requests at once.
    """
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {MOST_ROWS}"]
    for what, ports in (("input", inputs), ("output", outputs)):
        lines += [f"{what} {{\n{_port(each, port)}\n}}" for each, port in ports.items()]
    return "\n".join([*lines, *(["dynamic_batching {}"] if batching else [])]) + "\n"


def export_triton(
    member: MemberPolicy, obs: np.ndarray, folder: Path, *, origin: Origin | None = None, exporter: str = "auto"
) -> Exported:
    """Write a member's greedy policy as a model of a repository, or as the next version of the one that is there.

    Everything is written and checked beside `folder` and then renamed. The `config.pbtxt` of a model that is there
    stays as it is.

    Args:
        folder: `REPOSITORY/NAME`; the repository is made where it is missing.
        obs, origin, exporter: as of `export`, which writes and checks the file.

    Raises:
        UsageError: the folder cannot be that of a model, its model has other inputs or outputs, or what `export` says.
        RlabError: as `export`, or the disk refuses.
    """
    check_folder(folder)
    repository, is_new = folder.parent, not folder.parent.exists()
    staged = repository / f".tmp-{secrets.token_hex(8)}"
    try:
        (staged / "1").mkdir(parents=True)
        done = export(member, obs, "onnx", staged / "1" / MODEL, origin=origin, exporter=exporter)
        ports = _ports(staged / "1" / MODEL, trust=True)  # written a moment ago, by us
        if folder.exists():
            _check_fits(folder, *ports, _mixes_freely(member))
            placed = _add_version(staged / "1", folder)
        else:
            config = staged / CONFIG
            config.write_text(config_text(folder.name, *ports, _mixes_freely(member)))
            if_supported(fsync_path, config, consequence="a power cut may cost the exported file")
            staged.rename(folder)
            placed = folder / "1"
    except OSError as error:
        raise RlabError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds the model
                repository.rmdir()
    return replace(done, path=placed / MODEL, format=FORMAT)


def check_folder(folder: Path) -> None:
    """Whether the folder can be, or is, that of a model in a repository.

    Raises:
        UsageError: it cannot.
    """
    if not NAMES.fullmatch(folder.name):
        raise UsageError(
            f"{folder.name!r} cannot be a model's name: letters, digits, and inside also . _ -; name the folder of the "
            "model, such as models/cartpole."
        )
    repository = folder.parent
    if not (repository if os.path.lexists(repository) else repository.parent).is_dir():
        raise UsageError(f"{folder}: {repository} is not a folder and cannot be made one. Name REPOSITORY/NAME.")
    if os.path.lexists(folder) and not _versions(folder):
        raise UsageError(f"{folder} exists and is not a model with a {CONFIG}; nothing was touched. Name a new folder.")


def _port(name: str, port: Mapping[str, Any]) -> str:
    """The fields of one input or output."""
    shape = list(port["shape"]) or [1]
    fields = [f'name: "{name}"', f"data_type: {TYPES[port['dtype']]}", f"dims: {shape}"]
    return "\n".join(f"  {field}" for field in [*fields, *([] if port["shape"] else ["reshape { shape: [] }"])])


def _ports(file: Path, trust: bool) -> tuple[Json, Json]:
    """The inputs and outputs of an exported file."""
    metadata = open_exported(file, trust=trust).metadata
    return metadata["inputs"], metadata["outputs"]


def _versions(folder: Path) -> list[int]:
    """The versions of a model in ascending order; none where the folder is not that of a model."""
    if not (folder / CONFIG).is_file():
        return []
    named = [path.name for path in folder.iterdir() if (path / MODEL).is_file()]
    return sorted(int(name) for name in named if re.fullmatch(r"[1-9][0-9]*", name))


def _check_fits(folder: Path, inputs: Json, outputs: Json, batching: bool) -> None:
    """Raise UsageError where the model takes or gives something else, or its config has Triton mix rows that must not
    be mixed."""
    newest = folder / str(_versions(folder)[-1]) / MODEL
    if _ports(newest, trust=False) != (inputs, outputs):
        raise UsageError(f"{newest} has other inputs or outputs; versions of a model share them. Name a new folder.")
    config = door.read_file(folder / CONFIG, door.MOST_JSON).decode(errors="replace")
    if not batching and re.search(r"^\s*dynamic_batching\b", config, re.MULTILINE):
        raise UsageError(
            f"{folder / CONFIG} has dynamic_batching, and activations that are rounded to the range of their batch "
            "would depend on who else asks. Name a new folder."
        )


def _add_version(staged: Path, folder: Path) -> Path:
    """Give the staged version the next number."""
    version = _versions(folder)[-1] + 1
    while True:
        try:
            return staged.rename(folder / str(version))
        except OSError:
            if not (folder / str(version)).exists():
                raise
            version += 1  # taken in the meantime


def _mixes_freely(member: MemberPolicy) -> bool:
    """Whether a row's answer does not depend on the others of its batch."""
    layers = (layer for layer in member.network.modules() if isinstance(layer, QuantizedLayer))
    return all(layer.activations != "dynamic" for layer in layers)
