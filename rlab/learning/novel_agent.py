"""Any agent that acts, with a reward for novelty: a class that stands before the agent's own, whose file knows nothing
of it.

What it changes is the reward of the rows that the agent prepares, wherever they come from. Rows of replay are paid for
as the networks are when they are read, not as they were when the rows were stored: what has become familiar since pays
nothing any more. Rewards in storage and returns that are reported stay the env's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.experience.env_contract import Step
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.experience.successors import SuccessorSampler
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.novelty import RandomNetworkDistillation, led_to
from rlab.learning.novelty_config import pays_for_novelty
from rlab.learning.per_member import first_of, settings_per_member
from rlab.networks.spaces import Space
from rlab.types import Clock

FEATURES, COUNTS = "novelty features", "novelty counts"  # names of prepared rows


def with_novelty(agent_class: Any, settings: object) -> Any:
    """The class of an agent, with a reward for novelty where its settings ask for one."""
    if not pays_for_novelty(settings):
        return agent_class
    able = tuple(name for name in settings_per_member(agent_class) if name not in ("gamma", "n_step"))
    names = {"__module__": agent_class.__module__, "__doc__": agent_class.__doc__, "per_member": able}
    return type(agent_class.__name__, (PaidForNovelty, agent_class), names)


class PaidForNovelty:
    """What of an agent changes; the class behind it in the order of inheritance is the agent."""

    config: Any
    novelty: RandomNetworkDistillation | None = None  # while the agent itself is built

    def __init__(
        self,
        config: Any,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        **others: Any,
    ) -> None:
        agent: Any = super()
        agent.__init__(config, obs_space, action_space, seeds, device, **others)
        self.novelty = RandomNetworkDistillation(config, config.gamma, obs_space, seeds, device)

    @property
    def networks(self) -> dict[str, Any]:
        """The agent's, and the one that learns to predict."""
        return self._with("networks", super())

    @networks.setter
    def networks(self, value: dict[str, Any]) -> None:
        vars(self)["networks"] = value

    @property
    def optimizers(self) -> dict[str, Any]:
        """The agent's, and that of the network that learns to predict."""
        return self._with("optimizers", super())

    @optimizers.setter
    def optimizers(self, value: dict[str, Any]) -> None:
        vars(self)["optimizers"] = value

    def _with(self, name: str, agent: Any) -> dict[str, Any]:
        """What the agent set under a name, or what the property of its class gives, and novelty's; the agent's alone
        while it is built, since it may add to it."""
        found: dict[str, Any] = vars(self)[name] if name in vars(self) else getattr(agent, name)
        if self.novelty is None:
            return found
        return {**found, "novelty": self.novelty.predictor if name == "networks" else self.novelty.optimizer}

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        """The agent's, with what every step of a window of several led to."""
        agent: Any = super()
        found: Sampler = agent.sampler(storage, draws)
        return SuccessorSampler(found, storage) if getattr(first_of(self.config), "n_step", 1) > 1 else found

    def scheduled(self, clock: Clock) -> Scheduled:
        """Also the learning rate of novelty."""
        agent: Any = super()
        return {**agent.scheduled(clock), **self._novelty.optimizer.scheduled(clock)}

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """Also for the statistics of novelty."""
        agent: Any = super()
        agent.observe(obs, step, now)
        self._novelty.observe(step.next_obs, step.valid)

    def prepare(self, batch: Batch) -> Batch:
        """The agent's rows, of rewards with those for novelty; and what the network learns from that predicts."""
        agent: Any = super()
        obs, counts = led_to(batch)  # [S, X, Y, *obs]
        features = self._novelty.features(obs.flatten(1, 2)).unflatten(1, counts.shape[1:])
        paid = batch["reward"] + self._novelty.reward(features, counts)
        rows: Batch = agent.prepare({**batch, "reward": paid})
        if "steps" in batch:  # of a window the first step: the others are first steps of other windows
            features, counts = features[:, :, 0], counts[:, :, 0]
        else:
            features, counts = features.flatten(1, 2), counts.flatten(1, 2)
        size = next(iter(rows.values())).shape[1]
        return {**rows, FEATURES: _cut(features, size), COUNTS: _cut(counts, size)}

    def update(self, batch: Batch, now: Now) -> Updated:
        """A step of the agent, and one of the network that predicts."""
        agent: Any = super()
        rows = {name: value for name, value in batch.items() if name not in (FEATURES, COUNTS)}
        updated: Updated = agent.update(rows, now)
        more = self._novelty.update(batch[FEATURES].flatten(1, 2), batch[COUNTS].flatten(1, 2), now)
        return Updated({**updated.metrics, **more}, updated.feedback)

    def state(self) -> dict[str, Any]:
        """Also that of novelty."""
        agent: Any = super()
        return {**agent.state(), "novelty state": self._novelty.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        agent: Any = super()
        agent.load_state(state)
        self._novelty.load_state(state["novelty state"])

    @property
    def _novelty(self) -> RandomNetworkDistillation:
        assert self.novelty is not None
        return self.novelty


def _cut(rows: Tensor, size: int) -> Tensor:
    """Rows `[S, R, ...]` in as many parts as the agent prepared rows, `[S, size, R / size, ...]`, without a rest: an
    agent may have made a row of a whole sequence."""
    each = max(1, rows.shape[1] // size)
    index = torch.arange(size * each, device=rows.device) % rows.shape[1]
    return rows.index_select(1, index).unflatten(1, (size, each))
