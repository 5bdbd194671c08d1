"""Charts as files."""

from pathlib import Path

from rlab.errors import UsageError
from rlab.evaluation.charts.marks import Chart
from rlab.evaluation.charts.png import png
from rlab.evaluation.charts.svg import svg_file


def save_chart(path: Path | str, chart: Chart) -> None:
    """Write a chart into a file, which is PNG or SVG as its name says.

    Raises:
        UsageError: it is neither, or matplotlib, which PNG needs, is not installed.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"a chart is written as .png or .svg, not as {path.name!r}")
    path.write_bytes(png(chart) if path.suffix == ".png" else svg_file(chart).encode())
