"""Weights that are 0, which learning leaves at 0: which and how many, by magnitude, and that they stay so.

Unstructured pruning: single weights of linear layers and convolutions go, biases and normalisations stay.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.learning.contract import Agent
from rlab.learning.regrouping import stepped_by
from rlab.networks.layers import WeightLayer, is_float_layer, is_stacked
from rlab.networks.merging import merges
from rlab.networks.own import check_layers
from rlab.types import Clock

# Percent of the budget between which `GradualPruning` prunes, once in every percent. Graesser et al. 2022: their code
# prunes from 20 % to 80 % of the updates on Atari and MuJoCo, and on classic control once in every percent.
BEGIN, END = 20, 80


@torch.no_grad()
def weight_masks(network: nn.Module, share: float, scope: str = "layer") -> dict[str, Tensor]:
    """Which weights of linear layers and convolutions stay: name of the parameter to bool of its shape.

    Magnitude pruning (Han et al. 2015): the weights with the smallest absolute values go. Biases stay. In a stack every
    member loses as many, each of its own choice. Of equals the first go.

    Args:
        network: plain or a stack, in float or prepared for quantization-aware training.
        share: of the weights that go, in [0, 1), rounded to whole weights.
        scope: `layer` takes the share of each layer, `global` compares the weights of all layers with each other. That
            may empty a layer whose weights are small, such as the last one of a policy, and an empty layer ends it all.

    Raises:
        UsageError: a share out of range, an unknown scope, or a network without weights in float.
    """
    if scope not in ("global", "layer"):
        raise unknown("scope", scope, ("global", "layer"))
    _check_share(share)
    weights, members = prunable(network)
    groups = [list(weights)] if scope == "global" else [[name] for name in weights]
    masks = {}
    for names in groups:
        sizes = [weights[name].numel() // members for name in names]
        magnitude = torch.cat([weights[name].reshape(members, -1).abs() for name in names], dim=1)  # [S, P]
        gone = magnitude.argsort(dim=1, stable=True)[:, : round(share * sum(sizes))]
        keep = torch.ones_like(magnitude, dtype=torch.bool).scatter(1, gone, False)
        for name, part in zip(names, keep.split(sizes, dim=1), strict=True):
            masks[name] = part.reshape(weights[name].shape)
    return masks


@torch.no_grad()
def nonzero(network: nn.Module) -> dict[str, Tensor]:
    """Masks that keep the weights which are not 0, as `weight_masks` gives them."""
    return {name: weight != 0 for name, weight in prunable(network)[0].items()}


@torch.no_grad()
def apply_masks(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights to 0, in place, that `masks` does not keep."""
    for name, keep in masks.items():
        network.get_parameter(name).masked_fill_(~keep, 0.0)


@torch.no_grad()
def sparsity(network: nn.Module) -> Tensor:
    """The share of weights of linear layers and convolutions that are 0: `[S]` of a stack, `[1]` of a plain network.

    Raises:
        UsageError: the network has no weights in float.
    """
    weights, members = prunable(network)
    zeros = torch.cat([(weight == 0).reshape(members, -1) for weight in weights.values()], dim=1)
    return zeros.float().mean(dim=1)


def gradual_sparsity(update: int, begin: int, end: int, final: float, initial: float = 0.0) -> float:
    """The share of weights that are 0 at this update: fast at first, slower the fewer are left.

    Zhu and Gupta (2017), equation 1: `s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3`, constant before and after.

    Args:
        begin, end: t_0 and t_0 + n dt, in updates.
    """
    progress = 1.0 if update >= end else max(0.0, (update - begin) / (end - begin))
    return final + (initial - final) * (1.0 - progress) ** 3


class MaskedTraining:
    """Keeps weights at 0 while a network learns: call `after_update` behind every step of the optimizer.

    Without a share the weights that are 0 now stay 0. With one, more and more go, by `gradual_sparsity`, chosen by
    their magnitude every `every` updates; what is 0 by then has the smallest magnitude, so it stays.

    Args:
        network: is changed in place; names of parameters and shapes must stay as they are.
        share: of the weights that are 0 at the end; None: those that are 0 now.
        begin, end: updates between which the share rises.
        every: updates between two choices.

    Raises:
        UsageError: a share, a period or a scope out of range, or a network without weights in float.
    """

    def __init__(
        self,
        network: nn.Module,
        share: float | None = None,
        begin: int = 0,
        end: int = 1,
        every: int = 20,
        scope: str = "layer",
    ) -> None:
        if not 0 <= begin < end or every < 1:
            raise UsageError(f"gradual pruning from update {begin} to {end} every {every} updates cannot be done.")
        if share is not None:
            _check_share(share)
        self.network, self.share, self.scope = network, share, scope
        self.begin, self.end, self.every = begin, end, every
        self.initial = float(sparsity(network).min())
        self.masks = nonzero(network)

    def after_update(self, update: int) -> None:
        """Apply the masks, and choose new ones when they are due; `update` counts from 1."""
        if self.share is not None and self._is_due(update):
            share = gradual_sparsity(update, self.begin, self.end, self.share, self.initial)
            self.masks = weight_masks(self.network, share, self.scope)
        apply_masks(self.network, self.masks)

    def _is_due(self, update: int) -> bool:
        return update == self.end or (self.begin <= update < self.end and (update - self.begin) % self.every == 0)


