"""`rlab bench`: runs that go on where they stopped, results beside their files, their claims, and the recorded ones."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.engines.job import Ended, Event, Job, OnEvent
from rlab.errors import RlabError, UsageError
from rlab.evaluation.comparison import Side, pair
from rlab.jobs.evidence import read_evidence, shipped_folder
from rlab.jobs.resume import continue_run
from rlab.machine import commit
from rlab.runs import files
from rlab.runs.folder import RunFolder
from rlab.search.regression import BETTER, CANNOT_TELL, SAME, WORSE, verdict_of

pytestmark = pytest.mark.usefixtures("quick_disk")

FILE = """format = 1
agent = "ppo"
env = "CartPole-v1"

[run]
env_steps = 64
num_envs = 2
max_episode_steps = 20
eval_every = 0
checkpoint_every = 32

[settings]
hidden = [4]
rollout_steps = 8

[bench]
seed = 3
seeds = 2
episodes = 3

[[claim]]
measure = "iqm"
at_least = {at_least}
"""


class InThisProcess:
    """An engine without processes. `stop_in` names the job in the middle of which Ctrl+C is pressed."""

    at_once, place = 1, "in this process"

    def __init__(self, stop_in: str | None = None) -> None:
        self.ran: list[str] = []
        self._stop_in = stop_in

    def close(self) -> None: ...

    def run(self, jobs: Iterable[Job], on_event: OnEvent, stop: threading.Event) -> list[Ended]:
        ended = []
        for job in jobs:
            on_event(Event(job, "begun"))
            self.ran.append(job.label)
            listeners = [StopsAtOnce()] if job.label == self._stop_in else []
            try:
                run = continue_run(job.folder.path, {}, False, True, listeners)
                ended.append(Ended(job, "done" if run.finished else "stopped"))
                on_event(Event(job, "ended"))
            except RlabError as error:
                ended.append(Ended(job, "failed", str(error)))
                on_event(Event(job, "ended", text=str(error)))
            if listeners:
                return ended
        return ended


class StopsAtOnce(rlab.Listener):
    def on_save(self, env_steps: int) -> bool:
        return False


Use = Callable[..., InThisProcess]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Use:
    """Puts an `InThisProcess` in the place of other engines, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def put(**settings: Any) -> InThisProcess:
        engine = InThisProcess(**settings)
        monkeypatch.setattr("rlab.search.bench.job_engine", lambda name, at_once: engine)
        return engine

    return put


