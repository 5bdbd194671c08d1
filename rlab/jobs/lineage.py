"""Which of several policies was made of which: by the checksums of weights that they record, not by their names."""

from collections.abc import Mapping
from pathlib import Path

from rlab.errors import RlabError
from rlab.jobs.evidence import RUN, Evidence, Parent, weights_of
from rlab.runs.folder import RunFolder

SHOWN = 8  # digits of a checksum


def is_parent(parent: Evidence, child: Evidence) -> bool:
    """Whether a policy is the one that another records as its parent."""
    return child.parent is not None and child.parent.weights_sha256 == parent.weights_sha256


def paired_seeds(a: Evidence, b: Evidence) -> tuple[int, ...]:
    """The training seeds of the members that two populations share, such as before and after compression; () where the
    members of one have nothing to do with those of the other."""
    if a.weights_sha256 is not None and a.weights_sha256 == b.weights_sha256:
        return tuple(seed for seed in a.seeds if seed in b.seeds)
    for parent, child in ((a, b), (b, a)):
        if is_parent(parent, child) and child.parent is not None and child.parent.same_members:
            return child.seeds if set(child.seeds) <= set(parent.seeds) else ()
    siblings = a.parent is not None and b.parent is not None and a.parent.weights_sha256 == b.parent.weights_sha256
    if siblings and a.parent and b.parent and a.parent.same_members and b.parent.same_members:
        return a.seeds if a.seeds == b.seeds else ()
    return ()


def lineage_notes(named: Mapping[str, Evidence]) -> list[str]:
    """What to say of the parents that these policies record, a line each.

    Args:
        named: the policies by the names that people see.
    """
    notes = []
    for name, child in named.items():
        others = {other: each for other, each in named.items() if other != name}
        if child.parent is not None:
            notes.append(_of_child(name, child.parent, others))
    names = list(named)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            weights = named[first].weights_sha256
            if weights is not None and weights == named[second].weights_sha256:
                notes.append(f"{first} and {second} have the same weights")
    return notes


def _of_child(name: str, parent: Parent, others: Mapping[str, Evidence]) -> str:
    made = f"{name} was {parent.how} from {_known_as(parent)}"
    for other, each in others.items():
        if each.weights_sha256 == parent.weights_sha256:
            return f"{name} was {parent.how} from {other}, its recorded parent"
    for other, each in others.items():
        if _best_of(each) == parent.weights_sha256:
            return f"{name} was {parent.how} from the best/ of {other}, not from its final policy, which is judged here"
    known = {other: each.weights_sha256 for other, each in others.items() if each.weights_sha256 is not None}
    for other, weights in known.items():
        if parent.name in (others[other].name, Path(others[other].path).name):
            return (
                f"{made}; {other} has that name and is not that policy: its weights are {weights[:SHOWN]}. It was "
                "trained on, or replaced"
            )
    if len(others) == 1 and known:
        ((other, weights),) = known.items()
        return f"{made}; {other} is not its parent: its weights are {weights[:SHOWN]}"
    return f"{made}, which is not compared here"


def _known_as(parent: Parent) -> str:
    return f"{parent.name} (weights {parent.weights_sha256[:SHOWN]})"


def _best_of(evidence: Evidence) -> str | None:
    """The checksum of the best weights of a run in evaluations during training; None where there are none."""
    if evidence.kind != RUN:
        return None
    try:
        return weights_of(RunFolder.open(evidence.path), "best")
    except RlabError:
        return None
