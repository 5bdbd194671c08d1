"""What tests of several rooms share."""

import base64
import functools
import gc
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlab.compression.distil import DistilSettings

# Hypothesis' own profile `ci` draws the same examples on every machine and has no deadline; `make prove` has all its
# examples.
settings.register_profile("daily", settings.get_profile("ci"), max_examples=25)


def pytest_collection_finish() -> None:
    """What was imported so far stays for ever: the collector, which took a sixth of the time of small runs, looks at it
    no more, and seldom at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="module")
def few_visits() -> Iterator[None]:
    """Compression visits a tenth of the states that it does for people, and a search has half the candidates, timed an
    eighth as often: what is kept, told and refused is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlab.jobs.compress.DistilSettings", functools.partial(DistilSettings, rows=200))
        patch.setattr("rlab.compression.steps.FEATURE_ROWS", 200)
        patch.setattr("rlab.compression.search.SHARES", (0.0, 0.5))
        patch.setattr("rlab.compression.report.REPEATS", 64)
        patch.setattr("rlab.compression.trials.REPEATS", 32)
        yield


@pytest.fixture(scope="module")
def quick_disk() -> Iterator[None]:
    """Nothing waits for the disk, which many small runs would do most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def registered_here() -> Iterator[None]:
    """No module registers the ids of a test when it is imported, which a process of its own would find out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlab.envs.callables._registering_module", lambda env_id, candidates: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_terminal() -> Iterator[None]:
    """Tests that care for the width of a terminal set one themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


class StandInGpu:
    """A GPU's place is taken by the CPU: tensors lie in its memory, and each is known to be on the one or on the other.

    In a `with` block `torch.device("cuda")` is there. Whatever is made or moved there says so (`tensor.device`), what
    follows from it is there too, and an operator that mixes the two devices fails, as on a GPU. In `program()` it is an
    error that something crosses between them, or is read: a captured program cannot do that.
    """

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self.in_program = False
        self.makes_there = False  # whether what an operator makes of nothing is for its tensors there
        self._patch = pytest.MonkeyPatch()
        self._modes: list[Any] = []

    def __enter__(self) -> "StandInGpu":
        importlib.import_module("torch._dynamo")  # which looks at what is patched here
        alike = torch._has_compatible_shallow_copy_type
        self._patch.setattr(torch.cuda, "is_available", lambda: True)
        self._patch.setattr(torch.cuda, "device_count", lambda: 1)
        self._patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a stand-in")
        self._patch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
        self._patch.setattr(torch.cuda, "Event", MagicMock)
        self._patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        # so that `Module.to` makes new parameters, as it does on a GPU
        self._patch.setattr(
            torch, "_has_compatible_shallow_copy_type", lambda a, b: on_gpu(a) == on_gpu(b) and alike(a, b)
        )
        self._modes = [_Calls(self), _Operators(self)]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._patch.undo()

    @contextmanager
    def program(self) -> Iterator[None]:
        """A block in which nothing crosses."""
        self.in_program = True
        try:
            yield
        finally:
            self.in_program = False

    def crosses(self, what: str) -> None:
        """Something is read or goes from one device to the other."""
        if self.in_program:
            raise RuntimeError(f"{what}: it crosses between the devices, which a program cannot do")


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is on the stand-in for a GPU: its storage says so."""
    return hasattr(tensor.untyped_storage(), "on_gpu")


