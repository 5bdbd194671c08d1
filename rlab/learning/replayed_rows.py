"""How an agent with Q values reads replay: single transitions, or windows of several steps of one episode."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rlab.draws import Draws
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch
from rlab.learning.replay_settings import replay_sampler
from rlab.learning.returns import continuation, n_step_return
from rlab.learning.terms import LossTerms
from rlab.networks.memory import State
from rlab.networks.policy import Policy
from rlab.networks.spec import StackedNetwork, in_training

NO_FIELDS: Mapping[str, Tensor] = {}


class ReplayedRows:
    """Of an agent without memory: every row is a transition by itself.

    `ReplayedWindows` has the same methods, for an agent with memory. `prepare` gives values `[S, B, ...]`, which may be
    cut along B; `rows` makes of them what is learned from, values `[S, R, ...]`.

    Args:
        config: a `QLearningConfig`.
        policy: of the network that learns.
        target: its target network.
    """

    def __init__(self, config: Any, policy: Policy, target: StackedNetwork) -> None:
        self.config, self.policy, self.target = config, policy, target
        self.preprocess = policy.preprocess
        self.training_network = in_training(policy.network)  # as it answers in updates, with dropout on

    def fields(self) -> tuple[Field, ...]:
        """What storage keeps of every row beside the observation and the action."""
        return ()

    def extras(self, state: State) -> Mapping[str, Tensor]:
        """The values of `fields`, where the agent acted with this state."""
        return NO_FIELDS

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        """How batches are drawn."""
        return replay_sampler(self.config, storage, draws)

    def prepare(self, batch: Batch, terms: LossTerms, of_target: bool) -> Batch:
        """What the losses of Q heads read of a sampled batch (`ValueLoss`), what loss terms do, and what the methods
        below do.

        Args:
            of_target: whether `target_outputs` is wanted too, what the target network says of the observations, with
                the `mask` of what they allow, if any.
        """
        gamma, next_obs = self.config.gamma, self.preprocess(batch["next_obs"])
        prepared = {
            "obs": self.preprocess(batch["obs"]),
            "action": batch["action"],
            "reward": n_step_return(batch["reward"], gamma),
            "discount": continuation(batch["terminated"], gamma, batch["steps"]),
            "next_obs": next_obs,
            "next_outputs": self.target(next_obs),
        }
        allowed = self.preprocess.mask(batch["next_obs"])
        if allowed is not None:
            prepared["next_mask"] = allowed
        if "weight" in batch:  # of a sampler that does not draw uniformly
            prepared["weight"] = batch["weight"]
        if of_target:
            prepared["target_outputs"] = self.target(prepared["obs"])
            prepared |= {} if allowed is None else {"mask": self.preprocess.mask(batch["obs"])}
        return prepared | terms.prepare(batch)

    def rows(self, prepared: Batch) -> Batch:
        """What is learned from, `[S, R, ...]`."""
        return prepared

    def outputs(self, rows: Batch) -> Tensor:
        """What the network that learns says of the rows, `[S, R, width]`."""
        outputs: Tensor = self.training_network(rows["obs"])
        return outputs

    def next_outputs(self, rows: Batch) -> Tensor:
        """What the network that learns says of their successors, `[S, R, width]`."""
        outputs: Tensor = self.policy.network(rows["next_obs"])
        return outputs

    def feedback(self, error: Tensor, rows: Batch) -> Tensor:
        """How surprising what was drawn is, `[S, B]`, given the errors `[S, R]`."""
        return error
