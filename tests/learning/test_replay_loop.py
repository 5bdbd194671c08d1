"""The loop of agents that learn from replay: how often it learns, reports, judges and saves, for any number of envs."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.experience.samplers import read_windows
from rlab.experience.storage import Storage
from rlab.learning import loop as loop_module
from rlab.learning.base_loop import JudgementError, Periods
from rlab.learning.contract import Batch, Now, Updated, updates_due
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.parameter_groups import ParameterGroup
from rlab.learning.programs import Captured, Programs
from rlab.runs.logs import MetricsLog, read_json_lines
from rlab.types import Clock

NUM_ENVS = (1, 3, 8, 16)


def updates_by_hand(config: SimpleNamespace, before: int, now: int) -> int:
    """Env step by env step: one round of updates at each multiple of `learn_every` from `learning_starts` on."""
    due = [t for t in range(before + 1, now + 1) if t >= config.learning_starts and t % config.learn_every == 0]
    return len(due) * config.updates_per_learn


@given(
    num_envs=st.sampled_from(NUM_ENVS),
    vector_steps=st.integers(0, 60),
    learning_starts=st.integers(0, 200),
    learn_every=st.integers(1, 50),
    updates_per_learn=st.integers(1, 5),
)
def test_updates_due_equals_a_count_env_step_by_env_step(
    num_envs: int, vector_steps: int, learning_starts: int, learn_every: int, updates_per_learn: int
) -> None:
    config = SimpleNamespace(
        learning_starts=learning_starts, learn_every=learn_every, updates_per_learn=updates_per_learn
    )
    before = vector_steps * num_envs
    assert updates_due(config, before, before + num_envs) == updates_by_hand(config, before, before + num_envs)


@pytest.mark.parametrize("num_envs", NUM_ENVS)
@pytest.mark.parametrize(("starts", "every", "per_learn"), [(0, 1, 1), (50, 4, 3), (33, 7, 2), (7, 5, 1)])
def test_the_updates_of_a_whole_run_are_the_formula_for_any_number_of_envs(
    small: SimpleNamespace, num_envs: int, starts: int, every: int, per_learn: int
) -> None:
    settings = {"learning_starts": starts, "learn_every": every, "updates_per_learn": per_learn}
    loop = small.loop(240, num_envs=num_envs, **settings)
    assert loop.run()
    assert loop.clock.env_steps == 240
    # multiples of learn_every in [learning_starts, 240]
    rounds = 240 // every - max(starts - 1, 0) // every
    assert loop.updates == len(loop.agent.updated_at) == rounds * per_learn
    assert min(loop.agent.updated_at) >= starts


def test_a_budget_that_is_no_multiple_of_the_envs_is_used_in_full(small: SimpleNamespace) -> None:
    loop = small.loop(100, num_envs=16)
    assert loop.run()
    assert loop.clock.env_steps == 112
    assert loop.clock.progress == 1.0


@pytest.mark.parametrize("num_envs", NUM_ENVS)
def test_reports_evaluations_and_saves_come_when_their_period_is_crossed(small: SimpleNamespace, num_envs: int) -> None:
    diary = small.Diary()
    small.loop(240, num_envs=num_envs, periods=(30, 50, 100), listeners=[diary]).run()

    def crossings(every: int) -> list[int]:
        steps = range(num_envs, 241, num_envs)
        return [t for t in steps if any(u % every == 0 for u in range(t - num_envs + 1, t + 1))]

    assert list(diary.metrics) == sorted({*crossings(30), 240})
    assert diary.evaluated == sorted({*crossings(50), 240})
    assert diary.saved == [*crossings(100), 240, 240]  # at the end before it is judged, and after


def test_metrics_are_means_since_the_last_report_and_counts_since_the_start(small: SimpleNamespace) -> None:
    diary = small.Diary()
    small.loop(40, num_envs=2, periods=(20, 10**9, 10**9), listeners=[diary], learn_every=2).run()
    first, second = diary.metrics[20], diary.metrics[40]
    assert first["loss"].tolist() == [5.5, 5.5]  # updates 1 to 10
    assert second["loss"].tolist() == [15.5, 15.5]  # updates 11 to 20
    assert second["train/updates"] == 20
    assert second["train/transitions"].tolist() == [40, 40]
    assert second["train/episodes"].tolist() == [8, 8]  # 2 envs, 20 steps each, 5 an episode
    assert second["train/episode_return"].tolist() == [5, 5]
    assert second["explore/progress"] == 1.0


def test_an_update_may_report_any_metrics_and_a_mean_is_over_those_that_reported(
    small: SimpleNamespace, tmp_path: Path
) -> None:
    class Delayed(small.NotingAgent):  # type: ignore[misc, name-defined]
        """Reports nothing at first, and `loss/actor` at every third update."""

        def update(self, batch: Batch, now: Now) -> Updated:
            loss, number = super().update(batch, now).metrics["loss"], len(self.updated_at)
            metrics = {"loss/critic": loss} if number > 1 else {}
            return Updated(metrics | ({"loss/actor": loss} if number % 3 == 0 else {}))

    diary = small.Diary()
    log = MetricsLog(tmp_path, (3, 4), iqm=np.mean, summarise=lambda x: (0.0, 0.0, 0.0), tables=True)
    loop = small.loop(20, periods=(5, 10**9, 10**9), listeners=[diary, log], agent=Delayed, learn_every=5)
    loop.run()
    log.close()
    means = [
        {tag: value.tolist() for tag, value in row.items() if tag.startswith("loss/")} for row in diary.metrics.values()
    ]
    critic = [{}, {"loss/critic": [2, 2]}, {"loss/critic": [3, 3]}, {"loss/critic": [4, 4]}]
    assert means == [*critic[:2], critic[2] | {"loss/actor": [3, 3]}, critic[3]]
    written = read_json_lines(tmp_path / "metrics.jsonl")[1]
    assert [row.get("loss/actor") for row in written] == [None, None, [3, 3], None]
    table = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert [row["loss/actor"] for row in table] == ["", "", "", "", "3.0", "3.0", "", ""]

    diary = small.Diary()
    small.loop(6, periods=(6, 10**9, 10**9), listeners=[diary], agent=Delayed, updates_per_learn=5).run()
    assert diary.metrics[6]["loss/critic"].tolist() == [16, 16]  # updates 2 to 30
    assert diary.metrics[6]["loss/actor"].tolist() == [16.5, 16.5]  # updates 3, 6, ..., 30


class Queue:
    """A sampler of one's own: the rows in the order in which they were written, `feedback` in `heard`."""

    draws_ahead = False

    def __init__(self, storage: Storage) -> None:
        self.storage, self.next = storage, 0
        self.heard: list[tuple[list[Any], list[Any]]] = []

    def sample(self, batch_size: int) -> Batch:
        row = torch.arange(self.next, self.next + batch_size).repeat(self.storage.members, 1)
        self.next += batch_size
        return read_windows(self.storage, row)

    def feedback(self, row: Tensor, value: Tensor) -> None:
        self.heard.append((row.tolist(), value.tolist()))

    def check(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def test_an_agent_brings_its_own_sampler_which_hears_of_every_row_what_the_update_gives(small: SimpleNamespace) -> None:
    class Answering(small.NotingAgent):  # type: ignore[misc, name-defined]
        def sampler(self, storage: Storage, draws: Draws) -> Queue:
            return Queue(storage)

        def update(self, batch: Batch, now: Now) -> Updated:
            return Updated(super().update(batch, now).metrics, feedback=batch["obs"][..., 0] * 10)

    settings = {"batch_size": 2, "learning_starts": 6, "learn_every": 4, "updates_per_learn": 2, "agent": Answering}
    loop = small.loop(12, num_envs=2, **settings)
    loop.run()
    # two updates each at env steps 8 and 12; the rows of vector step t, which the env shows, are 2 t and 2 t + 1
    assert loop.sampler.heard == [([[2 * t, 2 * t + 1]] * 2, [[10.0 * t, 10.0 * t]] * 2) for t in range(4)]
    assert loop.agent.prepared == [2] * 4
    assert loop.state()["sampler"] == {"next": 8}


def test_a_member_without_a_finished_episode_reports_nan(small: SimpleNamespace) -> None:
    diary = small.Diary()
    small.loop(4, periods=(4, 10**9, 10**9), listeners=[diary]).run()
    assert np.isnan(diary.metrics[4]["train/episode_return"]).all()


def test_should_stop_ends_the_run_with_a_save(small: SimpleNamespace) -> None:
    diary = small.Diary()
    answers = iter([False] * 6 + [True])
    loop = small.loop(1000, num_envs=8, listeners=[diary], should_stop=lambda: next(answers))
    assert not loop.run()
    assert loop.clock.env_steps == 56
    assert diary.saved == [56]
    assert diary.evaluated == []


@pytest.mark.parametrize(("rows", "prepared"), [(8192, [24] * 3), (33, [16, 8] * 3), (1, [4] * 18)])
def test_batches_prepared_together_are_the_ones_made_one_by_one(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rows: int, prepared: list[int]
) -> None:
    settings = {"learning_starts": 20, "learn_every": 20, "updates_per_learn": 6}  # batches of 4 for each of 2 members
    plain, limited = small.loop(60, **settings), small.loop(60, **settings)
    plain.run()
    monkeypatch.setattr(loop_module, "PREPARED_ROWS", rows)
    limited.run()
    assert limited.agent.prepared == prepared
    assert torch.equal(torch.stack(plain.agent.drawn), torch.stack(limited.agent.drawn))


def test_one_draw_takes_no_more_bytes_than_allowed(small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "DRAWN_BYTES", 2 * 4 * 8)  # two batches of 4, obs and next_obs of 4 bytes each
    loop = small.loop(20, learning_starts=20, learn_every=20, updates_per_learn=5)
    loop.run()
    assert loop.agent.prepared == [8, 8, 4]


def test_a_member_draws_the_same_batches_beside_any_others(small: SimpleNamespace) -> None:
    alone, beside = small.loop(50, seeds=(7,)), small.loop(50, seeds=(1, 7, 9))
    alone.run()
    beside.run()
    assert torch.equal(torch.stack(alone.agent.drawn)[:, 0], torch.stack(beside.agent.drawn)[:, 1])
    assert not torch.equal(torch.stack(beside.agent.drawn)[:, 0], torch.stack(beside.agent.drawn)[:, 1])


def test_a_loop_goes_on_from_its_state(small: SimpleNamespace) -> None:
    first = small.loop(50, num_envs=2)
    first.run()
    second = small.loop(80, num_envs=2)
    second.storage.load(first.storage.state(), (chunk.arrays() for chunk in first.storage.chunks()))
    second.load_state(first.state())
    assert (second.clock.env_steps, second.updates) == (50, 50)
    assert second.run()
    assert (second.clock.env_steps, second.updates) == (80, 80)
    assert second.collector.transitions.tolist() == [80, 80]
    assert second.agent.updated_at[0] == 52


def test_an_evaluation_that_is_interrupted_is_made_up_for_when_the_run_goes_on(small: SimpleNamespace) -> None:
    diary, stop = small.Diary(), []
    loop = small.loop(100, periods=(1000, 40, 1000), listeners=[diary], should_stop=lambda: bool(stop))
    # Ctrl+C in the middle of it: there is no result
    loop.host = replace(loop.host, evaluate=lambda: stop.append(True))
    assert not loop.run()
    assert (diary.saved, diary.evaluated) == ([40], [])

    again = small.loop(100, periods=(1000, 40, 1000), listeners=[diary])
    again.load_state(loop.state())
    again.run()
    assert diary.evaluated == [40, 80, 100]  # the one at 40 before anything else is learned


def test_an_evaluation_that_fails_comes_after_a_save(small: SimpleNamespace) -> None:
    diary = small.Diary()
    loop = small.loop(100, periods=(1000, 40, 1000), listeners=[diary])

    def fail() -> None:
        assert diary.saved == saved
        raise RlabError("port in use")

    # in the middle of training it is saved as soon as judging has failed
    loop.host, saved = replace(loop.host, evaluate=fail), []
    with pytest.raises(JudgementError, match="port in use"):
        loop.run()
    assert (diary.saved, loop.state()["judgement_due"]) == ([40], True)
    saved = [40, 100]  # at the end, and where a checkpoint is due, before
    loop.periods = Periods(1000, 100, 1000)
    loop.judgement_due = False
    with pytest.raises(JudgementError, match="port in use"):
        loop.run()
    assert diary.saved == [40, 100]


class Watched(Programs):
    """Cycles of up to 4 vector steps; notes how often they go out of date, and whether one is under way."""

    cycle_steps = (4,)

    def __init__(self) -> None:
        self.under_way, self.forgotten = False, 0
        self.cycles: list[int] = []

    def capture(self, key: Any, function: Callable[[], Any]) -> Captured:
        if key[0] == "learn":
            return super().capture(key, function)
        self.under_way = True
        self.cycles.append(key[0])
        captured = super().capture(key, function)
        self.under_way = False
        return captured

    def forget(self) -> None:
        self.forgotten += 1


class Told(StackedOptimizer):
    """Notes the times that it is told: what is captured would tell them but once."""

    def __init__(self, programs: Watched, begins_at: int) -> None:
        weights = [nn.Parameter(torch.ones(2, 1)) for _ in range(2)]
        late = ParameterGroup("late", (weights[0],), begins_at=begins_at)
        super().__init__(OptimizerSettings(), [late, ParameterGroup("other", (weights[1],))])
        self._programs, self.times, self.forgotten_at = programs, list[int](), list[int]()

    def at(self, clock: Clock) -> bool:
        assert not self._programs.under_way
        self.times.append(clock.env_steps)
        changed = super().at(clock)
        self.forgotten_at += [clock.env_steps] if changed else []
        return changed


@pytest.mark.parametrize("begins_at", [20, 21, 22, 23, 24, 25])
def test_a_group_begins_at_its_step_outside_of_what_is_captured_which_is_out_of_date_then(
    small: SimpleNamespace, begins_at: int
) -> None:
    loop = small.loop(60, learning_starts=4)
    loop.programs, loop.collector.env.on_host = Watched(), False
    optimizer = Told(loop.programs, begins_at)
    loop.agent.optimizers = {"all": optimizer}
    loop.run()
    assert optimizer.forgotten_at == [begins_at]
    assert loop.programs.forgotten == 1
    assert begins_at in optimizer.times
    assert loop.programs.cycles.count(4) >= 11  # of 56 steps
    assert sum(loop.programs.cycles) == 60 - 4  # until the first update nothing is captured
    assert loop.updates == 57


class Sized(Watched):
    """Cycles of 8, 4 and single vector steps."""

    cycle_steps = (8, 4, 1)


def test_a_cycle_is_as_long_as_fits_before_the_next_report_and_begins_at_a_multiple_of_its_length(
    small: SimpleNamespace,
) -> None:
    loop = small.loop(60, learning_starts=4, periods=(30, 1000, 1000))
    loop.programs, loop.collector.env.on_host = Sized(), False
    loop.run()
    # from 4 to 8, 16, 24, 28, the report at 30, 32, 40, 48, 56 and the end
    assert loop.programs.cycles == [4, 8, 8, 4, 1, 1, 1, 1, 8, 8, 8, 4]
