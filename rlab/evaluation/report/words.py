"""The title and the first sentence of a report."""

import numpy as np

from rlab.evaluation.comparison import BETTER, NO_DIFFERENCE, WORSE
from rlab.evaluation.report.model import Report, Side, Task
from rlab.evaluation.report.numbers import counted, joined, plain
from rlab.evaluation.stats import Interval

MOST_NAMED = 3  # sides in a title
TURNED = {BETTER: WORSE, WORSE: BETTER, NO_DIFFERENCE: NO_DIFFERENCE}


def title_of(report: Report) -> str:
    """`ppo and dqn on CartPole-v1`."""
    if report.studies:
        return " and ".join(study.name for study in report.studies)
    if not report.tasks:
        return "Nothing to report yet"
    sides = [side for task in report.tasks for side in task.sides]
    where = report.tasks[0].label if len(report.tasks) == 1 else f"{len(report.tasks)} environments"
    return f"{_names([side.name for side in sides])} on {where}"


def _names(names: list[str]) -> str:
    if len(names) > MOST_NAMED:
        return f"{len(names)} populations"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def lede(report: Report) -> str:
    """What was found, in a sentence or two."""
    if report.studies:
        return " ".join(filter(None, (study.winner for study in report.studies)))
    if not report.tasks:
        return "No run has logged anything yet. This page fills as soon as one does."
    sentences = [_of_task(task, len(report.tasks) > 1) for task in report.tasks[:MOST_NAMED]]
    return " ".join(filter(None, sentences))


def _of_task(task: Task, several: bool) -> str:
    scored = [(side, score) for side in task.sides if (score := side.score) is not None]
    where = f" on {task.label}" if several else ""
    if not scored:
        return f"Nothing was evaluated{where} yet."
    heights = [score.estimate if isinstance(score, Interval) else score for _, score in scored]
    best, score = scored[int(np.argmax(heights))]
    if len(task.sides) == 1:
        return _alone(best, score, where)
    so_far = "" if all(side.is_final for side, _ in scored) else " so far"
    of = counted(len(best.means), "training seed")
    what = "interquartile mean" if isinstance(score, Interval) else "mean return"
    equal = [side.name for (side, _), height in zip(scored, heights, strict=True) if height == max(heights)]
    if len(equal) > 1:
        return f"{_names(equal)} share the highest {what}{where}{so_far}: {plain(max(heights))}."
    first = f"{best.name} has the highest {what}{where}{so_far}: {joined(score)}, of {of}."
    return " ".join([first, *_against_others(best.name, task)])


def _against_others(name: str, task: Task) -> list[str]:
    """What the comparisons show of one side, in a sentence."""
    found: dict[str, list[str]] = {}
    for pair in task.pairs:
        if name in (pair.a, pair.b):
            other, turned = (pair.b, pair.verdict) if name == pair.a else (pair.a, TURNED[pair.verdict])
            found.setdefault(turned, []).append(other)
    parts = [f"is {how} than that of {_names(found[how])}" for how in (BETTER, WORSE) if how in found]
    same = f"no difference from {_names(found[NO_DIFFERENCE])} is shown" if NO_DIFFERENCE in found else ""
    if not parts:
        return [f"{same[:1].upper()}{same[1:]}."] if same else []
    return [f"Its mean return {' and '.join(parts)}{f'; {same}' if same else ''}."]


def _alone(side: Side, score: Interval | float, where: str) -> str:
    if not isinstance(score, Interval):
        return f"One training seed{where} has a mean return of {joined(score)}; it shows nothing about other seeds."
    so_far = "reached" if side.is_final else "has reached so far"
    what = f"The middle half of {counted(len(side.means), 'training seed')}{where} {so_far} {joined(score)} on average"
    return f"{what}; in brackets what other seeds would give, with 95 % confidence."
