"""`rlab bench`: what a claim may say, what is measured for it, and when it holds. Nothing is trained: the returns are
written by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlab.errors import UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.experiment_files import MEASURES, Claim, read_experiment
from rlab.search.results import held, verdicts

# Four seeds of five episodes. Means: 10, 20, 40, 90; 13 of the 20 episodes return 20 or more.
RETURNS = np.array([[0, 0, 10, 20, 20], [20, 20, 20, 20, 20], [40, 40, 40, 40, 40], [0, 0, 0, 0, 450]], dtype=float)
WITH_THRESHOLD = ("seeds_at_or_above", "share_of_episodes_at_or_above")
SHARE = "share_of_episodes_at_or_above"

ExperimentFile = Callable[[str], Path]


@pytest.fixture
def experiment_file(tmp_path: Path) -> ExperimentFile:
    """Writes an experiment of four seeds that makes one claim, given as TOML."""

    def write(claim: str) -> Path:
        path = tmp_path / "small.toml"
        head = 'format = 1\nagent = "dqn"\nenv = "CartPole-v1"\n[bench]\nseeds = 4\nepisodes = 5\n'
        path.write_text(f"{head}[[claim]]\n{claim}\n")
        return path

    return write


def judged(returns: np.ndarray = RETURNS) -> Evaluation:
    return Evaluation(tuple(range(len(returns))), 100_000, returns, returns.astype(np.int64))


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        ('measure = "iqm"', 30.0),  # the middle two of 10, 20, 40, 90
        ('measure = "median"', 30.0),
        ('measure = "lowest_seed"', 10.0),
        ('measure = "seeds_at_or_above"\nthreshold = 40', 2),
        ('measure = "seeds_at_or_above"\nthreshold = 20', 3),
        ('measure = "share_of_episodes_at_or_above"\nthreshold = 20', 13 / 20),  # 2 + 5 + 5 + 1
        ('measure = "share_of_episodes_at_or_above"\nthreshold = 20.1', 6 / 20),  # 0 + 0 + 5 + 1
        ('measure = "share_of_episodes_at_or_above"\nthreshold = 451', 0.0),
    ],
)
def test_each_measure_on_returns_worked_by_hand(experiment_file: ExperimentFile, claim: str, found: float) -> None:
    experiment = read_experiment(experiment_file(f"{claim}\nat_least = 0"))
    claims = held(experiment, judged())
    assert [(c["found"], c["of_seeds"]) for c in claims] == [(pytest.approx(found, abs=1e-12), 4)]


@pytest.mark.parametrize(("measure", "found", "holds"), [("median", 7.0, True), ("iqm", 6.0, False)])
def test_the_median_of_an_odd_number_of_seeds_is_a_seed_s_and_no_iqm(
    experiment_file: ExperimentFile, measure: str, found: float, holds: bool
) -> None:
    returns = np.array([[10.0], [0.0], [7.0], [99.0], [1.0]])  # the IQM drops one at each end: (1 + 7 + 10) / 3
    experiment = read_experiment(experiment_file(f'measure = "{measure}"\nat_least = 6.5'))
    (claim,) = held(experiment, judged(returns))
    assert (claim["found"], claim["holds"]) == (pytest.approx(found), holds)


@pytest.mark.parametrize(("at_least", "holds", "verdict"), [(0.65, True, "holds"), (0.66, False, "FAILS")])
def test_a_share_that_is_exactly_reached_holds_and_one_that_is_missed_fails(
    experiment_file: ExperimentFile, at_least: float, holds: bool, verdict: str
) -> None:
    experiment = read_experiment(experiment_file(f'measure = "{SHARE}"\nthreshold = 20\nat_least = {at_least}'))
    (claim,) = held(experiment, judged())
    expected = {"measure": SHARE, "threshold": 20, "at_least": at_least, "found": 0.65, "of_seeds": 4}
    assert claim == {**expected, "holds": holds}
    said = f"small: {SHARE} 20 is 0.65, claimed at least {at_least}: {verdict} (4 seeds, 7 s)"
    assert verdicts({"experiment": "small", "claims": [claim], "wall_seconds": 7.2}) == [said]


@pytest.mark.parametrize("measure", MEASURES)
def test_a_threshold_stands_exactly_where_the_measure_needs_one(measure: str) -> None:
    wrong = None if measure in WITH_THRESHOLD else 475.0
    with pytest.raises(UsageError) as caught:
        Claim(measure, 1.0, wrong)
    assert str(caught.value) == (
        "a claim has a threshold exactly when its measure is seeds_at_or_above or share_of_episodes_at_or_above."
    )
    assert Claim(measure, 1.0, 475.0 if wrong is None else None).at_least == 1.0


@pytest.mark.parametrize("at_least", [-0.01, 1.01, 95.0, float("nan")])
def test_a_share_outside_0_and_1_is_refused(at_least: float) -> None:
    with pytest.raises(UsageError) as caught:
        Claim(SHARE, at_least, 475.0)
    assert str(caught.value) == f"a claim's share of episodes, at_least {at_least:g}, must be in [0, 1]."


@pytest.mark.parametrize("at_least", [0.0, 1.0])
def test_a_share_may_be_none_or_all(at_least: float) -> None:
    assert Claim(SHARE, at_least, 475.0).at_least == at_least


def test_more_seeds_than_there_are_cannot_be_claimed(experiment_file: ExperimentFile) -> None:
    path = experiment_file('measure = "seeds_at_or_above"\nthreshold = 20\nat_least = 5')
    with pytest.raises(UsageError, match=r"small\.toml claims 5 seeds of 4; a claim that cannot hold\."):
        read_experiment(path)


def test_an_unknown_measure_gets_the_near_miss(experiment_file: ExperimentFile) -> None:
    with pytest.raises(UsageError, match=r"unknown measure of a claim 'medain'. Did you mean 'median'\?"):
        read_experiment(experiment_file('measure = "medain"\nat_least = 1'))
