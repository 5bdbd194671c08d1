"""A chart as SVG: inside a page, in the page's colours and fonts, or as a file of its own in the light theme."""

import json
import re
from collections.abc import Callable, Sequence
from html import escape

from rlab.door import clean
from rlab.evaluation.charts.marks import Area, Chart, Dot, Group, Line, Mark, Point, Text, corners
from rlab.evaluation.charts.palette import LIGHT

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
NOT_XML = re.compile("[\ufffe\uffff]")  # besides what `clean` takes out
FAINT = 0.28  # opacity of single seeds in a file

Paint = Callable[[str], str]


def svg_file(chart: Chart) -> str:
    """A file that any program can show: no style sheet, no script, no font of its own."""
    size = f'width="{_n(chart.width)}" height="{_n(chart.height)}" viewBox="0 0 {_n(chart.width)} {_n(chart.height)}"'
    back = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    body = _marks(chart.marks, lambda role: LIGHT[role], [], "clip", in_page=False)
    title = f"<title>{_escaped(chart.title)}</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{title}{back}{body}</svg>\n'


def svg_inline(chart: Chart, name: str, classes: str = "") -> str:
    """An element for a page whose style sheet gives `--ROLE` for every role; `name` is an id that no other has."""
    body = _marks(chart.marks, lambda role: f"var(--{role})", [], name, in_page=True)
    label = _escaped(chart.title)
    box = f'viewBox="0 0 {_n(chart.width)} {_n(chart.height)}" width="{_n(chart.width)}" height="{_n(chart.height)}"'
    readings = ""
    if chart.readings:
        rows = [
            [round(each.x, 1), None if each.y is None else round(each.y, 1), clean(each.heading), _cleaned(each.rows)]
            for each in chart.readings
        ]
        readings = f' tabindex="0" data-readings="{escape(json.dumps(rows, separators=(",", ":")))}"'
    return f'<svg id="{name}" class="chart {classes}" {box} role="img" aria-label="{label}"{readings}>{body}</svg>'


def _cleaned(rows: Sequence[tuple[int | None, str, str]]) -> list[list[int | str | None]]:
    return [[side, clean(name), clean(value)] for side, name, value in rows]


def _marks(marks: Sequence[Mark], paint: Paint, clips: list[str], name: str, in_page: bool) -> str:
    return "".join(_mark(mark, paint, clips, name, in_page) for mark in marks)


def _mark(mark: Mark, paint: Paint, clips: list[str], name: str, in_page: bool) -> str:
    if isinstance(mark, Group):
        return _group(mark, paint, clips, name, in_page)
    if isinstance(mark, Line):
        dash = f' stroke-dasharray="{" ".join(map(_n, mark.dash))}"' if mark.dash else ""
        style = f'stroke="{paint(mark.color)}" stroke-width="{_n(mark.width)}"{dash}{_opacity(mark.opacity)}'
        return f'<path d="{_path(mark.points)}" fill="none" stroke-linejoin="round" {style}/>'
    if isinstance(mark, Area):
        crisp = ' shape-rendering="crispEdges"' if mark.crisp else ""
        return f'<path d="{_path(mark.points)}Z" fill="{paint(mark.color)}"{_opacity(mark.opacity)}{crisp}/>'
    if isinstance(mark, Dot):
        return _dot(mark, paint)
    return _text(mark, paint)


def _group(group: Group, paint: Paint, clips: list[str], name: str, in_page: bool) -> str:
    attributes, before = "", ""
    if group.clip is not None:
        left, top, right, bottom = group.clip
        clips.append(f"{name}-clip{len(clips)}")
        rect = f'<rect x="{_n(left)}" y="{_n(top)}" width="{_n(right - left)}" height="{_n(bottom - top)}"/>'
        before = f'<clipPath id="{clips[-1]}">{rect}</clipPath>'
        attributes += f' clip-path="url(#{clips[-1]})"'
    if in_page and group.side is not None:
        attributes += f' data-side="{group.side}"'
    if group.on_demand:
        attributes += ' class="seeds"' if in_page else f' opacity="{FAINT}"'
    return f"{before}<g{attributes}>{_marks(group.marks, paint, clips, name, in_page)}</g>"


def _dot(dot: Dot, paint: Paint) -> str:
    color = paint(dot.color)
    style = f'fill="{paint("paper")}" stroke="{color}" stroke-width="1.5"' if dot.hollow else f'fill="{color}"'
    style += _opacity(dot.opacity)
    if dot.shape == "circle":
        return f'<circle cx="{_n(dot.x)}" cy="{_n(dot.y)}" r="{_n(dot.radius)}" {style}/>'
    return f'<path d="{_path(corners(dot))}Z" {style}/>'


def _text(text: Text, paint: Paint) -> str:
    style = f'x="{_n(text.x)}" y="{_n(text.y)}" fill="{paint(text.color)}" font-size="{_n(text.size)}"'
    style += f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    style += ' font-weight="600"' if text.bold else ""
    if text.halo:
        style += f' stroke="{paint("paper")}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
    full = f"<title>{_escaped(text.full)}</title>" if text.full and text.full != text.text else ""
    return f"<text {style}>{full}{_escaped(text.text)}</text>"


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _opacity(value: float) -> str:
    return "" if value == 1.0 else f' opacity="{_n(value)}"'


def _escaped(text: str) -> str:
    return escape(NOT_XML.sub("", clean(text)).replace("\n", " "))


def _n(value: float) -> str:
    """A number of pixels, to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
