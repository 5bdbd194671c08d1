"""Evaluations of published versions as plain data, in which every return comes back as it was."""

from pathlib import Path
from typing import Any

import numpy as np

from rlab.door import check_counts
from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.stats import COVERAGE
from rlab.runs.schema import MOST_STEPS
from rlab.runs.versions import EVALUATION, Returned, Version, read_evaluation


def evaluation_to_json(judged: Evaluation) -> dict[str, Any]:
    """The content of evaluation.json."""
    return {
        "seeds": list(judged.seeds),
        "first_seed": judged.first_seed,
        "greedy": judged.greedy,
        "returns": judged.returns.tolist(),
        "lengths": judged.lengths.tolist(),
    }


def evaluation_of(folder: Path, version: Version) -> Evaluation:
    """The evaluation in the folder of a version.

    Raises:
        RlabError: it is damaged, or of other members.
    """
    data, path = read_evaluation(folder), folder / EVALUATION
    try:
        returns, lengths = np.array(data["returns"], np.float64), np.array(data["lengths"], np.int64)
        seeds = tuple(data["seeds"])
        check_counts(path, MOST_STEPS, first_seed=data["first_seed"])
        whole = returns.ndim == 2 and returns.size and returns.shape == lengths.shape and np.isfinite(returns).all()
        if not whole or seeds != version.seeds or len(returns) != len(seeds):
            raise ValueError(f"returns {returns.shape} of {len(seeds)} members")
        return Evaluation(seeds, data["first_seed"], returns, lengths, bool(data["greedy"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RlabError(f"{path} is not a whole evaluation ({type(error).__name__}: {error!s:.100})") from error


def returned_of(judged: Evaluation) -> Returned:
    """What a version says of its evaluation."""
    return Returned(
        iqm=judged.iqm,
        ci95=judged.ci95,
        ci95_coverage=COVERAGE.get(len(judged.seeds)),
        episodes_ci95=judged.episodes_ci95,
        mean=float(judged.returns.mean()),
        worst_seed=float(judged.per_seed_mean.min()),
        episodes=judged.episodes,
        first_seed=judged.first_seed,
        greedy=judged.greedy,
    )
