"""`rlab.resume`: a run goes on as it was asked for, or with more budget, or judged in another way."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.envs import EnvLike, EnvSpec
from rlab.errors import RlabError, UsageError, unknown
from rlab.jobs.aliases import answering
from rlab.jobs.defaults import check_budget
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.inputs import open_inputs
from rlab.jobs.listeners import Audience, audience_of
from rlab.jobs.log_services import send_again, services_of
from rlab.jobs.progress import announce, announcer
from rlab.jobs.request import CHANGEABLE, Request
from rlab.jobs.running import Run, carry_out, unless_interrupted
from rlab.jobs.settings import merge
from rlab.jobs.shared_out import session_for
from rlab.learning.common_config import own_network, patience_of
from rlab.learning.runtime import choose_devices, own_surroundings
from rlab.machine import computed_with, differences, ranks_started
from rlab.networks.own import Builder, find_builder, standing_in
from rlab.places import warn
from rlab.ranks import joined
from rlab.runs import files
from rlab.runs.checkpoint import has_checkpoint, load_checkpoint
from rlab.runs.folder import CONFIG, PARTS, RESULT, RunFolder, path_of
from rlab.runs.listing import policy_facts, saved_time, whole_steps
from rlab.runs.logs import last_row
from rlab.runs.status import FINISHED, read_status
from rlab.trust import Trust
from rlab.types import LOCAL

ORIGIN = "resume"  # of a setting that was changed


@partial(answering, settings=CHANGEABLE)
def resume(
    path: str | PathLike[str],
    *,
    progress: bool = False,
    trust: Trust = False,
    env: EnvLike | None = None,
    network: Builder | None = None,
    listeners: Sequence[Any] = (),
    allow_version_change: bool = False,
    **settings: Any,
) -> Run:
    """Go on with a run from its last save, in mid-episode; a finished one too, where it gets more budget.

    On the same kind of machine and with the same versions it becomes, to the bit, the run that it would have been
    without the stop. Where its envs cannot be put back into the middle of an episode, fresh ones begin and a warning
    says why. What depends on the share of the budget that is used, such as exploration or a learning rate that falls,
    follows the new budget from where the clock is. A finished run without more budget is returned as it is; `log` has
    it written, or sent to services, in further ways.

    Args:
        progress: show a bar, as the command line does.
        env: makes the env where only the process that began the run can: `env=MyEnv`.
        network: the function that made the network, where only the process that trained could find it.
        listeners: as for `train`; those that it had before are not kept.
        allow_version_change: go on with other versions, on another processor or device, too; numbers are rounded
            otherwise there, so that it becomes another run, as good as the same one.
        trust: allow an agent, env or wrapper from outside rlab that the folder names; it runs their code.
        settings: what changes: the budget, `env_steps` or `updates`; and what does not touch learning: `eval_every`,
            `eval_episodes`, `final_eval_episodes`, `eval_envs`, `eval_alone`, `judge`, `checkpoint_every`,
            `keep_checkpoints`, `log_every`, `log`, `log_project`, `log_episodes`, `film_every`; `env_timeout`;
            `device`; `engine`, of a run in several processes; `on_nan`, unless members were dropped; and
            `max_episode_steps`, where the env has no time limit, so that episodes without an end can be judged.

    Raises:
        RlabError: the folder is broken, has lost its checkpoint, or names code from outside rlab and `trust` is false.
        UsageError: a setting that cannot change, a budget that is used up already, or another machine or version that
            was not allowed.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    with standing_in(network):
        return unless_interrupted(
            continue_run(path, settings, progress, trust, listeners, env, allow_version_change=allow_version_change)
        )


def continue_run(
    path: str | PathLike[str],
    settings: Mapping[str, Any],
    progress: bool,
    trust: Trust = False,
    listeners: Sequence[Any] | Audience = (),
    env: EnvLike | None = None,
    *,
    allow_version_change: bool = False,
) -> Run:
    """`rlab.resume`, which an interrupt ends with a run that says so."""
    audience = audience_of(listeners)
    continued = continuation(path_of(path), settings, trust, env, allow_version_change)
    request, folder = continued.request, continued.folder
    if progress and ranks_started()[0] == 0:
        announce(continued.news)
    services_of(request)  # which says where a package is missing
    if continued.finished:
        if "log" in settings and ranks_started()[0] == 0:
            send_again(request, folder, announcer(progress))
        return Run.open(folder.name)
    with own_surroundings(request.run.threads, request.run.seed, request.run.deterministic), joined() as ranks:
        inputs = open_inputs(request, folder, trust)
        session = session_for(request, inputs, audience, ranks)
        for note in session.engine.notes:
            warn(note)
        return carry_out(session, folder, progress, audience, continued.write_changes)


