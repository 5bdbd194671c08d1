"""`rlab VERB`: the verb is found, and every error ends as one line and the right exit code."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rlab
from rlab.cli.main import EXAMPLES, VERBS, main
from rlab.errors import RlabError, UsageError

ROOT = Path(rlab.__file__).parent.parent


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Puts a function in the place of `rlab train`."""

    def install(run: Callable[[list[str]], int]) -> None:
        module = ModuleType("rlab.cli.train")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "rlab.cli.train", module)

    monkeypatch.setattr(sys, "path", list(sys.path))
    return install


def failing(error: BaseException) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_resolves(name: str) -> None:
    assert callable(importlib.import_module(f"rlab.cli.{name}").run)


def test_help_names_every_verb_and_the_examples_and_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, summary in VERBS.items():
        assert f"\n  {name:<8} {summary}\n" in shown
    assert all(example in shown for example in EXAMPLES)
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["--help"]) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.split() == shown.split()


def test_no_verb_shows_the_help_and_counts_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().err


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlab {rlab.__version__}\n"


def test_an_unknown_verb_gets_the_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "rlab: unknown verb 'trian'. Did you mean 'train'?\n"


def test_help_is_quick_since_it_imports_nothing_heavy() -> None:
    script = (
        "import sys; from rlab.cli.main import main; main(['--help']);"
        "print(sorted({'torch', 'gymnasium', 'numpy', 'tyro', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_verb_gets_the_words_after_it_and_its_code_is_returned(verb: Callable[..., None]) -> None:
    seen: list[str] = []

    def run(argv: list[str]) -> int:
        seen.extend(argv)
        return 7

    verb(run)
    assert main(["train", "dqn", "--debug", "--gamma", "0.9"]) == 7
    assert seen == ["dqn", "--gamma", "0.9"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such\n  thing"), 2, "rlab: no such thing\n"),
        (RlabError("the file is cut short"), 1, "rlab: the file is cut short\n"),
        (KeyboardInterrupt(), 130, "rlab: interrupted\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    verb(failing(error))
    assert main(["train"]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), BrokenPipeError("a worker's pipe")])
def test_an_error_of_ours_is_one_line_that_names_debug(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    verb(failing(error))
    assert main(["train"]) == 1
    assert re.fullmatch(
        rf"rlab: internal error: {type(error).__name__}: {error} \(run, line \d+\); "
        r"run again with --debug for the traceback\n",
        capsys.readouterr().err,
    )


def test_debug_anywhere_shows_the_traceback(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(failing(RlabError("the file is cut short")))
    assert main(["train", "--debug", "dqn"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("rlab: the file is cut short\n")


def test_a_reader_that_leaves_early_is_met_quietly() -> None:
    script = (
        "import sys; from types import ModuleType; from rlab.cli.main import main; m = ModuleType('rlab.cli.list');"
        "m.run = lambda argv: [print('x' * 100) for _ in range(10_000)] and 0;"
        "sys.modules['rlab.cli.list'] = m; sys.exit(main(['list']))"
    )
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


def test_python_dash_m_rlab_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "rlab", "evl"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "rlab: unknown verb 'evl'. Did you mean 'eval'?\n")


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["my_module:Agent", "CartPole-v1"], True),
        (["dqn", "CartPole-v1", "--wrapper=my.wrappers:Mine"], True),
        (["dqn", "CartPole-v1", "--trust"], True),
        (["dqn", "ALE/Pong-v5", "--wrapper", "TimeLimit:steps=5", "--device", "cuda:0"], False),
        (["dqn", "CartPole-v1", "--env-kwargs", "mode=a:b", "--out", "C:\\runs"], False),
    ],
)
def test_modules_of_the_current_folder_are_seen_where_the_words_name_a_module(
    verb: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], seen: bool
) -> None:
    (tmp_path / "module_of_the_current_folder.py").write_text("ANSWER = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    verb(lambda argv: 42 if importlib.util.find_spec("module_of_the_current_folder") else 43)
    assert main(["train", *words]) == (42 if seen else 43)


@pytest.mark.parametrize("words", [["train"], ["train", "--help"], ["pretrain", "--help"], ["finetune", "--help"]])
def test_wrong_words_and_usage_do_not_wait_for_torch(words: list[str]) -> None:
    code = (
        "import sys; from rlab.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_who_judges_a_policy_does_not_wait_for_the_compiler_of_torch(ppo_run: Path) -> None:
    code = (
        "import sys; from rlab.cli.main import main\n"
        "main(['eval', sys.argv[1], '--episodes', '1'])\n"
        "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ppo_run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True False"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("rlab.jobs.evaluate.evaluate", ["eval", "RUN", "--episodes", "1"]),
        ("rlab.jobs.compare.compare", ["compare", "dqn-CartPole-v1", "ppo-CartPole-v1"]),
        ("rlab.jobs.report.report", ["report", "dqn-CartPole-v1", "--no-png", "--out", "OUT"]),
        ("rlab.jobs.check.check", ["check", "CartPole-v1", "--steps", "20"]),
        ("rlab.jobs.export.export", ["export", "RUN", "--format", "numpy", "--out", "OUT"]),
    ],
    ids=["eval", "compare", "report", "check", "export"],
)
def test_what_an_env_prints_while_a_verb_works_is_not_in_the_one_json_object(
    job: str,
    words: list[str],
    ppo_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, _, name = job.rpartition(".")
    judged = getattr(importlib.import_module(module), name)

    def loud(*args: Any, **settings: Any) -> Any:
        print("an env says hello")
        return judged(*args, **settings)

    monkeypatch.setattr(job, loud)
    there = {"RUN": str(ppo_run), "OUT": str(tmp_path / "report.npz")}
    assert main([*(there.get(word, word) for word in words), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["format"] == 1
    assert "an env says hello" in printed.err
