"""Trials in a database that several processes and machines share. Imported where a search begins, since optuna is an
extra.

A trial belongs to a worker, a process that holds a lock in its study's folder and writes a beat into the trial. One
whose worker is gone is lost: it is marked as failed without a reason, does not count, and is run again.
"""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy.event
import sqlalchemy.exc
import sqlalchemy.pool
from optuna.trial import FrozenTrial, TrialState

from rlab.errors import RlabError, UsageError, pip_install
from rlab.runs.locks import held, is_held
from rlab.search.samplers import FOUND, ITEM, OWNER, counts, distributions_of
from rlab.search.space import Space

BEAT = 30.0  # seconds between beats
LOST_AFTER = 180.0  # seconds without one, as seen by another worker
ATTEMPTS, PAUSE = 5, 0.2  # at making the tables; seconds
BEGINS = 60.0  # seconds that a worker has to put its name on a trial
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True, eq=False)
class Asked:
    """A trial that this process carries out."""

    number: int
    stored: Mapping[str, Any]  # the values of its parameters
    folder: str  # of its run; that of the lost one where it is run again
    item: Mapping[str, Any]  # what was queued; {} where the sampler proposed it
    trial: optuna.trial.Trial


@contextlib.contextmanager
def opened_storage(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """The database of a study.

    Raises:
        UsageError: the address is not one of a database, or its driver is missing.
        RlabError: the database cannot be reached.
    """
    storage = _storage(url)
    try:
        if storage.engine.dialect.name == "sqlite":
            storage.engine.dispose()
            sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        yield storage
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise RlabError(f"the study's database is away: {_short(error)}; the same command goes on.") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _storage(url: str) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)  # the driver that the extra installs
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        _make_tables(url)
        return optuna.storages.RDBStorage(url, engine_kwargs=waits)
    except ImportError:
        raise UsageError(f"the driver of this database is not installed: {pip_install('postgres')}") from None
    except sqlalchemy.exc.ArgumentError:
        raise UsageError(
            "--storage takes the address of a database, such as sqlite:///study.db or postgresql://USER@HOST/NAME."
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:  # the latter: of another version of Optuna
        raise RlabError(f"the study's database cannot be used: {_short(error)}") from None


def _make_tables(url: str) -> None:
    """Make the tables where there are none. Of several processes that do so at once all but one may fail, at any of
    them."""
    attempts_left = ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool})
            return
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError):
            if not attempts_left:
                raise
            time.sleep(PAUSE)


def _write_ahead(connection: Any, record: Any) -> None:
    """Without it every commit waits for the disk, and readers for writers; a process that is killed loses nothing."""
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")


