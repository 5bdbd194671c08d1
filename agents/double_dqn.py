"""Double DQN (van Hasselt et al. 2016): the online network picks the next action, the target network values it."""

from torch import Tensor

from rlab.agents.dqn import DQN
from rlab.learning.returns import double_value


class DoubleDQN(DQN):
    """DQN whose next value is not its own maximum, which overestimates."""

    def next_value(self, next_obs: Tensor) -> Tensor:
        return double_value(self.target_network(next_obs), self.q_network(next_obs))
