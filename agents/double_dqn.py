"""Double DQN (van Hasselt et al. 2016): the online network picks the next action, the target network values it."""

import torch
from torch import Tensor

from rlab.agents.dqn import DQN
from rlab.learning.contract import Batch


class DoubleDQN(DQN):
    """Double deep Q-learning: a next value that is not its own maximum overestimates less."""

    def next_policy(self, next_q: Tensor, batch: Batch) -> Tensor:
        online_q = self.head.values(self.replayed.next_outputs(batch))
        return self.target_policy(online_q.masked_fill(next_q.isneginf(), -torch.inf))  # equation 4
