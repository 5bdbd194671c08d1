"""How quickly each side learns, in numbers: the height of its curve over its steps, and when it is good enough."""

import numpy as np

from rlab.evaluation.charts.scales import whole
from rlab.evaluation.learning_curves import area_under_curve, steps_to_threshold
from rlab.evaluation.report.escaping import in_html
from rlab.evaluation.report.model import Side, Task
from rlab.evaluation.report.numbers import joined, plain
from rlab.evaluation.report.sections import table
from rlab.evaluation.stats import Interval, iqm, stratified_bootstrap


def efficiency(task: Task, unit: str) -> str:
    """A table of the sides whose curves are in one unit, over the steps that all of them have; "" where there are
    none."""
    curves = [(side, found) for side in task.sides if side.unit == unit and (found := _whole(side)) is not None]
    last = min((float(when[-1]) for _, (when, _) in curves), default=0.0)
    rows = []
    for side, (when, values) in curves:
        kept = when <= last
        if kept.sum() > 1:
            rows.append([side.name, *_row(task, when[kept], values[:, kept], unit)])
    if not rows:
        return ""
    columns = ["", f"mean height up to {whole(last)} {unit}, IQM [95 %]"]
    about = "The mean height of a seed's curve is the area under it over its steps: it judges speed and end in one."
    if task.threshold is not None:
        columns += [f"{unit} to a return of {plain(task.threshold)}, median [95 %]", "seeds that reach it"]
        about += (
            " Seeds that never reach the threshold count as later than their last evaluation; "
            "a time is known no better than the distance between two evaluations."
        )
    return table(columns, rows) + f'<p class="about">{in_html(about)}</p>'


def _row(task: Task, when: np.ndarray, values: np.ndarray, unit: str) -> list[str]:
    areas = area_under_curve(when, values)
    found = [joined(stratified_bootstrap(areas) if len(areas) > 1 else iqm(areas))]
    if task.threshold is not None:
        reached = steps_to_threshold(when, values, task.threshold)
        found += [_steps(reached.median, reached.budget), f"{reached.reached} of {len(values)}"]
    return found


def _steps(median: Interval, budget: float) -> str:
    middle, low, high = (
        whole(each) if np.isfinite(each) else f"later than {whole(budget)}"
        for each in (median.estimate, median.low, median.high)
    )
    return f"{middle} [{low}, {high}]"


def _whole(side: Side) -> tuple[np.ndarray, np.ndarray] | None:
    """The evaluations at which every seed has a value."""
    if side.curve is None:
        return None
    when, values = side.curve
    kept = np.isfinite(values).all(axis=0)
    return (when[kept], values[:, kept]) if kept.any() else None
