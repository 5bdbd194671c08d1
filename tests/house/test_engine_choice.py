"""What a run computes with: by the table of costs, by flags, as it began, and what is said about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rlab
from rlab.agents.dqn import DQN
from rlab.cli.main import main
from rlab.errors import RlabWarning, UsageError
from rlab.jobs import engine
from rlab.jobs.engine import COSTS, Cost, Engine, as_begun, choose
from rlab.jobs.request import train_request
from rlab.jobs.session import Session
from rlab.learning import runtime
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NO_COMPILER = "no C++ compiler: g++ was not found; install it, or name another in CXX"
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "batch_size": 8, "learning_starts": 32}
SMALL |= {
    "eval_every": 0,
    "device": "cpu",
    "final_eval_episodes": 0,
    "max_episode_steps": 30,
    "env_steps": 256,
    "log_every": 64,
}
# Round numbers; a vector step whose env is on the host takes 0.5 s more.
FAKE = {
    ("cpu", False): Cost(0.0, 1.0, 1.0, 0.0),
    ("cpu", True): Cost(100.0, 0.1, 0.1, 0.0),
    ("cuda", False): Cost(5.0, 2.0, 2.0, 0.0),
    ("cuda", True): Cost(150.0, 0.01, 0.01, 0.0),
}
EAGER, COMPILED, CAPTURED = Engine(CPU, False, False), Engine(CPU, True, True), Engine(GPU, True, True)
Choose = Callable[..., Engine]


class HostDQN(DQN):
    """Draws with NumPy."""

    needs_host = "it draws with NumPy"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU, all compilers, and the costs above."""
    gpus = {"auto": (CPU, GPU), "cpu": (CPU,), "cuda": (GPU,)}
    monkeypatch.setattr(engine, "COSTS", FAKE)
    monkeypatch.setattr(engine, "HOST_STEP", 0.5)
    monkeypatch.setattr(engine, "choose_devices", gpus.__getitem__)
    monkeypatch.setattr(engine, "why_not_compile", lambda device: None)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has no compiler."""
    monkeypatch.setattr(engine, "why_not_compile", lambda device: NO_COMPILER if device == CPU else None)


@pytest.fixture(scope="module")
def agent() -> Any:
    return Session(train_request("dqn", "CartPole-v1", (), (), "none", {"hidden": (8,), "compile": "off"})).agent


@pytest.fixture
def chosen(machine: None, agent: Any) -> Choose:
    """The engine for so many vector steps with one update each."""

    def of(steps: int, env: str = "CartPole-v1", agent: Any = agent, **settings: Any) -> Engine:
        return choose(train_request("dqn", env, (), (), "none", settings), agent, steps, steps, 128)

    return of


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (20, EAGER),  # 20 x 2.5 = 50 s; compiled 100 + 20 x 0.2 = 104, on the GPU 5 + 20 x 4 = 85 and 150.4
        (100, COMPILED),  # 250 s; 120, 405 and 152
        (1000, CAPTURED),  # 2 500 s; 300, 4 005 and 170
    ],
)
def test_what_is_over_first_is_chosen(chosen: Choose, steps: int, expected: Engine) -> None:
    assert chosen(steps) == expected


def test_flags_leave_less_to_choose_from(chosen: Choose) -> None:
    assert chosen(20, compile="on") == COMPILED
    assert chosen(1000, compile="off") == EAGER
    assert chosen(1000, device="cpu") == COMPILED
    assert chosen(20, device="cuda", compile="off") == Engine(GPU, False, True)
    assert chosen(20, vector="tensor") == Engine(CPU, False, True)
    assert chosen(1000, vector="sync") == Engine(GPU, True, False)


def test_an_env_without_a_tensor_version_is_stepped_on_the_host(chosen: Choose) -> None:
    """100 steps: compiled they take 100 + 100 x (0.6 + 0.1) = 170 s, captured on the GPU 150 + 100 x 0.52 = 202 s."""
    assert chosen(100, "Blackjack-v1") == Engine(CPU, True, False)


def test_a_tensor_env_that_cannot_be_is_one_line_with_the_fix(
    chosen: Choose, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(20, "Blackjack-v1", vector="tensor")
    assert str(caught.value) == "--vector tensor: Blackjack-v1 has no tensor version; use --vector auto."
    assert main(["train", "dqn", "Blackjack-v1", "--vector", "tensor"]) == 2
    assert capsys.readouterr().err == f"rlab: {caught.value}\n"


def test_without_a_compiler_a_run_goes_on_and_says_so_only_where_compiling_would_have_paid(
    chosen: Choose, no_compiler: None
) -> None:
    assert chosen(20, device="cpu") == EAGER
    found = chosen(100, device="cpu")
    assert (found.device, found.compiled, found.tensor) == (CPU, False, False)
    assert found.notes == (f"note: cpu, compiled, envs as tensors would be faster: {NO_COMPILER}",)
    assert chosen(1000) == CAPTURED  # the GPU has a compiler, and is faster


def test_hindsight_in_an_env_on_the_host_is_not_compiled_and_says_why(chosen: Choose) -> None:
    found = chosen(100, "Blackjack-v1", hindsight="future")
    assert not found.compiled
    assert found.notes == (
        "note: cpu, compiled would be faster: dqn needs the host: hindsight asks the env for rewards",
    )
    assert chosen(1000, "rlab/ProbeBitFlip-v0", hindsight="future") == CAPTURED  # a tensor env has the reward too


def test_compile_on_without_a_compiler_is_one_line(chosen: Choose, no_compiler: None) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(20, device="cpu", compile="on")
    assert str(caught.value) == f"--compile on: {NO_COMPILER}; or use --compile auto."


def test_an_agent_that_needs_the_host_runs_as_it_is_and_says_why(chosen: Choose) -> None:
    own = Session(train_request(f"{__name__}:HostDQN", "CartPole-v1", (), (), "none", {"compile": "off"})).agent
    assert chosen(20, agent=own) == EAGER  # as any other
    found = chosen(100, agent=own)
    assert not found.compiled
    assert found.notes == (
        "note: cpu, compiled, envs as tensors would be faster: dqn needs the host: it draws with NumPy",
    )
    found = chosen(20, agent=own, compile="on")
    assert not found.compiled
    assert found.notes == ("not compiled: dqn needs the host: it draws with NumPy",)


def test_devices_that_are_not_there_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose_devices("cuda:1") == (torch.device("cuda", 1),)
    assert runtime.choose_devices("auto") == (CPU, GPU)
    for name, message in (
        ("cuda:7", "--device cuda:7: torch sees 2 CUDA devices, cuda:0 to cuda:1."),
        ("cdua", "unknown device 'cdua'; known: auto, cpu, cuda, or one GPU of several, such as cuda:1."),
        ("cpu:1", "unknown device 'cpu:1'; known: auto, cpu, cuda, or one GPU of several, such as cuda:1."),
    ):
        with pytest.raises(UsageError) as caught:
            runtime.choose_devices(name)
        assert str(caught.value) == message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="this torch sees no CUDA device; use --device cpu or a CUDA build"):
        runtime.choose_devices("cuda:7")


def test_every_engine_has_a_cost() -> None:
    assert COSTS.keys() == FAKE.keys()


def test_the_first_line_and_the_config_say_what_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["--vector", "tensor", "--compile", "off", "--device", "cpu", "--env-steps", "64", "--eval-every", "0"]
    assert main(["train", "dqn", "CartPole-v1", "--out", str(out), "--final-eval-episodes", "0", *words]) == 0
    assert capsys.readouterr().out.partition("\n")[0].endswith(", cpu, not compiled, envs as tensors")
    config = json.loads((out / "config.json").read_text())
    assert config["engine"] == {"device": "cpu", "compiled": False, "tensor": True}


def test_a_run_goes_on_with_what_it_began_with_whatever_the_budget_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the costs above, what is left of it would be compiled."""
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **SMALL)
    assert run.config["engine"] == {"device": "cpu", "compiled": False, "tensor": False}
    monkeypatch.setattr(engine, "COSTS", FAKE)
    monkeypatch.setattr(engine, "CompiledPrograms", None)  # none is made
    assert rlab.resume(run, env_steps=320).time == 320
    assert run.config["engine"] == {"device": "cpu", "compiled": False, "tensor": False}


