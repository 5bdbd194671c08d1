"""What compiling needs, and where its results are kept."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlab.learning import compiler
from rlab.learning.compiler import cache_folder, choose_cache_folder, why_not_compile

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH; the headers of Python are there, and a GPU that Triton knows."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(compiler, "sysconfig", SimpleNamespace(get_path=lambda name: str(tmp_path)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put(folder: Path, name: str) -> None:
    (folder / name).touch(mode=0o755)


def test_a_cpu_needs_a_cpp_compiler(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert why_not_compile(CPU) == "no C++ compiler: g++ was not found; install it, or name another in CXX"
    put(tools, "g++")
    assert why_not_compile(CPU) is None
    monkeypatch.setenv("CXX", "g++-99")
    assert "g++-99 was not found" in str(why_not_compile(CPU))
    put(tools, "g++-99")
    assert why_not_compile(CPU) is None


def test_a_gpu_needs_triton_a_c_compiler_and_to_be_new_enough(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no C compiler, which Triton needs" in str(why_not_compile(CUDA))
    put(tools, "gcc")
    assert why_not_compile(CUDA) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert why_not_compile(CUDA) == "Triton needs a GPU of compute capability 7.0 or higher"
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in str(why_not_compile(CUDA))


def test_both_need_the_headers_of_python(tools: Path) -> None:
    put(tools, "g++")
    put(tools, "gcc")
    (tools / "Python.h").unlink()
    for device in (CPU, CUDA):
        assert "Python.h was not found; install the headers of Python" in str(why_not_compile(device))


def test_other_devices_are_not_compiled_for() -> None:
    assert why_not_compile(torch.device("mps")) == "torch compiles nothing for mps"


def test_the_folder_of_compiled_code_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    kind = torch.backends.cpu.get_cpu_capability().lower()  # code for other vector instructions is kept apart
    assert cache_folder() == Path.home() / ".cache" / "rlab" / "compiled" / kind
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rlab" / "compiled" / kind
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_anybody")  # torch tells itself
    assert cache_folder() == tmp_path / "rlab" / "compiled" / kind
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_torch_is_told_of_the_folder_unless_it_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose_cache_folder()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path / "rlab" / "compiled"
    assert cache_folder().stat().st_mode & 0o077 == 0  # nobody else's code is run
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    choose_cache_folder()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == ""


SCRIPT = """
import torch
from rlab.learning.program import Program
state = torch.zeros(3)
assert Program(lambda x: state.add_(x).sin() * 0.125, "fn")(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
from torch._dynamo.utils import counters
hits = counters["inductor"]["fxgraph_cache_hit"]
"""


@pytest.mark.prove  # 12 s
@pytest.mark.skipif(why_not_compile(CPU) is not None, reason=str(why_not_compile(CPU)))
def test_another_process_finds_what_this_one_compiled() -> None:
    exec(SCRIPT, {})  # noqa: S102, the same in both
    found = subprocess.check_output([sys.executable, "-c", f"{SCRIPT}print(hits)"], text=True)
    assert found.split() == ["1"]


@pytest.mark.parametrize("shared", [True, False])
def test_small_work_shares_kernels_on_a_gpu_where_it_can(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, bool]] = []

    def inductor(graph: object, arguments: object, **options: bool) -> str:
        asked.append(options)
        if options and not shared:
            raise AssertionError("ops.sort is only supported in persistent reductions")
        return "code"

    monkeypatch.setattr(compiler, "_compiled", inductor)
    graph: Any = None
    tensors: Any = [SimpleNamespace(is_cuda=False), SimpleNamespace(is_cuda=True)]
    assert compiler.compiled(graph, tensors[:1]) == compiler.compiled(graph, tensors) == "code"
    assert asked == [{}, {"combo_kernels": True}] + [{}] * (not shared)
