"""What every page of rlab is in: one HTML file with all that it needs inside. Nothing is loaded from anywhere.

A content security policy forbids what a page does not do: no request leaves it (but to itself, where it is live), and
no script runs but its own, whatever a name in a run folder holds.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path

from rlab.evaluation.charts.frame import NARROW, WIDE
from rlab.evaluation.charts.palette import DARK, LIGHT, SIDES
from rlab.evaluation.charts.svg import svg_inline
from rlab.evaluation.report.escaping import in_html
from rlab.evaluation.report.figures import Figure
from rlab.evaluation.report.sections import command, details, table

HERE = Path(__file__).parent
PALETTE = (
    "Colours: Okabe and Ito 2008, Color Universal Design, for all common kinds of colour vision. Statistics: "
    "Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice."
)


def document(generator: str, title: str, lede: str, body: str, footer: str, live_every: float | None = None) -> str:
    """The whole document.

    Args:
        generator: the command that makes such pages.
        title, lede: plain text.
        body, footer: HTML.
        live_every: seconds between two looks of a live page; None: it stands still.
    """
    shown = in_html(title)
    head = f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{shown}</title>'
    head += f'<meta name="generator" content="{generator}"><meta name="color-scheme" content="light dark">'
    allowed = content_policy(live_every is not None)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{allowed}">{head}'
    live = ""
    if live_every is not None:
        live = f'<p class="live" role="status" data-every="{round(1000 * live_every)}">live</p>'
    about = f'<p class="eyebrow">{generator}</p><h1>{shown}</h1><p class="lede">{in_html(lede)}</p>'
    header = f'<header><div class="made-of">{about}</div>{live}</header>'
    parts = f'<a class="skip" href="#main">to the results</a><div class="wrap">{header}'
    parts += f'<main id="main">{body}<footer>{footer}</footer></main></div>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_style()}</style></head>\n'
        f"<body>{parts}\n<script>{_script()}</script></body></html>\n"
    )


def content_policy(live: bool) -> str:
    """The content security policy of a page."""
    own = "; connect-src 'self'" if live else ""
    style, script = (_sha256(text) for text in (_style(), _script()))
    return (
        f"default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'{own}; "
        "base-uri 'none'; form-action 'none'"
    )


def footer_of(made_by: str, notes: list[str], version: str) -> str:
    """The command that made the page, what its numbers mean, and the version of rlab."""
    how = command(made_by) if made_by else ""
    said = "".join(f"<p>{in_html(note)}</p>" for note in (*notes, PALETTE))
    return how + said + (f"<p>rlab {in_html(version)}</p>" if version else "")


def figure_html(figure: Figure, name: str, before: str = "", after: str = "") -> str:
    """A chart at both widths, with what stands before it and after it; `name` is an id that no other has."""
    key = f"{name}-{figure.key}"
    large = svg_inline(figure.draw(WIDE), f"{key}-large", "large")
    small = svg_inline(figure.draw(NARROW), f"{key}-small", "small")
    numbers = ""
    if figure.rows:
        numbers = details(f"{key}-numbers", "The numbers", table(figure.columns, figure.rows, scroll=True))
    caption = f"<figcaption>{in_html(figure.about)}</figcaption>"
    drawn = f'<figure>{before}<div class="plot">{large}{small}</div>{caption}</figure>'
    return f"<h3>{in_html(figure.heading)}</h3>{drawn}{after}{numbers}"


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


assert SIDES == 5, "page.css and page.js have a class for each colour of a side"
