"""The settings of agents that learn from replay, and what prioritised replay (Schaul et al. 2016) adds to them: a
sampler whose batches have a `weight`, and an exponent of it that follows the clock."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.draws import Draws
from rlab.errors import UsageError, unknown
from rlab.experience.prioritised_sampler import PrioritisedSampler
from rlab.experience.samplers import UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.choices import Replay
from rlab.learning.common_config import NetworkConfig, Unread
from rlab.learning.contract import Batch, Now
from rlab.learning.exploration import linear
from rlab.learning.hindsight_config import HindsightConfig
from rlab.learning.novelty_config import NoveltyConfig
from rlab.learning.per_member import per_member
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative, check_shares
from rlab.search_ranges import searched
from rlab.types import Clock

REPLAYS = {"uniform": UniformSampler, "prioritised": PrioritisedSampler}


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(HindsightConfig, NoveltyConfig, NetworkConfig):
    """To be inherited beside settings that have `batch_size` and `n_step`. Steps are env steps of one member, summed
    over its envs."""

    replay_capacity: int = 50_000  # transitions per member
    learning_starts: int = 500  # env steps before the first update
    learn_every: int = 8  # env steps
    updates_per_learn: int = searched(4, 1, 8, "powers")  # so one update every 2 env steps
    replay: Replay = "uniform"  # which transitions are learned from; prioritised: those with large errors more often
    # exponent of the error in a transition's probability; Schaul et al. 2016, section 4
    priority_alpha: float = searched(0.6, 0.4, 0.8, source="Schaul et al. 2016")
    priority_beta: float = 0.4  # exponent of importance weights at first, 1 in the end; Schaul et al. 2016, section 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "replay_capacity", "learn_every", "updates_per_learn")
        check_not_negative(self, "learning_starts")
        for name in ("batch_size", "n_step"):
            if getattr(self, name) > self.replay_capacity:
                raise UsageError(f"{name} {getattr(self, name)} is more than replay_capacity {self.replay_capacity}.")
        if self.replay not in REPLAYS:
            raise unknown("replay", self.replay, REPLAYS)
        check_shares(self, "priority_alpha", "priority_beta")

    def unread(self, action_space: Space) -> Unread:
        """Also the exponents of priorities where there are none."""
        found = super().unread(action_space)
        if self.replay != "prioritised":
            found |= dict.fromkeys(("priority_alpha", "priority_beta"), f"replay is {self.replay}")
        return found


def prioritises(config: Any) -> bool:
    """Whether an agent with these settings learns from prioritised replay."""
    return isinstance(config, ReplaySettings) and config.replay == "prioritised"


def replay_sampler(config: Any, storage: Storage, draws: Draws) -> UniformSampler:
    """How these settings draw windows of `config.n_step` transitions from storage."""
    if prioritises(config):
        return PrioritisedSampler(storage, draws, config.n_step, config.priority_alpha)
    return UniformSampler(storage, draws, config.n_step)


def replay_schedule(config: Any, clock: Clock) -> dict[str, float | np.ndarray]:
    """The exponent of importance weights now, which rises to 1 (Schaul et al. 2016, section 3.4)."""
    if not prioritises(config):
        return {}
    return {"replay/beta": per_member(config, lambda each: linear(each.priority_beta, 1.0, 1.0, clock.progress))}


def weighed(batch: Batch, now: Now) -> Batch:
    """A batch whose weights have the exponent that `replay_schedule` gave; any other as it is."""
    return {**batch, "weight": batch["weight"] ** now["replay/beta"]} if "replay/beta" in now else batch
