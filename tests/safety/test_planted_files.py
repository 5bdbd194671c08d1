"""Python files that lie in the current folder never run unless the user's own words name a module there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlab

ROOT = Path(rlab.__file__).parent.parent
# Packages that rlab, torch, Gymnasium and TensorBoard look for where they are installed, and some of Python's own.
PLANTED = (
    *("ale_py", "minatar", "mujoco", "envpool", "triton", "IPython", "google", "pandas", "ray", "onnx", "minigrid"),
    *("ipykernel", "jax", "tensorflow", "moviepy", "wandb", "boto3", "sitecustomize", "usercustomize", "jnius"),
    *("json", "difflib", "pathlib", "typing", "random", "numbers", "torch", "numpy", "gymnasium", "agents", "envs"),
)
# Runs command lines in one process, since each process imports torch anew; prints their exit codes.
RUN = """
import sys, json
from rlab.cli.main import main
if __name__ == "__main__":
    codes = {name: main(words) for name, words in json.loads(sys.argv[1]).items()}
    print(json.dumps(codes))
"""
SHORT = ("--env-steps", "64", "--num-envs", "2", "--final-eval-episodes", "1")


@pytest.fixture
def planted(tmp_path: Path, good: Path) -> Path:
    """A folder with a run and Python files that write their name into `ran`."""
    for name in PLANTED:
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write({name + chr(10)!r})\nraise ImportError({name!r})\n"
        (tmp_path / f"{name}.py").write_text(code)
    shutil.copytree(good / "run", tmp_path / "sent")
    return tmp_path


VERBS: dict[str, list[str]] = {
    "train": ["train", "dqn", "CartPole-v1", *SHORT],
    "train in workers": ["train", "ppo", "CartPole-v1", "--vector", "async", *SHORT],
    "resume": ["resume", "sent", "--env-steps", "256", "--final-eval-episodes", "1"],
    "finetune": ["finetune", "sent", *SHORT],
    "eval": ["eval", "sent", "--episodes", "2"],
    "play": ["play", "sent", "--video", "film.gif"],
    "check": ["check", "CartPole-v1", "--steps", "20"],
    "list envs": ["list", "envs"],
    "list runs": ["list", "runs", "--root", "."],
    "collect": ["collect", "sent", "--out", "data", "--episodes", "2"],
    "pretrain": ["pretrain", "bc", "data", "--updates", "2", "--final-eval-episodes", "1"],
    "compress": ["compress", "sent", "--steps", "int8", "--min-return-ratio", "0", "--episodes", "2", "--out", "small"],
    "export": ["export", "sent", "--format", "onnx", "--out", "sent.onnx"],
    "eval of a file": ["eval", "sent.onnx", "--episodes", "2"],
    "explain": ["explain", "sent", "--episodes", "2", "--states", "2", "--no-pictures"],
    "publish": ["publish", "sent", "pole"],
    "eval of a model": ["eval", "pole@latest", "--episodes", "2"],
    "list models": ["list", "models"],
    "trust": ["trust"],
    "doctor": ["doctor"],
}


def test_no_planted_file_runs_in_any_verb(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    program = tmp_path_factory.mktemp("bin") / "rlab"  # as the installed program lies elsewhere
    program.write_text(RUN)
    words = [sys.executable, str(program), json.dumps(VERBS)]
    done = subprocess.run(words, cwd=planted, capture_output=True, text=True, check=False)
    assert not (planted / "ran").exists(), ((planted / "ran").read_text(), done.stderr)
    failed = {name for name, code in json.loads(done.stdout.splitlines()[-1]).items() if code}
    assert failed == set(), done.stderr


def test_python_dash_m_rlab_takes_nothing_from_the_current_folder(planted: Path) -> None:
    words = ["eval", "sent", "--episodes", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "rlab", *words], cwd=planted, capture_output=True, text=True, check=False
    )
    assert not (planted / "ran").exists(), ((planted / "ran").read_text(), done.stderr)
    assert done.returncode == 0, done.stderr


def test_none_runs_in_a_clone_that_is_used_where_it_lies(planted: Path) -> None:
    for name in ("agents", "envs"):
        (planted / f"{name}.py").unlink()
    for room in ("rlab", "agents", "envs", "experiments"):
        shutil.copytree(ROOT / room, planted / room, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.png"))
    words = ["train", "ppo", "CartPole-v1", "--vector", "async", *SHORT]
    done = subprocess.run(
        [sys.executable, "-m", "rlab", *words], cwd=planted, capture_output=True, text=True, check=False
    )
    assert not (planted / "ran").exists(), ((planted / "ran").read_text(), done.stderr)
    assert done.returncode == 0, done.stderr
