"""Policy heads: what a network's outputs say about actions.

A head is pure functions of tensors on their trailing dimensions. `act` draws nothing: a sample is the action that
perturbed outputs make the most likely, and the perturbation is passed in as noise, so that acting compiles and exports.
Actions have the form in which replay keeps them and agents learn from them; `to_env` gives what `env.step` takes.
"""

from collections.abc import Sequence
from math import prod
from typing import Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.networks import distributions as dist
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from rlab.trust import Trust, trusted
from rlab.types import Json

AnySpace = TypeVar("AnySpace", Box, Discrete, MultiBinary, MultiDiscrete)

# kind of head -> its class, called as `Head(head as JSON, action space)` and imported when the kind is first named. A
# head from outside rlab is named `their.module:Head` in the same way, and needs trust.
HEADS: dict[str, str] = {
    "q": "rlab.networks.value_heads:QHead",
    "categorical_value": "rlab.networks.value_heads:CategoricalValueHead",
    "quantile": "rlab.networks.value_heads:QuantileHead",
    "implicit_quantile": "rlab.networks.value_heads:ImplicitQuantileHead",
    "categorical": "rlab.networks.heads:CategoricalHead",
    "multi_categorical": "rlab.networks.heads:MultiCategoricalHead",
    "bernoulli": "rlab.networks.heads:BernoulliHead",
    "gaussian": "rlab.networks.continuous_heads:GaussianHead",
    "squashed_gaussian": "rlab.networks.continuous_heads:SquashedGaussianHead",
    "deterministic": "rlab.networks.continuous_heads:DeterministicHead",
}
STOCHASTIC_HEADS = ("categorical", "multi_categorical", "bernoulli", "gaussian", "squashed_gaussian")


