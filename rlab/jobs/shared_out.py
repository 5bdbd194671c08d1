"""A run whose members are shared out over several processes, on this machine or many.

Populations need no communication: each process trains its own members, into a run folder of its own, `parts/N` of the
run. When all are trained they are put together as if they had been one run, and judged.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch

from rlab.engines.choice import job_engine
from rlab.engines.job import Event, Job
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.data_parallel import split
from rlab.jobs.defaults import DEFAULT
from rlab.jobs.inputs import Inputs
from rlab.jobs.jobs_progress import JobsProgress
from rlab.jobs.listeners import Audience
from rlab.jobs.outcome import Outcome
from rlab.jobs.recording import final_evaluation, judged_at_last, open_log
from rlab.jobs.request import CHANGEABLE, Request
from rlab.jobs.session import Session
from rlab.jobs.signals import stop_on_signal
from rlab.learning.common_config import own_network
from rlab.learning.runtime import choose_devices
from rlab.machine import computed_with, differences
from rlab.networks.policy import Policy, build_policy
from rlab.places import warn
from rlab.ranks import ALONE, Ranks
from rlab.runs import files
from rlab.runs.appending import closed_at_last
from rlab.runs.folder import PARTS, RESULT, RunFolder, is_run
from rlab.runs.listing import saved_time
from rlab.runs.logs import CLOCK_TAGS, MetricsLog, read_json_lines
from rlab.runs.observed import load_observed, save_observed
from rlab.runs.policies import load_policy, save_policy
from rlab.runs.policy_folder import POLICY
from rlab.types import LOCAL

ALL = "all"
OF_ONE_PROCESS = ("log_episodes", "film_every")  # settings that a run in several processes does not have
OF_PARTS = frozenset(CHANGEABLE) - {"log", "log_project", "engine", *OF_ONE_PROCESS}
SHOWN = 6  # parts that are named before a run begins
BEFORE_ALL = -1  # where the logs of the whole are written again from


def session_for(request: Request, inputs: Inputs, audience: Audience, ranks: Ranks) -> "Session | SharedOut":
    """What carries a request out, in this process and the others that train the same learner.

    Raises:
        UsageError: it cannot be carried out.
    """
    request = split(request, ranks)
    if not request.run.shared_out:
        return Session(request, inputs, ranks)
    if request.vary:
        raise UsageError(f"{_flag(request)} shares members out that have the same settings; leave it or --vary out.")
    if any(map(audience.hears, ("on_metrics", "on_evaluation", "on_save", "on_episode"))):
        raise UsageError(
            f"{_flag(request)} trains in several processes, of which listeners hear on_start and on_end alone; "
            "leave one out."
        )
    return SharedOut(request, inputs)


class SharedOut:
    """Such a run, ready; `train` does the work. It is used as a `Session` is.

    Raises:
        UsageError: a device or the cluster is not there, or the run cannot be shared out; and as `Session`, for the
            first part.
    """

    unlearned: str | None = None  # each process warns by itself
    ranks = ALONE

    def __init__(self, request: Request, inputs: Inputs) -> None:
        _check_can_share_out(request)
        run = request.run
        devices: Sequence[str] = (run.device,)
        if run.devices is not None:
            # A run that goes on keeps its shares: where a device is gone, that part goes on without and says so.
            devices = devices_of(run.devices) if request.engine is None else tuple(run.devices.split(","))
            run = replace(run, devices=",".join(devices))
        jobs = run.jobs if run.devices is None else run.jobs or len(devices)
        with ExitStack() as undo:
            self._on = undo.enter_context(closing(job_engine(run.engine, jobs)))
            count = min(self._on.at_once, run.seeds)
            request = replace(request, run=run if run.devices is not None else replace(run, jobs=count))
            parts = part_requests(request, count, devices)
            first = Session(parts[0], inputs)  # what is wrong is found before anything is written
            first.close()
            undo.pop_all()
        self.engine, self.trainable, self._lines = first.engine, first.trainable, first.describe()
        known: dict[str, Any] = {
            name: getattr(first.request, name) for name in ("settings", "start", "unread", "engine")
        }
        self.request, self._inputs = replace(request, **known), inputs
        self._parts = [replace(part, **known) for part in parts]

    @property
    def num_jobs(self) -> int:
        """How many processes train it."""
        return len(self._parts)

    def describe(self) -> str:
        """What is about to happen, for people."""
        shares = [_label(part) for part in self._parts]
        more = [f"{len(shares) - SHOWN} more"] if len(shares) > SHOWN else []
        named = "; ".join(shares[:SHOWN] + more)
        return f"shared out over {len(shares)} processes {self._on.place}: {named}. The first of them:\n{self._lines}"

    def restore(self, folder: RunFolder) -> None:
        """Nothing to read: each process reads the checkpoint of its part."""

    def close(self) -> None:
        """Let go of the engine: the first part was built for a look alone."""
        self._on.close()

    def train(self, folder: RunFolder, listeners: Sequence[Any] = (), audience: Audience | None = None) -> Outcome:
        """Train and judge all parts, and put them together.

        Args:
            listeners: of these, a `JobsProgress` hears what the processes do.
            audience: a user's; it hears nothing.

        Raises:
            RlabError: a part failed, which the message names.
        """
        jobs = [self._job(folder, number, request) for number, request in enumerate(self._parts)]
        folders = [job.folder for job in jobs]
        with stop_on_signal() as stop:
            done = self._train_parts(jobs, [each for each in listeners if isinstance(each, JobsProgress)], stop)
        time = min(map(saved_time, folders))
        if not done and time < self.request.budget:
            return Outcome(False, time, None, None, True)
        put_together(folder, folders)
        self._warn_of_other_machines(jobs)
        judged = None
        with closed_at_last(open_log(self.request, folder, BEFORE_ALL)) as log:
            write_again(log, folders, self.request.unit)
            if done and self.request.run.final_eval_episodes:
                results = [files.read_json(each.path / RESULT) for each in folders]
                resumed = sorted({at for each in results for at in each["resumed_at"]})
                dropped = [member for each in results for member in each["dropped"]]
                together = partial(judged_together, folders)
                judged = judged_at_last(together, self.request, folder, log, time, resumed, dropped)
        return Outcome(True, time, judged, None, not done)

    def _train_parts(self, jobs: Sequence[Job], shows: Sequence[JobsProgress], stop: threading.Event) -> bool:
        """Whether all parts are trained and judged; false where they were stopped. Where one fails, the others save and
        stop.

        Raises:
            RlabError: some failed; the message names the first.
        """

        def hear(event: Event) -> None:
            for each in shows:
                each.on_event(event)
            if event.kind == "ended" and event.text is not None:
                stop.set()

        ended = self._on.run(jobs, hear, stop)
        errors = [f"{each.job.label}: {each.error}" for each in ended if each.status == "failed"]
        if errors:
            raise RlabError(errors[0])
        return len(ended) == len(jobs) and all(each.status == "done" for each in ended)

    def _warn_of_other_machines(self, jobs: Sequence[Job]) -> None:
        """Say where members were computed with something else than this machine has, which rounds otherwise."""
        here = computed_with(str((self.request.engine or {}).get("device", "cpu")))
        for job in jobs:
            there = RunFolder.open(job.folder.path).config.get("computed_with", {})
            if found := differences(here, there):
                warn(f"{job.label}: not computed as here, so that last digits may differ: {'; '.join(found)}")
                return

    def _job(self, folder: RunFolder, number: int, request: Request) -> Job:
        """One part with its folder, which is made where it is not there yet."""
        path, name = folder.path / PARTS / str(number), f"{folder.name}/{PARTS}/{number}"
        if not is_run(path):
            return Job(RunFolder.create(path, request.to_json(), name, self._inputs.keep), _label(request))
        own = RunFolder.open(path)
        # Its versions are those of the run that it is a part of, which was checked.
        return Job(own, _label(request), (*_changed(own.config["run"], request), "--allow-version-change"))


def devices_of(text: str) -> tuple[str, ...]:
    """The devices that `all` or a list such as `cuda:0,cuda:1` names.

    Raises:
        UsageError: one of them is not there, or they are of different kinds.
    """
    if text == ALL:
        choose_devices("cuda")  # which says where there is none
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    names = tuple(text.split(","))
    if "auto" in names:
        raise UsageError(f"--devices {text}: name each device, such as cuda:0,cuda:1, or all of them: --devices all.")
    found = [choose_devices(name)[0] for name in names]
    if len({device.type for device in found}) > 1:
        raise UsageError(f"--devices {text}: CPUs and GPUs round otherwise; name devices of one kind.")
    return tuple(map(str, found))


def part_requests(request: Request, count: int, devices: Sequence[str]) -> list[Request]:
    """What each of `count` processes is asked for: its share of the members, in order, on the devices in turn."""
    run = request.run
    own: list[dict[str, Any]] = [
        {"seed": int(share[0]), "seeds": len(share), "device": device}
        for share, device in zip(np.array_split(np.array(run.training_seeds), count), cycle(devices), strict=False)
    ]
    whole: dict[str, Any] = {"devices": None, "jobs": None, "engine": "local", "log": None, "log_project": None}
    origins = {**request.origins, **dict.fromkeys(("devices", "jobs", "engine"), DEFAULT)}
    runs = [replace(run, **whole, **each) for each in own]
    return [replace(request, run=each, origins=origins) for each in runs]


def put_together(folder: RunFolder, parts: Sequence[RunFolder]) -> None:
    """Save the final policy of all members, and the best ones where every part has some."""
    for name in ("best", "policy"):
        paths = [part.path / name for part in parts]
        if not all((path / POLICY).is_file() for path in paths):
            continue
        found = [load_policy(path, trust=True) for path in paths]  # these layers have been running
        policy = _joined([each.policy for each in found])
        facts = found[0].extra
        dropped = [each for one in found for each in one.extra.get("dropped", [])]
        facts = {**facts, "dropped": dropped} if dropped else facts
        if "best_at" in facts:
            facts = {**facts, "best_at": [at for each in found for at in each.extra["best_at"]]}
        save_policy(folder.path / name, policy, facts)
        save_observed(folder.path / name, [own for path in paths for own in load_observed(path).values()])


def judged_together(parts: Sequence[RunFolder]) -> Evaluation:
    """The final evaluation of all members, which those of the parts were judged in."""
    found = [each for each in map(final_evaluation, parts) if each is not None]
    seeds = tuple(seed for each in found for seed in each.seeds)
    returns, lengths = (np.concatenate([getattr(each, name) for each in found]) for name in ("returns", "lengths"))
    return replace(found[0], seeds=seeds, returns=returns, lengths=lengths)


def write_again(log: MetricsLog, parts: Sequence[RunFolder], unit: str) -> None:
    """Write what the parts logged as rows of all members."""
    for time, rows in _by_time(parts, ("metrics", "timing"), unit):
        tags = dict.fromkeys(tag for row in rows for tag in row)
        log.on_metrics(time, {tag: _value(tag, [row.get(tag) for row in rows], parts) for tag in tags})
    for time, rows in _by_time(parts, ("eval",), unit):
        returns, lengths = (np.concatenate([np.array(row[name]) for row in rows]) for name in ("returns", "lengths"))
        log.on_evaluation(time, returns.astype(np.float64), lengths)


def _check_can_share_out(request: Request) -> None:
    run, flag = request.run, _flag(request)
    if run.devices is not None and run.device != "auto":
        raise UsageError(f"--devices {run.devices} names the devices; leave --device out.")
    if run.devices is not None and run.engine == "ray":
        raise UsageError("--engine ray gives each process a GPU by itself: --device cuda in place of --devices.")
    for name in OF_ONE_PROCESS:
        if getattr(run, name):
            raise UsageError(f"--{name.replace('_', '-')} needs a run in one process; leave it or {flag} out.")
    check_for_processes(request, flag)


def check_for_processes(request: Request, flag: str) -> None:
    """Refuse what only this process knows, where `flag` asks for others.

    Raises:
        UsageError: the env or the network is of this process alone.
    """
    if request.env.local or (own_network(request.settings) or "").startswith(LOCAL):
        raise UsageError(f"{flag} trains in other processes, which need env and network in a module of their own.")


def _flag(request: Request) -> str:
    """What asks for several processes."""
    run = request.run
    return "--engine ray" if run.engine == "ray" else "--jobs" if run.devices is None else "--devices"


def _label(request: Request) -> str:
    run = request.run
    seeds = f"seed {run.seed}" if run.seeds == 1 else f"seeds {run.seed} to {run.seed + run.seeds - 1}"
    return seeds if run.device == "auto" else f"{run.device} {seeds}"


def _changed(run: Mapping[str, Any], request: Request) -> Iterator[str]:
    """The flags of `rlab resume` for what a part is to have otherwise than when it was last trained."""
    for name in sorted(OF_PARTS - request.unread.keys()):
        value, flag = getattr(request.run, name), name.replace("_", "-")
        if value in (run.get(name), None):
            continue
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{flag}"
        else:
            yield from (f"--{flag}", str(value))


def _joined(policies: Sequence[Policy]) -> Policy:
    whole = build_policy(policies[0].spec, tuple(seed for each in policies for seed in each.seeds), trust=True)
    states = [each.state_dict() for each in policies]
    whole.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return whole


def _by_time(parts: Sequence[RunFolder], logs: Sequence[str], unit: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """At each time that all parts have in these logs: what each of them has there, without final evaluations."""
    found: list[dict[int, dict[str, Any]]] = []
    for part in parts:
        rows: dict[int, dict[str, Any]] = {}
        for log in logs:
            for row in read_json_lines(part.path / f"{log}.jsonl")[1]:
                if row.get("final"):
                    continue
                rows.setdefault(row.pop(unit), {}).update(row)
        found.append(rows)
    for time in sorted(set.intersection(*(set(rows) for rows in found))):
        yield time, [rows[time] for rows in found]


def _value(tag: str, values: Sequence[Any], parts: Sequence[RunFolder]) -> np.ndarray:
    """One metric of all members `[S]`, NaN where a part has none; or a number that members share, of speeds the
    slowest."""
    if any(isinstance(value, list) for value in values):
        sizes = [part.config["run"]["seeds"] for part in parts]
        each = [[None] * size if value is None else value for value, size in zip(values, sizes, strict=True)]
        return np.concatenate([np.array(value, np.float64) for value in each])
    numbers = np.array(values, np.float64)
    return np.array(numbers.min() if tag.startswith(CLOCK_TAGS) else numbers[0])
