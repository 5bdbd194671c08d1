"""`rlab tune`: three stages on seeds of their own, what is recorded of each, and going on."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlab.errors import RlabError, UsageError
from rlab.jobs.evidence import read_evidence
from rlab.jobs.experiment_files import read_experiment
from rlab.search.executors import Task
from rlab.search.plan import Plan
from rlab.search.tuned import Tuned, claims_of

Planned = Callable[..., Plan]
Searched = tuple[Tuned, list[Task]]


def carry_out(search: Plan, executor: Any, progress: bool = False) -> Tuned:
    pytest.importorskip("optuna")
    from rlab.search.stages import carry_out as carried_out

    return carried_out(search, executor, progress)


def steps(settings: Mapping[str, Any]) -> float:
    """Longer returns are better, by 100 for each step."""
    return 100.0 * float(settings["n_step"])


def test_the_winner_is_chosen_and_reported_on_seeds_that_no_other_stage_had(searched: Searched) -> None:
    tuned, tasks = searched
    seeds = tuned.facts["seeds"]
    assert seeds == {"search": [0, 1, 2], "finalists": [3, 4], "report": [5, 6, 7, 8]}
    of_stage = [task.request.run.training_seeds for task in tasks]
    assert of_stage == [(0, 1, 2)] * 6 + [(3, 4)] * len(tuned.facts["finalists"]) + [(5, 6, 7, 8)]
    assert [row["seed"] for row in tuned.evaluation["per_seed"]] == seeds["report"]
    best = max(row["settings"]["n_step"] for row in tuned.history())
    assert tuned.settings["n_step"] == best
    assert tuned.evaluation["iqm"] == pytest.approx(100 * best + 0.0065)  # of seeds 5 to 8: the mean of 6 and 7


def test_the_defaults_are_the_first_trial_and_always_a_finalist(searched: Searched) -> None:
    tuned, _ = searched
    first, *rest = tuned.history()
    assert first["start"]
    assert not any(row["start"] for row in rest)
    assert first["settings"] == {"learning_rate": 1e-3, "n_step": 1}
    assert [each["start"] for each in tuned.facts["finalists"]].count(True) == 1
    assert "defaults" in tuned.report()


def test_the_same_command_goes_on_and_asks_for_nothing_twice(planned: Planned, pretended: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        carry_out(planned(), pretended(steps, stop_after=3))
    second = pretended(steps)
    tuned = carry_out(planned(), second)
    assert sum(task.request.run.seed == 0 for task in second.tasks) == 3  # of six
    whole = carry_out(planned(folder="other"), pretended(steps))
    assert [row["settings"] for row in tuned.history()] == [row["settings"] for row in whole.history()]
    third = pretended(steps)
    assert carry_out(planned(), third).facts["winner"] == tuned.facts["winner"]
    assert third.tasks == []


def test_more_trials_go_on_with_a_finished_study(planned: Planned, pretended: Any) -> None:
    carry_out(planned(), pretended(steps))
    executor = pretended(steps)
    tuned = carry_out(planned(trials=9), executor)
    assert sum(task.request.run.seed == 0 for task in executor.tasks) == 3
    assert len(tuned.history()) == 9


def test_the_winner_names_the_trials_that_were_tried_though_a_later_command_asks_for_fewer(
    planned: Planned, pretended: Any
) -> None:
    carry_out(planned(), pretended(steps))
    tuned = carry_out(planned(trials=2), pretended(steps))
    assert 'about = "Found by rlab tune (random, 6 trials of 3 seeds)"' in tuned.experiment.read_text()


def test_one_seed_is_said_in_the_singular(planned: Planned, pretended: Any) -> None:
    text = carry_out(planned(report_seeds=1), pretended(steps)).report()
    assert "chosen on seeds 3 to 4, reported on seed 5\n" in text
    assert " IQM of 1 training seed that chose nothing" in text


def test_another_search_in_the_same_folder_is_refused_by_what_differs(planned: Planned, pretended: Any) -> None:
    carry_out(planned(), pretended(steps))
    with pytest.raises(UsageError, match="begun with another method, space; go on with the same command"):
        carry_out(planned(method="tpe", ranges={"only": True, "gamma": {}}), pretended(steps))


def test_a_study_begun_otherwise_is_told_by_the_names_of_its_settings() -> None:
    pytest.importorskip("optuna")
    from rlab.search.study import _differing

    begun = {"agent": "dqn", "run": {"seed": 0, "seeds": 2}, "settings": {"gamma": 0.9, "n_step": 1}}
    now = {"agent": "dqn", "run": {"seed": 0, "seeds": 3}, "settings": {"gamma": 0.99, "n_step": 1}, "episodes": 20}
    assert _differing(begun, now) == {"seeds", "gamma", "episodes"}


def test_the_result_of_few_seeds_says_what_its_interval_holds(searched: Searched) -> None:
    text = searched[0].report()
    assert " training seeds that chose nothing, 95 % interval for other seeds" in text
    assert (
        "(an interval from 4 seeds is too narrow: it holds the true value in about 88 % of cases, not in 95 %)" in text
    )


def test_trials_that_fail_are_recorded_with_the_reason_and_do_not_end_the_search(
    planned: Planned, pretended: Any
) -> None:
    ranges = {"only": True, "batch_size": [64, 1000], "replay_capacity": [500, 5000], "n_step": {}}
    search = planned(ranges=ranges, trials=12)

    def value(settings: Mapping[str, Any]) -> float:
        return math.nan if settings["n_step"] >= 3 else steps(settings)

    tuned = carry_out(search, pretended(value))
    failed = {row["failed"] for row in tuned.history() if row["state"] == "failed"}
    assert "the loss is not finite" in failed
    assert any("is more than replay_capacity 500" in reason for reason in failed)  # the two are invalid together
    both = [
        row["state"] for row in tuned.history() if row["settings"]["batch_size"] > row["settings"]["replay_capacity"]
    ]
    assert set(both) == {"failed"}
    assert tuned.settings["n_step"] < 3


def test_a_search_of_which_nothing_works_ends_with_the_reason(planned: Planned, pretended: Any) -> None:
    executor = pretended(lambda settings: math.nan)
    with pytest.raises(RlabError, match="the first 5 trials all failed, the last one: the loss is not finite"):
        carry_out(planned(trials=50), executor)
    assert len(executor.tasks) == 5


@pytest.mark.parametrize(("method", "prunes"), [("tpe", True), ("asha", True), ("random", True), ("grid", False)])
def test_poor_trials_stop_early_where_the_method_says_so(
    method: str, prunes: bool, planned: Planned, pretended: Any
) -> None:
    ranges = {"only": True, "learning_rate": {}, "n_step": {"low": 1, "high": 40}}
    tuned = carry_out(planned(method=method, trials=14, ranges=ranges), pretended(steps))
    history = tuned.history()
    pruned = [row for row in history if row["state"] == "pruned"]
    assert bool(pruned) is prunes
    assert all(len(row["curve"]["when"]) < 10 for row in pruned)
    assert history[0]["state"] == "done"  # the defaults, the poorest of all, are judged whatever they are worth
    best = max(history, key=lambda row: row["settings"]["n_step"])
    assert best["state"] == "done"


def test_a_grid_ends_when_all_its_points_were_tried(planned: Planned, pretended: Any) -> None:
    ranges = {"only": True, "n_step": [1, 2, 5], "gamma": [0.9, 0.99]}
    tuned = carry_out(planned(method="grid", trials=50, ranges=ranges), pretended(steps))
    assert len(tuned.history()) == 7  # six and the defaults
    points = {(row["settings"]["n_step"], row["settings"]["gamma"]) for row in tuned.history()[1:]}
    assert points == {(n, gamma) for n in (1, 2, 5) for gamma in (0.9, 0.99)}


@pytest.mark.parametrize("method", ["cmaes", "tpe"])
def test_methods_that_learn_from_trials_find_better_ones(method: str, planned: Planned, pretended: Any) -> None:
    def value(settings: Mapping[str, Any]) -> float:
        return -abs(math.log10(settings["learning_rate"]) + 4.5)

    ranges = {"only": True, "learning_rate": {}, "gamma": {}}
    tuned = carry_out(planned(method=method, trials=24, ranges=ranges), pretended(value))
    assert value(tuned.settings) > -0.15  # 10 ** -4.5, give or take a seventh of a power of ten; the default is 1.5 off
    assert max(tuned.facts["importance"], key=tuned.facts["importance"].get) == "learning_rate"


def test_equal_finalists_are_told_apart_by_all_seeds_and_by_the_curve(planned: Planned, pretended: Any) -> None:
    tuned = carry_out(planned(finalists=3), pretended(lambda settings: 500.0))
    assert tuned.facts["winner"]["trial"] == 0  # all alike: the first


def test_the_winner_is_an_experiment_file_with_its_recorded_result(searched: Searched) -> None:
    tuned, _ = searched
    experiment = read_experiment(tuned.experiment)
    assert (experiment.agent, experiment.env, experiment.run["env_steps"]) == ("dqn", "CartPole-v1", 1_000)
    changed = {n: v for n, v in tuned.settings.items() if v != {"learning_rate": 1e-3, "n_step": 1}[n]}
    assert experiment.settings == changed
    assert (experiment.seed, experiment.seeds, experiment.episodes) == (5, 4, 2)
    (claim,) = experiment.claims
    assert claim.measure == "iqm"
    assert claim.at_least == pytest.approx(tuned.evaluation["ci95"][0], rel=1e-3)
    evidence = read_evidence(experiment.result_path)
    assert evidence.seeds == (5, 6, 7, 8)
    assert evidence.settings["n_step"] == tuned.settings["n_step"]
    result = json.loads(experiment.result_path.read_text())
    assert [claim["holds"] for claim in result["claims"]] == [True]


def test_a_claim_is_the_lower_end_of_the_interval_in_four_digits() -> None:
    for low, claimed in ((487.659, 487.6), (-173.98, -174.0), (0.0, 0.0)):
        assert claims_of(SimpleNamespace(ci95=(low, 500.0))) == [{"measure": "iqm", "at_least": claimed}]  # type: ignore[arg-type]
    assert claims_of(SimpleNamespace(ci95=None)) == []  # type: ignore[arg-type]


def test_all_that_was_found_is_plain_data_in_the_folder(searched: Searched) -> None:
    tuned, _ = searched
    facts = json.loads((tuned.path / "study.json").read_text())
    assert facts["format"] == 1
    assert facts["status"] == "finished"
    assert facts == json.loads(json.dumps(tuned.facts))
    assert facts["space"]["learning_rate"]["scale"] == "log"
    row = tuned.history()[0]
    assert row["state"] == "done"
    assert row["curve"]["when"] == [100 * n for n in range(1, 11)]
    assert len(row["curve"]["returns"]) == 3  # one of each seed
    assert not list(Path(tuned.path).glob("trials/*"))  # recorded, so deleted


def test_a_search_is_settled_before_anything_is_tried(planned: Planned, tmp_path: Path) -> None:
    search = planned(settings={"gamma": 0.9}, ranges={"learning_rate": {}})
    assert "gamma" not in search.space.parameters  # named by the user
    assert "memory_size" not in search.space.parameters  # nothing reads it without memory
    assert (search.request.run.eval_every, search.request.run.final_eval_episodes) == (100, 20)
    for settings, why in (({"final_eval_episodes": 0}, "compares trials by"), ({"devices": "all"}, "--jobs N")):
        with pytest.raises(UsageError, match=why):
            planned(settings=settings)
    assert not list(tmp_path.iterdir())


def test_what_was_found_can_be_read_again(searched: Searched) -> None:
    tuned, _ = searched
    assert Tuned(tuned.path, json.loads((tuned.path / "study.json").read_text())).report() == tuned.report()
