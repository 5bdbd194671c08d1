"""The list of rows that are transitions, against a plain list."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.experience.valid_rows import ValidRows

CPU = torch.device("cpu")


def ids_of(rows, member):
    """All ids that a member's list has, oldest first."""
    count = rows.counts[member, 0].item()
    numbers = torch.arange(count).expand(len(rows.counts), count)
    return rows.ids(numbers)[member].tolist()


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.integers(0, 99), st.data())
def test_the_list_is_the_valid_rows_that_are_held_in_the_order_of_their_ids(
    members, num_envs, lane_rows, steps, seed, data
):
    generator = torch.Generator().manual_seed(seed)
    share = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    valid = torch.rand(steps, members, num_envs, generator=generator) < share
    begun = data.draw(st.integers(0, steps))  # so many are listed at once, as behind a load
    rows = ValidRows(members, num_envs, lane_rows * num_envs, CPU)
    first = max(0, begun - lane_rows)
    if begun:
        rows.begin(valid[first:begun].movedim(1, 0).flatten(1), first * num_envs)
    for time in range(begun, steps):
        dropped = valid[time - lane_rows] if time >= lane_rows else torch.zeros_like(valid[time])
        rows.replace(dropped, valid[time], torch.tensor([time * num_envs]) if time % 2 else time * num_envs)
    for member in range(members):
        expected = [
            time * num_envs + env
            for time in range(max(0, steps - lane_rows), steps)
            for env in range(num_envs)
            if valid[time, member, env]
        ]
        assert ids_of(rows, member) == expected


def test_each_row_is_drawn_equally_often_and_no_other_one_also_where_the_ring_has_come_round():
    rows, valid = ValidRows(2, 3, 6 * 3, CPU), torch.rand(40, 2, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    for time in range(40):
        rows.replace(valid[time - 6] if time >= 6 else torch.zeros_like(valid[0]), valid[time], time * 3)
    drawn = rows.ids(Draws((0, 1), "replay", CPU).integers(rows.counts, 40_000))
    for member in range(2):
        seen, counts = drawn[member].unique(return_counts=True)
        assert seen.tolist() == ids_of(rows, member)
        expected, freedom = 40_000 / len(seen), len(seen) - 1
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5  # four standard deviations of chi-square
