"""The settings that the agents with Q values share, whether they learn in an env or from a dataset."""

import math
from dataclasses import dataclass
from typing import Any, get_args

from rlab.errors import UsageError, unknown
from rlab.learning.choices import Activation, DemonstrationLoss, Init, ValueHead, ValueLoss
from rlab.learning.common_config import NetworkConfig, Unread
from rlab.learning.demonstration_losses import DEMONSTRATION_LOSSES
from rlab.learning.exploration import linear
from rlab.learning.per_member import OF_OPTIMIZERS
from rlab.learning.returns import LOSSES
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative, check_positive, check_positive_shares, check_shares
from rlab.search_ranges import searched

# Settings that only some value heads read.
OF_HEADS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("loss", "value_rescaling"), ("q",)),
    **dict.fromkeys(("atoms", "value_min", "value_max"), ("c51",)),
    "quantiles": ("qr",),
    "quantile_kappa": ("qr", "iqn"),
    **dict.fromkeys(("iqn_samples", "iqn_points", "iqn_cosines"), ("iqn",)),
}
# Settings that may differ from member to member, of those that the agents below have.
PER_MEMBER = (
    *(*OF_OPTIMIZERS, "gamma", "n_step", "target_every", "target_tau", "epsilon_start", "epsilon_end"),
    *("epsilon_fraction", "munchausen_alpha", "munchausen_temperature", "munchausen_clip", "priority_beta"),
    *("demonstration_weight", "margin"),
)


@dataclass(frozen=True, kw_only=True)
class QLearningConfig(NetworkConfig):
    """What DQN and its family share; each agent states its own defaults where they differ.

    The clock counts env steps of one member, or updates without an env.
    """

    # discount per env step; Mnih et al. 2015, Extended Data Table 1
    gamma: float = searched(0.99, 0.9, 0.9999, "one_minus")
    learning_rate: float = 1e-3  # of the optimizer; the paper differs: RMSProp on images, not Adam on small networks
    batch_size: int = searched(64, 16, 512, "powers")  # transitions per update and member
    # transitions per return; Sutton and Barto 2018, chapter 7
    n_step: int = searched(1, 1, 5, source="Hessel et al. 2018")
    loss: ValueLoss = "huber"  # of TD errors; Huber is the paper's error clipping
    target_every: int = searched(250, 50, 5_000, "log")  # env steps between target updates; updates without an env
    target_tau: float = 1.0  # share of the online weights that the target takes over; 1 is a hard copy
    activation: Activation = "relu"
    layer_norm: bool = True  # after every hidden layer; Ba et al. 2016. The paper's DQN has none
    dropout: float = 0.0  # share of hidden units set to zero in updates
    init: Init = "pytorch"
    noisy: bool = False  # learned noise on the weights of linear layers, which explores; Fortunato et al. 2018
    # that noise at first, over the root of a layer's inputs; the paper's section 3.2
    noisy_sigma: float = searched(0.5, 0.1, 1.0, "log", source="Hessel et al. 2018")
    dueling: bool = False  # one stream for the state's value, one for the advantages; Wang et al. 2016
    optimizer_eps: float | None = 1.5e-4  # in the optimizer's denominator; Hessel et al. 2018. None: torch's default
    max_grad_norm: float | None = 10.0  # clips the gradient of each member; Stable-Baselines3's default. None: does not
    lr_final: float = 0.05
    demonstration_loss: DemonstrationLoss = "none"  # beside the TD loss, of rows that come from demonstrations
    demonstration_weight: float = 1.0  # of that loss beside the TD loss; Hester et al. 2018, Experimental Setup
    value_head: ValueHead = "q"  # what is predicted of a return: its mean, or a distribution
    atoms: int = 51  # returns of c51 whose probabilities are predicted; Bellemare et al. 2017, section 5
    value_min: float = -10.0  # the lowest of them; lower returns count there. The paper's, of clipped rewards
    value_max: float = 10.0  # the highest of them; higher returns count there
    # of a return, of qr. Dabney et al. 2018a have 200; time and memory grow with its square
    quantiles: int = searched(32, 8, 128, "powers")
    quantile_kappa: float = 1.0  # up to which error the loss of qr and iqn is squared; Dabney et al. 2018a. 0: nowhere
    iqn_samples: int = 8  # quantiles of a return that iqn draws in an update; Dabney et al. 2018b, figure 2
    iqn_points: int = 32  # quantiles whose mean iqn acts by; the K of Dabney et al. 2018b, appendix
    iqn_cosines: int = 64  # in which a quantile's fraction is written; Dabney et al. 2018b, equation 4
    value_rescaling: bool = False  # values are learned on about the scale of their root; Pohlen et al. 2018
    munchausen: bool = False  # targets that reward what the agent is sure of; Vieillard et al. 2020
    munchausen_alpha: float = 0.9  # share of the log probability in the reward; the paper's section 4
    munchausen_temperature: float = 0.03  # of the softmax over values that is the policy; the paper's tau
    munchausen_clip: float = -1.0  # the least that temperature times log probability counts; the paper's l0
    margin: float = 0.8  # by which the margin loss wants a demonstrated action to be the best; Hester et al. 2018

    @property
    def value_head_json(self) -> dict[str, Any]:
        """The policy head of these settings, as plain data."""
        heads: dict[str, dict[str, Any]] = {
            "q": {"kind": "q"},
            "c51": {"kind": "categorical_value", "atoms": self.atoms, "low": self.value_min, "high": self.value_max},
            "qr": {"kind": "quantile", "quantiles": self.quantiles},
            "iqn": {"kind": "implicit_quantile", "points": self.iqn_points},
        }
        return heads[self.value_head]

    @property
    def implicit(self) -> dict[str, int] | None:
        """The settings of the layer of implicit quantiles; None without one."""
        if self.value_head != "iqn":
            return None
        return {"cosines": self.iqn_cosines, "samples": self.iqn_samples, "points": self.iqn_points}

    def epsilon(self, progress: float) -> float:
        """The share of random actions when this share of the budget is used; without an env nothing is explored."""
        return 0.0

    def begins_uniformly(self, env_steps: int) -> bool:
        """Whether a fresh network's actions are uniform at this time, whatever epsilon is."""
        return False

    @property
    def epsilon_duration(self) -> float | None:
        """Exponent of how long an exploring action is held; an agent that explores makes a setting of it."""
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
        found |= {
            name: f"it is for value_head {' or '.join(heads)}, and that is {self.value_head}"
            for name, heads in OF_HEADS.items()
            if self.value_head not in heads
        }
        if not self.munchausen:
            names = "munchausen_alpha", "munchausen_temperature", "munchausen_clip"
            found |= dict.fromkeys(names, "munchausen is off")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        check_counts(self, "batch_size", "n_step", "target_every")
        if self.value_rescaling and self.munchausen:
            raise UsageError(
                "value_rescaling and munchausen do not combine: log probabilities are those of values on their own "
                "scale. Leave one of the two out."
            )
        if self.value_head not in get_args(ValueHead):
            raise unknown("value_head", self.value_head, get_args(ValueHead))
        check_counts(self, "quantiles", "iqn_samples", "iqn_points", "iqn_cosines")
        check_not_negative(self, "quantile_kappa")
        if self.atoms < 2:
            raise UsageError(f"atoms {self.atoms} must be 2 or more.")
        if not -math.inf < self.value_min < self.value_max < math.inf:
            raise UsageError(f"value_min {self.value_min} must be below value_max {self.value_max}, and both finite.")
        check_shares(self, "gamma")
        check_positive_shares(self, "target_tau")
        if self.demonstration_loss not in DEMONSTRATION_LOSSES:
            raise unknown("demonstration_loss", self.demonstration_loss, DEMONSTRATION_LOSSES)
        check_not_negative(self, "demonstration_weight", "margin")
        check_shares(self, "munchausen_alpha")
        check_positive(self, "munchausen_temperature", "noisy_sigma")
        if not -math.inf < self.munchausen_clip <= 0.0:
            raise UsageError(f"munchausen_clip {self.munchausen_clip} must be 0 or less: log probabilities are.")


