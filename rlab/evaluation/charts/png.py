"""A chart as PNG, in the light theme. Matplotlib, the extra `plot`, is what turns the marks into pixels."""

import io
from collections.abc import Sequence
from typing import Any

from rlab.door import clean
from rlab.errors import UsageError, pip_install
from rlab.evaluation.charts.marks import Area, Chart, Group, Line, Mark, Text, corners
from rlab.evaluation.charts.palette import LIGHT
from rlab.evaluation.charts.svg import FAINT

DPI = 200  # of a chart whose pixels are 1/96 inch, as those of a page are
FONT = "DejaVu Sans"  # matplotlib brings it along: the same picture everywhere
_POINT = 72.0 / 96.0  # of a pixel
_ALIGN = {"start": "left", "middle": "center", "end": "right"}


def check_png() -> None:
    """Raise UsageError where matplotlib is not installed: before the work whose results are to be drawn."""
    _figure(1.0, 1.0)


def png(chart: Chart) -> bytes:
    """The picture, of `DPI`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure(chart.width / 96.0, chart.height / 96.0)
    figure.set_facecolor(LIGHT["paper"])
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0.0, chart.width)
    axes.set_ylim(chart.height, 0.0)
    _draw(axes, chart.marks, None, 1.0)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": "rlab", "Title": clean(chart.title)})
    return file.getvalue()


def _draw(axes: Any, marks: Sequence[Mark], clip: Any, faint: float) -> None:
    from matplotlib.patches import Circle, Polygon, Rectangle

    for order, mark in enumerate(marks):
        if isinstance(mark, Group):
            inner = clip
            if mark.clip is not None:
                left, top, right, bottom = mark.clip
                inner = Rectangle((left, top), right - left, bottom - top, transform=axes.transData)
            _draw(axes, mark.marks, inner, FAINT if mark.on_demand else faint)
            continue
        color = LIGHT[mark.color]
        if isinstance(mark, Text):
            _write(axes, mark, color)
            continue
        alpha = mark.opacity * faint
        style: dict[str, Any] = {"zorder": len(axes.get_children()) + order}
        drawn: Any
        if isinstance(mark, Line):
            xs, ys = zip(*mark.points, strict=True)
            dash: Any = (0, [each / mark.width for each in mark.dash]) if mark.dash else "-"
            (drawn,) = axes.plot(xs, ys, color=color, lw=mark.width * _POINT, ls=dash, alpha=alpha, **style)
            drawn.set_solid_capstyle("butt")
        elif isinstance(mark, Area):
            style["antialiased"] = not mark.crisp
            drawn = axes.add_patch(Polygon(mark.points, facecolor=color, alpha=alpha, lw=0, **style))
        else:
            face, edge = (LIGHT["paper"], 1.5 * _POINT) if mark.hollow else (color, 0.0)
            style |= {"facecolor": face, "edgecolor": color, "lw": edge, "alpha": alpha}
            round_dot = mark.shape == "circle"
            patch = Circle((mark.x, mark.y), mark.radius, **style) if round_dot else Polygon(corners(mark), **style)
            drawn = axes.add_patch(patch)
        if clip is not None:
            drawn.set_clip_path(clip)


def _write(axes: Any, text: Text, color: str) -> None:
    from matplotlib.patheffects import withStroke

    halo = {"path_effects": [withStroke(linewidth=4 * _POINT, foreground=LIGHT["paper"])]} if text.halo else {}
    axes.text(
        text.x,
        text.y,
        clean(text.text),
        color=color,
        fontsize=text.size * _POINT,
        fontweight="bold" if text.bold else "normal",
        family=FONT,
        ha=_ALIGN[text.anchor],
        va="baseline",
        zorder=10_000,
        parse_math=False,  # a name may hold dollar signs
        **halo,
    )


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"a picture needs matplotlib: {pip_install('plot')}.") from error
    return Figure(figsize=(width, height))
