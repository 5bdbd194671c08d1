"""A program writes to storage, samples from it and counts episodes as the host does, row by row and draw by draw."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import demonstrations_of
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.prioritised_sampler import PrioritisedSampler
from rlab.experience.samplers import UniformSampler
from rlab.experience.sequence_samplers import RolloutSampler, SequenceSampler
from rlab.learning.compiler import why_not_compile
from rlab.learning.program import Program
from rlab.networks.spaces import Box, Discrete

CPU = torch.device("cpu")
STYLES = ("same", "next", "disabled")
# Unsigned integers lie in memory as signed ones: their largest numbers must come back, too.
EXTRAS = tuple(Field(dtype, (2,), dtype) for dtype in ("uint16", "uint32", "uint64", "int8", "float16", "bool"))


def row_of(world, extras):
    """What a program is given of one vector step: tensors alone, not what the host knows of them."""
    obs, action, step = world.played()
    of_step = step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid
    return obs, action, *of_step, *(torch.from_numpy((-obs).numpy().astype(f.dtype)) for f in extras)


def as_step(tensors, extras):
    """The arguments of `Storage.write`."""
    obs, action, *of_step = tensors[:8]
    return (obs, action, Step(*of_step)), dict(zip((f.name for f in extras), tensors[8:], strict=True))


class Twins:
    """Two storages of one world: a program writes to the one, the host to the other."""

    def __init__(self, make_world, as_graph, style, rows, members=2, num_envs=3, extras=(), has_reset_rows=None):
        self.world, self.extras, self.as_graph = make_world(members, num_envs, style, 0.3), extras, as_graph
        if has_reset_rows is not None:
            self.world.has_reset_rows = has_reset_rows
        self.inside, self.outside = (self.world.storage(rows * num_envs, extras, growing) for growing in (False, True))
        self.trace()

    def trace(self):
        """Trace the writing, and what storage tells its followers then."""
        self.write = self.as_graph(self.write_row, *row_of(self.world, self.extras))

    def write_row(self, *tensors):
        row, extras = as_step(tensors, self.extras)
        self.inside.write(*row, **extras)

    def play(self, steps):
        for _ in range(steps):
            tensors = row_of(self.world, self.extras)
            row, extras = as_step(tensors, self.extras)
            self.outside.add(*row, **extras)
            self.write(*tensors)
            self.inside.wrote(1)

    def check(self):
        """Every row that is held has the same values, successor included."""
        one, other = self.inside, self.outside
        assert one.rows_written == other.rows_written == one.time.item() == other.time.item()
        first, num_envs = one.rows_written - one.rows, one.num_envs
        row = torch.arange(first * num_envs, one.rows_written * num_envs).expand(one.members, -1)
        names = [f.name for f in one.fields]
        mine, theirs = (s.read(row, *names, "next_obs") for s in (one, other))
        for name, value in mine.items():
            assert np.array_equal(value.numpy(), theirs[name].numpy()), name
        for f in self.extras:
            assert np.array_equal(mine[f.name].numpy(), (-mine["obs"]).numpy().astype(f.dtype)), f.name
        if one.valid_rows is not None:
            counts = one.valid_rows.counts
            assert torch.equal(counts, other.valid_rows.counts)
            number = torch.arange(counts.min().item()).expand(one.members, -1)
            assert torch.equal(one.valid_rows.ids(number), other.valid_rows.ids(number))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rows", [2, 7])
def test_what_a_program_writes_is_what_the_host_writes_row_by_row_round_after_round(make_world, as_graph, style, rows):
    twins = Twins(make_world, as_graph, style, rows)
    twins.check()  # tracing wrote nothing
    for steps in (1, 1, 2, 5, 11, 3):
        twins.play(steps)
        twins.check()


def test_every_dtype_comes_back_whoever_wrote_it(make_world, as_graph):
    twins = Twins(make_world, as_graph, "same", 5, extras=EXTRAS)
    twins.play(12)
    twins.check()
    batch = UniformSampler(twins.inside, Draws(range(2), "replay", CPU)).sample(9)
    assert {f.name: str(batch[f.name].dtype) for f in EXTRAS} == {f.name: f"torch.{f.name}" for f in EXTRAS}


def test_the_host_and_a_program_may_write_in_turn(make_world, as_graph):
    twins = Twins(make_world, as_graph, "next", 6)
    for steps in (3, 1, 8, 2):
        twins.play(steps)
        tensors = row_of(twins.world, ())
        for storage in (twins.inside, twins.outside):
            row, _ = as_step(tensors, ())
            storage.add(*row)
        twins.check()


KINDS = ["one step", "three steps", "sequence", "mixture", "prioritised"]


@pytest.mark.parametrize(
    ("style", "kind"),
    [
        pytest.param(style, kind, marks=() if number % len(STYLES) == STYLES.index(style) else pytest.mark.prove)
        for number, kind in enumerate(KINDS)
        for style in STYLES
    ],
)
def test_a_program_draws_what_the_host_draws_batch_after_batch(make_world, as_graph, style, kind):
    twins = Twins(make_world, as_graph, style, 9)

    def sampler_of(storage):
        draws = Draws((3, 4), "replay", CPU)
        if kind == "sequence":
            return SequenceSampler(storage, draws, 4)
        if kind == "prioritised":
            return PrioritisedSampler(storage, draws, 2)
        if kind == "mixture":
            ids = 10_000 + np.arange(6)
            episode = Episode(np.stack([ids, -ids], axis=-1), ids[:-1] % 10, np.ones(5, np.float32), True, False)
            lessons = Dataset("lessons", Box((2,), "int64", -1e6, 1e6), Discrete(10), (episode,) * 2)
            shown = UniformSampler(demonstrations_of(lessons, (3, 4)), Draws((3, 4), "demonstrations", CPU), 3)
            return MixtureSampler(UniformSampler(storage, draws, 3), shown, 0.4)
        return UniformSampler(storage, draws, {"one step": 1, "three steps": 3}[kind])

    inside, outside = sampler_of(twins.inside), sampler_of(twins.outside)
    twins.trace()

    def drawn(sampler):
        batch = sampler.sample(10)
        if not sampler.draws_ahead:
            sampler.feedback(batch["row"], batch["reward"].flatten(2).sum(dim=-1))
        return batch

    twins.play(4)
    in_program = as_graph(lambda: drawn(inside))
    seen = []
    for steps in (0, 1, 1, 20, 0):
        twins.play(steps)
        one, other = in_program(), drawn(outside)
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name].dtype == value.dtype
            # A power and a quotient of float64 may round differently in an operator of its own: 2 roundings in float32.
            close = torch.allclose(one[name], value, rtol=2e-7) if name == "weight" else torch.equal(one[name], value)
            assert close, name
        seen.append(one["row"])
    assert not torch.equal(seen[-1], seen[-2])  # nothing was written between them: the draw is another one


@pytest.mark.parametrize("style", STYLES)
def test_a_program_reads_the_rollout_that_the_host_reads(make_world, as_graph, style):
    twins = Twins(make_world, as_graph, style, 5)
    inside, outside = (
        RolloutSampler(storage, Draws((3, 4), "minibatches", CPU), 5, 2, 2) for storage in (twins.inside, twins.outside)
    )
    twins.play(5)
    in_program = as_graph(inside.sample)
    for _ in range(3):
        one, other = in_program(), outside.sample()
        finals = [{name: batch.pop(name) for name in ("final_obs", "final_row")} for batch in (one, other)]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        most = finals[1]["final_row"].shape[1]
        for name, value in finals[1].items():  # a program lists as many as there are rows: those behind are none
            assert torch.equal(finals[0][name][:, :most], value)
        assert finals[0]["final_row"].shape == (2, 15)
        assert (finals[0]["final_row"][:, most:] == 15).all()
        twins.play(5)


def test_a_program_shuffles_a_rollout_as_the_host_does_and_anew_in_every_run(make_world, as_graph):
    storage = make_world(2, 3, "same").storage(3 * 4)
    rows = {"number": torch.arange(2 * 12).reshape(2, 12), "value": torch.rand(2, 12, 2)}
    inside, outside = (RolloutSampler(storage, Draws((3, 4), "minibatches", CPU), 4, 2, 3) for _ in range(2))

    def all_of(sampler):
        return {f"{name} {i}": v for i, batch in enumerate(sampler.batches(rows)) for name, v in batch.items()}

    in_program = as_graph(lambda: all_of(inside))
    first, expected = in_program(), all_of(outside)
    assert len(first) == 2 * 2 * 3
    for _ in range(2):
        assert all(torch.equal(first[name], value) for name, value in expected.items())
        before, first, expected = first, in_program(), all_of(outside)
        assert not torch.equal(first["number 0"], before["number 0"])


@pytest.mark.parametrize("style", STYLES)
def test_a_program_counts_the_episodes_that_the_host_counts(make_world, as_graph, style):
    world = make_world(2, 3, style, 0.3)
    inside, outside = (Collector(HostEnv(world, CPU), looked=4) for _ in range(2))
    initial = {"0.steps": torch.full((2, 3, 1), 7.0)}
    inside.start(initial)
    outside.start(initial)

    def take(*tensors):
        inside.take(Step(*tensors), {"0.steps": inside.carried["0.steps"] + 1})

    def row():
        return row_of(world, ())[2:]

    in_program = as_graph(take, *row())
    finished = []
    for step in range(40):
        tensors = row()
        in_program(*tensors)
        outside.take(Step(*tensors), {"0.steps": outside.carried["0.steps"] + 1})
        for collector in (inside, outside):
            collector.took(1, True)
        assert torch.equal(inside.obs, outside.obs)
        assert torch.equal(inside.carried["0.steps"], outside.carried["0.steps"])
        if step % 4 == 3 or step == 37:
            one, other = inside.finished(), outside.finished()
            assert one == other
            finished += one
    assert len(finished) > 40
    assert inside.transitions.tolist() == outside.transitions.tolist()
    assert inside.episodes.tolist() == outside.episodes.tolist() == np.bincount([e.member for e in finished]).tolist()


@settings(max_examples=6)
@given(st.data())
def test_a_program_goes_on_where_a_checkpoint_ended(make_world, as_graph, data):
    style, rows = data.draw(st.sampled_from(STYLES)), data.draw(st.integers(2, 8))
    twins = Twins(make_world, as_graph, style, rows, members=1, num_envs=2)
    twins.play(data.draw(st.integers(0, 20)))
    again = Twins(make_world, as_graph, style, rows, members=1, num_envs=2)
    again.world = twins.world
    for storage in (again.inside, again.outside):
        storage.load(twins.inside.state(), [chunk.arrays() for chunk in twins.inside.chunks()])
    again.check()
    again.play(data.draw(st.integers(1, 12)))
    again.check()


@pytest.mark.skipif(why_not_compile(CPU) is not None, reason="needs a C++ compiler, such as g++")
def test_compiled_code_writes_and_draws_what_the_host_does(make_world, as_graph):
    # One storage that hides successors and lists its valid rows, for the time that compiling takes.
    twins = Twins(make_world, as_graph, "same", 6, extras=EXTRAS[:1], has_reset_rows=True)
    inside, outside = (UniformSampler(s, Draws((3, 4), "replay", CPU), 2) for s in (twins.inside, twins.outside))

    def cycle(*tensors):
        twins.write_row(*tensors)
        return inside.sample(8)

    program = Program(cycle, "cycle")
    for step in range(20):
        tensors = row_of(twins.world, twins.extras)
        row, extras = as_step(tensors, twins.extras)
        twins.outside.add(*row, **extras)
        found, expected = program(*tensors), outside.sample(8)
        twins.inside.wrote(1)
        for name, value in expected.items():
            assert np.array_equal(found[name].numpy(), value.numpy()), (step, name)
    twins.check()


@pytest.mark.prove
@pytest.mark.skipif(why_not_compile(CPU) is not None, reason="needs a C++ compiler, such as g++")
def test_compiled_code_changes_large_memory_in_place(make_world, as_graph):
    twins = Twins(make_world, as_graph, "same", 200_000, has_reset_rows=True)
    program, tensors = Program(twins.write_row, "write"), row_of(twins.world, ())

    def seconds(function):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        return min(times)

    writing = seconds(lambda: program(*tensors))
    for memory in (twins.inside.columns["obs"].bits, twins.inside.finals.table, twins.inside.finals.place.bits):
        assert writing < seconds(memory.clone)  # of 5 to 20 MB, against 6 rows
