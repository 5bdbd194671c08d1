"""A user's listeners: code that is called with what a run does, and can neither change the run nor lose it.

class StopAt475(rlab.Listener):
    def on_evaluation(self, env_steps, returns, lengths):
        return returns.mean() < 475  # False stops the run

rlab.train("dqn", "CartPole-v1", listeners=[StopAt475()])
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.learning.episodes import FinishedEpisode
from rlab.learning.runtime import kept_settings
from rlab.randomness import kept_generators


class Listener:
    """Is called with what a run does. Override what you need; any class with some of these methods works as well.

    Every method may return False, which stops the run: it is saved and can be resumed. Any other answer, None too, lets
    it go on. An exception stops the run in the same way, after a save, and is then raised as the cause of an
    `RlabError`; SystemExit and KeyboardInterrupt go through as they are, also after a save. Arrays are copies, and what
    is global in NumPy, `random` and torch (generators, default dtype, whether gradients are recorded ...) is put back
    after each call: draw from a generator of your own.
    """

    def on_start(self, run: Any) -> bool | None:
        """Before the first step, also of a run that is resumed; `run` is the `rlab.Run` as it is on the disk."""

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> bool | None:
        """Every `log_every`: values by tag, `[S]` with NaN where a member has nothing to report, or 0-d where all
        members share one. `rlab list metrics` explains the tags. A run that learns from a dataset counts updates where
        it says `env_steps`."""

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> bool | None:
        """Every `eval_every`: returns and lengths `[S, E]` of E greedy episodes. The final evaluation comes with
        `on_end`."""

    def on_save(self, env_steps: int) -> bool | None:
        """A checkpoint and the policies have just been written. At the end of a run twice at the same time: before its
        last evaluation, which may fail, and after it, with what it made the best."""

    def on_episode(self, episode: FinishedEpisode) -> bool | None:
        """An episode of training ended; called often, so it should be quick. A run that learns from a dataset plays
        none."""

    def on_end(self, run: Any) -> None:
        """Training is over, however it ended, and everything is written; `run` is what `rlab.train` returns."""


# How each method is called, to find a wrong signature before anything is trained.
HEARD = {
    name: tuple(inspect.signature(getattr(Listener, name)).parameters)[1:]
    for name in ("on_start", "on_metrics", "on_evaluation", "on_save", "on_episode", "on_end")
}


class Audience:
    """Calls a user's listeners safely: with copies; `False` and exceptions are stored until the run asks for them.

    Args:
        listeners: objects with some of the methods of `Listener`.

    Raises:
        UsageError: one of them has none of the methods, or one that cannot be called with their arguments.
    """

    def __init__(self, listeners: Sequence[Any] = ()) -> None:
        if not isinstance(listeners, list | tuple):
            raise UsageError(f"listeners must be a list, not {_named(listeners)}: listeners=[...].")
        self._heard = [_methods(listener, index) for index, listener in enumerate(listeners)]
        self._names = [_class_of(listener) for listener in listeners]
        self.stopped_by: str | None = None  # the listener that asked the run to stop
        self._failure: tuple[str, Exception] | None = None  # where and how the first of them failed
        self._leave: BaseException | None = None  # SystemExit or the like, which will end the program

    @property
    def leaves(self) -> bool:
        """Whether a listener wants the program to end, as soon as the run is saved."""
        return self._leave is not None

    def leave(self) -> None:
        """Raise what a listener ends the program with, if it does."""
        if self._leave is not None:
            raise self._leave

    @property
    def wants_stop(self) -> bool:
        """Whether the run should save and stop."""
        return self.stopped_by is not None or self._failure is not None

    def wants_stop_at(self, time: int) -> bool:
        """Whether the run should save and stop, its clock being at `time`."""
        return self.wants_stop

    def check(self, kept: str) -> None:
        """Raise what a listener failed with.

        Args:
            kept: what became of the run, for people.

        Raises:
            RlabError: names the listener, its method and the exception, which is the cause.
        """
        if self._failure is not None:
            message, error = self._failure
            raise RlabError(f"{message}. {kept}") from error

    def hears(self, method: str) -> bool:
        """Whether any listener has this method."""
        return any(method in heard for heard in self._heard)

    def on_start(self, run: Any) -> None:
        self._tell("on_start", None, [lambda: (run,)])

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        self._tell("on_metrics", env_steps, [lambda: (env_steps, {tag: np.array(v) for tag, v in metrics.items()})])

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        self._tell("on_evaluation", env_steps, [lambda: (env_steps, np.array(returns), np.array(lengths))])

    def on_save(self, env_steps: int) -> None:
        self._tell("on_save", env_steps, [lambda: (env_steps,)])

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Those of one vector step, each of which `on_episode` is called with."""
        self._tell("on_episode", episodes[0].env_steps, [partial(tuple, [e]) for e in episodes])

    def on_end(self, run: Any) -> None:
        self._tell("on_end", None, [lambda: (run,)])

    def _tell(self, method: str, time: int | None, calls: Sequence[Callable[[], tuple[Any, ...]]]) -> None:
        """Call each listener with the arguments of each of `calls`, which are made again for every listener."""
        if not self.hears(method):
            return
        with kept_generators(), kept_settings():  # it costs as much as many calls
            for name, heard in zip(self._names, self._heard, strict=True):
                for arguments in calls:
                    if method in heard:
                        self._call(name, method, time, heard, arguments())

    def _call(
        self, name: str, method: str, time: int | None, heard: dict[str, Callable[..., Any]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            answer = heard[method](*arguments)
        except Exception as error:  # whatever code of a user's may raise
            self._fail(f"{name}.{method}", time, error)
            heard.clear()  # it may be in any state: it hears nothing more
            return
        except BaseException as error:  # sys.exit(), or a Ctrl+C of its own: the run is saved first
            heard.clear()
            self._leave, self.stopped_by = self._leave or error, self.stopped_by or name
            return
        if isinstance(answer, bool | np.bool_) and not answer and self.stopped_by is None:
            self.stopped_by = name

    def _fail(self, where: str, time: int | None, error: Exception) -> None:
        if self._failure is None:
            when = "" if time is None else f" when the run's clock was at {time:,}"
            message = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": .")
            self._failure = f"the listener {where} failed{when}: {message}", error


def audience_of(listeners: Sequence[Any] | Audience) -> Audience:
    """The audience of these listeners, which may be one already."""
    return listeners if isinstance(listeners, Audience) else Audience(listeners)


def _methods(listener: Any, index: int) -> dict[str, Callable[..., Any]]:
    """What a listener hears, by name, without what it only inherits from `Listener`."""
    where = f"listeners[{index}]"
    if isinstance(listener, type):
        raise UsageError(f"{where} is the class {listener.__name__}; give an instance: {listener.__name__}().")
    for name in dir(listener):
        near = difflib.get_close_matches(name, HEARD, n=1, cutoff=0.8) if name.startswith("on_") else []
        if near and name not in HEARD:
            raise UsageError(f"{where}, {_named(listener)}, has {name}, which is never called. Did you mean {near[0]}?")
    found = {name: getattr(listener, name, None) for name in HEARD}
    own = {
        name: method
        for name, method in found.items()
        if callable(method) and getattr(method, "__func__", None) is not getattr(Listener, name)
    }
    if not own:
        known = ", ".join(HEARD)
        raise UsageError(
            f"{where}, {_named(listener)}, hears nothing: it has none of {known}. Subclass rlab.Listener and override "
            "what you need."
        )
    for name, method in own.items():
        _check_signature(f"{where}, {_class_of(listener)}.{name}", name, method)
    return own


def _check_signature(where: str, name: str, method: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise UsageError(f"{where} is never run, since it is async or a generator; make it a plain method.")
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return  # some callables written in C do not tell
    try:
        signature.bind(*HEARD[name])
    except TypeError as error:
        wanted = ", ".join(HEARD[name])
        raise UsageError(f"{where}{signature} cannot be called with ({wanted}): {error}.") from None


def _named(thing: Any) -> str:
    """A thing in words: `function hear`, `a Recorder`."""
    name = getattr(thing, "__name__", None)
    return f"a {_class_of(thing)}" if name is None else f"{type(thing).__name__} {name}"


def _class_of(thing: Any) -> str:
    """The name of its class, without the function that it may be written in."""
    return type(thing).__qualname__.rpartition(".<locals>.")[2]
