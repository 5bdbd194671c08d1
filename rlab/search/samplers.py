"""Optuna's samplers and pruners by the name of a method. Imported where a search begins, since optuna is an extra."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from rlab.search.plan import CURVE_POINTS
from rlab.search.space import Parameter, Space
from rlab.search_ranges import Choices

STARTUP = 10  # trials before tpe and gp follow what was found, and before the median prunes


def sampler_of(method: str, space: Space, seed: int) -> BaseSampler:
    """What proposes the settings of each trial."""
    if method == "grid":
        grid = GridSampler(space.grid(), seed=seed)
        return ByRank(lambda number: grid, seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "random": lambda number: RandomSampler(seed=number),
        "tpe": _tpe,
        "cmaes": lambda number: CmaEsSampler(seed=number, warn_independent_sampling=False),
        "gp": lambda number: GPSampler(seed=number, n_startup_trials=STARTUP),
        # Li et al. 2020 draw at random; Akiba et al. 2019 pair it with TPE, as here.
        "asha": _tpe,
    }
    return ByRank(makers[method], seed)


def pruner_of(method: str) -> BasePruner:
    """What ends trials early. Grids are wanted whole, and CMA-ES and Gaussian processes learn from finished trials
    alone."""
    if method == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if method in ("random", "tpe"):
        return MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=CURVE_POINTS * 3 // 10, n_min_trials=4)
    return NopPruner()


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna has it."""
    return {each.name: _distribution(each) for each in space.parameters.values()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter.space, Choices):
        return CategoricalDistribution(tuple(parameter.words()))
    low, high = parameter.bounds()
    if parameter.space.scale == "powers":
        return IntDistribution(int(low), int(high))
    log = parameter.space.scale in ("log", "one_minus")
    return IntDistribution(int(low), int(high), log) if parameter.whole else FloatDistribution(low, high, log)


def _tpe(number: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=number, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)


# Attributes of a trial, each an object: what was queued; the worker and the folder of its run; what was found.
ITEM, OWNER, FOUND = "item", "owner", "found"


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the study's: one that failed and has found nothing, not even why, was lost."""
    return trial.state != TrialState.FAIL or FOUND in trial.user_attrs


class ByRank(BaseSampler):
    """A sampler whose draws depend on the seed and on how many trials came before, lost ones apart: a search that was
    interrupted proposes what it would have proposed, and several machines never propose the same."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        rank = sum(counts(each) for each in study.get_trials(deepcopy=False) if each.number < trial.number)
        self._sampler = self._make(int(np.random.SeedSequence([self._seed, rank]).generate_state(1)[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if not isinstance(self._sampler, GridSampler):  # that one would stop a loop of Optuna's, and there is none
            self._sampler.after_trial(study, trial, state, values)


def importance_of(study: optuna.Study, space: Space) -> Mapping[str, float] | None:
    """How much each setting matters for being among the best trials, in shares of 1 (PED-ANOVA, Watanabe et al. 2023:
    no further package, and good at few trials); None where too few have finished to say."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and t.params]
    if len(finished) < STARTUP or len({t.value for t in finished}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        share = max(0.1, 5 / len(finished))  # of the trials; the authors advise five or more
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share, evaluate_on_local=False)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    of = {each.name: name for name, each in space.parameters.items()}
    return {of[name]: float(share) for name, share in found.items()}
