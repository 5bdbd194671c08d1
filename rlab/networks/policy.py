"""A policy: observations in, actions that `env.step` accepts out. It is rebuilt from plain data and tensors alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import RlabError, UsageError
from rlab.networks.heads import Head, QHead, build_head
from rlab.networks.limits import space_words
from rlab.networks.obs_look import ObsLook
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Masked, Space, choices, pack, space_from_json
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.stacking import unstack
from rlab.networks.usual import with_usual_torch
from rlab.randomness import torch_stream
from rlab.trust import Trust
from rlab.types import Json

Array = np.ndarray | Tensor
PREDICT = (
    "a policy of rlab has no predict: call it, action = policy(obs), or policy(obs, greedy=False) to sample as in "
    "training. It gives the action alone, without a state."
)


@dataclass(frozen=True)
class PolicySpec:
    """All that is needed to rebuild a policy, as plain data: no agent, no environment.

    `preprocess` is what `Preprocess.to_json` gives; `head` has a kind of `heads.HEADS` and, for Q values, the `epsilon`
    that `greedy=False` explores with (0 where it states none).
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
        self.spec, self.preprocess, self.network = spec, preprocess, network
        self.head = build_head(spec.head, spec.action_space).to(self._device())
        self._sample_seed, self._sampled = 0, 0  # which stream sampled actions are drawn from, and how far it is
        if isinstance(spec.obs_space, Masked) and spec.obs_space.size != self.head.mask_width:
            raise UsageError(f"observations with a mask of {spec.obs_space.size} do not fit {spec.action_space}.")

    @with_usual_torch
    def outputs(self, obs: Tensor) -> Tensor:
        """What the network says of a batch `[..., B, *obs]` in array form: `[..., B, width]`, as the head reads it."""
        outputs: Tensor = self.network(self.preprocess(obs))
        return outputs

    def reseed(self, sample_seed: int = 0) -> None:
        """Begin anew with the stream that `policy(obs, greedy=False)` draws from: the same seed, the same actions."""
        self._sample_seed, self._sampled = sample_seed, 0

    @with_usual_torch
    @torch.no_grad()
    def forward(
        self,
        obs: Any,
        *,
        mask: Any = None,
        state: None = None,
        greedy: bool = True,
        epsilon: float | None = None,
        generators: Sequence[torch.Generator] | None = None,
        **others: Any,
    ) -> Any:
        """Actions that `env.step` accepts, as torch tensors where `obs` is one, else as NumPy arrays.

        Args:
            obs: what the env gives, or its array form: `[S, B, *obs]` for a stack, `[*obs]` or `[B, *obs]` for one
                member. Each part of a dict or tuple leads with the same axes. For a masked space either with the mask
                inside, or without it and `mask` beside. One member refuses NaN, infinity and integers that its space
                does not have.
            mask: true (or 1) where an action is allowed, `[..., A]` beside `obs`; None allows all that `obs` does not
                forbid. A mask inside observations that allows nothing counts as one that allows everything.
            state: the recurrent state; none of today's networks has one.
            greedy: false samples as in training: from the head's distribution; of Q values, which are not one, the
                best action, or with probability `epsilon` a uniform one.
            epsilon: for Q values with `greedy=False`; None takes the one that training ended with.
            generators: what samples are drawn from, one per member, or one per row `[S * B]`. None draws from each
                member's own stream, which `reseed` sets back: the n-th call draws the same after the same seed.

        Raises:
            UsageError: the shape of `obs` or `mask` is not the one that the policy was made for, a mask allows nothing
                or these actions take none, `epsilon` is not for this policy or is missing, there are not as many
                generators as members, or a keyword is not one of these.
        """
        if others:
            raise _unknown_keyword(next(iter(others)))
        array, mask = self._array_form(obs, mask)
        tensor = self._tensor(array)
        single = self._is_single(tensor)
        batch = tensor.unsqueeze(0) if single else tensor
        outputs = self.outputs(batch)
        allowed = self.preprocess.mask(batch) if mask is None else self._check_mask(self._tensor(mask), outputs, single)
        if greedy:
            action = self.head.act(outputs, allowed)
        else:
            rows = outputs.shape[:-1].numel()
            chosen = self._next_generators() if generators is None else self._check_generators(generators, rows)
            action = self._sampling_head(epsilon, generators is not None).sample(outputs, chosen, allowed)
        action = self.head.to_env(action)
        action = action.squeeze(0) if single else action
        # [()] makes a number of a 0-d array, which envs that look actions up in a table do not take
        return action if isinstance(obs, Tensor) else action.cpu().numpy()[()]

    def _array_form(self, obs: Any, mask: Any) -> tuple[Array, Any]:
        """The observations as one array, and the mask where that does not hold it."""
        space = self.spec.obs_space
        is_array = isinstance(obs, np.ndarray | Tensor)
        if isinstance(space, Masked):
            if is_array and mask is None and self._lead(obs.shape) is not None:
                return obs, None
            return pack(space, _numpy(obs), _numpy(mask)), None
        return obs if is_array else pack(space, obs), mask

    def _tensor(self, values: Array) -> Tensor:
        # A copy: a layer may work in place, and torch takes neither read-only memory nor negative strides.
        if isinstance(values, np.ndarray):
            values = values.copy()
        return torch.as_tensor(values, device=self._device())

    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _lead(self, shape: Sequence[int]) -> int | None:
        """How many axes lead an array of this shape; None where it does not fit."""
        expected, members = self.spec.obs_space.shape, self.preprocess.members
        lead = len(shape) - len(expected)
        fits = lead in (0, 1) if members is None else lead == 2 and shape[0] == members
        return lead if fits and tuple(shape[lead:]) == expected else None

    def _is_single(self, obs: Tensor) -> bool:
        """True for one single observation of one member; raises where the shape does not fit."""
        lead, shape, members = self._lead(obs.shape), self.spec.obs_space.shape, self.preprocess.members
        if lead is None:
            expected = "[*obs] or [B, *obs]" if members is None else f"[{members}, B, *obs]"
            found = tuple(obs.shape)
            raise UsageError(f"an observation of shape {found} does not fit; expected {expected}, *obs = {shape}.")
        return lead == 0

    def _check_mask(self, mask: Tensor, outputs: Tensor, single: bool) -> Tensor:
        """The mask as bool `[..., A]`, beside the outputs."""
        if self.head.mask_width is None:
            raise UsageError(f"actions {self.spec.action_space} take no mask; Discrete and MultiDiscrete do.")
        lead = outputs.shape[:-1]
        expected = (*(() if single else lead), self.head.mask_width)
        if mask.shape != expected:
            raise UsageError(f"a mask of shape {tuple(mask.shape)} does not fit; expected {expected}.")
        allowed = mask.bool().reshape(*lead, self.head.mask_width)
        _check_allows(allowed.cpu().numpy(), self.spec.action_space)
        return allowed

    def _check_generators(self, generators: Sequence[torch.Generator], rows: int) -> Sequence[torch.Generator]:
        members, found = self.preprocess.members or 1, len(generators)
        if found not in (members, rows):
            raise UsageError(f"greedy=False takes one torch.Generator per member: {members}, not {found}.")
        return generators

    def _next_generators(self) -> Sequence[torch.Generator]:
        """One per member for this call alone: keyed by seed and count, a copy of the policy needs no state of them."""
        self._sampled += 1
        use = f"sampled actions {self._sample_seed} {self._sampled}"
        return [torch_stream(seed, use, self._device()) for seed in self._training_seeds()]

    def _sampling_head(self, epsilon: float | None, told: bool) -> Head:
        """The head that samples: that of Q values with this epsilon, where one is given.

        Args:
            told: the caller brings generators, and so takes an epsilon of 0 as it is.
        """
        if not isinstance(self.head, QHead):
            if epsilon is not None:
                raise UsageError("epsilon is for policies of Q values; this one samples from its own distribution.")
            return self.head
        if epsilon is not None:
            if not 0.0 <= epsilon <= 1.0:
                raise UsageError(f"epsilon {epsilon} is not a probability; it must be in [0, 1].")
            return QHead({"epsilon": epsilon}, self.spec.action_space)
        if not self.head.epsilon and not told:
            raise UsageError(
                "greedy=False: Q values are not a distribution, and this policy records no exploration to sample with; "
                "say how often an action is random: policy(obs, greedy=False, epsilon=0.05)."
            )
        return self.head

    def _training_seeds(self) -> tuple[int, ...]:
        """The training seed of each member."""
        raise NotImplementedError


