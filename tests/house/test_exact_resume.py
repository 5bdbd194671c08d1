"""A run that is stopped and resumed is the run that it would have been, to the bit; and what proves it can fail."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.draws import Draws
from rlab.envs import EnvSpec
from rlab.jobs.request import train_request
from rlab.jobs.resume import continue_run
from rlab.jobs.verify import StopsAt, different, saved_differences, verify
from rlab.learning.episodes import EpisodeBook
from rlab.learning.finetune_config import STRATEGIES
from rlab.runs.folder import RunFolder
from rlab.runs.logs import read_json_lines
from rlab.runs.reading import drawn

pytestmark = pytest.mark.usefixtures("quick_disk")
SMALL: dict[str, Any] = {
    "seeds": 2,
    "num_envs": 3,
    "env_steps": 300,
    "hidden": (8,),
    "eval_every": 100,
    "log_every": 30,
    "max_episode_steps": 30,
}
SMALL |= {"eval_episodes": 1, "final_eval_episodes": 1, "log_episodes": True, "checkpoint_every": 80}
REPLAY = {"learning_starts": 30, "learn_every": 9, "batch_size": 8, "replay_capacity": 120}
NUMBERS = {**REPLAY, "updates_per_learn": 3}  # an odd number, of which TD3 moves its policy in every other one
ROLLOUT = {"rollout_steps": 20}
RUNNING = {"obs_scaling": "running", "reward_scaling": "running"}
WAYS: dict[str, tuple[str, str | EnvSpec, dict[str, Any]]] = {
    "dqn": ("dqn", "CartPole-v1", REPLAY),
    "dqn, envs as tensors": ("dqn", "CartPole-v1", {**REPLAY, "vector": "tensor"}),
    "dqn, sparse, n steps, held actions": (
        *("dqn", "CartPole-v1"),
        {**REPLAY, "sparsity": 0.5, "n_step": 3, "epsilon_duration": 2.0, "dropout": 0.1, "obs_scaling": "running"},
    ),
    "dqn that remembers": (
        *("dqn", "CartPole-v1"),
        {**REPLAY, "memory": "lstm", "memory_size": 8, "sequence_length": 4, "burn_in": 2, "stored_state": True},
    ),
    "double_dqn": ("double_dqn", "Acrobot-v1", {**REPLAY, "vector": "tensor"}),
    "ppo": ("ppo", "CartPole-v1", {**ROLLOUT, **RUNNING}),
    "ppo, envs as tensors": ("ppo", "Pendulum-v1", {**ROLLOUT, **RUNNING, "vector": "tensor"}),
    "ppo that remembers": (
        *("ppo", "CartPole-v1"),
        {**ROLLOUT, **RUNNING, "memory": "transformer", "memory_size": 8, "sequence_length": 10},
    ),
    "a2c that remembers, envs as tensors": (
        *("a2c", "CartPole-v1"),
        {**ROLLOUT, "memory": "lstm", "memory_size": 8, "vector": "tensor"},
    ),
    "a2c": ("a2c", "CartPole-v1", {**ROLLOUT, **RUNNING}),
    "reinforce": ("reinforce", "CartPole-v1", ROLLOUT),
    "ppo, one env after another": ("ppo", "MountainCarContinuous-v0", {**ROLLOUT, **RUNNING, "vector": "sync"}),
    "dqn, a process for each env": ("dqn", "FrozenLake-v1", {**REPLAY, "vector": "async"}),
    "dqn, goals in hindsight, n steps, envs as tensors": (
        *("dqn", EnvSpec("rlab/ProbeBitFlip-v0", {"bits": 4})),
        {**REPLAY, "hindsight": "future", "n_step": 3, "vector": "tensor"},
    ),
    "dqn, goals in hindsight, one env after another": (
        *("dqn", EnvSpec("rlab/ProbeBitFlip-v0", {"bits": 4})),
        {**REPLAY, "hindsight": "episode", "replay_capacity": 90, "vector": "sync"},
    ),
    "sac": ("sac", "Pendulum-v1", {**NUMBERS, "obs_scaling": "running", "exploration_noise": "pink"}),
    "sac of choices, envs as tensors": ("sac", "CartPole-v1", {**NUMBERS, "vector": "tensor", "policy_delay": 2}),
    "td3": ("td3", "Pendulum-v1", {**NUMBERS, "exploration_noise": "ornstein_uhlenbeck", "n_step": 2}),
    "dqn, novelty and goals, n steps": (
        *("dqn", EnvSpec("rlab/ProbeBitFlip-v0", {"bits": 4})),
        {**REPLAY, "hindsight": "future", "n_step": 2, "novelty": "rnd", "vector": "tensor"},
    ),
    "ppo, novelty": ("ppo", "MountainCar-v0", {**ROLLOUT, "novelty": "rnd", "novelty_hidden": (8,)}),
    "judged with the training envs closed": ("ppo", "CartPole-v1", {**ROLLOUT, "eval_alone": True}),
}


# Their parts go on in other ways too.
OF_OTHER_WAYS = {
    *("dqn, envs as tensors", "ppo, envs as tensors", "a2c", "sac of choices, envs as tensors", "ppo, novelty"),
    *("dqn, goals in hindsight, n steps, envs as tensors", "dqn, goals in hindsight, one env after another"),
    *("ppo that remembers", "reinforce", "double_dqn", "ppo, one env after another", "td3"),
    "a2c that remembers, envs as tensors",
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.prove if way in OF_OTHER_WAYS else ()) for way in WAYS]
)
def test_a_run_that_is_stopped_five_times_is_the_run_that_never_was(way: str) -> None:
    agent, env_id, settings = WAYS[way]
    found = verify(train_request(agent, env_id, (), (), "none", {**SMALL, **settings}))
    assert found.differences == ()
    assert (found.fresh_at, len(found.stopped_at)) == ((), 5)
    assert "exact: weights" in found.report()


def test_a_run_with_a_teacher_that_remembers_goes_on_with_the_teacher_s_state(tmp_path: Path) -> None:
    remembers: dict[str, Any] = {**SMALL, **ROLLOUT, "memory": "gru", "memory_size": 8, "sequence_length": 10}
    remembers |= {"seeds": 1, "env_steps": 180, "checkpoint_every": 60}
    teacher = rlab.train("ppo", "CartPole-v1", out=tmp_path / "teacher", experiment="none", **remembers)
    settings = {**remembers, "teacher": teacher.path, "teacher_fraction": 1.0}
    found = verify(train_request("ppo", "CartPole-v1", (), (), "none", settings))
    assert found.differences == ()
    assert "exact: weights" in found.report()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Runs to begin from, and demonstrations."""
    root = tmp_path_factory.mktemp("earlier")
    ppo, dqn = (
        rlab.train(agent, "CartPole-v1", out=root / agent, experiment="none", **{**SMALL, **own, "env_steps": 120})
        for agent, own in (("ppo", ROLLOUT), ("dqn", REPLAY))
    )
    rlab.collect(ppo.path, root / "data", episodes=8)
    return SimpleNamespace(root=root, ppo=ppo.path, dqn=dqn.path, data=root / "data")


