"""How an agent with Q values and memory reads replay: windows of rows in time order.

Choices are those of R2D2 (Kapturowski et al. 2019): the first rows of a window only warm the state up ("burn-in"), a
window may begin with the state that was acted with ("stored state"), and its priority mixes the largest and the mean
error of its rows. An empty state at its beginning is DRQN's (Hausknecht and Stone 2015).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.fields import Field
from rlab.experience.prioritised_sequences import PrioritisedSequences
from rlab.experience.samplers import Sampler
from rlab.experience.sequence_samplers import SequenceSampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch
from rlab.learning.per_member import largest, over
from rlab.learning.replay_settings import prioritises
from rlab.learning.replayed_rows import NO_FIELDS
from rlab.learning.returns import continuation, n_step_return
from rlab.learning.terms import LossTerms
from rlab.networks import memory
from rlab.networks.memory import State
from rlab.networks.policy import Policy
from rlab.networks.spec import StackedNetwork, in_training

ETA = 0.9  # what the largest error of a window counts in its priority beside the mean; the paper's section 2.3
WINDOW, STATE = "window/", "window/state/"  # begin the names of what stays `[S, B, L, ...]` in an update


class ReplayedWindows:
    """Of an agent with memory; methods as of `ReplayedRows`. A window of L rows is burn-in and T rows that are learned
    from, so that R is B * T; episodes may begin and end in it.

    Args:
        config: a `QLearningConfig` that is a `SequenceConfig` too.
        policy: of the network that learns.
        target: its target network.
    """

    def __init__(self, config: Any, policy: Policy, target: StackedNetwork) -> None:
        self.config, self.policy, self.target = config, policy, target
        self.preprocess = policy.preprocess
        self._unroll = in_training(policy.network, partial(memory.unroll, policy.network))

    def fields(self) -> tuple[Field, ...]:
        state = self.policy.initial_state(1) if self.config.stored_state else {}
        return tuple(Field(name, tuple(value.shape[2:]), "float32") for name, value in state.items())

    def extras(self, state: State) -> Mapping[str, Tensor]:
        return state if self.config.stored_state else NO_FIELDS

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        rows, least = self.config.window_rows, self.config.window_rows * storage.num_envs
        if not storage.demonstrated and self.config.learning_starts < least:
            raise UsageError(
                f"learning_starts {self.config.learning_starts} must be at least {least}: a window of {rows} rows "
                f"(sequence_length {self.config.sequence_length} + burn_in {self.config.burn_in}) from each of "
                f"{storage.num_envs} envs."
            )
        if prioritises(self.config):
            apart = max(1, self.config.sequence_length // 2)  # as in the paper
            return PrioritisedSequences(storage, draws, rows, apart, self.config.priority_alpha)
        return SequenceSampler(storage, draws, rows)

    def prepare(self, batch: Batch, terms: LossTerms, of_target: bool) -> Batch:
        """Values `[S, B, T, ...]` of the rows that are learned from, and under names that begin with `WINDOW` what the
        networks read, `[S, B, L, ...]`."""
        shape, first = batch["valid"].shape[1:], self.config.burn_in  # [B, L]
        gamma = over(self.config.gamma, batch["valid"])
        obs, next_obs = (self.preprocess(batch[name].flatten(1, 2)) for name in ("obs", "next_obs"))
        state = self.policy.initial_state(shape[0])
        state = {name: batch[name][:, :, 0] if name in batch else value for name, value in state.items()}
        outputs, ahead = (
            found.unflatten(1, shape)[:, :, first:]
            for found in memory.unroll_ahead(self.target, obs, next_obs, state, batch["begins"])
        )
        learned = {name: batch[name][:, :, first:] for name in batch if batch[name].shape[1:3] == shape}
        reward, steps = n_step_windows(learned, largest(self.config, "n_step"), self.config.n_step)
        last = torch.arange(steps.shape[-1], device=steps.device) + steps - 1  # row whose successor comes next
        terminated = learned["terminated"].gather(-1, last)
        prepared = {
            "action": learned["action"],
            "reward": n_step_return(reward, gamma),
            "discount": continuation(terminated, gamma, steps),
            "next_outputs": at_rows(ahead, last),
            "valid": learned["valid"],
            "last": last,
            f"{WINDOW}obs": obs.unflatten(1, shape),
            f"{WINDOW}next_obs": next_obs.unflatten(1, shape),
            f"{WINDOW}begins": batch["begins"],
            **{STATE + name: value for name, value in state.items()},
        }
        allowed = self.preprocess.mask(learned["next_obs"])
        if allowed is not None:
            prepared["next_mask"] = at_rows(allowed, last)
        if "weight" in batch:  # of a sampler that does not draw uniformly
            prepared["weight"] = batch["weight"].unsqueeze(-1).expand(learned["valid"].shape)
        if of_target:
            prepared["target_outputs"] = outputs
            prepared |= {} if allowed is None else {"mask": self.preprocess.mask(learned["obs"])}
        rows = {name: value.flatten(1, 2) for name, value in learned.items() if name not in state}
        if "demonstration" in batch:
            rows["demonstration"] = (batch["demonstration"].unsqueeze(-1) & learned["valid"]).flatten(1, 2)
        further = terms.prepare(rows).items()
        return prepared | {name: value.unflatten(1, learned["valid"].shape[1:]) for name, value in further}

    def rows(self, prepared: Batch) -> Batch:
        found = {n: value if n.startswith(WINDOW) else value.flatten(1, 2) for n, value in prepared.items()}
        found["weight"] = found["valid"] * found.get("weight", 1.0)  # a reset row is not learned from
        return found

    def outputs(self, rows: Batch) -> Tensor:
        state, rest = self._warmed_up(rows)
        outputs, _ = self._unroll(rest["obs"].flatten(1, 2), state, rest["begins"])
        return outputs

    def next_outputs(self, rows: Batch) -> Tensor:
        state, rest = self._warmed_up(rows)
        obs, next_obs = (rest[name].flatten(1, 2) for name in ("obs", "next_obs"))
        _, ahead = memory.unroll_ahead(self.policy.network, obs, next_obs, state, rest["begins"])
        shape = rest["begins"].shape[1:]
        return at_rows(ahead.unflatten(1, shape), rows["last"].unflatten(1, shape)).flatten(1, 2)

    def feedback(self, error: Tensor, rows: Batch) -> Tensor:
        """The paper's priority of a window: eta times the largest error of its rows and 1 - eta times their mean."""
        counts = rows["valid"].unflatten(1, (-1, self.config.sequence_length))
        size = error.abs().unflatten(1, counts.shape[1:]) * counts
        mean = size.sum(dim=-1) / counts.sum(dim=-1).clamp(min=1)
        return ETA * size.amax(dim=-1) + (1.0 - ETA) * mean

    def _warmed_up(self, rows: Batch) -> tuple[State, Batch]:
        """The state behind the burn-in, no gradient with it, and the windows' rows that come then."""
        first = self.config.burn_in
        state = {name.removeprefix(STATE): value for name, value in rows.items() if name.startswith(STATE)}
        windows = {name: rows[WINDOW + name] for name in ("obs", "next_obs", "begins")}
        if first:
            obs, begins = windows["obs"][:, :, :first].flatten(1, 2), windows["begins"][:, :, :first]
            with torch.no_grad():
                _, state = memory.unroll(self.policy.network, obs, state, begins)
        return state, {name: value[:, :, first:] for name, value in windows.items()}


