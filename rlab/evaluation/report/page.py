"""The page of a report, from its tasks and studies."""

from collections.abc import Sequence

from rlab.evaluation.report.document import document, figure_html, footer_of
from rlab.evaluation.report.efficiency import efficiency
from rlab.evaluation.report.escaping import in_html, slug
from rlab.evaluation.report.figures import figures
from rlab.evaluation.report.model import Report, Study, Task
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.report.sections import cards, chips, command, comparison, films, made, settings
from rlab.evaluation.report.studies import study_figures, study_table
from rlab.evaluation.report.tables import MEANING
from rlab.evaluation.report.words import lede, title_of

GENERATOR = "rlab report"


def page(report: Report) -> str:
    """The whole document."""
    headings = len(report.tasks) > 1 or bool(report.studies)
    body = "".join(_study(study, alone=len(report.studies) == 1) for study in report.studies)
    body += "".join(_task(name, task, headings) for name, task in _named(report.tasks))
    body += "".join(f'<p class="note">{in_html(note)}</p>' for note in report.notes)
    footer = footer_of(report.made_by, [MEANING], report.version)
    return document(GENERATOR, report.title or title_of(report), lede(report), body, footer, report.live_every)


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
    parts += [figure_html(each, name, *beside.get(each.key, ("", ""))) for each in drawn]
    if not any(each.key == "comparison" for each in drawn):  # one episode shows no difference to draw
        parts.append(comparison(task, name))
    parts += [settings(task, name), films(task), made(task, name)]
    return f'<section class="task" id="{name}">{"".join(parts)}</section>'


def _study(study: Study, alone: bool) -> str:
    """`alone`: the head of the page has its name and its winner already."""
    name = f"study-{slug(study.name)}"
    facts = "".join(f"<dt>{in_html(key)}</dt><dd>{in_html(value)}</dd>" for key, value in study.facts.items())
    if study.lineage is None:
        own, about = (
            "The search",
            f"{counted(len(study.trials), 'trial')} of a search for settings; objective: {study.objective}.",
        )
    else:
        own, about = (
            "The population",
            f"{len(study.lineage.members)} members, the worst of which took over the best while they trained.",
        )
    about = f'<p class="about">{in_html(about)}</p>'
    winner = f'<p class="verdict">{in_html(study.winner)}</p>' if study.winner and not alone else ""
    heading = own if alone else study.name
    drawn = "".join(figure_html(each, name) for each in study_figures(study))
    how = "".join(command(each) for each in (study.made_by, study.used_by) if each)
    parts = f"{about}{winner}{drawn}{study_table(study, name)}<dl>{facts}</dl>{how}"
    return f'<section class="task" id="{name}"><h2>{in_html(heading)}</h2>{parts}</section>'