class Head(nn.Module):
    """What every head offers. It is a module so that its constants move along to a device; it has no parameters and
    nothing in the state dict.

    `width` is the number of network outputs, `mask_width` the bits of an action mask, None where the head takes none.
    A mask is bool `[..., mask_width]`, true where an action is allowed, and allows one action or more in each row.
    """

    width: int
    mask_width: int | None
    # The kind of head whose outputs `to_distil` gives: what teachers and students compare.
    distils_as: str | None = None

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()

    def act(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The greedy action: `outputs [..., width]` to `[..., *action]`.

        Raises:
            UsageError: a mask is given, and these actions take none.
        """
        raise NotImplementedError

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        """Actions as in training, drawn from one generator per member.

        `outputs` are `[S, B, width]` for S generators, `[B, width]` for one.
        """
        raise NotImplementedError

    def sampling(self, epsilon: float | None, own_streams: bool) -> Self:
        """The head that `policy(obs, greedy=False, epsilon=...)` samples with.

        Args:
            own_streams: the caller passes generators, so that no exploration is taken as it is.

        Raises:
            UsageError: epsilon is not for this head, or there is no exploration to sample with.
        """
        if epsilon is not None:
            raise UsageError("epsilon is for policies of Q values; this one samples from its own distribution.")
        if not self.explores and not own_streams:
            raise UsageError("greedy=False: this policy records no exploration, so that it has greedy actions alone.")
        return self

    def to_env(self, action: Tensor) -> Tensor:
        """What `env.step` accepts of an action that `act` or `sample` gave."""
        return action

    def to_distil(self, outputs: Tensor) -> Tensor:
        """The outputs `[..., width]` as a head of the kind `distils_as` has them; the gradient passes."""
        return outputs

    @property
    def of_distilled(self) -> "Head":
        """The head that reads what `to_distil` gives."""
        return self

    @property
    def explores(self) -> bool:
        """Whether `sample` gives anything but the greedy action."""
        return True

    @property
    def half_range(self) -> Tensor | None:
        """Half of the range `[elements of an action]` of continuous actions; None where actions are choices or bits."""
        return None

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)


class StochasticHead(Head):
    """A head whose outputs are the parameters of a distribution over actions.

    `noise` is the kind of noise that `act` wants, a name of `draw_noise`, and `noise_width` how many numbers of it.
    """

    noise: str
    noise_width: int

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """An action `[..., *action]`: a sample with `noise [..., noise_width]`, without it what noise of 0 gives."""
        raise NotImplementedError

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log probability (or density) `[...]` of actions as `act` gave them, in nats; -inf for a forbidden one."""
        raise NotImplementedError

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The entropy `[...]` of the action, in nats."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        noise = standard_noise(self.noise, outputs.shape[:-1], self.noise_width, generators)
        return self.act(outputs, mask, noise.to(outputs.device))


class CategoricalHead(StochasticHead):
    """`categorical`: one logit per action. Actions are int64 `[...]`, counted from 0.

    The largest logit after Gumbel noise is a sample of the softmax (Gumbel 1954).
    """

    noise = "gumbel"
    distils_as = "categorical"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        space = fitting(Discrete, action_space, "categorical")
        self.width = self.noise_width = self.mask_width = space.n
        self.start = space.start

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return dist.only(outputs if noise is None else outputs + noise, mask).argmax(dim=-1)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_log_prob(dist.only(outputs, mask), action)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_entropy(outputs, mask)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start


class MultiCategoricalHead(StochasticHead):
    """`multi_categorical`: independent choices, their logits (and the bits of a mask) one choice after another.

    Actions are int64 of the space's shape, counted from 0. A choice of which a mask allows nothing may take anything.
    """

    noise = "gumbel"
    distils_as = "multi_categorical"
    start: Tensor  # [*action]
    place: Tensor  # [k, n]: where among the outputs the n-th logit of each choice is; 0 behind the last
    real: Tensor  # [k, n]: false behind the last

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        space = fitting(MultiDiscrete, action_space, "multi_categorical")
        self.width = self.noise_width = self.mask_width = sum(space.nvec)
        self.shape = space.shape
        sizes, column = np.array(space.nvec)[:, None], np.arange(max(space.nvec))
        real = column < sizes
        self._constant("place", np.where(real, np.cumsum(sizes)[:, None] - sizes + column, 0))
        self._constant("real", real)
        self._constant("start", np.array(space.start, np.int64).reshape(space.shape))

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        logits = (outputs if noise is None else outputs + noise)[..., self.place]  # [..., k, n]
        action = dist.only(logits, self._allowed(mask)).argmax(dim=-1)
        return action.reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        choices = action.reshape(*outputs.shape[:-1], len(self.place))
        return dist.choice_log_prob(dist.only(outputs[..., self.place], self._allowed(mask)), choices).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_entropy(outputs[..., self.place], self._allowed(mask)).sum(dim=-1)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start

    def _allowed(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.real
        bits = mask[..., self.place] & self.real
        return bits | (self.real & ~bits.any(dim=-1, keepdim=True))


class BernoulliHead(StochasticHead):
    """`bernoulli`: one logit per bit, independent of each other. Actions are int8 of the space's shape."""

    noise, mask_width = "logistic", None
    distils_as = "bernoulli"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self.shape = fitting(MultiBinary, action_space, "bernoulli").shape
        self.width = self.noise_width = prod(self.shape)

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        refuse_mask(mask)
        bits = (outputs if noise is None else outputs + noise) > 0
        return bits.to(torch.int8).reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_mask(mask)
        sign = 2 * action.reshape(outputs.shape).to(outputs.dtype) - 1
        return F.logsigmoid(sign * outputs).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_mask(mask)
        return (F.softplus(outputs) - outputs * outputs.sigmoid()).sum(dim=-1)


def head_class(kind: str, trust: Trust = False) -> type[Head]:
    """The class of a kind of head, or of anyone's head by `their.module:Head`.

    Raises:
        UsageError: the kind is unknown, or there is no such class.
        RlabError: it is code from outside rlab and `trust` is false.
    """
    if ":" not in kind and kind not in HEADS:
        raise unknown("policy head", kind, HEADS)
    found = trusted("policy head", HEADS.get(kind, kind), kind in HEADS or trust)
    if not (isinstance(found, type) and issubclass(found, Head)):
        raise UsageError(f"policy head {kind!r} is not a class derived from rlab.networks.heads.Head.")
    return found


def build_head(head: Json, action_space: Space, trust: Trust = False) -> Head:
    """The head that `head["kind"]` names, for these actions.

    Raises:
        UsageError: as `head_class`, there is no kind, or it does not suit the actions.
        RlabError: it is code from outside rlab and `trust` is false.
    """
    if "kind" not in head:
        raise UsageError(f"the policy head {head} has no kind; known: {', '.join(sorted(HEADS))}, or module:Class.")
    return head_class(head["kind"], trust)(head, action_space)


def stochastic_head_json(action_space: Space, squash: bool) -> dict[str, str]:
    """The head that an actor-critic agent uses for these actions; `squash` concerns a Box alone.

    Raises:
        UsageError: no head suits the actions.
    """
    kinds = {
        Discrete: "categorical",
        MultiDiscrete: "multi_categorical",
        MultiBinary: "bernoulli",
        Box: "squashed_gaussian" if squash else "gaussian",
    }
    for space, kind in kinds.items():
        if isinstance(action_space, space):
            return {"kind": kind}
    raise UsageError(f"actions {action_space} have no policy head; Discrete, MultiDiscrete, MultiBinary and Box have.")


def draw_noise(kind: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Float32 numbers of the distribution `gumbel`, `logistic` or `normal` in its standard form, on the generator's
    device."""
    if kind == "normal":
        return torch.randn(shape, generator=generator, device=generator.device)
    # In double precision, since float32 would cut the tails off at probabilities of 6e-8.
    uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    uniform.clamp_(min=torch.finfo(torch.float64).tiny)  # it may be 0, and is never 1
    noise = {"gumbel": lambda u: -(-u.log()).log(), "logistic": torch.logit}[kind](uniform)
    return noise.float()


def standard_noise(kind: str, lead: torch.Size, width: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Noise `[*lead, width]` as `draw_noise` gives it, each generator's for as many of the leading rows."""
    shape = (lead.numel() // len(generators), width)
    return torch.stack([draw_noise(kind, shape, generator) for generator in generators]).reshape(*lead, width)


def fitting(kind: type[AnySpace], space: Space, head: str) -> AnySpace:
    """The space, which a head of this name needs to be of this kind."""
    if not isinstance(space, kind):
        raise UsageError(f"the policy head {head!r} is for {kind.__name__} actions, not {space}.")
    return space


def refuse_mask(mask: Tensor | None) -> None:
    """Of actions that take no mask."""
    if mask is not None:
        raise UsageError("only Discrete and MultiDiscrete actions take a mask.")
