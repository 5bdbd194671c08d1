"""Arrays cross from envs on the host to a device whole, and into memory of their own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.experience.border import ALIGNED, Crossing, HostEnv, pack, starts_of, unpack
from rlab.experience.env_contract import HostStep
from rlab.networks.spaces import Box, Discrete

CPU = torch.device("cpu")
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


@st.composite
def crossed(draw):
    """Arrays of any dtypes and sizes, among them empty ones and some whose memory has gaps."""
    arrays = []
    for _ in range(draw(st.integers(1, 6))):
        dtype, shape = draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        content = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**63, (*shape, 2)).astype(dtype)
        arrays.append(content[..., 0] if draw(st.booleans()) else content)
    return arrays


@given(crossed())
def test_what_is_packed_in_one_piece_of_memory_is_unpacked_as_it_was(arrays):
    starts = starts_of(arrays)
    assert all(start % ALIGNED == 0 for start in starts)
    assert starts[-1] - sum(array.nbytes for array in arrays) < ALIGNED * len(arrays)
    memory = np.full(starts[-1] + 3, 99, np.uint8)  # as a piece that was made for more
    pack(arrays, starts, memory)
    there = torch.from_numpy(memory.copy())
    for array, tensor in zip(arrays, unpack(there, starts, arrays), strict=True):
        assert tensor.numpy().dtype == array.dtype
        assert np.array_equal(tensor.numpy(), array)
    assert (memory[starts[-1] :] == 99).all()


@given(crossed())
def test_on_the_cpu_the_tensors_have_memory_of_their_own(arrays):
    before = [array.copy() for array in arrays]
    tensors = Crossing(CPU)(arrays)
    for array in arrays:
        array[...] = 0
    for tensor, array in zip(tensors, before, strict=True):
        assert tensor.numpy().dtype == array.dtype
        assert np.array_equal(tensor.numpy(), array)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_crossing_twice_in_a_row_keeps_what_crossed_first():
    crossing, device = Crossing(torch.device("cuda")), []
    arrays = [[np.full((999, 1001), i, dtype) for dtype in ("float32", "uint8", "bool")] for i in range(20)]
    for each in arrays:
        device.append(crossing(each))
    for each, tensors in zip(arrays, device, strict=True):
        assert all(np.array_equal(tensor.cpu().numpy(), array) for tensor, array in zip(tensors, each, strict=True))


class Buffers:
    """A vector env, S = N = 1, that writes into the same arrays at every step; `kind` is how it shows ends."""

    obs_space, action_space = Box((1,), "float32", 0.0, 9.0), Discrete(2)
    seeds, num_envs, time_limit, has_reset_rows = (0,), 1, None, True

    def __init__(self, **flags):
        self.obs, self.next_obs = np.zeros((2, 1, 1, 1), np.float32)
        self.reward, self.flags = np.zeros((1, 1)), np.zeros((3, 1, 1), bool)
        self.shared, self.known = flags.pop("shared", False), flags
        self.time = 0

    def reset(self):
        self.obs[:] = 0.5
        return self.obs

    def step(self, action):
        self.time += 1
        self.obs[:], self.next_obs[:], self.reward[:] = self.time, 10 * self.time, 0.25 * self.time
        self.flags[:] = [[[False]], [[False]], [[True]]]
        next_obs = self.obs if self.shared else self.next_obs
        return HostStep(self.obs, next_obs, self.reward, *self.flags, **self.known)


def test_a_step_stays_as_it_is_whatever_the_env_does_with_its_memory():
    env = HostEnv(Buffers(), CPU)
    first = env.reset()
    steps = [env.step(torch.zeros(1, 1, dtype=torch.int64)) for _ in range(3)]
    assert first.item() == 0.5
    assert [step.obs.item() for step in steps] == [1, 2, 3]
    assert [step.next_obs.item() for step in steps] == [10, 20, 30]
    assert [step.reward.item() for step in steps] == [0.25, 0.5, 0.75]
    assert {step.reward.dtype for step in steps} == {torch.float64}
    assert [(step.terminated.item(), step.truncated.item(), step.valid.item()) for step in steps] == [
        (False, False, True)
    ] * 3


@pytest.mark.parametrize(
    ("flags", "apart"),
    [({}, True), ({"none_ended": True}, False), ({"shared": True}, False), ({"all_valid": True}, True)],
)
def test_a_second_observation_crosses_only_where_it_says_something_of_its_own(flags, apart):
    step = HostEnv(Buffers(**flags), CPU).step(torch.zeros(1, 1, dtype=torch.int64))
    assert (step.next_obs is not step.obs) is apart
    assert step.next_obs.item() == (10 if apart else 1)
    assert step.valid.tolist() == [[True]]
    assert step.all_valid is flags.get("all_valid", False)
    assert step.none_ended is flags.get("none_ended", False)
