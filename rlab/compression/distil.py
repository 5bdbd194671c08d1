"""Distillation: a student of any size learns a teacher's policy on states that the teacher, then the student visits.

Soft labels after Hinton et al. (2015) and Rusu et al. (2016); states after DAgger (Ross et al. 2011, algorithm 3.1
with their parameter-free choice: the teacher acts in the first round and the student in all others, the teacher labels
every state). All members learn as one stack.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rlab.compression.visits import END_OF_VISIT_SEEDS, FIRST_VISIT_SEED, seeds_needed, visited
from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import EpisodeEnvs
from rlab.learning.choices import LrSchedule
from rlab.learning.common_config import OptimizerConfig
from rlab.learning.distillation import Teacher, distillation_loss, distilled_kinds
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.heads import build_head
from rlab.networks.layers import ACTIVATIONS
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
LABELLED_ROWS = 1024  # states of each member that are labelled at once, so that large images fit into memory


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
    learning_rate: float = 1e-2  # Adam
    lr_schedule: LrSchedule = "cosine"
    temperature: float | None = None  # of the outputs; None: 1 for logits, for Q values see `Q_SHARPNESS`
    hard: bool = False  # learn the teacher's greedy action alone
    starts: int = 1  # students per member, each from its own weights, of which the best is kept
    first_seed: int = FIRST_VISIT_SEED  # of the visits' episodes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "rounds", "rows", "updates", "batch_size", "starts")
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
    spec = student_spec(teacher.spec, student)
    students = _fresh(teacher, spec, settings.starts)
    retrain(students, teacher, make_envs, settings, after_update)
    return students if settings.starts == 1 else _best(students, teacher, make_envs, settings)


def student_spec(teacher: PolicySpec, student: Sequence[int] | NetworkSpec) -> PolicySpec:
    """A policy with the teacher's spaces, input and head around a smaller network; of a teacher with distributions over
    returns, of which a student learns the means alone, with Q values.

    Hidden widths make a network as agents do: convolutions for images, the teacher's activation, no LayerNorm, one
    stream even where the teacher has two; log standard deviations that no observation changes stay so.

    Raises:
        UsageError: a width is below 1 or no body suits the observations.
    """
    if isinstance(student, NetworkSpec):
        return replace(teacher, network=student)
    kinds = [layer.kind for _, layer in named_layers(teacher.network)]
    activation = next((kind for kind in kinds if kind in ACTIVATIONS), "relu")
    head = build_head(teacher.head, teacher.action_space, trust=True)  # the teacher runs already
    read = head.of_distilled
    head_json = teacher.head if read is head else {"kind": "q", "epsilon": teacher.head.get("epsilon", 0.0)}
    log_std = 0.0 if "log_std" in kinds else None
    body = BodySettings(tuple(student), activation)
    network = actor_network_spec(teacher.obs_space, read.width, body, output_gain=1.0, log_std=log_std)
    return replace(teacher, network=network, head=head_json)


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
    ends = [settings.updates * (k + 1) // settings.rounds for k in range(settings.rounds)]
    for round_, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        lessons.visit(round_)
        _train_mode(student.network)
        for update, (obs, labels) in enumerate(lessons.batches(round_, last - first), first):
            loss = lessons.loss(student.outputs(obs), labels).mean(dim=-1)
            optimizer.step(loss, optimizer.scheduled(Clock(update, settings.updates)))
            if after_update is not None:
                after_update(update + 1)
        student.eval()
        _check_finite(learning, student.seeds, last)
    for parameter in learning:
        parameter.data = parameter.data.clone()  # no longer a view of the optimizer's: safetensors refuses those
    return student


class _Lessons:
    """Visited states and the teacher's outputs in them: `[S, R, ...]`, S the teacher's members."""

    def __init__(self, student: Policy, teacher: Policy, make_envs: MakeEnvs, settings: DistilSettings) -> None:
        self.starts, rest = divmod(len(student.seeds), len(teacher.seeds))
        if rest or not self.starts:
            raise UsageError(f"{len(student.seeds)} students do not fit {len(teacher.seeds)} teachers.")
        self.student, self.teacher, self.make_envs, self.settings = student, teacher, make_envs, settings
        self._kinds = distilled_kinds(student.head, teacher.head)
        # A copy, since `Teacher` freezes the policy that it is given.
        self._teacher = Teacher(copy.deepcopy(teacher), student.head, 1.0, 1.0, settings.temperature)
        self._nvec = choices(teacher.spec.action_space)
        self.device = next(student.network.parameters()).device
        self.unit: Tensor | None = None  # [S * starts, 1, 1], of Q values; known from the first visits
        self._obs: list[Tensor] = []
        self._labels: list[Tensor] = []

    def visit(self, round_: int) -> tuple[Tensor, Tensor]:
        """The states of one more round, `[S, R, *obs]`, and their labels `[S, R, width]`."""
        seed = self.settings.first_seed + round_ * seeds_needed(self.settings.rows)
        if round_ == 0:
            obs = visited(self.teacher, self.make_envs, self.settings.rows, seed, self.settings.sampled)
        else:
            each = -(-self.settings.rows // self.starts)
            obs = visited(self.student, self.make_envs, each, seed, self.settings.sampled)
            obs = obs.reshape(len(self.teacher.seeds), -1, *obs.shape[2:])[:, : self.settings.rows]
        self._obs.append(torch.from_numpy(obs))
        self._labels.append(self._label(self._obs[-1]))
        if self.unit is None:
            self.unit = self._unit(self._labels[-1]).to(self.device)
        return self._obs[-1], self._labels[-1]

    def _label(self, obs: Tensor) -> Tensor:
        parts = [self._teacher.outputs(part.to(self.device)) for part in obs.split(LABELLED_ROWS, dim=1)]
        return torch.cat(parts, dim=1).cpu()

    def batches(self, round_: int, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of all rounds so far, `[S * starts, B, ...]`, drawn uniformly for each student."""
        obs, labels = torch.cat(self._obs, dim=1), torch.cat(self._labels, dim=1)
        self._obs, self._labels = [obs], [labels]
        shape = (updates, self.settings.batch_size)
        streams = [
            torch_stream(seed, f"distil {round_}/{i % self.starts}") for i, seed in enumerate(self.student.seeds)
        ]
        drawn = torch.stack([torch.randint(obs.shape[1], shape, generator=s) for s in streams], dim=1)  # [U, S * K, B]
        member = torch.arange(len(streams)).unsqueeze(1) // self.starts  # [S * K, 1]
        for rows in drawn:
            yield obs[member, rows].to(self.device), labels[member, rows].to(self.device)

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
    obs, labels = lessons.visit(settings.rounds)
    obs, labels = (x.repeat_interleave(settings.starts, dim=0) for x in (obs, labels))
    loss = torch.cat(
        [
            lessons.loss(students.outputs(o.to(lessons.device)), y.to(lessons.device))
            for o, y in zip(obs.split(LABELLED_ROWS, dim=1), labels.split(LABELLED_ROWS, dim=1), strict=True)
        ],
        dim=1,
    ).mean(dim=1)
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
