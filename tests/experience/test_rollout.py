"""Rollouts: every row comes back in time order with its true successor, rollout after rollout, also after a resume."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import RlabError
from rlab.experience import storage_chunks as chunks_module
from rlab.experience.fields import Field

STYLES = ("same", "next", "disabled")
NAMES = ("row", "obs", "action", "reward", "terminated", "truncated", "valid")


def successors(batch):
    """`[S, N, T, 2]`: the next row of `obs`, or the hidden observation that `final_row` puts there."""
    found = batch["obs"][:, :, 1:].clone()
    flat = found.flatten(1, 2)
    for member, rows in enumerate(batch["final_row"]):
        for k, row in enumerate(rows.tolist()):
            if row < flat.shape[1]:
                flat[member, row] = batch["final_obs"][member, k]
    return flat.reshape(found.shape)


def check_rows(world, rollout, batch, cut=()):
    """The batch is exactly the newest T rows that happened, except that the rows (lane, time) in `cut` were cut."""
    steps = rollout.steps
    first = rollout.storage.rows_written - steps
    true_next = successors(batch)
    for (member, env), history in world.lanes.items():
        for t, row in enumerate(history[first : rollout.storage.rows_written]):
            at = member, env, t
            was_cut = ((member, env), first + t) in cut and not row.terminated and row.valid
            assert batch["obs"][at].tolist() == [row.obs, -row.obs]
            assert batch["row"][at].item() == (first + t) * world.num_envs + env
            assert batch["action"][at].item() == row.action
            assert batch["reward"][at].item() == row.reward
            assert batch["terminated"][at].item() is row.terminated
            assert batch["truncated"][at].item() is (row.truncated or was_cut)
            assert batch["valid"][at].item() is row.valid
            if row.valid:  # what a reset row led to does not matter
                assert true_next[at].tolist() == [row.next_obs, -row.next_obs]
    assert {name: tuple(value.shape[:3]) for name, value in batch.items() if not name.startswith("final")} == {
        name: (*world.shape, steps + (name == "obs")) for name in NAMES
    }


@st.composite
def worlds(draw, make_world):
    members, num_envs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ending = draw(st.sampled_from([0.0, 0.1, 0.3, 0.7]))
    return make_world(members, num_envs, draw(st.sampled_from(STYLES)), ending, draw(st.integers(0, 99)))


@given(st.data(), st.integers(1, 9), st.integers(1, 6))
def test_every_rollout_is_the_newest_rows_in_time_order(make_world, data, steps, rounds):
    world = data.draw(worlds(make_world))
    rollout = world.rollout(steps)
    for _ in range(rounds):  # the ring has steps + 1 slots: each rollout starts one slot further back
        for t in range(steps):
            assert rollout.full is (t == 0 and rollout.storage.rows_written > 0)
            world.play(1, rollout.storage)
        assert rollout.full
        batch = rollout.sample()
        check_rows(world, rollout, batch)
        assert torch.equal(batch["obs"][:, :, -1], torch.from_numpy(world.observed(world.ids)))


@pytest.mark.parametrize("style", STYLES)
def test_hidden_successors_are_listed_by_row_and_padded_with_a_row_that_is_none(make_world, style):
    world = make_world(3, 2, style, 0.3, seed=1)
    rollout = world.rollout(10)
    world.play(10, rollout.storage)
    batch = rollout.sample()
    hidden = [
        [n * 10 + t for n in range(2) for t, row in enumerate(world.lanes[s, n]) if row.terminated or row.truncated]
        for s in range(3)
    ]
    if style == "next":  # the reset row shows the final observation: nothing is hidden
        hidden = [[], [], []]
    most = max(map(len, hidden))
    assert batch["final_row"].tolist() == [rows + [20] * (most - len(rows)) for rows in hidden]
    assert len({len(rows) for rows in hidden}) > 1 or style == "next"  # some member was padded
    assert batch["final_obs"].shape == (3, most, 2)
    assert batch["final_row"].dtype == torch.int64
    for member, rows in enumerate(hidden):
        assert (batch["final_obs"][member, len(rows) :] == 0).all()


def test_a_rollout_in_which_nothing_ended_hides_nothing(make_world):
    world = make_world(2, 2, "same", 0.0)
    rollout = world.rollout(4)
    world.play(4, rollout.storage)
    batch = rollout.sample()
    assert batch["final_row"].shape == (2, 0)
    assert batch["final_obs"].shape == (2, 0, 2)
    assert batch["final_obs"].dtype == batch["obs"].dtype


def test_a_batch_keeps_its_rows_while_the_next_rollout_is_collected(make_world):
    world = make_world(2, 2, "same", 0.3)
    rollout = world.rollout(5)
    world.play(5, rollout.storage)
    batch = rollout.sample()
    before = {name: value.clone() for name, value in batch.items()}
    world.play(5, rollout.storage)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_dtypes_are_kept(make_world):
    world = make_world(1, 2, "same", 0.5, obs_dtype="uint8")
    rollout = world.rollout(6)
    world.play(6, rollout.storage)
    assert {name: value.dtype for name, value in rollout.sample().items()} == {
        "row": torch.int64,
        "obs": torch.uint8,
        "action": torch.int64,
        "reward": torch.float32,
        "terminated": torch.bool,
        "truncated": torch.bool,
        "valid": torch.bool,
        "final_obs": torch.uint8,
        "final_row": torch.int64,
    }


def test_extra_fields_travel_with_their_row(make_world):
    world = make_world(2, 3, "same", 0.3)
    rollout = world.rollout(4, further=(Field("serial", (2,), "int32"),))
    for t in range(12):
        serial = t * 6 + torch.arange(6).reshape(2, 3)
        rollout.storage.add(*world.played(), serial=torch.stack([serial, -serial], dim=-1))
    serial = torch.arange(8, 12) * 6 + torch.arange(6).reshape(2, 3, 1)
    assert torch.equal(rollout.sample()["serial"], torch.stack([serial, -serial], dim=-1).int())


def test_a_rollout_that_is_not_full_yet_says_so(make_world):
    world = make_world(1, 2, "same")
    rollout = world.rollout(5)
    world.play(4, rollout.storage)
    with pytest.raises(RlabError, match=r"the storage has 4 of the 5 rows of a rollout; collect before reading\."):
        rollout.sample()


def saved_and_loaded(rollout, empty):
    state, chunks = rollout.storage.state(), [chunk.arrays() for chunk in rollout.storage.chunks()]
    empty.storage.load(state, iter(chunks))
    return empty


@given(st.data(), st.integers(1, 9), st.integers(1, 30))
def test_saved_at_any_moment_a_rollout_goes_on_with_the_same_episodes(make_world, data, steps, moment):
    world = data.draw(worlds(make_world))
    rollout = world.rollout(steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "CHUNK_BYTES", data.draw(st.sampled_from([1, 200, 4 * 2**20])))
        world.play(moment, rollout.storage)
        again = saved_and_loaded(rollout, world.rollout(steps))
    assert again.full is rollout.full
    for _ in range(3):
        world.play(1, rollout.storage, again.storage)
        while not rollout.full:
            world.play(1, rollout.storage, again.storage)
        assert again.full
        one, other = rollout.sample(), again.sample()
        check_rows(world, again, other)
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@given(st.data(), st.integers(1, 9), st.integers(1, 30))
def test_fresh_episodes_after_a_load_and_a_cut_follow_those_under_way_as_behind_a_time_limit(
    make_world, data, steps, moment
):
    world = data.draw(worlds(make_world))
    rollout = world.rollout(steps)
    world.play(moment, rollout.storage)
    again = saved_and_loaded(rollout, world.rollout(steps))
    cut = [(lane, moment - 1) for lane in world.lanes]
    world.reset()
    again.storage.cut_episodes()
    for _ in range(2):
        world.play(1, again.storage)
        while not again.full:
            world.play(1, again.storage)
        check_rows(world, again, again.sample(), cut)
