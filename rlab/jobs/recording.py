"""What a run writes of itself: its logs, and the evaluation of its final weights."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.stats import interval_over_members, iqm
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.judging import judging_failed
from rlab.jobs.request import Request
from rlab.learning.dropping import spread
from rlab.runs import files
from rlab.runs.folder import RESULT, RunFolder
from rlab.runs.logs import MetricsLog


def open_log(request: Request, folder: RunFolder, resume_at: int, judgement_due: bool = False) -> MetricsLog:
    """The logs of a run, with its settings; `resume_at` and `judgement_due` as of `MetricsLog`."""
    log = MetricsLog(
        folder.path,
        request.run.training_seeds,
        iqm=iqm,
        summarise=interval_over_members,
        resume_at=resume_at,
        judgement_due=judgement_due,
        unit=request.unit,
        tables=request.run.log == "csv",
    )
    log.on_start(request.logged(), request.origins, request.compared())
    return log


def judged_at_last(
    evaluate: Callable[[], Evaluation | None],
    request: Request,
    folder: RunFolder,
    log: MetricsLog,
    time: int,
    resumed_at: Sequence[int],
    dropped: Sequence[Mapping[str, Any]] = (),
) -> Evaluation | None:
    """The evaluation of the final weights, written down; None where it was stopped.

    Args:
        evaluate: plays its episodes.
        time: the run's clock.
        resumed_at: the times at which it was taken up again otherwise than exactly.
        dropped: the members that were dropped, which are not judged; as data.

    Raises:
        NotJudgedError: it failed.
    """
    try:
        result = evaluate()
    except RlabError as error:
        raise judging_failed(error, partial(resume_command, folder.name, folder.config), True, "") from error
    if result is None:
        return None
    seeds = request.run.training_seeds
    returns, lengths = (
        spread(result.returns, result.seeds, seeds, np.nan),
        spread(result.lengths, result.seeds, seeds, 0),
    )
    log.on_final_evaluation(time, returns, lengths)
    report = result.to_json("policy", request.agent, request.env.env_id)
    # Where a run was not taken up exactly it is not the run that it would have been: that belongs to the result.
    files.write_json(folder.path / RESULT, {**report, "dropped": list(dropped), "resumed_at": list(resumed_at)})
    return result
