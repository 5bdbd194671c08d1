"""Charts: colours that can be told apart, round numbers on axes, labels that keep apart, and the same picture in every
form."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from rlab.errors import UsageError
from rlab.evaluation.charts.bars import BarOf, bars_chart
from rlab.evaluation.charts.curves import CurveOf, curve_of, curves_chart
from rlab.evaluation.charts.files import save_chart
from rlab.evaluation.charts.front import Choice, Words, front_chart, lower_edge
from rlab.evaluation.charts.marks import Area, Chart, Dot, Group, Line, Mark, Text
from rlab.evaluation.charts.palette import DARK, LIGHT, SIDES, contrast, rgb, side_color, side_dash
from rlab.evaluation.charts.png import DPI, png
from rlab.evaluation.charts.rows import RowOf, rows_chart
from rlab.evaluation.charts.scales import MINUS, log_ticks, shortened, spread, text_width, tick_texts, ticks
from rlab.evaluation.charts.svg import svg_file
from rlab.evaluation.stats import Interval, stratified_bootstrap

WHEN = np.arange(1, 6) * 1000

# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", at
# full severity; on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def all_marks(marks: Sequence[Mark]) -> list[Line | Area | Dot | Text]:
    found: list[Line | Area | Dot | Text] = []
    for mark in marks:
        found += all_marks(mark.marks) if isinstance(mark, Group) else [mark]
    return found


def texts(chart: Chart) -> list[Text]:
    return [mark for mark in all_marks(chart.marks) if isinstance(mark, Text)]


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def seen(color: str, blindness: str) -> np.ndarray:
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(color)])
    return lab(np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_stand_out_from_the_background_and_text_can_be_read(theme: Any) -> None:
    for side in range(SIDES):
        assert contrast(theme[f"side{side}"], theme["paper"]) >= 3.0, side
        assert contrast(theme[f"side{side}-text"], theme["paper"]) >= 4.5, side
        assert contrast(theme[f"side{side}-text"], theme["panel"]) >= 4.5, side
    for role in ("ink", "muted"):
        assert contrast(theme[role], theme["paper"]) >= 4.5
        assert contrast(theme[role], theme["panel"]) >= 4.5


def test_contrast_of_black_on_white_is_21_and_of_a_colour_on_itself_1() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#0072b2", "#0072b2") == 1.0


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_sides_are_told_apart_with_every_kind_of_colour_vision(theme: Any, blindness: str) -> None:
    # A difference of 2.3 in CIELAB is just seen side by side; what is far above is told apart in lines.
    for (a, one), (b, other) in combinations([(i, theme[f"side{i}"]) for i in range(SIDES)], 2):
        distance = float(np.linalg.norm(seen(one, blindness) - seen(other, blindness)))
        assert distance > 15.0, (a, b, distance)


def test_two_sides_of_one_colour_have_different_dashes() -> None:
    styles = [(side_color(side), side_dash(side)) for side in range(4 * SIDES)]
    assert len(set(styles)) == len(styles)


@pytest.mark.parametrize(
    ("low", "high", "most", "found"),
    [
        (0, 50_000, 5, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (0, 1_000_000, 4, ["0", "0.25M", "0.50M", "0.75M", "1.00M"]),
        (-210, -60, 4, [f"{MINUS}200", f"{MINUS}150", f"{MINUS}100"]),
        (0.93, 0.97, 4, ["0.93", "0.94", "0.95", "0.96", "0.97"]),
        (480, 500, 3, ["480", "490", "500"]),
        (0, 3, 8, ["0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]),
    ],
)
def test_ticks_are_round_and_alike(low: float, high: float, most: int, found: list[str]) -> None:
    assert tick_texts(ticks(low, high, most)) == found


def test_logarithmic_ticks_are_1_2_5_or_all_round_values_of_a_short_range() -> None:
    assert log_ticks(400, 6000) == [500, 1000, 2000, 5000]
    assert log_ticks(5.6, 6.4) == pytest.approx([5.6, 5.8, 6.0, 6.2, 6.4])
    assert log_ticks(0.004, 0.4, most=6) == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert log_ticks(3e-7, 0.2, most=6) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert log_ticks(3e-9, 0.2, most=4) == pytest.approx([1e-8, 1e-6, 1e-4, 1e-2])


def test_labels_move_apart_as_little_as_possible_and_stay_inside() -> None:
    assert spread([10, 100], 20, 0, 200) == [10, 100]  # room enough
    assert spread([50, 50], 20, 0, 200) == [40, 60]  # both give way alike
    assert spread([50, 54, 90], 20, 0, 200) == [42, 62, 90]
    assert spread([60, 50, 55], 20, 0, 200) == [75, 35, 55]  # around 55, in the order that they have
    assert spread([195, 199], 20, 0, 200) == [180, 200]
    assert spread([-5, 2], 20, 0, 200) == [0, 20]


def test_a_text_that_is_too_long_keeps_its_ends() -> None:
    assert shortened("runs/first-try", 1000, 13) == "runs/first-try"
    short = shortened("runs/a-very-long-name-of-a-run-3", 100, 13)
    assert re.fullmatch(r"runs.*….*run-3", short)
    assert text_width(short, 13) <= 100


def test_a_band_is_the_interval_of_the_values_at_each_moment() -> None:
    values = np.arange(20.0).reshape(4, 5) ** 2
    values[1, 2] = np.nan  # a member without an episode then
    found = curve_of(0, "a", (WHEN, values))
    assert found is not None
    assert found.when.tolist() == [1000, 2000, 4000, 5000]
    last = stratified_bootstrap(values[:, -1], reps=2000)
    assert found.low is not None
    assert found.high is not None
    assert (found.middle[-1], found.low[-1], found.high[-1]) == (last.estimate, last.low, last.high)
    assert curve_of(0, "a", (WHEN, np.full((2, 5), np.nan))) is None
    alone = curve_of(0, "a", (WHEN, values[:1]))
    assert alone is not None
    assert alone.low is None


def curves(count: int = 2) -> list[CurveOf]:
    rows = np.linspace(0, 1, 5)
    return [
        CurveOf(i, f"side {i}", WHEN, rows + i, rows + i - 0.1, rows + i + 0.1, np.stack([rows, rows]) + i)
        for i in range(count)
    ]


@pytest.mark.parametrize("width", [880.0, 360.0])
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_every_text_is_inside_and_no_two_labels_overlap(width: float, count: int) -> None:
    rows = [RowOf(i, f"side {i}", Interval(i, i - 0.5, i + 0.5), np.arange(4.0) + i) for i in range(count)]
    for chart in (
        curves_chart(curves(count), ("env steps", "return"), "t", width),
        rows_chart(rows, "return", "t", width),
    ):
        for text in texts(chart):
            long = text_width(text.text, text.size, text.bold)
            left = text.x - {"start": 0.0, "middle": long / 2, "end": long}[text.anchor]
            assert left >= -1.0, text
            assert left + long <= chart.width + 1.0, text
            assert 0.0 < text.y < chart.height, text
        names = sorted(text.y for text in texts(chart) if text.bold)
        assert all(b - a >= 16.0 for a, b in pairwise(names))


def test_values_at_a_place_are_those_of_the_curves_there() -> None:
    first, *_, last = curves_chart(curves(), ("env steps", "return"), "t").readings
    assert first.heading == "1,000 env steps"
    assert list(first.rows) == [(0, "side 0", f"0.000 [{MINUS}0.100, 0.100]"), (1, "side 1", "1.000 [0.900, 1.100]")]
    assert last.rows[1] == (1, "side 1", "2.000 [1.900, 2.100]")


def test_one_point_equal_values_and_values_that_are_not_finite_can_be_drawn() -> None:
    point = CurveOf(0, "a", np.array([0]), np.array([5.0]))
    flat = CurveOf(1, "b", WHEN, np.full(5, 5.0), np.full(5, 5.0), np.full(5, 5.0))
    gap = CurveOf(2, "c", WHEN, np.array([1.0, np.nan, 2.0, np.nan, 3.0]))
    for drawn in ([point], [flat], [gap], [point, flat, gap]):
        text = svg_file(curves_chart(drawn, ("env steps", "return"), "t"))
        assert "nan" not in text
        assert "inf" not in text
        ElementTree.fromstring(text.partition("\n")[2])
    assert "nan" not in svg_file(rows_chart([RowOf(0, "a", 5.0)], "return", "t"))


def test_a_thousand_seeds_are_drawn_as_a_hundred() -> None:
    many = CurveOf(0, "a", WHEN, np.zeros(5), None, None, np.random.default_rng(0).normal(size=(1000, 5)))
    lines = [mark for mark in all_marks(curves_chart([many], ("x", "y"), "t").marks) if isinstance(mark, Line)]
    assert sum(line.width == 1.0 and line.color == "side0" and len(line.points) == 5 for line in lines) == 100


def test_a_file_has_the_colours_of_the_light_theme_and_whole_xml_whatever_names_hold() -> None:
    name = "<b>&\"'\x00\x1b\ufffe\u202e $x^2$ \\frac"
    chart = curves_chart([CurveOf(0, name, WHEN, np.arange(5.0))], ("env steps", name), name)
    text = svg_file(chart)
    root = ElementTree.fromstring(text.partition("\n")[2])
    assert "var(" not in text
    assert "style" not in text
    assert LIGHT["side0"] in text
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "title",
        "rect",
        "path",
        "text",
        "g",
        "clipPath",
    }


def test_a_png_is_the_same_layout_at_its_resolution(tmp_path: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    name = "$x^2$ \\frac"  # no formula
    chart = curves_chart([CurveOf(0, name, WHEN, np.arange(5.0))], ("env steps", "return"), "t")
    save_chart(tmp_path / "a.png", chart)
    with image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape[:2] == pytest.approx((chart.height * DPI / 96, chart.width * DPI / 96), abs=1)
    blue = np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]).sum(axis=2) < 30
    (line,) = [m for m in all_marks(chart.marks) if isinstance(m, Line) and m.width == 2.25]
    for x, y in line.points[1:-1]:
        column, row = round(x * DPI / 96), round(y * DPI / 96)
        assert blue[row - 4 : row + 5, column - 4 : column + 5].any(), (x, y)
    assert png(chart) == png(chart)
    with pytest.raises(UsageError, match=r"a chart is written as \.png or \.svg, not as 'a\.pdf'"):
        save_chart(tmp_path / "a.pdf", chart)


def test_bars_are_as_long_as_their_shares() -> None:
    chart = bars_chart([BarOf("learning_rate", 0.6, "60 %"), BarOf("gamma", 0.15, "15 %")], "t")
    long, short = [mark.points for mark in all_marks(chart.marks) if isinstance(mark, Area)]
    assert (short[1][0] - short[0][0]) / (long[1][0] - long[0][0]) == pytest.approx(0.25)


def test_failures_far_below_a_front_are_arrows_at_the_lower_edge() -> None:
    choices = [
        Choice("bad", 700.0, Interval(-9.0, -12.0, -6.0), False, False),
        Choice("good", 800.0, Interval(0.99, 0.97, 1.0), True, True),
        Choice("better", 801.0, Interval(1.0, 0.96, 1.0), True, False),
    ]
    chart = front_chart(choices, [(750.0, -20.0), (760.0, 0.98)], (900.0, 0.95), Words("bytes", "ratio"), "t")
    arrows = [mark for mark in all_marks(chart.marks) if isinstance(mark, Dot) and mark.shape == "down"]
    assert len(arrows) == 3  # two, and one in the key
    (lower,) = {mark.y for mark in arrows if mark.x < 600}
    dots = [
        mark.y for mark in all_marks(chart.marks) if isinstance(mark, Dot) and mark.shape != "down" and mark.x < 600
    ]
    assert lower > max(dots)  # y grows downwards
    assert {"screened only", "lower than is drawn", "good", "better"} <= {text.text for text in texts(chart)}
    assert "bad" not in {text.text for text in texts(chart)}


def test_numbers_of_close_points_are_apart_and_within_the_axes() -> None:
    choices = [Choice(f"p{i}", 5.7 + i / 1000, Interval(1.0, 1.0, 1.0), True, i == 0) for i in range(5)]
    chart = front_chart(choices, [], (10.0, 0.95), Words("us", "ratio"), "t")
    numbers = [text for text in texts(chart) if text.text in list("12345") and text.halo]
    assert [text.text for text in numbers] == list("12345")
    places = [(text.x, text.y - 4.0) for text in numbers]
    assert all(np.hypot(a[0] - b[0], a[1] - b[1]) >= 11.0 for a, b in combinations(places, 2))
    assert all(0 < x < 630 and 28 < y < 414 for x, y in places)


@pytest.mark.parametrize(
    ("chosen_estimate", "least", "edge"),
    [(0.99, 0.95, 0.95), (0.2, 0.95, 0.1), (0.0, 0.95, 0.0), (-0.5, 0.95, -0.5), (-3.0, 0.0, -3.1)],
)
def test_the_lower_edge_is_not_below_0_but_for_what_was_chosen(
    chosen_estimate: float, least: float, edge: float
) -> None:
    low = chosen_estimate - 0.1 if chosen_estimate < 0.9 else 0.97
    chosen = Choice("a", 1.0, Interval(chosen_estimate, low, chosen_estimate), True, True)
    assert lower_edge([chosen], least) == pytest.approx(edge)


def test_the_dot_of_a_curve_of_one_point_is_not_cut_off_at_the_edge_of_the_plot() -> None:
    line = CurveOf(0, "a", WHEN[:2], np.array([1.0, 2.0]), None, None, np.array([[1.0, 2.0]]))
    alone = CurveOf(1, "b", WHEN[1:2], np.array([3.0]), None, None, np.array([[3.0]]))
    chart = curves_chart([line, alone], ("env steps", "return"), "two")
    clipped = [mark for mark in chart.marks if isinstance(mark, Group) and mark.clip is not None]
    assert not [mark for mark in all_marks(clipped) if isinstance(mark, Dot)]
    assert len([mark for mark in all_marks(chart.marks) if isinstance(mark, Dot)]) == 1


def test_the_axis_of_a_curve_of_one_point_begins_at_0_and_has_whole_env_steps() -> None:
    alone = CurveOf(0, "a", np.array([3000]), np.array([3.0]), None, None, np.array([[3.0]]))
    chart = curves_chart([alone], ("env steps", "return"), "one")
    on_axis = [mark.text for mark in texts(chart)]
    assert "0" in on_axis
    assert "3,000" in on_axis
    assert not [text for text in on_axis if text.startswith("3,000.")]
