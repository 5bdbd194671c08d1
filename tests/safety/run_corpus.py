"""Run cases of the corpus one after another in this process: `run_corpus.py GOOD FIRST STEP` prints a line of JSON for
each that is not refused as it should be, and how many were tried."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import hostile

from rlab.cli.main import main

HANGS = 60  # seconds
SECONDS, BYTES = 1.0, 200 * 2**20  # above the same command on a good folder
ADDRESSES = 8 * 2**30  # bytes that the whole process may ask for
GOOD = {
    "eval": ("eval", "run", "--episodes", "1"),
    "list": ("list", "runs", "--root", "."),
    "bench": ("bench", "ours.toml"),
    "resume": ("resume", "dqn", "--env-steps", "512"),
    "pretrain": ("pretrain", "bc", "data", "--updates", "2", "--final-eval-episodes", "1"),
    "train": ("train", "ppo", "CartPole-v1", "--env-steps", "16", "--num-envs", "2", "--final-eval-episodes", "1"),
}


class Hangs(BaseException):
    """The time is up."""


def alarm(*_: Any) -> None:
    raise Hangs


def cost(words: tuple[str, ...]) -> tuple[Any, str, str, float, int]:
    """The exit code, what was written, and the CPU time and memory that a command took."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), sum(os.times()[:4])
    signal.alarm(HANGS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: Any = main(list(words))
    except BaseException as error:
        code = repr(error)
    finally:
        signal.alarm(0)
    return code, out.getvalue(), err.getvalue(), sum(os.times()[:4]) - began, memory("VmHWM") - before


def memory(what: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)


def faults(case: hostile.Case, copy: Path, usual: dict[str, tuple[float, int]]) -> list[str]:
    """What is wrong with how a case is refused."""
    os.chdir(copy)
    code, out, err, seconds, taken = cost(case.verb)
    lines = [line for line in err.splitlines() if line.startswith("rlab: ")]
    found = []
    if code not in case.codes:
        found.append(f"exit code {code}")
    if code in (1, 2) and len(lines) != 1:
        found.append(f"{len(lines)} lines")
    if "internal error" in err or "Traceback" in err:
        found.append("an internal error")
    usual_seconds, usual_bytes = usual[case.verb[0]]
    if seconds > usual_seconds + SECONDS:
        found.append(f"{seconds:.1f} s")
    if taken > usual_bytes + BYTES:
        found.append(f"{taken >> 20} MiB")
    if set(out + err) & set("\x1b\x07\u202e"):
        found.append("controls reach the terminal")
    if (copy / "ran").exists():
        found.append("code ran")
    beside = {path.name: path.read_bytes() for path in copy.parent.iterdir() if path.is_file()}
    if beside != {hostile.SECRET: b"secret"}:
        found.append("touched what is outside")
    return [*found, err[-300:]] if found else []


def prepared(good: Path, where: Path) -> Path:
    """A copy of the good folder, beside a file that nothing may touch."""
    shutil.copytree(good, where / "in")
    (where / hostile.SECRET).write_text("secret")
    (where / "in/planted.py").write_text("open('ran', 'w').close()\n")
    return where / "in"


def run(good: Path, first: int, step: int) -> None:
    signal.signal(signal.SIGALRM, alarm)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    tried, usual = 0, {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for verb, words in GOOD.items():
            os.chdir(prepared(good, base / f"good-{verb}"))
            code, _, err, seconds, taken = cost(words)
            usual[verb] = seconds, taken
            if code:
                print(json.dumps({"case": f"the good {verb}", "faults": [str(code), err[-300:]]}))
        for case in hostile.cases()[first::step]:
            tried += 1
            copy = prepared(good, base / str(tried))
            case.change(copy)
            wrong = faults(case, copy, usual)
            os.chdir(base)
            shutil.rmtree(copy.parent)
            if wrong:
                print(json.dumps({"case": case.name, "faults": wrong}), flush=True)
    print(json.dumps({"tried": tried}))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
