"""The results of a report as tables: Markdown and LaTeX files, and the rows that the page shows."""

from collections.abc import Callable, Sequence

from rlab.evaluation.charts.scales import whole
from rlab.evaluation.report.escaping import in_latex, in_markdown, one_line
from rlab.evaluation.report.model import Report, Side, Task
from rlab.evaluation.report.numbers import joined, percent, plain

MISSING = "\N{EN DASH}"
COLUMNS = ("", "agent", "trained", "seeds", "episodes each", "IQM [95 % interval]", "worst seed")
NUMBERS = frozenset(range(2, 7))  # columns of numbers
COMPARED = ("", "difference of mean returns", "a seed beats one of the other", "verdict")
MEANING = (
    "IQM: interquartile mean over training seeds of their mean returns. Its interval is for other training seeds "
    "(stratified bootstrap, widened by Student's t); a single seed has none."
)


def result_row(side: Side) -> tuple[str, ...]:
    """One side under `COLUMNS`."""
    means = side.means
    trained = MISSING if side.time is None else f"{whole(side.time)} {side.unit}"
    judged = str(side.returns.shape[1]) if side.returns is not None else "in training" if len(means) else MISSING
    worst = plain(float(means.min())) if len(means) else MISSING
    return side.name, side.agent, trained, str(len(side.seeds)), judged, joined(side.score) or MISSING, worst


def compared_rows(task: Task) -> list[tuple[str, ...]]:
    """The comparisons of a task under `COMPARED`."""
    return [
        (
            f"{each.a} vs {each.b}",
            joined(each.difference) or MISSING,
            percent(each.improvement) or MISSING,
            each.verdict,
        )
        for each in task.pairs
    ]


def level_of(task: Task) -> str:
    """What the intervals of the comparisons are, in words."""
    levels = [each.difference.level for each in task.pairs if each.difference is not None]
    if not levels:
        return ""
    several = f", so that all {len(levels)} hold at once in 95 % of cases" if len(levels) > 1 else ""
    return f"Intervals of comparisons are of {100 * levels[0]:.3g} %{several}."


def markdown(report: Report) -> str:
    """All results and comparisons as Markdown tables."""
    parts = []
    for task in report.tasks:
        rows = [COLUMNS, *(result_row(side) for side in task.sides)]
        parts.append(f"## {in_markdown(task.label)}\n\n{_markdown(rows, NUMBERS)}\n")
        if task.pairs:
            parts.append(_markdown([COMPARED, *compared_rows(task)], frozenset({1, 2})) + f"\n\n{level_of(task)}\n")
    how = f"\nMade by `{one_line(report.made_by).replace('`', chr(39))}`.\n" if report.made_by else "\n"
    return "\n".join(parts) + f"\n{MEANING}{how}"


def _markdown(rows: Sequence[Sequence[str]], numbers: frozenset[int]) -> str:
    rule = ["---:" if index in numbers else "---" for index in range(len(rows[0]))]
    lines = [[in_markdown(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def latex(report: Report) -> str:
    """All results and comparisons as LaTeX tables, which need the package `booktabs`."""
    parts = [f"% {in_latex(report.made_by)}", r"% needs \usepackage{booktabs}"]
    for task in report.tasks:
        rows = [COLUMNS, *(result_row(side) for side in task.sides)]
        parts.append(_latex(rows, NUMBERS, f"{in_latex(task.label)}. {in_latex(MEANING)}"))
        if task.pairs:
            parts.append(
                _latex(
                    [COMPARED, *compared_rows(task)],
                    frozenset({1, 2}),
                    f"{in_latex(task.label)}. {in_latex(level_of(task))}",
                )
            )
    return "\n".join(parts) + "\n"


def _latex(rows: Sequence[Sequence[str]], numbers: frozenset[int], caption: str) -> str:
    columns = "".join("r" if index in numbers else "l" for index in range(len(rows[0])))
    write: Callable[[Sequence[str]], str] = lambda row: "  " + " & ".join(map(in_latex, row)) + r" \\"  # noqa: E731
    head, *body = map(write, rows)
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{caption}}}", rf"  \begin{{tabular}}{{{columns}}}"]
    lines += [r"  \toprule", head, r"  \midrule", *body, r"  \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines)
