"""A policy: observations in, actions that `env.step` accepts out. It is rebuilt from plain data and tensors alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Discrete, Space, space_from_json
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.stacking import unstack
from rlab.types import Json

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class PolicySpec:
    """All that is needed to rebuild a policy, as plain data: no agent, no environment."""

    obs_space: Space
    action_space: Space
    preprocess: dict[str, Any]
    network: NetworkSpec
    head: dict[str, Any] = field(default_factory=lambda: {"kind": "q"})

    def to_json(self) -> dict[str, Any]:
        return {
            "obs_space": self.obs_space.to_json(),
            "action_space": self.action_space.to_json(),
            "preprocess": self.preprocess,
            "network": self.network.to_json(),
            "head": self.head,
        }

    @classmethod
    def from_json(cls, data: Json) -> "PolicySpec":
        return cls(
            space_from_json(data["obs_space"]),
            space_from_json(data["action_space"]),
            data["preprocess"],
            NetworkSpec.from_json(data["network"]),
            data["head"],
        )


class _Acting(nn.Module):
    """What a stack and a single member have in common: the door, the outputs and the choice of an action."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, lead: int) -> None:
        super().__init__()
        if spec.head["kind"] not in HEADS:
            raise unknown("policy head", spec.head["kind"], HEADS)
        self.spec, self.preprocess, self.network, self._lead = spec, preprocess, network, lead

    def outputs(self, obs: Tensor) -> Tensor:
        """What the network says of a batch: Q values `[..., B, A]` for a Q head."""
        outputs: Tensor = self.network(self.preprocess(obs))
        return outputs

    @torch.no_grad()
    def forward(
        self,
        obs: Array,
        *,
        mask: Array | None = None,
        state: None = None,
        greedy: bool = True,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Any:
        """Actions for observations, NumPy for NumPy and torch for torch.

        Args:
            obs: `[S, B, *obs]` for a stack, `[*obs]` or `[B, *obs]` for one member.
            mask: true where an action is allowed, `[..., A]` beside `obs`.
            state: the recurrent state; none of today's networks has one.
            greedy: false adds the exploration that the head records; it needs `generators`, one per member.

        Raises:
            UsageError: the shape of `obs` is not the one that the policy was made for.
        """
        tensor = torch.as_tensor(obs, device=self._device())
        single = self._check_shape(tensor)
        outputs = self.outputs(tensor.unsqueeze(0) if single else tensor)
        allowed = None if mask is None else torch.as_tensor(mask, device=outputs.device).reshape(outputs.shape)
        if not greedy and generators is None:
            raise UsageError("greedy=False needs generators, one torch.Generator per member.")
        action = HEADS[self.spec.head["kind"]](self.spec, outputs, allowed, None if greedy else generators)
        action = action.squeeze(0) if single else action
        return action.cpu().numpy() if isinstance(obs, np.ndarray) else action

    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _check_shape(self, obs: Tensor) -> bool:
        """True for one single observation of one member; raises where the shape does not fit."""
        shape = self.spec.obs_space.shape if hasattr(self.spec.obs_space, "shape") else ()
        lead = obs.dim() - len(shape)
        if tuple(obs.shape[lead:]) != shape or lead not in ((2,) if self._lead == 2 else (0, 1)):
            expected = "[S, B, *obs]" if self._lead == 2 else "[*obs] or [B, *obs]"
            raise UsageError(f"an observation of shape {tuple(obs.shape)} does not fit; expected {expected}, *obs = {shape}.")
        return lead == 0


class Policy(_Acting):
    """The policies of S members as one stack: `[S, B, *obs]` to `[S, B]` actions."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seeds: Sequence[int]) -> None:
        super().__init__(spec, preprocess, network, lead=2)
        self.seeds = tuple(seeds)

    def member(self, seed: int | None = None) -> "MemberPolicy":
        """The plain policy of one training seed (None: the first). Weights are copied.

        Raises:
            UsageError: no member has that training seed.
        """
        seed = self.seeds[0] if seed is None else seed
        index = self._index(seed)
        return MemberPolicy(self.spec, self.preprocess.unstack(index), unstack(self.network, index), seed).eval()


    def only(self, seed: int) -> "Policy":
        """A stack of one: the member with this training seed. Weights are copied.

        Raises:
            UsageError: no member has that training seed.
        """
        index = self._index(seed)
        alone = build_policy(self.spec, (seed,), trust=True)  # these layers are running already
        alone.load_state_dict({name: tensor[index : index + 1] for name, tensor in self.state_dict().items()})
        return alone

    def _index(self, seed: int) -> int:
        if seed not in self.seeds:
            raise UsageError(f"no member with training seed {seed}; there are {', '.join(map(str, self.seeds))}.")
        return self.seeds.index(seed)


class MemberPolicy(_Acting):
    """One member as plain `torch.nn` modules: `[*obs]` or `[B, *obs]` to actions."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seed: int) -> None:
        super().__init__(spec, preprocess, network, lead=0)
        self.seed = seed


def build_policy(spec: PolicySpec, seeds: Sequence[int], trust: bool = False) -> Policy:
    """A stack of policies with fresh weights, ready for `load_state_dict`.

    Raises:
        RlabError: the parts of the spec do not fit together, or it names layers of others and `trust` is false.
    """
    try:
        network = build(spec.network, seeds, trust=trust)
        preprocess = Preprocess.from_json(spec.preprocess, spec.obs_space, len(seeds))
    except (TypeError, KeyError, AttributeError, ImportError) as error:
        raise RlabError(f"the policy's spec cannot be built: {error}. Was it written by a newer rlab?") from error
    return Policy(spec, preprocess, network, seeds).eval()


def _q_action(
    spec: PolicySpec, q: Tensor, mask: Tensor | None, generators: Sequence[torch.Generator] | None
) -> Tensor:
    """The largest allowed Q value; with generators, a uniform allowed action at the recorded epsilon."""
    assert isinstance(spec.action_space, Discrete)
    action = (q if mask is None else q.masked_fill(~mask, -torch.inf)).argmax(dim=-1)
    if generators is not None:
        allowed = torch.ones_like(q, dtype=torch.bool) if mask is None else mask
        # [G, ...]: one generator for each leading row, so that members of a stack never share a draw
        weights = allowed.double().reshape(len(generators), -1, q.shape[-1])
        coins = [torch.rand(w.shape[0], generator=g, device=g.device) for w, g in zip(weights, generators, strict=True)]
        others = [torch.multinomial(w, 1, generator=g).squeeze(-1) for w, g in zip(weights, generators, strict=True)]
        explore = (torch.stack(coins) < spec.head["epsilon"]).reshape(action.shape)
        action = torch.where(explore, torch.stack(others).reshape(action.shape), action)
    return action + spec.action_space.start


# kind of head -> (spec, outputs, mask, generators or None for greedy) to actions
HEADS: dict[str, Callable[[PolicySpec, Tensor, Tensor | None, Sequence[torch.Generator] | None], Tensor]] = {
    "q": _q_action,
}
