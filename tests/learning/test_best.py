"""The best policy of training: each member's own best evaluation."""

import numpy as np
import torch

from rlab.learning.best import BestPolicy
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete

NUMBER = Box((1,), "float32", -1.0, 1.0)


class OnePolicy:
    """Stands in for an agent: a policy with two members."""

    def __init__(self) -> None:
        network = q_network_spec(NUMBER, 2, BodySettings(()))
        preprocess = {"scaling": "none", "scale": None}
        self._policy = build_policy(PolicySpec(NUMBER, Discrete(2), preprocess, network, {"kind": "q"}), (3, 4))

    def policy(self):
        return self._policy

    def fill(self, value):
        with torch.no_grad():
            for parameter in self._policy.parameters():
                parameter.fill_(value)


def test_each_member_has_the_weights_of_its_own_best_evaluation_and_later_ones_win_a_tie():
    agent = OnePolicy()
    best = BestPolicy(agent)
    assert best.policy() is None
    for at, returns in enumerate([[[1, 3], [5, 5]], [[2, 2], [4, 4]], [[1, 1], [0, 9]]]):  # means 2 5, 2 4, 1 4.5
        agent.fill(float(at))
        best.on_evaluation(100 * at, np.array(returns, float), np.ones((2, 2)))
    agent.fill(7.0)
    assert best.kept.score.tolist() == [2, 5]
    assert best.kept.reached_at.tolist() == [100, 0]
    assert [member.unique().tolist() for member in next(best.policy().parameters())] == [[1], [0]]
    again = BestPolicy(agent)
    again.kept.load_state(best.kept.state())
    assert all((again.kept.weights[name] == tensor).all() for name, tensor in best.kept.weights.items())