class _Calls(TorchFunctionMode):
    """Looks at calls from Python, which name devices."""

    READS = ("tolist", "numpy", "__array__")
    OF_DATA = ("tensor", "as_tensor", "asarray")  # which copy from the host

    def __init__(self, gpu: StandInGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None and name == "__get__":
            return self._attribute(func, first)
        if first is not None and name in self.READS and on_gpu(first):
            if name != "tolist":
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            self._gpu.crosses(name)
        if first is not None and name in ("cpu", "cuda"):
            return self._moved(first, name == "cuda")
        if name == "to" and first is not None:
            named = [
                there for there in map(self._names_gpu, (*args[1:], kwargs.pop("device", None))) if there is not None
            ]
            rest = [torch.device("cpu") if isinstance(value, str | torch.device) else value for value in args[1:]]
            return func(self._moved(first, named[0]) if named else first, *(rest or ["cpu"]), **kwargs)
        if name in ("grad", "backward", "one_hot"):
            return self._from_within(func, args, kwargs, looks=name == "one_hot")
        kwargs.pop("pin_memory", None)
        there = self._names_gpu(kwargs.pop("device", None))
        found = func(*args, **kwargs)
        if there and first is None and name in self.OF_DATA:
            self._gpu.crosses(f"torch.{name}")
        if there or (first is not None and on_gpu(first) and name in ("__deepcopy__", "new_tensor")):
            return self._moved(found, True) if name in self.OF_DATA else _put(found)
        return found

    def _from_within(self, func: Any, args: Any, kwargs: Any, looks: bool) -> Any:
        """What makes tensors that Python does not see; `looks`: at values, which it does not do on a GPU."""
        self._gpu.makes_there = any(map(self._names_gpu, tree_leaves(args[0])))
        before, self._gpu.in_program = self._gpu.in_program, self._gpu.in_program and not looks
        try:
            return func(*args, **kwargs)
        finally:
            self._gpu.makes_there, self._gpu.in_program = False, before

    def _attribute(self, func: Any, tensor: Tensor) -> Any:
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self._gpu.device if on_gpu(tensor) else torch.device("cpu")
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return on_gpu(tensor)
        return func(tensor)

    @staticmethod
    def _names_gpu(value: Any) -> bool | None:
        """Whether an argument names the GPU; None where it names no device."""
        if isinstance(value, Tensor):
            return on_gpu(value)
        if isinstance(value, str | torch.device) and str(value).partition(":")[0] in ("cpu", "cuda"):
            return str(value) != "cpu"
        return None

    def _moved(self, tensor: Tensor, there: bool) -> Tensor:
        if on_gpu(tensor) == there:
            return tensor
        self._gpu.crosses("a tensor is moved")
        copied = tensor.clone()
        vars(copied.untyped_storage()).pop("on_gpu", None)
        return _put(copied) if there else copied


class _Operators(TorchDispatchMode):
    """Looks at operators, those of gradients among them: what they make is where their tensors are."""

    def __init__(self, gpu: StandInGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = [on_gpu(tensor) for tensor in given]
        if not any(there):
            made = func(*args, **kwargs)
            return _put(made) if self._gpu.makes_there and not given else made
        name = func.overloadpacket.__name__
        if torch.Tag.data_dependent_output in func.tags or self._has_shape_of_data(func, args):
            self._gpu.crosses(name)
        apart = [tensor for gpu, tensor in zip(there, given, strict=True) if not gpu and tensor.dim()]
        if apart:
            moves = args[1] if name in ("index", "index_put", "index_put_") else given if name == "copy_" else []
            if not all(any(tensor is each for each in moves) for tensor in apart):
                raise RuntimeError(f"Expected all tensors to be on the same device, in {func}")
            self._gpu.crosses(name)
        found = func(*args, **kwargs)
        return found if name == "copy_" else _put(found)

    @staticmethod
    def _has_shape_of_data(func: Any, args: Any) -> bool:
        if torch.Tag.dynamic_output_shape not in func.tags:
            return False
        if not func.overloadpacket.__name__.startswith("index"):
            return True
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _put(values: Any) -> Any:
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            value.untyped_storage().on_gpu = True  # type: ignore[attr-defined]
    return values


@pytest.fixture
def gpu() -> StandInGpu:
    """A stand-in for a GPU, on which everything happens that a `with` block puts there."""
    return StandInGpu()


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
