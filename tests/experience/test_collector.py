"""The collector's books against an independent recount of the very same rows."""

import numpy as np
import pytest
import torch

from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.env_contract import Step
from rlab.experience.episode_counts import Episode


def collector_of(world, looked=1):
    return Collector(HostEnv(world, torch.device("cpu")), looked)


def advance(collector, action, state=None):
    """One vector step, as the loop makes it; the host does not look for finished episodes."""
    step = collector.env.step(action)
    collector.take(step, state or {})
    collector.took(1, not step.none_ended)
    return step


def zeros(world):
    return torch.zeros(world.shape, dtype=torch.int64)


def recount(world):
    """Finished episodes, per lane in order of time with the time, and transitions per member, by the plain record."""
    finished, transitions = {}, [0] * world.members
    for (member, env), rows in world.lanes.items():
        finished[member, env], episode = [], []
        for t, row in enumerate(rows):
            if not row.valid:
                continue  # a reset row
            transitions[member] += 1
            episode.append(row.reward)
            if row.terminated or row.truncated:
                finished[member, env].append((t, sum(episode), len(episode)))
                episode = []
    return finished, transitions


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("looked", [1, 7])
def test_returns_lengths_and_counts_equal_an_independent_recount(make_world, seed, style, looked):
    world = make_world(3, 4, style, 0.15, seed)
    collector = collector_of(world, looked)
    collector.start()
    reported = []
    for t in range(200):
        advance(collector, torch.from_numpy(world.rng.integers(10, size=world.shape)))
        if t % looked == looked - 1 or t == 199:
            reported += [(t - e.steps_ago, e) for e in collector.finished()]
    finished, transitions = recount(world)
    assert collector.transitions.tolist() == transitions
    assert [t for t, _ in reported] == sorted(t for t, _ in reported)
    for member in range(3):
        expected = [episode for env in range(4) for episode in finished[member, env]]
        assert collector.episodes[member] == len(expected) > 50
        for env in range(4):
            told = [(t, e.episode_return, e.length) for t, e in reported if (e.member, e.env) == (member, env)]
            assert told == finished[member, env]  # rewards are eighths: sums are exact


def test_a_look_at_nothing_and_a_look_behind_steps_in_which_nothing_ended_find_no_episode(make_world):
    world = make_world(1, 2, "same", 1.0)
    collector = collector_of(world, 3)
    collector.start()
    assert collector.finished() == []
    advance(collector, zeros(world))
    assert [e.steps_ago for e in collector.finished()] == [0, 0]
    assert collector.finished() == []
    world.ending = 0.0
    for _ in range(3):  # the whole ring is written over
        advance(collector, zeros(world))
    assert collector.finished() == []
    advance(collector, zeros(world))
    world.ending = 1.0
    advance(collector, zeros(world))
    advance(collector, zeros(world))
    assert [(e.steps_ago, e.length) for e in collector.finished()] == [(1, 5), (1, 5), (0, 1), (0, 1)]


def test_an_episode_whose_return_is_not_a_number_is_reported_all_the_same(make_world):
    collector = collector_of(make_world(1, 2, "same"))
    collector.start()
    obs, yes, no = torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2) > 0, torch.ones(1, 2) < 0
    collector.take(Step(obs, obs, torch.tensor([[torch.nan, 1.0]]), yes, no, yes), {})
    collector.took(1, True)
    (first, second) = collector.finished()
    assert np.isnan(first.episode_return)
    assert second == Episode(0, 1, 1.0, 1)


@pytest.mark.parametrize("style", ["same", "next"])
def test_what_comes_next_is_what_the_step_led_to_and_a_copy_of_it(make_world, style):
    world = make_world(2, 2, style, 0.3)
    collector = collector_of(world)
    collector.start()
    memory = collector.obs.data_ptr()
    for t in range(50):
        obs = collector.obs.clone()
        step = advance(collector, obs[..., 0] % 10)
        assert torch.equal(collector.obs, step.obs)
        for lane, rows in world.lanes.items():
            row = rows[t]
            assert (obs[lane][0], obs[lane][0] % 10, step.next_obs[lane][0]) == (row.obs, row.action, row.next_obs)
            assert (step.reward[lane], bool(step.valid[lane])) == (row.reward, row.valid)
        step.obs[:] = -1  # as an agent may in `observe`
    collector.start()
    assert collector.obs.data_ptr() == memory  # a program that has it goes on working


def test_a_resumed_collector_counts_on_and_forgets_the_episode_under_way(make_world):
    world = make_world(1, 2, "same", 0.0)
    collector = collector_of(world)
    collector.start()
    for _ in range(5):
        advance(collector, zeros(world))
    saved = collector.state() | {"episodes": np.array([7])}
    again = collector_of(make_world(1, 2, "same", 1.0))  # ends at once
    again.load_state(saved)
    again.start()
    advance(again, zeros(world))
    assert [e.length for e in again.finished()] == [1, 1]
    assert again.transitions.tolist() == [10 + 2]
    assert again.episodes.tolist() == [7 + 2]
    assert saved["transitions"].tolist() == [10]  # the state was a copy
    assert again.env.env.seen > collector.env.env.seen  # the env's own state came along


def test_a_start_in_mid_episode_begins_the_sums_anew(make_world):
    world = make_world(1, 1, "same", 0.0)
    collector = collector_of(world)
    collector.start()
    advance(collector, zeros(world))
    assert collector.finished() == []
    collector.start()
    world.ending = 1.0
    advance(collector, zeros(world))
    assert collector.finished() == [Episode(0, 0, world.lanes[0, 0][-1].reward, 1)]


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
def test_the_state_is_carried_through_an_episode_and_begins_anew_with_the_next(make_world, style):
    world = make_world(2, 3, style, 0.2, seed=4)
    collector, seen = collector_of(world), []
    collector.start({"0.steps": torch.full((2, 3, 1), 100)})
    for _ in range(80):
        seen.append(collector.carried["0.steps"][..., 0].clone())
        advance(collector, zeros(world), {"0.steps": collector.carried["0.steps"] + 1})
    for lane, rows in world.lanes.items():
        steps = 100
        for given, row in zip(seen, rows, strict=True):
            if not row.valid:  # a reset row: what the agent does there is ignored, and so is its state
                steps = 100
                continue
            assert given[lane] == steps
            steps = 100 if row.terminated or row.truncated else steps + 1
    assert sum(row.terminated or row.truncated for rows in world.lanes.values() for row in rows) > 40


def test_a_start_sets_the_state_of_every_row_to_the_initial_one_in_the_same_memory(make_world):
    world = make_world(1, 2, "same", 0.0)
    collector, seen, memory = collector_of(world), [], set()
    initial = {"0.steps": torch.zeros(1, 2, 1)}
    for _ in range(2):
        collector.start(initial)
        for _ in range(3):
            seen.append(collector.carried["0.steps"][..., 0].tolist())
            memory.add(collector.carried["0.steps"].data_ptr())
            advance(collector, zeros(world), {"0.steps": collector.carried["0.steps"] + 1})
    assert seen == [[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]]] * 2
    assert len(memory) == 1
    assert initial["0.steps"].tolist() == [[[0.0], [0.0]]]
