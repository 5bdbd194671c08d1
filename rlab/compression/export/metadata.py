"""The metadata of an exported file: plain data about the policy, nothing about the machine that wrote it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from rlab import door
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.errors import RlabError, UsageError
from rlab.types import Json, json_number
from rlab.version import VERSION

if TYPE_CHECKING:  # what opens a file reads metadata, and does without torch, which takes a second
    from rlab.networks.policy import MemberPolicy

FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """Where a member comes from, as far as its policy folder records it.

    `env` is the spec of its env as JSON; `parent_sha256` the checksum of its policy's weights file. Without it, the
    file has the checksum of the member's own tensors, `weights_sha256`.
    """

    agent: str | None = None
    env: Json | None = None
    parent_sha256: str | None = None


def metadata_of(member: "MemberPolicy", origin: Origin, quantized: str, **more: Any) -> dict[str, Any]:
    """The metadata of a file.

    Args:
        quantized: `none`, `weights` or `activations`.
        more: what one format needs to know.

    Raises:
        UsageError: the env's arguments hold an absolute path.
    """
    import torch

    from rlab.compression.export.member_step import decision, parts_of, state_size

    _refuse_paths(origin.env)
    obs_space = member.spec.obs_space
    # what one row of zeros gives shows the types and shapes
    zeros = torch.zeros((1, *obs_space.shape), dtype=getattr(torch, obs_space.dtype))  # which the space may not hold
    action = decision(member, zeros, member.step(zeros, member.initial_state(1))[0])
    inputs = {OBS: _port(obs_space.shape, obs_space.dtype)}
    outputs = {
        ACTION: _port(action.shape[1:], str(action.dtype).removeprefix("torch.")),
        OUTPUTS: _port((member.head.width,), "float32"),
    }
    if size := state_size(member):  # an episode begins with zeros
        inputs[STATE] = outputs[NEXT_STATE] = _port((size,), "float32")
        more["state"] = {name: list(part.shape) for name, part in parts_of(member).items()}  # in this order, flattened
    return {
        "format": FORMAT,
        "rlab": VERSION,
        "agent": origin.agent,
        "env": origin.env,
        "training_seed": member.seed,
        "parent_sha256": origin.parent_sha256 or weights_sha256(member),
        "obs_space": obs_space.to_json(),
        "action_space": member.spec.action_space.to_json(),
        "head": dict(member.spec.head),
        "inputs": inputs,
        "outputs": outputs,
        "quantized": quantized,
        **more,
    }


def to_text(metadata: Json) -> str:
    """One line of JSON; equal data are equal text."""
    return json.dumps(metadata, sort_keys=True, allow_nan=False, separators=(",", ":"), default=json_number)


def from_text(text: str | bytes, path: object) -> dict[str, Any]:
    """What `to_text` wrote, read from the file `path`.

    Raises:
        RlabError: it is not a JSON object, or has another format.
    """
    return checked(door.parse_json(text, f"{path}: the file's metadata"), path)


def checked(found: Any, path: object) -> dict[str, Any]:
    """The metadata that a file holds as a value.

    Raises:
        RlabError: it is not an object, or has another format.
    """
    if not isinstance(found, dict) or type(found.get("format")) is not int or found["format"] != FORMAT:
        version = found.get("format") if isinstance(found, dict) else None
        raise RlabError(f"{path} has format {version!r:.80}; this rlab reads format {FORMAT}. Is a newer rlab needed?")
    return found


def weights_sha256(member: "MemberPolicy") -> str:
    """A checksum of all tensors of one member, their names, types and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(member.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _port(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """The shape of one row, without the batch axis, of an input or output."""
    return {"shape": list(shape), "dtype": np.dtype(dtype).name}


def _refuse_paths(env: Json | None) -> None:
    for text in _strings(env):
        if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~"):
            raise UsageError(
                f"the env has the argument {text!r}, a path of this machine, which an exported file must not hold. "
                "Give the env a path relative to the folder that you run in."
            )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
