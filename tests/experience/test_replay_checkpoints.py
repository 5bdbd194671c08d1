"""A storage that went through a checkpoint on the disk is the same storage."""

from collections import Counter

import numpy as np
import pytest
import torch

from rlab.errors import RlabError
from rlab.experience import final_observations, lanes
from rlab.experience import storage_chunks as chunks_module
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler
from rlab.runs.checkpoint import CheckpointWriter, load_checkpoint, snapshot
from rlab.runs.folder import RunFolder


def sample(storage, draws, batch_size, n_step=1):
    return UniformSampler(storage, draws, n_step).sample(batch_size)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"agent": "dqn"})


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(lanes, "rows_of_chunk", lambda members, num_envs, fields: 8)


def saved_and_loaded(run, storage, empty):
    CheckpointWriter(run).commit(snapshot(storage.state()), storage.chunks())
    state, chunks = load_checkpoint(run)
    empty.load(state, (chunk.arrays() for chunk in chunks))
    return empty


def assert_equal_samples(a, b, draws, n_step):
    first, second = (sample(storage, draws(storage.members, 5), 60, n_step) for storage in (a, b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("style", "seed"),
    [
        pytest.param(style, seed, marks=() if seed % 3 == number else pytest.mark.prove)
        for number, style in enumerate(["same", "next", "disabled"])
        for seed in range(8)
    ],
)
def test_saved_at_any_moment_a_replay_comes_back_with_equal_samples(make_world, draws, run, seed, style, monkeypatch):
    rng = np.random.default_rng(seed)
    if seed % 2:  # observations count as large ones, whose final ones have a table that grows
        monkeypatch.setattr(final_observations, "SMALL", 0)
        monkeypatch.setattr(final_observations, "FIRST_PLACES", 2)
    world = make_world(int(rng.integers(1, 3)), int(rng.integers(1, 4)), style, 0.25, seed)
    capacity = world.num_envs * int(rng.integers(3, 40))  # below one chunk, and several
    storage = world.storage(capacity)
    for moment in rng.integers(1, 25, size=6):
        world.play(int(moment), storage)
        again = saved_and_loaded(run, storage, world.storage(capacity))
        assert again.rows_written == storage.rows_written
        assert again.time.tolist() == [storage.rows_written]
        if style == "next":
            assert torch.equal(again.valid_rows.counts, storage.valid_rows.counts)
        assert_equal_samples(storage, again, draws, n_step=3)
        # Both go on with the same episodes: still equal, also when every row has been written over.
        twin = saved_and_loaded(run, storage, world.storage(capacity))
        world.play(int(rng.integers(1, 60)), storage, again, twin)
        assert_equal_samples(storage, again, draws, n_step=3)
        assert_equal_samples(again, twin, draws, n_step=1)


def test_complete_chunks_are_written_once_and_dropped_when_overwritten(make_world, run, monkeypatch):
    world = make_world(1, 1, "same")
    storage = world.storage(20)
    reads = Counter()
    read_chunk = chunks_module.read_chunk
    monkeypatch.setattr(
        chunks_module, "read_chunk", lambda rows, index: reads.update([index]) or read_chunk(rows, index)
    )
    writer = CheckpointWriter(run)
    for rows_written in range(1, 60):
        world.play(1, storage)
        writer.commit(snapshot(storage.state()), storage.chunks())
        indices = [chunk.index for chunk in storage.chunks()]
        assert indices == list(range(max(0, rows_written - 20) // 8, (rows_written - 1) // 8 + 1))
        complete = [chunk.index for chunk in storage.chunks() if chunk.complete]
        assert complete == [i for i in indices if i * 8 + 8 < rows_written]  # when a row stands behind it
    assert reads[2] == 8 + 1  # once with each of its 8 newest rows, once complete
    assert len(list((run.path / "checkpoint").glob("chunk-*"))) == len(indices) + 1  # the newest one of both kept


def test_chunks_name_what_they_hold(make_world):
    world = make_world(2, 3, "same", 0.3)
    storage = world.storage(3 * 50)
    world.play(30, storage)
    for chunk in storage.chunks():
        arrays = chunk.arrays()
        first, rows = int(arrays["first_row"]), arrays["valid"].shape[2]
        assert first == chunk.index * 8
        assert {name: value.shape for name, value in arrays.items() if name in ("obs", "action")} == {
            "obs": (2, 3, rows, 2),
            "action": (2, 3, rows),
        }
        hidden = {tuple(at): obs for at, obs in zip(arrays["final_at"].tolist(), arrays["final_obs"], strict=True)}
        for (member, env), lane in world.lanes.items():
            for row, truth in enumerate(lane[first : first + rows]):
                assert arrays["obs"][member, env, row, 0] == truth.obs
                if truth.terminated or truth.truncated:
                    assert hidden.pop((member, env, row)).tolist() == [truth.next_obs, -truth.next_obs]
        assert not hidden


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
@pytest.mark.parametrize("rows", [5, 8, 21])  # within a chunk, at the end of one, after a wrap
def test_fresh_episodes_behind_a_cut_do_not_become_successors_of_old_rows(make_world, draws, run, style, rows):
    world = make_world(2, 3, style, 0.3)
    storage = world.storage(3 * 12)
    world.play(rows, storage)
    again = saved_and_loaded(run, storage, world.storage(3 * 12))
    newest = {lane: world.lanes[lane][-1] for lane in world.lanes}
    world.reset()
    again.cut_episodes()
    world.play(6, again)
    again = saved_and_loaded(run, again, world.storage(3 * 12))  # the cut survives the next checkpoint
    world.play(1, again)
    batch = sample(again, draws(2), 400, n_step=3)
    for s, b in np.ndindex(2, 400):
        for row in (newest[s, n] for n in range(3)):
            if row.valid and batch["obs"][s, b, 0].item() == row.obs:
                assert batch["next_obs"][s, b].tolist() == [row.next_obs, -row.next_obs]
                assert batch["reward"][s, b].tolist() == [row.reward, 0.0, 0.0]
                assert batch["steps"][s, b].item() == 1
                assert batch["terminated"][s, b].item() is row.terminated
                assert batch["truncated"][s, b].item() is not row.terminated
    assert {batch["obs"][0, b, 0].item() for b in range(400)} & {newest[0, n].obs for n in range(3)}


def test_extra_fields_come_back(make_world, draws, run):
    world = make_world(1, 1, "same")
    extra = (Field("serial", (2,), "int16"),)
    storage, empty = world.storage(10, extra), world.storage(10, extra)
    for t in range(17):
        storage.add(*world.played(), serial=torch.full((1, 1, 2), t))
    serial = sample(saved_and_loaded(run, storage, empty), draws(1), 100)["serial"]
    assert serial.dtype == torch.int16
    assert set(serial.flatten().tolist()) == set(range(7, 17))


@pytest.mark.parametrize("style", ["same", "next"])
def test_an_empty_replay_comes_back_empty(make_world, run, style):
    world = make_world(1, 2, style)
    again = saved_and_loaded(run, world.storage(10), world.storage(10))
    assert again.rows == 0
    world.play(3, again)
    assert again.rows == again.time.item() == 3


def test_chunks_of_another_shape_or_with_rows_missing_are_refused_in_one_line(make_world):
    world = make_world(1, 2, "same")
    storage = world.storage(60)
    world.play(20, storage)
    chunks = [chunk.arrays() for chunk in storage.chunks()]
    with pytest.raises(RlabError, match=r"the checkpoint has 12 of the 20 rows it should have\."):
        world.storage(60).load(storage.state(), iter(chunks[1:]))
    with pytest.raises(RlabError, match=r"rows do not fit: no field 'obs' of int64 \(1, 3, 8, 2\)"):
        make_world(1, 3, "same").storage(60).load(storage.state(), iter(chunks))
    with pytest.raises(RlabError, match="rows do not fit: no field 'obs' of uint8"):
        make_world(1, 2, "same", obs_dtype="uint8").storage(60).load(storage.state(), iter(chunks))
    with pytest.raises(RlabError, match="rows do not fit: no field 'mask'"):
        world.storage(60, (Field("mask", (), "bool"),)).load(storage.state(), iter(chunks))


def test_episodes_that_are_cut_are_cut_also_where_the_next_ones_begin_with_the_same_observation(make_world):
    world = make_world(1, 1, "same", 0.0)
    storage = world.storage(10)
    storage.cut_episodes()  # nothing to cut
    world.play(3, storage)
    obs = storage.read_lanes(3, 1, "obs")["obs"][:, :, 0]  # what the newest row led to; the next episode begins with it
    storage.cut_episodes()
    nothing = torch.zeros(1, 1)
    step = Step(obs, obs, nothing, nothing.bool(), nothing.bool(), torch.ones(1, 1, dtype=torch.bool))
    storage.add(obs, nothing.long(), step)
    assert storage.read(torch.tensor([[2, 3]]), "truncated")["truncated"].tolist() == [[True, False]]
    assert storage.read(torch.tensor([[2]]), "next_obs")["next_obs"].tolist() == obs[:, 0, None].tolist()


def test_a_cut_keeps_the_successors_that_were_hidden_already_also_where_their_table_grows_just_then(
    make_world, monkeypatch
):
    monkeypatch.setattr(final_observations, "SMALL", 0)
    monkeypatch.setattr(final_observations, "FIRST_PLACES", 1)
    world = make_world(1, 6, "same", 0.4, seed=1)
    storage = world.storage(6 * 4)
    world.play(1, storage)
    ended = [rows[-1].terminated or rows[-1].truncated for _, rows in sorted(world.lanes.items())]
    assert 0 < sum(ended) < 6
    places = storage.finals.places
    storage.cut_episodes()
    assert storage.finals.places > places
    newest = torch.arange(6).unsqueeze(0)
    expected = [[row.next_obs, -row.next_obs] for _, (row,) in sorted(world.lanes.items())]
    assert storage.read(newest, "next_obs")["next_obs"].tolist() == [expected]
    flags = storage.read(newest, "terminated", "truncated")
    assert (flags["terminated"] | flags["truncated"]).all()
    assert not (flags["terminated"] & flags["truncated"]).any()


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_unsigned_observations_come_back_and_are_cut_as_any(make_world, draws, run, dtype):
    world = make_world(2, 2, "same", 0.3, obs_dtype=dtype)
    storage = world.storage(2 * 10)
    world.play(15, storage)
    again = saved_and_loaded(run, storage, world.storage(2 * 10))
    world.reset()
    again.cut_episodes()
    world.play(1, again)
    batch = sample(again, draws(2), 50, n_step=2)
    index = {row.obs: (lane, t, row) for lane, rows in world.lanes.items() for t, row in enumerate(rows)}
    assert batch["obs"].dtype == batch["next_obs"].dtype == getattr(torch, dtype)
    obs, next_obs = (batch[name].numpy() for name in ("obs", "next_obs"))
    for s, b in np.ndindex(2, 50):
        (member, _), t, row = index[int(obs[s, b, 0])]
        assert (member, int(obs[s, b, 1])) == (s, int(np.array(-row.obs).astype(dtype)))
        if t == 14:  # the newest row before the load
            assert next_obs[s, b].tolist() == world.observed(np.array(row.next_obs)).tolist()
            assert batch["terminated"][s, b] | batch["truncated"][s, b]
