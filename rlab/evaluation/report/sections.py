"""The parts of a page that are not charts."""

import base64
import re
from collections.abc import Sequence

from rlab.evaluation.charts.marks import SHAPES, Chart, Dot
from rlab.evaluation.charts.palette import SIDES, side_color
from rlab.evaluation.charts.scales import MINUS, whole
from rlab.evaluation.charts.svg import svg_inline
from rlab.evaluation.report.escaping import in_html
from rlab.evaluation.report.model import Side, Task
from rlab.evaluation.report.numbers import counted, plain, setting_text, with_ends
from rlab.evaluation.report.tables import COMPARED, MISSING, compared_rows, level_of
from rlab.evaluation.stats import too_narrow

UNFINISHED = {
    "running": "in training",
    "stopped": "stopped before its end",
    "failed": "failed before its end",
    "not-judged": "trained, not judged yet",
}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], scroll: bool = False) -> str:
    """A table; the first cell of a row names it. Narrow screens stack its cells, or scroll it where `scroll`."""
    head = "".join(f'<th scope="col">{in_html(column)}</th>' for column in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>" for row in rows)
    kind = "" if scroll else ' class="stack"'
    found = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="group" aria-label="table">{found}</div>' if scroll else found


def _cells(columns: Sequence[str], row: Sequence[str]) -> str:
    first = f'<th scope="row">{in_html(row[0])}</th>'
    rest = zip(columns[1:], row[1:], strict=True)
    return first + "".join(f'<td data-label="{in_html(column)}">{in_html(cell)}</td>' for column, cell in rest)


def details(name: str, summary: str, content: str) -> str:
    """What a reader may open."""
    return f'<details id="{name}"><summary>{in_html(summary)}</summary><div>{content}</div></details>'


def command(text: str) -> str:
    """A command that can be copied."""
    return f'<div class="cmd"><code>{in_html(text)}</code><button class="copy" type="button">copy</button></div>'


def symbol(index: int) -> str:
    """The colour and shape of a side."""
    mark = Dot(8.0, 8.0, side_color(index), 5.5, SHAPES[index % len(SHAPES)])
    return svg_inline(Chart(16.0, 16.0, "", [mark]), "", "").replace('id="" class="chart " ', 'aria-hidden="true" ')


def cards(task: Task) -> str:
    """The result of each side, large."""
    return f'<ul class="cards">{"".join(_card(index, side) for index, side in enumerate(task.sides))}</ul>'


def _card(index: int, side: Side) -> str:
    middle, ends = with_ends(side.score)
    means = side.means
    facts = [f"{side.agent}, {counted(len(side.seeds), 'training seed')}"]
    if side.returns is not None:
        facts.append(f"{counted(side.returns.shape[1], 'episode')} each, final weights")
    elif len(means):
        facts.append("evaluation during training, the last one so far")
    if len(means) > 1:
        worst = int(means.argmin())
        which = f" (seed {side.seeds[worst]})" if len(means) == len(side.seeds) else ""
        facts.append(f"worst seed {plain(float(means[worst]), float(means.max()))}{which}")
    facts.append(_progress_text(side))
    notes = list(side.notes)
    if narrow := too_narrow(len(means)):
        notes.append(f"{narrow[:1].upper()}{narrow[1:]}.")
    bar = ""
    if side.status == "running" and side.budget:
        bar = f'<progress value="{side.time or 0}" max="{side.budget}" aria-label="progress"></progress>'
    lines = "<br>".join(in_html(fact) for fact in facts if fact)
    said = "".join(f'<p class="note">{in_html(note)}</p>' for note in notes)
    return (
        f'<li class="card k{index % SIDES}"><div class="who">{symbol(index)}<span>{in_html(side.name)}</span></div>'
        f'<p class="big">{middle or MISSING}</p><div class="ends">{ends or "no interval"}</div>'
        f'<div class="facts">{lines}</div>{bar}{said}</li>'
    )


def _progress_text(side: Side) -> str:
    if side.time is None:
        return ""
    of = f" of {whole(side.budget)}" if side.budget and side.time < side.budget else ""
    state = UNFINISHED.get(side.status or "", "")
    return f"{whole(side.time)}{of} {side.unit}{': ' + state if state else ''}"


def chips(task: Task, name: str, has_seeds: bool) -> str:
    """The buttons that show and hide sides and single seeds."""
    sides = "".join(
        f'<button type="button" class="chip side k{index % SIDES}" id="{name}-chip{index}" aria-pressed="true" '
        f'data-of="{index}" data-name="{in_html(side.name)}">{symbol(index)}<span>{in_html(side.name)}</span></button>'
        for index, side in enumerate(task.sides)
        if len(task.sides) > 1
    )
    seeds = (
        f'<button type="button" class="chip all-seeds" id="{name}-seeds" aria-pressed="false">single seeds</button>'
        if has_seeds
        else ""
    )
    return f'<div class="bar" role="group" aria-label="what is shown">{sides}{seeds}</div>' if sides or seeds else ""


def comparison(task: Task, name: str) -> str:
    """Who is better, in words, with the numbers to open."""
    if not task.pairs:
        return "".join(f'<p class="note">{in_html(_sentence(note))}</p>' for note in task.notes)
    said = [each.lines() for each in task.shown_pairs]
    words = "".join(f'<p class="verdict">{in_html(_sentence(lines[0]))}</p>' for lines in said)
    notes = dict.fromkeys([*(line for lines in said for line in lines[1:]), *task.notes])
    listed = "".join(f"<li>{in_html(_sentence(note))}</li>" for note in notes)
    listed = f'<ul class="notes">{listed}</ul>' if listed else ""
    numbers = table(COMPARED, compared_rows(task)) + f'<p class="about">{in_html(level_of(task))}</p>'
    numbers += command(task.compared_by) if task.compared_by else ""
    return words + details(
        f"{name}-pairs", "What the comparison can and cannot show, its numbers and command", listed + numbers
    )


def _sentence(text: str) -> str:
    """With true minus signs, and a full stop."""
    text = re.sub(r"(?<=[ \[])-(?=\d)", MINUS, text)
    text = text[:1].upper() + text[1:] if text.startswith(("no difference", "a run of ")) else text
    return text if text.endswith(".") else f"{text}."


def differing(sides: Sequence[Side]) -> list[str]:
    """The settings that all of the sides have, and that are not the same for all of them."""
    first, *others = (side.settings for side in sides)
    shared = [name for name in first if all(name in other for other in others)]
    return [name for name in shared if any(other[name] != first[name] for other in others)]


def settings(task: Task, name: str) -> str:
    """The settings that differ, and all of them to open."""
    sides = [side for side in task.sides if side.settings]
    if not sides:
        return ""
    differ = differing(sides)
    every = list(dict.fromkeys(each for side in sides for each in side.settings))
    found = "<h3>Settings that differ</h3>" if len(sides) > 1 else "<h3>Settings</h3>"
    if len(sides) > 1:
        found += _settings(differ, sides) if differ else '<p class="about">None of those that all of them have.</p>'
        rest = [each for each in every if any(each not in side.settings for side in sides)]
        found += (
            details(f"{name}-own", f"{len(rest)} settings that only some have", _settings(rest, sides)) if rest else ""
        )
    else:
        chosen = [each for each in every if sides[0].origins.get(each, "default") != "default"]
        found += _settings(chosen, sides) if chosen else '<p class="about">All are the defaults of the agent.</p>'
    return found + details(f"{name}-settings", f"All {len(every)} settings", _settings(every, sides))


def _settings(names: Sequence[str], sides: Sequence[Side]) -> str:
    head = "".join(f'<th scope="col">{in_html(text)}</th>' for text in ("setting", *(side.name for side in sides)))
    rows = []
    for name in names:
        cells = []
        for side in sides:
            value = setting_text(side.settings[name]) if name in side.settings else MISSING
            origin = side.origins.get(name, "default")
            small = "" if origin == "default" or name not in side.settings else f"<small>{in_html(origin)}</small>"
            cells.append(f'<td data-label="{in_html(side.name)}">{in_html(value)}{small}</td>')
        rows.append(f'<tr><th scope="row"><code>{in_html(name)}</code></th>{"".join(cells)}</tr>')
    return f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def films(task: Task) -> str:
    """The films that there are."""
    found = []
    for index, side in enumerate(task.sides):
        if side.film is not None:
            data = base64.b64encode(side.film).decode()
            image = f'<img src="data:image/gif;base64,{data}" alt="{in_html(side.name)} playing {in_html(task.label)}">'
            caption = f"<figcaption><b>{in_html(side.name)}</b> {in_html(side.film_of)}</figcaption>"
            found.append(f'<figure class="k{index % SIDES}">{image}{caption}</figure>')
    return f'<h3>On film</h3><div class="films">{"".join(found)}</div>' if found else ""


def made(task: Task, name: str) -> str:
    """How each side came about: its command, and what it was computed with."""
    parts = []
    for index, side in enumerate(task.sides):
        facts = {
            "taken from": side.path,
            "training seeds": _ranges(side.seeds),
            "versions": _listed(side.versions),
            "hardware": _listed(side.hardware),
        }
        rows = "".join(f"<dt>{key}</dt><dd>{in_html(value)}</dd>" for key, value in facts.items() if value)
        how = command(side.made_by) if side.made_by else '<p class="about">The command is not on record.</p>'
        parts.append(f'<div class="made k{index % SIDES}"><h4>{in_html(side.name)}</h4>{how}<dl>{rows}</dl></div>')
    return f"<h3>How each was made</h3>{''.join(parts)}"


def _listed(facts: object) -> str:
    assert hasattr(facts, "items")
    return ", ".join(f"{key} {setting_text(value)}" for key, value in facts.items() if value is not None)


def _ranges(seeds: Sequence[int]) -> str:
    """`0 to 9, 12`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in parts)
