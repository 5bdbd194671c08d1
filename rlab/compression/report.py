"""What a compression cost and what it saved: parent and child on the same episodes, the same states, one machine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from rlab.compression.agreement import agreement, outputs_of
from rlab.compression.distil import MakeEnvs
from rlab.compression.export.graph import InexpressibleError
from rlab.compression.export.member_file import open_in_onnxruntime
from rlab.compression.export.runtimes import Latency, Runner, latency
from rlab.compression.linear_units import opened
from rlab.compression.quantized_layers import full_precision
from rlab.compression.sequences import Visits
from rlab.compression.visits import visits
from rlab.errors import RlabError, UsageError
from rlab.evaluation.differences import paired_difference, paired_ratio
from rlab.evaluation.evaluate import NOBODY_HEARS, OnStep, evaluate
from rlab.evaluation.stats import Interval
from rlab.networks import memory
from rlab.networks.attention import Attention
from rlab.networks.merging import merged
from rlab.networks.policy import MemberPolicy, Policy

FIRST_STATE_SEED = 400_000  # of the episodes whose states decisions are compared on; training visits those below
STATES = 2_000  # per member
BATCH_SIZES = (1, 64)
REPEATS = 512  # calls that are timed, of each policy and batch size
ONNXRUNTIME = "onnxruntime"
Timed = tuple[tuple[Latency, ...], str, tuple[Latency, ...]]  # in torch; the runtime to use it in, and there


@dataclass(frozen=True)
class Side:
    """One of the two policies; sizes are those of one member."""

    returns: tuple[float, ...]  # mean return of each member
    weight_bytes: int  # of the weights as a safetensors file
    parameters: int  # of the network, however many bits each has
    nonzero: float  # share of these, over all members, that are not 0
    multiply_adds: int  # of one decision, in linear layers and convolutions
    latency: tuple[Latency, ...]  # of one decision as a plain torch module
    runtime: str  # that it would be used in: `onnxruntime`, or `torch (why)`
    runtime_latency: tuple[Latency, ...]  # of one decision there, of the first member; in torch: `latency`


@dataclass(frozen=True)
class Report:
    """Parent and child side by side; index i of every list is the member with training seed `seeds[i]`."""

    seeds: tuple[int, ...]
    first_seed: int  # of the episodes, which both played
    episodes: int  # per member
    parent: Side
    child: Side
    difference: Interval  # of the mean returns, child less parent, paired
    ratio: Interval | None  # 1 + (child - parent) / |parent|, paired; None where the parent's mean may be 0
    measure: str  # what `agreement` is, see `rlab.compression.agreement`
    agreement: tuple[float, ...]
    worst_output_error: tuple[float, ...]  # largest absolute difference of one output, in the network's own units
    states: int  # per member, on which the decisions were compared

    def success(self, min_return_ratio: float) -> bool:
        """Whether the lower end of the ratio's interval reaches the bound, of which 0 takes any return; without a
        ratio, whether nothing is lost."""
        if self.ratio is None:
            return self.difference.low >= 0.0
        return min_return_ratio == 0.0 or self.ratio.low >= min_return_ratio

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def summary(self) -> str:
        """The report as text."""
        return "\n".join([*self._returns(), *self._agreement(), *self._sizes()])

    def verdict(self, min_return_ratio: float) -> str:
        """One line: a success or not, and by which number."""
        word = "success" if self.success(min_return_ratio) else "NOT a success"
        if self.ratio is None and self.difference.low == 0.0:  # of a child that is better, more is known
            return f"{word}: the child loses nothing, but the parent's own mean return may be 0, so nothing is shown"
        if self.ratio is None:
            return f"{word}: no ratio, since the parent's mean return may be 0; the difference's lower end must be 0"
        bound = "0, which takes any return" if min_return_ratio == 0.0 else f"{min_return_ratio:g}"
        return f"{word}: the lower end of the return ratio is {self.ratio.low:.3f}, the bound {bound}"

    def _returns(self) -> list[str]:
        last = self.first_seed + self.episodes - 1
        name = "agreement" if self.measure == "same_action" else "difference"
        rows = [f"{'seed':>10} {'parent':>10} {'child':>10} {name:>11}  worst output error"]
        digits = 3 if max(map(abs, (*self.parent.returns, *self.child.returns))) < 10.0 else 1
        columns = (self.seeds, self.parent.returns, self.child.returns, self.agreement, self.worst_output_error)
        for seed, parent, child, agreed, worst in zip(*columns, strict=True):
            rows.append(f"{seed:>10} {parent:>10.{digits}f} {child:>10.{digits}f} {agreed:>11.4f} {worst:>19.3g}")
        rows.append(f"{self.difference} difference of the mean returns, episode seeds {self.first_seed} to {last}")
        if self.ratio is not None:
            kind = "" if np.mean(self.parent.returns) > 0 else ": 1 + (child - parent) / |parent|, for negative returns"
            rows.append(f"{self.ratio:.3f} return ratio{kind}")
        return [*rows, "(intervals: 95 %, paired, over members and episodes)"]

    def _agreement(self) -> list[str]:
        mean, least = float(np.mean(self.agreement)), min(self.agreement)
        if self.measure == "same_action":
            text = f"{mean:.4f} of the greedy actions are the same, {least:.4f} in the member with fewest"
        else:
            text = (
                f"actions differ by {mean:.4f} of their range on average, by {max(self.agreement):.4f} in the member "
                "with the largest difference"
            )
        return [f"{text} ({self.states} states per member that the parent visits)"]

    def _sizes(self) -> list[str]:
        rows = [f"{'one member':<34} {'parent':>10} {'child':>10} {'ratio':>8}"]
        rows.append(_row("weights, bytes", self.parent.weight_bytes, self.child.weight_bytes))
        rows.append(_row("parameters", self.parent.parameters, self.child.parameters))
        if self.child.nonzero < 0.95:  # a few become 0 by rounding alone
            rows.append(f"{'of them not 0':<34} {self.parent.nonzero:>10.1%} {self.child.nonzero:>10.1%}")
        rows.append(_row("multiply-adds", self.parent.multiply_adds, self.child.multiply_adds))
        runtimes = {"parent": self.parent.runtime, "child": self.child.runtime}
        if ONNXRUNTIME in runtimes.values():
            label = ONNXRUNTIME if self.parent.runtime == self.child.runtime else "own runtime"
            rows += _times(label, self.parent.runtime_latency, self.child.runtime_latency)
        rows += _times("torch", self.parent.latency, self.child.latency)
        if self.parent.runtime == self.child.runtime:
            return [*rows, f"(runtime that would be used: {self.parent.runtime})"]
        return [*rows, *(f"(runtime that the {side} would be used in: {name})" for side, name in runtimes.items())]


def compare(
    parent: Policy,
    child: Policy,
    make_envs: MakeEnvs,
    episodes: int = 100,
    first_seed: int = 100_000,
    on_step: OnStep = NOBODY_HEARS,
) -> Report:
    """Play both policies on the same episodes and compare both on the same states, which the parent visits.

    Decisions are timed in turn, those of the first member, observation to action: as an ONNX file in onnxruntime, where
    that is installed and can express the layers, and as a plain torch module.

    Args:
        make_envs: makes n envs that do not reset themselves.
        episodes: per member.
        on_step: called after every step of the child.

    Raises:
        UsageError: the policies have other members or spaces, there is but one pair of episodes, or the episode seeds
            are those of training.
        RlabError: an episode does not end, or a return is not finite.
    """
    _check(parent, child, episodes)
    hearing = ((parent, NOBODY_HEARS), (child, on_step))
    played = [evaluate(policy, make_envs, episodes, first_seed, on_step=hear) for policy, hear in hearing]
    in_order = parent.has_memory or child.has_memory
    states = visits(parent, make_envs, STATES, FIRST_STATE_SEED, in_order=in_order)
    agreed, worst, measure = _agreement(parent, child, states)
    obs = states.obs.numpy()
    timed = _timed({"parent": parent.member(), "child": child.member()}, obs[0])
    before, after = played
    return Report(
        seeds=parent.seeds,
        first_seed=first_seed,
        episodes=episodes,
        parent=_side(parent, before.per_seed_mean, obs, timed["parent"]),
        child=_side(child, after.per_seed_mean, obs, timed["child"]),
        difference=paired_difference(after.returns, before.returns),
        ratio=_relative(after.returns, before.returns),
        measure=measure,
        agreement=agreed,
        worst_output_error=worst,
        states=STATES,
    )


def _check(parent: Policy, child: Policy, episodes: int) -> None:
    if parent.seeds != child.seeds:
        raise UsageError(f"parent and child need the same members, not {parent.seeds} and {child.seeds}.")
    spaces = [(policy.spec.obs_space, policy.spec.action_space) for policy in (parent, child)]
    if spaces[0] != spaces[1]:
        raise UsageError("parent and child need the same observations and actions.")
    if episodes * len(parent.seeds) < 2:
        raise UsageError(f"{episodes} episodes of one member show no interval; --episodes 100 shows a narrow one.")


def _relative(child: np.ndarray, parent: np.ndarray) -> Interval | None:
    """1 + (child - parent) / |parent|: the ratio of the means where they are positive, and 2 less that ratio where
    they are negative, so that more than 1 is always the better child. None where the parent's mean may be 0."""
    try:
        ratio = paired_ratio(child, parent)
    except UsageError:
        return None
    if parent.mean() > 0:
        return ratio
    return Interval(2.0 - ratio.estimate, 2.0 - ratio.high, 2.0 - ratio.low, ratio.level)


