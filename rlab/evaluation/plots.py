"""Pictures of results. They need matplotlib, the extra `plot`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.stats import stratified_bootstrap

Curve = tuple[np.ndarray, np.ndarray]  # when [T], and each member's value then [S, T]
REPS = 2_000  # of the bootstrap at each point: a curve is read by eye


def save_curves(
    path: Path | str, curves: Mapping[str, Curve], x_label: str, y_label: str, title: str = ""
) -> None:
    """Draw the IQM over members of every curve, with its 95 % interval as a band, into a PNG or SVG file.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.add_subplot()
    for name, (when, values) in curves.items():
        line = [stratified_bootstrap(column, reps=REPS) if len(column) > 1 else None for column in values.T]
        middle = [column[0] if i is None else i.estimate for i, column in zip(line, values.T, strict=True)]
        (drawn,) = axes.plot(when, middle, label=f"{name} ({len(values)} seeds)")
        if len(values) > 1:
            low, high = [i.low for i in line if i], [i.high for i in line if i]
            axes.fill_between(when, low, high, alpha=0.12, color=drawn.get_color(), linewidth=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title or "IQM over seeds with its 95 % interval", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": "rlab"} if str(path).endswith(".png") else None)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError('a picture needs matplotlib: pip install "rlab[plot]".') from error
    return Figure(figsize=(7.0, 4.2), layout="constrained")
