"""The README's commands are run word for word, in their order, in an empty folder; only budgets are made small."""

import re
import shutil
from pathlib import Path

import pytest

import rlab
from rlab.cli.main import main

ROOT = Path(rlab.__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALL = ["--env-steps", "400", "--eval-episodes", "1", "--final-eval-episodes", "2"]


def commands() -> list[list[str]]:
    """Every line of a shell block that starts with `rlab`, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = (line.partition("#")[0].strip() for block in blocks for line in block.splitlines())
    return [line.split()[1:] for line in lines if line.startswith("rlab ")]


def made_small(argv: list[str]) -> list[str]:
    """The same command with a tiny budget; the last of two equal flags counts."""
    if argv[0] == "pretrain" or "cql" in argv:
        return [*argv, "--updates", "60", *SMALL[2:]]
    if argv[0] in ("train", "finetune"):
        return [*argv, *SMALL]
    if argv[0] == "compress":
        few = ["--candidates", "2"] if "--search" in argv else []
        return [*argv, *few, "--episodes", "2", "--updates", "40", "--min-return-ratio", "0"]
    if argv[0] == "collect":
        return [*argv, "--episodes", "3"]
    if argv[0] == "eval":
        return [*argv, "--episodes", "2"]
    return argv


def test_every_documented_command_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(ROOT / "tests/agents/own_agent.py", tmp_path)
    done = []
    for argv in commands():
        if argv[0] == "bench":  # an experiment at its full size: `make prove`
            continue
        assert main(made_small(argv)) == 0, " ".join(argv)
        done.append(argv[0])
    assert {"train", "eval", "play", "resume", "list", "collect", "pretrain", "finetune"} <= set(done)
    assert (tmp_path / "cartpole.gif").stat().st_size > 0


def test_the_documented_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = (b for b in blocks if "rlab.train" in b)
    small = "env_steps=400, eval_episodes=1, final_eval_episodes=2"
    exec(compile(block.replace("seeds=10", f"seeds=4, {small}"), "README.md", "exec"), {})  # noqa: S102
    iqm, *interval = re.findall(r"[\d.]+", capsys.readouterr().out)
    assert float(interval[0]) <= float(iqm) <= float(interval[1])


def test_the_documented_supervised_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = (b for b in blocks if "supervised.fit" in b)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102
    assert len(re.findall(r"0\.9\d*|1\.0?", capsys.readouterr().out)) == 5  # five networks that have learned it


def test_every_file_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