@dataclass(frozen=True, kw_only=True)
class EpsilonConfig(QLearningConfig):
    """Of agents that explore by random actions, or by noisy layers instead (Fortunato et al. 2018, section 3.1)."""

    epsilon_start: float = 1.0  # share of random actions; Mnih et al. 2015
    epsilon_end: float = searched(0.05, 0.0, 0.2)  # the paper has 0.1 and evaluates at 0.05
    epsilon_fraction: float = searched(0.2, 0.0, 0.5)  # of the budget, over which epsilon falls linearly
    epsilon_duration: float | None = None  # exponent of how long an exploring action is held; Dabney et al. 2021 have 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "epsilon_start", "epsilon_end", "epsilon_fraction")
        if self.epsilon_duration is not None and self.epsilon_duration <= 1.0:
            raise UsageError(f"epsilon_duration {self.epsilon_duration} must be above 1; None: one step.")

    def epsilon(self, progress: float) -> float:
        """From `epsilon_start` to `epsilon_end`; 0 where noisy layers explore."""
        return 0.0 if self.noisy else linear(self.epsilon_start, self.epsilon_end, self.epsilon_fraction, progress)

    def unread(self, action_space: Space) -> Unread:
        """Also random actions where noisy layers explore."""
        found = super().unread(action_space)
        if self.noisy:
            names = "epsilon_start", "epsilon_end", "epsilon_fraction", "epsilon_duration"
            found |= dict.fromkeys(names, "noisy layers explore instead")
        return found