TUNED: dict[str, Any] = {name: value for name, value in SMALL.items() if name != "hidden"}
OFFLINE = {"seeds": 2, "updates": 90, "log_every": 10, "eval_every": 40, "eval_episodes": 1, "final_eval_episodes": 1}
FURTHER: dict[str, Callable[..., Any]] = {
    **{
        f"finetune, {strategy}": partial(
            lambda earlier, strategy, **how: rlab.finetune(earlier.ppo, strategy=strategy, **ROLLOUT, **TUNED, **how),
            strategy=strategy,
        )
        for strategy in STRATEGIES
    },
    "finetune dqn, with a teacher and demonstrations": lambda earlier, **how: rlab.finetune(
        earlier.dqn, **{**TUNED, **REPLAY}, teacher=earlier.dqn, dataset=earlier.data, demonstration_share=0.25, **how
    ),
    "bc": lambda earlier, **how: rlab.pretrain("bc", earlier.data, **OFFLINE, **how),
    "encoder": lambda earlier, **how: rlab.pretrain("encoder", earlier.data, **OFFLINE, **how),
    "cql": lambda earlier, **how: rlab.train("cql", "CartPole-v1", dataset=earlier.data, **OFFLINE, **how),
    "iql": lambda earlier, **how: rlab.train("iql", "CartPole-v1", dataset=earlier.data, **OFFLINE, **how),
}


