"""Stacks of frames that are kept frame by frame are, to the bit, the stacks that were acted on."""

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.experience import final_observations, lanes
from rlab.experience.border import HostEnv
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import Demonstrations
from rlab.experience.env_contract import HostStep
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler, read_windows
from rlab.experience.sequence_samplers import SequenceSampler, read_rollout
from rlab.experience.storage import Storage
from rlab.networks.bounds import FIRST, LAST, NO_IMAGE
from rlab.networks.spaces import Box, Discrete, space_from_json
from rlab.runs.checkpoint import CheckpointWriter, load_checkpoint, snapshot
from rlab.runs.folder import RunFolder

# where the frames of a stack lie, and the shape of one frame
LAYOUTS = {"vector": (NO_IMAGE, (2,)), "channels first": (FIRST, (1, 3, 4)), "channels last": (LAST, (3, 4, 2))}


def space_of(layout, frames):
    """A stack of so many frames."""
    channels, frame = LAYOUTS[layout]
    axis = 0 if channels == FIRST else len(frame) - 1
    shape = tuple(length * (frames if i == axis else 1) for i, length in enumerate(frame))
    return Box(shape, "uint16", 0.0, 65535.0, channels, frames)


class Stacking:
    """A made-up world whose observations are stacks of its newest frames, in arrays of NumPy."""

    def __init__(self, world, layout, frames):
        self.world, self.obs_space = world, space_of(layout, frames)
        self.frame, self.frames = LAYOUTS[layout][1], frames
        self.seeds, self.num_envs, self.time_limit = world.seeds, world.num_envs, None
        self.action_space, self.has_reset_rows, self.restarts = world.action_space, world.has_reset_rows, None
        self.stack = np.zeros((*world.shape, *self.obs_space.shape), np.uint16)
        self.reset()

    def frames_of(self, numbers):
        """A frame `[S, N, *frame]` whose every element is another number."""
        first = numbers[..., 0].reshape(*self.world.shape, *(1 for _ in self.frame))
        return (first * 30 + np.arange(np.prod(self.frame)).reshape(self.frame) + 1).astype(np.uint16)

    def pushed(self, stack, frame):
        axis = 2 + self.obs_space.frame_axis
        return np.concatenate([np.delete(stack, range(frame.shape[axis]), axis), frame], axis)

    def reset(self):
        self.stack = self.pushed(np.zeros_like(self.stack), self.frames_of(self.world.reset()))
        return self.stack

    def step(self, action):
        found = self.world.step(action)
        ended = (found.terminated | found.truncated) & found.valid
        following = self.pushed(self.stack, self.frames_of(found.next_obs))
        fresh = self.pushed(np.zeros_like(self.stack), self.frames_of(found.obs))
        begins = ~found.valid if self.world.style == "next" else ended
        wide = begins.reshape(*begins.shape, *(1 for _ in self.obs_space.shape))
        self.stack = np.where(wide, fresh, following)
        shared = found.next_obs is found.obs
        rest = (found.reward, found.terminated, found.truncated, found.valid)
        return HostStep(self.stack, self.stack if shared else following, *rest)

    def fields(self):
        return Field("obs", self.obs_space.shape, "uint16"), Field("action", (), "int64")

    def storage(self, capacity, obs_space=None, growing=True):
        size = (len(self.seeds), self.num_envs, capacity)
        return Storage(*size, self.fields(), "cpu", self.has_reset_rows, growing, obs_space)

    def play(self, steps, *storages):
        env = HostEnv(self, torch.device("cpu"))
        for _ in range(steps):
            obs = torch.from_numpy(self.stack.copy())
            action = torch.from_numpy(self.world.rng.integers(10, size=self.world.shape))
            step = env.step(action)
            for storage in storages:
                storage.add(obs, action, step)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def assert_read_alike(frames, whole, draws):
    members = whole.members
    for n_step in (1, 3):
        assert_equal(*(UniformSampler(s, draws(members, 3), n_step).sample(40) for s in (frames, whole)))
    assert_equal(*(SequenceSampler(s, draws(members, 4), min(whole.rows, 5)).sample(20) for s in (frames, whole)))
    for steps in {1, whole.rows}:
        assert_equal(*(read_rollout(s, steps) for s in (frames, whole)))


