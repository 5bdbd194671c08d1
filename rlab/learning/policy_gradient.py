"""The arithmetic of policy gradients: tensors in, tensors out, on trailing dimensions.

T is the last axis of a rollout `[..., T]`, in time order; B the last axis of a minibatch `[..., B]`. `weight` is 1 for
a row that counts and 0 for one that does not, such as a reset row. A reset row stands right behind an end, and nothing
flows back across an end: whatever it holds reaches no other row, as long as it is finite.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlab.ranks import batch_sums

EPSILON = 1e-8  # added to a standard deviation before dividing by it, as in openai/baselines
ROUNDING = 1e-10  # of the mean square: numbers that vary by less than this differ by float32's rounding alone


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), `[..., T]`.

    A termination ends the sum and is worth nothing; a time limit ends the sum and is worth the value of what it led to;
    the rollout's last row is worth that too.

    Args:
        value: of the observation that each row acted on.
        next_value: of the true successor of each row, also where an episode was cut.
        terminated, truncated: bool; where both are true the row terminated.
        gamma, gae_lambda: numbers, or numbers that broadcast over the rows.

    Raises:
        ValueError: the shapes differ; broadcast, they would mix rows without an error.
    """
    _check_shapes(reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    delta = reward + gamma * next_value * ~terminated - value
    carry = gamma * gae_lambda * (~(terminated | truncated)).to(delta.dtype)
    return accumulate(delta, carry, delta.new_zeros(delta.shape[:-1]))


def returns_to_go(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float | Tensor
) -> Tensor:
    """The discounted sum of rewards from each row to the end of its episode, `[..., T]` (Williams 1992).

    Where the episode was cut, by a time limit or by the rollout's end, `next_value` of the last row stands for what
    would have followed.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    cut = truncated & ~terminated
    worth = reward + gamma * next_value * cut
    carry = gamma * (~(terminated | truncated)).to(reward.dtype)
    return accumulate(worth, carry, next_value[..., -1])


def completed(terminated: Tensor, truncated: Tensor) -> Tensor:
    """True for the rows `[..., T]` whose episode terminates within the rollout: nothing of its return is missing."""
    ends = terminated.float()
    return accumulate(ends, (~(terminated | truncated)).float(), torch.zeros_like(ends[..., 0])) > 0


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float | Tensor) -> Tensor:
    """PPO's loss of each row (Schulman et al. 2017, equation 7), to be minimised: `[..., B]`.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(ratio=ratio, advantage=advantage)
    held = ratio.clamp(1.0 - clip, 1.0 + clip)  # type: ignore[arg-type]  # two numbers, or two tensors
    return torch.maximum(-advantage * ratio, -advantage * held)


def value_loss(
    value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | Tensor | None = None
) -> Tensor:
    """Half the squared error of each row, `[..., B]`.

    With `clip` a prediction that has moved further than that from `old_value` is held there, where this makes the loss
    larger (openai/baselines' ppo2; "value function loss clipping" in Huang et al. 2022, detail 9).

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(value=value, target=target)
    loss = 0.5 * (value - target).square()
    if clip is None or old_value is None:
        return loss
    _check_shapes(value=value, old_value=old_value)
    held = old_value + (value - old_value).clamp(-clip, clip)  # type: ignore[arg-type]  # as above
    return torch.maximum(loss, 0.5 * (held - target).square())


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """The old policy's divergence from the new one, an estimate of each row that is never negative, `[..., B]`.

    "k3" of Schulman (2020), Approximating KL Divergence: (ratio - 1) - log ratio.
    """
    # exp, then - 1, would round away all of a small ratio's estimate and often leave less than zero.
    return log_ratio.expm1() - log_ratio


def mean(value: Tensor, weight: Tensor) -> Tensor:
    """The mean over the rows that count, `[..., B] -> [...]`; 0 where none does.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(value=value, weight=weight)
    total, count = batch_sums((value * weight).sum(dim=-1), weight.sum(dim=-1))
    return total / count.clamp(min=1.0)


def normalised(value: Tensor, weight: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the rows that count. Rows that are all alike become 0, never NaN."""
    centred = _centred(value, weight)
    deviation = mean(centred.square(), weight).sqrt().unsqueeze(-1)
    return (centred / (deviation + EPSILON)).to(value.dtype)


def explained_variance(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - Var(target - value) / Var(target) over the rows that count, `[..., B] -> [...]`: 1 is perfect, 0 is what a
    constant explains. Where the targets do not vary it is 0."""
    variance = mean(_centred(target, weight).square(), weight)
    varies = variance > ROUNDING * mean(target.double().square(), weight)
    left = mean(_centred(target - value, weight).square(), weight)
    explained = 1.0 - left / torch.where(varies, variance, 1.0)
    return torch.where(varies, explained, 0.0).to(value.dtype)


def accumulate(worth: Tensor, carry: Tensor, behind: Tensor) -> Tensor:
    """x_t = worth_t + carry_t * x_{t+1}, backwards from `behind [...]`, over the last axis of `[..., T]`.

    By doubling (Hillis and Steele 1986): after k rounds x_t holds the terms of 2^k rows, so that log2(T) rounds over
    all rows at once do, instead of T steps.
    """
    rows = worth.shape[-1]
    # What the last row carries is added first, and nothing is behind it then.
    x = worth + F.pad((carry[..., -1] * behind).unsqueeze(-1), (rows - 1, 0))
    carry = F.pad(carry[..., :-1], (0, 1))
    reach = 1
    while reach < rows:
        here, there = carry[..., :-reach], slice(reach, None)
        x, carry = x + F.pad(here * x[..., there], (0, reach)), F.pad(here * carry[..., there], (0, reach))
        reach *= 2
    return x


def _centred(value: Tensor, weight: Tensor) -> Tensor:
    """Less the mean, in double: in float32 rows that are all alike keep a rounding error, of which `normalised` would
    make a number near 1."""
    value = value.double()
    return value - mean(value, weight).unsqueeze(-1)


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("shapes must be equal: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
