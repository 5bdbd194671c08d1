"""The page of a report in a real browser, on a desk and on a phone, by day and by night."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlab.evaluation.charts.palette import DARK, LIGHT
from rlab.evaluation.report.document import content_policy
from rlab.evaluation.report.model import Report
from rlab.evaluation.report.page import page
from rlab.evaluation.report.tables import latex, markdown

HOSTILE = (
    "<script>globalThis.hacked = 1</script>",
    "\"><img src=x onerror='globalThis.hacked = 2'>",
    "</style><svg onload=alert(1)>' | a & b % $x_1^2$ \\input{/etc/passwd} [x](javascript:alert(1)) `c` \u202e\x1b[31m",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, make_report: Callable[..., Report]) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(make_report()), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_the_page_loads_nothing_and_fits_every_width_in_both_themes(
    browser: Any, file: Path, width: int, dark: bool
) -> None:
    browser.open(file.as_uri(), width, 800, dark)
    assert browser.requests() == [file.as_uri()]
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    paper = (DARK if dark else LIGHT)["paper"]
    shown = browser.value("getComputedStyle(document.body).backgroundColor")
    assert shown == f"rgb({', '.join(str(int(paper[i : i + 2], 16)) for i in (1, 3, 5))})"
    sizes = browser.value("[...document.querySelectorAll('.chart')].map((svg) => svg.getBoundingClientRect().width)")
    assert sum(size > 0 for size in sizes) == len(sizes) / 2  # of each chart the one for this width
    # Letters of charts are as large as they were laid out, or almost: never what shrinking makes of them.
    scale = browser.value(
        "(() => { const c = [...document.querySelectorAll('.chart')].find((s) => s.clientWidth);"
        " return c.clientWidth / c.viewBox.baseVal.width; })()"
    )
    assert scale > 0.75


def test_what_the_policy_forbids_does_not_happen(browser: Any, file: Path) -> None:
    browser.open(file.as_uri())
    fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))"
    assert "Failed to fetch" in browser.value(fetched)
    browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/a.png>')")
    assert any("Content Security Policy" in each for each in browser.complaints())


def test_sides_and_seeds_can_be_hidden_and_shown_with_the_keyboard(browser: Any, file: Path) -> None:
    browser.open(file.as_uri())
    groups = "[...document.querySelectorAll('svg [data-side=\"1\"]')]"
    lines = f"{groups}.filter((group) => getComputedStyle(group).display !== 'none').length"
    before = browser.value(lines)
    assert before > 4
    browser.value("document.querySelector('.side[data-of=\"1\"]').focus()")
    browser.press("Enter")
    assert browser.value(lines) == 0
    assert browser.value("document.querySelector('.side[data-of=\"1\"]').getAttribute('aria-pressed')") == "false"
    browser.press("Enter")
    assert browser.value(lines) == before
    seeds = "getComputedStyle(document.querySelector('.chart.large .seeds')).visibility"
    assert browser.value(seeds) == "hidden"
    browser.value("document.querySelector('.all-seeds').click()")
    assert browser.value(seeds) == "visible"


def test_values_are_read_with_the_pointer_and_with_the_arrow_keys(browser: Any, file: Path) -> None:
    browser.open(file.as_uri())
    chart = "document.querySelector('svg[id$=curves-large]')"
    browser.value(f"{chart}.focus()")
    browser.press("End")
    tip = browser.value("document.querySelector('.tip').textContent")
    assert tip.startswith("10,000 env steps")
    assert re.search(r"alpha: \d+\.\d+ \[\d+\.\d+, \d+\.\d+\]", tip), tip
    browser.press("ArrowLeft")
    assert browser.value("document.querySelector('.tip').textContent").startswith("9,000")
    browser.press("Escape")
    assert browser.value("document.querySelector('.tip')") is None
    browser.value(f"{chart}.scrollIntoView()")
    box = browser.value(f"(({{x, y, width, height}}) => [x, y, width, height])({chart}.getBoundingClientRect())")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + 0.1 * box[2], y=box[1] + box[3] / 2)
    assert browser.value("document.querySelector('.tip').textContent").startswith("1,000")


def test_printing_opens_what_is_closed(browser: Any, file: Path) -> None:
    browser.open(file.as_uri())
    assert browser.value("document.querySelectorAll('details[open]').length") == 0
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("document.querySelectorAll('details:not([open])').length") == 0
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert browser.value("document.querySelectorAll('details[open]').length") == 0


class Elements(HTMLParser):
    """The names of all elements, and the names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(f"{tag} {name}" for name, _ in attrs)]


def test_hostile_names_are_shown_and_do_nothing(
    browser: Any, tmp_path: Path, make_report: Callable[..., Report], make_side: Callable[..., Any]
) -> None:
    harmless = page(make_report(("a", "b", "c")))
    report = make_report(HOSTILE, label=HOSTILE[1])
    sides = [
        make_side(
            index,
            name,
            agent=name,
            status=name,
            settings={name: name, "learning_rate": [0.1, 0.2, 0.3][index]},
            origins={"learning_rate": name},
            versions={name: name},
            notes=[name],
            made_by=name,
        )
        for index, name in enumerate(HOSTILE)
    ]
    task = report.tasks[0]
    task = replace(task, protocol=HOSTILE[2], sides=sides, notes=[HOSTILE[0]], compared_by=HOSTILE[1])
    notes = {"notes": [HOSTILE[1]], "made_by": HOSTILE[2], "version": HOSTILE[0]}
    text = page(replace(report, title=HOSTILE[0], tasks=[task], **notes))
    assert set(Elements(text).found) <= set(Elements(harmless).found)
    assert not any(control in text for control in "\u202e\x1b")
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.open(path.as_uri(), 390, 800)
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []
    assert browser.value("globalThis.hacked") is None
    assert browser.value("document.documentElement.scrollWidth") <= 390
    assert browser.value("document.querySelector('.card .who span').textContent") == HOSTILE[0]
    chart = "document.querySelector('svg[id$=curves-large]')"
    browser.value(f"{chart}.style.display = 'block', {chart}.focus()")
    browser.press("End")
    assert "<script>" in browser.value("document.querySelector('.tip').textContent")
    assert browser.value("document.querySelectorAll('.tip *').length") == 4  # the heading and a line for each side


def test_hostile_names_stay_in_their_cells_of_markdown_and_latex(make_report: Callable[..., Report]) -> None:
    report = make_report(HOSTILE, label=HOSTILE[2])
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert bars == [8] * 5 + [5] * 5
    assert not re.search(r"<(?:script|img|svg|/style)", markdown(report))
    assert "](" not in markdown(report).replace("\\](", "")
    tex = latex(report)
    assert r"\textbackslash{}input\{/etc/passwd\}" in tex
    assert r"\$x\_1\textasciicircum{}2\$" in tex
    assert "\\input" not in tex
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [6] * 4 + [3] * 4


def test_a_name_at_the_beginning_of_a_latex_row_is_no_argument_of_the_row_before(
    make_report: Callable[..., Report],
) -> None:
    tex = latex(make_report(("plain", "[5cm] wide", "* starred")))
    assert r"  {[}5cm] wide & " in tex
    assert r"  {*} starred & " in tex


def test_the_page_is_the_same_every_time_and_its_policy_names_what_is_in_it(make_report: Callable[..., Report]) -> None:
    text = page(make_report())
    assert text == page(make_report())
    found = content_policy(live=False)
    assert found in text
    assert found.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "connect-src" not in found
    assert " style=" not in text  # the policy would forbid it
    assert "connect-src 'self'" in content_policy(live=True)