STYLES = ["same", "next", "disabled"]


@pytest.mark.parametrize(
    ("layout", "style", "seed"),
    [
        pytest.param(layout, style, seed, marks=() if (number + seed) % 3 == STYLES.index(style) else pytest.mark.prove)
        for number, layout in enumerate(LAYOUTS)
        for style in STYLES
        for seed in range(4)
    ],
)
def test_what_is_read_is_to_the_bit_what_whole_stacks_give(
    make_world, draws, layout, style, seed, monkeypatch, tmp_path
):
    rng = np.random.default_rng(seed)
    if seed % 2:  # as of large observations, whose final ones have a table that grows
        monkeypatch.setattr(final_observations, "SMALL", 0)
        monkeypatch.setattr(final_observations, "FIRST_PLACES", 2)
    monkeypatch.setattr(lanes, "rows_of_chunk", lambda members, num_envs, fields: 4)
    env = Stacking(make_world(int(rng.integers(1, 3)), int(rng.integers(1, 4)), style, 0.15, seed), layout, 2 + seed)
    capacity = env.num_envs * int(rng.integers(6, 20))
    stacked, whole = env.storage(capacity, env.obs_space), env.storage(capacity)
    run = RunFolder.create(tmp_path / "run", {"agent": "dqn"})
    for moment, chunk in enumerate(rng.integers(2, 25, size=5)):
        env.play(int(chunk), stacked, whole)
        assert_read_alike(stacked, whole, draws)
        CheckpointWriter(run).commit(snapshot(stacked.state()), stacked.chunks())
        state, chunks = load_checkpoint(run)
        stacked = env.storage(capacity, env.obs_space)
        stacked.load(state, (chunk.arrays() for chunk in chunks))
        assert_read_alike(stacked, whole, draws)
        if moment == 2:  # fresh episodes in every env
            env.reset()
            for storage in (stacked, whole):
                storage.cut_episodes()


def test_the_oldest_row_has_its_older_frames_after_every_row_was_overwritten(make_world):
    env = Stacking(make_world(1, 1, "same", 0.0), "vector", 4)
    stacked, whole = env.storage(5, env.obs_space), env.storage(5)
    env.play(23, stacked, whole)
    oldest = torch.tensor([[23 - 5]])
    assert_equal(stacked.read(oldest, "obs", "next_obs"), whole.read(oldest, "obs", "next_obs"))
    assert (stacked.read(oldest, "obs")["obs"].long() > 0).all()  # no frame is missing


@pytest.mark.parametrize("style", ["same", "next"])
def test_a_program_reads_and_writes_as_the_host_does(make_world, as_graph, style):
    env = Stacking(make_world(2, 2, style, 0.3), "channels first", 3)
    host, inside = (env.storage(12, env.obs_space, growing=False) for _ in range(2))
    row = torch.arange(8).repeat(2, 1) + 2 * 6  # those of 4 times
    names = ("obs", "next_obs", "action")
    device = HostEnv(env, torch.device("cpu"))
    write = None
    for _ in range(13):
        obs, action = torch.from_numpy(env.stack.copy()), torch.zeros(2, 2, dtype=torch.int64)
        step = device.step(action)
        host.add(obs, action, step)
        whole = (step.reward.clone(), step.terminated, step.truncated, step.valid)
        if write is None:
            from rlab.experience.env_contract import Step

            def written(obs, action, now, then, reward, terminated, truncated, valid):
                inside.write(obs, action, Step(now, then, reward, terminated, truncated, valid))

            write = as_graph(written, obs, action, step.obs, step.next_obs.clone(), *whole)
        write(obs, action, step.obs, step.next_obs.clone(), *whole)
        inside.wrote(1)
    read = as_graph(lambda row: inside.read(row, *names), row)
    mask = host.read(row, "valid")["valid"]
    for name, value in host.read(row, *names).items():
        assert torch.equal(read(row)[name][mask], value[mask]), name