def experiment(name: str, at_least: float = 0, **changes: str) -> Path:
    """An experiment file in the current folder; `changes` are lines by their beginning."""
    text = FILE.format(at_least=at_least)
    for key, value in changes.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}")
    path = Path(f"{name}.toml")
    path.write_text(text)
    return path


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the recorded returns of an experiment."""
    path = Path(f"{name}.result.json")
    result = files.read_json(path)
    for row in result["evaluation"]["per_seed"]:
        row["returns"] = change(np.array(row["returns"])).tolist()
    files.write_json(path, result)


def test_a_result_says_all_that_is_needed_to_repeat_it(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use()
    experiment("mine")
    assert main(["bench", "mine.toml"]) == 0
    assert capsys.readouterr().out.startswith("mine: iqm is ")
    result = json.loads(Path("mine.result.json").read_text())
    assert (result["command"], result["seeds"], result["regression"]) == ("rlab bench mine.toml", [3, 4], None)
    assert result["commit"] == commit()
    assert set(result["hardware"]) == {"cpu", "cores", "gpu"}
    assert result["config"]["computed_with"]["rlab"] == rlab.__version__
    assert result["wall_seconds"] > 0
    assert (result["resumed_at"], result["dropped"]) == ([], [])
    found = read_evidence("mine.result.json")
    assert (found.seeds, found.origins["hidden"], np.shape(found.returns)) == ((3, 4), "experiment mine", (2, 3))


def test_a_claim_above_what_was_measured_fails_the_bench(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use()
    experiment("mine", at_least=0)
    assert main(["bench", "mine.toml"]) == 0
    (claim,) = files.read_json(Path("mine.result.json"))["claims"]
    capsys.readouterr()
    experiment("mine", at_least=claim["found"] + 0.01)
    assert main(["bench", "mine.toml", "--recorded"]) == 1
    assert "FAILS" in capsys.readouterr().out
    assert main(["bench", "mine.toml"]) == 1
    assert files.read_json(Path("mine.result.json"))["claims"][0]["holds"] is False


def test_the_same_code_gives_the_same_result_again(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use()
    experiment("mine")
    assert main(["bench", "mine.toml"]) == 0
    assert main(["bench", "mine.toml", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert (result["regression"]["verdict"], result["regression"]["pair"]["identical"]) == ("same", True)
    assert (
        "mine: as good as the recorded result: the same in every episode (paired, 2 seeds"
        in result["regression"]["line"]
    )


def test_a_worse_result_fails_and_the_recorded_one_stays(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use()
    experiment("mine")
    assert main(["bench", "mine.toml"]) == 0
    changed("mine", lambda returns: returns + 50)
    before = Path("mine.result.json").read_bytes()
    capsys.readouterr()
    assert main(["bench", "mine.toml"]) == 1
    said = capsys.readouterr().out
    assert "mine: WORSE than the recorded result: -50.00 [-50.00, -50.00] in mean return (paired, 2 seeds" in said
    assert "mine: not recorded: the result on record is better and stays; the new one is in runs/bench-" in said
    assert Path("mine.result.json").read_bytes() == before
    assert main(["bench", "mine.toml", "--accept-worse"]) == 0
    assert files.read_json(Path("mine.result.json"))["regression"]["verdict"] == "worse"


def test_a_trial_with_other_seeds_is_held_to_the_shared_ones_and_not_recorded(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use()
    experiment("mine")
    assert main(["bench", "mine.toml"]) == 0
    before = Path("mine.result.json").read_bytes()
    capsys.readouterr()
    assert main(["bench", "mine.toml", "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert "in mean return (paired, one seed" in said or "the same in every episode (paired, one seed" in said
    assert "mine: not recorded: --seeds was given" in said
    assert Path("mine.result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("env", '"Acrobot-v1"', "cannot tell whether it is as good as the recorded result: it is of another env"),
        ("seed", "7", "cannot tell whether it is as good as the recorded result: no training seed or no episode"),
        ("rollout_steps", "16", "; rollout_steps 8 -> 16)"),
    ],
)
def test_what_changed_since_the_record_is_said(
    use: Use, capsys: pytest.CaptureFixture[str], key: str, value: str, line: str
) -> None:
    use()
    experiment("mine", at_least=-1e9)
    assert main(["bench", "mine.toml"]) == 0
    experiment("mine", at_least=-1e9, **{key: value})
    capsys.readouterr()
    main(["bench", "mine.toml"])
    assert line in capsys.readouterr().out


def test_an_interrupted_bench_goes_on_where_it_stopped(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("one", "two", "three")
    for name in names:
        experiment(name)
    words = ["bench", *(f"{name}.toml" for name in names)]
    assert use(stop_in="two").ran == []
    assert main(words) == 130
    folder = next(Path("runs").glob("bench-*"))
    assert f"interrupted with 1 done; the same command goes on from {folder}" in capsys.readouterr().out
    assert RunFolder.open(folder / "two").config["run"]["seeds"] == 2
    assert not Path("two.result.json").exists()
    again = use()
    assert main(words) == 0
    assert again.ran == ["two", "three"]
    assert list(Path("runs").iterdir()) == [folder]
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines()] == list(names)
    use()
    assert main([*words[:1], "two.toml"]) == 0  # trained without a stop it is the same to the bit
    assert "two: as good as the recorded result: the same in every episode" in capsys.readouterr().out


def test_a_finished_bench_and_one_of_changed_files_are_not_gone_on_with(use: Use) -> None:
    use(stop_in="mine")
    experiment("mine")
    assert main(["bench", "mine.toml"]) == 130
    experiment("mine", at_least=-1)
    engine = use()
    assert main(["bench", "mine.toml"]) == 0
    assert len(list(Path("runs").iterdir())) == 2
    assert main(["bench", "mine.toml"]) == 0
    assert (len(list(Path("runs").iterdir())), engine.ran) == (3, ["mine", "mine"])


def test_a_folder_of_another_bench_is_refused(use: Use) -> None:
    use()
    experiment("mine")
    rlab.bench("mine.toml", out="here")
    with pytest.raises(UsageError, match="here is of another bench, or one that is finished; name a new folder"):
        rlab.bench("mine.toml", out="here")


def test_an_experiment_that_cannot_be_run_does_not_keep_others_from_running(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use()
    experiment("broken", env='"Nowhere-v0"')
    experiment("mine")
    assert main(["bench", "broken.toml", "mine.toml"]) == 1
    said = capsys.readouterr().out
    assert "mine: iqm is" in said
    assert "broken: NOT RUN: " in said
    assert main(["bench", "broken.toml"]) == 2


def test_the_engine_trains_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment("mine")
    assert main(["bench", "mine.toml", "--jobs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["success"] is True
    assert (found["failed"], found["interrupted"], len(found["results"])) == ({}, False, 1)


def test_nothing_and_both_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2
    assert "bench needs experiment files, or --all" in capsys.readouterr().err
    assert main(["bench", "dqn-CartPole-v1", "--all"]) == 2
    assert main(["bench", "dqn-CartPole-v1", "--recorded", "--jobs", "2"]) == 2
    assert "--recorded trains nothing; leave out --jobs." in capsys.readouterr().err


def test_all_recorded_results_can_be_held_to_their_claims(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--all", "--recorded", "--json"])
    found = json.loads(capsys.readouterr().out)
    recorded = {path.name.removesuffix(".result.json") for path in shipped_folder().glob("*-v*.result.json")}
    assert {result["experiment"] for result in found["results"]} == recorded
    assert set(found["failed"].values()) <= {"it has no recorded result"}


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([-20.0, -30.0, -25.0], WORSE),  # 25 of a mean of 100, and sure
        ([-1.0, -2.0, -1.5], SAME),  # surely a loss, of less than 5 %
        ([0.0, 0.0, 0.0], SAME),
        ([-20.0, 40.0, 1.0], CANNOT_TELL),
        ([10.0, 11.0, 12.0], BETTER),
    ],
)
def test_the_verdict_on_gaps_worked_by_hand(gaps: list[float], verdict: str) -> None:
    recorded = np.full((3, 2), 100.0)
    new = recorded + np.array(gaps)[:, None]
    compared = pair(Side("new", (0, 1, 2), new), Side("recorded", (0, 1, 2), recorded), same_members=True)
    assert verdict_of(compared, margin=5.0) == verdict


@pytest.mark.prove
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_bench_that_is_stopped_or_killed_goes_on_to_the_same_results(tmp_path: Path, how: signal.Signals) -> None:
    """In processes as people have them: Ctrl+C ends it with 130, and a kill leaves what was saved last."""
    results = []
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        folder.mkdir()
        for name in ("one", "two"):
            text = FILE.format(at_least=0).replace("env_steps = 64", "env_steps = 1600")
            (folder / f"{name}.toml").write_text(text.replace("checkpoint_every = 32", "checkpoint_every = 400"))
        command = [sys.executable, "-m", "rlab", "bench", "one.toml", "two.toml"]
        if folder.name == "stopped":
            with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
                while not list(folder.glob("runs/bench-*/two/checkpoint/checkpoint-*.json")):
                    assert process.poll() is None
                    time.sleep(0.05)
                process.send_signal(how)
                assert process.wait() == (130 if how == signal.SIGINT else -how)
            assert not (folder / "two.result.json").exists()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert ("goes on with runs/bench-" in done.stderr) == (folder.name == "stopped")
        assert len(list((folder / "runs").iterdir())) == 1
        found = [files.read_json(folder / f"{name}.result.json") for name in ("one", "two")]
        assert [result["resumed_at"] for result in found] == [[], []]  # exactly
        results.append([result["evaluation"] for result in found])
    assert results[0] == results[1]
