"""Demonstrations as a storage: every window is one that was recorded, and members never mix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import Demonstrations, choose_episodes, demonstrations_of
from rlab.experience.fields import Field
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.samplers import UniformSampler
from rlab.networks.spaces import Box, Discrete
from rlab.runs.checkpoint import CheckpointWriter, load_checkpoint, snapshot
from rlab.runs.encoding import decode, encode
from rlab.runs.folder import RunFolder

ENDINGS = ((True, False), (False, True), (False, False))  # terminated, truncated, cut by the recording


def sample(storage, draws, batch_size, n_step=1):
    return UniformSampler(storage, draws, n_step).sample(batch_size)


def make(*lengths, first=0):
    """Episodes whose every number says where it is from: episode e, step t is 100 e + t, its negative beside it."""
    episodes = []
    for e, steps in enumerate(lengths):
        ids = 100 * (e + first) + np.arange(steps + 1)
        obs = np.stack([ids, -ids], axis=-1)
        reward = (ids[:-1] / 8).astype(np.float32)
        episodes.append(Episode(obs, ids[:-1] % 10, reward, *ENDINGS[e % 3]))
    return Dataset("lessons", Box((2,), "int64", -1e6, 1e6), Discrete(10), tuple(episodes))


def ids_of(batch, name="obs"):
    assert torch.equal(batch[name][..., 0], -batch[name][..., 1])
    return batch[name][..., 0].numpy()


def check_rows(batch, lengths, n_step):
    """Every window is what its first row's id says that it should be."""
    e, t = np.divmod(ids_of(batch), 100)
    length = np.array(lengths)[e]
    steps = np.minimum(n_step, length - t)
    assert (t < length).all()  # no row that only holds a last observation
    assert np.array_equal(batch["steps"], steps)
    assert np.array_equal(batch["action"], ids_of(batch) % 10)
    assert np.array_equal(ids_of(batch, "next_obs"), 100 * e + t + steps)
    ends = t + steps == length
    assert np.array_equal(batch["terminated"], ends & (e % 3 == 0))
    assert np.array_equal(batch["truncated"], ends & (e % 3 != 0))  # a cut episode counts as truncated
    k = np.arange(n_step)
    reward = np.where(k < steps[..., None], (ids_of(batch)[..., None] + k) / 8, 0.0)
    assert np.array_equal(batch["reward"], reward.astype(np.float32))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 3), st.data())
