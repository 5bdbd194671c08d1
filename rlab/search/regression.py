"""Whether a result is as good as the one on record: paired by training seed and episode."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlab.errors import RlabError
from rlab.evaluation.comparison import Pair, Side, pair
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.comparable import env_differences
from rlab.jobs.evidence import Evidence, different_settings, read_evidence
from rlab.jobs.experiment_files import Experiment
from rlab.runs.folder import RunFolder

WORSE, SAME, BETTER, CANNOT_TELL = "worse", "same", "better", "cannot tell"
MARGIN = 0.05  # of the recorded mean return's size: a loss of less than this is still the same


@dataclass(frozen=True)
class Regression:
    """A new result beside the recorded one."""

    verdict: str
    why: str | None = None  # nothing could be compared
    pair: Pair | None = None  # the new one less the recorded one
    margin: float = 0.0  # in return
    commit: str | None = None  # that the recorded one was made with
    changed: dict[str, list[Any]] = field(default_factory=dict)  # settings: recorded, new

    def to_json(self, name: str) -> dict[str, Any]:
        """Plain data, and the line for people on the experiment of this name."""
        return {**vars(self), "pair": None if self.pair is None else self.pair.to_json(), "line": self.line(name)}

    def line(self, name: str) -> str:
        """The verdict for people."""
        if self.pair is None or self.pair.difference is None:
            return f"{name}: cannot tell whether it is as good as the recorded result: {self.why}"
        seeds = f"{self.pair.members[0]} seeds" if self.pair.members[0] > 1 else "one seed"
        digits = self.pair.digits
        shown = (
            "the same in every episode" if self.pair.identical else f"{self.pair.difference:z.{digits}f} in mean return"
        )
        words = {
            WORSE: "WORSE than the recorded result",
            SAME: "as good as the recorded result",
            BETTER: "better than the recorded result",
            CANNOT_TELL: f"cannot tell whether it is as good as the recorded result, to {self.margin:.{digits}f}",
        }[self.verdict]
        made = "" if self.commit is None else f", recorded with {self.commit[:10]}"
        changed = "".join(f"; {setting} {old} -> {new}" for setting, (old, new) in self.changed.items())
        return f"{name}: {words}: {shown} (paired, {seeds}{made}{changed})"


def regression(experiment: Experiment, new: Evaluation, run: RunFolder) -> Regression | None:
    """A run of an experiment beside its recorded result; None where nothing is recorded yet."""
    if not experiment.result_path.is_file():
        return None
    try:
        recorded = read_evidence(experiment.result_path)
    except RlabError as error:
        return Regression(CANNOT_TELL, str(error))
    now = read_evidence(run.path)
    if found := env_differences(recorded.env, now.env):
        return Regression(CANNOT_TELL, f"it is of another env: {', '.join(found)}", commit=recorded.commit)
    sides = _shared(recorded, new)
    if sides is None:
        return Regression(CANNOT_TELL, "no training seed or no episode is in both", commit=recorded.commit)
    compared = pair(*sides, same_members=True)
    margin = MARGIN * abs(compared.means[1])
    verdict = verdict_of(compared, margin)
    why = "one episode of one seed shows nothing" if compared.difference is None else None
    return Regression(verdict, why, compared, margin, recorded.commit, different_settings([recorded, now]))


def verdict_of(compared: Pair, margin: float) -> str:
    """What the interval of new less recorded shows: SAME is a loss of no more than the margin."""
    if compared.identical:
        return SAME
    if compared.difference is None:
        return CANNOT_TELL
    if compared.difference.low > 0:
        return BETTER
    if compared.difference.low >= -margin:
        return SAME
    return WORSE if compared.difference.high < 0 else CANNOT_TELL


def _shared(recorded: Evidence, new: Evaluation) -> tuple[Side, Side] | None:
    """The new and the recorded returns `[S, E]` of the training seeds and the episodes that both have."""
    known = recorded.protocol
    assert known is not None
    assert recorded.returns is not None
    seeds = tuple(seed for seed in new.seeds if seed in recorded.seeds)
    first = max(new.first_seed, known.first_seed)
    last = min(new.first_seed + new.episodes, known.first_seed + known.episodes)
    if not seeds or last <= first:
        return None

    def table(returns: np.ndarray, of: tuple[int, ...], begins: int) -> np.ndarray:
        return returns[[of.index(seed) for seed in seeds], first - begins : last - begins]

    mine = Side("new", seeds, table(new.returns, new.seeds, new.first_seed))
    return mine, replace(mine, name="recorded", returns=table(recorded.returns, recorded.seeds, known.first_seed))
