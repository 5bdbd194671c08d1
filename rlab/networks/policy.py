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
    """All that is needed to rebuild a policy, as plain data: no agent, no environment.

    `preprocess` is what `Preprocess.to_json` gives; `head` has a kind of `HEADS` and, for Q values, the `epsilon` that
    `greedy=False` explores with (0 where it states none).
    """

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

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module) -> None:
        super().__init__()
        if spec.head["kind"] not in HEADS:
            raise unknown("policy head", spec.head["kind"], HEADS)
        self.spec, self.preprocess, self.network = spec, preprocess, network

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
            mask: true (or 1) where an action is allowed, `[..., A]` beside `obs`.
            state: the recurrent state; none of today's networks has one.
            greedy: false adds the exploration that the head records; it needs `generators`, one per member.

        Raises:
            UsageError: the shape of `obs` or `mask` is not the one that the policy was made for, a mask allows nothing,
                or there are not as many generators as members.
        """
        tensor = self._tensor(obs)
        single = self._check_shape(tensor)
        outputs = self.outputs(tensor.unsqueeze(0) if single else tensor)
        allowed = None if mask is None else self._check_mask(self._tensor(mask), outputs, single)
        if not greedy:
            self._check_generators(generators)
        action = HEADS[self.spec.head["kind"]](self.spec, outputs, allowed, None if greedy else generators)
        action = action.squeeze(0) if single else action
        return action.cpu().numpy() if isinstance(obs, np.ndarray) else action

    def _tensor(self, values: Array) -> Tensor:
        # torch takes neither read-only memory nor negative strides
        if isinstance(values, np.ndarray) and not (values.flags.writeable and values.flags.c_contiguous):
            values = values.copy()
        return torch.as_tensor(values, device=self._device())

    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _check_shape(self, obs: Tensor) -> bool:
        """True for one single observation of one member; raises where the shape does not fit."""
        shape, members = self.preprocess.obs_space.shape, self.preprocess.members
        lead = obs.dim() - len(shape)
        fits = lead in (0, 1) if members is None else lead == 2 and obs.shape[0] == members
        if not fits or obs.shape[lead:] != shape:
            expected = "[*obs] or [B, *obs]" if members is None else f"[{members}, B, *obs]"
            found = tuple(obs.shape)
            raise UsageError(f"an observation of shape {found} does not fit; expected {expected}, *obs = {shape}.")
        return lead == 0

    def _check_mask(self, mask: Tensor, outputs: Tensor, single: bool) -> Tensor:
        """The mask as bool `[..., A]`, beside the outputs."""
        expected = outputs.shape[1:] if single else outputs.shape
        if mask.shape != expected:
            raise UsageError(f"a mask of shape {tuple(mask.shape)} does not fit; expected {tuple(expected)}.")
        allowed = mask.bool().reshape(outputs.shape)
        if not bool(allowed.any(dim=-1).all()):
            raise UsageError("a mask allows no action at all; every row needs one that is true.")
        return allowed

    def _check_generators(self, generators: Sequence[torch.Generator] | None) -> None:
        members, found = self.preprocess.members or 1, 0 if generators is None else len(generators)
        if found != members:
            raise UsageError(f"greedy=False needs generators, one torch.Generator per member: {members}, not {found}.")


class Policy(_Acting):
    """The policies of S members as one stack: `[S, B, *obs]` to `[S, B]` actions."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seeds: Sequence[int]) -> None:
        super().__init__(spec, preprocess, network)
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
        return alone.to(self._device())

    def _index(self, seed: int) -> int:
        if seed not in self.seeds:
            raise UsageError(f"no member with training seed {seed}; there are {', '.join(map(str, self.seeds))}.")
        return self.seeds.index(seed)


class MemberPolicy(_Acting):
    """One member as plain `torch.nn` modules: `[*obs]` or `[B, *obs]` to actions."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seed: int) -> None:
        super().__init__(spec, preprocess, network)
        self.seed = seed


def build_policy(spec: PolicySpec, seeds: Sequence[int], trust: bool = False) -> Policy:
    """A stack of policies with fresh weights, ready for `load_state_dict`.

    Raises:
        RlabError: the parts of the spec do not fit together, or it names layers of others and `trust` is false.
    """
    try:
        network = build(spec.network, seeds, trust=trust)
        preprocess = Preprocess.from_json(spec.preprocess, spec.obs_space, len(seeds))
        policy = Policy(spec, preprocess, network, seeds).eval()
        # One observation of zeros shows whether the layers fit each other and the spaces.
        zeros = np.zeros((len(seeds), 1, *preprocess.obs_space.shape), preprocess.obs_space.dtype)
        with torch.no_grad():
            outputs = policy.outputs(torch.from_numpy(zeros))
    except (TypeError, KeyError, AttributeError, ImportError, ValueError, IndexError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RlabError(f"the policy's spec cannot be built: {reason}. Was it written by a newer rlab?") from error
    if spec.head["kind"] == "q" and (
        not isinstance(spec.action_space, Discrete) or outputs.shape != (len(seeds), 1, spec.action_space.n)
    ):
        raise RlabError(f"{outputs.shape[-1]} outputs are no Q values for the actions {spec.action_space}.")
    return policy


def _q_action(
    spec: PolicySpec, q: Tensor, mask: Tensor | None, generators: Sequence[torch.Generator] | None
) -> Tensor:
    """The largest allowed Q value; with generators, a uniform allowed action at the recorded epsilon."""
    assert isinstance(spec.action_space, Discrete)
    action = (q if mask is None else q.masked_fill(~mask, -torch.inf)).argmax(dim=-1)
    if generators is not None:
        allowed = torch.ones_like(q, dtype=torch.bool) if mask is None else mask
        # [G, ...]: one generator for each leading row, so that members of a stack never share a draw
        weights = allowed.double().reshape(len(generators), -1, q.shape[-1]).to(generators[0].device)
        coins = [torch.rand(w.shape[0], generator=g, device=g.device) for w, g in zip(weights, generators, strict=True)]
        others = [torch.multinomial(w, 1, generator=g).squeeze(-1) for w, g in zip(weights, generators, strict=True)]
        explore = (torch.stack(coins) < spec.head.get("epsilon", 0.0)).reshape(action.shape).to(q.device)
        action = torch.where(explore, torch.stack(others).reshape(action.shape).to(q.device), action)
    return action + spec.action_space.start


# kind of head -> (spec, outputs, mask, generators or None for greedy) to actions
HEADS: dict[str, Callable[[PolicySpec, Tensor, Tensor | None, Sequence[torch.Generator] | None], Tensor]] = {
    "q": _q_action,
}
