"""Sends fuzzed requests to a server and holds every answer against what `reading` allows."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fuzzed import Case, cases, correct_body, dump, framed  # type: ignore[import-not-found, unused-ignore]
from reading import EITHER, RIGHT, WRONG, Target, judged  # type: ignore[import-not-found, unused-ignore]
from wire import Answer, Wire  # type: ignore[import-not-found, unused-ignore]

Check = Callable[[Mapping[str, np.ndarray], np.ndarray], bool]  # inputs and served actions [B, *action] -> both fit
MACHINE = (b"Traceback", b"site-packages", b'File "', b"/tmp/", b"/work", b"/home", b"/usr", b"<module>", b"0x7")
WATCH_EVERY = 20  # cases between two correct requests on a connection of their own


@dataclass
class Findings:
    """What came of an attack: `wrong` has a line for each answer that is not allowed."""

    wrong: list[str] = field(default_factory=list)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)  # (family, status or "closed")
    answered: int = 0  # requests whose actions were compared


def attack(
    connect: Callable[[], Wire], targets: Mapping[Target, Check], count: int, seed: int = 0, most: int = 5
) -> Findings:
    """Send `count` cases; stops after `most` findings.

    Args:
        connect: opens a connection.
        targets: the policies, each with what tells whether served actions are its own.
    """
    found, wire, watch = Findings(), connect(), connect()
    for index, (target, case) in enumerate(cases(list(targets), count, seed)):
        report = _report(found, index, case)
        try:
            answers = _exchange(wire, case)
        except (TimeoutError, AssertionError, ConnectionError) as error:
            report(repr(error))
            answers = []
        for answer in answers:
            wrong = _unfit(case, answer, targets[target], found)
            if wrong is not None:
                report(f"{wrong}: {answer.status} {answer.body[:200]!r}")
        found.statuses[case.family, str(answers[0].status) if answers else "closed"] += 1
        if case.ends or case.family == "broken HTTP" or not answers or _closes(answers[-1]):
            wire.close()
            wire = connect()
        if index % WATCH_EVERY == 0:
            watched = _friend(watch, targets, index, found)
            if watched is not None:
                report(f"another client was disturbed: {watched}")
                watch = connect()
        if len(found.wrong) >= most:
            break
    wire.close()
    watch.close()
    return found


def _report(found: Findings, index: int, case: Case) -> Callable[[str], None]:
    return lambda text: found.wrong.append(
        f"case {index}, {case.family}, {case.why}: {text}; sent {case.data[-300:]!r}"
    )


def _exchange(wire: Wire, case: Case) -> list[Answer]:
    """The answers to a case, in order: one where the client waits for it."""
    try:
        wire.send(case.data)
        if case.ends or case.family == "broken HTTP":
            wire.half_close()
    except ConnectionError:
        pass  # the server has hung up; what it said before can still be read
    if not (case.ends or case.family == "broken HTTP"):
        return [wire.answer()]
    answers: list[Answer] = wire.all_answers()
    assert case.verdict != WRONG or len(answers) <= 1, "more than one answer"
    return answers


def _closes(answer: Answer) -> bool:
    return "close" in answer.headers.get("connection", "")


def _unfit(case: Case, answer: Answer, fits: Check, found: Findings) -> str | None:
    """What is wrong with an answer; None where it is allowed."""
    if any(word in answer.body for word in MACHINE):
        return "it tells of the machine"
    if answer.status == 200 and case.verdict != WRONG:
        return _wrong_actions(case.arrays, case.id, answer, fits, found)
    if answer.status == 200:
        return "it is answered"
    if case.verdict == RIGHT:
        return "it is refused"
    try:
        refusal = answer.error
    except (AssertionError, ValueError, KeyError) as error:
        return f"not a refusal as the protocol has it: {error!r}"
    if not 400 <= answer.status < 500:
        return "not a 4xx"
    return "it is long, or has several lines" if len(refusal) > 600 or "\n" in refusal else None


def _wrong_actions(
    arrays: Mapping[str, np.ndarray], asked: Any, answer: Answer, fits: Check, found: Findings
) -> str | None:
    try:
        outputs = {output["name"]: output for output in answer.json["outputs"]}
        action = np.array(outputs["action"]["data"]).reshape(outputs["action"]["shape"])
    except (ValueError, KeyError, TypeError) as error:
        return None if not arrays else f"not an answer as the protocol has it: {error!r}"
    found.answered += 1
    if not arrays:
        return "an answer to nothing"
    if isinstance(asked, str) and asked and answer.json.get("id") != asked:
        return f"not the id {asked!r}"
    return None if fits(arrays, action) else "WRONG ACTIONS"


def _friend(watch: Wire, targets: Mapping[Target, Check], index: int, found: Findings) -> str | None:
    """A correct request on a connection that stays open."""
    rng = np.random.default_rng([7, index])
    target = list(targets)[index // WATCH_EVERY % len(targets)]
    body = dump(correct_body(target, rng)).encode()
    try:
        watch.send(framed(target, body))
        answer = watch.answer()
    except (ConnectionError, TimeoutError) as error:
        return repr(error)
    verdict = judged(target, body)
    assert verdict.kind in (RIGHT, EITHER)
    if answer.status != 200:
        return f"{answer.status} {answer.body[:200]!r}"
    return _wrong_actions(verdict.arrays, verdict.id, answer, targets[target], found)
