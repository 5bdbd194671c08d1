"""Settings of hindsight, for the config of every agent that learns from replay while it acts."""

from dataclasses import dataclass

from rlab.errors import unknown
from rlab.experience.hindsight_sampler import STRATEGIES
from rlab.learning.choices import Hindsight
from rlab.learning.common_config import ConfigPart, Unread
from rlab.networks.spaces import Space
from rlab.ranges import check_counts


@dataclass(frozen=True, kw_only=True)
class HindsightConfig(ConfigPart):
    """Goals in hindsight, in envs whose observations have goals."""

    hindsight: Hindsight = "none"  # which achieved goals replay is read with; Andrychowicz et al. 2017, section 4.5
    hindsight_goals: int = 4  # windows with such a goal for each that keeps its own; k in section 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hindsight not in ("none", *STRATEGIES):
            raise unknown("hindsight", self.hindsight, ("none", *STRATEGIES))
        check_counts(self, "hindsight_goals")

    def unread(self, action_space: Space) -> Unread:
        """Also the number of goals where there are none."""
        found = super().unread(action_space)
        if self.hindsight == "none":
            found["hindsight_goals"] = "hindsight is none"
        return found


def asks_for_hindsight(settings: object) -> bool:
    """Whether an agent with these settings reads replay with goals in hindsight."""
    return isinstance(settings, HindsightConfig) and settings.hindsight != "none"
