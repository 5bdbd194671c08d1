"""The charts of an explanation."""

from functools import partial

import numpy as np

from rlab.evaluation.charts.bars import BarOf, bars_chart
from rlab.evaluation.charts.cells import CellsOf, cells_chart
from rlab.evaluation.charts.curves import CurveOf, curves_chart
from rlab.evaluation.charts.rows import RowOf, rows_chart
from rlab.evaluation.charts.strip import StripOf, strip_chart
from rlab.evaluation.explanation.deletion import RANDOM_ORDERS, Deletion
from rlab.evaluation.explanation.explain import GRADIENTS, SALIENCY, SHAPLEY, Explanation
from rlab.evaluation.explanation.strip import Strip
from rlab.evaluation.explanation.target import ACTION
from rlab.evaluation.report.escaping import slug
from rlab.evaluation.report.figures import Figure
from rlab.evaluation.report.numbers import fine
from rlab.evaluation.stats import shown_digits, small_digits

MOST_FEATURES = 12  # of a chart; the numbers are of all
MOST_PARTS = 4  # of an action that have charts of their own
LEAST = 0.002  # share of all that a feature of a chart has, the first two apart
MOST_LINES = 6  # of the strip
BEGINNING = 60  # steps of a long episode that are drawn by themselves


def shown_parts(found: Explanation) -> list[tuple[int, str]]:
    """The parts of the action that have charts, with what their headings end in; not those that leave no choice."""
    parts = [each for each in enumerate(found.question.target.parts) if found.states.contrast.defined[:, each[0]].any()]
    return [(index, f": {name}" if name else "") for index, name in parts[:MOST_PARTS]]


def ranked(found: Explanation, part: int) -> list[int]:
    """The players, the one that matters most first."""
    return [int(each) for each in np.argsort(-found.importance[SHAPLEY][:, part], kind="stable")]


def drawn(found: Explanation, part: int) -> list[int]:
    """The players of the charts: those that matter at all, and not too many."""
    size = found.importance[SHAPLEY][:, part]
    order = ranked(found, part)[:MOST_FEATURES]
    return [player for place, player in enumerate(order) if place < 2 or size[player] > LEAST * size.sum()]


def importance(found: Explanation, part: int, ending: str) -> Figure:
    """How much each player matters."""
    names, size = found.question.players.names, found.importance[SHAPLEY][:, part]
    total, most = float(size.sum()) or 1.0, float(size.max())
    order = ranked(found, part)
    bars = [
        BarOf(names[i], float(size[i]), f"{100 * size[i] / total:.0f} %  ({fine(float(size[i]), most)})")
        for i in drawn(found, part)
    ]
    columns_of = [each[:, part] for each in found.importance.values()]
    rows = [[names[i], *(fine(float(each[i]), float(each.max())) for each in columns_of)] for i in order]
    left_out = len(names) - len(bars)
    about = (
        f"The mean size of each feature's Shapley value over {len(found.states)} states, in "
        f"{found.question.target.unit}, and its share of all."
    )
    about += f" {left_out} features that matter less are in the numbers." if left_out > 0 else ""
    draw = partial(bars_chart, bars, f"What matters{ending}")
    columns = ["", SHAPLEY, f"{GRADIENTS}", f"{SALIENCY} per standard deviation"]
    return Figure(f"importance-{part}", f"What matters{ending}", about, draw, columns, rows)


def every_state(found: Explanation, part: int, ending: str) -> Figure:
    """The Shapley values of every state."""
    names, values = found.question.players.names, found.methods[SHAPLEY][:, :, part]
    defined = found.states.contrast.defined[:, part].numpy()
    places = [f"episode {e}, step {s}" for e, s in zip(found.states.episode, found.states.step, strict=True)]
    shown = [name for name, kept in zip(places, defined, strict=True) if kept]
    most = float(np.abs(values).max())
    digits = max(shown_digits(most), small_digits(most))
    rows = [
        RowOf(0, names[i], float(values[defined, i].mean()), values[defined, i], shown, digits=digits)
        for i in drawn(found, part)
    ]
    error = fine(float(found.error[..., part].mean()))
    kind = "exact" if found.exact else f"sampled; the mean standard error is {error}"
    about = (
        "Every dot is a state: what the feature adds there, against its value in "
        f"{len(found.question.background)} other states ({kind}). A state's values add up "
        "to what is explained there less its mean at those others. Bars are means."
    )
    heading = f"State by state{ending}"
    draw = partial(_rows, rows, found.question.target.unit, heading)
    return Figure(f"states-{part}", heading, about, draw)


