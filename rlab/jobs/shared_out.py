"""A run whose members are shared out over several devices.

Populations need no communication: each device trains its own members, in a process of its own and into a run folder of
its own, `parts/N` of the run. When all are trained they are put together as if they had been one run, and judged.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from rlab.errors import UsageError
from rlab.jobs.defaults import DEFAULT
from rlab.jobs.inputs import Inputs
from rlab.jobs.judging import Judge
from rlab.jobs.listeners import Audience
from rlab.jobs.outcome import Outcome
from rlab.jobs.part_processes import Part, train_parts
from rlab.jobs.progress import line_writer
from rlab.jobs.recording import judged_at_last, open_log
from rlab.jobs.request import CHANGEABLE, Request
from rlab.jobs.session import Session
from rlab.jobs.signals import stop_on_signal
from rlab.learning.common_config import own_network
from rlab.learning.contract import LoopListener
from rlab.learning.runtime import choose_devices
from rlab.networks.policy import Policy, build_policy
from rlab.runs.appending import closed_at_last
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import PARTS, RunFolder, is_run
from rlab.runs.listing import policy_facts, saved_time
from rlab.runs.logs import CLOCK_TAGS, MetricsLog, read_json_lines
from rlab.runs.policies import POLICY, load_policy, save_policy
from rlab.types import LOCAL

ALL = "all"
OF_ONE_PROCESS = ("log_episodes", "film_every")  # settings that a run in several processes does not have
OF_PARTS = frozenset(CHANGEABLE) - {"final_eval_episodes", "log", "device", *OF_ONE_PROCESS}
BEFORE_ALL = -1  # where the logs of the whole are written again from


def session_for(request: Request, inputs: Inputs, audience: Audience) -> "Session | SharedOut":
    """What carries a request out.

    Raises:
        UsageError: it cannot be carried out.
    """
    if request.run.devices is None:
        return Session(request, inputs)
    if any(map(audience.hears, ("on_metrics", "on_evaluation", "on_save", "on_episode"))):
        raise UsageError(
            "--devices trains in several processes, of which listeners hear on_start and on_end alone; leave one out."
        )
    return SharedOut(request, inputs)


class SharedOut:
    """Such a run, ready; `train` does the work. It is used as a `Session` is.

    Raises:
        UsageError: a device is not there, or the run cannot be shared out; and as `Session`, for the first part.
    """

    unlearned: str | None = None  # each process warns by itself

    def __init__(self, request: Request, inputs: Inputs) -> None:
        _check_can_share_out(request)
        named = request.run.devices or ALL
        # A run that goes on keeps its shares: where a device is gone, that part goes on without and says so.
        devices = devices_of(named) if request.engine is None else tuple(named.split(","))
        request = replace(request, run=replace(request.run, devices=",".join(devices)))
        parts = part_requests(request, devices)
        first = Session(parts[0], inputs)  # what is wrong is found before anything is written
        first.close()
        self.engine, self.trainable, self._lines = first.engine, first.trainable, first.describe()
        known: dict[str, Any] = {
            name: getattr(first.request, name) for name in ("settings", "start", "unread", "engine")
        }
        self.request, self._inputs = replace(request, **known), inputs
        self._parts = [replace(part, **known) for part in parts]

    def describe(self) -> str:
        """What is about to happen, for people."""
        shares = "; ".join(map(_label, self._parts))
        return f"shared out over {len(self._parts)} processes: {shares}. The first of them:\n{self._lines}"

    def restore(self, folder: RunFolder) -> None:
        """Nothing to read: each process reads the checkpoint of its part."""

    def close(self) -> None:
        """Nothing is open: the first part was built for a look alone."""

    def train(
        self, folder: RunFolder, listeners: Sequence[LoopListener] = (), audience: Audience | None = None
    ) -> Outcome:
        """Train all parts to the budget's end, put them together, and judge the final weights.

        Args:
            listeners: where there are any, what the processes say is shown.
            audience: a user's; it hears nothing.

        Raises:
            RlabError: a part failed, which the message names, or judging did.
        """
        parts = [self._part(folder, number, request) for number, request in enumerate(self._parts)]
        folders = [part.folder for part in parts]
        with stop_on_signal() as stop:
            trained = train_parts(parts, stop, line_writer(bool(listeners)))
            time = min(map(saved_time, folders))
            if not trained:
                return Outcome(False, time, None, None, True)
            policy = put_together(folder, folders)
            judge = Judge(self.request, self.engine, stop.is_set)
            with closing(judge), closed_at_last(open_log(self.request, folder, BEFORE_ALL)) as log:
                write_again(log, folders, self.request.unit)
                judged = None
                if self.request.run.final_eval_episodes and not stop.is_set():
                    resumed = sorted({at for each in folders for at in load_checkpoint(each)[0]["resumed_at"]})
                    dropped = policy_facts(folder).get("dropped", [])
                    judge_all = partial(judge, policy, True)
                    judged = judged_at_last(judge_all, self.request, folder, log, time, resumed, dropped)
            return Outcome(True, time, judged, None, stop.is_set())

    def _part(self, folder: RunFolder, number: int, request: Request) -> Part:
        """One part with its folder, which is made where it is not there yet."""
        path, name = folder.path / PARTS / str(number), f"{folder.name}/{PARTS}/{number}"
        if is_run(path):
            own = RunFolder.open(path)
            return Part(own, _label(request), tuple(_changed(own.config["run"], request)))
        own = RunFolder.create(path, request.to_json(), name, self._inputs.keep)
        return Part(own, _label(request))


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


def part_requests(request: Request, devices: Sequence[str]) -> list[Request]:
    """What each device is asked for: its share of the members, in order, and no final judgement."""
    run = request.run
    shares = np.array_split(np.array(run.training_seeds), min(len(devices), run.seeds))
    own: list[dict[str, Any]] = [
        {"seed": int(share[0]), "seeds": len(share), "device": device}
        for share, device in zip(shares, devices, strict=False)
    ]
    origins = {**request.origins, "devices": DEFAULT}
    runs = [replace(run, devices=None, final_eval_episodes=0, **each) for each in own]
    return [replace(request, run=each, origins=origins) for each in runs]


def put_together(folder: RunFolder, parts: Sequence[RunFolder]) -> Policy:
    """The final policy of all members; it is saved, and the best ones where every part has some."""
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
    return policy


def write_again(log: MetricsLog, parts: Sequence[RunFolder], unit: str) -> None:
    """Write what the parts logged as rows of all members."""
    for time, rows in _by_time(parts, ("metrics", "timing"), unit):
        tags = dict.fromkeys(tag for row in rows for tag in row)
        log.on_metrics(time, {tag: _value(tag, [row.get(tag) for row in rows], parts) for tag in tags})
    for time, rows in _by_time(parts, ("eval",), unit):
        returns, lengths = (np.concatenate([np.array(row[name]) for row in rows]) for name in ("returns", "lengths"))
        log.on_evaluation(time, returns.astype(np.float64), lengths)


def _check_can_share_out(request: Request) -> None:
    run = request.run
    if run.device != "auto":
        raise UsageError(f"--devices {run.devices} names the devices; leave --device out.")
    for name in OF_ONE_PROCESS:
        if getattr(run, name):
            raise UsageError(f"--{name.replace('_', '-')} needs a run in one process; leave it or --devices out.")
    if request.env.local or (own_network(request.settings) or "").startswith(LOCAL):
        raise UsageError("--devices trains in other processes, which need env and network in a module of their own.")


def _label(request: Request) -> str:
    run = request.run
    seeds = f"seed {run.seed}" if run.seeds == 1 else f"seeds {run.seed} to {run.seed + run.seeds - 1}"
    return f"{run.device} {seeds}"


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
    """At each time that all parts have in these logs: what each of them has there."""
    found: list[dict[int, dict[str, Any]]] = []
    for part in parts:
        rows: dict[int, dict[str, Any]] = {}
        for log in logs:
            for row in read_json_lines(part.path / f"{log}.jsonl")[1]:
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
