"""Distillation: a student of any size learns a teacher's policy on states that the teacher, then the student visits.

Soft labels after Hinton et al. (2015) and Rusu et al. (2016); states after DAgger (Ross et al. 2011, algorithm 3.1
with their parameter-free choice: the teacher acts in the first round and the student in all others, the teacher labels
every state). All members learn as one stack.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlab.compression.sequences import Visits, outputs
from rlab.compression.visits import END_OF_VISIT_SEEDS, FIRST_VISIT_SEED, seeds_needed, visits
from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import EpisodeEnvs
from rlab.learning.choices import LrSchedule
from rlab.learning.common_config import OptimizerConfig
from rlab.learning.distillation import check_temperature, distillation_loss, labels
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.policy_gradient import mean
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.heads import build_head
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.merging import named_layers
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import choices
from rlab.networks.spec import NetworkSpec, build
from rlab.randomness import torch_stream
from rlab.ranges import check_counts
from rlab.types import Clock

MakeEnvs = Callable[[int], EpisodeEnvs]
# Of Q values, in units of the median distance of the best two of a member's own. Rusu et al. (2016) have 0.01, in the
# units of their games; where values are far apart that is as good as here, where they are close it is too soft.
# Agreement of ten DQNs' students at 0.02, 0.2 and 1: 0.916, 0.916, 0.914 (CartPole, 12-12), 0.948, 0.951, 0.933
# (Acrobot, 12-12), 0.710, 0.715, 0.728 (LunarLander, 28-28); after prune:0.5 on CartPole 0.953, 0.959, 0.957.
Q_SHARPNESS = 0.2


@dataclass(frozen=True, kw_only=True)
class DistilSettings(OptimizerConfig):
    """How a student learns from a teacher.

    Raises:
        UsageError: a name is unknown or a number out of range.
    """

    # Measured on 16-16 students of DQN and PPO (64-64; CartPole and LunarLander): one round with as many states leaves
    # one CartPole student of ten at 454 where four bring all to 500; a rate of 3e-3 costs 0.02 of agreement.
    rounds: int = 4  # of visits; the first is the teacher's, all others the student's
    rows: int = 2_000  # states per member and round
    sampled: float = 0.5  # share of the episodes of visits in which actions are sampled instead of greedy
    updates: int = 2_000  # over all rounds
    batch_size: int = 256  # rows per update and member
    sequence_length: int = 32  # with memory: of these rows so many follow each other, and gradients flow through them
    learning_rate: float = 1e-2  # Adam
    lr_schedule: LrSchedule = "cosine"
    temperature: float | None = None  # of the outputs; None: 1 for logits, for Q values see `Q_SHARPNESS`
    hard: bool = False  # learn the teacher's greedy action alone
    starts: int = 1  # students per member, each from its own weights, of which the best is kept
    first_seed: int = FIRST_VISIT_SEED  # of the visits' episodes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "rounds", "rows", "updates", "batch_size", "sequence_length", "starts")
        if self.starts > self.rows:
            raise UsageError(f"{self.rows} rows of visits are too few for {self.starts} starts.")
        if self.first_seed + (self.rounds + 1) * seeds_needed(self.rows) > END_OF_VISIT_SEEDS:
            raise UsageError(
                f"{self.rounds} rounds of {self.rows} rows need more episode seeds than there are for visits."
            )


def distil(
    teacher: Policy,
    student: Sequence[int] | NetworkSpec,
    make_envs: MakeEnvs,
    settings: DistilSettings | None = None,
    after_update: Callable[[int], None] | None = None,
) -> Policy:
    """Students that do what their teachers do: member i learns from member i, beside all others.

    With several starts the student is kept whose loss is the lowest on states that its member's students visit at last
    and that none has learned from.

    Args:
        student: hidden widths of a network with the teacher's activation, or its whole spec.
        make_envs: makes n envs that do not reset themselves.
        after_update: called with the number of updates after each.

    Raises:
        UsageError: student and teacher do not fit each other, or settings are out of range.
    """
    settings = settings or DistilSettings()
    spec = student_of(teacher, student)
    students = _fresh(teacher, spec, settings.starts)
    retrain(students, teacher, make_envs, settings, after_update)
    return students if settings.starts == 1 else _best(students, teacher, make_envs, settings)


def student_of(teacher: Policy, student: Sequence[int] | NetworkSpec) -> PolicySpec:
    """As `student_spec`.

    Raises:
        UsageError: as that, or hidden widths are given for a teacher whose memory is not one of rlab's.
    """
    spec = student_spec(teacher.spec, student)
    if not isinstance(student, NetworkSpec) and teacher.has_memory and memory_of(teacher.spec.network) is None:
        raise UsageError(
            "this policy remembers by a layer of your own, and students made of widths by gru, lstm or transformer; "
            "give the student's NetworkSpec to rlab.compression.distil.distil."
        )
    return spec


def student_spec(teacher: PolicySpec, student: Sequence[int] | NetworkSpec) -> PolicySpec:
    """A policy with the teacher's spaces, input and head around a smaller network; of a teacher with distributions over
    returns, of which a student learns the means alone, with Q values.

    Hidden widths make a network as agents do: convolutions for images, the teacher's activation, no LayerNorm, one
    stream even where the teacher has two; log standard deviations that no observation changes stay so. Of a teacher
    with memory the last width is that of a memory of the same kind, behind hidden layers of the others.

    Raises:
        UsageError: a width is not possible, no body suits the observations, or the memory is not one of rlab's.
    """
    if isinstance(student, NetworkSpec):
        return replace(teacher, network=student)
    kinds = [layer.kind for _, layer in named_layers(teacher.network)]
    activation = next((kind for kind in kinds if kind in ACTIVATIONS), "relu")
    head = build_head(teacher.head, teacher.action_space, trust=True)  # the teacher runs already
    read = head.of_distilled
    head_json = teacher.head if read is head else {"kind": "q", "epsilon": teacher.head.get("epsilon", 0.0)}
    log_std = 0.0 if "log_std" in kinds else None
    found = memory_of(teacher.network)
    memory = None if found is None else replace(found[1], size=student[-1])
    body = BodySettings(tuple(student if memory is None else student[:-1]), activation, memory=memory)
    network = actor_network_spec(teacher.obs_space, read.width, body, output_gain=1.0, log_std=log_std)
    return replace(teacher, network=network, head=head_json)


def memory_of(spec: NetworkSpec) -> tuple[int, MemorySettings] | None:
    """The first memory of rlab's in a network, and how many layers are before it."""
    for place, layer in enumerate(spec.layers):
        if layer.kind in ("gru", "lstm"):
            return place, MemorySettings(layer.kind, layer.args["hidden"], 1)
        if layer.kind == "linear_unit":
            return place, MemorySettings(layer.args["cell"], layer.args["size"], 1)
        if layer.kind == "attention":  # behind a linear layer of its own
            return place - 1, MemorySettings("transformer", layer.args["features"], layer.args["window"])
    return None