@contextlib.contextmanager
def worker_in(folder: Path) -> Iterator[str]:
    """This process as a worker of the study in `folder`: its name, while it holds its lock."""
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    place = folder / "workers" / name
    place.mkdir(parents=True)
    try:
        with held(place, str(place)):
            yield name
    finally:
        for each in (place, *place.parent.iterdir()):
            if each == place or is_held(each) is False:  # also what was left by those that were killed
                shutil.rmtree(each, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.parent.rmdir()  # where it was the last one


class Trials:
    """The trials of one Optuna study, as one worker sees them. Use it as a context manager: it beats meanwhile.

    Args:
        name: of the study; it is made where there is none.
        folder: of this process's study, where its workers have their locks.
        about: what the study must agree on with all that share it; `{}`: nothing.
    """

    def __init__(
        self,
        storage: optuna.storages.RDBStorage,
        name: str,
        folder: Path,
        worker: str,
        about: Mapping[str, Any],
        sampler: optuna.samplers.BaseSampler | None = None,
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> None:
        self._folder, self._worker = folder, worker
        pruner = pruner or optuna.pruners.NopPruner()
        self.study, self.is_new = _opened(storage, name, sampler or optuna.samplers.RandomSampler(), pruner)
        self._agree(name, json.loads(json.dumps(about)))
        self._running: dict[int, Asked] = {}
        self._points: dict[int, int] = {}  # trial -> the last point of its curve
        self._seen: dict[int, tuple[Any, float]] = {}  # trial -> its newest beat, and when it was new here
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Trials":
        self._beats.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._beats.join()
        for asked in list(self._running.values()):  # interrupted: others need not wait to take them
            self._lose(self.study.get_trials(deepcopy=False)[asked.number])

    def counted(self) -> list[FrozenTrial]:
        """All trials but those that were lost, or were one too many."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if counts(trial)]

    def waiting(self) -> bool:
        return any(t.state == TrialState.WAITING for t in self.study.get_trials(deepcopy=False))

    def all_ended(self) -> bool:
        return all(t.state.is_finished() for t in self.counted())

    def queue(self, stored: Mapping[str, Any], item: Mapping[str, Any], folder: str | None = None) -> None:
        """Have these values tried, by whoever asks first; what is in the folder is gone on with."""
        owner = {} if folder is None else {OWNER: {"folder": folder}}
        self.study.enqueue_trial(dict(stored), user_attrs={ITEM: dict(item), **owner})

    def ask(self, space: Space | None, most: int | None) -> Asked | None:
        """The next trial: one that waits, else a new one where fewer than `most` were begun; None: there is none now.

        Args:
            space: None: only what was queued is tried.
        """
        while True:
            if not self.waiting() and (space is None or (most is not None and len(self.counted()) >= most)):
                return None
            trial = self.study.ask({} if space is None else distributions_of(space))
            attributes = trial.user_attrs
            rank = [t.number for t in self.counted()].index(trial.number)
            lone = space is None and ITEM not in attributes  # another worker took what waited
            if lone or (most is not None and rank >= most):
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            folder = attributes.get(OWNER, {}).get("folder", f"{trial.number:04d}")
            trial.set_user_attr(OWNER, {"worker": self._worker, "folder": folder})
            asked = Asked(trial.number, trial.params, folder, attributes.get(ITEM, {}), trial)
            self._running[trial.number] = asked
            return asked

    def goes_on(self, asked: Asked, point: int, value: float) -> bool:
        """Record a point of a trial's curve; whether the trial is worth going on with."""
        if point <= self._points.get(asked.number, 0):
            return True  # a run that was taken up tells it again
        self._points[asked.number] = point
        asked.trial.report(value, point)
        return not asked.trial.should_prune()

    def tell(self, asked: Asked, ended: Literal["done", "pruned", "failed"], found: Mapping[str, Any]) -> None:
        """How a trial ended, and what was found: of one that is done, with its `value`. A pruned one has the value of
        its last point."""
        asked.trial.set_user_attr(FOUND, dict(found))
        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        if ended == "done":
            self.study.tell(asked.trial, found["value"])
        else:
            self.study.tell(asked.trial, state=states[ended])
        del self._running[asked.number]

    def take_up_lost(self) -> None:
        """Queue again what workers that are gone were running."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.number not in self._running and self._is_lost(trial):
                self._lose(trial)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None or "worker" not in owner:
            began = trial.datetime_start
            return began is not None and time.time() - began.timestamp() > BEGINS
        place = self._folder / "workers" / str(owner["worker"])
        if place.is_dir() and is_held(place) is False:  # only one of this folder, which a machine may be alone with
            return True
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        newest, since = self._seen.setdefault(trial.number, (beat, now))
        if newest != beat:
            self._seen[trial.number] = beat, now
        return newest == beat and now - since > LOST_AFTER

    def _lose(self, trial: FrozenTrial) -> None:
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return  # it has ended, or another worker was quicker
        if OWNER in trial.user_attrs:  # else nobody knows yet what it was to be
            self.queue(trial.params, trial.user_attrs.get(ITEM, {}), trial.user_attrs[OWNER]["folder"])

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            for asked in list(self._running.values()):
                with contextlib.suppress(Exception):  # it has just ended, or the database is away: the next one counts
                    asked.trial.set_user_attr("beat", count)

    def _agree(self, name: str, about: dict[str, Any]) -> None:
        kept = self.study.user_attrs.get("about")
        if kept is None:
            self.study.set_user_attr("about", about)
            return
        if differing := _differing(kept, about):
            raise UsageError(
                f"the study {name} was begun with another {', '.join(sorted(differing))}; go on with the same command, "
                "or begin another study: --out FOLDER."
            )


def _differing(kept: Mapping[str, Any], about: Mapping[str, Any]) -> set[str]:
    """What differs, settings by their names."""
    found = set()
    for key in {*kept, *about}:
        ours, theirs = kept.get(key), about.get(key)
        if ours == theirs:
            continue
        if key in ("run", "settings", "sources") and isinstance(ours, dict) and isinstance(theirs, dict):
            found |= _differing(ours, theirs)
        else:
            found.add(key)
    return found


def _opened(
    storage: optuna.storages.RDBStorage,
    name: str,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> tuple[optuna.Study, bool]:
    """The study of that name, and whether this process made it."""
    kept: Any = {"storage": storage, "study_name": name, "sampler": sampler, "pruner": pruner}
    try:
        return optuna.create_study(**kept, direction="maximize"), True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(**kept), False


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
