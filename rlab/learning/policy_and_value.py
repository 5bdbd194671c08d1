"""A policy's network and a value's, apart or on one body, with memory or without."""

import torch
from torch import Tensor

from rlab.experience.samplers import Batch
from rlab.networks import memory
from rlab.networks.bodies import critic_head_spec, critic_like
from rlab.networks.memory import State, has_memory
from rlab.networks.policy import PolicySpec
from rlab.networks.spec import StackedNetwork, build

OF_CRITIC = "critic."  # what the names of a critic's own state begin with


class PolicyAndValue:
    """Both networks of S members. Arguments: the policy's spec and network, whether the value reads its body, the scale
    of the value's last layer."""

    def __init__(
        self, spec: PolicySpec, actor: StackedNetwork, shared: bool, gain: float, seeds: tuple[int, ...]
    ) -> None:
        critic = (critic_head_spec if shared else critic_like)(spec.network, gain)
        self.actor, self.critic = actor, build(critic, seeds, "critic", trust=True).eval()  # an actor may have dropout
        top = 2 if spec.network.layers[-1].kind == "log_std" else 1  # layers above the body
        self._body, self._top = actor[:-top], actor[-top:]  # views of the actor, for a shared body
        self.shared, self.has_memory = shared, has_memory(actor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's outputs `[S, B, width]` and the values `[S, B]` of features `[S, B, ...]`, without memory."""
        if not self.shared:
            return self.actor(x), self.critic(x).squeeze(-1)
        features = self._body(x)
        return self._top(features), self.critic(features).squeeze(-1)

    def value(self, x: Tensor) -> Tensor:
        """The values alone."""
        value: Tensor = self.critic(self._body(x) if self.shared else x)
        return value.squeeze(-1)

    # With memory: a critic of its own has a state of its own, beside the policy's.

    def initial_state(self, rows: int) -> State:
        """What an episode begins with, `[S, rows, ...]`."""
        state = memory.initial_state(self.actor, rows)
        return state if self.shared else state | _named(memory.initial_state(self.critic, rows))

    def act(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The policy's outputs for features `[S, N, ...]`, and the next state of both networks."""
        outputs, after = memory.step(self.actor, x, _of_policy(state))
        return outputs, after if self.shared else after | self.step_value(x, state)[1]

    def step_value(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The values `[S, B]` of features `[S, B, ...]` seen in this state, and what `step_value` needs next of it."""
        if self.shared:
            features, after = memory.step(self._body, x, state)
            return self.critic(features).squeeze(-1), after
        value, after = memory.step(self.critic, x, _of_critic(state))
        return value.squeeze(-1), _named(after)

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's outputs `[S, B * T, width]` and the values `[S, B * T]` of sequences `x [S, B * T, ...]`."""
        if self.shared:
            features, _ = memory.unroll(self._body, x, state, begins)
            return self._top(features), self.critic(features).squeeze(-1)
        value, _ = memory.unroll(self.critic, x, _of_critic(state), begins)
        return self.unroll_policy(x, state, begins), value.squeeze(-1)

    def unroll_policy(self, x: Tensor, state: State, begins: Tensor) -> Tensor:
        """The policy's outputs alone."""
        return memory.unroll(self.actor, x, _of_policy(state), begins)[0]


def successors(batch: Batch) -> Tensor:
    """What every row of a rollout led to, `[S, N * T, *obs]`, also where the env has reset itself since."""
    following = batch["obs"][:, :, 1:].flatten(1, 2)
    final, row = batch["final_obs"], batch["final_row"]
    if not row.shape[1]:
        return following
    # One row more than there are takes what members with fewer finals have too many.
    room = torch.cat([following, torch.zeros_like(following[:, :1])], dim=1)
    index = row.reshape(*row.shape, *(1,) * (final.ndim - 2)).expand_as(final)
    return room.scatter(1, index, final)[:, :-1]


def begins(batch: Batch) -> Tensor:
    """Where in a rollout the state is the initial one, `[S, N, T]`: behind a row that ended an episode, and behind one
    that is not a transition. The state of the first row is known and needs no mark."""
    over = batch["terminated"] | batch["truncated"] | ~batch["valid"]
    return torch.cat([torch.zeros_like(over[..., :1]), over[..., :-1]], dim=-1)


def _named(state: State) -> State:
    return {f"{OF_CRITIC}{name}": value for name, value in state.items()}


def _of_critic(state: State) -> State:
    return {n.removeprefix(OF_CRITIC): value for n, value in state.items() if n.startswith(OF_CRITIC)}


def _of_policy(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(OF_CRITIC)}