@dataclass(frozen=True)
class Continuation:
    """A run and how it goes on."""

    folder: RunFolder
    request: Request
    time: int  # how far it has come, in its unit
    finished: bool  # there is nothing left to do
    config: dict[str, Any] | None = None  # what config.json will hold; None: what it holds now

    @property
    def news(self) -> str:
        """What is about to happen, for people."""
        path, reached = self.folder.name, f"{self.time:,} {self.request.unit.replace('_', ' ')}"
        if self.finished:
            more = f"--{self.request.unit.replace('_', '-')} N, with N above {self.time}, trains it further"
            return f"{path}: finished, after {reached}; {more}"
        if self.time >= self.request.budget:
            return f"{path}: trained already; judges it"
        if not self.time:
            return f"{path}: nothing was saved, so it starts from the beginning"
        return f"{path}: goes on from its last save, at {reached}"

    def write_changes(self) -> RunFolder:
        """Write down what changes; the caller holds the run."""
        files.delete(self.folder.path / RESULT)  # it is of weights that will soon be others
        return self.folder if self.config is None else self.folder.changed(self.config)


def continuation(
    path: str | Path,
    changes: Mapping[str, Any],
    trust: Trust,
    env: EnvLike | None = None,
    allow_version_change: bool = False,
) -> Continuation:
    """How a run goes on with these settings of `CHANGEABLE` changed.

    Raises:
        RlabError: the folder is broken, has lost its checkpoint, or names code from outside rlab and `trust` is false.
        UsageError: a setting that cannot change, or a budget that is used up already.
    """
    folder = RunFolder.open(path)
    if "of_stack" in folder.config:
        stack = folder.path.parent.parent
        raise UsageError(f"{path} was trained beside other settings, and goes on with them: rlab resume {stack}")
    for name in changes:
        if name not in CHANGEABLE:
            refuse_fixed(name, folder.config)
            raise unknown("setting of resume", name, CHANGEABLE)
    request = Request.from_json(folder.config, str(folder.path / CONFIG), trust)
    request = replace(request, processes=ranks_started()[1])
    if env is not None:
        request = request.with_env(env)
    check_budget(request.agent, changes)
    done, before = saved_time(folder), request.budget
    status = read_status(folder, done, before)
    if folder.is_held():
        raise RlabError(f"another process is writing {folder.name}; wait for it, or stop it")
    run = merge(request.run, changes, "rlab resume")
    changed = {name: getattr(run, name) for name in changes if getattr(run, name) != getattr(request.run, name)}
    request = replace(request, run=run)
    if "engine" in changed and not (folder.path / PARTS).is_dir():
        raise UsageError(f"{folder.name} is trained in one process on this machine; rlab train --jobs N has several.")
    if "max_episode_steps" in changed:
        request = replace(request, env=_limited(request.env, request.run.max_episode_steps))
    _check_budget(folder, request, done, before)
    if request.run.on_nan == "stop" and policy_facts(folder).get("dropped"):
        raise UsageError(f"{folder.name} has dropped members, which cannot learn again: --on-nan drop-member goes on.")
    finished = status.status == FINISHED and request.budget <= max(before, done)
    if finished and request.run.final_eval_episodes and not (folder.path / RESULT).is_file():
        finished = False  # it was not to be judged, and now it is
    if finished:
        return Continuation(folder, request, done, True)
    kept = (folder.path / PARTS).is_dir() if request.run.shared_out else has_checkpoint(folder)
    if done and not kept:
        raise RlabError(f"{path} has lost its checkpoint, so it cannot go on; rlab eval {path} judges what it has.")
    _check_at_hand(folder, request)
    if "device" in changed and request.engine is not None:
        request = replace(request, engine={**request.engine, "device": choose_devices(request.run.device)[0].type})
    was, now = _surroundings(folder, request)
    if done and was != now and not allow_version_change:
        found, again = "; ".join(differences(was, now)), {"allow_version_change": True}
        raise UsageError(
            f"{folder.name} was computed with {found}: numbers are rounded otherwise here, so that it would become "
            f"another run. To go on all the same: {resume_command(folder.name, folder.config, **again)}"
        )
    config = _changed_config(folder, request, changed, done, now) if changed or was != now else None
    return Continuation(folder, request, done, False, config)


