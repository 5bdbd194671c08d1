"""What a run computes with: its device, whether its cycle is compiled, and where its envs are stepped.

The choice goes by a table of costs and never by a clock, since compiled code rounds otherwise than code that is not:
the same command gives the same numbers.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rlab.envs import why_not_tensor
from rlab.errors import UsageError
from rlab.experience.dtypes import torch_dtype
from rlab.jobs.request import Request
from rlab.learning.compiler import why_not_compile
from rlab.learning.contract import NeedsHost
from rlab.learning.hindsight_config import asks_for_hindsight
from rlab.learning.programs import CompiledPrograms, Programs
from rlab.learning.runtime import choose_devices
from rlab.networks.policy import Policy
from rlab.places import warn

CPU = torch.device("cpu")
SPLIT = "several processes train one learner"  # why something is not done


class Cost(NamedTuple):
    """What learning costs, in seconds."""

    start: float  # before the first step: compiling, the first start of CUDA
    step: float  # a vector step of acting, storing and, as tensors, of the env
    update: float  # one update of a network of no size
    gflop: float  # 10^9 floating-point operations of an update


# (device, compiled) -> cost. The rows of the CPU were measured on one core and those of the GPU on an H200 with torch
# 2.11 (experiments/benchmarks/engine.py); other work ran beside its starts and what is not compiled there. Whether code
# is cached must not count: the first and the second of two equal commands would give different numbers.
COSTS: Mapping[tuple[str, bool], Cost] = {
    ("cpu", False): Cost(0.0, 400e-6, 380e-6, 50e-3),
    ("cpu", True): Cost(27.0, 120e-6, 85e-6, 41e-3),  # of DQN and of PPO where nothing is cached; 6 s where it is
    ("cuda", False): Cost(5.0, 2500e-6, 2500e-6, 0.5e-3),
    ("cuda", True): Cost(35.0, 40e-6, 85e-6, 0.5e-3),  # 5 to 9 s where it is cached
}
HOST_STEP = 130e-6  # what a vector step costs more whose envs are stepped on the host, at least
COMPILED = {"auto": (False, True), "on": (True,), "off": (False,)}
PASSES = 3.5  # forward passes that an update takes: its own, backward as much as two, a target's on some of its rows


@dataclass(frozen=True)
class Engine:
    """What was chosen, and why, for people."""

    device: torch.device
    compiled: bool
    tensor: bool  # whether envs are stepped as tensors on the device
    notes: tuple[str, ...] = ()

    def programs(self) -> Programs:
        """How the loop calls its functions."""
        return CompiledPrograms(self.device, warn) if self.compiled else Programs(self.device)

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds, so that the run goes on with the same when it is resumed."""
        return {"device": self.device.type, "compiled": self.compiled, "tensor": self.tensor}

    def __str__(self) -> str:
        how = "compiled" + (" and captured" if self.device.type == "cuda" else "") if self.compiled else "not compiled"
        return f"{self.device}, {how}" + (", envs as tensors" if self.tensor else "")