def retrain(
    student: Policy,
    teacher: Policy,
    make_envs: MakeEnvs,
    settings: DistilSettings | None = None,
    after_update: Callable[[int], None] | None = None,
) -> Policy:
    """Train any student, in place, to do what the teacher does; what `distil` does with a fresh one.

    The student's network may be pruned or prepared for quantization: anything that maps features `[S, B, ...]` to
    outputs and has parameters `[S, ...]`. Dropout is off, and the student's preprocessing stays as it is.

    Args:
        student: K consecutive members for each of the teacher's; these K share the states that they visit.
        after_update: called with the number of updates after each, such as `MaskedTraining.after_update`.

    Raises:
        UsageError: student and teacher do not fit each other.
        RlabError: an episode of the visits does not end, or a weight became NaN or infinite.
    """
    settings = settings or DistilSettings()
    lessons = _Lessons(student, teacher, make_envs, settings)
    learning = [parameter for parameter in student.network.parameters() if parameter.requires_grad]
    optimizer = StackedOptimizer(OptimizerSettings.of(settings), learning, members=len(student.seeds))
    state = student.initial_state(lessons.lanes)
    ends = [settings.updates * (k + 1) // settings.rounds for k in range(settings.rounds)]
    for round_, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        lessons.visit(round_)
        _train_mode(student.network)
        for update, batch in enumerate(lessons.batches(round_, last - first), first):
            said, state = student.unroll(batch.obs, state, batch.begins)
            state = {name: value.detach() for name, value in state.items()}
            loss = mean(lessons.loss(said.flatten(1, 2), batch.labels.flatten(1, 2)), batch.weight.flatten(1))
            now = optimizer.scheduled(Clock(update, settings.updates))
            optimizer.step(loss, {name: float(rate) for name, rate in now.items()})
            if after_update is not None:
                after_update(update + 1)
        student.eval()
        _check_finite(learning, student.seeds, last)
    for parameter in learning:
        parameter.data = parameter.data.clone()  # no longer a view of the optimizer's: safetensors refuses those
    return student


class _Batch(NamedTuple):
    """B stretches of T rows that follow each other, for each student; T = 1 without memory."""

    obs: Tensor  # [S * starts, B, T, *obs]
    begins: Tensor  # [S * starts, B, T] bool, as in `Visits`
    labels: Tensor  # [S * starts, B, T, width]
    weight: Tensor  # [S * starts, B, T]: 0 where an episode goes on whose beginning the student has not read, else 1


class _Lessons:
    """Visited states and the teacher's outputs in them: `[S, R, ...]`, S the teacher's members.

    With memory, every stretch of a batch goes on where the same one of the batch before ended, and behind the last row
    with the first, so that the student's state is its own; what it starts with in the middle of an episode is not used.
    """

    def __init__(self, student: Policy, teacher: Policy, make_envs: MakeEnvs, settings: DistilSettings) -> None:
        self.starts, rest = divmod(len(student.seeds), len(teacher.seeds))
        if rest or not self.starts:
            raise UsageError(f"{len(student.seeds)} students do not fit {len(teacher.seeds)} teachers.")
        self.student, self.teacher, self.make_envs, self.settings = student, teacher, make_envs, settings
        self._kinds = check_temperature(student.head, teacher.head, settings.temperature)
        self._nvec = choices(teacher.spec.action_space)
        self.device = next(student.network.parameters()).device
        self.unit: Tensor | None = None  # [S * starts, 1, 1], of Q values; known from the first visits
        self._obs: list[Tensor] = []
        self._begins: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.in_order = student.has_memory or teacher.has_memory
        self._length = min(settings.sequence_length, settings.batch_size) if self.in_order else 1
        self.lanes = settings.batch_size // self._length  # B
        self._at: Tensor | None = None  # [S * starts, B], the first row of each stretch of the next batch
        self._begun = torch.zeros(len(student.seeds), self.lanes, dtype=torch.bool)

    def visit(self, round_: int) -> tuple[Visits, Tensor]:
        """The states of one more round, R of each teacher, and their labels `[S, R, width]`."""
        seed = self.settings.first_seed + round_ * seeds_needed(self.settings.rows)
        who, rows = (self.teacher, self.settings.rows) if round_ == 0 else (self.student, self._each)
        found = visits(who, self.make_envs, rows, seed, self.settings.sampled, self.in_order)
        if round_ > 0:
            found = Visits(self._joined(found.obs), self._joined(found.begins))
        self._obs.append(found.obs)
        self._begins.append(found.begins)
        self._labels.append(self._label(found))
        if self.unit is None:
            self.unit = self._unit(self._labels[-1]).to(self.device)
        return found, self._labels[-1]

    @property
    def _each(self) -> int:
        """The rows that each of a teacher's students visits in a round."""
        return -(-self.settings.rows // self.starts)

    def _joined(self, of_students: Tensor) -> Tensor:
        """`[S * starts, r, ...]` to `[S, R, ...]`."""
        return of_students.unflatten(0, (-1, self.starts)).flatten(1, 2)[:, : self.settings.rows]

    @torch.no_grad()
    def _label(self, found: Visits) -> Tensor:
        found = found.to(self.device)
        return labels(self.teacher, found.obs, outputs(self.teacher, found)).cpu()

    def batches(self, round_: int, updates: int) -> Iterator[_Batch]:
        """Rows of all rounds so far, drawn uniformly for each student; with memory in their order."""
        obs, begins, labels = (torch.cat(parts, dim=1) for parts in (self._obs, self._begins, self._labels))
        self._obs, self._begins, self._labels = [obs], [begins], [labels]
        member = torch.arange(len(self.student.seeds)).view(-1, 1, 1) // self.starts  # [S * K, 1, 1]
        for rows in self._rows(obs.shape[1], round_, updates):
            fresh = begun = torch.ones_like(rows, dtype=torch.bool)
            if self.in_order:
                fresh = begins[member, rows]
                begun = self._begun.unsqueeze(-1) | (fresh.cumsum(dim=-1) > 0)
                self._begun = begun[..., -1]
            parts = obs[member, rows], fresh, labels[member, rows], begun.float()
            yield _Batch(*(part.to(self.device) for part in parts))

    def _rows(self, count: int, round_: int, updates: int) -> Iterator[Tensor]:
        """Which of so many rows each batch has, `[S * starts, B, T]`."""
        streams = [
            torch_stream(seed, f"distil {round_}/{i % self.starts}") for i, seed in enumerate(self.student.seeds)
        ]
        if not self.in_order:
            shape = (updates, self.lanes)
            drawn = torch.stack([torch.randint(count, shape, generator=s) for s in streams], dim=1)  # [U, S * K, B]
            yield from drawn.unsqueeze(-1)
            return
        if self._at is None:
            self._at = torch.stack([torch.randint(count, (self.lanes,), generator=s) for s in streams])
        for _ in range(updates):
            yield (self._at.unsqueeze(-1) + torch.arange(self._length)) % count
            self._at = (self._at + self._length) % count

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """How far each student is from its teacher, one value per row `[S * starts, B]`."""
        (student, teacher), outputs = self._kinds, self.student.head.to_distil(outputs)
        temperature = self.settings.temperature
        if teacher == "q" and temperature is None:
            assert self.unit is not None  # states are visited before anything is learned from them
            temperature, labels = Q_SHARPNESS, labels / self.unit
            outputs = outputs / self.unit if student == "q" else outputs
        return distillation_loss(
            outputs, student, labels, teacher, temperature, nvec=self._nvec, hard=self.settings.hard
        )

    def _unit(self, labels: Tensor) -> Tensor:
        """How far apart the best two Q values of `labels [S, R, A]` are, the median of each member's states."""
        if labels.shape[-1] < 2:
            return torch.ones(len(self.student.seeds), 1, 1)
        best = labels.topk(2, dim=-1).values
        gap = best[..., 0] - best[..., 1]
        gap = gap.masked_fill(gap.isinf(), torch.nan)  # only one action is allowed, so there is no gap
        median = gap.nanmedian(dim=1).values
        median = torch.where(median > 0, median, 1.0)  # neither NaN nor 0
        return median.repeat_interleave(self.starts).view(-1, 1, 1)


def _fresh(teacher: Policy, spec: PolicySpec, starts: int) -> Policy:
    """`starts` consecutive students for each teacher, with its preprocessing and fresh weights."""
    seeds = [seed for seed in teacher.seeds for _ in range(starts)]
    students = build_policy(spec, seeds, trust=True)  # these layers are running already
    for name, value in teacher.preprocess.state_dict().items():
        students.preprocess.get_buffer(name).copy_(value.repeat_interleave(starts, dim=0))
    drawn = [build(spec.network, teacher.seeds, f"student {k}", trust=True).state_dict() for k in range(starts)]
    weights = {name: torch.stack([each[name] for each in drawn], dim=1).flatten(0, 1) for name in drawn[0]}
    students.network.load_state_dict(weights)
    return students.to(next(teacher.network.parameters()).device)


@torch.no_grad()
def _best(students: Policy, teacher: Policy, make_envs: MakeEnvs, settings: DistilSettings) -> Policy:
    """Of each member's students the one with the lowest loss on states that all of them visit now."""
    lessons = _Lessons(students, teacher, make_envs, settings)
    found, goal = lessons.visit(settings.rounds)
    obs, begins, goal = (x.repeat_interleave(settings.starts, dim=0) for x in (found.obs, found.begins, goal))
    loss = lessons.loss(outputs(students, Visits(obs, begins).to(lessons.device)), goal.to(lessons.device)).mean(dim=1)
    first = torch.arange(0, len(students.seeds), settings.starts, device=loss.device)
    best = first + loss.view(-1, settings.starts).argmin(dim=1)
    kept = build_policy(students.spec, teacher.seeds, trust=True).to(loss.device)
    kept.load_state_dict({name: tensor[best] for name, tensor in students.state_dict().items()})
    return kept


def _train_mode(network: nn.Module) -> None:
    """Everything in training but what draws, such as dropout: a student is made as good as it can be on its own."""
    network.train()
    for module in network.modules():
        if hasattr(module, "draws"):
            module.training = False


def _check_finite(parameters: Sequence[Tensor], seeds: Sequence[int], updates: int) -> None:
    for parameter in parameters:
        broken = ~parameter.isfinite().flatten(1).all(dim=1)
        if broken.any():
            raise RlabError(
                f"a weight of the student of seed {seeds[int(broken.nonzero()[0])]} is not finite after {updates} "
                "updates; a lower learning rate or max_grad_norm often helps."
            )
