"""DRQN (Hausknecht and Stone 2015): DQN with memory, which learns from windows of rows in time order.

A window begins with a state of zeros, as in the paper, or with the state that was acted with (Kapturowski et al. 2019,
"stored state"). Its first rows only warm the state up (burn-in, of the same authors) and are not learned from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.agents.dqn import DQN, DQNConfig
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Acted
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.sequence_samplers import SequenceSampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch, Now, Updated
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.heads import build_head
from rlab.networks.memory import State, reset, step
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Discrete, Space
from rlab.ranges import check_counts, check_not_negative

LACKING = {"n_step": "its returns are of one step", "dueling": "its head is one layer", "dropout": "it has none"}


@dataclass(frozen=True, kw_only=True)
class DRQNConfig(DQNConfig):
    batch_size: int = 16  # windows per update and member
    memory: int = 32  # numbers in the recurrent state
    length: int = 8  # rows of a window that are learned from
    burn_in: int = 4  # rows before them that only warm the state up
    stored_state: bool = False  # begin a window with the state that was acted with, not with zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "memory", "length")
        check_not_negative(self, "burn_in")
        if (rows := self.burn_in + self.length) > self.replay_capacity:
            raise UsageError(f"windows of {rows} rows are longer than replay_capacity {self.replay_capacity}.")

    def unread(self, action_space: Space) -> dict[str, str]:
        return {**super().unread(action_space), **LACKING}


class DRQN(DQN):
    """DQN with a recurrent network."""

    Config: ClassVar[type] = DRQNConfig
    learns_with_memory: ClassVar[bool] = True

    @classmethod
    def policy_spec(cls, config: Any, obs_space: Space, action_space: Discrete) -> PolicySpec:
        head = cls.head_json(config, action_space)
        width = build_head(head, action_space).width
        body = BodySettings.of(config, memory=MemorySettings("gru", config.memory, 1))
        network = q_network_spec(obs_space, width, body)
        preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, members=None).to_json()
        return PolicySpec(obs_space, action_space, preprocess, network, head)

    def fields(self) -> tuple[Field, ...]:
        state = self.policy().initial_state(1) if self.config.stored_state else {}
        return *super().fields(), *(Field(name, tuple(t.shape[2:]), "float32") for name, t in state.items())

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        rows = self.config.burn_in + self.config.length
        if self.config.learning_starts < rows * storage.num_envs:
            least = f"{rows * storage.num_envs}: windows of {rows} rows from each of {storage.num_envs} envs"
            raise UsageError(f"learning_starts {self.config.learning_starts} must be at least {least}.")
        return SequenceSampler(storage, draws, rows)

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        return super().act(obs, now, state)._replace(extras=state if self.config.stored_state else {})

    def prepare(self, batch: Batch) -> Batch:
        """Windows `[S, B, T, ...]`, with the target network's outputs behind every row; T is burn-in and length."""
        obs, next_obs = (self.preprocess(batch[name].flatten(1, 2)) for name in ("obs", "next_obs"))
        shape, initial = batch["valid"].shape[1:], self.policy().initial_state(batch["valid"].shape[1])
        carried = {name: batch[name][:, :, 0] if name in batch else value for name, value in initial.items()}
        prepared = {f"state/{name}": value for name, value in carried.items()}
        outputs = []
        with torch.no_grad():
            seen = zip(
                *(x.unflatten(1, shape).unbind(2) for x in (obs, next_obs)), batch["begins"].unbind(2), strict=True
            )
            for present, following, begins in seen:
                _, carried = step(self.target_network, present, reset(carried, initial, begins))
                outputs.append(step(self.target_network, following, carried)[0])  # also behind a time limit
        rows = {name: batch[name].flatten(1, 2) for name in ("obs", "action")}
        if "demonstration" in batch:
            rows["demonstration"] = (batch["demonstration"].unsqueeze(-1) & batch["valid"]).flatten(1, 2)
        terms = {name: value.unflatten(1, shape) for name, value in self.terms.prepare(rows).items()}
        if (allowed := self.preprocess.mask(batch["next_obs"])) is not None:
            prepared["next_mask"] = allowed
        return {
            **prepared,
            **terms,
            **{name: batch[name] for name in ("obs", "next_obs", "begins", "action", "reward")},
            "discount": self.config.gamma * ~batch["terminated"],
            "next_outputs": torch.stack(outputs, dim=2),
            "weight": batch["valid"].float(),  # a reset row is not learned from
        }

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on windows `[S, B, T, ...]`: as DQN's on `[S, B * length]` rows, of which `outputs` knows
        how they hang together."""
        windows = {name: batch[name] for name in batch if name in ("obs", "begins") or name.startswith("state/")}
        rows = {name: batch[name][:, :, self.config.burn_in :].flatten(1, 2) for name in batch.keys() - windows.keys()}
        updated = super().update({**rows, **windows}, now)
        assert updated.feedback is not None
        return updated._replace(feedback=updated.feedback.unflatten(1, (-1, self.config.length)).abs().mean(dim=-1))

    def outputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        policy, first = self.policy(), self.config.burn_in
        state = {name.removeprefix("state/"): batch[name] for name in batch if name.startswith("state/")}
        obs, begins = batch["obs"], batch["begins"]
        if first:
            with torch.no_grad():
                _, state = policy.unroll(obs[:, :, :first], state, begins[:, :, :first])
        return policy.unroll(obs[:, :, first:], state, begins[:, :, first:])[0].flatten(1, 2)
