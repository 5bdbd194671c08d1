"""The page of an explanation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlab.evaluation.explanation import figures
from rlab.evaluation.explanation.deletion import ENOUGH, SHOWN, TOO_FEW, WORSE, Deletion
from rlab.evaluation.explanation.explain import GRADIENTS, SHAPLEY, Explanation
from rlab.evaluation.explanation.pictures import data_address, overlay, small
from rlab.evaluation.explanation.strip import Strip
from rlab.evaluation.report.document import document, figure_html, footer_of
from rlab.evaluation.report.escaping import in_html
from rlab.evaluation.report.numbers import fine, plain
from rlab.evaluation.report.sections import MISSING, details, table
from rlab.evaluation.stats import Interval
from rlab.networks.bounds import FIRST
from rlab.networks.spaces import Box, Masked

GENERATOR = "rlab explain"
MOST_STATES = 6  # that are shown one by one
MOST_COLUMNS = 12
MEANING = (
    "A Shapley value is what a feature adds to what is explained, as mean over all orders in which features can become "
    "known; what is not known yet is taken from other states that the policy visited. It says what this policy reacts "
    "to, not what is good, and not what causes what in the world. Features that always go together share their part in "
    "ways that no method can tell apart, and mixtures of two states may be states that never occur."
)


@dataclass(frozen=True)
class Facts:
    """What the page says besides."""

    name: str  # of the policy
    env: str
    made_by: str  # the command
    version: str
    notes: Sequence[str] = ()


def page(found: Explanation, facts: Facts) -> str:
    """The whole document."""
    target = found.question.target
    parts = [f'<p class="about">{in_html(_explained(found))}</p>']
    for part, ending in figures.shown_parts(found):
        tests = [each for each in found.tests if each.part == target.parts[part]]
        parts.append(figure_html(figures.importance(found, part, ending), "explain"))
        parts.append(figure_html(figures.every_state(found, part, ending), "explain"))
        parts.append(figure_html(figures.deletion(found, tests, ending), "explain", "", _verdicts(tests)))
    parts.append(_single_states(found))
    parts.append(_patches(found))
    parts += [figure_html(each, "explain") for each in figures.maps(found)]
    if found.map is None:
        parts.append(f'<p class="note">{in_html(_no_map(found))}</p>')
    if found.strip is not None:
        parts.append(_strip(found.strip, len(target.parts)))
    parts += [f'<p class="note">{in_html(note)}</p>' for note in facts.notes]
    body = f'<section class="task" id="explain">{"".join(parts)}</section>'
    title = f"Why {facts.name} acts as it does in {facts.env}"
    return document(GENERATOR, title, lede(found), body, footer_of(facts.made_by, [MEANING], facts.version))


def lede(found: Explanation) -> str:
    """What was found, in two sentences."""
    sentences = []
    for part, ending in figures.shown_parts(found)[:1]:
        size = found.importance[SHAPLEY][:, part]
        order = figures.ranked(found, part)[:2]
        names = [found.question.players.names[i] for i in order]
        share = 100 * float(size[order].sum()) / (float(size.sum()) or 1.0)
        what = "The action" if not ending else f"The {found.question.target.parts[part]}"
        both = " and ".join(names)
        sentences.append(
            f"{what} rests most on {both}, which make up {share:.0f}\N{NO-BREAK SPACE}% of all Shapley values in size."
        )
        tests = [t for t in found.tests if t.method == SHAPLEY and t.part == found.question.target.parts[part]]
        sentences += [_meaning(each) for each in tests]
    return " ".join(sentences)


def _meaning(test: Deletion) -> str:
    if test.verdict == SHOWN:
        return "The deletion test bears it out: taken away in that order, features are missed sooner than by chance."
    if test.verdict == WORSE:
        return "The deletion test speaks against it: taken away by chance, features are missed sooner."
    if test.verdict == TOO_FEW:
        return (
            f"Whether that means anything is not shown: the deletion test needs {ENOUGH} episodes, not {test.episodes}."
        )
    return "The deletion test does not bear it out: no difference from a random order is shown."


def _explained(found: Explanation) -> str:
    target, count = found.question.target, len(found.states)
    episodes, mean = len(np.unique(found.states.episode)), float(found.states.returns.mean())
    text = (
        f"Explained is {target.about} ({target.unit}), in {count} states of {episodes} "
        f"episode{'s' if episodes != 1 else ''} with greedy actions, which returned {plain(mean)} on average."
    )
    if found.question.policy.has_memory:
        text += (
            " The policy has memory, which is held as it was in each state: what is explained is the last observation."
        )
    return text


def _verdicts(tests: Sequence[Deletion]) -> str:
    rows = [[each.method, _gain(each), each.verdict] for each in tests]
    columns = ["order", "mean height below random orders [95 % over episodes]", "verdict"]
    return table(columns, rows)


def _gain(test: Deletion) -> str:
    if not isinstance(test.gain, Interval):
        return fine(test.gain)
    ends = (test.gain.estimate, test.gain.low, test.gain.high)
    middle, low, high = (fine(each, *ends) for each in ends)
    return f"{middle} [{low}, {high}]"


def _single_states(found: Explanation) -> str:
    """Some states with the values of the features that matter most."""
    target, players = found.question.target, found.question.players
    part, _ = figures.shown_parts(found)[0]
    order = figures.ranked(found, part)[:MOST_COLUMNS]
    columns = ["state", "chosen", "runner-up", target.kind, "at the background", *(players.names[i] for i in order)]
    rows = []
    for row in range(min(MOST_STATES, len(found.states))):
        chosen, second = (
            int(each[row, part]) for each in (found.states.contrast.chosen, found.states.contrast.runner_up)
        )
        rows.append(
            [
                f"episode {found.states.episode[row]}, step {found.states.step[row]}",
                target.option(chosen, part) if chosen >= 0 else MISSING,
                target.option(second, part) if second >= 0 else MISSING,
                fine(float(found.value[row, part])),
                fine(float(found.base[row, part])),
                *(fine(float(found.methods[SHAPLEY][row, i, part])) for i in order),
            ]
        )
    of = f" of {target.parts[part]}" if target.parts[part] else ""
    gap = (
        f"Integrated gradients miss their sum by at most {found.gradients_gap:.2g} in one state: the more, the less "
        "they are to be trusted, as where layers round."
    )
    about = f'<p class="about">Shapley values{in_html(of)}; {in_html(GRADIENTS)} are in the JSON. {in_html(gap)}</p>'
    return details("explain-single", "Single states", table(columns, rows, scroll=True) + about)


def _patches(found: Explanation) -> str:
    """Observations that are images, with what their patches add."""
    grid, space = found.question.players.grid, found.question.policy.spec.obs_space
    if grid is None:
        return ""
    inner = space.obs if isinstance(space, Masked) else space
    assert isinstance(inner, Box)
    part, _ = figures.shown_parts(found)[0]
    shown = []
    for row in range(min(MOST_STATES, len(found.states))):
        flat = found.states.obs[row].flatten()[: int(np.prod(inner.shape))].numpy()
        image = flat.reshape(inner.shape)
        image = np.moveaxis(image, 0, -1) if inner.channels == FIRST else image
        pixels = overlay(image, found.methods[SHAPLEY][row, :, part].reshape(grid))
        place = f"episode {found.states.episode[row]}, step {found.states.step[row]}"
        chosen = int(found.states.contrast.chosen[row, part])
        what = found.question.target.option(chosen, part) if chosen >= 0 else found.question.target.kind
        caption = f"<figcaption>{in_html(place)}: {in_html(what)}</figcaption>"
        shown.append(f'<figure><img src="{data_address(pixels)}" alt="{in_html(place)}">{caption}</figure>')
    about = (
        "Blue patches speak for what was done, orange ones against it; of several channels the last is drawn, in grey."
    )
    return f'<h3>Where it looks</h3><p class="about">{about}</p><div class="films">{"".join(shown)}</div>'


def _no_map(found: Explanation) -> str:
    if found.question.players.grid is not None:
        return "Images have no map over two features."
    return "There is no map: it needs two numbers of the observation that vary."


def _strip(strip: Strip, parts: int) -> str:
    shown = []
    for step, picture in strip.pictures:
        image = f'<img src="{data_address(small(picture))}" alt="the env before step {step}">'
        shown.append(f"<figure>{image}<figcaption>step {step}</figcaption></figure>")
    total = plain(float(strip.reward.sum()))
    what = f"Episode seed {strip.seed}: return {total} in {len(strip.reward)} steps, {strip.ending}."
    pictures = f'<div class="strip" tabindex="0" role="group" aria-label="pictures">{"".join(shown)}</div>'
    drawn = "".join(figure_html(each, "explain") for each in figures.strip(strip, parts))
    return f'<h3>An episode</h3><p class="about">{in_html(what)}</p>{pictures if shown else ""}{drawn}'