class Policy(_Acting):
    """The policies of S members as one stack: `[S, B, *obs]` to `[S, B]` actions."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seeds: Sequence[int]) -> None:
        super().__init__(spec, preprocess, network)
        self.seeds = tuple(seeds)

    def _training_seeds(self) -> tuple[int, ...]:
        return self.seeds

    @with_usual_torch
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
            raise UsageError(f"no member with training seed {seed}; this policy has {_listed(self.seeds)}.")
        return self.seeds.index(seed)


class MemberPolicy(_Acting):
    """One member as plain `torch.nn` modules: `[*obs]` or `[B, *obs]` to actions.

    It is asked by hand, with observations that nobody has looked at yet: those that its space does not hold are
    refused. A stack takes what rlab's envs and files gave, which is looked at where it comes in.
    """

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seed: int) -> None:
        super().__init__(spec, preprocess, network)
        self.seed = seed
        self._look = ObsLook(spec.obs_space)

    def _array_form(self, obs: Any, mask: Any) -> tuple[Array, Any]:
        self._look(obs)
        if mask is not None and isinstance(self.spec.obs_space, Masked):
            array = pack(self.spec.obs_space, _numpy(obs), _numpy(mask))
            _check_allows(array[..., -self.spec.obs_space.size :], self.spec.action_space)
            return array, None
        return super()._array_form(obs, mask)

    def __getattr__(self, name: str) -> Any:
        if name == "predict":
            raise AttributeError(PREDICT)
        return super().__getattr__(name)

    def _training_seeds(self) -> tuple[int, ...]:
        return (self.seed,)


@with_usual_torch
def build_policy(spec: PolicySpec, seeds: Sequence[int], trust: Trust = False) -> Policy:
    """A stack of policies with fresh weights, ready for `load_state_dict`.

    Raises:
        RlabError: the parts of the spec do not fit together, or it names layers of others and `trust` is false.
    """
    try:
        network = build(spec.network, seeds, trust=trust)
        preprocess = Preprocess.from_json(spec.preprocess, spec.obs_space, len(seeds))
        policy = Policy(spec, preprocess, network, seeds).eval()
        # One observation of zeros shows whether the layers fit each other and the spaces.
        zeros = np.zeros((len(seeds), 1, *spec.obs_space.shape), spec.obs_space.dtype)
        with torch.no_grad():
            outputs = policy.outputs(torch.from_numpy(zeros))
    except (TypeError, KeyError, AttributeError, ImportError, ValueError, IndexError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RlabError(f"the policy's spec cannot be built: {reason}. Was it written by a newer rlab?") from error
    if outputs.shape != (len(seeds), 1, policy.head.width):
        raise RlabError(
            f"the policy head {spec.head['kind']!r} reads {policy.head.width} outputs for actions {spec.action_space}; "
            f"the network has {outputs.shape[-1]}."
        )
    return policy


def _listed(seeds: Sequence[int]) -> str:
    """`training seed 0`, `training seeds 0, 1`."""
    return f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _check_allows(mask: np.ndarray, actions: Space) -> None:
    """Refuse a mask `[..., A]` that leaves one of the choices that an action makes without an option."""
    sizes = choices(actions)
    starts = np.cumsum((0, *sizes[:-1]))
    if np.logical_or.reduceat(mask != 0, starts, axis=-1).all():
        return
    every = "action" if len(sizes) == 1 else "option of one of the choices"
    raise UsageError(f"a mask allows no {every} of {space_words(actions)}; every row needs one that is true.")


def _unknown_keyword(name: str) -> UsageError:
    if name == "deterministic":
        return UsageError(
            "policy(obs, deterministic=...): rlab calls it greedy; greedy=True is the default, and "
            "policy(obs, greedy=False) samples as in training."
        )
    return UsageError(
        f"policy(obs, {name}=...): unknown keyword {name!r}. Known: mask, state, greedy, epsilon, generators."
    )


def _numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
