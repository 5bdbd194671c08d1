"""`--on-nan drop-member`: a run goes on without a member whose numbers are not finite, and says so in all reports."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.jobs.evidence import read_evidence
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk", "registered_here")
SEEDS = (5, 6, 7)
RUN: dict[str, Any] = {"seed": 5, "seeds": 3, "num_envs": 2, "env_steps": 400, "experiment": "none", "hidden": (8,)}
RUN |= {"eval_every": 200, "eval_episodes": 1, "final_eval_episodes": 2, "checkpoint_every": 200, "log_every": 100}
RUN |= {"progress": False, "max_episode_steps": 20, "obs_scaling": "running"}
DQN = {**RUN, "learning_starts": 20, "batch_size": 8, "learn_every": 4, "updates_per_learn": 1}
PPO = {**RUN, "rollout_steps": 16, "epochs": 2, "minibatches": 2, "reward_scaling": "running"}
RUNS = {"dqn": (DQN, "reward"), "ppo": (PPO, "advantage")}  # and what of a prepared batch breaks
DROP = {"on_nan": "drop-member"}


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`poison("dqn", 30, {1})`: in the 30th update of the process the rewards of member 1 are NaN."""

    def put(name: str, update: int, members: set[int], patch: pytest.MonkeyPatch = monkeypatch) -> None:
        agent: Any = load_agent(name)
        learn, made = agent.update, iter(range(1, 10**9))

        def poisoned(self: Any, batch: dict[str, torch.Tensor], now: Any) -> Any:
            if next(made) == update:
                value = batch[RUNS[name][1]].clone()
                value[list(members)] = math.nan
                batch = {**batch, RUNS[name][1]: value}
            return learn(self, batch, now)

        patch.setattr(agent, "update", poisoned)

    return put


class StopAt300(rlab.Listener):
    """Stops the run at its third row of metrics."""

    def on_metrics(self, env_steps: int, metrics: Any) -> bool:
        return env_steps < 300