def _surroundings(folder: RunFolder, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the run has been computed with, and what it would be computed with here: what both know of."""
    kind = str((request.engine or {}).get("device", "cpu"))
    now = computed_with(choose_devices("auto")[-1].type if kind == "cuda" else kind, request.processes)
    before = {name: value for name, value in folder.config.get("computed_with", {}).items() if name in now}
    return before, {name: now[name] for name in before}


def _limited(env: EnvSpec, limit: int | None) -> EnvSpec:
    """The env with a time limit, where it states none."""
    stated = env.max_episode_steps or env.check().max_episode_steps
    if stated is not None:
        raise UsageError(
            f"{env.label} has a time limit of {stated} env steps, which cannot change when a run goes on: "
            "rlab eval --max-episode-steps N judges with another one, and rlab finetune learns with it."
        )
    return replace(env, max_episode_steps=limit)


def refuse_fixed(name: str, config: Mapping[str, Any]) -> None:
    """Raise UsageError where a run has a setting of this name, which is not in `CHANGEABLE`."""
    if any(name in (config.get(part) or {}) for part in ("run", "settings", "sources")):
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(
            f"{name} ({flag}) cannot change when a run goes on: it is part of how it learns. rlab finetune RUN {flag} "
            f"... begins a new run from its policy; rlab resume takes {', '.join(CHANGEABLE)}."
        )


def _check_at_hand(folder: RunFolder, request: Request) -> None:
    """Refuse, before anything is announced or made, a run whose env or network has to be given again.

    Raises:
        UsageError: it has; the message has the call.
    """
    env, network = request.env, own_network(request.settings) or ""
    try:
        env.check()
        if network.startswith(LOCAL):
            find_builder(network)
    except RlabError as error:
        if not (env.local or network.startswith(LOCAL)):
            raise
        call = resume_command(folder.name, folder.config)
        raise UsageError(f"{folder.name} goes on from Python alone, with what made it: {call}") from error


def _check_budget(folder: RunFolder, request: Request, done: int, before: int) -> None:
    unit, budget = request.unit, request.budget
    flag, words = f"--{unit.replace('_', '-')}", unit.replace("_", " ")
    if (whole_steps(budget, request.run.num_envs) if unit == "env_steps" else budget) < done:
        raise UsageError(f"{flag} {budget} is below the {done} {words} that {folder.name} has been trained for.")
    if budget > before and _stopped_early(folder, patience_of(request.settings)):
        raise UsageError(
            f"every seed of {folder.name} stopped early, after {done} {words}: more would change nothing. "
            "Train a new run with a larger --patience."
        )


def _stopped_early(folder: RunFolder, patience: int | None) -> bool:
    """Whether every member has waited for so many validations in a row, perhaps just when its budget ended."""
    if patience is None or not has_checkpoint(folder):
        return False
    state = load_checkpoint(folder)[0]["loop"].get("early_stopping")
    return state is not None and bool((state["waited"] >= patience).all())


def _changed_config(
    folder: RunFolder, request: Request, changed: Mapping[str, Any], done: int, surroundings: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json with the new settings, their origin, what it is computed with, and what all that was until now."""
    config = folder.config
    before = config.get("computed_with", {})
    other = {name: value for name, value in surroundings.items() if before[name] != value}
    event = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        request.unit: done,
        "before": {name: config["run"].get(name) for name in changed} | {name: before[name] for name in other},
        "after": {**changed, **other},
        "elsewhere": bool(other),
        "iqm": (last_row(folder.path / "eval.jsonl") or {}).get("iqm"),
    }
    return {
        **config,
        "env": request.env.to_json(),
        "run": {**config["run"], **changed},
        "origins": {**config["origins"], **dict.fromkeys(changed, ORIGIN)},
        "engine": request.engine,
        "computed_with": {**before, **surroundings},
        "history": [*config.get("history", []), event],
    }
