"""What a search for settings is asked for, beside the settings of the runs that it makes."""

from dataclasses import dataclass
from typing import Literal

from rlab.ranges import check_at_most, check_counts
from rlab.runs.schema import MOST_MEMBERS

# Of a trial, unless the user says otherwise: seeds of its stack, and greedy episodes of each that it is judged by.
SEEDS, EPISODES = 5, 20


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How settings are proposed, how many, and how the best of them are judged.

    Raises:
        UsageError: a count that is out of range.
    """

    # What proposes settings. tpe and random end poor trials early (median), asha goes on with the best third; grid,
    # cmaes and gp train every trial to its end; pbt trains one population, whose members change settings in training
    method: Literal["tpe", "random", "grid", "cmaes", "gp", "asha", "pbt"] = "tpe"
    # trials that are trained at once as one stack, or several where they differ in what must be equal in it, such as
    # widths; None: one by one
    vectorised: int | None = None
    trials: int = 40  # of the whole study, however many processes share it; the first one has the plain defaults
    finalists: int = 3  # best trials that are trained again on fresh seeds, beside the defaults, to choose the winner
    finalist_seeds: int = 10  # training seeds of each finalist, which no trial had
    report_seeds: int = 20  # training seeds that the winner's result is reported on, which chose nothing
    episodes: int = 100  # greedy episodes for each seed of finalists and winner
    keep_trials: bool = False  # keep the run folders of trials, which are deleted once their result is recorded

    def __post_init__(self) -> None:
        check_counts(self, "vectorised", "trials", "finalists", "finalist_seeds", "report_seeds", "episodes")
        check_at_most(
            self, MOST_MEMBERS, "vectorised", "trials", "finalists", "finalist_seeds", "report_seeds", "episodes"
        )
