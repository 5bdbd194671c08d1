"""A policy: observations in, actions that `env.step` accepts out. It is rebuilt from plain data and tensors alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import RlabError, UsageError
from rlab.networks import memory
from rlab.networks.heads import build_head, head_class
from rlab.networks.memory import State
from rlab.networks.obs_look import ObsLook
from rlab.networks.policy_errors import (
    OUTPUTS_NEED_STATE,
    PREDICT,
    check_allows,
    missing_state,
    no_such_member,
    unknown_keyword,
    wrong_state,
)
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Masked, Space, pack, space_from_json
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.stacking import unstack
from rlab.networks.torch_defaults import with_usual_torch
from rlab.randomness import torch_stream
from rlab.trust import Trust
from rlab.types import Json

Array = np.ndarray | Tensor


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
        """What `policy.json` holds of it; `from_json` gives it back."""
        return {
            "obs_space": self.obs_space.to_json(),
            "action_space": self.action_space.to_json(),
            "preprocess": self.preprocess,
            "network": self.network.to_json(),
            "head": self.head,
        }

    @classmethod
    def from_json(cls, data: Json) -> "PolicySpec":
        """The spec that `to_json` wrote."""
        return cls(
            space_from_json(data["obs_space"]),
            space_from_json(data["action_space"]),
            data["preprocess"],
            NetworkSpec.from_json(data["network"]),
            data["head"],
        )


class _Acting(nn.Module):
    """What a stack and a single member have in common: checks of observations, outputs and the choice of an action."""

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.spec, self.preprocess, self.network = spec, preprocess, network
        # trust: a policy is made of a network that runs already; `build_policy` asks for trust first
        self.head = build_head(spec.head, spec.action_space, trust=True).to(self._device())
        self._sample_seed, self._sampled = 0, 0  # which stream sampled actions are drawn from, and how far it is
        self.has_memory = memory.has_memory(network)
        if isinstance(spec.obs_space, Masked) and spec.obs_space.size != self.head.mask_width:
            raise UsageError(f"observations with a mask of {spec.obs_space.size} do not fit {spec.action_space}.")

    @with_usual_torch
    def initial_state(self, rows: int | None = None) -> State:
        """The state that an episode begins with; `{}` without memory.

        Args:
            rows: B, for tensors `[S, B, ...]` (stack) or `[B, ...]` (one member); None, for one member: the state of a
                single observation.

        Raises:
            UsageError: `rows` is missing, and this is a stack.
        """
        if rows is None and self.preprocess.members is not None:
            raise UsageError("initial_state of a stack needs a number of rows: policy.initial_state(rows).")
        state = memory.initial_state(self.network, 1 if rows is None else rows)
        return memory.take(state, 0) if rows is None else state

    @with_usual_torch
    def outputs(self, obs: Tensor) -> Tensor:
        """The network's outputs for a batch `[..., B, *obs]` in array form: `[..., B, width]`, as the head reads them.

        Raises:
            UsageError: the policy has memory; `step` and `unroll` give its outputs.
        """
        if self.has_memory:
            raise UsageError(OUTPUTS_NEED_STATE)
        outputs: Tensor = self.network(self.preprocess(obs))
        return outputs

    @with_usual_torch
    def step(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        """The outputs `[S, B, width]` for one step's `obs [S, B, *obs]`, and the next state.

        One member has no axis S. Without memory these are `outputs(obs)` and `{}`.
        """
        if not self.has_memory:
            return self.network(self.preprocess(obs)), {}
        return memory.step(self.network, self.preprocess(obs), state)

    @with_usual_torch
    def unroll(self, obs: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """The outputs `[S, B, T, width]` for sequences `obs [S, B, T, *obs]`, and the last state.

        One member has no axis S. Gradients flow through all T steps, up to the nearest beginning.

        Args:
            state: before the first step.
            begins: `[S, B, T]` bool: the step is the first one of an episode, so that the state before it is the
                initial one.
        """
        rows_axis = begins.ndim - 2
        rows = obs.flatten(rows_axis, rows_axis + 1)
        if not self.has_memory:
            return self.outputs(rows).unflatten(rows_axis, begins.shape[-2:]), {}
        outputs, state = memory.unroll(self.network, self.preprocess(rows), state, begins)
        return outputs.unflatten(rows_axis, begins.shape[-2:]), state

    def reseed(self, sample_seed: int = 0) -> None:
        """Restart the stream that `policy(obs, greedy=False)` draws from: the same seed gives the same actions."""
        self._sample_seed, self._sampled = sample_seed, 0

    @with_usual_torch
    @torch.no_grad()
    def forward(
        self,
        obs: Any,
        *,
        mask: Any = None,
        state: State | None = None,
        greedy: bool = True,
        epsilon: float | None = None,
        generators: Sequence[torch.Generator] | None = None,
        **others: Any,
    ) -> Any:
        """Actions that `env.step` accepts, as torch tensors where `obs` is one, else as NumPy arrays.

        With `state`, which a policy with memory needs, the answer is `(action, next_state)`:

            state = policy.initial_state(rows)  # where an episode begins
            action, state = policy(obs, state=state)  # at every step

        Args:
            obs: what the env gives, or its array form: `[S, B, *obs]` for a stack, `[*obs]` or `[B, *obs]` for one
                member. Each part of a dict or tuple leads with the same axes. For a masked space either with the mask
                inside, or without it and `mask` beside. One member refuses NaN, infinity and integers that its space
                does not have.
            mask: true (or 1) where an action is allowed, `[..., A]` beside `obs`; None allows all that `obs` does not
                forbid. A mask inside observations that allows nothing counts as one that allows everything.
            state: what the previous call gave, or `initial_state(rows)` where the episode begins; `{}` without memory.
            greedy: false samples as in training: from the head's distribution; of Q values, which are not one, the
                best action, or with probability `epsilon` a uniform one.
            epsilon: for Q values with `greedy=False`; None takes the one that training ended with.
            generators: what samples are drawn from, one per member, or one per row `[S * B]`. None draws from each
                member's own stream, which `reseed` sets back: the n-th call draws the same after the same seed.

        Raises:
            UsageError: the shape of `obs` or `mask` is not the one that the policy was made for, a mask allows nothing
                or these actions take none, the policy has memory and `state` is missing or has other shapes, `epsilon`
                is not for this policy or is missing, there are not as many generators as members, or a keyword is not
                one of these.
        """
        if others:
            raise unknown_keyword(next(iter(others)))
        array, mask = self._array_form(obs, mask)
        tensor = self._tensor(array)
        single = self._is_single(tensor)
        batch = tensor.unsqueeze(0) if single else tensor
        following: State = {}
        if state is None and not self.has_memory:
            outputs = self.outputs(batch)
        else:
            outputs, following = self._remembering(batch, state, single)
        allowed = self.preprocess.mask(batch) if mask is None else self._check_mask(self._tensor(mask), outputs, single)
        if greedy:
            action = self.head.act(outputs, allowed)
        else:
            head = self.head.sampling(epsilon, generators is not None)
            action = head.sample(outputs, self._streams(generators, outputs.shape[:-1].numel()), allowed)
        action = self.head.to_env(action)
        action = action.squeeze(0) if single else action
        # [()] makes a number of a 0-d array: envs that look up actions in a table cannot use an array
        answer = action if isinstance(obs, Tensor) else action.cpu().numpy()[()]
        return answer if state is None else (answer, following)

    def _remembering(self, batch: Tensor, state: State | None, single: bool) -> tuple[Tensor, State]:
        """The outputs and the next state, which leads as `state` does: without rows for a `single` observation."""
        rows = None if single else batch.shape[0 if self.preprocess.members is None else 1]
        if state is None:
            raise missing_state(rows)
        state = {name: self._tensor(value) for name, value in state.items()}
        expected, found = _shapes(self.initial_state(rows)), _shapes(state)
        if found != expected:
            raise wrong_state(found, expected, rows)
        outputs, following = self.step(batch, memory.take(state, None) if single else state)
        return outputs, memory.take(following, 0) if single else following

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
        check_allows(allowed.cpu().numpy(), self.spec.action_space)
        return allowed

    def _streams(self, generators: Sequence[torch.Generator] | None, rows: int) -> Sequence[torch.Generator]:
        """The given generators; or one per member for this call alone, keyed by seed and count: they carry no state."""
        members = self.preprocess.members or 1
        if generators is None:
            self._sampled += 1
            use = f"sampled actions {self._sample_seed} {self._sampled}"
            return [torch_stream(seed, use, self._device()) for seed in self._training_seeds()]
        if len(generators) not in (members, rows):
            raise UsageError(f"greedy=False takes one torch.Generator per member: {members}, not {len(generators)}.")
        return generators

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

    def only(self, *seeds: int) -> "Policy":
        """A stack of the members with these training seeds alone. Weights are copied.

        Raises:
            UsageError: no member has one of these training seeds.
        """
        return self.at([self._index(seed) for seed in seeds])

    def at(self, members: Sequence[int]) -> "Policy":
        """A stack of the members at these places of this one alone. Weights are copied."""
        alone = build_policy(self.spec, [self.seeds[member] for member in members], trust=True)  # they run already
        alone.load_state_dict({name: tensor[list(members)] for name, tensor in self.state_dict().items()})
        return alone.to(self._device())

    def _index(self, seed: int) -> int:
        if seed not in self.seeds:
            raise no_such_member(seed, self.seeds)
        return self.seeds.index(seed)


class MemberPolicy(_Acting):
    """One member as plain `torch.nn` modules: `[*obs]` or `[B, *obs]` to actions.

    Users call it with observations that nothing has checked yet: those outside its space are refused. A stack gets
    observations of rlab's envs and files, which are checked where they come in.
    """

    def __init__(self, spec: PolicySpec, preprocess: Preprocess, network: nn.Module, seed: int) -> None:
        super().__init__(spec, preprocess, network)
        self.seed = seed
        self._look = ObsLook(spec.obs_space)

    def _array_form(self, obs: Any, mask: Any) -> tuple[Array, Any]:
        self._look(obs)
        if mask is not None and isinstance(self.spec.obs_space, Masked):
            array = pack(self.spec.obs_space, _numpy(obs), _numpy(mask))
            check_allows(array[..., -self.spec.obs_space.size :], self.spec.action_space)
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
        RlabError: the parts of the spec do not fit together, or it names code from outside rlab and `trust` is false.
    """
    try:
        head_class(spec.head["kind"], trust)
        network = build(spec.network, seeds, trust=trust)
        preprocess = Preprocess.from_json(spec.preprocess, spec.obs_space, len(seeds))
        policy = Policy(spec, preprocess, network, seeds).eval()
        # One observation of zeros shows whether the layers fit each other and the spaces.
        zeros = np.zeros((len(seeds), 1, *spec.obs_space.shape), spec.obs_space.dtype)
        with torch.no_grad():
            outputs, _ = policy.step(torch.from_numpy(zeros), policy.initial_state(1))
    except (TypeError, KeyError, AttributeError, ImportError, ValueError, IndexError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RlabError(f"the policy's spec cannot be built: {reason}. Was it written by a newer rlab?") from error
    if outputs.shape != (len(seeds), 1, policy.head.width):
        raise RlabError(
            f"the policy head {spec.head['kind']!r} reads {policy.head.width} outputs for actions {spec.action_space}; "
            f"the network has {outputs.shape[-1]}."
        )
    return policy


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
