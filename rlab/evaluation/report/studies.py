"""The charts and the table of a search for settings."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlab.evaluation.charts.bars import BarOf, bars_chart
from rlab.evaluation.charts.lineage import SettingOf, lineage_chart
from rlab.evaluation.charts.marks import Chart
from rlab.evaluation.charts.scales import MINUS, whole
from rlab.evaluation.charts.trials import TrialOf, trials_chart
from rlab.evaluation.report.figures import Figure
from rlab.evaluation.report.model import Lineage, Study, Trial
from rlab.evaluation.report.numbers import counted, joined, plain, setting_text
from rlab.evaluation.report.sections import MISSING, details, table

BEST = 10  # trials in the table that is open
MOST_BARS = 12


def study_figures(study: Study) -> list[Figure]:
    """The history of the search and which settings mattered, or how those of a population changed."""
    found = [_history(study), _importance(study), _lineage(study)]
    return [each for each in found if each is not None]


def _history(study: Study) -> Figure | None:
    trials = [
        TrialOf(each.number, each.value, each.whole, each.state, _settings(each))
        for each in study.trials
        if each.value is not None
    ]
    known = [each for each in trials if np.isfinite(each.value)]
    if not known:
        return None
    about = "Every trial of the search in its order; hollow ones were stopped early. The line is the best so far."

    def draw(width: float) -> Chart:
        return trials_chart(known, study.objective, f"History of the study {study.name}", width)

    return Figure("history", "History", about, draw)


def _importance(study: Study) -> Figure | None:
    if not study.importance:
        return None
    ranked = sorted(study.importance.items(), key=lambda each: -each[1])[:MOST_BARS]
    bars = [BarOf(name, share, f"{100 * share:.0f} %") for name, share in ranked]
    about = (
        "How much each setting matters for being among the best trials, in shares (PED-ANOVA, Watanabe et al. 2023): "
        "an estimate from these trials, which says nothing of values that were not tried."
    )

    def draw(width: float) -> Chart:
        return bars_chart(bars, f"Importance of settings in the study {study.name}", width)

    return Figure("importance", "Which settings mattered", about, draw)


def _lineage(study: Study) -> Figure | None:
    lineage = study.lineage
    if lineage is None:
        return None
    shown = [_setting(name, scale, lineage) for name, scale in lineage.scales.items()]
    about = (
        "What every member was trained with, and in the thick line what the best one was, through all that it took "
        f"over: {counted(lineage.exploits, 'time')} a member took over the weights of another one, with settings that "
        "were changed a little."
    )

    def draw(width: float) -> Chart:
        return lineage_chart(shown, lineage.unit, lineage.until, f"Settings in the study {study.name}", width)

    rows = [[whole(when), *(setting_text(own[name]) for name in lineage.scales)] for when, own in lineage.best]
    return Figure("lineage", "Settings over time", about, draw, [f"from {lineage.unit}", *lineage.scales], rows)


def _setting(name: str, scale: str, lineage: Lineage) -> SettingOf:
    """One setting as it is drawn: a discount as what is missing to 1."""
    apart = scale == "one_minus"

    def steps(path: Sequence[tuple[int, Mapping[str, float]]]) -> list[tuple[float, float]]:
        return [(float(when), 1.0 - own[name] if apart else own[name]) for when, own in path]

    members, best = [steps(path) for path in lineage.members], steps(lineage.best)
    above = all(value > 0.0 for path in (*members, best) for _, value in path)
    return SettingOf(f"1 {MINUS} {name}" if apart else name, members, best, above and scale != "linear")


def study_table(study: Study, name: str) -> str:
    """The best trials, and all of them to open."""
    ranked = sorted((each for each in study.trials if each.value is not None), key=lambda each: -(each.value or 0.0))
    best = [each for each in ranked if each.whole][:BEST]
    if not study.trials:
        return ""
    found = f"<h3>Finalists with fresh seeds</h3>{_finalists(study)}" if study.finalists else ""
    found += f"<h3>Best trials</h3>{_trials(best)}" if best and not study.finalists else ""
    return found + details(f"{name}-trials", f"All {len(study.trials)} trials", _trials(study.trials))


def _trials(trials: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(name for each in trials for name in each.settings))
    rows = [
        [
            str(each.number),
            MISSING if each.value is None else plain(each.value),
            each.state,
            *(setting_text(each.settings[name]) if name in each.settings else MISSING for name in names),
        ]
        for each in trials
    ]
    return table(["trial", "value", "state", *names], rows, scroll=True)


def _finalists(study: Study) -> str:
    names = list(dict.fromkeys(name for each in study.finalists for name in each.settings))
    rows = [
        [
            f"{each.number}{' (chosen)' if each.chosen else ''}",
            plain(each.searched),
            joined(each.fresh),
            *(setting_text(each.settings[name]) if name in each.settings else MISSING for name in names),
        ]
        for each in study.finalists
    ]
    return table(["trial", "in the search", "fresh seeds [95 %]", *names], rows, scroll=True)


def _settings(trial: Trial) -> str:
    return ", ".join(f"{name} {setting_text(value)}" for name, value in trial.settings.items())
