"""One learner that is trained by several processes, which `torchrun` starts (`rlab.ranks`): what cannot be split, and
what the others do while the first process writes the run down.

All processes keep the same rows and make the same draws, so that a checkpoint is that of one process. What is split is
the work: the steps of the envs, and the forward and backward passes of every minibatch.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.experience.samplers import Sampler
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.experience.split_samplers import SplitRollouts, SplitSampler
from rlab.jobs.request import Request
from rlab.learning.contract import Agent, LoopListener
from rlab.learning.episodes import Hear
from rlab.learning.hindsight_config import asks_for_hindsight
from rlab.learning.loop import Loop
from rlab.learning.novelty_config import pays_for_novelty
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.noisy import StackedNoisyLinear
from rlab.ranks import Ranks

AGENTS = ("ppo", "dqn", "double_dqn")  # whose updates are means over rows, and draw nothing for single rows
WITHOUT = "leave it or torchrun out."


def split(request: Request, ranks: Ranks) -> Request:
    """The request of a run that these processes share.

    Raises:
        UsageError: it asks for something that one process alone does.
    """
    if ranks.count == 1:
        return request
    run, settings = request.run, request.settings
    if request.agent not in AGENTS:
        raise UsageError(
            f"{request.agent} learns in one process; torchrun trains {', '.join(AGENTS)} over several: start rlab "
            "without it."
        )
    of_one_process = {
        "--devices, --jobs or --engine": run.shared_out,
        f"--device {run.device}": ":" in run.device,
        f"--on-nan {run.on_nan}": run.on_nan != "stop",
        "--hindsight": asks_for_hindsight(settings),
        "--novelty": pays_for_novelty(settings),
        "--vary": bool(request.vary),
        "--method pbt": request.evolution is not None,
    }
    for flag, asked_for in of_one_process.items():
        if asked_for:
            raise UsageError(f"{flag} cannot be used where several processes train one learner: {WITHOUT}")
    if run.num_envs % ranks.count:
        raise UsageError(f"--num-envs {run.num_envs} cannot be divided evenly among {ranks.count} processes.")
    return replace(request, processes=ranks.count)


def shared(ranks: Ranks) -> str:
    """How the work is split, for people; "" where one process does it."""
    if ranks.count == 1:
        return ""
    return f", {ranks.count} processes with a share of the envs and of every minibatch each"


def check_splits(agent: Agent, request: Request) -> None:
    """Refuse minibatches that cannot be divided evenly, and networks that see more of a minibatch than single rows.

    Raises:
        UsageError: naming the setting or the layer.
    """
    count, config = request.processes, agent.config
    for network in agent.networks.values():
        for layer in network.modules():
            normalises = isinstance(layer, BatchRenorm)
            if normalises or (hasattr(layer, "draws") and not isinstance(layer, StackedNoisyLinear)):
                what = "normalises over" if normalises else "draws for each row of"
                raise UsageError(f"{type(layer).__name__} {what} a whole minibatch, in one process; {WITHOUT}")
    if agent.data == "rollout":
        rows = config.rollout_steps * request.run.num_envs
        what = "rows"
        if agent.policy().has_memory:
            rows, what = rows // (config.sequence_length or config.rollout_steps), "sequences"
        if rows % (config.minibatches * count):
            raise UsageError(
                f"the {rows} {what} of a rollout cannot be divided evenly among {config.minibatches} minibatches and "
                f"{count} processes; change --num-envs, --rollout-steps or --minibatches."
            )
    elif config.batch_size % count:
        raise UsageError(f"--batch-size {config.batch_size} cannot be divided evenly among {count} processes.")


def split_sampler(sampler: Sampler, agent: Agent, ranks: Ranks) -> Sampler:
    """A sampler that gives this process's share of what the agent's sampler draws."""
    if ranks.count == 1:
        return sampler
    if isinstance(sampler, RolloutSampler):
        return SplitRollouts(sampler, ranks)
    return SplitSampler(sampler, agent.config.batch_size, ranks)


def check_alike(request: Request, ranks: Ranks) -> None:
    """Refuse processes that were asked for different things, or round numbers differently: their learners would drift
    apart.

    Raises:
        UsageError: naming what differs.
    """
    first, *others = ranks.exchanged(request.to_json())
    for rank, other in enumerate(others, 1):
        differing = sorted(name for name in first if first[name] != other[name])
        if differing:
            raise UsageError(
                f"process {rank} differs from process 0 in {', '.join(differing)}: start all of them with one command, "
                "with the same versions and on machines of one kind."
            )


class WeightCheck:
    """A listener that, before a save, finds out whether all processes still have the same weights."""

    def __init__(self, networks: Mapping[str, nn.Module], ranks: Ranks) -> None:
        self._networks, self._ranks = networks, ranks

    def on_metrics(self, env_steps: int, metrics: Any) -> None: ...

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None:
        """Compare.

        Raises:
            RlabError: they have not; nothing is saved.
        """
        digest = hashlib.blake2b()
        for network in self._networks.values():
            for parameter in network.parameters():
                digest.update(np.ascontiguousarray(parameter.detach().cpu().numpy()).tobytes())
        if len(set(self._ranks.exchanged(digest.hexdigest()))) > 1:
            raise RlabError(
                f"the {self._ranks.count} processes no longer have the same weights, at {env_steps:,} env steps: their "
                "machines compute different numbers. --deterministic may help"
            )


class Follower:
    """Stands for a `Recorder` in all processes but the first: it writes nothing, and takes part in what a save asks all
    of them for.

    Args:
        loop: gives the loop once it is there.
    """

    def __init__(self, loop: Callable[[], Loop]) -> None:
        self._loop = loop
        self.listeners: list[LoopListener] = [self]
        self.on_episodes: list[Hear] = []

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""

    def on_metrics(self, env_steps: int, metrics: Any) -> None: ...

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None:
        """Say what the envs of this process are in the middle of."""
        self._loop().state()

    def on_cycle(self) -> None: ...

    def settle(self) -> None: ...

    def finish(self) -> None: ...

    def ended(self, status: str, why: str | None) -> None: ...

    def judge(self, evaluate: Callable[[], Evaluation | None], time: int) -> Evaluation | None:
        """The evaluation of the final weights, which the first process finds."""
        return evaluate()
