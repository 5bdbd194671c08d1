"""The benchmark of random numbers, at small size."""

import torch

from rlab.draws import Draws
from rlab.experiments.benchmarks.draws import CASES, Table, measure, medians


def test_a_case_is_measured_in_every_way_for_each_number_of_members(monkeypatch):
    monkeypatch.setattr("rlab.experiments.benchmarks.draws.IN_PROGRAM", 2)
    name, case = next(iter(CASES.items()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = measure((1, 2), draws=4, rounds=2, device=device, backend="eager", cases={name: case})
    assert list(rows[name]) == ["S = 1", "S = 2"]
    ways = {"table", "eager", "eager, ahead", "program"} | ({"graph"} if device == "cuda" else set())
    for by_way in rows[name].values():
        assert by_way.keys() == ways
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in by_way.values())
    assert medians(rows)[name]["S = 2"]["table"] == sum(rows[name]["S = 2"]["table"]) / 2


def test_a_table_holds_the_shapes_and_dtypes_of_what_is_compared_with_it():
    for case in CASES.values():
        table, drawn = Table(case, (1, 2), "cpu").next(), case.drawn(Draws((1, 2), "draws", "cpu"))
        assert (table.shape, table.dtype) == (drawn.shape, drawn.dtype)
        assert drawn[0].numel() == case.numbers
