"""Storage: what happened, row by row, in time order, on the agent's device. It knows nothing of sampling (`samplers`).

Each env of each member has a lane. Row t of a lane holds the observation that was acted on, the action, and what came
of it. The successor is the lane's next row; where the env resets at once it hides the last observation of an episode,
and those few are kept in a side table.

A row has an id, `time * N + env`, which is the same for every member and is never used again. Samplers choose rows by
their ids and read them with `read`.
"""

from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.lanes import Lanes


class Storage(Lanes):
    """The newest `capacity` transitions of each of S members, summed over that member's N envs; arguments as of
    `Lanes`.

    A program can write to it: `write` changes tensors alone, also the clock `time`. The host keeps a clock of its own,
    `rows_written`, which whoever calls `write` moves with `wrote`.
    """

    def add(self, obs: Tensor, action: Tensor, step: Step, **extras: Tensor) -> None:
        """`write` and move the host's clock."""
        self.write(obs, action, step, **extras)
        self.wrote(1)

    def write(self, obs: Tensor, action: Tensor, step: Step, **extras: Tensor) -> None:
        """Append one row to every lane: `obs [S, N, *obs]` was acted on with `action [S, N, ...]` and led to `step`.

        `extras` has the value `[S, N, ...]` of every further field.

        Raises:
            UsageError: the value of a field is missing, or there is one without a field.
        """
        terminated, truncated = step.terminated, step.truncated
        if step.life_lost is not None:  # an ending to all that learns, though the episode goes on
            terminated, truncated = terminated | step.life_lost, truncated & ~step.life_lost
        row = {"obs": obs, "action": action, "reward": step.reward, "terminated": terminated}
        row |= {"truncated": truncated, "valid": step.valid, **extras}
        if row.keys() != self.names:
            lacking = ", ".join(sorted(self.names ^ row.keys()))
            raise UsageError(f"the extras of `Acted` and the agent's fields differ: {lacking} is in one of them alone.")
        now = self.clock()
        slot, following = now % self.slots, (now + 1) % self.slots
        for name, value in row.items():
            if name != "obs":
                self.columns[name].put(slot, value)
        self.obs_memory.write(slot, following, obs, step)
        for follower in self.followers:
            dropped = self.columns["valid"].at((now - self.lane_rows) % self.slots)
            follower.replace(dropped, step.valid, now * self.num_envs)
        self.time += 1

    def read(self, row: Tensor, *names: str) -> dict[str, Tensor]:
        """The values `[S, ..., *shape]` of these fields in the rows with the ids `row [S, ...]`; `next_obs` is the
        observation that a row led to.

        The rows must be held; `obs` may also be read one row behind the newest, where its successor waits.
        """
        ring = self.slots * self.num_envs  # the places of a member
        first = self.first_places.view(-1, *(1 for _ in row.shape[1:]))
        at, found = (row % ring + first).flatten(), {}
        for name in names:
            column = self.columns["obs" if name == "next_obs" else name]
            if name == "obs":
                bits = self.obs_memory.take(at)
            elif name == "next_obs":
                bits = self.obs_memory.successors(at, ((row + self.num_envs) % ring + first).flatten())
            else:
                bits = column.take(at)
            found[name] = column.values(bits).view(*row.shape, *bits.shape[1:])
        return found
