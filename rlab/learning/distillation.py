"""Learning from a teacher: how far a student's actions are from a teacher's, and the loss term of a teacher."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rlab.errors import UsageError, unknown
from rlab.experience.fields import Field
from rlab.learning.contract import Batch
from rlab.learning.exploration import linear
from rlab.learning.policy_gradient import mean
from rlab.networks.continuous_heads import LOG_STD
from rlab.networks.distributions import normal_log_density, only
from rlab.networks.heads import Head
from rlab.networks.memory import State
from rlab.networks.policy import Policy
from rlab.networks.spaces import choices
from rlab.types import Clock

Q_TEMPERATURE = 0.01  # Rusu et al. 2016, section 3.1: Q values are sharpened before they serve as logits

# What a student's head distils as (`Head.distils_as`) -> what its teachers' heads may distil as: outputs that mean the
# same in the same units. A head from outside rlab takes part as one of these.
TEACHERS = {
    "q": ("q", "categorical"),
    "categorical": ("q", "categorical"),
    "multi_categorical": ("multi_categorical",),
    "bernoulli": ("bernoulli",),
    "gaussian": ("gaussian",),
    "squashed_gaussian": ("squashed_gaussian",),
    "deterministic": ("deterministic",),
}
TEMPERED = ("q", "categorical", "multi_categorical", "bernoulli")  # whose outputs are divided by a temperature


def distillation_loss(
    student: Tensor,
    student_kind: str,
    teacher: Tensor,
    teacher_kind: str,
    temperature: float | None = None,
    student_temperature: float | None = None,
    nvec: Sequence[int] = (),
    hard: bool = False,
) -> Tensor:
    """How far a student's policy is from a teacher's, one value per row, 0 where they agree.

    The divergence KL(teacher || student) in nats, which is their cross-entropy less the teacher's own entropy, so that
    its gradient is the cross-entropy's (Hinton et al. 2015; Rusu et al. 2016, equation 3). Q values are logits once
    they are divided by a temperature. For Gaussians it is that of the normal variables before clipping or squashing,
    in closed form; for deterministic actions half the squared distance of what tanh makes of the outputs.

    Args:
        student, teacher: what the networks say, `[..., width]`. A choice that the teacher has at -inf is forbidden and
            counts for neither.
        student_kind, teacher_kind: what their policy heads distil as, keys of `TEACHERS`.
        temperature: what the teacher's outputs are divided by; None: 1 for logits, `Q_TEMPERATURE` for Q values.
        student_temperature: the same for the student, whose loss is multiplied by it, so that its gradient keeps
            within [-1, 1]; multiply once more for Hinton's T^2. None: 1 for logits; for Q values the teacher's where
            that has Q values too, else `Q_TEMPERATURE`.
        nvec: of `multi_categorical`: how many options each choice has.
        hard: learn the teacher's greedy action alone: the negative log probability (or density) that the student gives
            to it.

    Returns:
        `[...]`; no gradient flows into the teacher.

    Raises:
        UsageError: the two heads do not speak of the same thing, a temperature is not above 0, or a Gaussian has one.
        ValueError: the shapes differ.
    """
    check_kinds(student_kind, teacher_kind)
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape")
    soft, student_soft = _temperatures(student_kind, teacher_kind, temperature, student_temperature)
    return student_soft * LOSSES[student_kind](student / student_soft, teacher.detach() / soft, hard, nvec)


def check_kinds(student_kind: str, teacher_kind: str) -> None:
    """Refuse a teacher whose outputs mean something else than the student's.

    Raises:
        UsageError: naming both.
    """
    for kind in (student_kind, teacher_kind):
        if kind not in TEACHERS:
            raise unknown("policy head", kind, TEACHERS)
    if teacher_kind not in TEACHERS[student_kind]:
        able = " or ".join(repr(kind) for kind in TEACHERS[student_kind])
        raise UsageError(f"a student with the policy head {student_kind!r} learns from {able}, not {teacher_kind!r}.")


def distilled_kinds(student: Head, teacher: Head) -> tuple[str, str]:
    """What the two heads distil as.

    Raises:
        UsageError: one of them takes no part in distillation, or they do not fit each other.
    """
    kinds = []
    for head in (student, teacher):
        if head.distils_as is None:
            raise UsageError(
                f"the policy head {type(head).__name__} cannot teach, nor learn from a teacher: its class does not say "
                f"distils_as, one of {', '.join(TEACHERS)}."
            )
        kinds.append(head.distils_as)
    check_kinds(*kinds)
    return kinds[0], kinds[1]


def labels(teacher: Policy, obs: Tensor, outputs: Tensor) -> Tensor:
    """What a student learns from a teacher's outputs `[..., width]` for observations `[..., *obs]` in array form: as
    its head distils them, and -inf where the observation forbids an action, which `distillation_loss` leaves out."""
    outputs, mask = teacher.head.to_distil(outputs), teacher.preprocess.mask(obs)
    if mask is None:
        return outputs
    nvec = choices(teacher.spec.action_space)
    parts = [bits | ~bits.any(dim=-1, keepdim=True) for bits in mask.split(nvec, dim=-1)]
    return only(outputs, torch.cat(parts, dim=-1))


def check_temperature(student: Head, teacher: Head, temperature: float | None) -> tuple[str, str]:
    """What the two heads distil as.

    Raises:
        UsageError: as `distilled_kinds`, or the temperature is not one for them.
    """
    kinds = distilled_kinds(student, teacher)
    _temperatures(*kinds, temperature, None)
    return kinds


def _temperatures(
    student_kind: str, teacher_kind: str, temperature: float | None, student_temperature: float | None
) -> tuple[float, float]:
    """What the teacher's and the student's outputs are divided by."""
    given = [t for t in (temperature, student_temperature) if t is not None]
    if not all(0.0 < t < math.inf for t in given):
        raise UsageError(f"a temperature must be above 0, not {' and '.join(map(str, given))}.")
    if student_kind not in TEMPERED and any(t != 1.0 for t in given):
        raise UsageError(f"a temperature is for choices and bits; {student_kind} actions have none.")
    soft = temperature or (Q_TEMPERATURE if teacher_kind == "q" else 1.0)
    sharp = soft if teacher_kind == "q" else Q_TEMPERATURE
    return soft, student_temperature or (sharp if student_kind == "q" else 1.0)


def _choices(student: Tensor, teacher: Tensor, hard: bool, nvec: Sequence[int]) -> Tensor:
    """Of the logits of several choices, one choice after another."""
    pairs = zip(student.split(list(nvec), dim=-1), teacher.split(list(nvec), dim=-1), strict=True)
    return torch.stack([_choice(s, t, hard, nvec) for s, t in pairs]).sum(dim=0)


def _choice(student: Tensor, teacher: Tensor, hard: bool, nvec: Sequence[int]) -> Tensor:
    """Of logits `[..., A]`."""
    forbidden = teacher.isneginf()
    log_student = student.masked_fill(forbidden, -torch.inf).log_softmax(dim=-1)
    if hard:
        return -log_student.gather(-1, teacher.argmax(dim=-1, keepdim=True)).squeeze(-1)
    log_teacher = teacher.log_softmax(dim=-1)
    # 0 times -inf is NaN
    difference = log_teacher.masked_fill(forbidden, 0.0) - log_student.masked_fill(forbidden, 0.0)
    return (log_teacher.exp() * difference).sum(dim=-1)


def _bernoulli(student: Tensor, teacher: Tensor, hard: bool, nvec: Sequence[int]) -> Tensor:
    """Of one logit per bit, `[..., bits]`."""
    if hard:
        return F.softplus(torch.where(teacher > 0, -student, student)).sum(dim=-1)
    yes, no = teacher.sigmoid(), (-teacher).sigmoid()
    on = F.logsigmoid(teacher) - F.logsigmoid(student)
    off = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return (yes * on + no * off).sum(dim=-1)


def _gaussian(student: Tensor, teacher: Tensor, hard: bool, nvec: Sequence[int]) -> Tensor:
    """Of means and log standard deviations, `[..., 2d]`; the log deviations are kept where the heads keep them."""
    (mean, log_std), (goal, goal_log_std) = student.chunk(2, dim=-1), teacher.chunk(2, dim=-1)
    log_std, goal_log_std = log_std.clamp(*LOG_STD), goal_log_std.clamp(*LOG_STD)
    if hard:
        return -normal_log_density(goal, mean, log_std).sum(dim=-1)
    ratio = goal_log_std - log_std
    spread = (2.0 * ratio).exp() + ((goal - mean) * (-log_std).exp()).square()
    return (0.5 * (spread - 1.0) - ratio).sum(dim=-1)


def _deterministic(student: Tensor, teacher: Tensor, hard: bool, nvec: Sequence[int]) -> Tensor:
    """Of one number per element before tanh, `[..., d]`."""
    return 0.5 * (student.tanh() - teacher.tanh()).square().sum(dim=-1)


# what the student's head distils as -> loss of outputs, which are divided by their temperatures
LOSSES: dict[str, Callable[[Tensor, Tensor, bool, Sequence[int]], Tensor]] = {
    "q": _choice,
    "categorical": _choice,
    "multi_categorical": _choices,
    "bernoulli": _bernoulli,
    "gaussian": _gaussian,
    "squashed_gaussian": _gaussian,
    "deterministic": _deterministic,
}


class Teacher:
    """A loss term: a frozen teacher whose policy a learning agent is drawn towards, less and less (kickstarting).

    Schmitt et al. (2018), equation 4: the agent's loss plus a weight times the cross-entropy of teacher and student.
    Here the weight falls linearly to 0 instead of being found by population-based training, and the teacher's own
    entropy is subtracted, so that the loss is 0 where the two agree. A teacher with memory follows the agent's episodes
    with a state of its own.

    Args:
        teacher: one member for each of the agent's, over the same observation space and the same actions.
        student: the student's policy head.
        weight: of the distillation loss at the start.
        fraction: of the budget over which the weight falls to 0.
        temperature: by which the teacher's outputs are divided; None: 1 for logits, `Q_TEMPERATURE` for Q values.

    Raises:
        UsageError: a number out of range, or a teacher whose policy head cannot teach such a student.
    """

    name = "teacher"

    def __init__(
        self, teacher: Policy, student: Head, weight: float, fraction: float, temperature: float | None = None
    ) -> None:
        if not 0.0 <= weight < math.inf:
            raise UsageError(f"the weight {weight} of a teacher must be 0 or more.")
        if not 0.0 <= fraction <= 1.0:
            raise UsageError(f"the share {fraction} of the budget that a teacher guides must be in [0, 1].")
        self._student, self._kinds = student, check_temperature(student, teacher.head, temperature)
        self.teacher = teacher.requires_grad_(False).eval()
        self._weight, self._fraction, self._temperature = weight, fraction, temperature
        self._nvec = choices(teacher.spec.action_space)

    def fields(self) -> tuple[Field, ...]:
        """With memory the teacher's outputs are kept with each row, since they depend on the rows before."""
        width = self.teacher.head.of_distilled.width
        return (Field(self.name, (width,), "float32"),) if self.teacher.has_memory else ()

    def initial_state(self, rows: int) -> State:
        """The teacher's own."""
        return self.teacher.initial_state(rows)

    @torch.no_grad()
    def act(self, obs: Tensor, state: State) -> tuple[Batch, State]:
        """The teacher's outputs at a step of the agent's, and its next state."""
        outputs, following = self.teacher.step(obs, state)
        return {self.name: labels(self.teacher, obs, outputs)}, following

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """The teacher's outputs beside the agent's rows."""
        if self.teacher.has_memory:
            return {self.name: batch[self.name]}
        return {self.name: labels(self.teacher, batch["obs"], self.teacher.outputs(batch["obs"]))}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """How far the student, by its network's outputs, is from the teacher, a mean over the batch `[S]`, in which
        rows count by their `weight [S, B]` where they have one."""
        student, teacher = self._kinds
        outputs = self._student.to_distil(outputs)
        error = distillation_loss(outputs, student, batch["teacher"], teacher, self._temperature, nvec=self._nvec)
        return error.mean(dim=-1) if "weight" not in batch else mean(error, batch["weight"])

    def weight(self, clock: Clock) -> float:
        """The weight of the loss at this time: exactly 0 from `fraction` of the budget on."""
        return linear(self._weight, 0.0, self._fraction, clock.progress)
