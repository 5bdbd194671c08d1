"""The listener that saves a run: its checkpoint and its policies."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from rlab.experience.demonstrations import Demonstrations
from rlab.experience.storage import Storage
from rlab.jobs.request import Request
from rlab.learning.best import BestPolicy
from rlab.learning.contract import Agent
from rlab.learning.finite import check_saved
from rlab.learning.loop import Loop
from rlab.randomness import generator_states
from rlab.runs.checkpoint import save_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.policies import save_policy


class Saved(Protocol):
    """What a save takes from a session."""

    request: Request
    agent: Agent
    loop: Loop
    best: BestPolicy
    storage: Storage
    demonstrations: Demonstrations | None
    resumed_at: list[int]


class Saver:
    """Writes a checkpoint and the policies whenever the loop says so."""

    def __init__(self, session: Saved, folder: RunFolder) -> None:
        self._session, self._folder = session, folder

    def on_metrics(self, env_steps: int, metrics: Mapping[str, Any]) -> None:
        """Nothing to save."""

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Nothing to save: the best weights travel in the checkpoint until it is written."""

    def on_save(self, env_steps: int) -> None:
        """The checkpoint first: it is what a resumed run starts from.

        Raises:
            RlabError: something is not finite, or the disk refuses. The last save stays.
        """
        session = self._session
        state: dict[str, Any] = {
            "loop": session.loop.state(),
            "best": session.best.kept.state(),
            "resumed_at": session.resumed_at,
            "generators": generator_states(),
        }
        state["storage"] = session.storage.state()
        state["demonstrations"] = None if session.demonstrations is None else session.demonstrations.state()
        check_saved(state, session.request.run.training_seeds)
        save_checkpoint(self._folder, state, session.storage.chunks())
        facts = {"agent": session.request.agent, "env": session.request.env.to_json()}
        save_policy(self._folder.policy, session.agent.policy(), {**facts, session.request.unit: env_steps})
        best = session.best.policy()
        if best is not None:
            save_policy(self._folder.best, best, {**facts, "best_at": session.best.kept.reached_at.tolist()})
