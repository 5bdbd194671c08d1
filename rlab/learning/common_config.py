"""Settings that several kinds of learning have in common, as dataclasses to inherit from.

A subclass states its own default, with its source, where it differs; a redeclared field keeps the inherited help text
unless it has a comment."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlab.errors import UsageError
from rlab.learning.choices import Activation, Init, LrSchedule, Memory, ObsScaling, Optimizer
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.networks.spaces import Box, Space
from rlab.ranges import check_counts, check_positive, check_shares_below_one
from rlab.search_ranges import chosen, searched

MOST_LAYERS, MOST_WIDTH = 1_000, 1_000_000  # of what `hidden` says; a file may say anything
Unread = dict[str, str]  # setting -> why nothing reads it


@runtime_checkable
class KnowsUnread(Protocol):
    """A config that knows which of its settings are not in force. A run refuses them, and records them as null."""

    def unread(self, action_space: Space) -> Unread:
        """Settings that nothing reads with these actions and other settings, each with the reason."""
        ...


class ConfigPart:
    """Where the calls of `super()` in dataclasses of settings end. One that adds settings to several agents inherits
    from this alone and stands first among an agent's bases, so that no default of a base is put back."""

    def __post_init__(self) -> None:
        """Nothing to check."""

    def unread(self, action_space: Space) -> Unread:
        """Settings that nothing reads with these actions and other settings, each with the reason."""
        return {}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ConfigPart):
    """The optimizer and its learning rate over the budget.

    Raises:
        UsageError: an unknown name or a number out of range.
    """

    learning_rate: float = searched(1e-3, 1e-5, 1e-2, "log")  # of the optimizer
    optimizer: Optimizer = "adam"  # of all networks, by its name in torch.optim; momentum: SGD with 0.9
    optimizer_eps: float | None = None  # in the optimizer's denominator; None: torch's default
    weight_decay: float = 0.0  # L2: decoupled for adamw, added to the gradient otherwise
    l1: float = 0.0  # L1: weight of the sum of absolute parameters in the loss
    max_grad_norm: float | None = None  # clips the gradient of each member, over all networks; None: does not
    lr_schedule: LrSchedule = chosen("constant", "linear")  # how the learning rate falls over the budget
    lr_final: float = 0.0  # factor at the end of linear and cosine, or of each step of step
    lr_warmup_fraction: float = 0.0  # share of the budget over which the rate first rises from 0
    lr_steps: int = 3  # stretches that the step schedule cuts the budget into

    def __post_init__(self) -> None:
        OptimizerSettings.of(self)

    def unread(self, action_space: Space) -> Unread:
        """Also what the schedule and the optimizer do not have."""
        found = super().unread(action_space)
        if self.lr_schedule == "constant":
            found |= dict.fromkeys(("lr_final", "lr_steps"), "lr_schedule is constant")
        elif self.lr_schedule != "step":
            found["lr_steps"] = f"it is for the step schedule, and lr_schedule is {self.lr_schedule}"
        if self.optimizer in ("sgd", "momentum"):
            found["optimizer_eps"] = f"the optimizer {self.optimizer} has none"
        return found


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(OptimizerConfig):
    """A policy's network and the scaling of what it sees, beside the optimizer that trains it."""

    network: str | None = None  # module:function that makes the body, instead of the layers below
    # of hidden layers; None: 64 64 for vectors, 512 or 128 after convolutions
    hidden: tuple[int, ...] | None = chosen(None, (64,), (256, 256))
    activation: Activation = "tanh"  # after every hidden layer
    layer_norm: bool = False  # after every hidden layer
    init: Init = "orthogonal"  # how the first weights are drawn
    obs_scaling: ObsScaling = "none"  # of vectors; fixed: by obs_scale, running: by mean and deviation per member
    obs_scale: tuple[float, ...] | None = None  # one divisor per component; None: the space's finite bounds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden is not None and (len(self.hidden) > MOST_LAYERS or max(self.hidden, default=0) > MOST_WIDTH):
            raise UsageError(f"hidden has at most {MOST_LAYERS} layers of at most {MOST_WIDTH:,} units.")

    def unread(self, action_space: Space) -> Unread:
        """Also a scale that no scaling uses."""
        found = super().unread(action_space)
        if self.obs_scaling != "fixed":
            found["obs_scale"] = f"it is for obs_scaling fixed, and that is {self.obs_scaling}"
        return found


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(NetworkConfig):
    """A policy's network that may remember what it saw, for agents that learn from sequences.

    A class that also inherits other settings names this one last, so that their defaults go before.
    """

    memory: Memory = "none"  # what remembers, behind the hidden layers; transformer: attends to the last steps
    # numbers that it gives; of gru and lstm also those in its state
    memory_size: int = searched(64, 16, 256, "powers")
    memory_window: int = 16  # transformer alone: steps that it sees, the present one included

    def unread(self, action_space: Space) -> Unread:
        """Also what belongs to a memory that is not in use."""
        found = super().unread(action_space)
        if self.memory != "transformer":
            found["memory_window"] = f"it is for memory transformer, and that is {self.memory}"
        if self.memory == "none":
            found["memory_size"] = "memory is none"
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "memory_size", "memory_window")


@dataclass(frozen=True, kw_only=True)
class StochasticPolicyConfig(NetworkConfig):
    """A policy that gives a distribution of actions. Policy-gradient agents and those that clone inherit it, so that a
    policy that one of them pretrained fits the settings of another."""

    init_gain: float = 2**0.5  # scale of the hidden layers' first weights
    actor_gain: float = 0.01  # scale of the policy's last layer, so that it starts near uniform
    squash: bool = False  # Box actions alone: through tanh instead of clipped
    log_std_init: float = -0.69  # Box actions alone: log of a deviation of 0.5 half ranges, Andrychowicz et al. 2021

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "init_gain", "actor_gain")

    def unread(self, action_space: Space) -> Unread:
        """Also what only Box actions need."""
        found = super().unread(action_space)
        if not isinstance(action_space, Box):
            why = f"it is for Box actions, and these are {action_space}"
            found |= dict.fromkeys(("squash", "log_std_init"), why)
        return found


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(OptimizerConfig):
    """Learning from a dataset of which a part is held out to judge by."""

    validation_fraction: float = 0.0  # share of the episodes that is held out; 0: none
    patience: int | None = None  # validations without a lower loss after which a seed stops; None: none stops

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares_below_one(self, "validation_fraction")
        check_counts(self, "patience")


@runtime_checkable
class NamesNetwork(Protocol):
    """A config with which a user may name a network of their own."""

    @property
    def network(self) -> str | None: ...  # module:function of the network's body


def own_network(settings: object) -> str | None:
    """The network of their own that a user has named; None where there is none, or no such setting."""
    return settings.network if isinstance(settings, NamesNetwork) else None


def patience_of(settings: object) -> int | None:
    """Validations without a lower loss after which a member stops; None: it does not."""
    return settings.patience if isinstance(settings, HeldOutConfig) else None