def test_a_run_goes_on_with_as_much_of_it_as_the_machine_has(machine: None) -> None:
    captured = {"device": "cuda", "compiled": True, "tensor": True}
    assert as_begun("auto", captured) == CAPTURED
    assert as_begun("cuda", captured) == CAPTURED


def test_a_run_goes_on_without_a_gpu_or_a_compiler_and_says_so(no_compiler: None) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = as_begun("cuda:1", {"device": "cuda", "compiled": True, "tensor": True})
    assert (found.device, found.compiled, found.tensor) == (CPU, False, True)
    assert found.notes == (
        "the run began on cuda, compiled and captured, envs as tensors and goes on on cpu, not compiled, envs as "
        f"tensors: torch sees no cuda device; {NO_COMPILER}",
    )


def test_a_resumed_run_warns_where_it_goes_on_otherwise(tmp_path: Path, no_compiler: None) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", vector="tensor", compile="off", **SMALL)
    folder = RunFolder.open(run.path)
    folder.changed({**folder.config, "engine": {"device": "cpu", "compiled": True, "tensor": True}})
    with pytest.warns(
        RlabWarning, match="the run began on cpu, compiled, envs as tensors and goes on on cpu, not comp"
    ):
        assert rlab.resume(run, env_steps=320).time == 320
