"""One learner that several processes train, which `torchrun` starts: it equals that of one process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.errors import RlabError, ToldElsewhereError, UsageError
from rlab.experience.split_samplers import SplitSampler
from rlab.jobs import data_parallel
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.inputs import NO_INPUTS
from rlab.jobs.request import train_request
from rlab.jobs.session import Session
from rlab.learning.runtime import choose_devices
from rlab.ranks import Ranks

pytestmark = pytest.mark.usefixtures("quick_disk")
HERE = Path(__file__).parent
PROCESSES = 2


@pytest.fixture(scope="module")
def own() -> Iterator[ModuleType]:
    """`split_runs`, as the processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        import split_runs

        yield split_runs
        sys.modules.pop("split_runs", None)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What two processes trained: the folder of their runs, and what each of them saw."""
    out = tmp_path_factory.mktemp("together")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    words = [*start, str(HERE / "split_runs.py"), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    files = [out / f"{rank}.json" for rank in range(PROCESSES)]
    assert all(file.exists() for file in files), done.stderr
    return SimpleNamespace(out=out, seen=[json.loads(file.read_text()) for file in files], said=done.stderr)


# A gradient is a mean over B <= 32 rows of numbers below 10 in size: float32 rounds it by 32 x 6e-8 x 10 = 2e-5 at
# most, in whatever order it is summed. At most 256 steps of rate 0.01 (DQN), or 32 of 0.05 (PPO), add up to 5e-5.
ROUNDING = 5e-5


@pytest.mark.parametrize("name", ["ppo", "memory", "dqn", "double_dqn"])
def test_two_processes_learn_what_one_learns(
    name: str, own: ModuleType, together: SimpleNamespace, road: SimpleNamespace, tmp_path: Path
) -> None:
    alone = own.train(name, tmp_path / "alone")
    ours, theirs = (road.weights(path / "policy") for path in (tmp_path / "alone", together.out / name))
    for tensor in ours:
        torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=0.0, atol=ROUNDING)
    rows = [road.rows(tmp_path / "alone"), road.rows(together.out / name)]
    assert len(rows[0]) == len(rows[1]) == 8
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for tag, value in one.items():
            np.testing.assert_allclose(np.array(two[tag], float), np.array(value, float), rtol=1e-4, atol=1e-4)
    played = [rlab.Run.open(path).episodes() for path in (tmp_path / "alone", together.out / name)]
    assert [row.tolist()[:-1] for row in played[0]] == [row.tolist()[:-1] for row in played[1]]  # but for the seconds
    evaluation = rlab.Run.open(together.out / name).evaluation
    assert evaluation is not None
    assert evaluation.returns.tolist() == alone.evaluation.returns.tolist()


def test_a_run_that_is_stopped_and_resumed_is_the_run_without_the_stop(
    together: SimpleNamespace, road: SimpleNamespace
) -> None:
    out = together.out
    assert [seen["stopped"] for seen in together.seen] == [{"status": "stopped", "time": 256}] * PROCESSES
    assert together.seen[0]["resumed"] == together.seen[1]["resumed"]
    road.check_same(road.weights(out / "stopped" / "policy"), road.weights(out / "double_dqn" / "policy"))
    for log in ("metrics.jsonl", "eval.jsonl"):
        assert (out / "stopped" / log).read_bytes() == (out / "double_dqn" / log).read_bytes()


def test_another_number_of_processes_goes_on_where_that_is_allowed(together: SimpleNamespace) -> None:
    run = together.out / "is interrupted"
    with pytest.raises(UsageError, match=r"was computed with processes 2 \(now 1\).*torchrun --nproc-per-node 2 -m"):
        rlab.resume(run, trust=["split_runs"])
    with pytest.warns(match="goes on with fresh episodes: its envs were saved by 2 processes"):
        done = rlab.resume(run, trust=["split_runs"], allow_version_change=True)
    assert (done.status, done.time) == ("finished", 512)
    assert resume_command("runs/mine", done.config).startswith("rlab resume runs/mine")


def test_ctrl_c_in_one_process_stops_all_behind_the_same_step(together: SimpleNamespace) -> None:
    said = f"stopped at 240 env steps and saved; go on with: torchrun --nproc-per-node 2 -m rlab resume {together.out}"
    for seen in together.seen:
        assert seen["is interrupted"]["type"] == "KeyboardInterrupt"
        assert seen["is interrupted"]["text"].startswith(said)


def test_the_process_whose_env_failed_says_so_and_all_end(together: SimpleNamespace) -> None:
    first, second = (seen["raises"] for seen in together.seen)
    assert first["text"] == second["text"]
    assert first["text"].startswith(
        "split_runs:Frail failed in env 3 of seed 0 at vector step 60: ValueError: it broke"
    )
    assert [first["told elsewhere"], second["told elsewhere"]] == [True, False]
    assert json.loads((together.out / "raises" / "status.json").read_text())["status"] == "failed"


def test_where_a_process_has_died_the_others_end_and_the_run_is_kept(together: SimpleNamespace) -> None:
    said = "another of the 2 processes of this run has ended. The run is kept up to its last save; once that is fixed: "
    assert together.seen[0]["dies"]["text"].startswith(said + "torchrun --nproc-per-node 2 -m rlab resume")
    assert "dies" not in together.seen[1]
    assert f"exitcode  : -{signal.SIGKILL:d}" in together.said


def test_processes_hear_each_other(together: SimpleNamespace) -> None:
    for rank, seen in enumerate(together.seen):
        told = seen["messages"]
        assert told["gathered"] == [[0, 10], [1, 10]]
        assert told["exchanged"] == [{"rank": 0}, {"rank": 1}]
        assert told["any"] == [True, False]
        assert told["of first"] == "rank 0"
        assert told["failed"] == {
            "type": ["RlabError", "ToldElsewhereError"][rank],
            "text": "the first one failed",
            "told elsewhere": rank == 1,
        }
        assert told["averaged"] == [0.5]


def test_sums_over_a_minibatch_and_their_gradients_are_those_of_all_rows(together: SimpleNamespace) -> None:
    for seen in together.seen:
        assert seen["messages"]["mean"] == pytest.approx(3.8)  # (1 + 3 + 4 + 5 + 6) / 5
        assert seen["messages"]["gradient"] == pytest.approx(3.8)  # of the mean, by a factor of every row


def test_weights_that_have_drifted_apart_are_not_saved(together: SimpleNamespace) -> None:
    for seen in together.seen:
        assert seen["messages"]["drifted"]["text"].startswith("the 2 processes no longer have the same weights, at 64")


class Rows:
    """A sampler that draws the rows 0, 1, 2 ..., and keeps the feedback."""

    draws_ahead = True

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        return {"row": torch.arange(batch_size).unsqueeze(0)}

    def feedback(self, row: torch.Tensor, value: torch.Tensor) -> None:
        self.told = row.tolist(), value.tolist()


def test_each_process_gets_its_share_of_every_one_of_several_batches() -> None:
    shares = [SplitSampler(Rows(), 4, Ranks(rank, 2)).sample(4)["row"].tolist() for rank in (0, 1)]  # type: ignore[arg-type]
    assert shares == [[[0, 1, 4, 5]], [[2, 3, 6, 7]]]  # of the batches 0 1 2 3 and 4 5 6 7


def test_feedback_reaches_the_sampler_in_the_order_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, ranks = Rows(), Ranks(1, 2)
    monkeypatch.setattr(ranks, "gathered", lambda array: np.stack([array - 2, array]))  # the first has rows 0 and 1
    SplitSampler(whole, 4, ranks).feedback(torch.tensor([[2, 3]]), torch.tensor([[12, 13]]))  # type: ignore[arg-type]
    assert whole.told == ([[0, 1, 2, 3]], [[10, 11, 12, 13]])


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("sac", {}, "sac learns in one process; torchrun trains ppo, dqn, double_dqn over several: start rlab without"),
        ("ppo", {"num_envs": 5}, "--num-envs 5 cannot be divided evenly among 2 processes."),
        ("ppo", {"devices": "cpu,cpu", "seeds": 2}, "--devices, --jobs or --engine cannot be used where several proc"),
        ("dqn", {"device": "cuda:1"}, "--device cuda:1 cannot be used where several processes train one"),
        ("dqn", {"on_nan": "drop-member"}, "--on-nan drop-member cannot be used where several processes train"),
        ("dqn", {"hindsight": "future"}, "--hindsight cannot be used where several processes train"),
        ("dqn", {"novelty": "rnd"}, "--novelty cannot be used where several processes train"),
    ],
)
def test_what_one_process_alone_does_is_refused(agent: str, settings: dict[str, Any], message: str) -> None:
    request = train_request(agent, "CartPole-v1", {}, (), "none", settings)
    with pytest.raises(UsageError) as caught:
        data_parallel.split(request, Ranks(1, 2))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("dqn", {"batch_size": 9}, "--batch-size 9 cannot be divided evenly among 2 processes."),
        ("dqn", {"dropout": 0.1}, "StackedDropout draws for each row of a whole minibatch, in one process;"),
        ("dqn", {"value_head": "iqn"}, "ImplicitQuantiles draws for each row of a whole minibatch, in one process;"),
        ("ppo", {"rollout_steps": 3, "minibatches": 5}, "the 24 rows of a rollout cannot be divided evenly among 5 mi"),
        ("ppo", {"memory": "gru", "num_envs": 4}, "the 4 sequences of a rollout cannot be divided evenly among 4 mini"),
        ("dqn", {"vector": "tensor"}, "--vector tensor: several processes train one learner; use --vector auto."),
    ],
)
def test_minibatches_that_cannot_be_split_are_refused(agent: str, settings: dict[str, Any], message: str) -> None:
    ranks = Ranks(0, 2)
    request = data_parallel.split(train_request(agent, "CartPole-v1", {}, (), "none", settings), ranks)
    with pytest.raises(UsageError) as caught:
        Session(request, NO_INPUTS, ranks)
    assert str(caught.value).startswith(message)


def test_processes_that_were_asked_for_different_things_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(0, 2)
    request = data_parallel.split(train_request("ppo", "CartPole-v1", {}, (), "none", {}), ranks)
    other = {**request.to_json(), "run": {}, "computed_with": {}}
    monkeypatch.setattr(ranks, "exchanged", lambda value: [value, other])
    with pytest.raises(
        UsageError, match="process 1 differs from process 0 in computed_with, run: start all of them wi"
    ):
        data_parallel.check_alike(request, ranks)


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `torchrun` had started this process."""
    variables = {
        "RANK": 1,
        "WORLD_SIZE": 3,
        "LOCAL_RANK": 1,
        "LOCAL_WORLD_SIZE": 3,
        "MASTER_ADDR": "",
        "MASTER_PORT": 1,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("second_of_three")
def test_an_error_says_which_process_it_is_of_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = iter([RlabError("this one"), ToldElsewhereError("another one")])

    def fails(words: list[str]) -> int:
        raise next(errors)

    monkeypatch.setattr("rlab.cli.train.run", fails)
    assert [main(["train"]), main(["train"])] == [1, 1]
    assert capsys.readouterr().err == "rlab (process 1 of 3): this one\n"


@pytest.mark.usefixtures("second_of_three")
@pytest.mark.parametrize(("gpus", "expected"), [(4, ["cpu", "cuda:1"]), (2, ["cpu"])])
def test_each_process_has_a_gpu_of_its_own_or_none_has(
    gpus: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert list(map(str, choose_devices("auto"))) == expected
    if gpus == 2:
        with pytest.raises(UsageError, match="--device cuda: 3 processes need a GPU each, and torch sees 2 here"):
            choose_devices("cuda")


@pytest.mark.usefixtures("second_of_three")
def test_verbs_of_one_process_are_refused_under_torchrun(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "agents"]) == 2
    assert "processes that train, resume, finetune one learner together; list takes one." in capsys.readouterr().err
    assert main(["resume", "--verify", "dqn", "CartPole-v1"]) == 2
    assert "--verify trains in one process: start it without torchrun." in capsys.readouterr().err