def rows_of(state: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a state that lead with the three members."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from rows_of(value, f"{place}/{key}")
    elif isinstance(state, torch.Tensor | np.ndarray) and state.shape[:1] == (3,):
        yield place, torch.as_tensor(state)


def agent_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(rows_of(load_checkpoint(RunFolder.open(run))[0]["loop"]["agent"]))


@pytest.mark.parametrize("name", ["ppo", pytest.param("dqn", marks=pytest.mark.prove)])
def test_the_others_learn_to_the_bit_what_they_would_have_learned_and_the_dropped_one_stands_still(
    tmp_path: Path, poison: Callable[..., None], name: str
) -> None:
    settings = RUNS[name][0]
    rlab.train(name, "CartPole-v1", out=tmp_path / "whole", **settings)
    poison(name, 30, {1})
    with pytest.warns(RlabWarning, match="^seed 6 was dropped at update 30: .* was not finite; 2 of 3 seeds go on"):
        run = rlab.train(name, "CartPole-v1", out=tmp_path / "run", **settings, **DROP)
    whole, found = agent_of(tmp_path / "whole"), agent_of(tmp_path / "run")
    assert whole.keys() == found.keys()
    for place, tensor in found.items():
        assert torch.equal(tensor[[0, 2]], whole[place][[0, 2]]), place
        assert bool(tensor.isfinite().all()), place
    assert [(each.seed, each.updates) for each in run.dropped] == [(6, 30)]
    assert run.evaluation is not None
    assert run.evaluation.seeds == (5, 7)


def test_it_is_reported_in_the_logs_the_result_the_list_and_to_whoever_judges(
    tmp_path: Path, poison: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "run"
    poison("dqn", 30, {1})
    with pytest.warns(RlabWarning, match="seed 6 was dropped"):
        run = rlab.train("dqn", "CartPole-v1", out=out, log="csv", **DQN, **DROP)
    line = "seed 6 was dropped at update 30: metric 'loss/td_huber' was not finite"
    assert line in run.report()
    assert "IQM of 2 training seeds" in run.report()
    again = rlab.Run.open(out)
    assert again.report() == run.report()
    assert again.evaluation is not None
    assert again.evaluation.seeds == (5, 7)
    (dropped,) = json.loads((out / "result.json").read_text())["dropped"]
    assert dropped == {"seed": 6, "time": 136, "updates": 30, "reason": "metric 'loss/td_huber' was not finite"}
    rows = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["loss/td_huber"][1] is None for row in rows] == [False, True, True, True]
    assert [row["train/episode_return"][1] is None for row in rows] == [False, True, True, True]
    times, returns = run.curve()
    assert times.tolist() == [200, 400]
    assert np.isnan(returns).tolist() == [[False, False], [True, True], [False, False]]
    assert len((out / "eval.csv").read_text().splitlines()) == 1 + 3 * 2  # a line for each seed that was judged

    assert rlab.load(out, seed=7) is not None
    with pytest.raises(RlabError, match="no member with training seed 6; this policy has training seeds 5, 7"):
        rlab.load(out, seed=6)
    capsys.readouterr()
    assert main(["list", "runs", "--root", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["dropped"] == [6]
    assert main(["list", "runs", "--root", str(tmp_path / "runs")]) == 0
    assert "dropped" in capsys.readouterr().out
    assert main(["eval", str(out), "--episodes", "1"]) == 0
    assert line in capsys.readouterr().out
    assert main(["eval", str(out), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == [dropped]
    assert (read_evidence(out).seeds, read_evidence(out).dropped) == ((5, 7), (6,))


@pytest.mark.parametrize("name", ["dqn", pytest.param("ppo", marks=pytest.mark.prove)])
def test_a_resumed_run_goes_on_without_the_member_to_the_same_bits(
    tmp_path: Path, poison: Callable[..., None], name: str
) -> None:
    settings = {**RUNS[name][0], **DROP}
    for out, listeners in (("whole", []), ("run", [StopAt300()])):
        with pytest.MonkeyPatch.context() as patch:
            poison(name, 30, {1}, patch)
            with pytest.warns(RlabWarning, match="seed 6 was dropped"):
                rlab.train(name, "CartPole-v1", out=tmp_path / out, listeners=listeners, **settings)
    with pytest.raises(UsageError, match="has dropped members, which cannot learn again: --on-nan drop-member goes on"):
        rlab.resume(tmp_path / "run", on_nan="stop")
    run = rlab.resume(tmp_path / "run")
    assert [each.seed for each in run.dropped] == [6]
    whole, found = agent_of(tmp_path / "whole"), agent_of(tmp_path / "run")
    assert all(torch.equal(tensor, whole[place]) for place, tensor in found.items())
    for log in ("metrics.jsonl", "eval.jsonl"):
        assert (tmp_path / "run" / log).read_bytes() == (tmp_path / "whole" / log).read_bytes()


def test_a_run_of_which_every_member_is_dropped_fails(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison("dqn", 60, {0, 1, 2})
    with (
        pytest.warns(RlabWarning, match="was dropped"),
        pytest.raises(
            RlabError, match=r"^every seed was dropped, .*; the last: seed 7 .* once that is fixed: rlab resume"
        ),
    ):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **DQN, **DROP)
    assert all(torch.isfinite(v).all() for v in rlab.load(tmp_path / "run").state_dict().values())


class Gives(gym.Env[np.ndarray, np.int64]):
    """Episodes of five steps; env 0 of one seed gives NaN from its 40th step on, where `what` says."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32), gym.spaces.Discrete(2)
    what: ClassVar[str] = ""
    made: ClassVar[int] = 0

    def __init__(self) -> None:
        self.number, self.total = Gives.made, 0
        Gives.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs("reset"), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t, self.total = self.t + 1, self.total + 1
        reward = math.nan if self._gives("reward") else 1.0
        return self._obs("obs"), reward, self.t == 5, False, {}

    def _gives(self, what: str) -> bool:
        return Gives.what == what and self.number == 4 and self.total >= 40  # the second env of member 1

    def _obs(self, what: str) -> np.ndarray:
        return np.full(2, math.inf if self._gives(what) else self.t / 5, np.float32)


@pytest.fixture
def gives(monkeypatch: pytest.MonkeyPatch) -> str:
    if "rlab-test/Gives-v0" not in gym.registry:
        gym.register("rlab-test/Gives-v0", entry_point=Gives)
    monkeypatch.setattr(Gives, "made", 0)
    return "rlab-test/Gives-v0"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *(("ppo", "reward"), ("dqn", "obs"), ("dqn", "reset")),
        *(pytest.param(*each, marks=pytest.mark.prove) for each in (("dqn", "reward"), ("ppo", "obs"))),
    ],
)
def test_a_member_whose_env_gives_what_is_not_finite_is_dropped_and_the_env_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: str, name: str, what: str
) -> None:
    settings = {**RUNS[name][0], "eval_every": 0, "final_eval_episodes": 0}
    rlab.train(name, gives, out=tmp_path / "whole", **settings)
    monkeypatch.setattr(Gives, "what", what)
    monkeypatch.setattr(Gives, "made", 0)
    named = f"non-finite {'reward' if what == 'reward' else 'observation'} in env 1 of seed 6 at vector step 4"
    with pytest.warns(RlabWarning, match=f"^seed 6 was dropped at update .*Gives.* {named}"):
        run = rlab.train(name, gives, out=tmp_path / "run", **settings, **DROP)
    assert [each.seed for each in run.dropped] == [6]
    whole, found = agent_of(tmp_path / "whole"), agent_of(tmp_path / "run")
    for place, tensor in found.items():
        assert torch.equal(tensor[[0, 2]], whole[place][[0, 2]]), place
        assert bool(tensor.isfinite().all()), place


def test_in_programs_a_member_is_dropped_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: str) -> None:
    # graphs that are run operator by operator give what plain calls give, to the bit
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    monkeypatch.setattr(Gives, "what", "reward")
    settings = {**DQN, "eval_every": 0, "final_eval_episodes": 0, **DROP}
    for compiles in ("off", "on"):
        monkeypatch.setattr(Gives, "made", 0)
        with pytest.warns(RlabWarning, match=r"^seed 6 was dropped at update \d+: .*Gives.* non-finite reward"):
            rlab.train("dqn", gives, out=tmp_path / compiles, compile=compiles, **settings)
    plain, found = agent_of(tmp_path / "off"), agent_of(tmp_path / "on")
    assert all(torch.allclose(tensor, plain[place], rtol=1e-4, atol=1e-5) for place, tensor in found.items())


def test_fine_tuning_takes_the_critics_of_the_members_that_are_left(
    tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison("ppo", 30, {0})
    with pytest.warns(RlabWarning, match="seed 5 was dropped"):
        rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", **PPO, **DROP)
    critic = agent_of(tmp_path / "run")["/critic/0.weight"]
    kept = {**PPO, "seed": 0, "seeds": 2, "env_steps": 2, "member": 6}
    del kept["hidden"], kept["obs_scaling"], kept["max_episode_steps"]
    rlab.finetune(tmp_path / "run", "CartPole-v1", out=tmp_path / "tuned", agent="ppo", **kept)
    tuned = load_checkpoint(RunFolder.open(tmp_path / "tuned"))[0]["loop"]["agent"]["critic"]
    assert torch.equal(tuned["0.weight"], critic[[1, 1]])