def test_every_window_is_one_that_was_recorded(draws, lengths, n_step, members, data):
    some = data.draw(st.one_of(st.none(), st.integers(1, len(lengths))))
    storage = demonstrations_of(make(*lengths), range(members), some)
    batch = sample(storage, draws(members), 64, n_step)
    check_rows(batch, lengths, n_step)
    for member, chosen in enumerate(choose_episodes(make(*lengths), range(members), some)):
        assert set(ids_of(batch)[member] // 100) <= set(chosen)
        assert storage.transitions[member] == sum(lengths[e] for e in chosen)
    assert batch["demonstration"].all()
    assert batch["demonstration"].shape == (members, 64)


def test_every_transition_is_drawn_about_equally_often(draws):
    storage = demonstrations_of(make(1, 9), [0])
    drawn = ids_of(sample(storage, draws(1), 20_000))
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 10
    assert np.square(counts - 2000).sum() / 2000 < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_a_member_draws_the_same_beside_others_with_longer_episodes(draws):
    data = make(2, 3, 90)
    beside = Demonstrations(data, [np.array([0, 1]), np.array([1, 2])])
    alone = Demonstrations(data, [np.array([0, 1])])
    both = sample(beside, draws(2), 50, 3)
    one = sample(alone, draws(1), 50, 3)
    assert all(torch.equal(both[name][:1], one[name]) for name in one)


def test_members_draw_episodes_of_their_own_without_replacement():
    data = make(*[1] * 30)
    first, second = choose_episodes(data, [3, 4], 10)
    assert len(set(first)) == 10
    assert first.tolist() != second.tolist()
    assert first.tolist() == sorted(first)
    assert choose_episodes(data, [4], 10)[0].tolist() == second.tolist()
    assert [chosen.tolist() for chosen in choose_episodes(data, [3, 4], None)] == [list(range(30))] * 2


@pytest.mark.parametrize("episodes", [0, 4])
def test_more_episodes_than_there_are_cannot_be_taken(episodes):
    with pytest.raises(UsageError, match=f"lessons has 3 episodes; choose 1 to 3 of them, not {episodes}"):
        choose_episodes(make(1, 1, 1), [0], episodes)


def test_observations_for_statistics_are_those_acted_on():
    obs, valid = Demonstrations(make(2, 1), [np.array([0, 1]), np.array([1])]).observations()
    assert obs.shape == (2, 5, 2)
    assert obs[0, valid[0], 0].tolist() == [0, 1, 100]
    assert obs[1, valid[1], 0].tolist() == [100]


@pytest.mark.parametrize(("limit", "size"), [(None, 4), (3, 3), (9, 4)])
def test_rows_come_in_order_and_say_which_are_filled_up(draws, limit, size):
    storage = Demonstrations(make(3, 1), [np.array([0, 1]), np.array([1])])
    batch = storage.rows_in_order(limit)
    check_rows(batch, [3, 1], n_step=1)
    assert ids_of(batch).tolist() == [[0, 1, 2, 100][:size], [100] * size]
    assert batch["valid"].tolist() == [[True] * size, [True] + [False] * (size - 1)]
    assert batch.keys() == {*sample(storage, draws(2), 2), "valid"}


@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_is_by_whole_episodes_and_loses_none(episodes, fraction, seed):
    train, held_out = demonstrations_of(make(*[2] * episodes), [seed, seed + 1]).split(fraction, [seed, seed + 1])
    for kept, out in zip(train.chosen, held_out.chosen, strict=True):
        assert sorted([*kept, *out]) == list(range(episodes))
        assert len(kept) >= 1
        assert len(out) == min(max(round(fraction * episodes), 1), episodes - 1)
    assert set(ids_of(train.rows_in_order())[0] // 100) == set(train.chosen[0])
    again = demonstrations_of(make(*[2] * episodes), [seed + 1]).split(fraction, [seed + 1])[1]
    assert again.chosen[0].tolist() == held_out.chosen[1].tolist()


def test_members_hold_out_episodes_of_their_own():
    _, held_out = demonstrations_of(make(*[1] * 40), [0, 1]).split(0.5, [0, 1])
    assert held_out.chosen[0].tolist() != held_out.chosen[1].tolist()


def test_one_episode_cannot_be_split():
    one = demonstrations_of(make(5), [0])
    assert one.split(0.0, [0]) == (one, None)
    with pytest.raises(UsageError, match="so that none can be held out"):
        one.split(0.1, [0])
    with pytest.raises(UsageError, match=r"share of episodes must be in \[0, 1\), not 1\.0"):
        one.split(1.0, [0])


def test_a_checkpoint_holds_no_data_and_knows_the_data_again(tmp_path):
    storage = demonstrations_of(make(3, 4), [0, 1])
    run = RunFolder.create(tmp_path / "run", {})
    CheckpointWriter(run).commit(snapshot(storage.state()), storage.chunks())
    assert sum(path.stat().st_size for path in (run.path / "checkpoint").iterdir()) < 2000
    state, chunks = load_checkpoint(run)
    demonstrations_of(make(3, 4), [0, 1]).load(state, (chunk.arrays() for chunk in chunks))
    with pytest.raises(RlabError, match="lessons is not the one that this run began with"):
        demonstrations_of(make(4, 3), [0, 1]).load(state, iter(()))


# Mixtures: online rows come from a made-up world, their ids are below 10 000.
SHOWN = make(5, 6, 7, first=1000)


def mixed(storage, share, online, n_step=1):
    shown = UniformSampler(demonstrations_of(SHOWN, (7, 8)), Draws((7, 8), "demonstrations", "cpu"), n_step)
    return MixtureSampler(UniformSampler(storage, online, n_step), shown, share)


@pytest.mark.parametrize(("share", "size", "count"), [(0.25, 32, 8), (0.29, 100, 29), (1 / 3, 30, 10), (0.7, 10, 7)])
def test_every_stretch_of_a_batch_has_its_share(make_world, draws, share, size, count):
    world = make_world(2, 3, "same")
    storage = world.storage(60)
    world.play(30, storage)
    batch = mixed(storage, share, draws(2)).sample(4 * size)
    flags = batch["demonstration"]
    assert torch.equal(flags[0], flags[1])
    assert flags[0].reshape(4, size).sum(dim=1).tolist() == [count] * 4
    for i in range(4 * size - 7):
        assert abs(int(flags[0, i : i + 7].sum()) - 7 * share) <= 1.0
    assert np.array_equal(ids_of(batch) >= 100_000, flags)


@pytest.mark.parametrize("style", ["same", "next"])
def test_online_rows_are_those_of_the_online_sampler_and_demonstrations_have_their_own_streams(
    make_world, draws, style
):
    world, n_step = make_world(2, 3, style), 3
    storage = world.storage(60)
    world.play(30, storage)
    batch, online = mixed(storage, 0.25, draws(2), n_step).sample(40), sample(storage, draws(2), 30, n_step)
    shown = sample(demonstrations_of(SHOWN, (7, 8)), Draws((7, 8), "demonstrations", "cpu"), 10, n_step)
    flags = batch["demonstration"][0]
    for name in online:
        assert torch.equal(batch[name][:, ~flags], online[name]), name
        assert torch.equal(batch[name][:, flags], shown[name]), name
        assert batch[name].dtype == online[name].dtype


def test_without_a_share_all_rows_are_online_and_with_all_of_it_no_online_row_is_needed(make_world, draws):
    world = make_world(2, 3, "same")
    storage, empty = world.storage(60), world.storage(60)
    world.play(30, storage)
    batch, online = mixed(storage, 0.0, draws(2)).sample(40), sample(storage, draws(2), 40)
    assert all(torch.equal(batch[name], online[name]) for name in online)
    assert not batch["demonstration"].any()
    assert (ids_of(mixed(empty, 1.0, draws(2)).sample(40)) >= 100_000).all()


def test_a_saved_mixture_goes_on_with_the_very_next_draw(make_world, draws):
    world = make_world(2, 3, "same")
    storage = world.storage(60)
    world.play(30, storage)
    sampler, again = (mixed(storage, 0.5, draws(2), 2) for _ in range(2))
    sampler.sample(40)
    value, tensors = encode(sampler.state())
    again.load_state(decode(value, tensors))
    one, other = sampler.sample(40), again.sample(40)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(make_world, draws, share):
    with pytest.raises(UsageError, match="share of demonstrations"):
        mixed(make_world(2, 3, "same").storage(60), share, draws(2))


def test_batches_with_different_fields_are_not_mixed(make_world, draws):
    world = make_world(2, 3, "same")
    storage = world.storage(60, (Field("weight", (), "float32"),))
    storage.add(*world.played(), weight=torch.ones(2, 3))
    with pytest.raises(RlabError, match=r"batches with .*weight.* cannot be mixed with"):
        mixed(storage, 0.5, draws(2)).sample(10)
