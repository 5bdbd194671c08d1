"""What the agents have in common that learn a policy, or the body of one, from a dataset: settings, a policy, the
optimizer, and how far a policy is from the actions in the data. An agent adds its settings and its loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler, UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.actor_critic import actor_spec, policy_parts
from rlab.learning.choices import ObsScaling
from rlab.learning.common_config import StochasticPolicyConfig
from rlab.learning.contract import Batch, Now, Scheduled
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.per_member import OF_OPTIMIZERS
from rlab.networks.continuous_heads import GaussianHead, SquashedGaussianHead
from rlab.networks.distributions import only
from rlab.networks.heads import STOCHASTIC_HEADS, StochasticHead, stochastic_head_json
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.memory import State
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, choices
from rlab.networks.spec import (
    LayerSpec,
    NetworkSpec,
    StackedNetwork,
    build,
    draw_states,
    in_training,
    load_draw_states,
)
from rlab.ranges import check_counts, check_shares_below_one
from rlab.search_ranges import searched
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class CloningConfig(StochasticPolicyConfig):
    """The settings that these agents share; each states its own defaults where they differ."""

    batch_size: int = searched(256, 32, 1024, "powers")  # rows per update and member
    # share of the policy's hidden units set to zero in updates; Srivastava et al. 2014
    dropout: float = searched(0.0, 0.0, 0.5, source="Srivastava et al. 2014")
    obs_scaling: ObsScaling = "none"  # of vectors; fixed: by obs_scale, running: by mean and deviation of all data
    lr_final: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "batch_size")
        check_shares_below_one(self, "dropout")


class Cloner:
    """A policy for S members, learned from a dataset; the clock counts updates.

    Subclasses give `networks`, `prepare` and `update`, and make `optimizer` when all networks are there.
    """

    Config: ClassVar[type] = CloningConfig
    data: ClassVar[str] = "dataset"
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete, MultiDiscrete, MultiBinary, Box)
    heads: ClassVar[tuple[str, ...]] = STOCHASTIC_HEADS
    per_member: ClassVar[tuple[str, ...]] = OF_OPTIMIZERS
    optimizer: StackedOptimizer

    def __init__(
        self,
        config: CloningConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        self.config, self.seeds, self.device = config, tuple(seeds), device
        self._obs_space, self._action_space = obs_space, action_space
        spec = start or cloning_spec(config, obs_space, action_space)
        self.head, self.preprocess, self.actor, self._policy = policy_parts(spec, seeds, device)

    def _optimizer_of(self, networks: Iterable[nn.Module]) -> StackedOptimizer:
        """The optimizer of all parameters of these networks."""
        parameters = [parameter for network in networks for parameter in network.parameters()]
        return StackedOptimizer(OptimizerSettings.of(self.config), parameters, members=len(self.seeds))

    def _fresh(self, spec: NetworkSpec, use: str) -> StackedNetwork:
        """A network beside the policy; its dropout, if it has any, is off."""
        network = build(spec, self.seeds, use, trust=True).to(self.device)  # as the policy's, see `policy_parts`
        network.eval()
        return network

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        """The policy head, as plain data."""
        return stochastic_head_json(action_space, config.squash)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name; the first is the policy's."""
        raise NotImplementedError

    @property
    def optimizers(self) -> dict[str, StackedOptimizer]:
        return {"all": self.optimizer}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names."""
        self._policy.load_state_dict(tensors, strict=False)

    def fields(self) -> tuple[Field, ...]:
        obs, action = self._obs_space, self._action_space
        return Field("obs", obs.shape, obs.dtype), Field("action", action.shape, action.dtype)

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        return UniformSampler(storage, draws)

    def scheduled(self, clock: Clock) -> Scheduled:
        return self.optimizer.scheduled(clock)

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Greedy actions `[S, N, *action]` for observations `[S, N, *obs]`: nothing is explored."""
        with torch.no_grad():
            return Acted(self.head.act(self._policy.outputs(obs), self.preprocess.mask(obs)))

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """Nothing to follow: no env is stepped."""

    def fit_statistics(self, obs: Tensor, valid: Tensor) -> None:
        """Fold all observations of the data `[S, R, *obs]` into the running statistics, where `valid [S, R]`."""
        self.preprocess.observe(obs, valid)

    def policy(self) -> Policy:
        return self._policy

    def state(self) -> dict[str, Any]:
        """The policy, every other network under its name, the optimizer and the dropout's streams."""
        others = {name: network.state_dict() for name, network in list(self.networks.items())[1:]}
        return {
            **others,
            "policy": self._policy.state_dict(),
            "optimizer": self.optimizer.state(),
            "dropout": draw_states(self.actor),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name, network in list(self.networks.items())[1:]:
            network.load_state_dict(state[name])
        self._policy.load_state_dict(state["policy"])
        self.optimizer.load_state(state["optimizer"])
        load_draw_states(self.actor, state["dropout"])

    def _features(self, batch: Batch) -> Batch:
        """The part of `prepare` that all share: what networks see of `obs`, the action, the mask where there is one."""
        mask = self.preprocess.mask(batch["obs"])
        rows = {"obs": self.preprocess(batch["obs"]), "action": batch["action"]}
        return rows if mask is None else {**rows, "mask": mask}

    def _in_training(self, network: nn.Module, features: Tensor) -> Tensor:
        """A network, the actor or a part of it, with its dropout on; everywhere else that is off."""
        return in_training(network)(features)


def cloning_spec(config: CloningConfig, obs_space: Space, action_space: Space) -> PolicySpec:
    """The policy that the settings ask for."""
    spec = actor_spec(config, obs_space, action_space)
    network = spec.network if config.network else with_dropout(spec.network, config.dropout)
    return PolicySpec(obs_space, action_space, spec.preprocess, network, spec.head)


def with_dropout(network: NetworkSpec, dropout: float) -> NetworkSpec:
    """The same network with dropout behind every activation that follows a linear layer, as Q networks have it."""
    layers: list[LayerSpec] = []
    flat = False  # behind a linear layer
    for layer in network.layers:
        layers.append(layer)
        flat = flat or layer.kind == "linear"
        if dropout and flat and layer.kind in ACTIVATIONS:
            layers.append(LayerSpec("dropout", {"p": dropout}))
    return NetworkSpec(tuple(layers))


def negative_log_likelihood(
    head: StochasticHead,
    outputs: Tensor,
    action: Tensor,
    mask: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """How surprising the data's actions are to the policy, in nats, one value per row `[...]`.

    With label smoothing e, for one choice among `A` allowed actions: `(1 - e) (-log p_a) + e / A sum_i (-log p_i)`
    (Szegedy et al. 2016, section 7).
    """
    taken = -head.log_prob(outputs, action, mask)
    if label_smoothing == 0.0:
        return taken
    allowed = torch.ones_like(outputs, dtype=torch.bool) if mask is None else mask
    surprise = -only(outputs, mask).log_softmax(dim=-1)
    spread = surprise.masked_fill(~allowed, 0.0).sum(dim=-1) / allowed.sum(dim=-1)
    return (1.0 - label_smoothing) * taken + label_smoothing * spread


def squared_distance(head: GaussianHead, outputs: Tensor, action: Tensor) -> Tensor:
    """Half the squared distance `[...]` of the greedy action from the data's, in units of half the action's range.

    It is minus the log density of a normal variable with standard deviation 1, less a constant. `outputs [..., width]`
    lead with the means; more may follow.
    """
    return 0.5 * (_greedy(head, outputs) - head.normalised(action)).square().sum(dim=-1)


def action_accuracy(
    head: StochasticHead, outputs: Tensor, action: Tensor, mask: Tensor | None = None
) -> tuple[str, Tensor]:
    """A name and one value per row `[...]` for how close the greedy action is to the data's.

    `accuracy` is 1 where they are equal, in all their choices, else 0; continuous actions have an `action_error`, the
    mean distance of their elements in units of half the range. The distance is taken before clipping, as that of the
    loss is: an action far outside of the bounds is a worse fit than one at them. `rlab.compression.agreement` compares
    two policies instead, by what an env gets of each, after clipping.
    """
    if isinstance(head, GaussianHead):
        return "action_error", (_greedy(head, outputs) - head.normalised(action)).abs().mean(dim=-1)
    same = head.act(outputs, mask) == action
    return "accuracy", same.reshape(*outputs.shape[:-1], -1).all(dim=-1).to(outputs.dtype)


def action_features(head: StochasticHead, action_space: Space, action: Tensor) -> Tensor:
    """Actions as the data has them, `[..., *action]`, as what a network reads, `[..., action_width(action_space)]`.

    Choices are one-hot, bits are 0 and 1, continuous actions in units in which [-1, 1] is the Box.
    """
    if isinstance(head, GaussianHead):
        return head.normalised(action)
    flat = action.reshape(*action.shape[: action.dim() - len(action_space.shape)], -1)  # [..., choices]
    if not choices(action_space):
        return flat.float()
    each = [F.one_hot(flat[..., i].long(), n) for i, n in enumerate(choices(action_space))]
    return torch.cat(each, dim=-1).float()


def action_width(action_space: Space) -> int:
    """How many numbers `action_features` makes of an action."""
    return sum(choices(action_space)) or prod(action_space.shape)


def _greedy(head: GaussianHead, outputs: Tensor) -> Tensor:
    """The greedy action `[..., d]` before it is clipped, in units in which [-1, 1] is the Box."""
    mean = outputs[..., : head.noise_width]
    return mean.tanh() if isinstance(head, SquashedGaussianHead) else mean