@torch.no_grad()
def _agreement(parent: Policy, child: Policy, states: Visits) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    ours, theirs = outputs_of(parent, states), outputs_of(child, states)
    found = agreement(ours, theirs, child.head, parent.preprocess.mask(states.obs))
    return tuple(found.value.tolist()), tuple(found.worst_output_error.tolist()), found.measure


def _timed(members: Mapping[str, MemberPolicy], obs: np.ndarray) -> dict[str, Timed]:
    """Each member's, all timed in turn."""
    runtimes, files = {}, {}
    for name, member in members.items():
        runner, runtimes[name] = in_its_runtime(member)
        if runner is not None:
            files[name] = runner
    things: dict[str, Callable[[np.ndarray], Any]] = {f"torch {name}": member for name, member in members.items()}
    things |= {f"file {name}": runner for name, runner in files.items()}
    found = latency(things, obs, batch_sizes=BATCH_SIZES, repeats=REPEATS)
    there = {name: found[f"{'file' if name in files else 'torch'} {name}"] for name in members}
    return {name: (tuple(found[f"torch {name}"]), runtimes[name], tuple(there[name])) for name in members}


def in_its_runtime(member: MemberPolicy) -> tuple[Runner | None, str]:
    """The member in onnxruntime, or None and why it stays in torch; with the words for the report."""
    missing = [package for package in (ONNXRUNTIME, "onnx") if find_spec(package) is None]
    if missing:
        return None, f"torch ({missing[0]} is not installed)"
    try:
        return open_in_onnxruntime(member), ONNXRUNTIME
    except InexpressibleError as error:
        return None, f"torch (rlab's ONNX cannot express the {error.part})"
    except RlabError:  # such as an onnxruntime too old for 2-bit weights; the compressed policy is kept
        return None, "torch (this onnxruntime cannot run the file)"


