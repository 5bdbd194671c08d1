"""Holds what an agent acts on next, carries its state, and counts every episode's return and length.

All of it is tensors on the agent's device that are changed in place, so that it can be part of a program.
"""

from rlab.experience.env_contract import Step
from rlab.experience.under_way import UnderWay
from rlab.networks.memory import State, reset


class Collector(UnderWay):
    """The observation and the agent's state to act on next, and the episodes of these envs.

    Args:
        env: the envs.
        looked: as of `EpisodeCounts`.
    """

    def take(self, step: Step, state: State) -> None:
        """What a vector step led to, and the state that the agent's last call returned: what to act on next."""
        self.obs.copy_(step.obs)
        if state and not (step.all_valid and step.none_ended):
            # An episode begins behind a row that ended one, and behind a reset row.
            state = reset(state, self._initial, ~step.valid | step.terminated | step.truncated)
        for name, value in state.items():
            self.carried[name].copy_(value)
        self.count(step)
