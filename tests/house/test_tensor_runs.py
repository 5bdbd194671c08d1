"""Runs whose envs are stepped as tensors, and compiled runs: the same command gives the same bits, and they go on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab.jobs.running import Run
from rlab.learning.compiler import why_not_compile
from rlab.learning.python_state import PythonState
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")
LEARNED: dict[str, Any] = {"num_envs": 4, "seeds": 2, "hidden": (8,), "max_episode_steps": 30, "device": "cpu"}
LEARNED |= {"experiment": "none", "env_steps": 512}
DQN = LEARNED | {"batch_size": 8, "learning_starts": 64, "learn_every": 8, "updates_per_learn": 1}
DQN |= {"replay_capacity": 256}  # it is full before the end
PPO = LEARNED | {"rollout_steps": 16, "epochs": 2, "minibatches": 2}
AGENTS = {"dqn": DQN, "ppo": PPO}
QUIET = {"eval_every": 0, "final_eval_episodes": 0, "log_every": 128, "checkpoint_every": 512}
BUSY = {"eval_every": 96, "eval_episodes": 1, "final_eval_episodes": 1, "log_every": 36, "checkpoint_every": 68}
WATCHED = {"log_every": 64, "eval_every": 256, "eval_episodes": 1, "final_eval_episodes": 1}
AS_TENSORS = {"vector": "tensor", "compile": "off"}
EVERY = list(range(64, 513, 64))


def trained(agent: str, out: Path, settings: dict[str, Any], **listening: Any) -> Run:
    return rlab.train(agent, "CartPole-v1", out=out, **AGENTS[agent], **settings, **listening)


def stored(run: Run) -> bytes:
    """The file of the final weights."""
    (path,) = (run.path / "policy").glob("*.safetensors")
    return path.read_bytes()


class Leaves(rlab.Listener):
    """Stops the run at the first report from 192 env steps on."""

    def on_metrics(self, env_steps: int, metrics: Any) -> bool:
        return env_steps < 192


def check_went_on(agent: str, run: Run, whole: Run, road: SimpleNamespace) -> None:
    """The counters of a run that was stopped and resumed are those of one that was not, without a gap or a double."""
    counts = ("env_steps", "train/updates", "train/transitions")
    assert [row["env_steps"] for row in road.rows(run.path)] == EVERY
    assert [row["env_steps"] for row in road.rows(run.path, "eval")] == [256, 512, 512]
    for row, other in zip(road.rows(run.path), road.rows(whole.path), strict=True):
        assert [row[name] for name in counts] == [other[name] for name in counts]
    state, other_state = (load_checkpoint(RunFolder.open(each.path))[0]["loop"] for each in (run, whole))
    assert state["updates"] == other_state["updates"] == {"dqn": 57, "ppo": 32}[agent]
    assert road.rows(run.path)[-1]["train/transitions"] == [512, 512]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_command_gives_the_same_bits_however_it_is_watched(agent: str, tmp_path: Path) -> None:
    first = trained(agent, tmp_path / "1", AS_TENSORS | QUIET)
    assert stored(trained(agent, tmp_path / "2", AS_TENSORS | QUIET)) == stored(first)
    assert stored(trained(agent, tmp_path / "3", AS_TENSORS | BUSY)) == stored(first)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_in_tensor_envs_goes_on_where_it_stopped(agent: str, tmp_path: Path, road: SimpleNamespace) -> None:
    watched = AS_TENSORS | WATCHED
    whole = trained(agent, tmp_path / "whole", watched)
    stopped = trained(agent, tmp_path / "stopped", watched, listeners=[Leaves()])
    assert (stopped.time, stopped.status) == (192, "stopped")
    run = rlab.resume(stopped)
    assert run.finished
    check_went_on(agent, run, whole, road)


def skip_without_compiler() -> None:
    missing = why_not_compile(torch.device("cpu"))
    if missing is not None:
        pytest.skip(missing)


def test_a_compiled_run_does_as_much_as_one_that_is_not(tmp_path: Path, road: SimpleNamespace) -> None:
    skip_without_compiler()
    plain = trained("dqn", tmp_path / "plain", AS_TENSORS | WATCHED)
    run = trained("dqn", tmp_path / "run", {"compile": "on"} | WATCHED)
    assert run.config["engine"] == {"device": "cpu", "compiled": True, "tensor": True}
    check_went_on("dqn", run, plain, road)


def check_in_programs(folder: Path, road: SimpleNamespace) -> None:
    """Two runs give the same bits, and one that is stopped goes on."""
    whole = trained("dqn", folder / "whole", {"compile": "on"} | WATCHED)
    assert stored(trained("dqn", folder / "again", {"compile": "on"} | QUIET)) == stored(whole)
    stopped = trained("dqn", folder / "stopped", {"compile": "on"} | WATCHED, listeners=[Leaves()])
    check_went_on("dqn", rlab.resume(stopped), whole, road)


def test_a_run_in_programs_gives_the_same_bits_and_goes_on(
    tmp_path: Path, road: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # graphs that are run operator by operator, without the compiler's time
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    check_in_programs(tmp_path, road)


@pytest.mark.prove
def test_a_compiled_run_gives_the_same_bits_and_goes_on(tmp_path: Path, road: SimpleNamespace) -> None:
    skip_without_compiler()
    check_in_programs(tmp_path, road)


def test_no_program_looks_into_what_belongs_to_the_host(tmp_path: Path, road: SimpleNamespace) -> None:
    """Threads that write logs, or an env's own, may change it while a function of the loop is traced."""
    found: dict[str, bool] = {}

    def look(session: Any, env_steps: int) -> None:
        loop = session.loop
        reached = PythonState(loop._store)
        things = {
            "loop": loop,
            "agent": loop.agent,
            "session": session,
            "listener": hearing,
            "env": loop.collector.env.env,
        }
        found.update({name: reached.knows(thing) for name, thing in things.items()})

    hearing = road.Hearing(on_report=look)
    request = road.asked("train", "dqn", "CartPole-v1", **DQN | QUIET | {"log_episodes": True})
    road.begin(request, tmp_path / "run", [hearing])
    assert found == {"loop": True, "agent": True, "session": False, "listener": False, "env": False}
