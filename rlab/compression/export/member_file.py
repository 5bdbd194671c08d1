"""One member as one file, checked against the member before it gets its name."""

import os
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlab.compression.export.c_writer import Examples, write_c
from rlab.compression.export.graph import Graph, InexpressibleError
from rlab.compression.export.member_step import answers, states_before
from rlab.compression.export.metadata import Origin, metadata_of, to_text
from rlab.compression.export.numpy_writer import write_numpy
from rlab.compression.export.onnx_writer import folds_weights, require_onnx, write_onnx
from rlab.compression.export.parity import FLOAT_ERROR, MIN_ROWS, Parity, check, rounding_effect
from rlab.compression.export.runtimes import SUFFIXES, OnnxRunner, check_runtime, open_exported
from rlab.compression.export.torch_export import write_torch_export, write_torch_onnx
from rlab.compression.export.tracing import quantized_kind, trace
from rlab.disk import if_supported
from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.finite import check_finite
from rlab.networks.policy import MemberPolicy

EXPORTERS = ("auto", "own", "torch")
TEST_NUMBERS = 1_000  # about how many numbers of observations a C header's own test holds, at least one row


@dataclass(frozen=True)
class Request:
    """What a writer gets."""

    member: MemberPolicy
    obs: np.ndarray  # [R, *obs]
    origin: Origin
    prefix: str  # of the names in a C header


@dataclass(frozen=True)
class Exported:
    """A file that has passed its check."""

    path: Path
    format: str
    writer: str  # `rlab`, `torch.onnx` or `torch.export`
    bytes: int
    seconds: float  # that the writing took, without the check
    parity: Parity


def export(
    member: MemberPolicy,
    obs: np.ndarray,
    format: str,
    path: Path | str,
    *,
    origin: Origin | None = None,
    exporter: str = "auto",
    prefix: str = "rlab",
) -> Exported:
    """Write a member's greedy policy as one file, checked on visited states before it gets its name.

    The file is written beside `path` and run in its own runtime. If it does not give what the member gives, it is
    deleted and what was at `path` stays.

    Args:
        obs: `[R, *obs]` in array form, `MIN_ROWS` states or more that the policy visits.
        format: `onnx`, `torch-export`, `numpy` or `c`.
        origin: the member's agent, env and parent, for the file's metadata.
        exporter: of ONNX: `own` writes our layers, `torch` any that torch.onnx knows, `auto` the first that can.
        prefix: what all names in a C header begin with.

    Raises:
        UsageError: the format, the name or the observations do not fit, a layer cannot be expressed in this format, or
            a package or compiler that the check needs is missing.
        RlabError: a weight is NaN or infinite, the file does not give what the member gives, or cannot be written.
    """
    path = Path(path)
    _check_request(member, obs, format, path, exporter)
    obs = np.ascontiguousarray(obs, member.spec.obs_space.dtype)
    request = Request(member, obs, origin or Origin(), prefix)
    started = time.perf_counter()
    content, writer = _content(request, format, exporter)
    seconds = time.perf_counter() - started
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}{path.suffix}")
    try:
        _write(temporary, content)
        parity = _checked(request, temporary, format)
        os.replace(temporary, path)
    except OSError as error:
        raise RlabError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return Exported(path, format, writer, len(content), seconds, parity)


def check_format(format: str, exporter: str = "auto") -> None:
    """Whether such a file can be written and checked here, as far as that is known without a policy.

    Raises:
        UsageError: the format or the exporter is unknown, or a package or compiler is missing.
    """
    if format not in SUFFIXES:
        raise unknown("format", format, SUFFIXES)
    if exporter not in EXPORTERS:
        raise unknown("exporter", exporter, EXPORTERS)
    if format == "onnx":
        require_onnx()
    check_runtime(format)


def open_in_onnxruntime(member: MemberPolicy) -> OnnxRunner:
    """A member as the ONNX file that `export` would write, in onnxruntime; the file is deleted.

    Raises:
        UsageError: onnx or onnxruntime is not installed.
        InexpressibleError: rlab's own writer does not know a layer.
    """
    content = _own_onnx(member, Origin())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        path.write_bytes(content)
        return OnnxRunner(path)