def test_memory_of_stacked_frames_is_that_of_single_ones():
    space = Box((4, 84, 84), "uint8", 0.0, 255.0, FIRST, 4)
    fields = Field("obs", space.shape, "uint8"), Field("action", (), "int64")
    stacked, whole = (Storage(1, 8, 8 * 100, fields, obs_space=given) for given in (space, None))
    frame, slots = 84 * 84, (100 + 4, 100 + 1)
    assert stacked.columns["obs"].nbytes == 8 * slots[0] * frame
    assert whole.columns["obs"].nbytes == 8 * slots[1] * 4 * frame
    # told before it is taken: 1 000 000 frames in 8 lanes; a row also has 8 + 4 + 3 + 1 bytes of its fields and its
    # age, 4 of the place of a final observation and 8 of its id among the valid rows
    assert stacked.nbytes == 8 * slots[0] * (frame + 28)
    taken = sum(column.nbytes for column in (*stacked.columns.values(), stacked.finals.place))
    assert taken + 8 * 8 * slots[0] == stacked.nbytes
    assert stacked.fields == whole.fields  # what is read is the same


def episodes_of(env, count):
    """Recorded episodes of one env whose ends are seen."""
    found = []
    while len(found) < count:
        obs, rewards = [env.reset()[0, 0].copy()], []
        for _ in range(6):
            step = env.step(np.zeros((1, 1), np.int64))
            obs.append(step.next_obs[0, 0].copy())
            rewards.append(1.0)
            if step.terminated[0, 0] or step.truncated[0, 0]:
                break
        zeros = np.zeros(len(rewards), np.int64)
        found.append(Episode(np.stack(obs), zeros, np.array(rewards, np.float32), True, False))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_demonstrations_keep_single_frames_too(make_world, layout):
    env = Stacking(make_world(1, 1, "disabled", 0.2), layout, 3)
    episodes = tuple(episodes_of(env, 5))
    plain = Box(env.obs_space.shape, "uint16", 0.0, 65535.0, env.obs_space.channels)
    chosen = [np.array([0, 1, 2]), np.array([1, 3, 4])]
    stacked, whole = (
        Demonstrations(Dataset("shown", space, Discrete(10), episodes), chosen) for space in (env.obs_space, plain)
    )
    assert stacked.columns["obs"].bits[0, 0].numel() * 3 == whole.columns["obs"].bits[0, 0].numel()
    rows = torch.arange(min(stacked.rows, whole.rows) - 1).repeat(2, 1)
    valid = whole.read(rows, "valid")["valid"]
    for name, value in read_windows(whole, rows, 3).items():
        assert torch.equal(read_windows(stacked, rows, 3)[name][valid], value[valid]), name
    assert torch.equal(stacked.observations()[0][:, :-1], whole.observations()[0][:, : stacked.rows - 1])


def test_episodes_that_are_no_stacks_of_their_frames_are_refused(make_world):
    env = Stacking(make_world(1, 1, "disabled", 0.0), "vector", 3)
    (episode,) = episodes_of(env, 1)
    repeated = episode.obs.copy()
    repeated[0] = np.tile(repeated[0, -2:], 3)  # the first frame where there are to be zeros
    wrong = Episode(repeated, episode.action, episode.reward, True, False)
    with pytest.raises(UsageError, match="not stacks of its newest frames, with zeros before its beginning"):
        Demonstrations(Dataset("shown", env.obs_space, Discrete(10), (wrong,)), [np.array([0])])


def test_a_space_says_as_plain_data_that_it_is_a_stack():
    space = Box((4, 84, 84), "uint8", 0.0, 255.0, FIRST, 4)
    assert space.to_json()["frames"] == 4
    again = space_from_json(space.to_json())
    assert (again.frames, again.frame_axis, again.channels) == (4, 0, FIRST)
    assert "frames" not in Box((3,), "float32", -1.0, 1.0).to_json()
    assert again == Box((4, 84, 84), "uint8", 0.0, 255.0)  # the arrays are the same
