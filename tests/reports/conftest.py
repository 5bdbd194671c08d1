"""A headless Chromium that tests drive, and a page of made-up populations."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.evaluation.comparison import Side as Compared
from rlab.evaluation.comparison import pair
from rlab.evaluation.report.model import Report, Side, Study, Task, Trial

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 30.0  # seconds


class Chromium:
    """A browser with one page, driven by the DevTools protocol over two pipes."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        flags += [f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking", "--disable-sync"]

        def as_3_and_4() -> None:  # where Chromium expects its pipes
            for wanted, there in ((3, to_browser), (4, from_browser)):
                os.dup2(there, wanted + 100)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self._process = subprocess.Popen(
            [program, *flags, "about:blank"],
            close_fds=False,
            preexec_fn=as_3_and_4,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._read, self._numbers, self._session = b"", itertools.count(1), ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        (page,) = [each["targetId"] for each in targets if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The result of one command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)
        raise TimeoutError(method)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._from, 2**16)
            assert part, "Chromium has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of this size, that of a phone below 600 pixels."""
        self.call("Page.navigate", url="about:blank")
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        scheme.append({"name": "prefers-reduced-motion", "value": "reduce"})
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until it is true in the page."""
        until = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < until, expression
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key on the keyboard."""
        text = {"Enter": {"text": "\r"}}.get(key, {})
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def requests(self) -> list[str]:
        """The addresses that were asked for, since the page was opened."""
        sent = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def complaints(self) -> list[str]:
        """What went wrong in the page: exceptions, and what its policy forbade."""
        thrown = [each for each in self.events if each.get("method") == "Runtime.exceptionThrown"]
        logged = [each["params"]["entry"] for each in self.events if each.get("method") == "Log.entryAdded"]
        return [str(each) for each in thrown] + [each["text"] for each in logged if each["level"] == "error"]

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    running = Chromium(program, tmp_path_factory.mktemp("profile"))
    try:
        yield running
    finally:
        running.close()


def population(index: int, name: str, seeds: int = 5, **changes: Any) -> Side:
    """A made-up population: `index` says how well it does."""
    rng = np.random.default_rng(index)
    when = np.arange(1, 11) * 1000
    curve = 100.0 * (index + 1) * (1 - np.exp(-when / 3000)) + rng.normal(0, 5, (seeds, 10))
    facts: dict[str, Any] = {
        "path": f"runs/{name}",
        "agent": "ppo",
        "seeds": tuple(range(seeds)),
        "returns": curve[:, -1:] + rng.normal(0, 10, (seeds, 20)),
        "curve": (when, curve),
        "training": (when, curve - 10.0),
        "time": 10_000,
        "budget": 10_000,
        "status": "finished",
        "settings": {"learning_rate": 0.001 * (index + 1), "gamma": 0.99},
        "origins": {"learning_rate": "command line"},
        "versions": {"rlab": "0.1.0"},
        "hardware": {"cpu": "a processor", "cores": 2},
        "made_by": f"rlab train ppo CartPole-v1 --out runs/{name}",
    }
    return Side(name, **{**facts, **changes})


def a_report(names: tuple[str, ...] = ("alpha", "beta"), label: str = "CartPole-v1", **changes: Any) -> Report:
    """Populations on one env, compared, and a study."""
    sides = [population(index, name) for index, name in enumerate(names)]
    judged = [Compared(side.name, side.seeds, side.returns) for side in sides if side.returns is not None]
    pairs = [pair(a, b) for a, b in itertools.combinations(judged, 2)]
    task = Task(label, "20 episodes for each seed", sides, pairs, [], f"rlab compare {' '.join(names)}")
    settings = {"learning_rate": 0.001, "hidden": (64, 64)}
    trials = [Trial(i, float(i % 7), i % 3 != 2, "done" if i % 3 != 2 else "pruned", settings) for i in range(9)]
    study = Study(
        "dqn on CartPole-v1", "IQM over 3 seeds", trials, {"learning_rate": 0.7, "gamma": 0.3}, {"method": "tpe"}
    )
    return Report("", [task], [study], **{"made_by": "rlab report runs", "version": "0.1.0", **changes})


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    return a_report


@pytest.fixture(scope="session")
def make_side() -> Callable[..., Side]:
    return population


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two seeds, hardly trained, and something that is not a run."""
    folder = tmp_path_factory.mktemp("runs")
    tiny: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "seeds": 2, "max_episode_steps": 30}
    tiny |= {"env_steps": 256, "eval_every": 128, "eval_episodes": 1, "final_eval_episodes": 2, "log_every": 64}
    rlab.train("ppo", "CartPole-v1", out=folder / "ppo", rollout_steps=16, **tiny)
    rlab.train("a2c", "CartPole-v1", out=folder / "a2c", rollout_steps=16, **tiny)
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("nothing")
    return folder
