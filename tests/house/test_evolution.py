"""Populations whose settings change while they train."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.jobs.evolution import LINEAGE, Explore, schedule_of, selected
from rlab.jobs.request import Request, train_request
from rlab.jobs.running import start
from rlab.learning.inheritance import inherit, take_rows

TINY: dict[str, Any] = {
    "env_steps": 1000,
    "num_envs": 4,
    "seeds": 4,
    "eval_every": 200,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every": 200,
    "log_every": 100,
    "hidden": (8,),
    "compile": "off",
    "obs_scaling": "running",
    "max_episode_steps": 30,
}
ROLLOUT = {"rollout_steps": 10, "reward_scaling": "running"}
RANGES = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
    "gamma": {"low": 0.9, "high": 0.999, "scale": "one_minus"},
}
POPULATION = [{"learning_rate": rate, "gamma": 0.99} for rate in (1e-4, 1e-3, 3e-3, 1e-2)]
PBT = {"population": POPULATION, "share": 0.25, "factors": [0.8, 1.2], "ranges": RANGES}


def request(evolution: dict[str, Any], agent: str = "ppo", **settings: Any) -> Request:
    of_agent = ROLLOUT if agent == "ppo" else {}
    made = train_request(agent, "CartPole-v1", (), (), "none", {**TINY, **of_agent, **settings})
    return replace(made, evolution=evolution)


def lineage(run: rlab.Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run.path / LINEAGE).read_text())["rows"]
    return rows


@pytest.fixture(scope="module")
def bred(tmp_path_factory: pytest.TempPathFactory) -> rlab.Run:
    return start(request(PBT), tmp_path_factory.mktemp("bred") / "run", False)


def test_the_worst_take_over_the_best_and_nobody_else_changes() -> None:
    draw = np.random.default_rng(0)
    parents = selected(np.array([5.0, 1.0, 9.0, 7.0, 3.0]), 0.2, draw)
    assert parents == [0, 2, 2, 3, 4]
    parents = selected(np.array([5.0, np.nan, 9.0, 7.0, 3.0]), 0.5, draw)
    assert parents[1] == 1  # dropped: neither better nor worse
    assert {parents[4], parents[0]} <= {2, 3}
    assert selected(np.array([1.0]), 0.2, draw) == [0]


def test_settings_change_by_a_factor_within_their_range() -> None:
    draw = np.random.default_rng(0)
    explore = Explore(RANGES)
    seen = {round(explore.changed({"learning_rate": 1e-3}, draw)["learning_rate"], 9) for _ in range(50)}
    assert seen == {0.8e-3, 1.2e-3}
    seen = {round(explore.changed({"gamma": 0.99}, draw)["gamma"], 9) for _ in range(50)}
    assert seen == {0.992, 0.988}  # 1 - gamma by 0.8 and 1.2
    narrow = Explore({"gae_lambda": {"low": 0.8, "high": 1.0, "scale": "linear"}})
    seen = {round(narrow.changed({"gae_lambda": 0.95}, draw)["gae_lambda"], 9) for _ in range(50)}
    assert seen == {0.91, 0.99}  # a fifth of the range away, and not at its ends
    assert explore.changed({"learning_rate": 1e-2}, np.random.default_rng(3))["learning_rate"] <= 1e-2
    drawn = [explore.drawn(draw)["learning_rate"] for _ in range(200)]
    assert 1e-4 <= min(drawn) < 2e-4
    assert 5e-3 < max(drawn) <= 1e-2
    assert np.median(drawn) == pytest.approx(1e-3, rel=0.5)  # the middle of a log scale


def test_a_member_takes_over_all_that_another_has_learned_and_keeps_its_draws(bred: rlab.Run) -> None:
    rows = torch.arange(12.0).reshape(6, 2)  # two critics of each of three members
    take_rows(rows, [0, 0, 2])
    assert rows[:, 0].tolist() == [0.0, 2.0, 0.0, 2.0, 8.0, 10.0]
    with pytest.raises(ValueError, match="parents must keep what they have"):
        inherit(object(), [1, 0, 2])


@pytest.mark.parametrize("agent", ["ppo", "dqn", "sac"])
def test_what_a_member_takes_over_is_all_that_its_agent_has_learned(agent: str, tmp_path: Path) -> None:
    from rlab.jobs.session import Session

    session = Session(request(PBT, agent))
    learner = session.agent
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in learner.networks.values():
            for parameter in network.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=draw))
        for optimizer in learner.optimizers.values():
            for moments in optimizer.torch_optimizer.state.values():
                for value in moments.values():
                    value.copy_(torch.rand(value.shape, generator=draw) if value.dim() else value)
    before = learner.state()
    flat = {name: value.clone() for name, value in leaves(before).items()}
    inherit(learner, [0, 0, 2, 2])
    after = leaves(learner.state())
    own = [name for name, value in after.items() if not torch.equal(value, flat[name])]
    assert any("moment" in name or "exp_avg" in name for name in own)
    for name in own:
        rows = after[name].unflatten(0, (4, -1))
        assert torch.equal(rows[0], rows[1]), name
        assert torch.equal(rows[2], rows[3]), name
        assert torch.equal(rows[0], flat[name].unflatten(0, (4, -1))[0]), name
    learned = [name for name in after if name.startswith(("policy/network", "critic", "target"))]
    assert learned
    assert set(learned) <= {
        *own,
        *(name for name in learned if after[name].unflatten(0, (4, -1)).std(dim=0).sum() == 0),
    }
    session.close()


def leaves(state: Any, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {place: state} if state.dim() and state.shape[0] % 4 == 0 else {}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for name, value in items:
        found |= leaves(value, f"{place}/{name}" if place else str(name))
    return found


def test_each_exploit_is_on_record_and_the_schedule_of_a_member_follows_from_it(bred: rlab.Run) -> None:
    rows = lineage(bred)
    assert [row["time"] for row in rows] == [200, 400, 600, 800]  # one of four, not behind the last evaluation
    assert all(row["score"] <= row["parent_score"] and row["member"] != row["parent"] for row in rows)
    made_up = [
        {"time": 200, "member": 1, "parent": 0, "settings": {"gamma": 0.5}},
        {"time": 400, "member": 2, "parent": 1, "settings": {"gamma": 0.6}},
        {"time": 600, "member": 1, "parent": 3, "settings": {"gamma": 0.7}},
    ]
    first = [{"gamma": 0.1}, {"gamma": 0.2}, {"gamma": 0.3}, {"gamma": 0.4}]
    assert schedule_of(first, made_up, 2) == [[0, {"gamma": 0.1}], [200, {"gamma": 0.5}], [400, {"gamma": 0.6}]]
    assert schedule_of(first, made_up, 1) == [[0, {"gamma": 0.4}], [600, {"gamma": 0.7}]]
    assert schedule_of(first, made_up, 0) == [[0, {"gamma": 0.1}]]
    when, rates = bred.curve("optimizer/learning_rate")
    schedule = schedule_of(POPULATION, rows, rows[-1]["member"])
    assert when[-1] == 1000
    rate = schedule[-1][1]["learning_rate"] * 0.04  # it falls to 0 by when the last rollout began, 40 env steps before
    assert rates[rows[-1]["member"], -1] == pytest.approx(rate)


@pytest.mark.parametrize("stop_at", [300, 400])
def test_a_population_that_was_cut_goes_on_as_the_one_that_was_not(
    bred: rlab.Run, stop_at: int, tmp_path: Path
) -> None:
    class Stop:
        def on_metrics(self, env_steps: int, metrics: Any) -> bool:
            return env_steps < stop_at

    cut = start(request(PBT), tmp_path / "cut", False, listeners=[Stop()])
    assert cut.time == stop_at
    whole = rlab.resume(cut)
    assert lineage(whole) == lineage(bred)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert (whole.path / name).read_bytes() == (bred.path / name).read_bytes()


def test_a_schedule_is_replayed_on_fresh_seeds(bred: rlab.Run, tmp_path: Path) -> None:
    schedule = [[0, {"learning_rate": 1e-3, "gamma": 0.9}], [400, {"learning_rate": 1e-9, "gamma": 0.9}]]
    evolution = {"population": [schedule[0][1]] * 2, "schedule": schedule}
    run = start(request(evolution, seed=10, seeds=2, lr_schedule="constant"), tmp_path / "run", False)
    when, rates = run.curve("optimizer/learning_rate")
    np.testing.assert_allclose(rates[:, when < 400], 1e-3)
    np.testing.assert_allclose(rates[:, when > 400], 1e-9)
