"""Replay: rows never mix, only the newest are drawn, each as often as any other, and memory is what was promised."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.errors import RlabError, UsageError
from rlab.experience import columns, final_observations
from rlab.experience import fields as fields_module
from rlab.experience.fields import Field, check_memory
from rlab.experience.final_observations import NONE
from rlab.experience.samplers import UniformSampler
from rlab.experience.storage import Storage

STYLES = ("same", "next", "disabled")


def sample(storage, draws, batch_size, n_step=1):
    return UniformSampler(storage, draws, n_step).sample(batch_size)


def where_from(world):
    """Observation -> (lane, time): every observation is acted on once."""
    return {row.obs: (lane, t) for lane, rows in world.lanes.items() for t, row in enumerate(rows)}


def held_ids(world, storage, member):
    """The ids of a member's transitions that are held, oldest first."""
    held, num_envs = range(storage.rows_written - storage.rows, storage.rows_written), world.num_envs
    return [t * num_envs + n for t in held for n in range(num_envs) if world.lanes[member, n][t].valid]


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
def test_rows_never_mix_and_only_the_newest_are_drawn(make_world, draws, seed, style):
    rng = np.random.default_rng(seed)
    members, num_envs = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    world = make_world(members, num_envs, style, rng.uniform(0, 0.4), seed)
    lane_rows = int(rng.integers(2, 25))
    storage = world.storage(lane_rows * num_envs + int(rng.integers(num_envs)))  # a remainder holds no row
    members_draws = draws(members, seed)
    for chunk in rng.integers(1, 12, size=12):  # 12 to 132 rows: several times round
        world.play(int(chunk), storage)
        assert storage.rows == min(storage.rows_written, lane_rows)
        if storage.valid_rows is not None:
            assert storage.valid_rows.counts[:, 0].tolist() == [
                len(held_ids(world, storage, s)) for s in range(members)
            ]
        check_rows(world, storage, sample(storage, members_draws, 20))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.lists(st.integers(0, 20), max_size=4), st.data())
def test_any_sizes_any_number_of_adds(make_world, draws, members, num_envs, lane_rows, chunks, data):
    world = make_world(members, num_envs, data.draw(st.sampled_from(STYLES)), 0.3, data.draw(st.integers(0, 9)))
    storage = world.storage(max(lane_rows, world.least_rows) * num_envs)
    for chunk in chunks:
        world.play(chunk, storage)
    if storage.rows:
        check_rows(world, storage, sample(storage, draws(members), 8))


def test_every_held_transition_is_drawn_equally_often(make_world, draws):
    world = make_world(2, 3, "next", 0.2)
    storage = world.storage(3 * 20)
    world.play(50, storage)
    size = 60_000
    drawn = sample(storage, draws(2), size)["obs"][..., 0]
    for s in range(2):
        held = {row.obs for n in range(3) for row in world.lanes[s, n][-20:] if row.valid}
        seen, counts = drawn[s].unique(return_counts=True)
        assert set(seen.tolist()) == held  # no reset row, nothing overwritten, nothing left out
        expected = size / len(held)
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        freedom = len(held) - 1  # mean of chi-square; its standard deviation is sqrt(2 * freedom)
        assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("style", STYLES)
def test_a_members_draws_do_not_depend_on_the_others(make_world, style):
    world = make_world(3, 2, style, 0.3)
    together, alone = world.storage(40), make_world(1, 2, style).storage(40)
    for _ in range(60):
        obs, action, step = world.played()
        together.add(obs, action, step)
        parts = (step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid)
        alone.add(obs[1:2], action[1:2], type(step)(*(part[1:2] for part in parts)))
    beside = sample(together, Draws((4, 5, 6), "replay", "cpu"), 500, n_step=3)
    by_itself = sample(alone, Draws((5,), "replay", "cpu"), 500, n_step=3)
    for name, value in by_itself.items():
        assert torch.equal(beside[name][1:2], value), name


def test_dtypes_are_kept_and_images_stay_uint8(make_world, draws):
    world = make_world(2, 2, "same", obs_dtype="uint8")
    storage = world.storage(30)
    world.play(70, storage)
    batch = sample(storage, draws(2), 64, n_step=2)
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


def test_extra_fields_travel_with_their_row(make_world, draws):
    world = make_world(2, 3, "same", 0.3)
    storage = world.storage(3 * 7, further=(Field("mask", (4,), "bool"), Field("serial", (), "int32")))
    for t in range(40):
        serial = t * 6 + torch.arange(6).reshape(2, 3)
        mask = (serial[..., None] >> torch.arange(4)) & 1 == 1
        storage.add(*world.played(), mask=mask, serial=serial)
    batch = sample(storage, draws(2), 200, n_step=2)
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


def places_in_use(storage):
    """Places of the side table that rows which are held have."""
    place = storage.finals.place.lanes(
        torch.arange(storage.rows_written - storage.rows, storage.rows_written) % storage.slots
    )
    used = place[place != NONE].tolist()
    assert len(used) == len(set(used))
    return len(used)


@pytest.fixture
def large_observations(monkeypatch):
    """Every observation counts as a large one."""
    monkeypatch.setattr(final_observations, "SMALL", 0)


