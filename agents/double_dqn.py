"""Double DQN (van Hasselt et al. 2016): the online network picks the next action, the target network values it."""

from torch import Tensor

from rlab.agents.dqn import DQN
from rlab.learning.returns import double_value


class DoubleDQN(DQN):
    """Double deep Q-learning: a next value that is not its own maximum overestimates less."""

    def next_value(self, next_q: Tensor, next_obs: Tensor) -> Tensor:
        return double_value(next_q, selector_q=self.q_network(next_obs))
