"""What the tests of the server share: policies that nobody trained, a server in a process of its own, a client."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'rlab-agents[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'rlab-agents[serve]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'rlab-agents[serve]'")

from rlab.compression.export.member_file import export
from rlab.compression.export.parity import MIN_ROWS
from rlab.envs import EnvSpec, make_episodes
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.heads import build_head, stochastic_head_json
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import MemberPolicy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiDiscrete, Space
from rlab.runs.policies import load_policy, save_policy
from rlab.serving.probes import probes

sys.path.append(str(Path(__file__).parent))
from wire import PATIENCE, Answer, Wire  # type: ignore[import-not-found, unused-ignore]

START = 60.0  # seconds until a server is ready: torch is imported, on a busy machine
CARTPOLE = EnvSpec("CartPole-v1", max_episode_steps=40)
VECTOR = Box((4,), "float32", float("-inf"), float("inf"))
PARTS = Dict((("place", Box((2,), "float32", -2.0, 4.0)), ("kind", Discrete(4, start=2))))
ARM = Box((2,), "float32", (-2.0, -1.0), (1.0, 3.0))

# name -> spaces and memory of the policies that tests serve
POLICIES: dict[str, dict[str, Any]] = {
    "cartpole": {},
    "arm": {"actions": ARM, "scale": 1.5},
    "parts": {"obs": PARTS, "actions": MultiDiscrete((3, 2), (0, 1), (2,))},
    "masked": {"obs": Masked(VECTOR, 3), "actions": Discrete(3, start=-1)},
    "memory": {"memory": MemorySettings("gru", 8, 1)},
    "pixels": {"obs": Box((8, 9, 3), "uint8", 0.0, 255.0), "scale": 20.0},
}


def save(
    folder: Path,
    obs: Space | None = None,
    actions: Space | None = None,
    memory: MemorySettings | None = None,
    scale: float = 2.0,
    hidden: tuple[int, ...] = (16, 8),
    seeds: tuple[int, ...] = (3, 4),
) -> Path:
    """A policy folder with untrained members of these seeds, whose actions depend on what they observe.

    Without spaces it is for CartPole-v1.
    """
    cartpole = make_episodes(CARTPOLE, 1)
    obs, actions = obs or cartpole.obs_space, actions or cartpole.action_space
    cartpole.close()
    body = BodySettings(hidden, "tanh", memory=memory)
    if isinstance(actions, Discrete):
        head: dict[str, Any] = {"kind": "q"}
        network = q_network_spec(obs, actions.n, body)
    else:
        head = stochastic_head_json(actions, False)
        log_std = -0.5 if isinstance(actions, Box) else None
        network = actor_network_spec(obs, build_head(head, actions).width, body, output_gain=1.0, log_std=log_std)
    policy = build_policy(PolicySpec(obs, actions, {"scaling": "none", "scale": None}, network, head), seeds)
    for name, parameter in policy.network.named_parameters():
        parameter.data *= 0.0 if "bias" in name else scale  # with tanh, an odd function: no action is always the best
    save_policy(folder, policy, {"agent": "dqn", "env": CARTPOLE.to_json()})
    return folder


class Server:
    """`rlab serve` in a process of its own, on a free port of the loopback."""

    def __init__(self, words: tuple[str, ...], log: Path, under: tuple[str, ...] = ()) -> None:
        self.host, self.port, self.log = "127.0.0.1", free_port(), log
        # What this process told onnxruntime must not hide what the server does not.
        inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        command = [*under, sys.executable, "-m", "rlab", "serve", *words, "--port", str(self.port)]
        with log.open("wb") as file, log.with_suffix(".out").open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**inherited, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def wait_until_ready(self, token: str | None = None, seconds: float = START) -> None:
        """Until `/v2/health/ready` says so; fails with the log where the process ends."""
        until, headers = time.monotonic() + seconds, {} if token is None else {"authorization": f"Bearer {token}"}
        while True:
            assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"the server is not ready: {self.log.read_text()[-2000:]}"
            with suppress(ConnectionError, TimeoutError):
                if self.get("/v2/health/ready", **headers).status == 200:
                    return
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log_lines(self) -> list[str]:
        """What it has written so far to standard error."""
        return self.log.read_text().splitlines()

    def handles(self) -> int:
        """Files and sockets that its first process has open. It counts them in /proc, which Linux alone has."""
        if not sys.platform.startswith("linux"):
            pytest.skip("open files are counted in /proc: this needs Linux")
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> float:
        """MiB that its first process holds in memory."""
        if not sys.platform.startswith("linux"):
            pytest.skip("memory is read from /proc: this needs Linux")
        words = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def wire(self, patience: float = PATIENCE) -> Wire:
        """A connection that sends any bytes; use it in a `with` block."""
        return Wire(self.host, self.port, patience)

    def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """One correct request on a connection of its own."""
        with self.wire() as wire:
            return wire.request(method, target, body, **headers)

    def get(self, target: str, **headers: str) -> Answer:
        return self.request("GET", target, **headers)

    def post(self, target: str, value: Any, **headers: str) -> Answer:
        """A JSON body."""
        return self.request("POST", target, json.dumps(value).encode(), **headers)

    def infer(self, model: str, *inputs: dict[str, Any], **more: Any) -> Answer:
        """The answer to one inference request; `inputs` are tensors of the protocol, see `tensor`."""
        return self.post(f"/v2/models/{model}/infer", {"inputs": list(inputs), **more})

    def actions(self, obs: np.ndarray, model: str = "cartpole") -> np.ndarray:
        """The served actions `[B, *action]` for `obs [B, *obs]`; fails where they are refused."""
        answer = self.infer(model, tensor("obs", obs))
        assert answer.status == 200, answer
        (found,) = [output for output in answer.json["outputs"] if output["name"] == "action"]
        return np.array(found["data"]).reshape(found["shape"])

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM, and its exit code; what is left of its processes after that time is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def tensor(name: str, array: np.ndarray, datatype: str | None = None) -> dict[str, Any]:
    """An input of the protocol, its data flat and row by row."""
    names = {"float32": "FP32", "float64": "FP64", "bool": "BOOL"}
    datatype = datatype or names.get(array.dtype.name) or array.dtype.name.upper()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(*words: Any, log: Path, token: str | None = None, under: tuple[str, ...] = ()) -> Iterator[Server]:
    """`rlab serve WORDS` for a block, once it is ready; nothing of it is left behind.

    Args:
        log: the file that has what it writes.
        token: the one that it asks for, where it asks for one.
        under: a program that runs it, such as strace.
    """
    server = Server(tuple(map(str, words)), log, under)
    try:
        server.wait_until_ready(token)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy folder for each row of `POLICIES`, such as `cartpole`, and its first member as an exported
    file, `cartpole.onnx`: a server opens it at once, while a policy folder takes it the seconds of importing torch."""
    folder = tmp_path_factory.mktemp("policies")
    for name, settings in POLICIES.items():
        member = load_policy(save(folder / name, **settings)).policy.member()
        export(member, probes(member.spec.obs_space, MIN_ROWS), "onnx", folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="session")