def n_step_windows(batch: Batch, n_step: int, own_steps: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The rewards `[..., T, n]` of the next n rows from each of T rows on, and how many of them count `[..., T]`.

    A return stops where its episode ends and at the window's last row, so that there it has fewer steps. Rewards that
    do not count are 0.

    Args:
        batch: `reward`, `terminated` and `truncated`, `[..., T]`.
        own_steps: `[S, 1]`, each member's n, at most `n_step`; None: `n_step` for all.
    """
    ended = (batch["terminated"] | batch["truncated"]).long()
    ended, there, reward = (  # [..., T, n], zeros behind the window
        F.pad(values, (0, n_step - 1)).unfold(-1, n_step, 1)
        for values in (ended, torch.ones_like(ended), batch["reward"])
    )
    inside = (ended.cumsum(dim=-1) == ended) & (there == 1)  # the episode went on through the rows before
    if isinstance(own_steps, Tensor):
        inside &= torch.arange(n_step, device=reward.device) < over(own_steps, reward)
    return reward.masked_fill(~inside, 0.0), inside.sum(dim=-1)


def at_rows(values: Tensor, row: Tensor) -> Tensor:
    """Of `values [S, B, T, W]` those of the rows `row [S, B, T]`."""
    return values.gather(2, row.unsqueeze(-1).expand(*row.shape, values.shape[-1]))
