"""`rlab.report`: populations side by side as a page, with plots and tables beside it."""

import itertools
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlab.evaluation.charts.frame import WIDE
from rlab.evaluation.charts.png import check_png, png
from rlab.evaluation.charts.svg import svg_file
from rlab.evaluation.report.escaping import slug
from rlab.evaluation.report.figures import figures
from rlab.evaluation.report.model import Report, Side
from rlab.evaluation.report.page import page
from rlab.evaluation.report.studies import study_figures
from rlab.evaluation.report.tables import latex, markdown
from rlab.evaluation.stats import Interval
from rlab.jobs.aliases import answering
from rlab.jobs.evaluate import evaluate, open_judged
from rlab.jobs.evidence import RESULT, Evidence, Protocol
from rlab.jobs.films import film_episode, gif
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.page_folder import PageFolder
from rlab.jobs.report_sources import Source, check_any, find, judged_first, tasks_of
from rlab.learning.runtime import own_surroundings
from rlab.runs.folder import path_of
from rlab.trust import Trust
from rlab.version import VERSION

FOLDER = "report"
REPORTS = PageFolder("a report", "report.html", "report.json")
EPISODES = 100  # of what is not judged yet


@dataclass(frozen=True)
class Reported:
    """A report on the disk."""

    out: Path  # the folder
    files: tuple[str, ...]  # in it, the page first
    report: Report

    @property
    def page(self) -> Path:
        """The page, which opens from the disk."""
        return self.out / REPORTS.page

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab report --json` prints."""
        tasks = [
            {
                "env": task.label,
                "judged_by": task.protocol,
                "sides": [_as_json(side) for side in task.sides],
                "pairs": [each.to_json() for each in task.pairs],
                "notes": list(task.notes),
            }
            for task in self.report.tasks
        ]
        found = {"out": str(self.out), "files": list(self.files), "tasks": tasks, "notes": list(self.report.notes)}
        return {"format": 1, **found}

    def summary(self) -> str:
        """What was reported, for people."""
        notes = [f"note: {note}" for note in self.report.notes]
        beside = ", ".join(self.files[1:])
        return "\n".join([*notes, f"report: {self.page}", f"beside it: {beside}"])


def _as_json(side: Side) -> dict[str, Any]:
    score = side.score
    ends = [score.low, score.high] if isinstance(score, Interval) else None
    return {
        "name": side.name,
        "path": side.path,
        "agent": side.agent,
        "seeds": list(side.seeds),
        "final": side.is_final,
        "iqm": score.estimate if isinstance(score, Interval) else score,
        "ci95": ends,
        "per_seed_mean": side.means.tolist(),
    }


@answering
def report(
    *sources: Source,
    out: str | Path = FOLDER,
    title: str = "",
    film: bool = False,
    png: bool = True,
    episodes: int = EPISODES,
    trust: Trust = False,
) -> Reported:
    """Put populations side by side on one HTML page, which opens from the disk and loads nothing.

    Beside it are the plots as SVG and PNG, and the results as Markdown and LaTeX tables.

        rlab.report("runs/ppo", "runs/dqn", out="ppo-dqn").page

    Args:
        sources: run and policy folders, folders of these, exported files, recorded results, studies of `rlab tune`.
            The first is what others in the same env are compared with.
        out: a new folder, or one that holds a report, which is replaced.
        title: of the page; "": what it is about.
        film: film an episode of the first member of every policy.
        png: write the plots as PNG too, which needs matplotlib.
        episodes: that policies and files without a record are judged by.
        trust: allow envs, wrappers and layers from outside rlab that the sources name, which run their code.

    Raises:
        UsageError: there is nothing to report, the folder holds something else, or matplotlib is missing.
        RlabError: a source is broken.
    """
    if png:
        check_png()
    place = Path(out).absolute()  # before an env is made, which may change the working folder
    REPORTS.check(place, str(out))
    found = find(sources, trust)
    check_any(found, sources)
    found = judged_first(found, lambda evidence: _judged(evidence, episodes, trust))
    films = {each.path: _film(each, trust) for each in found.evidence if film and each.kind != RESULT}
    words = ["rlab", "report", *(path_of(source) for source in sources), "--out", str(out)]
    words += ["--title", title] if title else []
    words += ["--film"] if film else []
    made = Report(title, tasks_of(found.evidence, films), found.studies, found.unreadable, shlex.join(words), VERSION)
    content = contents(made, png)
    done = Reported(Path(out), tuple(content), made)
    REPORTS.write(place, content, done.to_json())
    return done


def contents(made: Report, with_png: bool) -> dict[str, bytes]:
    """The files of a report by name, the page first."""
    content: dict[str, bytes] = {REPORTS.page: page(made).encode()}
    content["results.md"], content["results.tex"] = markdown(made).encode(), latex(made).encode()
    drawn = [(each, task.label, len(made.tasks) > 1) for task in made.tasks for each in figures(task)]
    drawn += [(each, study.name, len(made.studies) > 1) for study in made.studies for each in study_figures(study)]
    for figure, of, several in drawn:
        plain = f"{figure.key}-{slug(of)}" if several else figure.key
        stems = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        stem = next(each for each in stems if f"{each}.svg" not in content)  # names may differ in strange letters alone
        chart = figure.draw(WIDE)
        content[f"{stem}.svg"] = svg_file(chart).encode()
        if with_png:
            content[f"{stem}.png"] = png(chart)
    return content


def _judged(evidence: Evidence, episodes: int, trust: Trust) -> Evidence:
    found = evaluate(evidence.path, episodes=episodes, trust=trust)
    return replace(evidence, returns=found.returns, protocol=Protocol(found.episodes, found.first_seed, found.greedy))


def _film(evidence: Evidence, trust: Trust) -> tuple[bytes, str]:
    """A greedy episode of the first member, as a GIF and in words."""
    saved = open_judged(evidence.path, trust)
    first = saved.policy.seeds[0]
    policy = saved.policy.only(first) if hasattr(saved.policy, "only") else saved.policy
    with own_surroundings(threads=1):
        frames, fps = film_episode(saved.env, policy, FINAL_EPISODE_SEED)
    return gif(frames, fps), f"training seed {first}, episode seed {FINAL_EPISODE_SEED}"
