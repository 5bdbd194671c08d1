"""Conservative Q-learning for discrete actions (Kumar et al. 2020): double DQN on a dataset of any behaviour, with a
loss that keeps the values of actions down which the data does not show."""

from dataclasses import dataclass
from typing import ClassVar

from rlab.agents.dqfd import FromDataset
from rlab.learning.choices import DemonstrationLoss
from rlab.learning.q_learning import QLearningConfig
from rlab.search_ranges import searched


@dataclass(frozen=True, kw_only=True)
class CQLConfig(QLearningConfig):
    """Settings of CQL. The clock counts updates; the paper's alpha is `demonstration_weight`."""

    demonstration_loss: DemonstrationLoss = "conservative"  # beside the TD loss, of rows that come from demonstrations
    # alpha of equation 4; 1 weighs it like the TD loss
    demonstration_weight: float = searched(1.0, 0.5, 10.0, "log", source="Kumar et al. 2020")


class CQL(FromDataset):
    """Conservative Q-learning: values that do not promise more than the dataset shows."""

    Config: ClassVar[type] = CQLConfig