def test_a_growing_side_table_doubles_as_needed_and_loses_nothing(make_world, draws, large_observations):
    world = make_world(2, 4, "same", 0.4)
    storage = world.storage(4 * 100)  # up to 400 final observations of a member are held at once
    sizes = []
    for _ in range(30):
        world.play(13, storage)
        held = sum(row.terminated or row.truncated for rows in world.lanes.values() for row in rows[-storage.rows :])
        assert places_in_use(storage) == held
        check_rows(world, storage, sample(storage, draws(2), 100))
        sizes.append(storage.finals.places)
    assert sizes[0] == 64
    assert sizes[-1] == sizes[-20] == 404  # 64, 128, 256, and no more than all rows of a member have
    assert len(storage.finals.table) == 1 + 2 * 404


def test_places_of_overwritten_rows_are_used_again(make_world, large_observations):
    world = make_world(1, 2, "same", 0.1)
    storage = world.storage(2 * 40)
    world.play(1000, storage)  # 380 ends, 15 of them held
    assert storage.finals.places == 64


def test_observations_that_are_small_or_a_program_reads_have_a_place_for_each_row(make_world):
    assert make_world(2, 4, "same").storage(4 * 30).finals.places == 31 * 4
    image = Field("obs", (1025,), "uint8"), Field("action", (), "int64")
    assert Storage(2, 4, 4 * 30, image, growing=False).finals.places == 31 * 4
    assert Storage(2, 4, 4 * 30, image, growing=True).finals.places == 64
    assert Storage(2, 4, 4 * 3, image, growing=True).finals.places == 4 * 4


def test_no_final_observation_is_kept_where_the_next_row_has_it(make_world):
    world = make_world(1, 2, "next", 0.4)
    storage = world.storage(40)
    world.play(100, storage)
    assert places_in_use(storage) == 0


def test_a_storage_of_one_row_is_refused_where_that_may_be_a_reset_row(make_world, draws):
    storage = make_world(1, 3, "next").storage(5)
    with pytest.raises(
        UsageError,
        match=r"the storage keeps one row of each of 3 envs, which may be a reset row; raise --replay-capacity\.",
    ):
        UniformSampler(storage, draws(1))


def test_an_empty_replay_says_so(make_world, draws):
    sampler = UniformSampler(make_world(1, 1, "same").storage(3), draws(1))
    with pytest.raises(RlabError, match="the storage is empty; collect before sampling"):
        sampler.check()


@pytest.mark.parametrize("has_reset_rows", [False, True])
@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("side", [5, 40])
def test_the_memory_estimate_is_what_the_lanes_take(has_reset_rows, growing, side):
    fields = (Field("obs", (side, side), "uint8"), Field("action", (2,), "float32"))
    storage = Storage(3, 4, 4 * 10 + 3, fields, "cpu", has_reset_rows, growing)
    obs, listed = side * side, 8 * has_reset_rows
    final = obs if obs == 25 or not growing else 0
    # 8 bytes action, 4 reward, 3 flags, 4 place of the final observation; one slot more than rows
    assert storage.nbytes == 3 * 4 * 11 * (obs + 8 + 4 + 3 + 4 + final + listed)
    taken = sum(column.nbytes for column in (*storage.columns.values(), storage.finals.place))
    table = storage.finals.table.nbytes - obs  # one place for what is not kept
    ids = 0 if storage.valid_rows is None else storage.valid_rows._ids[1:].nbytes  # and one there
    if final:
        assert storage.nbytes == taken + table + ids
    else:
        assert storage.nbytes == taken + ids
        assert table == 3 * 44 * obs  # all rows of a member, fewer than 64


def test_what_cannot_fit_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(fields_module, "_free_memory", lambda: 8 * 2**30)

    def allocate(*args):
        raise AssertionError("allocated")

    monkeypatch.setattr(columns, "zeros", allocate)
    image = Field("obs", (84, 84, 4), "uint8")
    message = (  # 10 members * (1 000 000 + 8 slots) * (28 224 + 8 + 4 + 3 + 4 + 8) bytes
        "storage for 1000000 transitions of each of 10 members needs 263.1 GiB and 8.0 GiB are free; "
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
    with pytest.raises(UsageError, match="storage for 20 transitions of one member needs"):
        make_world(1, 2, "same").storage(20)


def test_a_growing_side_table_is_checked_too(monkeypatch, make_world, large_observations):
    world = make_world(1, 4, "same", 0.5)
    storage = world.storage(400)
    monkeypatch.setattr(fields_module, "_free_memory", lambda: 0)
    with pytest.raises(UsageError, match="storage for 128 final observations needs"):
        world.play(100, storage)


def test_a_gpu_s_own_memory_is_what_counts_there(monkeypatch):
    monkeypatch.setattr(fields_module, "_free_memory", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**40))
    check_memory("storage", 2**30, torch.device("cuda"))
    with pytest.raises(UsageError, match=r"storage needs 2\.0 GiB and 1\.0 GiB are free"):
        check_memory("storage", 2**31, torch.device("cuda"))


def test_where_the_system_does_not_tell_its_free_memory_nothing_is_refused(monkeypatch, make_world):
    def refuse(*args):
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    assert fields_module._free_memory() is None
    make_world(1, 1, "same").storage(10)


def test_a_capacity_below_one_row_per_env_is_refused(make_world):
    with pytest.raises(UsageError, match="replay_capacity 3 must be at least num_envs, 4: one row per env"):
        make_world(2, 4, "same").storage(3)