class GradualPruning:
    """A step hook of an optimizer: a policy's network becomes sparse while an agent learns.

    Gradual magnitude pruning (Zhu and Gupta 2017) as Graesser et al. (2022) train agents: between `BEGIN` and `END`
    percent of the budget more and more weights go by `gradual_sparsity`, those of the smallest magnitude. Every layer
    of every member ends with the share; the paper's best runs leave more to small layers.

    Every weight that is 0 stays 0, so that the zeros are the masks: nothing has to be saved, a run that goes on does
    so with the same bits, and the zeros of a sparse policy that a run begins from are kept. Layers that do not learn
    are pruned as well.

    Args:
        share: of the weights that are 0 in the end, in (0, 1).
        network: the policy's; it is changed in place.

    Raises:
        UsageError: a share out of range, or a network without weights in float or with adapters.
    """

    def __init__(self, share: float, network: nn.Module) -> None:
        _check_share(share)
        merging = [type(layer).__name__ for layer in network.modules() if merges(layer)]
        if merging:
            raise UsageError(
                f"sparsity {share}: a {merging[0]} merges into an ordinary layer when training is over, which may fill "
                "zeros; take another layer or strategy, or prune the trained policy with rlab compress."
            )
        check_layers(network, "--sparsity cannot be done")
        prunable(network)
        self.share, self.network = share, network
        self._percent: int | None = None  # of the budget, when weights were last chosen by this object
        self._zeros: Tensor | None = None  # [S], the share of weights that were 0 then

    @classmethod
    def of_policy(cls, share: float, agent: Agent) -> "GradualPruning":
        """Hooked into each optimizer that trains some of the network of an agent's policy: a step of any of them could
        fill zeros.

        Raises:
            UsageError: none does, or as the constructor.
        """
        network = agent.policy().network
        pruning, own = cls(share, network), {id(parameter) for parameter in network.parameters()}
        training = [each for each in agent.optimizers.values() if stepped_by(each) & own]
        if not training:
            raise UsageError(f"sparsity {share}: no optimizer of {type(agent).__name__} trains its policy's network.")
        for optimizer in training:
            optimizer.hooks.append(pruning)
        return pruning

    def at(self, clock: Clock) -> None:
        """Choose weights again once per percent of the budget."""
        percent = min(max(100 * clock.env_steps // clock.total_env_steps, BEGIN), END)
        if percent != self._percent:  # in a run that goes on the first choice is the last one again, so nothing moves
            self._percent = percent
            apply_masks(self.network, weight_masks(self.network, gradual_sparsity(percent, BEGIN, END, self.share)))
            self._zeros = sparsity(self.network)

    def next_event(self, clock: Clock) -> int:
        """When the next percent of the budget begins."""
        percent = 100 * clock.env_steps // clock.total_env_steps + 1
        return -(-percent * clock.total_env_steps // 100)

    def before(self) -> dict[str, Tensor]:
        """What is not 0."""
        return nonzero(self.network)

    def after(self, before: dict[str, Tensor]) -> None:
        """Leave at 0 what was."""
        apply_masks(self.network, before)

    def metrics(self) -> dict[str, Tensor]:
        """What part of the weights is 0; nothing before the first `at`."""
        return {} if self._zeros is None else {"sparsity/zeros": self._zeros}


def prunable(network: nn.Module) -> tuple[dict[str, nn.Parameter], int]:
    """The weights of linear layers and convolutions by name, and S, which is 1 for a plain network."""
    found: dict[str, nn.Parameter] = {}
    members = 1
    for name, layer in network.named_modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or not (is_float_layer(layer) or isinstance(layer, WeightLayer)):
            continue
        found[f"{name}.weight".lstrip(".")] = weight
        if is_stacked(layer):
            members = weight.shape[0]
    if not found:
        raise UsageError("the network has no weights in float that could be pruned; prune it before quantizing.")
    return found, members


def _check_share(share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise UsageError(f"the share of weights to prune must be in [0, 1), not {share}.")
