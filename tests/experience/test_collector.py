"""The collector's books against an independent recount of the very same rows."""

import numpy as np
import pytest
import torch

from rlab.experience.collector import Collector, Episode
from rlab.experience.env_contract import Acted


def recount(world):
    """Finished episodes, per lane in order of time, and transitions per member, read off the plain record."""
    finished, transitions = {}, [0] * world.members
    for (member, env), rows in world.lanes.items():
        finished[member, env], episode = [], []
        for row in rows:
            if not row.valid:
                continue  # a reset row
            transitions[member] += 1
            episode.append(row.reward)
            if row.terminated or row.truncated:
                finished[member, env].append((sum(episode), len(episode)))
                episode = []
    return finished, transitions


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
@pytest.mark.parametrize("seed", range(4))
def test_returns_lengths_and_counts_equal_an_independent_recount(make_world, seed, style):
    world = make_world(3, 4, style, 0.15, seed)
    collector = Collector(world)
    collector.start()
    reported = []
    for _ in range(200):
        reported += collector.collect(lambda obs, state: Acted(world.rng.integers(10, size=obs.shape[:2])))[3]
    finished, transitions = recount(world)
    assert collector.transitions.tolist() == transitions
    for member in range(3):
        expected = [episode for env in range(4) for episode in finished[member, env]]
        assert collector.episodes[member] == len(expected) > 50
        for env in range(4):
            told = [(e.episode_return, e.length) for e in reported if (e.member, e.env) == (member, env)]
            assert told == finished[member, env]  # rewards are eighths: sums are exact


@pytest.mark.parametrize("style", ["same", "next"])
def test_each_row_is_handed_on_with_what_was_acted_on(make_world, style):
    world = make_world(2, 2, style, 0.3)
    collector = Collector(world)
    collector.start()
    for t in range(50):
        shown = []
        obs, (action, *_), step, _ = collector.collect(
            lambda obs, state, shown=shown: Acted(shown.append(obs) or obs[..., 0] % 10)
        )
        assert (shown[0] == obs).all()
        assert (action == obs[..., 0] % 10).all()
        assert (collector.obs == step.obs).all()
        for lane, rows in world.lanes.items():
            row = rows[t]
            assert (obs[lane][0], action[lane], step.next_obs[lane][0]) == (row.obs, row.action, row.next_obs)
            assert (step.reward[lane], bool(step.valid[lane])) == (row.reward, row.valid)


def test_an_agent_that_changes_what_it_is_given_changes_neither_what_is_stored_nor_what_comes_next(make_world):
    world = make_world(2, 2, "same", 0.3)
    collector = Collector(world)
    collector.start()

    def act(obs, state):
        action = obs[..., 0] % 10
        obs[:] = -1
        return Acted(action)

    for t in range(20):
        obs, (action, *_), step, _ = collector.collect(act)
        for lane, rows in world.lanes.items():
            assert (obs[lane][0], action[lane]) == (rows[t].obs, rows[t].action)
        step.obs[:] = -1  # as an agent may in `observe`


def test_a_resumed_collector_counts_on_and_forgets_the_episode_under_way(make_world):
    world = make_world(1, 2, "same", 0.0)
    collector = Collector(world)
    collector.start()
    for _ in range(5):
        collector.collect(lambda obs, state: Acted(np.zeros((1, 2), int)))
    collector.episodes[:] = 7
    again = Collector(make_world(1, 2, "same", 1.0))  # ends at once
    again.load_state(collector.state())
    again.start()
    episodes = again.collect(lambda obs, state: Acted(np.zeros((1, 2), int)))[3]
    assert [e.length for e in episodes] == [1, 1]
    assert again.transitions.tolist() == [10 + 2]
    assert again.episodes.tolist() == [7 + 2]
    assert collector.transitions.tolist() == [10]  # the state was a copy
    assert again.env.seen > collector.env.seen  # the env's own state came along


def test_a_start_in_mid_episode_begins_the_sums_anew(make_world):
    world = make_world(1, 1, "same", 0.0)
    collector = Collector(world)
    collector.start()
    collector.collect(lambda obs, state: Acted(np.zeros((1, 1), int)))
    collector.start()
    world.ending = 1.0
    assert collector.collect(lambda obs, state: Acted(np.zeros((1, 1), int)))[3] == [
        Episode(0, 0, world.lanes[0, 0][-1].reward, 1),
    ]


def count_steps(seen):
    """`act` of an agent whose state counts the steps of each episode, in every lane; `seen` gets what it was given."""

    def act(obs, state):
        seen.append(state["0.steps"][..., 0].numpy().copy())
        return Acted(np.zeros(obs.shape[:2], int), state={"0.steps": state["0.steps"] + 1})

    return act


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
def test_the_state_is_carried_through_an_episode_and_begins_anew_with_the_next(make_world, style):
    world = make_world(2, 3, style, 0.2, seed=4)
    collector, seen = Collector(world), []
    collector.start({"0.steps": torch.full((2, 3, 1), 100)})
    for _ in range(80):
        collector.collect(count_steps(seen))
    for lane, rows in world.lanes.items():
        steps = 100
        for given, row in zip(seen, rows, strict=True):
            if not row.valid:  # a reset row: what the agent does there is ignored, and so is its state
                steps = 100
                continue
            assert given[lane] == steps
            steps = 100 if row.terminated or row.truncated else steps + 1
    assert sum(row.terminated or row.truncated for rows in world.lanes.values() for row in rows) > 40


def test_a_start_sets_the_state_of_every_row_to_the_initial_one(make_world):
    collector, seen = Collector(make_world(1, 2, "same", 0.0)), []
    for _ in range(2):
        collector.start({"0.steps": torch.zeros(1, 2, 1)})
        for _ in range(3):
            collector.collect(count_steps(seen))
    assert [given.tolist() for given in seen] == [[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]]] * 2
