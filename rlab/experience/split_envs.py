"""Training envs that are split over several processes: each steps its share, and all see what came of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlab.errors import RlabError, ToldElsewhereError
from rlab.experience.border import pack, starts_of
from rlab.experience.env_contract import HostStep, VectorEnv
from rlab.networks.spaces import Space
from rlab.ranks import Ranks

PARTS = "parts"  # of a saved state: what each process saved of its envs
FAILED = 0  # the place among the flags of a message; behind it: hides observations, cuts episodes, says of lives


class SplitEnvs:
    """N envs of each member, of which this process has N / `ranks.count`; a `VectorEnv`.

    Every process is given the actions of all envs, applies those of its own, and gets the same step: one message each
    way per vector step, a second one where an env hides the last observation of an episode.

    Args:
        own: this process's share of the envs, which are as many in every process.
    """

    def __init__(self, own: VectorEnv, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks
        self.obs_space: Space = own.obs_space
        self.action_space: Space = own.action_space
        self.seeds, self.time_limit, self.has_reset_rows = own.seeds, own.time_limit, own.has_reset_rows
        self.num_envs = own.num_envs * ranks.count

    def reset(self) -> np.ndarray:
        """Start every env; observations `[S, N, *obs]`."""
        return self._whole(self._ranks.gathered(self._own.reset()))

    def step(self, action: np.ndarray) -> HostStep:
        """Apply actions `[S, N]` or `[S, N, *action]`.

        Raises:
            RlabError: an env failed; in the processes that do not have it a `ToldElsewhereError`.
        """
        try:
            found = self._own.step(action[:, self._ranks.own(self.num_envs)])
        except RlabError as error:
            self._share([np.array([True, False, False, False]), *self._nothing()])
            self._ranks.exchanged(str(error))
            raise
        hides = not np.may_share_memory(found.next_obs, found.obs)
        flags = np.array([False, hides, found.cuts, found.life_lost is not None])
        lives = np.zeros_like(found.valid) if found.life_lost is None else found.life_lost
        arrays = [found.obs, found.reward, found.terminated, found.truncated, found.valid, lives]
        raised, *whole = self._share([flags, *arrays])
        if raised[:, FAILED].any():
            raise ToldElsewhereError(next(error for error in self._ranks.exchanged(None) if error is not None))
        obs, reward, terminated, truncated, valid, lives = map(self._whole, whole)
        hidden, cuts, lost = np.asarray(raised[:, FAILED + 1 :].any(axis=0)).tolist()
        return HostStep(
            obs,
            self._whole(self._ranks.gathered(found.next_obs)) if hidden else obs,
            reward,
            terminated,
            truncated,
            valid,
            all_valid=bool(valid.all()),
            none_ended=not (terminated | truncated).any(),
            cuts=cuts,
            life_lost=lives if lost else None,
        )

    @property
    def restarts(self) -> np.ndarray | None:
        """How often the envs of each member were made again because they failed, `[S]`; None where they never are."""
        own = self._own.restarts
        return None if own is None else self._ranks.gathered(own).sum(axis=0)

    def state(self) -> dict[str, Any]:
        """As of `VectorEnv`, of all processes: what `load_state` takes in as many. One process alone takes it for a
        state whose episodes cannot go on."""
        parts = self._ranks.exchanged(self._own.state())
        why = f"its envs were saved by {self._ranks.count} processes"
        return {**parts[0], "resetting": None, "envs": {"why_not": why}, PARTS: parts}

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Go on where `state` was saved, or say in one clause why that is impossible: in all processes alike."""
        parts: Sequence[Any] = state.get(PARTS, [])
        if len(parts) == self._ranks.count:
            found = self._own.load_state(parts[self._ranks.rank])
        else:
            saved_by = len(parts) or "one"
            why = f"its envs were saved by {saved_by} process{'es' * (len(parts) > 0)}, and {self._ranks.count} go on"
            found = self._own.load_state({**state, "resetting": None, "envs": {"why_not": why}})
        return next((why for why in self._ranks.exchanged(found) if why is not None), None)

    def close(self) -> None:
        """Close the envs of this process."""
        self._own.close()

    def _nothing(self) -> list[np.ndarray]:
        """Arrays of the layout that a step has, for one that failed."""
        rows = len(self.seeds), self._own.num_envs
        obs = np.zeros((*rows, *self.obs_space.shape), self.obs_space.dtype)
        return [obs, np.zeros(rows), *(np.zeros(rows, bool) for _ in range(4))]

    def _share(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Arrays of this process's layout, `[count, *shape]` of all processes each, in one message."""
        starts = starts_of(arrays)
        message = np.empty(starts[-1], np.uint8)
        pack(arrays, starts, message)
        found, count = self._ranks.gathered(message), self._ranks.count
        return [
            found[:, start : start + array.nbytes].view(array.dtype).reshape(count, *array.shape)
            for start, array in zip(starts, arrays, strict=False)
        ]

    def _whole(self, parts: np.ndarray) -> np.ndarray:
        """`[count, S, N / count, ...]`, the shares of all processes in order, as `[S, N, ...]`."""
        return np.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])