MORE_OF_A_KIND = {f"finetune, {strategy}" for strategy in STRATEGIES if strategy != "lora"} | {"bc", "iql"}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.prove if way in MORE_OF_A_KIND else ()) for way in FURTHER]
)
def test_fine_tuning_and_learning_from_a_dataset_go_on_exactly_too(
    way: str, earlier: SimpleNamespace, tmp_path: Path
) -> None:
    FURTHER[way](earlier, out=tmp_path / "whole")
    clock = 1 if way in ("bc", "encoder", "cql", "iql") else 3  # updates or env steps
    FURTHER[way](earlier, out=tmp_path / "run", listeners=StopsAt(13 * clock))
    for time in (31, 37, 70):
        assert not continue_run(tmp_path / "run", {}, False, listeners=StopsAt(time * clock)).finished
    assert rlab.resume(tmp_path / "run").finished
    assert list(saved_differences(RunFolder.open(tmp_path / "whole"), RunFolder.open(tmp_path / "run"))) == []


def leave_out_exploration(patch: pytest.MonkeyPatch) -> None:
    load = Draws.load_state
    patch.setattr(Draws, "load_state", lambda draws, state: load(draws, {"draw": 0}) if state["draw"] else None)


def leave_out_finished_episodes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EpisodeBook, "load_state", lambda book, state: None)


@pytest.mark.parametrize(
    ("leave_out", "shows_in"),
    [(leave_out_exploration, "checkpoint /loop/agent/exploration"), (leave_out_finished_episodes, "metrics.jsonl")],
)
def test_a_piece_that_is_left_out_of_the_state_shows(leave_out: Any, shows_in: str, monkeypatch: Any) -> None:
    leave_out(monkeypatch)
    found = verify(train_request("dqn", "CartPole-v1", (), (), "none", {**SMALL, **REPLAY}))
    assert not found.ok
    assert any(each.startswith(shows_in) for each in found.differences), found.differences
    assert "NOT exact" in found.report()


def test_the_command_says_whether_it_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env-steps", "400", "--final-eval-episodes", "1", "--eval-every", "0"]
    assert main(["resume", "--verify", "reinforce", "CartPole-v1", *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["exact"]
    assert (said["differences"], said["fresh_episodes_at"]) == ([], [])
    assert main(["resume", "--verify", "dqn"]) == 2


@pytest.mark.parametrize("broken", [False, True])
def test_sets_of_settings_are_compared_one_by_one(
    broken: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:
        leave_out_finished_episodes(monkeypatch)
    words = ["--env-steps", "400", "--final-eval-episodes", "1", "--eval-every", "0", "--vary", "gamma=0.9,0.99"]
    main(["resume", "--verify", "a2c", "CartPole-v1", *words, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["exact"] is not broken
    logs = {each for each in said["differences"] if each.startswith("metrics.jsonl")}
    assert logs == ({f"metrics.jsonl of settings/gamma={gamma}" for gamma in ("0.9", "0.99")} if broken else set())


def test_places_that_differ_are_named_and_nan_equals_nan() -> None:
    one = {"a": [1, np.array([1.0, np.nan])], "b": {"c": torch.tensor([1.0])}, "d": float("nan")}
    other = {"a": [1, np.array([1.0, np.nan])], "b": {"c": torch.tensor([1.0])}, "d": float("nan")}
    assert list(different(one, other)) == []
    other["a"][0], other["b"]["c"], other["e"] = 2, torch.tensor([1.0 + 2**-23]), None
    assert sorted(different(one, other)) == ["/a/0", "/b/c", "/e"]
    assert list(different(np.float32(1), np.float64(1), "x")) == ["x"]


def test_what_a_kill_leaves_behind_its_last_save_is_done_again_and_written_once(tmp_path: Path) -> None:
    """The save at 402 env steps is the last one of the copy, whose logs have got to 480."""
    killed = tmp_path / "killed"

    class Copies(rlab.Listener):
        def on_start(self, run: Any) -> None:
            self.path = run.path

        def on_metrics(self, env_steps: int, metrics: Any) -> None:
            if env_steps == 480:
                shutil.copytree(self.path, killed)  # what is on the disk where the process is killed

    settings = {**SMALL, **REPLAY, "env_steps": 900, "checkpoint_every": 200, "experiment": "none"}
    whole = rlab.train("dqn", "CartPole-v1", out=tmp_path / "whole", listeners=[Copies()], **settings)
    assert [row["env_steps"] for row in read_json_lines(killed / "metrics.jsonl")[1]][-1] == 480
    assert rlab.Run.open(killed).time == 402
    rlab.resume(killed)
    assert list(saved_differences(RunFolder.open(whole.path), RunFolder.open(killed))) == []
    assert [time for time, _ in drawn(killed)["train/episodes"]] == list(range(30, 901, 30))