def _rows(rows: list[RowOf], unit: str, heading: str, width: float):  # type: ignore[no-untyped-def]
    return rows_chart(rows, f"Shapley value, {unit}", heading, width, zero=True, shapes=False)


def deletion(found: Explanation, tests: list[Deletion], ending: str) -> Figure:
    """What becomes of one part of the action when features are taken away."""
    target = found.question.target
    share = np.linspace(0, 100, len(tests[0].curve))
    curves = [CurveOf(index, each.method, share, each.curve) for index, each in enumerate(tests)]
    curves.append(CurveOf(len(tests), "random order", share, tests[0].random))
    what = "the action" if target.kind == ACTION else f"the {target.kind}"
    about = (
        f"What is left of {what} when features are replaced by those of other states, the one "
        "that speaks most for the choice first: the sooner the line falls, the more the order means. "
        f"The random line is the mean of {RANDOM_ORDERS} orders for each state."
    )
    if target.kind == ACTION:
        about += " Actions that are smaller than usual count with the other sign."
    height = max(float(np.abs(each.middle).max()) for each in curves)
    columns = ["% replaced", *(each.name for each in curves)]
    rows = [[f"{share[i]:.0f}", *(fine(float(each.middle[i]), height) for each in curves)] for i in range(len(share))]
    heading = f"Deletion test{ending}"
    draw = partial(curves_chart, curves, ("% of features replaced", f"{target.kind}, {target.unit}"), heading)
    return Figure(f"deletion-{slug(tests[0].part)}", heading, about, draw, columns, rows)


def maps(found: Explanation) -> list[Figure]:
    """Value and policy over two features."""
    over = found.map
    if over is None:
        return []
    names = found.question.players.names
    titles = (names[over.players[0]], names[over.players[1]])
    figures = []
    for number, each in enumerate(over.fields):
        about = (
            f"The rest of the observation{' and the memory' if found.question.policy.has_memory else ''} is held as it "
            f"was in episode {over.held[0]} at step {over.held[1]}, the most usual state. Dots are states that were "
            "visited: far from them the policy never acted."
        )
        name = each.name if not each.unit else f"{each.name}, {each.unit}"
        cells = CellsOf(over.x, over.y, each.values, titles, each.name, each.options, each.about_zero, over.visited)
        heading = f"Map: {name}"
        figures.append(Figure(f"map-{number}", heading, about, partial(cells_chart, cells, heading)))
    return figures


def strip(found: Strip, parts: int) -> list[Figure]:
    """The episode; of a long one its beginning as well."""
    taken = found.chosen[:, 0] if parts == 1 and found.chosen.min() >= 0 else None
    lines = np.arange(len(found.lines))
    if len(lines) > MOST_LINES:
        used = np.bincount(taken, minlength=len(lines)) if taken is not None else -lines
        lines = np.sort(np.argsort(-used, kind="stable")[:MOST_LINES])
    if taken is not None:  # to places among the lines; -1 where there is none
        place = np.full(len(found.lines), -1)
        place[lines] = np.arange(len(lines))
        taken = place[taken]
    about = f"What the policy said at each of {len(found.reward)} steps, and the rewards."
    about += " The band has the options taken." if taken is not None else ""
    if len(lines) < len(found.lines):
        about += f" {len(lines)} of {len(found.lines)} lines are drawn, those taken most often."
    names = [found.lines[i] for i in lines]
    figures = []
    for key, steps in (("strip", len(found.reward)), ("beginning", BEGINNING)):
        if key == "strip" or len(found.reward) > 2 * BEGINNING:
            some = slice(0, steps)
            of_them = None if taken is None else taken[some]
            drawn = StripOf(found.what, names, found.values[some, lines], found.reward[some], of_them)
            heading = f"{found.what[:1].upper()}{found.what[1:]} and reward"
            heading += "" if key == "strip" else f", the first {BEGINNING} steps"
            figures.append(Figure(key, heading, about if key == "strip" else "", partial(strip_chart, drawn, heading)))
    return figures