def _check_request(member: MemberPolicy, obs: np.ndarray, format: str, path: Path, exporter: str) -> None:
    check_format(format, exporter)
    if path.suffix != SUFFIXES[format]:
        raise UsageError(f"format {format} is for names that end in {SUFFIXES[format]}, not for {path.name}.")
    shape = member.spec.obs_space.shape
    if obs.shape[1:] != shape or len(obs) < MIN_ROWS:
        raise UsageError(
            f"an export is checked on visited states [R, *obs], R {MIN_ROWS} or more, *obs = {shape}; not on "
            f"{obs.shape}."
        )
    if member.training:
        raise UsageError("a member in training has no greedy policy to export; call eval() on it.")
    check_finite(member, (member.seed,), "the policy cannot be exported")


def _content(request: Request, format: str, exporter: str) -> tuple[bytes, str]:
    """The file's bytes, and the name of the writer."""
    if format == "torch-export":
        return WRITERS[format](request), "torch.export"
    if format == "onnx" and exporter == "torch":
        return WRITERS["torch-onnx"](request), "torch.onnx"
    try:
        return WRITERS[format](request), "rlab"
    except InexpressibleError as error:
        if format == "onnx" and exporter == "auto":
            return WRITERS["torch-onnx"](request), "torch.onnx"
        others = "exporter torch (torch.onnx) can" if format == "onnx" else "onnx (through torch.onnx) can"
        raise UsageError(
            f"format {format} cannot express the {error.part}; {others}, and so can torch-export."
        ) from error


def _own_onnx(member: MemberPolicy, origin: Origin) -> bytes:
    graph = trace(member)
    text = to_text(metadata_of(member, origin, graph.quantized, fold_weights=folds_weights(graph)))
    return write_onnx(graph, text)


def _numpy(request: Request) -> bytes:
    graph = trace(request.member)
    return write_numpy(graph, _metadata(request, graph))


def _c(request: Request) -> bytes:
    graph = trace(request.member)
    rows = max(1, min(8, TEST_NUMBERS // max(1, int(np.prod(request.obs.shape[1:])))))
    obs = request.obs[:: len(request.obs) // rows][:rows]  # from all over the visited states
    state = states_before(request.member, obs)
    action, *numbers = answers(request.member, obs, 1, state)
    outputs, every = numbers[0], np.concatenate(numbers, axis=1)
    scale = max(float(np.abs(outputs).max()), 1e-12)
    tolerance = max(10 * FLOAT_ERROR * scale, rounding_effect(request.member, obs, 1, every, state))
    floats = np.issubdtype(action.dtype, np.floating)
    near = tolerance / scale * max(float(np.abs(action).max()), 1e-12) if floats else 0.0
    examples = Examples(obs, action, outputs, tolerance, near)
    return write_c(graph, _metadata(request, graph, prefix=request.prefix), examples, request.prefix)


WRITERS: dict[str, Callable[[Request], bytes]] = {
    "onnx": lambda request: _own_onnx(request.member, request.origin),
    "torch-onnx": lambda request: write_torch_onnx(request.member, request.obs, _metadata(request, None)),
    "numpy": _numpy,
    "c": _c,
    "torch-export": lambda request: write_torch_export(request.member, request.obs, _metadata(request, None)),
}


def _metadata(request: Request, graph: Graph | None, **more: str | bool) -> str:
    quantized = quantized_kind(request.member.network) if graph is None else graph.quantized
    return to_text(metadata_of(request.member, request.origin, quantized, **more))


def _checked(request: Request, temporary: Path, format: str) -> Parity:
    """Run the file and compare.

    Raises:
        RlabError: it does not give what the member gives.
    """
    runner = open_exported(temporary, trust=True)  # written a moment ago, by us
    parity = check(request.member, runner, request.obs)
    if parity.failure:
        raise RlabError(f"the {format} file is not what was exported: {parity.failure}. Nothing was written.")
    return parity


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        if_supported(os.fsync, file.fileno(), consequence="a power cut may cost the exported file")
