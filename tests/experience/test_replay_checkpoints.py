"""A storage that went through a checkpoint on the disk is the same storage."""

from collections import Counter

import numpy as np
import pytest
import torch

from rlab.errors import RlabError
from rlab.experience import storage_chunks as chunks_module
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler
from rlab.runs.checkpoint import load_checkpoint, save_checkpoint
from rlab.runs.folder import RunFolder


def sample(storage, streams, batch_size, n_step=1):
    return UniformSampler(storage, streams, n_step).sample(batch_size)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"agent": "dqn"})


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(chunks_module, "CHUNK_ROWS", 8)


def saved_and_loaded(run, storage, empty):
    save_checkpoint(run, storage.state(), storage.chunks())
    state, chunks = load_checkpoint(run)
    empty.load(state, (chunk.arrays() for chunk in chunks))
    return empty


def assert_equal_samples(a, b, streams, n_step):
    first, second = (sample(storage, streams(storage.members, 5), 60, n_step) for storage in (a, b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("style", ["same", "next", "disabled"])
@pytest.mark.parametrize("seed", range(8))
def test_saved_at_any_moment_a_replay_comes_back_with_equal_samples(make_world, streams, run, seed, style):
    rng = np.random.default_rng(seed)
    world = make_world(int(rng.integers(1, 3)), int(rng.integers(1, 4)), style, 0.25, seed)
    capacity = world.num_envs * int(rng.integers(3, 40))  # below one chunk, and several
    storage = world.storage(capacity)
    for moment in rng.integers(1, 25, size=6):
        world.play(int(moment), storage)
        again = saved_and_loaded(run, storage, world.storage(capacity))
        assert again.rows_written == storage.rows_written
        assert again.transitions.tolist() == storage.transitions.tolist()
        if not storage.transitions.all():
            continue
        assert_equal_samples(storage, again, streams, n_step=3)
        # Both go on with the same episodes: still equal, also when every row has been written over.
        twin = saved_and_loaded(run, storage, world.storage(capacity))
        world.play(int(rng.integers(1, 60)), storage, again, twin)
        assert_equal_samples(storage, again, streams, n_step=3)
        assert_equal_samples(again, twin, streams, n_step=1)


def test_complete_chunks_are_written_once_and_dropped_when_overwritten(make_world, run, monkeypatch):
    world = make_world(1, 1, "same")
    storage = world.storage(20)
    reads = Counter()
    read_chunk = chunks_module.read_chunk
    monkeypatch.setattr(
        chunks_module, "read_chunk", lambda rows, index: reads.update([index]) or read_chunk(rows, index)
    )
    for rows_written in range(1, 60):
        world.play(1, storage)
        save_checkpoint(run, storage.state(), storage.chunks())
        indices = [chunk.index for chunk in storage.chunks()]
        assert indices == list(range(max(0, rows_written - 20) // 8, (rows_written - 1) // 8 + 1))
        complete = [chunk.index for chunk in storage.chunks() if chunk.complete]
        assert complete == [i for i in indices if i * 8 + 8 < rows_written]  # when a row stands behind it
    assert reads[2] == 8 + 1  # once with each of its 8 newest rows, once complete
    assert len(list((run.path / "checkpoint").glob("chunk-*"))) == len(indices)


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
def test_fresh_episodes_after_a_load_do_not_become_successors_of_old_rows(make_world, streams, run, style, rows):
    world = make_world(2, 3, style, 0.3)
    storage = world.storage(3 * 12)
    world.play(rows, storage)
    again = saved_and_loaded(run, storage, world.storage(3 * 12))
    newest = {lane: world.lanes[lane][-1] for lane in world.lanes}
    world.reset()
    world.play(6, again)
    again = saved_and_loaded(run, again, world.storage(3 * 12))  # the cut survives the next checkpoint
    world.play(1, again)
    batch = sample(again, streams(2), 400, n_step=3)
    for s, b in np.ndindex(2, 400):
        for row in (newest[s, n] for n in range(3)):
            if row.valid and batch["obs"][s, b, 0].item() == row.obs:
                assert batch["next_obs"][s, b].tolist() == [row.next_obs, -row.next_obs]
                assert batch["reward"][s, b].tolist() == [row.reward, 0.0, 0.0]
                assert batch["steps"][s, b].item() == 1
                assert batch["terminated"][s, b].item() is row.terminated
                assert batch["truncated"][s, b].item() is not row.terminated
    assert {batch["obs"][0, b, 0].item() for b in range(400)} & {newest[0, n].obs for n in range(3)}


def test_the_same_episodes_after_a_load_are_not_cut(make_world, streams, run):
    world = make_world(1, 2, "same", 0.0)
    storage = world.storage(40)
    world.play(10, storage)
    again = saved_and_loaded(run, storage, world.storage(40))
    world.play(5, again)
    assert not sample(again, streams(1), 100)["truncated"].any()


def test_extra_fields_come_back(make_world, streams, run):
    world = make_world(1, 1, "same")
    extra = (Field("serial", (2,), "int16"),)
    storage, empty = world.storage(10, extra), world.storage(10, extra)
    for t in range(17):
        obs, action = world.observed(world.ids), np.zeros((1, 1), int)
        storage.add(obs, action, world.step(action), serial=np.full((1, 1, 2), t))
    serial = sample(saved_and_loaded(run, storage, empty), streams(1), 100)["serial"]
    assert serial.dtype == torch.int16
    assert set(serial.flatten().tolist()) == set(range(7, 17))


def test_an_empty_replay_comes_back_empty(make_world, run):
    world = make_world(1, 2, "same")
    again = saved_and_loaded(run, world.storage(10), world.storage(10))
    assert again.rows == 0
    world.play(3, again)
    assert again.rows == 3


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
    obs = storage.data["obs"][:, :, 3].copy()  # what the newest row led to, and what the next episode begins with
    storage.cut_episodes()
    nothing = np.zeros((1, 1))
    step = Step(obs, obs, nothing, nothing.astype(bool), nothing.astype(bool), np.ones((1, 1), bool))
    storage.add(obs, nothing, step)
    assert storage.read(np.array([[2, 3]]), "truncated")["truncated"].tolist() == [[True, False]]
    assert storage.successors(np.array([[2]])).tolist() == obs[:, 0, None].tolist()
