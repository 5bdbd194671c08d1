"""Maps of cells and strips of episodes, as marks."""

import numpy as np
import pytest

from rlab.evaluation.charts.cells import CellsOf, cells_chart
from rlab.evaluation.charts.frame import NARROW, WIDE
from rlab.evaluation.charts.marks import Area, Chart, Group, Mark, Text
from rlab.evaluation.charts.strip import StripOf, strip_chart
from rlab.evaluation.charts.svg import svg_file


def flat(marks: object) -> list[Mark]:
    found: list[Mark] = []
    for mark in marks:  # type: ignore[attr-defined]
        found += flat(mark.marks) if isinstance(mark, Group) else [mark]
    return found


def painted(chart: Chart) -> list[Area]:
    """The areas of the cells: those inside the clipped group."""
    (group,) = (mark for mark in chart.marks if isinstance(mark, Group) and mark.clip is not None)
    return [mark for mark in flat([group]) if isinstance(mark, Area)]


def size(area: Area) -> float:
    xs, ys = zip(*area.points, strict=True)
    return (max(xs) - min(xs)) * (max(ys) - min(ys))


def cells(values: np.ndarray, **settings: object) -> CellsOf:
    x, y = np.arange(values.shape[1], dtype=float), np.arange(values.shape[0], dtype=float)
    return CellsOf(x, y, values, ("x", "y"), "what", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_rectangles_of_options_cover_every_cell_once_with_neighbours_together(width: float) -> None:
    values = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    chart = cells_chart(cells(values, options=("left", "stay", "right", "never")), "a map", width)
    areas = painted(chart)
    assert len(areas) == 3  # the two rows below are alike
    (group,) = (mark for mark in chart.marks if isinstance(mark, Group) and mark.clip is not None)
    left, top, right, bottom = group.clip or (0.0,) * 4
    assert sum(map(size, areas)) == pytest.approx((right - left) * (bottom - top))
    by_color = {area.color: size(area) for area in areas}
    assert by_color["side0"] == pytest.approx(2 * by_color["side1"])  # 4 cells and 2
    lowest = max(max(y for _, y in area.points) for area in areas if area.color == "side0")
    assert lowest == pytest.approx(bottom)  # the first row is the lowest
    texts = [mark.text for mark in flat(chart.marks) if isinstance(mark, Text)]
    assert texts.count("left") == texts.count("stay") == texts.count("right") == 2  # on the map and in the legend
    assert "never" not in texts


def test_numbers_about_zero_are_blue_above_and_orange_below() -> None:
    chart = cells_chart(cells(np.array([[-2.0, 0.0], [1.0, 2.0]]), about_zero=True), "a map")
    found = sorted((area.color, round(area.opacity, 3)) for area in painted(chart))
    assert found == [("side0", 0.425), ("side0", 0.85), ("side1", 0.85)]  # 0 is the paper


@pytest.mark.parametrize("about_zero", [False, True])
def test_a_map_of_one_value_alone_is_drawn(about_zero: bool) -> None:
    assert "<svg" in svg_file(cells_chart(cells(np.zeros((3, 3)), about_zero=about_zero), "a map"))


@pytest.mark.parametrize("steps", [1, 2, 1000])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_strip_of_any_length_is_drawn_within_its_width(steps: int, width: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(steps, 2))
    values[0, 1] = np.nan
    taken = rng.integers(-1, 2, steps)
    chart = strip_chart(StripOf("Q value", ("a", "b"), values, np.ones(steps), taken), "a strip", width)
    places = [x for mark in flat(chart.marks) if isinstance(mark, Area) for x, _ in mark.points]
    assert min(places, default=0.0) >= -0.01
    assert max(places, default=0.0) <= width
    assert len(chart.readings) == min(steps, 120)
