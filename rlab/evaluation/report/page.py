"""The page: one HTML file with all that it needs inside. Nothing is loaded from anywhere.

A content security policy forbids what the page does not do: no request leaves it (but to itself, where it is live), and
no script runs but its own, whatever a name in a run folder holds.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rlab.evaluation.charts.frame import NARROW, WIDE
from rlab.evaluation.charts.palette import DARK, LIGHT, SIDES
from rlab.evaluation.charts.svg import svg_inline
from rlab.evaluation.report.efficiency import efficiency
from rlab.evaluation.report.escaping import in_html, slug
from rlab.evaluation.report.figures import Figure, figures
from rlab.evaluation.report.model import Report, Study, Task
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.report.sections import cards, chips, command, comparison, details, films, made, settings, table
from rlab.evaluation.report.studies import study_figures, study_table
from rlab.evaluation.report.tables import MEANING
from rlab.evaluation.report.words import lede, title_of

GENERATOR = "rlab report"
HERE = Path(__file__).parent
PALETTE = (
    "Colours: Okabe and Ito 2008, Color Universal Design, for all common kinds of colour vision. Statistics: "
    "Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice."
)


def page(report: Report) -> str:
    """The whole document."""
    title = in_html(report.title or title_of(report))
    head = f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    head += f'<meta name="generator" content="{GENERATOR}"><meta name="color-scheme" content="light dark">'
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy(report)}">{head}'
    headings = len(report.tasks) > 1 or bool(report.studies)
    body = "".join(_study(study) for study in report.studies)
    body += "".join(_task(name, task, headings) for name, task in _named(report.tasks))
    body += "".join(f'<p class="note">{in_html(note)}</p>' for note in report.notes)
    parts = f'<a class="skip" href="#main">to the results</a><div class="wrap">{_header(report, title)}'
    parts += f'<main id="main">{body}{_footer(report)}</main></div>'
    style, script = _style(), _script()
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{style}</style></head>\n'
        f"<body>{parts}\n<script>{script}</script></body></html>\n"
    )


def policy(report: Report) -> str:
    """The content security policy of a page."""
    own = "; connect-src 'self'" if report.live_every is not None else ""
    style, script = (_sha256(text) for text in (_style(), _script()))
    return (
        f"default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'{own}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _style() -> str:
    def roles(theme: dict[str, str]) -> str:
        return ";".join(f"--{role}:{color}" for role, color in theme.items())

    light = f":root{{color-scheme:light dark;{roles(dict(LIGHT))}}}"
    dark = f"@media (prefers-color-scheme: dark){{@media screen{{:root{{{roles(dict(DARK))}}}}}}}"
    return f"{light}{dark}\n{(HERE / 'page.css').read_text(encoding='utf-8')}"


@cache
def _script() -> str:
    return (HERE / "page.js").read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(report: Report, title: str) -> str:
    live = ""
    if report.live_every is not None:
        live = f'<p class="live" role="status" data-every="{round(1000 * report.live_every)}">live</p>'
    about = in_html(lede(report))
    made_of = (
        f'<div class="made-of"><p class="eyebrow">{GENERATOR}</p><h1>{title}</h1><p class="lede">{about}</p></div>'
    )
    return f"<header>{made_of}{live}</header>"


def _footer(report: Report) -> str:
    how = command(report.made_by) if report.made_by else ""
    version = f"<p>rlab {in_html(report.version)}</p>" if report.version else ""
    return f"<footer>{how}<p>{in_html(MEANING)}</p><p>{in_html(PALETTE)}</p>{version}</footer>"


def _named(tasks: Sequence[Task]) -> list[tuple[str, Task]]:
    """Tasks with ids that stay the same when others appear."""
    named: dict[str, Task] = {}
    for task in tasks:
        name, number = f"task-{slug(task.label)}", 2
        while name in named:
            name, number = f"task-{slug(task.label)}-{number}", number + 1
        named[name] = task
    return list(named.items())


def _task(name: str, task: Task, with_heading: bool) -> str:
    drawn = figures(task)
    heading = f"<h2>{in_html(task.label)}</h2>" if with_heading else ""
    judged = f'<p class="about">{in_html(task.protocol)}</p>' if task.protocol else ""
    parts = [heading, cards(task), chips(task, name, any(each.has_seeds for each in drawn))]
    beside = {"returns": (judged, ""), "comparison": ("", comparison(task, name))}
    beside["curves"] = ("", efficiency(task, task.sides[0].unit))
    parts += [_figure(each, name, *beside.get(each.key, ("", ""))) for each in drawn]
    if not any(each.key == "comparison" for each in drawn):  # one episode shows no difference to draw
        parts.append(comparison(task, name))
    parts += [settings(task, name), films(task), made(task, name)]
    return f'<section class="task" id="{name}">{"".join(parts)}</section>'


def _figure(figure: Figure, name: str, before: str = "", after: str = "") -> str:
    """A chart at both widths, with what stands before it and after it."""
    key = f"{name}-{figure.key}"
    large = svg_inline(figure.draw(WIDE), f"{key}-large", "large")
    small = svg_inline(figure.draw(NARROW), f"{key}-small", "small")
    numbers = ""
    if figure.rows:
        numbers = details(f"{key}-numbers", "The numbers", table(figure.columns, figure.rows, scroll=True))
    caption = f"<figcaption>{in_html(figure.about)}</figcaption>"
    drawn = f'<figure>{before}<div class="plot">{large}{small}</div>{caption}</figure>'
    return f"<h3>{in_html(figure.heading)}</h3>{drawn}{after}{numbers}"


def _study(study: Study) -> str:
    name = f"study-{slug(study.name)}"
    facts = "".join(f"<dt>{in_html(key)}</dt><dd>{in_html(value)}</dd>" for key, value in study.facts.items())
    about = f"{counted(len(study.trials), 'trial')} of a search for settings; objective: {study.objective}."
    about = f'<p class="about">{in_html(about)}</p>'
    winner = f'<p class="verdict">{in_html(study.winner)}</p>' if study.winner else ""
    drawn = "".join(_figure(each, name) for each in study_figures(study))
    how = "".join(command(each) for each in (study.made_by, study.used_by) if each)
    parts = f"{about}{winner}{drawn}{study_table(study, name)}<dl>{facts}</dl>{how}"
    return f'<section class="task" id="{name}"><h2>{in_html(study.name)}</h2>{parts}</section>'


assert SIDES == 5, "page.css and page.js have a class for each colour of a side"
