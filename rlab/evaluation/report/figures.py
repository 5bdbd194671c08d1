"""The charts of a task, each at any width, with what it shows in words and in numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlab.evaluation.charts.curves import MOST_SEEDS, CurveOf, curve_of, curves_chart, value_text
from rlab.evaluation.charts.marks import Chart
from rlab.evaluation.charts.rows import RowOf, rows_chart
from rlab.evaluation.charts.scales import whole
from rlab.evaluation.report.escaping import slug
from rlab.evaluation.report.model import Task
from rlab.evaluation.report.numbers import counted, plain
from rlab.evaluation.stats import performance_profile

THRESHOLDS = 61  # of a profile
MOST_ROWS = 40  # of a table of a curve's numbers


@dataclass(frozen=True)
class Figure:
    """One chart."""

    key: str  # its file's name
    heading: str
    about: str  # what is drawn, in words
    draw: Callable[[float], Chart]  # at this width in pixels
    columns: Sequence[str] = ()  # of its numbers
    rows: Sequence[Sequence[str]] = ()
    has_seeds: bool = False  # whether single seeds can be shown


JUDGED = (
    "Greedy evaluations during training, on episodes of their own. ",
    "mean return",
)
TRAINED = (
    "What episodes of training returned, exploration included: how learning went, and not how good the policy is. ",
    "return while training",
)


def figures(task: Task) -> list[Figure]:
    """Those that the data of a task allow, in reading order."""
    units = dict.fromkeys(side.unit for side in task.sides)
    curves = [_curves(task, unit, kind) for kind in ("curves", "training") for unit in units]
    found = [*curves[: len(units)], _returns(task), _comparison(task), _profile(task), *curves[len(units) :]]
    return [each for each in found if each is not None]


def _curves(task: Task, unit: str, kind: str) -> Figure | None:
    """Learning curves of the sides with one clock: `curves` are evaluations, `training` the episodes of training."""
    data = [
        (i, s.name, s.curve if kind == "curves" else s.training) for i, s in enumerate(task.sides) if s.unit == unit
    ]
    drawn = (curve_of(index, name, each) for index, name, each in data if each is not None)
    curves = [each for each in drawn if each is not None]
    if not curves:
        return None
    several = any(len(each.members) > 1 for each in curves)
    about, y_title = JUDGED if kind == "curves" else TRAINED
    about += (
        "Lines are interquartile means over training seeds, bands their 95 % intervals for other seeds."
        if several
        else "One training seed for each line: nothing is shown about other seeds."
    )
    if most := max((len(each.members) for each in curves if len(each.members) > MOST_SEEDS), default=0):
        about += f" Of the single seeds of a side {MOST_SEEDS} are drawn, evenly chosen of up to {most:,}."
    moments = np.unique(np.concatenate([each.when for each in curves]))
    kept = moments[np.unique(np.linspace(0, len(moments) - 1, min(len(moments), MOST_ROWS)).round().astype(int))]
    rows = [[whole(float(moment)), *(_value_at(each, moment) for each in curves)] for moment in kept]
    heading = "Learning curves" if kind == "curves" else "Returns while training"
    title = f"{heading} on {task.label}"

    def draw(width: float) -> Chart:
        return curves_chart(curves, (f"{unit} of each seed", y_title), title, width)

    key = kind if unit == task.sides[0].unit else f"{kind}-{slug(unit)}"
    return Figure(key, heading, about, draw, [unit, *(each.name for each in curves)], rows, several)


def _value_at(curve: CurveOf, moment: float) -> str:
    at = np.flatnonzero(curve.when == moment)
    return value_text(curve, int(at[0])) if len(at) else ""


def _returns(task: Task) -> Figure | None:
    rows, numbers = [], []
    for index, side in enumerate(task.sides):
        score, means = side.score, side.means
        if score is None:
            continue
        judged = counted(side.returns.shape[1], "episode") + " each" if side.returns is not None else "so far"
        names = [f"seed {seed}" for seed in side.seeds] if len(side.seeds) == len(means) else []
        rows.append(RowOf(index, side.name, score, means, names, f"{counted(len(means), 'seed')}, {judged}"))
        numbers += [[side.name, name, plain(float(value))] for name, value in zip(names, means, strict=False)]
    if not rows:
        return None
    final = all(task.sides[row.side].is_final for row in rows)
    about = "Every mark is the mean return of one training seed" + (", with its final weights. " if final else ". ")
    about += "Bars are the interquartile mean over seeds with its 95 % interval for other seeds."
    heading, title = "Returns of every seed", f"Mean return of every seed on {task.label}"

    def draw(width: float) -> Chart:
        return rows_chart(rows, "mean return", title, width)

    return Figure("returns", heading, about, draw, ["", "seed", "mean return"], numbers)


def _comparison(task: Task) -> Figure | None:
    pairs = [(each, each.difference) for each in task.shown_pairs if each.difference is not None]
    rows = [RowOf(task.index_of(each.a), f"{each.a} vs {each.b}", found) for each, found in pairs]
    if not rows:
        return None
    level = 100 * pairs[0][1].level
    about = f"Differences of mean returns with their {level:.3g} % intervals"
    about += ", which hold all at once in 95 % of cases. " if len(task.pairs) > 1 else ". "
    about += "An interval that holds 0 shows no difference."
    title = f"Differences of mean returns on {task.label}"

    def draw(width: float) -> Chart:
        return rows_chart(rows, "difference of mean returns", title, width, zero=True)

    return Figure("comparison", "Comparison", about, draw)


def _profile(task: Task) -> Figure | None:
    """The share of seeds above each return; None where no side has two seeds, or all seeds have one return."""
    sides = [(index, side) for index, side in enumerate(task.sides) if len(side.means) > 1]
    if not sides:
        return None
    together = np.concatenate([side.means for _, side in sides])
    low, high = float(together.min()), float(together.max())
    if low == high:
        return None
    room = 0.04 * (high - low)
    thresholds = np.linspace(low - room, high + room, THRESHOLDS)
    curves = []
    for index, side in sides:
        found = performance_profile(side.means, thresholds.tolist())
        middle, lows, highs = (np.array([getattr(i, end) for i in found]) for end in ("estimate", "low", "high"))
        curves.append(CurveOf(index, side.name, thresholds, middle, lows, highs))
    about = (
        "The share of training seeds whose mean return is above each value, with pointwise 95 % intervals: the further "
        "to the upper right, the better."
    )
    title = f"Performance profiles on {task.label}"

    def draw(width: float) -> Chart:
        return curves_chart(curves, ("mean return", "share of seeds above it"), title, width, percent=True, steps=True)

    return Figure("profile", "Performance profile", about, draw)
