"""A `.onnx` or `.npz` of somebody else, in a process of its own with limits of time and memory.

What such a file says runs in onnxruntime or NumPy and can do nothing but compute, though for as long and with as much
memory as it likes. The process is asked over pipes: a line of JSON, then the bytes of arrays, each way.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from rlab import door
from rlab.errors import RlabError, UsageError

SECONDS = 10.0  # for opening the file, and for each call
STARTING = 60.0  # until Python and the runtime are there, on a machine that is busy
MEMORY, MEMORY_RATIO = 192 * door.MIB, 8  # bytes beyond those of the runtime itself, and times the size of the file
MOST_ANSWER = 64 * door.MIB
ERRORS = {"UsageError": UsageError, "RlabError": RlabError}


class LimitedSession:
    """The session of a file in a process of its own; see `sessions.Session`.

    Raises:
        UsageError: a runtime is missing.
        RlabError: the file is refused, takes too long or needs too much memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        start = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            f"from {__name__} import {serve.__name__} as serve; "
            "serve(sys.argv[2], sys.stdin.buffer, sys.stdout.buffer)"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", start, json.dumps(sys.path), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            with self._limit("start", STARTING):
                self._answer()
            with self._limit("be opened"):
                self.metadata: str | dict[str, Any] = self._answer()["metadata"]
        except BaseException:
            self.close()
            raise

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        assert self._process.stdin is not None
        with self._limit("answer"):
            with contextlib.suppress(OSError):  # where it has gone, the answer is missing
                _send(self._process.stdin, {}, obs, *state)
            answer = self._answer()
            return tuple(self._array(answer, len(obs)) for _ in range(2 + len(state)))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    @contextlib.contextmanager
    def _limit(self, to: str, seconds: float = SECONDS) -> Iterator[None]:
        """End the process where what follows takes longer than this."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except EOFError:
            if late.is_set():
                why = f"takes more than {seconds:g} s to {to}"
            else:
                why = "ended its process: it may need more memory than it is given"
            raise RlabError(f"{self.path} {why}. Is it damaged? --trust runs it without limits") from None
        finally:
            timer.cancel()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(MOST_ANSWER)
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = door.parse_json(line, self.path)
        if "error" in answer:
            raise ERRORS[answer["kind"]](door.clean(answer["error"]))
        self._shapes = list(answer.get("arrays", []))
        return answer

    def _array(self, answer: dict[str, Any], rows: int) -> np.ndarray:
        """The next array that was announced, which has as many rows as were asked about."""
        assert self._process.stdout is not None
        found = _receive(self._process.stdout, self._shapes.pop(0))
        if found.ndim == 0 or len(found) != rows:
            raise RlabError(f"{self.path} answers {rows} observations with an array {found.shape}. Was it edited?")
        return found


def serve(path: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """What the process does: open the file, then answer until nobody asks."""
    from rlab.compression.export.onnx_check import check_onnx
    from rlab.compression.export.sessions import MOST_FILE, onnxruntime, open_session

    if path.endswith(".onnx"):
        with contextlib.suppress(UsageError):  # what it needs is no part of the limit; opening says where it is missing
            onnxruntime(Path(path))
    _send(answers, {})
    try:
        content = door.read_file(Path(path), MOST_FILE, follow=True)
        if path.endswith(".onnx"):
            check_onnx(content, path)
        limit_memory(MEMORY + MEMORY_RATIO * len(content))
        del content
        session = open_session(Path(path))
        _send(answers, {"metadata": session.metadata})
        while (line := requests.readline()).endswith(b"\n"):
            given = [_receive(requests, announced) for announced in json.loads(line)["arrays"]]
            _send(answers, {}, *session.run(*given))
    except RlabError as error:
        _send(answers, {"kind": type(error).__name__, "error": str(error)})
    except MemoryError:
        _send(answers, {"kind": "RlabError", "error": f"{path} needs more memory than it is given. Is it damaged?"})
    except Exception as error:  # of what a file says, each part fails in its own way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _send(answers, {"kind": "RlabError", "error": f"{path} cannot be run: {reason}"})


def limit_memory(more: int) -> None:
    """Let this process have so many more bytes than it has now, where the system can say and limit that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (ImportError, OSError, ValueError):
        return
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _send(pipe: IO[bytes], facts: dict[str, Any], *arrays: np.ndarray) -> None:
    shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
    pipe.write(json.dumps({**facts, "arrays": shapes}).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).tobytes())
    pipe.flush()


def _receive(pipe: IO[bytes], announced: Any) -> np.ndarray:
    dtype, shape = np.dtype(announced[0]), tuple(announced[1])
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or not 0 <= size <= MOST_ANSWER:
        raise EOFError
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return np.frombuffer(bytearray(data), dtype).reshape(shape)