def member(policies: Path) -> Callable[..., MemberPolicy]:
    """`member("cartpole")`: the policy that a server of `policies` serves, in this process: the first member."""

    def first(name: str = "cartpole") -> MemberPolicy:
        return load_policy(policies / name).policy.member()

    return first


@pytest.fixture(scope="session")
def server(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all `POLICIES`, each by its name. For tests that leave it as it was."""
    words = [policies / f"{name}.onnx" for name in POLICIES]
    with served(*words, log=tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`serve("runs/my-run", "--workers", 2)` starts a server of the test's own; `ready=False` does not wait for it."""
    running: list[Server] = []

    def start(*words: Any, ready: bool = True) -> Server:
        started = Server(tuple(map(str, words)), tmp_path / f"server-{len(running)}.log")
        running.append(started)
        if ready:
            started.wait_until_ready()
        return started

    yield start
    for each in running:
        each.stop()


@pytest.fixture(scope="session", name="served")
def served_fixture() -> Callable[..., Any]:
    """`served` above, for fixtures of a module: `with served("runs/my-run", log=path) as server`."""
    return served


@pytest.fixture(scope="session")
def save_untrained() -> Callable[..., Path]:
    """`save` above."""
    return save


@pytest.fixture(scope="session")
def input_tensor() -> Callable[..., dict[str, Any]]:
    """`tensor` above."""
    return tensor