def _side(policy: Policy, returns: np.ndarray, obs: np.ndarray, timed: Timed) -> Side:
    member = policy.member()
    whole = merged(full_precision(member.network))
    parameters = list(merged(full_precision(policy.network)).parameters())
    nonzero = sum(int(p.count_nonzero()) for p in parameters) / max(1, sum(p.numel() for p in parameters))
    with torch.no_grad():
        multiply_adds = count_multiply_adds(whole, member.preprocess(torch.from_numpy(obs[0, :1])))
    count = sum(parameter.numel() for parameter in whole.parameters())
    return Side(tuple(returns.tolist()), weight_bytes(member), count, nonzero, multiply_adds, *timed)


def weight_bytes(member: MemberPolicy) -> int:
    """Of the weights of one member as a safetensors file; what layers share counts once."""
    named = {id(tensor): (name, tensor) for name, tensor in member.state_dict(keep_vars=True).items()}
    return len(safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in named.values()}))


@torch.no_grad()
def count_multiply_adds(network: nn.Module, features: Tensor) -> int:
    """Multiplications of the linear layers and convolutions, gates of recurrent units included, of a plain network in
    float for one row of features `[1, ...]`; biases, activations, norms and what attention makes of its queries, keys
    and values are not counted."""
    found, network = 0, opened(network)

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal found
        weight = layer.weight  # a parameter, or what a parametrization makes of some
        assert isinstance(weight, Tensor)
        found += weight.numel() * output.numel() // weight.shape[0]  # each weight, at each place of the output

    constant = {each for layer in network.modules() if isinstance(layer, Attention) for each in layer.place.modules()}
    layers = [each for each in network.modules() if isinstance(each, nn.Linear | nn.Conv2d) and each not in constant]
    handles = [layer.register_forward_hook(note) for layer in layers]
    state = memory.initial_state(network, 1)
    memory.step(network, features, state) if state else network(features)
    for handle in handles:
        handle.remove()
    return found


def _times(label: str, parent: Sequence[Latency], child: Sequence[Latency]) -> list[str]:
    rows = []
    for a, b in zip(parent, child, strict=True):
        rows.append(_row(f"{label}, batch {a.batch}, p50 in us", a.p50_us, b.p50_us))
        rows.append(_row(f"{label}, batch {a.batch}, p99 in us", a.p99_us, b.p99_us))
    return rows


def _row(name: str, parent: float, child: float) -> str:
    ratio = child / parent if parent else math.nan
    digits = 0 if isinstance(parent, int) else 1
    return f"{name:<34} {parent:>10.{digits}f} {child:>10.{digits}f} {ratio:>7.2f}x"