def choose(request: Request, agent: Any, vector_steps: int, updates: int, rows: int) -> Engine:
    """What a run computes with: what was asked for, and else what the table says is over first; what it began with
    where it is resumed.

    Args:
        agent: built on any device.
        vector_steps, updates: in the whole budget.
        rows: of one member in one update.

    Raises:
        UsageError: what was asked for is not possible.
    """
    run = request.run
    if request.engine is not None:
        return as_begun(run.device, request.engine, request.processes)
    can_step = bool(vector_steps) and can_step_tensors(request)
    why = _needs_host(agent)
    if why is None and asks_for_hindsight(request.settings) and not can_step:
        why = "hindsight asks the env for rewards"
    needs_host = f"{request.agent} needs the host: {why}" if why else None
    if request.processes > 1:
        needs_host = SPLIT
    modes = (False,) if needs_host and run.compile == "on" else COMPILED[run.compile]
    work = PASSES * forward_gflop(agent.policy()) * rows
    engines: dict[Engine, float] = {}  # what may be chosen, and how long it takes
    missed: dict[Engine, tuple[float, str]] = {}  # what cannot be, and why
    for device, compiled in product(choose_devices(run.device), modes):
        wanted = run.vector == "tensor" or (run.vector == "auto" and (compiled or device.type == "cuda"))
        engine, cost = Engine(device, compiled, wanted and can_step), COSTS[device.type, compiled]
        step = cost.step + (0.0 if engine.tensor else HOST_STEP)
        seconds = cost.start + vector_steps * step + updates * (cost.update + cost.gflop * work)
        obstacle = (needs_host or why_not_compile(device)) if compiled else None
        if obstacle is None:
            engines[engine] = seconds
        else:
            missed[engine] = seconds, obstacle
    if not engines:
        raise UsageError(f"--compile on: {next(iter(missed.values()))[1]}; or use --compile auto.")
    best = min(engines, key=engines.__getitem__)
    if needs_host and run.compile == "on":
        return replace(best, notes=(f"not compiled: {needs_host}",))
    faster = [engine for engine, (seconds, _) in missed.items() if seconds < engines[best]]
    if not faster:
        return best
    fastest = min(faster, key=lambda engine: missed[engine][0])
    return replace(best, notes=(f"note: {fastest} would be faster: {missed[fastest][1]}",))


def as_begun(named: str, engine: Mapping[str, Any], processes: int = 1) -> Engine:
    """What a run began with, or as much of it as this machine has.

    Args:
        named: the run's `--device`.
        engine: what its `config.json` says.
        processes: that train one learner.
    """
    device, missing = _same_device(named, engine["device"]), []
    if device.type != engine["device"]:
        missing.append(f"torch sees no {engine['device']} device")
    compiled, tensor = engine["compiled"], engine["tensor"]
    if processes > 1 and (compiled or tensor):
        missing.append(SPLIT)
        compiled = tensor = False
    obstacle = why_not_compile(device) if compiled else None
    if obstacle is not None:
        missing.append(obstacle)
    found = Engine(device, compiled and obstacle is None, tensor)
    before = Engine(torch.device(engine["device"]), engine["compiled"], engine["tensor"])
    notes = (f"the run began on {before} and goes on on {found}: {'; '.join(missing)}",) if missing else ()
    return replace(found, notes=notes)


def _same_device(named: str, kind: str) -> torch.device:
    """The device that was asked for, else one of its kind, else the CPU."""
    for name in (named, kind):
        with contextlib.suppress(UsageError):
            same = [device for device in choose_devices(name) if device.type == kind]
            if same:
                return same[0]
    return CPU


def _needs_host(agent: Any) -> str | None:
    return agent.needs_host if isinstance(agent, NeedsHost) else None


def can_step_tensors(request: Request) -> bool:
    """Whether the training envs may be stepped as tensors.

    Raises:
        UsageError: they should be, and cannot.
    """
    vector = request.run.vector
    why = why_not_tensor(request.env) if vector in ("auto", "tensor") else "they are to be stepped otherwise"
    if request.processes > 1:
        why = SPLIT
    if vector == "tensor" and why is not None:
        raise UsageError(f"--vector tensor: {why}; use --vector auto.")
    return why is None


def forward_gflop(policy: Policy) -> float:
    """10^9 floating-point operations that all members take for one observation each, without those of activations."""
    obs = policy.spec.obs_space
    device = next(policy.parameters()).device
    zeros = torch.zeros((len(policy.seeds), 1, *obs.shape), dtype=torch_dtype(obs.dtype), device=device)
    with torch.no_grad(), _Operations() as counter:
        policy.step(zeros, policy.initial_state(1))
    return counter.total / 1e9


class _Operations(TorchDispatchMode):
    """Counts floating-point operations, by the formulas of torch.

    Its own counter, `FlopCounterMode`, also hooks into modules, which fails where one is handed a parameter.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found
