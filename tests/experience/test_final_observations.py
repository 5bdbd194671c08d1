"""The side table of hidden successors, against a plain dict, through many rounds of its ring and while it grows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.experience import final_observations
from rlab.experience.fields import Field
from rlab.experience.final_observations import FinalObservations

CPU = torch.device("cpu")
OBS = Field("obs", (2,), "int64")


class Table:
    """A side table and a dict of what it should hold."""

    def __init__(self, members, slots, num_envs, growing, first_places):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(final_observations, "SMALL", 0)
            patch.setattr(final_observations, "FIRST_PLACES", first_places)
            self.finals = FinalObservations((members, slots, num_envs), OBS, CPU, growing)
        self.shape, self.slots, self.known, self.time = (members, num_envs), slots, {}, 0

    def write(self, hidden, as_tensor=False):
        """One row in which those of `hidden [S, N]` hide their successor."""
        slot = self.time % self.slots
        self.known = {at: value for at, value in self.known.items() if at[1] != slot}
        slot_given = torch.tensor([slot]) if as_tensor else slot
        self.finals.release(slot_given)
        self.keep(slot, hidden, slot_given)
        self.time += 1

    def keep(self, slot, hidden, slot_given):
        obs = 1000 * self.time + torch.arange(hidden.numel()).reshape(self.shape)
        self.finals.keep(slot_given, hidden, torch.stack([obs, -obs], dim=-1))
        for member, env in hidden.nonzero().tolist():
            self.known[member, slot, env] = obs[member, env].item()

    def check(self):
        members, num_envs = self.shape
        at = torch.arange(members * self.slots * num_envs)
        fill = torch.full((len(at), 2), -7)
        found = self.finals.put_into(fill, at)[..., 0].reshape(members, self.slots, num_envs)
        for place in torch.cartesian_prod(*map(torch.arange, found.shape)).reshape(-1, 3).tolist():
            assert found[tuple(place)].item() == self.known.get(tuple(place), -7)


def any_hidden(generator, shape, share):
    return torch.rand(shape, generator=generator) < share


@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), st.booleans(), st.integers(1, 5), st.data())
def test_the_table_has_every_hidden_successor_of_a_row_that_is_held(
    members, slots, num_envs, growing, first_places, data
):
    table = Table(members, slots, num_envs, growing, first_places)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for share in data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=5)):
        for _ in range(data.draw(st.integers(1, 8))):
            table.write(any_hidden(generator, table.shape, share), data.draw(st.booleans()))
        table.check()
    assert first_places <= table.finals.places or not growing or table.finals.places == slots * num_envs
    assert table.finals.places <= slots * num_envs


@given(st.integers(0, 99), st.booleans())
def test_a_row_that_hides_more_later_keeps_what_it_hid_also_where_the_table_grows_just_then(seed, growing):
    table = Table(2, 5, 3, growing, 2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(12):
        first = any_hidden(generator, table.shape, 0.3)
        table.write(first)
        slot = (table.time - 1) % 5
        table.keep(slot, any_hidden(generator, table.shape, 0.5) & ~first, slot)
        table.check()


def test_a_table_that_need_not_grow_has_the_same_memory_for_ever():
    table = Table(2, 4, 2, False, 1)
    memory = table.finals.table.data_ptr(), table.finals.place.bits.data_ptr()
    for _ in range(50):
        table.write(torch.ones(table.shape, dtype=torch.bool))
    table.check()
    assert memory == (table.finals.table.data_ptr(), table.finals.place.bits.data_ptr())
    assert table.finals.table.shape == (1 + 2 * 8, 2)


def test_hidden_successors_are_listed_for_the_host_as_few_as_there_are(as_graph):
    table = Table(2, 4, 2, False, 1)
    table.write(torch.tensor([[True, False], [False, False]]))
    table.write(torch.tensor([[True, True], [False, True]]))
    place = table.finals.place.bits[:, :3].flatten(1)  # rows t0 n0, t0 n1, t1 n0, t1 n1, and two that nothing wrote
    obs, row = table.finals.listed(place)
    assert row.tolist() == [[0, 2, 3], [3, 6, 6]]  # 6 is no row
    assert obs[..., 0].tolist() == [[0, 1000, 1001], [1003, 0, 0]]
    in_program = as_graph(lambda: dict(zip(("obs", "row"), table.finals.listed(place), strict=True)))()
    assert in_program["row"].tolist() == [[0, 2, 3, 6, 6, 6], [3, 6, 6, 6, 6, 6]]  # fixed shape
    assert in_program["obs"][..., 0].tolist() == [[0, 1000, 1001, 0, 0, 0], [1003, 0, 0, 0, 0, 0]]
