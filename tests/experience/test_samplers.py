"""Samplers, alone and composed: batches are made of rows that happened, each with its id, and feedback finds them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import demonstrations_of
from rlab.experience.fields import Field
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.prioritised_sampler import FLOOR, PrioritisedSampler
from rlab.experience.samplers import UniformSampler
from rlab.experience.sequence_samplers import SequenceSampler, read_sequences
from rlab.networks.spaces import Box, Discrete

STYLES = ("same", "next", "disabled")
SERIAL = Field("serial", (), "int64")
SHOWN = 1_000_000  # demonstrated observations count from here


def play(world, storage, steps):
    """As `World.play`, with the number of each observation as the action and in the further fields."""
    further = [f.name for f in storage.fields[6:]]
    for _ in range(steps):
        ids = torch.from_numpy(world.ids.copy())
        storage.add(*world.played(lambda obs, ids=ids: ids), **dict.fromkeys(further, ids))


def lessons(lengths):
    """Recorded episodes: observation, action and reward say in which row of storage they stand, if all are taken."""
    episodes, first = [], SHOWN
    for length in lengths:
        ids = np.arange(first, first + length + 1)
        obs = np.stack([ids, -ids], axis=-1)
        episodes.append(Episode(obs, ids[:-1], (ids[:-1] - SHOWN).astype(np.float32), True, False))
        first += length + 1
    return Dataset("lessons", Box((2,), "int64", -1e9, 1e9), Discrete(2 * SHOWN), tuple(episodes))


def check_rows(world, batch, oldest):
    """Every row of the batch is one that happened or was shown, and says so in each of its fields."""
    held = {row.obs: (lane, t, row) for lane, rows in world.lanes.items() for t, row in enumerate(rows)}
    shown = batch.get("demonstration", torch.zeros_like(batch["row"], dtype=torch.bool))
    for s, b in np.ndindex(*batch["row"].shape):
        number = batch["action"][s, b].item()
        assert batch["obs"][s, b].tolist() == [number, -number]
        assert shown[s, b].item() is (number >= SHOWN)
        if number >= SHOWN:
            assert batch["row"][s, b].item() == batch["reward"][s, b, 0].item() == number - SHOWN
            assert batch["next_obs"][s, b].tolist() == [number + 1, -number - 1]
            continue
        (member, env), t, row = held[number]
        assert (member, row.valid) == (s, True)
        assert t >= oldest
        assert batch["row"][s, b].item() == t * world.num_envs + env
        assert batch["reward"][s, b].tolist() == [row.reward]
        assert batch["next_obs"][s, b].tolist() == [row.next_obs, -row.next_obs]


@given(st.data())
def test_composed_samplers_keep_every_row_s_id_and_give_feedback_to_the_row_that_it_is_about(make_world, draws, data):
    members, num_envs = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    world = make_world(members, num_envs, data.draw(st.sampled_from(STYLES)), 0.3, data.draw(st.integers(0, 99)))
    storage = world.storage(num_envs * data.draw(st.integers(3, 12)))
    demonstrations = demonstrations_of(lessons(data.draw(st.lists(st.integers(1, 6), min_size=1))), range(members))
    kind = data.draw(st.sampled_from([UniformSampler, PrioritisedSampler]))
    online, shown = (kind(rows, draws(members, i)) for i, rows in enumerate((storage, demonstrations)))
    share = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
    sampler = MixtureSampler(online, shown, share)
    assert sampler.draws_ahead is (kind is UniformSampler)
    for _ in range(4):
        play(world, storage, data.draw(st.integers(1, 9)))
        batch = sampler.sample(20)
        check_rows(world, batch, storage.rows_written - storage.rows)
        sampler.feedback(batch["row"], batch["action"])
        if kind is not UniformSampler:
            flags = batch["demonstration"]
            for part, chosen in ((online, ~flags), (shown, flags)):
                priority = part.tree.get(batch["row"] % part.size)
                expected = (batch["action"].double() + FLOOR) ** part.alpha
                assert torch.allclose(priority[chosen], expected[chosen], rtol=1e-12)  # two powers in float64


def begins_by_hand(rows, t, oldest):
    """Whether an episode, or a reset row, begins at time t of a lane; unknown for the oldest row held."""
    if t == 0:
        return True
    before = rows[t - 1]
    return t > oldest and (before.terminated or before.truncated or not before.valid)


@given(st.data())
def test_every_sequence_is_the_rows_of_one_lane_in_time_order(make_world, draws, data):
    members, num_envs, length = (data.draw(st.integers(1, top)) for top in (2, 3, 6))
    world = make_world(members, num_envs, data.draw(st.sampled_from(STYLES)), 0.3, data.draw(st.integers(0, 99)))
    storage = world.storage(num_envs * data.draw(st.integers(length, 12)), (SERIAL,))
    play(world, storage, data.draw(st.integers(length, 30)))
    batch = SequenceSampler(storage, draws(members), length).sample(12)
    oldest = storage.rows_written - storage.rows
    assert batch["obs"].shape == (members, 12, length, 2)
    for s, b in np.ndindex(members, 12):
        time, env = divmod(batch["row"][s, b].item(), num_envs)
        rows = world.lanes[s, env]
        assert oldest <= time <= storage.rows_written - length
        for k, row in enumerate(rows[time : time + length]):
            at = s, b, k
            assert batch["serial"][at].item() == batch["action"][at].item() == batch["obs"][at][0].item() == row.obs
            assert batch["reward"][at].item() == row.reward
            for name in ("terminated", "truncated", "valid"):
                assert batch[name][at].item() is getattr(row, name)
            if row.valid:
                assert batch["next_obs"][at].tolist() == [row.next_obs, -row.next_obs]
            assert batch["begins"][at].item() is begins_by_hand(rows, time + k, oldest)


def test_every_window_that_is_held_is_drawn_equally_often(make_world, draws):
    world = make_world(1, 2, "same", 0.3)
    storage = world.storage(20)
    world.play(33, storage)
    row = SequenceSampler(storage, draws(1), 4).sample(14_000)["row"][0]
    assert row.unique().tolist() == list(range(23 * 2, 30 * 2))  # times 23 to 29 of two lanes; rows 23 to 32 are held
    count = np.bincount(row - 46)
    assert (np.square(count - 1000) / 1000).sum() < 34.5  # chi-squared, 13 degrees of freedom, p = 0.001


def test_a_sequence_longer_than_what_is_held_cannot_be_drawn(make_world, draws):
    world = make_world(1, 1, "same")
    storage = world.storage(10)
    world.play(3, storage)
    sampler = SequenceSampler(storage, draws(1), 4)
    with pytest.raises(RlabError, match=r"the storage has 3 of the 4 rows of a sequence; raise --learning-starts\."):
        sampler.check()


def test_sequences_of_demonstrations_stay_within_a_member_s_own_rows_and_do_not_depend_on_the_other_members():
    data = lessons([2, 3, 40])
    parts = [demonstrations_of(data, seeds, 1) for seeds in ((0,), (0, 1))]
    lengths = [len(own) for own in parts[1].own_rows]
    assert lengths[0] != lengths[1]
    alone, beside = (
        SequenceSampler(shown, Draws(range(shown.members), "demonstrations", "cpu"), 2).sample(50) for shown in parts
    )
    assert all(torch.equal(alone[name], beside[name][:1]) for name in alone)
    assert beside["valid"].all()
    assert beside["demonstration"].all()


def test_a_window_begins_an_episode_where_the_one_before_was_recorded_last():
    shown = demonstrations_of(lessons([2, 3]), (0,))
    begins = read_sequences(shown, torch.tensor([[0]]), 6)
    assert begins["valid"].tolist() == [[[True, True, False, True, True, True]]]
    assert begins["begins"].tolist() == [[[True, False, True, True, False, False]]]
