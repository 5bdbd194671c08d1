"""Settings of novelty, for the config of every agent that acts."""

from dataclasses import dataclass

from rlab.errors import unknown
from rlab.learning.choices import Novelty
from rlab.learning.common_config import ConfigPart, Unread
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative, check_positive

NOVELTIES = ("none", "rnd")
OF_NOVELTY = ("novelty_weight", "novelty_hidden", "novelty_features", "novelty_learning_rate")


@dataclass(frozen=True, kw_only=True)
class NoveltyConfig(ConfigPart):
    """A reward for what was seldom seen, beside the env's, in training alone."""

    novelty: Novelty = "none"  # rnd: reward for what a network cannot predict yet; Burda et al. 2019
    novelty_weight: float = 0.5  # of that reward beside the env's; Burda et al. 2019, table 5, has 1 beside 2
    novelty_hidden: tuple[int, ...] = (64, 64)  # of both networks, behind convolutions
    novelty_features: int = 64  # numbers that one network gives and the other predicts; 512 in the paper's code
    novelty_learning_rate: float = 1e-4  # of the network that predicts; Burda et al. 2019, table 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.novelty not in NOVELTIES:
            raise unknown("novelty", self.novelty, NOVELTIES)
        check_not_negative(self, "novelty_weight")
        check_counts(self, "novelty_features")
        check_positive(self, "novelty_learning_rate")

    def unread(self, action_space: Space) -> Unread:
        """Also all that belongs to novelty where there is none."""
        found = super().unread(action_space)
        return found | (dict.fromkeys(OF_NOVELTY, "novelty is none") if self.novelty == "none" else {})


def pays_for_novelty(settings: object) -> bool:
    """Whether an agent with these settings gets a reward for novelty."""
    return isinstance(settings, NoveltyConfig) and settings.novelty != "none"
