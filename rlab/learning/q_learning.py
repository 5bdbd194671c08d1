"""The settings that the agents with Q values share, whether they learn in an env or from a dataset."""

import math
from dataclasses import dataclass

from rlab.errors import UsageError, unknown
from rlab.learning.choices import Activation, DemonstrationLoss, Init, ValueLoss
from rlab.learning.common_config import NetworkConfig, Unread
from rlab.learning.demonstration_losses import DEMONSTRATION_LOSSES
from rlab.learning.returns import LOSSES
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative, check_positive, check_positive_shares, check_shares


@dataclass(frozen=True, kw_only=True)
class QLearningConfig(NetworkConfig):
    """What DQN and its family share; each agent states its own defaults where they differ.

    The clock counts env steps of one member, or updates without an env.
    """

    gamma: float = 0.99  # discount per env step; Mnih et al. 2015, Extended Data Table 1
    learning_rate: float = 1e-3  # of the optimizer; the paper differs: RMSProp on images, not Adam on small networks
    batch_size: int = 64  # transitions per update and member
    n_step: int = 1  # transitions per return; Sutton and Barto 2018, chapter 7
    loss: ValueLoss = "huber"  # of TD errors; Huber is the paper's error clipping
    target_every: int = 250  # env steps between target updates; updates without an env
    target_tau: float = 1.0  # share of the online weights that the target takes over; 1 is a hard copy
    activation: Activation = "relu"
    layer_norm: bool = True  # after every hidden layer; Ba et al. 2016. The paper's DQN has none
    dropout: float = 0.0  # share of hidden units set to zero in updates
    init: Init = "pytorch"
    noisy: bool = False  # learned noise on the weights of linear layers, which explores; Fortunato et al. 2018
    noisy_sigma: float = 0.5  # that noise at first, over the root of a layer's inputs; the paper's section 3.2
    dueling: bool = False  # one stream for the state's value, one for the advantages; Wang et al. 2016
    optimizer_eps: float | None = 1.5e-4  # in the optimizer's denominator; Hessel et al. 2018. None: torch's default
    max_grad_norm: float | None = 10.0  # clips the gradient of each member; Stable-Baselines3's default. None: does not
    lr_final: float = 0.05
    demonstration_loss: DemonstrationLoss = "none"  # beside the TD loss, of rows that come from demonstrations
    demonstration_weight: float = 1.0  # of that loss beside the TD loss; Hester et al. 2018, Experimental Setup
    munchausen: bool = False  # targets that reward what the agent is sure of; Vieillard et al. 2020
    munchausen_alpha: float = 0.9  # share of the log probability in the reward; the paper's section 4
    munchausen_temperature: float = 0.03  # of the softmax over values that is the policy; the paper's tau
    munchausen_clip: float = -1.0  # the least that temperature times log probability counts; the paper's l0
    margin: float = 0.8  # by which the margin loss wants a demonstrated action to be the best; Hester et al. 2018

    # Without an env nothing is explored; an agent that has one makes settings of these.
    @property
    def epsilon_start(self) -> float:
        """Share of random actions at the start."""
        return 0.0

    @property
    def epsilon_end(self) -> float:
        """Share of random actions in the end."""
        return 0.0

    @property
    def epsilon_fraction(self) -> float:
        """Share of the budget over which epsilon falls linearly."""
        return 0.0

    @property
    def epsilon_duration(self) -> float | None:
        """Exponent of how long an exploring action is held."""
        return None

    def unread(self, action_space: Space) -> Unread:
        """Also what belongs to a demonstration loss or to targets that are not in use."""
        found = super().unread(action_space)
        if self.demonstration_loss != "margin":
            found["margin"] = f"it is for demonstration_loss margin, and that is {self.demonstration_loss}"
        if self.demonstration_loss == "none":
            found["demonstration_weight"] = "demonstration_loss is none"
        if not self.noisy:
            found["noisy_sigma"] = "noisy is off"
        if not self.munchausen:
            names = "munchausen_alpha", "munchausen_temperature", "munchausen_clip"
            found |= dict.fromkeys(names, "munchausen is off")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        check_counts(self, "batch_size", "n_step", "target_every")
        check_shares(self, "gamma", "epsilon_start", "epsilon_end", "epsilon_fraction")
        check_positive_shares(self, "target_tau")
        if self.epsilon_duration is not None and self.epsilon_duration <= 1.0:
            raise UsageError(f"epsilon_duration {self.epsilon_duration} must be above 1; None: one step.")
        if self.demonstration_loss not in DEMONSTRATION_LOSSES:
            raise unknown("demonstration_loss", self.demonstration_loss, DEMONSTRATION_LOSSES)
        check_not_negative(self, "demonstration_weight", "margin")
        check_shares(self, "munchausen_alpha")
        check_positive(self, "munchausen_temperature", "noisy_sigma")
        if not -math.inf < self.munchausen_clip <= 0.0:
            raise UsageError(f"munchausen_clip {self.munchausen_clip} must be 0 or less: log probabilities are.")
