"""The guard in front of a user's listeners: what it refuses, what it hands on, what it keeps."""

import random
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.errors import RlabError, UsageError
from rlab.jobs.listeners import Audience, Listener
from rlab.learning.episodes import FinishedEpisode
from rlab.randomness import kept_generators

EPISODE = FinishedEpisode(seed=3, env=0, episode_return=5.0, length=5, env_steps=40)


class Recorder(Listener):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_episode(self, episode: FinishedEpisode) -> None:
        self.heard.append(episode)


class Wrong:
    def on_metrics(self, env_steps: int) -> None: ...


class Sleeping:
    async def on_metrics(self, env_steps: int, metrics: Any) -> None: ...


class Misspelt(Listener):
    def on_evaluate(self, env_steps: int, returns: Any, lengths: Any) -> None: ...


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_save(self, env_steps: int) -> None:
        raise self.error


def hear(env_steps: int, metrics: Any) -> None: ...


@pytest.mark.parametrize(
    ("listeners", "said"),
    [
        (Recorder(), "listeners must be a list, not a Recorder: listeners=[...]."),
        ([Recorder], "listeners[0] is the class Recorder; give an instance: Recorder()."),
        ([Recorder(), hear], "listeners[1], function hear, hears nothing: it has none of on_start, on_metrics, "),
        ([Listener()], "listeners[0], a Listener, hears nothing"),
        ([Misspelt()], "a Misspelt, has on_evaluate, which is never called. Did you mean on_evaluation?"),
        ([Wrong()], "Wrong.on_metrics(env_steps: int) -> None cannot be called with (env_steps, metrics): too many"),
        ([Sleeping()], "Sleeping.on_metrics is never run, since it is async or a generator"),
    ],
)
def test_what_could_never_hear_is_refused_before_anything_is_trained(listeners: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Audience(listeners)
    assert said in str(caught.value)


def test_any_object_with_one_of_the_methods_serves() -> None:
    heard: list[Any] = []
    audience = Audience([SimpleNamespace(on_save=heard.append, on_metrics=partial(print, end="", file=None))])
    audience.on_save(100)
    audience.on_episodes([EPISODE])
    assert heard == [100]
    assert (audience.hears("on_save"), audience.hears("on_episode")) == (True, False)


def test_what_is_only_inherited_is_not_called() -> None:
    recorder = Recorder()
    audience = Audience((recorder,))
    assert [name for name in ("on_metrics", "on_save", "on_episode") if audience.hears(name)] == ["on_episode"]
    audience.on_episodes([EPISODE])
    assert recorder.heard == [EPISODE]


@pytest.mark.parametrize(
    ("answer", "stops"),
    [(None, False), (True, False), (0, False), (np.True_, False), (False, True), (np.float64(300.0) > 475.0, True)],
)
def test_false_alone_asks_to_stop(answer: Any, stops: bool) -> None:
    audience = Audience([SimpleNamespace(on_save=lambda env_steps: answer)])
    audience.on_save(1)
    assert audience.wants_stop is stops
    assert (audience.stopped_by == "SimpleNamespace") is stops


def test_each_listener_gets_copies_of_its_own() -> None:
    class Scribbler:
        def on_metrics(self, env_steps: int, metrics: dict[str, np.ndarray]) -> None:
            metrics.pop("gone")
            metrics["loss"][:] = -1.0

        def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
            returns[:], lengths[:] = -1.0, -1

    class Reader(Scribbler):
        def on_metrics(self, env_steps: int, metrics: dict[str, np.ndarray]) -> None:
            assert (sorted(metrics), metrics["loss"].tolist()) == (["gone", "loss"], [1.0, 2.0])

        def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
            assert (returns.tolist(), lengths.tolist()) == ([[5.0]], [[6]])

    audience = Audience([Scribbler(), Reader()])
    loss, returns, lengths = np.array([1.0, 2.0]), np.array([[5.0]]), np.array([[6]])
    audience.on_metrics(1, {"loss": loss, "gone": np.array(0.5)})
    audience.on_evaluation(1, returns, lengths)
    audience.check("")
    assert (loss.tolist(), returns.tolist(), lengths.tolist()) == ([1.0, 2.0], [[5.0]], [[6]])


def test_who_failed_hears_nothing_more_and_the_others_do() -> None:
    class Broken:
        def on_save(self, env_steps: int) -> None:
            raise KeyError("a\nb")

    other = Recorder()
    broken = Broken()
    audience = Audience([broken, other])
    audience.on_save(2_000)
    audience.on_save(3_000)
    audience.on_episodes([EPISODE])
    assert (audience.wants_stop, audience.stopped_by, other.heard) == (True, None, [EPISODE])
    with pytest.raises(RlabError) as caught:
        audience.check("It is saved")
    said = r"the listener Broken.on_save failed when the run's clock was at 2,000: KeyError: 'a\nb'. It is saved"
    assert str(caught.value) == said
    assert isinstance(caught.value.__cause__, KeyError)


def test_settings_that_a_listener_changes_are_put_back() -> None:
    def settings() -> tuple[Any, ...]:
        default, threads = torch.empty(0), torch.get_num_threads()
        rest = torch.are_deterministic_algorithms_enabled(), np.geterr()
        return torch.is_grad_enabled(), default.dtype, default.device.type, threads, *rest

    def rude(env_steps: int) -> None:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True)
        np.seterr(all="raise")
        raise ValueError("and it failed")

    before = settings()
    Audience([SimpleNamespace(on_save=rude)]).on_save(1)
    assert settings() == before


def test_an_exit_is_kept_until_the_run_lets_it_through() -> None:
    first, second = SystemExit(3), KeyboardInterrupt()
    audience = Audience([Raises(first), Raises(second)])
    audience.on_save(1)
    assert (audience.wants_stop, audience.leaves, audience.stopped_by) == (True, True, "Raises")
    audience.check("")
    with pytest.raises(SystemExit) as caught:
        audience.leave()
    assert caught.value is first


def test_draws_of_a_listener_leave_no_trace_in_the_generators_that_all_share() -> None:
    def draw() -> tuple[float, float, float]:
        return float(np.random.rand()), random.random(), float(torch.rand(()))

    def seed_all() -> None:
        np.random.seed(1)
        random.seed(1)
        torch.manual_seed(1)

    def scribble(env_steps: int) -> None:
        draw()
        seed_all()

    with kept_generators():  # of the tests
        seed_all()
        expected = draw(), draw()
        seed_all()
        first = draw()
        Audience([SimpleNamespace(on_save=scribble)]).on_save(1)
        assert (first, draw()) == expected
