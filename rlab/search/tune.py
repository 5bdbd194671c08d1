"""`rlab.tune`: a search for settings in three stages, each on training seeds of its own, so that the number that is
reported is not the luck of the search."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rlab.engines.choice import job_engine
from rlab.envs import EnvLike
from rlab.errors import UsageError, pip_install
from rlab.jobs.own_networks import named_network
from rlab.jobs.request import call_text, train_request
from rlab.jobs.settings import merge
from rlab.search.executors import InProcesses, OneByOne
from rlab.search.pbt import Bred
from rlab.search.pbt import carry_out as breed
from rlab.search.plan import Plan, Ranges, plan
from rlab.search.stacks import InStacks
from rlab.search.tune_settings import TuneSettings
from rlab.search.tuned import Tuned
from rlab.trust import Trust


def tune(
    agent: str,
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    out: str | Path | None = None,
    experiment: str | None = "none",
    ranges: Ranges = None,
    storage: str | None = None,
    progress: bool = False,
    trust: Trust = False,
    **settings: Any,
) -> Tuned | Bred:
    """Search for settings, choose the best on fresh seeds, and report it on others again.

    Each trial trains a stack of `seeds` members; its value is the IQM of their final weights' returns. The same call
    goes on with a study that was interrupted, and loses no trial that had finished.

    `method="pbt"` trains one population instead, in which the worst take over the best, and gives a `Bred`: the
    schedule of settings that led to its best member, judged on fresh seeds.

    Args:
        agent, env, env_kwargs, wrappers, trust: as for `train`.
        out: the folder of the study; None: `studies/AGENT-ENV`. Its name is that of the study in the database.
        experiment: the settings to start from; `"none"`: the plain defaults; None: those that are shipped for this env.
        ranges: where to search: a TOML file, or a mapping of settings to `{"low": ..., "high": ..., "scale": ...}`, a
            list of choices, or one value. None: what the agent's config states; see `rlab tune AGENT ENV --space`.
        storage: the address of a database that several processes or machines share; None: a file in the folder.
        settings: fields of `TuneSettings` (`method="tpe"`, `trials=40`, `finalists=3` ...), and of runs as for `train`:
            `seeds` and `env_steps` of each trial, `jobs` at once and the `engine` that runs them, the agent's. What is
            named here is not searched.

    Raises:
        UsageError: anything that was asked for cannot be, or optuna is not installed.
        RlabError: no trial worked, or the database is away.
        KeyboardInterrupt: Ctrl+C or SIGTERM; trials under way are saved, and the same call goes on.
    """
    of_search = {field.name for field in fields(TuneSettings)}
    how = merge(TuneSettings(), {n: v for n, v in settings.items() if n in of_search}, "rlab.tune")
    rest = named_network({n: v for n, v in settings.items() if n not in of_search})
    request = train_request(agent, env, env_kwargs or {}, wrappers, experiment, rest, trust=trust)
    call = call_text("rlab.tune", (repr(agent), repr(request.env.env_id)), settings)
    request = replace(request, command=call)
    return search(plan(request, how, ranges, out, storage, trust), progress, trust)


def search(planned: Plan, progress: bool = False, trust: Trust = False) -> Tuned | Bred:
    """Carry a search out, or go on with it.

    Raises:
        As `tune`.
    """
    if planned.how.method == "pbt":
        return breed(planned, progress, trust)
    try:
        from rlab.search.stages import carry_out
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("optuna", "sqlalchemy"):
            raise UsageError(f"rlab tune needs optuna: {pip_install('tune')}") from error
        raise
    if planned.how.vectorised is not None:
        return carry_out(planned, InStacks(planned.how.vectorised, trust), progress)
    if planned.processes is None:
        return carry_out(planned, OneByOne(trust), progress)
    with closing(job_engine(*planned.processes)) as engine:
        return carry_out(planned, InProcesses(engine, trust), progress)
