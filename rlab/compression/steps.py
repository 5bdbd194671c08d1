"""Compression as a list of steps, such as `distil:64x64,prune:0.5,int8`: read, checked, and done one after the other.

Each step takes the policy that the one before it made. Whatever trains learns from the policy that came first, so that
errors do not add up. All members are compressed at once and have networks of one shape.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.compression import step_values
from rlab.compression.distil import DistilSettings, MakeEnvs, distil, retrain, student_of
from rlab.compression.fake_quantize import convert, prepare_qat
from rlab.compression.linear_units import opened
from rlab.compression.low_rank import factorise
from rlab.compression.neuron_pruning import prune_neurons
from rlab.compression.quantize import dynamic, half, static, weight_only
from rlab.compression.quantized_layers import CompressedLayer, full_precision
from rlab.compression.quantized_tuning import prepare_tuning, tuned
from rlab.compression.rounding import BITS
from rlab.compression.sequences import Features, features_of
from rlab.compression.sparse_layers import SparseFloatLayer, SparseLayer
from rlab.compression.student_values import give_values
from rlab.compression.visits import END_OF_VISIT_SEEDS, FIRST_VISIT_SEED, WIDTH, visits
from rlab.compression.weight_pruning import packed
from rlab.errors import UsageError, unknown
from rlab.learning.sparsity import MaskedTraining
from rlab.networks.describe import with_network
from rlab.networks.memory import is_recurrent
from rlab.networks.merging import merge_policy
from rlab.networks.own import check_layers
from rlab.networks.policy import Policy
from rlab.networks.stacking import stack, unstack

EXAMPLE = "distil:64x64,prune:0.5,int8"
FEATURE_ROWS = 2_000  # visited states per member that rounding is corrected by and neurons are ranked by
FEATURES_SAMPLED = 0.5  # share of the episodes of these visits with sampled actions, as in distillation
# Of Adam, after neurons were pruned. Measured on 64-64 networks of 20 seeds, prune:0.5 without reconstruction, at 1e-3,
# 3e-3 and 1e-2: agreement 0.945, 0.957 and 0.953 (DQN, CartPole), actions 0.0038, 0.0015 and 0.0009 of their range
# apart (PPO, Pendulum). Agreement of 256-256 cut to 64-64 with 400 updates and 10 seeds, by activation, without
# reconstruction and with it: PPO on CartPole 0.9986 and 1.0, on Acrobot 0.986 and 0.992; DQN on CartPole 0.914 and
# 0.912.
RETRAINING_RATE = 3e-3
# After rounding: Adam's rate, and the share of the updates that are taken, by the bits of a weight. Agreement on 64-64
# networks of 10 seeds (DQN, CartPole) before and after that training, 2000 updates being all: 16 bits (bfloat16) 0.9972
# and 0.9996; 8 bits 0.9980 and 0.9993, twice the updates 0.9996; 4 bits 0.966 and 0.989, at 3e-3 0.984; 2 bits 0.824
# and 0.959, at 1e-3 0.954. float16 is at 0.9998 at once, where more learning gains nothing.
TUNING = {16: (1e-4, 0.5), 8: (3e-4, 0.5), 4: (1e-3, 1.0), 2: (3e-3, 1.0)}
U8_TUNING = (1e-3, 1.0)  # where inputs are rounded too: static 0.946 and 0.954; at 3e-3 the same
# During quantization-aware training, and then after rounding: Adam's rates, each for half of the updates. On the same
# networks 0.9994, 0.989 and 0.957, on states that no choice here was based on. During training for 4 bits 3e-3 costs
# 0.007; during that for 2 bits 1e-3 does.
QAT_RATES = {8: (1e-4, 1e-4), 4: (1e-3, 3e-4), 2: (3e-3, 1e-3)}
# Factor of the number of visited states for these two: a policy that is nearly right can only learn from states in
# which two actions are nearly equal, and these are few. With 1 and 4, DQN, as above: qat4 0.986 and 0.989 (CartPole),
# 0.804 and 0.831 (LunarLander); int8 0.9992 and 0.9993, 0.971 and 0.975.
MORE_ROWS = 4
MOST_BYTES = 64 * 2**20  # limit for the states of one member and round, where `MORE_ROWS` applies
END_OF_LEARNING_SEEDS = (FIRST_VISIT_SEED + END_OF_VISIT_SEEDS) // 2


@dataclass(frozen=True)
class Step:
    """One word of a list of steps: a name of `STEPS` and what follows its colon, as that step reads it."""

    name: str
    value: Any = None  # distil: widths; prune, sparse: a share; lowrank: a rank (int) or a share of energy (float)

    def __str__(self) -> str:
        if self.value is None:
            return self.name
        value = "x".join(map(str, self.value)) if isinstance(self.value, tuple) else f"{self.value:g}"
        return f"{self.name}:{value}"


@dataclass(eq=False)
class Job:
    """What a step works with."""

    parent: Policy  # whose outputs are the labels
    policy: Policy  # made by the step before
    make_envs: MakeEnvs
    settings: DistilSettings
    sparse: bool = False  # weights that are 0 must stay so
    fresh: bool = False  # a student with fresh weights

    def carry_out(self, step: Step) -> None:
        """Take the policy one step on, and record what that means for later ones."""
        kind = STEPS[step.name]
        if self.policy.has_memory and not kind.fresh:
            self.policy = with_network(self.policy, opened(self.policy.network))
        self.policy = kind.function(self, step.value).eval()
        self.sparse = self.sparse or step.name == "sparse"
        self.fresh = self.fresh or kind.fresh

    def finished(self) -> Policy:
        """The policy when all steps are done; a copy where it is not the same."""
        policy = packed(self.policy) if self.sparse else self.policy
        if not self.fresh or policy.spec.head["kind"] != "q" or self.parent.head.distils_as != "q":
            return policy
        policy = copy.deepcopy(policy)
        in_order = policy.has_memory or self.parent.has_memory
        found = visits(self.parent, self.make_envs, FEATURE_ROWS, sampled=FEATURES_SAMPLED, in_order=in_order)
        give_values(policy, self.parent, found.to(_device_of(policy)))
        return policy

    def features(self) -> Features:
        """What the network reads in states that the policy visits, `[S, R, ...]`."""
        found = visits(self.policy, self.make_envs, FEATURE_ROWS, sampled=FEATURES_SAMPLED)
        return features_of(self.policy, found.to(_device_of(self.policy)))

    def correcting_features(self) -> Features | None:
        """The features that rounded weights are corrected by; None where that would move weights away from 0."""
        return None if self.sparse else self.features()

    def retrained(self, student: Policy, share: float | None = None, settings: DistilSettings | None = None) -> Policy:
        """The student, trained in place; `share` of its weights become 0 during training."""
        settings = settings or replace(self.settings, learning_rate=RETRAINING_RATE)
        masks = None
        if share is not None or self.sparse:
            # In the second half of the updates the zeros are fixed and the rest learns.
            masks = MaskedTraining(student.network, share, end=max(1, settings.updates // 2)).after_update
        return retrain(student, self.parent, self.make_envs, settings, masks)

    def tuned(self, rounded: nn.Module, learning_rate: float, share_of_updates: float) -> Policy:
        """The policy with a rounded network, of which all but the integers (or weights of 16 bits) has learned; zeros
        among those stay zeros."""
        settings = self.fine(learning_rate, share_of_updates)
        trained = retrain(self.stand_in(prepare_tuning(rounded)), self.parent, self.make_envs, settings)
        return with_network(self.policy, tuned(trained.network))

    def stand_in(self, network: nn.Module) -> Policy:
        """The policy with a network of layers that no spec names, to train and never to save."""
        return Policy(self.policy.spec, self.policy.preprocess, network, self.policy.seeds)

    def fine(self, learning_rate: float, share_of_updates: float) -> DistilSettings:
        """How rounded networks learn: on `MORE_ROWS` times the states, as far as memory and the seeds of visits go."""
        settings, space = self.settings, self.parent.spec.obs_space
        fit = MOST_BYTES // (math.prod(space.shape) * np.dtype(space.dtype).itemsize)
        free = (END_OF_LEARNING_SEEDS - settings.first_seed) // (settings.rounds + 1) // WIDTH * WIDTH
        rows = max(settings.rows, min(MORE_ROWS * settings.rows, fit, free))
        updates = max(1, round(share_of_updates * settings.updates))
        return replace(settings, learning_rate=learning_rate, updates=updates, rows=rows)


def compress(
    policy: Policy,
    steps: Sequence[Step] | str,
    make_envs: MakeEnvs,
    settings: DistilSettings | None = None,
    after_step: Callable[[Step], None] | None = None,
) -> Policy:
    """A smaller policy for every member, step by step; the given one stays as it is.

    Adapters are merged first. Steps that train visit and learn by `settings`; its learning rate is for `distil` alone,
    all others start from nearly right weights and take smaller ones. Rounding trains too, except fp16: for
    `settings.updates` at most over the whole step, on more states than `settings.rows`.

    Args:
        make_envs: makes n envs that do not reset themselves.
        after_step: called with each step when it is done.

    Raises:
        UsageError: the steps are invalid (`parse_steps`), or one of them does not support a layer of the network.
        RlabError: an episode of the visits does not end, or a weight became NaN or infinite.
    """
    steps = parse_steps(steps) if isinstance(steps, str) else tuple(steps)
    check_order(steps)
    check_parent(policy, steps)
    parent = merge_policy(policy)
    # Zeros are kept where packing them saves bytes, whether they are stored packed or not; a student starts without.
    zeros = any(isinstance(layer, SparseLayer) for layer in packed(parent.network).modules())
    if zeros:
        parent = with_network(parent, full_precision(parent.network))
    keeps_zeros = zeros and not STEPS[steps[0].name].fresh
    job = Job(parent, parent, make_envs, settings or DistilSettings(), keeps_zeros)
    for step in steps:
        job.carry_out(step)
        if after_step is not None:
            after_step(step)
    return job.finished()


def parse_steps(words: str | Sequence[str]) -> tuple[Step, ...]:
    """The steps that `distil:64x64,prune:0.5,int8` names, as one text or as its words.

    Raises:
        UsageError: a word is unknown or lacks its value, or the order is invalid.
    """
    text = words if isinstance(words, str) else ",".join(map(str, words))
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise UsageError(f"no steps; name some of {', '.join(STEPS)}, such as {EXAMPLE}.")
    steps = tuple(_parsed(part, text) for part in parts)
    check_order(steps)
    return steps


def check_order(steps: Sequence[Step]) -> None:
    """Raise UsageError where a step would undo an earlier one, or cannot follow it."""
    if not steps:
        raise UsageError(f"no steps; name some of {', '.join(STEPS)}, such as {EXAMPLE}.")
    for index, step in enumerate(steps):
        for before in steps[:index]:
            reason = _conflict(before, step)
            if reason:
                raise UsageError(f"step {step} cannot follow {before}: {reason}.")


def _conflict(before: Step, step: Step) -> str | None:
    if STEPS[before.name].final:
        if STEPS[step.name].final:
            return "the weights are rounded already; choose one of the two"
        return f"it trains, and rounded weights do not; put {before} last"
    if STEPS[step.name].fresh:
        return f"its student begins with fresh weights, so {before} would be lost; put {step} first"
    if before.name == "sparse" and step.name == "lowrank":
        return f"its factors have no zeros, so {before} would be lost; put lowrank first"
    return None


def _parsed(word: str, text: str) -> Step:
    name, colon, value = word.partition(":")
    if not name:
        raise UsageError(f"--steps {text!r} has an empty step; write them like {EXAMPLE}.")
    if name not in STEPS:
        raise unknown("step", name, STEPS)
    kind = STEPS[name]
    if kind.read is None:
        if colon:
            raise UsageError(f"step {word!r}: {name} takes no value; write {name}.")
        return Step(name)
    try:
        return Step(name, kind.read(value))
    except ValueError:
        raise UsageError(f"step {word!r}: {name} needs {kind.form}, such as {kind.example}.") from None


def check_parent(policy: Policy, steps: Sequence[Step]) -> None:
    """Raise UsageError where the first step cannot begin with this policy."""
    check_memory(policy, steps)
    if STEPS[steps[0].name].fresh:
        student_of(policy, steps[0].value)
    else:
        check_layers(policy.network, f"{steps[0]} cannot be done")
    if not STEPS[steps[0].name].fresh and any(_is_rounded(layer) for layer in policy.network.modules()):
        raise UsageError(
            f"the weights of this policy are rounded already, so {steps[0]} cannot be done; start from the policy that "
            "it was made from, or with a distil step."
        )


def check_memory(policy: Policy, steps: Sequence[Step]) -> None:
    """Raise UsageError where a step cannot be done with a policy that has memory."""
    refused = [step for step in steps if not STEPS[step.name].remembers]
    if not policy.has_memory or not refused:
        return
    place, layer = next((name, layer) for name, layer in policy.network.named_children() if is_recurrent(layer))
    able = ", ".join(name for name, kind in STEPS.items() if kind.remembers)
    raise UsageError(
        f"{refused[0]} cannot be done: no neuron of the layer with memory {place} ({type(layer).__name__}) can go by "
        f"itself; steps for policies with memory are {able}."
    )


def _is_rounded(layer: nn.Module) -> bool:
    in_float = isinstance(layer, SparseFloatLayer) and layer.dtype == "float32"
    return isinstance(layer, CompressedLayer) and not in_float


def _device_of(policy: Policy) -> torch.device:
    return next(policy.network.parameters()).device


def _distil(hard: bool) -> Callable[[Job, tuple[int, ...]], Policy]:
    return lambda job, widths: distil(job.parent, widths, job.make_envs, replace(job.settings, hard=hard))


def _prune(by: str) -> Callable[[Job, float], Policy]:
    def step(job: Job, share: float) -> Policy:
        features, network = job.features(), job.policy.network
        assert isinstance(features, Tensor)  # a policy with memory is refused
        members = range(len(job.policy.seeds))
        pruned = [prune_neurons(unstack(network, i), share, by, features[i], not job.sparse) for i in members]
        return job.retrained(_stacked(job.policy, pruned))

    return step


def _sparse(job: Job, share: float) -> Policy:
    return job.retrained(with_network(job.policy, copy.deepcopy(job.policy.network)), share=share)


def _lowrank(job: Job, rank: int | float) -> Policy:
    plain = [unstack(job.policy.network, i) for i in range(len(job.policy.seeds))]
    factors = factorise(plain, rank=rank) if isinstance(rank, int) else factorise(plain, energy=rank)
    if len(list(factors[0].modules())) == len(list(plain[0].modules())):
        raise UsageError(
            f"lowrank:{rank:g} saves nothing: two layers of that rank are not smaller than any layer of this network; "
            "lower it or leave the step out."
        )
    return job.retrained(_stacked(job.policy, factors))


def _stacked(policy: Policy, members: Sequence[nn.Module]) -> Policy:
    return with_network(policy, stack(members).to(_device_of(policy)))


def _fp16(job: Job, _: None) -> Policy:
    return with_network(job.policy, half(job.policy.network, "float16", job.correcting_features()))


def _bf16(job: Job, _: None) -> Policy:
    return job.tuned(half(job.policy.network, "bfloat16", job.correcting_features()), *TUNING[16])


def _weights(bits: int) -> Callable[[Job, None], Policy]:
    return lambda job, _: job.tuned(weight_only(job.policy.network, bits, job.correcting_features()), *TUNING[bits])


def _dynamic8(job: Job, _: None) -> Policy:
    return job.tuned(dynamic(job.policy.network, job.correcting_features()), *U8_TUNING)


def _static8(job: Job, _: None) -> Policy:
    return job.tuned(static(job.policy.network, job.features(), corrected=not job.sparse), *U8_TUNING)


def _qat(bits: int) -> Callable[[Job, None], Policy]:
    rate, rate_after = QAT_RATES[bits]

    def step(job: Job, _: None) -> Policy:
        network, features = job.policy.network, job.correcting_features()
        rounded = None if features is None else weight_only(network, bits, features)
        student = job.stand_in(prepare_qat(network, bits, rounded=rounded))
        trained = job.retrained(student, settings=job.fine(rate, 0.5))
        return job.tuned(convert(trained.network), rate_after, 0.5)

    return step


@dataclass(frozen=True)
class Kind:
    """A row of `STEPS`: what a step does, and how it is written."""

    function: Callable[[Job, Any], Policy]
    final: bool = False  # its weights are rounded: nothing can be done with them afterwards
    fresh: bool = False  # its network starts with fresh weights, so that earlier steps are lost
    remembers: bool = True  # takes policies with memory
    read: Callable[[str], Any] | None = None  # its value; raises ValueError. None: it takes none
    form: str = ""
    example: str = ""


def _distillation(example: str, hard: bool) -> Kind:
    return Kind(
        _distil(hard), False, True, True, step_values.widths, "the widths of the student's hidden layers", example
    )


def _pruning(example: str, by: str) -> Kind:
    return Kind(
        _prune(by), False, False, False, step_values.share, "the share of neurons that go, above 0 and below 1", example
    )


STEPS: dict[str, Kind] = {
    "distil": _distillation("distil:64x64", hard=False),
    "distil-hard": _distillation("distil-hard:64x64", hard=True),
    "prune": _pruning("prune:0.5", "activation"),
    "prune-norm": _pruning("prune-norm:0.5", "norm"),
    "prune-gradient": _pruning("prune-gradient:0.5", "gradient"),
    "sparse": Kind(
        _sparse,
        read=step_values.share,
        form="the share of weights that become 0, above 0 and below 1",
        example="sparse:0.8",
    ),
    "lowrank": Kind(
        _lowrank,
        read=step_values.rank,
        form="a rank of 1 or more, or the share of energy that stays, above 0 and below 1",
        example="lowrank:8 or lowrank:0.95",
    ),
    "fp16": Kind(_fp16, final=True),
    "bf16": Kind(_bf16, final=True),
    **{f"int{bits}": Kind(_weights(bits), final=True) for bits in BITS},
    "dynamic8": Kind(_dynamic8, final=True),
    "static8": Kind(_static8, final=True),
    **{f"qat{bits}": Kind(_qat(bits), final=True) for bits in BITS},
}
