"""Rainbow (Hessel et al. 2018): six improvements of DQN together, as a preset of the family's switches."""

from dataclasses import dataclass
from typing import ClassVar

from rlab.agents.double_dqn import DoubleDQN
from rlab.agents.dqn import DQNConfig
from rlab.learning.choices import Replay, ValueHead


@dataclass(frozen=True, kw_only=True)
class RainbowConfig(DQNConfig):
    """Rainbow's switches; how much and how fast it learns is that of DQN here, which suits small networks: the paper's
    table 1 has a learning rate of 6.25e-5, batches of 32 and a million transitions for Atari."""

    n_step: int = 3  # transitions per return; Hessel et al. 2018, table 1
    value_head: ValueHead = "c51"  # with 51 atoms; value_min and value_max must hold the returns of the env
    dueling: bool = True  # one stream for the state's value, one for the advantages; Wang et al. 2016
    replay: Replay = "prioritised"  # by the divergence of a transition's prediction from its target
    priority_alpha: float = 0.5  # exponent of it in a transition's probability; Hessel et al. 2018, table 1
    priority_beta: float = 0.4  # exponent of importance weights at first, 1 in the end; Hessel et al. 2018, table 1
    noisy: bool = True  # learned noise on the weights explores, with sigma 0.5; Hessel et al. 2018, table 1


class Rainbow(DoubleDQN):
    """Double DQN with prioritised replay, dueling streams, 3-step returns, distributions over them and noisy layers."""

    Config: ClassVar[type] = RainbowConfig
