"""The listener that saves a run: its checkpoints and its policies, written by a thread while training goes on."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from rlab.errors import DiskError, RlabError
from rlab.experience.demonstrations import Demonstrations
from rlab.experience.storage import Storage
from rlab.experience.storage_chunks import Chunk, complete_chunks
from rlab.jobs.judging import Judge
from rlab.jobs.request import Request
from rlab.jobs.varied import Share
from rlab.learning.best import BestPolicy
from rlab.learning.contract import Agent
from rlab.learning.finite import check_saved
from rlab.learning.loop import Loop
from rlab.places import warn
from rlab.randomness import generator_states
from rlab.runs.checkpoint import CheckpointWriter, Snapshot, snapshot
from rlab.runs.folder import CONFIG, RunFolder
from rlab.runs.policies import copied, save_policy
from rlab.runs.weights import ModuleCopy

PAUSES = (0.5, 1.5)  # seconds before another try, where the disk refused one
PATIENCE = 0.1  # seconds that training waits for the disk with a chunk that need not be written yet


class Saved(Protocol):
    """What a save takes from a session."""

    request: Request
    parts: list[Request]  # one for each set of settings
    agent: Agent
    loop: Loop
    best: BestPolicy
    storage: Storage
    demonstrations: Demonstrations | None
    judge: Judge
    resumed_at: list[int]


class Log(Protocol):
    """A log, which must have got as far as a checkpoint before that counts."""

    def sync(self) -> None: ...


class Worker:
    """Does one job after another in a thread; one more may wait. The thread lives only while there is something to do:
    a process that forks between two saves has none. What a job failed with waits until somebody asks; the jobs that
    waited behind it are dropped, and no other is taken before."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], Any]] = []  # at most one
        self._thread: threading.Thread | None = None
        self._working = False
        self._error: BaseException | None = None
        self._stop = threading.Event()

    def do(self, job: Callable[[], Any]) -> None:
        """Take a job, as soon as none waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            if self._error is not None:
                return
            self._waiting.append(job)
            if not self._working:
                self._working = True
                self._thread = threading.Thread(target=self._work, name="saving", daemon=True)
                self._thread.start()

    def do_here(self, job: Callable[[], Any]) -> None:
        """Do a job at once in this thread, as `do` would in another."""
        if self._error is None:
            self._error = self._tried(job)

    def has_room(self, seconds: float | None) -> bool:
        """Whether no job waits, after so long at most; None: wait until that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def wait(self) -> None:
        """Wait until nothing is left to do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._working)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> DiskError | None:
        """What the disk refused since the last call.

        Raises:
            Exception: a job failed otherwise.
        """
        error, self._error = self._error, None
        if error is None or isinstance(error, DiskError):
            return error
        raise error

    def close(self) -> None:
        """Leave as soon as the job that is being done is over, or between two tries."""
        self._stop.set()
        with self._changed:
            self._waiting.clear()
        self.wait()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._working = bool(self._waiting)
                if not self._working:
                    self._changed.notify_all()
                    return
                job = self._waiting.pop()
                self._changed.notify_all()
            error = self._tried(job)
            del job  # it may hold a chunk
            with self._changed:
                if error is not None:
                    self._error = error
                    self._waiting.clear()

    def _tried(self, job: Callable[[], Any]) -> BaseException | None:
        """What a job fails with, three times where the disk refuses it."""
        for pause in (*PAUSES, None):
            try:
                job()
            except DiskError as error:
                if pause is None or self._stop.wait(pause):
                    return error
            except BaseException as error:  # it comes out where somebody asks
                return error
            else:
                break
        return None


@dataclass(frozen=True)
class _Piece:
    """A chunk as a save has it: copied, or on the disk already."""

    index: int
    complete: bool
    content: dict[str, np.ndarray] | None

    def arrays(self) -> dict[str, np.ndarray]:
        if self.content is None:
            raise DiskError(f"chunk {self.index} of the checkpoint has vanished from the disk")
        return self.content


Policies = list[tuple[Path, ModuleCopy, dict[str, Any]]]  # where each goes, and the facts that are kept with it


class Saver:
    """Writes a checkpoint and the policies whenever the loop says so. Use it as a context manager.

    A save copies what may change on the thread that trains, at most one chunk of the storage among it, and leaves the
    writing to a worker. Chunks are handed over as they are completed, so that little is left to do when a save is due.
    Where the disk refuses a save three times, that is warned of and training goes on: the checkpoint before is whole,
    and the next save tries again.

    Args:
        session: what is saved.
        folder: the run's.
        shares: what the policies are saved as.
        logs: they must have got as far as a checkpoint before that counts.
        base: the number of the checkpoint that the run goes on from; None where it begins.
        at_once: be done with a save before `on_save` returns: somebody looks at the files next.
    """

    def __init__(
        self,
        session: Saved,
        folder: RunFolder,
        shares: Sequence[Share],
        logs: Sequence[Log],
        base: int | None,
        at_once: bool = False,
    ) -> None:
        self._session, self._folder, self._shares = session, folder, shares
        self._logs, self._at_once = logs, at_once
        self._writer = CheckpointWriter(folder, session.request.run.keep_checkpoints, base)
        self._worker = Worker()
        self._complete = complete_chunks(session.storage)  # how many chunks were when it was last looked at
        self._pending: set[int] = set()  # complete chunks that were handed over and are not written yet
        self._kept = "nothing of it is saved yet" if base is None else "it is kept as it was before it was resumed"
        self._saved: tuple[int, float] | None = None  # the run's time and the clock's at the last save that succeeded

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; a second Ctrl+C does not wait for another try."""
        if error is None or isinstance(error, Exception):
            self._worker.wait()
        self._worker.close()

    def complete(self, line: str) -> None:
        """Be done with what is being written, before the program ends for the reason in the line."""
        self._worker.wait()

    def on_metrics(self, env_steps: int, metrics: Mapping[str, Any]) -> None:
        """Say where a save has failed."""
        self._look()

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Nothing to save: the best weights travel in the checkpoint until it is written."""

    def on_cycle(self) -> None:
        """Hand over the chunks that are complete since the last call, if the next save that is due will need them."""
        storage = self._session.storage
        complete = complete_chunks(storage)
        if complete == self._complete:
            return
        first, self._complete = self._complete, complete
        oldest = self._rows_at_next_save() - (storage.slots - 1)
        for index in range(first, complete):
            if (index + 1) * storage.chunk_rows > oldest and self._worker.has_room(PATIENCE):
                self._hand_over(Chunk(index, True, storage))

    def on_save(self, env_steps: int) -> None:
        """Copy what may change, and have it written.

        Raises:
            RlabError: something is not finite, or the folder of the run is gone. The last save stays.
        """
        self._worker.wait()  # for the save before: a kill costs one interval, not two
        self._look()
        session = self._session
        state = snapshot(self._state())
        for log in self._logs:
            self._worker.do_here(log.sync)
        chunks = list(session.storage.chunks())
        for chunk in chunks:
            if chunk.complete:
                self._hand_over(chunk)
        pieces = [_Piece(each.index, each.complete, None if each.complete else each.arrays()) for each in chunks]
        self._worker.do(partial(self._write, env_steps, state, pieces, self._policies(env_steps)))
        if self._at_once:
            self.settle()

    def settle(self) -> None:
        """Wait until the last save is written; warn where it failed.

        Raises:
            RlabError: the folder of the run is gone.
        """
        self._worker.wait()
        self._look()

    def _look(self) -> None:
        error = self._worker.failure()
        if error is None:
            return
        self._pending.clear()
        self._check_folder()
        warn(f"the run could not be saved: {error}. It goes on, and the next save tries again; {self._last_good()}")

    def finish(self) -> None:
        """Wait until the last save is written.

        Raises:
            DiskError: it failed.
            RlabError: the folder of the run is gone.
        """
        self._worker.wait()
        error = self._worker.failure()
        if error is not None:
            self._check_folder()
            raise DiskError(f"the run could not be saved: {error}; {self._last_good()}") from error

    def _state(self) -> dict[str, Any]:
        """All that a checkpoint has besides the rows of the storage.

        Raises:
            RlabError: something is not finite.
        """
        session = self._session
        demonstrations = session.demonstrations
        state = {
            "loop": session.loop.state(),
            "best": session.best.kept.state(),
            "resumed_at": session.resumed_at,
            "generators": generator_states(),
            "storage": session.storage.state(),
            "demonstrations": None if demonstrations is None else demonstrations.state(),
        }
        check_saved(state, session.request.training_seeds)
        return state

    def _hand_over(self, chunk: Chunk) -> None:
        """Have a complete chunk written, if it is not. It is copied when no other waits."""
        if chunk.index not in self._pending and not self._writer.has(chunk):
            self._worker.has_room(None)
            self._pending.add(chunk.index)
            self._worker.do(partial(self._write_chunk, chunk.index, chunk.arrays()))

    def _write_chunk(self, index: int, content: dict[str, np.ndarray]) -> None:
        self._writer.write_chunk(index, content)
        self._pending.discard(index)

    def _rows_at_next_save(self) -> int:
        """The rows of time that will have been written when the next save is due."""
        clock, every = self._session.loop.clock, self._session.request.run.checkpoint_every
        due = min((clock.env_steps // every + 1) * every, clock.total_env_steps)
        return self._session.storage.rows_written + -(-(due - clock.env_steps) // clock.per_step)

    def _policies(self, env_steps: int) -> Policies:
        session = self._session
        live, best, remain = session.agent.policy(), session.best.policy(), session.loop.members.remain
        found: Policies = []
        for share in self._shares:
            # What the checkpoint keeps of dropped ones is half trained: nobody should judge or share it unawares.
            members = [member for member in share.members if remain[member]]
            if not members:
                continue
            facts: dict[str, Any] = {"agent": session.request.agent, "env": session.request.env.to_json()}
            if dropped := session.loop.members.facts(share.members):
                facts["dropped"] = dropped
            own = share.policy_of(live, members)
            found.append((share.folder.policy, copied(own), {**facts, session.request.unit: env_steps}))
            if best is not None:
                at = session.best.kept.reached_at[members].tolist()
                found.append((share.folder.best, copied(share.policy_of(best, members)), {**facts, "best_at": at}))
        return found

    def _write(self, env_steps: int, state: Snapshot, pieces: Sequence[_Piece], policies: Policies) -> None:
        """The checkpoint first: it is what a resumed run starts from."""
        self._writer.commit(state, pieces)
        for place, policy, facts in policies:
            save_policy(place, policy, facts)
        self._saved = env_steps, time.monotonic()

    def _last_good(self) -> str:
        if self._saved is None:
            return self._kept
        at, moment = self._saved
        unit = self._session.request.unit.replace("_", " ")
        return f"the last good save is {time.monotonic() - moment:.0f} s old, of {at:,} {unit}"

    def _check_folder(self) -> None:
        if not (self._folder.path / CONFIG).exists():
            raise RlabError(f"{self._folder.path} is gone, so that nothing of the run can be saved")
