"""How fast `rlab serve` answers: 32 clients that keep their connections, one observation each, a net of 4-256-256-2;
against FastAPI on uvicorn with the exported file in the same runtime, measured in turn. rlab serves the run, with all
that it does besides: limits, metrics, the watch for drift.

python -m rlab.experiments.benchmarks.serving [--requests 20000] [--rounds 5] [--workers 1]
python -m rlab.experiments.benchmarks.serving --requests 1000000 --alone

The second form sends a million requests to rlab alone: errors, latencies, and how far the server's memory grows.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab.experiments.benchmarks.http_load import Load, send_all
from rlab.experiments.benchmarks.main_job import environment
from rlab.experiments.benchmarks.timing import record

CLIENTS = 32
WARM = 2_000  # requests before anything is measured
PATH = "/v2/models/policy/infer"


def policy(folder: Path) -> Path:
    """A folder with a run whose policy has the layers 4-256-256-2, `run`, and that policy exported, `policy.onnx`. What
    it has learned does not matter here; that it was judged gives the server something to tell drift by."""
    settings: dict[str, Any] = {"env_steps": 200, "hidden": (256, 256), "eval_every": 0, "final_eval_episodes": 60}
    run = rlab.train("dqn", "CartPole-v1", out=folder / "run", **settings)
    rlab.export(run.path, "onnx", out=folder / "policy.onnx")
    return folder


def requests_for(folder: Path, count: int = 256) -> tuple[list[bytes], list[bytes]]:
    """Whole requests for states near upright poles, and what their answers hold."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "policy.onnx"), providers=["CPUExecutionProvider"])
    obs = np.random.default_rng(0).normal(scale=0.1, size=(count, 4)).astype(np.float32)
    requests, expected = [], []
    for row in obs:
        tensor = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        (action,) = session.run(["action"], {"obs": row[None]})
        expected.append(f'"data":[{action[0]}]'.encode())
    return requests, expected


@contextmanager
def served(command: Sequence[str], port: int) -> Iterator[int]:
    """The process of a server that is ready; its id."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready") as answer:
                if answer.status == 200:
                    break
            assert process.poll() is None, command
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def memory(pid: int) -> int:
    """Resident bytes of a process and of those that it has started."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def commands(folder: Path, port: int, workers: int) -> dict[str, list[str]]:
    """How each server is started: FastAPI with the exported file, rlab with the run, metrics and drift included."""
    module = "rlab.experiments.benchmarks.fastapi_server"
    ours = ["serve", f"policy={folder / 'run'}", "--port", str(port), "--workers", str(workers)]
    return {
        "fastapi": [sys.executable, "-m", module, str(folder / "policy.onnx"), str(port), str(workers)],
        "rlab": [sys.executable, "-m", "rlab", *ours],
    }


def facts(load: Load) -> dict[str, float]:
    """A load in numbers."""
    return {
        "requests_per_second": len(load.latencies) / load.seconds,
        "us_each": load.seconds / len(load.latencies) * 1e6,
        "p50_ms": load.percentile(50) * 1e3,
        "p99_ms": load.percentile(99) * 1e3,
        "longest_ms": load.percentile(100) * 1e3,
        "errors": load.errors,
    }


def compared(folder: Path, requests: int, rounds: int, workers: int) -> dict[str, Any]:
    """Both servers in turn, each in a process of its own that has answered `WARM` requests before."""
    asked, expected = requests_for(folder)
    found: dict[str, list[dict[str, float]]] = {"fastapi": [], "rlab": []}
    for _ in range(rounds):
        for name in found:
            port = free_port()
            with served(commands(folder, port, workers)[name], port):
                # FastAPI writes JSON with the same separators
                send_all(("127.0.0.1", port), asked, expected, min(WARM, requests), CLIENTS)
                found[name].append(facts(send_all(("127.0.0.1", port), asked, expected, requests, CLIENTS)))
    ratios = [slow["us_each"] / fast["us_each"] for slow, fast in zip(*found.values(), strict=True)]
    return {
        "workers": workers,
        "requests": requests,
        "rounds": found,
        "times_as_fast": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }


def alone(folder: Path, requests: int, workers: int) -> dict[str, Any]:
    """rlab under a long load: errors, latencies and memory."""
    asked, expected = requests_for(folder)
    port = free_port()
    with served(commands(folder, port, workers)["rlab"], port) as pid:
        send_all(("127.0.0.1", port), asked, expected, min(10 * WARM, requests), CLIENTS)
        before = memory(pid)
        load = send_all(("127.0.0.1", port), asked, expected, requests, CLIENTS)
        after = memory(pid)
    growth = {"before_bytes": before, "after_bytes": after, "growth": after / before - 1}
    return {"workers": workers, "requests": requests, **facts(load), "memory": growth}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="rlab alone")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = policy(Path(name))
        if words.alone:
            result = alone(folder, words.requests, words.workers)
        else:
            result = compared(folder, words.requests, words.rounds, words.workers)
    print(json.dumps(result, indent=2))
    record(__file__, result, "long" if words.alone else "" if words.workers == 1 else f"{words.workers}-workers")


if __name__ == "__main__":
    main()
