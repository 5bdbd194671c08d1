"""Replay: rows never mix, only the newest are drawn, each as often as any other, and memory is what was promised."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.experience import fields as fields_module
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler
from rlab.experience.storage import Storage

STYLES = ("same", "next", "disabled")


def sample(storage, streams, batch_size, n_step=1):
    return UniformSampler(storage, streams, n_step).sample(batch_size)


def where_from(world):
    """Observation -> (lane, time): every observation is acted on once."""
    return {row.obs: (lane, t) for lane, rows in world.lanes.items() for t, row in enumerate(rows)}


def check_rows(world, storage, batch):
    """Every sampled row, with one transition per window, is exactly one that happened and that is still to be held."""
    index = where_from(world)
    oldest = storage.rows_written - storage.rows
    for s, b in np.ndindex(batch["action"].shape):
        obs = batch["obs"][s, b].tolist()
        (member, env), t = index[obs[0]]
        row = world.lanes[member, env][t]
        assert member == s
        assert t >= oldest
        assert row.valid
        assert obs == [row.obs, -row.obs]
        assert batch["next_obs"][s, b].tolist() == [row.next_obs, -row.next_obs]
        assert batch["action"][s, b].item() == row.action
        assert batch["reward"][s, b].tolist() == [row.reward]
        assert batch["terminated"][s, b].item() is row.terminated
        assert batch["truncated"][s, b].item() is row.truncated
        assert batch["steps"][s, b].item() == 1
        assert batch["row"][s, b].item() == t * world.num_envs + env


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(12))
def test_rows_never_mix_and_only_the_newest_are_drawn(make_world, streams, seed, style):
    rng = np.random.default_rng(seed)
    members, num_envs = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    world = make_world(members, num_envs, style, rng.uniform(0, 0.4), seed)
    lane_rows = int(rng.integers(2, 25))
    storage = world.storage(lane_rows * num_envs + int(rng.integers(num_envs)))  # a remainder holds no row
    draws = streams(members, seed)
    for chunk in rng.integers(1, 12, size=12):  # 12 to 132 rows: several times round
        world.play(int(chunk), storage)
        assert storage.rows == min(storage.rows_written, lane_rows)
        valid = [[row.valid for row in world.lanes[lane][-storage.rows :]] for lane in np.ndindex(members, num_envs)]
        assert storage.transitions.tolist() == np.reshape(valid, (members, -1)).sum(axis=1).tolist()
        if storage.transitions.all():
            check_rows(world, storage, sample(storage, draws, 20))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.lists(st.integers(0, 20), max_size=4), st.data())
def test_any_sizes_any_number_of_adds(make_world, streams, members, num_envs, lane_rows, chunks, data):
    world = make_world(members, num_envs, data.draw(st.sampled_from(STYLES)), 0.3, data.draw(st.integers(0, 9)))
    storage = world.storage(lane_rows * num_envs)
    for chunk in chunks:
        world.play(chunk, storage)
    if storage.rows and storage.transitions.all():
        check_rows(world, storage, sample(storage, streams(members), 8))


def test_every_held_transition_is_drawn_equally_often(make_world, streams):
    world = make_world(2, 3, "next", 0.2)
    storage = world.storage(3 * 20)
    world.play(50, storage)
    draws = 60_000
    drawn = sample(storage, streams(2), draws)["obs"][..., 0]
    for s in range(2):
        held = {row.obs for n in range(3) for row in world.lanes[s, n][-20:] if row.valid}
        seen, counts = drawn[s].unique(return_counts=True)
        assert set(seen.tolist()) == held  # no reset row, nothing overwritten, nothing left out
        expected = draws / len(held)
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        freedom = len(held) - 1  # mean of chi-square; its standard deviation is sqrt(2 * freedom)
        assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_a_members_draws_do_not_depend_on_the_others(make_world, streams):
    world = make_world(3, 2, "next", 0.3)
    together, alone = world.storage(40), make_world(1, 2, "next").storage(40)
    for _ in range(60):
        obs, action = world.observed(world.ids), world.rng.integers(10, size=world.shape)
        step = world.step(action)
        together.add(obs, action, step)
        parts = (step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid)
        alone.add(obs[1:2], action[1:2], type(step)(*(part[1:2] for part in parts)))
    beside = sample(together, streams(3), 500, n_step=3)
    by_itself = sample(alone, streams(3)[1:2], 500, n_step=3)
    for name, value in by_itself.items():
        assert torch.equal(beside[name][1:2], value), name


def test_dtypes_are_kept_and_images_stay_uint8(make_world, streams):
    world = make_world(2, 2, "same", obs_dtype="uint8")
    storage = world.storage(30)
    world.play(70, storage)
    batch = sample(storage, streams(2), 64, n_step=2)
    dtypes = {name: value.dtype for name, value in batch.items()}
    assert dtypes == {
        "row": torch.int64,
        "obs": torch.uint8,
        "next_obs": torch.uint8,
        "action": torch.int64,
        "reward": torch.float32,
        "steps": torch.int64,
        "terminated": torch.bool,
        "truncated": torch.bool,
    }
    obs = batch["obs"].int()
    assert ((obs[..., 0] + obs[..., 1]) % 256 == 0).all()  # [id, -id] modulo 256


def test_extra_fields_travel_with_their_row(make_world, streams):
    world = make_world(2, 3, "same", 0.3)
    storage = world.storage(3 * 7, further=(Field("mask", (4,), "bool"), Field("serial", (), "int32")))
    for t in range(40):
        obs, action = world.observed(world.ids), world.rng.integers(10, size=world.shape)
        serial = t * 6 + np.arange(6).reshape(2, 3)
        mask = (serial[..., None] >> np.arange(4)) & 1 == 1
        storage.add(obs, action, world.step(action), mask=mask, serial=serial)
    batch = sample(storage, streams(2), 200, n_step=2)
    index = where_from(world)
    for s, b in np.ndindex(2, 200):
        (member, env), t = index[batch["obs"][s, b, 0].item()]
        serial = batch["serial"][s, b].item()
        assert serial == t * 6 + member * 3 + env
        assert batch["mask"][s, b].tolist() == [bool(serial >> bit & 1) for bit in range(4)]
    assert batch["serial"].dtype == torch.int32


def test_a_row_without_one_of_its_fields_is_refused(make_world):
    world = make_world(1, 1, "same")
    storage = world.storage(5, further=(Field("serial", (), "int32"),))
    with pytest.raises(
        UsageError, match="extras of `Acted` and the agent's fields differ: serial is in one of them alone"
    ):
        world.play(1, storage)


@pytest.mark.parametrize(
    "name", ["reward", "obs", "next_obs", "steps", "final_obs", "final_row", "final_at", "first_row"]
)
def test_a_field_cannot_take_a_name_that_is_taken(make_world, name):
    with pytest.raises(
        UsageError, match=r"fields must be obs, action and others, with names other than .*; not obs, action, "
    ):
        make_world(1, 1, "same").storage(5, further=(Field(name, (), "int32"),))


def test_the_side_table_grows_as_needed_and_freed_places_are_used_again(make_world):
    world = make_world(2, 4, "same", 0.4)
    storage = world.storage(4 * 30)  # up to 240 final observations are held at once
    sizes = []
    for _ in range(8):
        world.play(100, storage)
        held = sum(row.terminated or row.truncated for rows in world.lanes.values() for row in rows[-30:])
        assert len(storage.finals.table) - len(storage.finals.free) == held  # those in use, and no others
        sizes.append(len(storage.finals.table))
    assert sizes[0] == sizes[-1] == 256  # 64, doubled twice, and never again


def test_no_final_observation_is_kept_where_the_next_row_has_it(make_world):
    world = make_world(1, 2, "next", 0.4)
    storage = world.storage(40)
    world.play(100, storage)
    assert len(storage.finals.free) == len(storage.finals.table)


def test_a_replay_of_reset_rows_alone_says_so_instead_of_searching_for_ever(make_world, streams):
    world = make_world(1, 1, "next", 1.0)  # one step, one reset, and so on
    storage = world.storage(1)
    world.play(1, storage)
    check_rows(world, storage, sample(storage, streams(1), 5))
    world.play(1, storage)
    assert storage.transitions.tolist() == [0]
    with pytest.raises(RlabError, match=r"the storage of a member holds only reset rows; raise --replay-capacity\."):
        sample(storage, streams(1), 5)


def test_an_empty_replay_says_so(make_world, streams):
    with pytest.raises(RlabError, match="the storage is empty; collect before sampling"):
        sample(make_world(1, 1, "same").storage(3), streams(1), 1)


def test_the_memory_estimate_is_what_the_lanes_take(make_world):
    storage = Storage(3, 4, 4 * 10 + 3, (Field("obs", (5, 2), "uint8"), Field("action", (2,), "float32")))
    # 10 bytes obs, 8 action, 4 reward, 3 flags, 4 place of the final observation; one slot more than rows
    assert storage.nbytes == 3 * 4 * 11 * (10 + 8 + 4 + 3 + 4)
    assert storage.nbytes == sum(data.nbytes for data in storage.data.values()) + storage.finals.place.nbytes


def test_what_cannot_fit_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(fields_module, "_free_memory", lambda: 8 * 2**30)

    def allocate(*args):
        raise AssertionError("allocated")

    monkeypatch.setattr(np, "zeros", allocate)
    image = Field("obs", (84, 84, 4), "uint8")
    message = (  # 10 members * (1 000 000 + 8 slots) * (28 224 + 8 + 4 + 3 + 4) bytes
        "storage for 1000000 transitions per member needs 263.0 GiB and 8.0 GiB are free; "
        "lower --seeds, or --replay-capacity or --rollout-steps."
    )
    with pytest.raises(UsageError) as caught:
        Storage(10, 8, 1_000_000, (image, Field("action", (), "int64")))
    assert str(caught.value) == message


def test_exactly_the_free_memory_is_enough_and_one_byte_less_is_not(monkeypatch, make_world):
    needed = make_world(1, 2, "same").storage(20).nbytes
    monkeypatch.setattr(fields_module, "_free_memory", lambda: needed)
    make_world(1, 2, "same").storage(20)
    monkeypatch.setattr(fields_module, "_free_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match="storage for 20 transitions per member needs"):
        make_world(1, 2, "same").storage(20)


def test_a_growing_side_table_is_checked_too(monkeypatch, make_world):
    world = make_world(1, 4, "same", 0.5)
    storage = world.storage(400)
    monkeypatch.setattr(fields_module, "_free_memory", lambda: 0)
    with pytest.raises(UsageError, match="storage for 128 final observations needs"):
        world.play(100, storage)


def test_where_the_system_does_not_tell_its_free_memory_nothing_is_refused(monkeypatch, make_world):
    def refuse(*args):
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    assert fields_module._free_memory() is None
    make_world(1, 1, "same").storage(10)


def test_a_capacity_below_one_row_per_env_is_refused(make_world):
    with pytest.raises(UsageError, match="replay_capacity 3 must be at least num_envs, 4: one row per env"):
        make_world(2, 4, "same").storage(3)
