"""Members that a run goes on without: with `--on-nan drop-member` one whose numbers are not finite stands still."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.door import clean
from rlab.errors import RlabError, UsageError
from rlab.experience.env_contract import Step
from rlab.experience.episode_counts import Episode
from rlab.learning.contract import Agent, Batch, Updated
from rlab.learning.finite import check_sums, check_update, sums_of, suspects
from rlab.learning.means import Means
from rlab.learning.regrouping import stepped_by
from rlab.places import warn

AFTER_STEP = "its weights, or what the optimizer remembers of them, were not finite after a step"


def spread(values: np.ndarray, remain: np.ndarray, missing: float) -> np.ndarray:
    """What was found of the members that remain, `[L, E]`, as `[S, E]`; `remain [S]` says which these are."""
    whole = np.full((len(remain), *values.shape[1:]), missing, values.dtype)
    whole[remain] = values
    return whole


@dataclass(frozen=True)
class Dropped:
    """A member that no longer learns."""

    seed: int
    time: int  # the run's clock, when it was found out
    updates: int
    reason: str

    def __str__(self) -> str:
        return f"seed {self.seed} was dropped at update {self.updates:,}: {self.reason}"

    @classmethod
    def from_json(cls, data: Any, where: object) -> "tuple[Dropped, ...]":
        """Those that a file lists.

        Raises:
            RlabError: it lists something else.
        """
        names = {"seed": int, "time": int, "updates": int, "reason": str}
        found = []
        for row in data if isinstance(data, list) else [None]:
            if not isinstance(row, dict) or {name: type(value) for name, value in row.items()} != names:
                raise RlabError(f"{where}: 'dropped' must list members by {', '.join(names)}, not {row!r:.80}")
            found.append(cls(**{**row, "reason": clean(row["reason"])}))
        return tuple(found)


class Everyone:
    """All members learn, and what is not finite in any of them ends the run.

    Args:
        names: of the settings of each member, for messages, where members differ in them.
    """

    def __init__(self, agent: Agent, seeds: Sequence[int], names: Sequence[str] = ()) -> None:
        self.agent, self.seeds, self.names = agent, tuple(seeds), tuple(names)
        self.dropped: list[Dropped] = []
        self.gone: list[int] = []  # the places of these in the stack, where several members may have one seed

    def learned(self, updated: Updated) -> Updated:
        """What counts of an update."""
        return updated

    def seen(self, step: Step) -> Step:
        """A step as the agent observes it."""
        return step

    def rows(self, valid: Tensor) -> Tensor:
        """Of the rows `valid [S, ...]` those that are learned from."""
        return valid

    def stored(self, step: Step, time: int, updates: int) -> Step:
        """A step as it is stored, at this time of the run's clock."""
        return step

    def heard(self, episodes: list[Episode]) -> list[Episode]:
        """The episodes that are reported."""
        return episodes

    def check(self, metrics: Mapping[str, Tensor], batch: Batch, time: int, updates: int) -> None:
        """Look at what came of an update, `[S]` each, and what it learned from, at this time of the run's clock.

        Raises:
            RlabError: something is not finite.
        """
        check_update(metrics, batch, self.agent, self.seeds, updates)

    def check_sums(self, sums: Means, time: int, updates: int) -> None:
        """Look at what the updates of a program came to; raises as `check`."""
        check_sums(sums, self.seeds, updates)

    @property
    def left(self) -> tuple[int, ...]:
        """The training seeds of the members that still learn."""
        return tuple(seed for seed, stays in zip(self.seeds, self.remain, strict=True) if stays)

    @property
    def remain(self) -> np.ndarray:
        """Which members these are, bool `[S]`."""
        return ~np.isin(np.arange(len(self.seeds)), self.gone)

    def hide(self, values: np.ndarray) -> np.ndarray:
        """Metrics `[S]` with NaN for dropped members; a number for the whole population as it is."""
        return values if values.ndim == 0 or not self.dropped else np.where(self.remain, values, np.nan)

    def spread(self, values: np.ndarray, missing: float) -> np.ndarray:
        """What was found of the members that are left, `[L, E]`, as `[S, E]`."""
        return spread(values, self.remain, missing)

    def state(self) -> list[dict[str, Any]]:
        """The members that were dropped."""
        return [{**asdict(each), "member": member} for each, member in zip(self.dropped, self.gone, strict=True)]

    def facts(self, members: range) -> list[dict[str, Any]]:
        """Those of them at these places, as a policy's or a result's file lists them."""
        return [asdict(each) for each, member in zip(self.dropped, self.gone, strict=True) if member in members]

    def load_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from `state()`."""
        self.gone = [each.get("member", self.seeds.index(each["seed"])) for each in state]
        self.dropped = [Dropped(**{name: each[name] for name in each if name != "member"}) for each in state]


class Survivors(Everyone):
    """A member of which something is not finite is dropped: it stands still, and the others go on.

    The optimizers take a member out of `alive` in the step in which its loss, gradient, weights or moments are not
    finite, before anything of it is lost: weights and moments stay as they were before that step. Members never mix, so
    that the others learn to the bit what they would have learned. It works in programs: `alive` is changed in place,
    and the host reads it when it looks in.

    Raises:
        UsageError: the agent steps some of its parameters without a `StackedOptimizer`.
    """

    def __init__(self, agent: Agent, seeds: Sequence[int], names: Sequence[str] = ()) -> None:
        super().__init__(agent, seeds, names)
        stepped = set().union(*map(stepped_by, agent.optimizers.values()))
        for name, network in agent.networks.items():
            if any(p.requires_grad and id(p) not in stepped for p in network.parameters()):
                raise UsageError(
                    f"--on-nan drop-member: {type(agent).__name__} steps its {name} by itself, so that no member of it "
                    "can stand still; use --on-nan stop, or a StackedOptimizer in `optimizers`."
                )
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=agent.device)
        for optimizer in agent.optimizers.values():
            optimizer.alive = self.alive

    def learned(self, updated: Updated) -> Updated:
        """Members whose metrics are not finite are dropped, and the sampler learns nothing of the rows of any that
        are."""
        for value in updated.metrics.values():
            self.alive.logical_and_(value.isfinite())
        feedback = updated.feedback
        if feedback is not None:
            feedback = torch.where(self.alive.unsqueeze(1), feedback, torch.zeros_like(feedback))
        return Updated(updated.metrics, feedback)

    def seen(self, step: Step) -> Step:
        """Nothing of members that were dropped is folded into running statistics."""
        return replace(step, valid=self.rows(step.valid), all_valid=False)

    def rows(self, valid: Tensor) -> Tensor:
        return valid & self.alive.reshape(-1, *(1 for _ in valid.shape[1:]))

    def stored(self, step: Step, time: int, updates: int) -> Step:
        """Members whose envs gave something that is not finite are dropped."""
        if not step.faults:
            return step
        for fault in step.faults:
            self.drop(fault.member, fault.line, time, updates)
        return replace(step, faults=())

    def heard(self, episodes: list[Episode]) -> list[Episode]:
        return [each for each in episodes if self.remain[each.member]] if self.dropped else episodes

    def check(self, metrics: Mapping[str, Tensor], batch: Batch, time: int, updates: int) -> None:
        """Say which members were dropped; raises RlabError where none is left."""
        self.look(suspects(metrics, batch), time, updates)

    def check_sums(self, sums: Means, time: int, updates: int) -> None:
        self.look(suspects(sums_of(sums), {}), time, updates)

    def drop(self, member: int, reason: str, time: int, updates: int) -> None:
        """Go on without a member; nothing where it is dropped already.

        Raises:
            RlabError: it was the last one.
        """
        if not self.remain[member]:
            return
        self.alive[member] = False
        self.gone.append(member)
        self.dropped.append(Dropped(self.seeds[member], time, updates, reason))
        left = len(self.seeds) - len(self.dropped)
        if not left:
            raise RlabError(f"every seed was dropped, so that none is left to train; the last: {self.dropped[-1]}")
        where, kind = (f"{self.names[member]}: ", "members") if self.names else ("", "seeds")
        warn(f"{where}{self.dropped[-1]}; {left} of {len(self.seeds)} {kind} {'goes' if left == 1 else 'go'} on")

    def look(self, suspects: Iterable[tuple[str, Tensor]], time: int, updates: int) -> None:
        """Say which members the device has dropped since the last look.

        Args:
            suspects: what was learned from and what came of it, `[S, ...]` each by name, from the cause to the effect.

        Raises:
            RlabError: none is left.
        """
        remain = self.remain
        fresh = [i for i, alive in enumerate(self.alive.tolist()) if not alive and remain[i]]
        if not fresh:
            return
        named = list(suspects)
        for member in fresh:
            broken = (name for name, tensor in named if not bool(tensor[member].isfinite().all()))
            found = next(broken, None)
            self.drop(member, AFTER_STEP if found is None else f"{found} was not finite", time, updates)

    def load_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        super().load_state(state)
        self.alive.copy_(torch.from_numpy(self.remain))
