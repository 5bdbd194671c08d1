"""`.onnx` and `.npz` files in their runtimes. Neither torch nor the rest of rlab is imported, so that the processes of
`limited` begin quickly."""

import importlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlab import door
from rlab.compression.export import numpy_runner
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.compression.export.onnx_writer import METADATA
from rlab.errors import RlabError, UsageError, pip_install

MOST_FILE = 2**31  # bytes: what Protocol Buffers hold


class Session(Protocol):
    """An opened file: its metadata, as JSON or as what that says, and its function."""

    @property
    def metadata(self) -> str | dict[str, Any]: ...

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        """Actions `[B, *action]` and outputs `[B, width]` for a batch `[B, *obs]`; with memory, for a state `[B, K]`,
        also the next one."""
        ...


def open_session(path: Path) -> Session:
    """A `.onnx` or `.npz`; raises as the two classes do."""
    return OnnxSession(path) if path.suffix == ".onnx" else NumpySession(path)


def onnxruntime(path: Path) -> Any:
    """The package, for this file.

    It is told to send nothing to anybody, unless the user has set this variable otherwise: from 1.29 on its packages
    report the models and the machine that run them to Microsoft, and decide on it when they are first imported
    (microsoft/onnxruntime, docs/Privacy.md and pull request 27379).

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise UsageError(f"{path} runs in onnxruntime, which is not installed: {pip_install('onnx')}") from None


class NumpySession:
    """A `.npz` in NumPy.

    Raises:
        RlabError: the file is damaged or none of rlab's.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._policy = numpy_runner.load(path, door.read_npz)
        except ValueError as error:
            raise RlabError(f"{path}: {error}. Was it damaged?") from error
        self.metadata, self.run = self._policy.metadata, self._policy.run


class OnnxSession:
    """A `.onnx` in onnxruntime on the CPU.

    Args:
        threads: of one operation.
        optimise: false runs the graph as it is written.

    Raises:
        UsageError: onnxruntime is not installed.
        RlabError: the file is not ONNX, or not from rlab.
    """

    def __init__(self, path: Path, threads: int = 1, optimise: bool = True) -> None:
        ort = onnxruntime(path)
        self.path, self.ort = path, ort
        self._content = door.read_file(path, MOST_FILE, follow=True)
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = self._options.inter_op_num_threads = threads
        self._options.log_severity_level = 3  # errors
        if not optimise:
            self._options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.native = self._open()
        text = self.native.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            raise RlabError(f"{path} is not a file of rlab: it has no metadata of a policy.")
        self.metadata = str(text)
        facts = door.parse_json(self.metadata, f"{path}: the file's metadata")
        if isinstance(facts, dict) and facts.get("fold_weights") and facts.get("quantized") != "none" and optimise:
            # else onnxruntime makes floats of integer weights at each call
            self._options.add_session_config_entry("session.disable_quant_qdq", "1")
            self.native = self._open()

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        names = [ACTION, OUTPUTS, NEXT_STATE][: 2 + len(state)]
        return tuple(self.native.run(names, dict(zip((OBS, STATE), (obs, *state), strict=False))))

    def _open(self) -> Any:
        try:
            return self.ort.InferenceSession(self._content, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many error classes without a common base
            reason = str(error).splitlines()[0]
            raise RlabError(f"{self.path} is not an ONNX file that onnxruntime can run: {reason}") from error
