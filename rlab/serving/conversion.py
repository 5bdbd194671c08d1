"""Policy folders become the files that are served, those that `rlab export --format onnx` writes, in a process of their
own: the server itself does without torch, and does not stand still while torch is imported."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlab.errors import RlabError, UsageError
from rlab.runs import files
from rlab.trust import Trust

SECONDS = 300.0  # that a conversion may take, on a machine that is busy
REFUSAL = "refusal.json"
ERRORS = {"UsageError": UsageError, "RlabError": RlabError}


@contextmanager
def converted(folders: Sequence[Path], member: int | None, trust: Trust) -> Iterator[list[Path]]:
    """One member of the policy in each of these run or policy folders, if any, as a `.onnx`; the files are there within
    the `with` block.

    Args:
        member: its training seed; None: the first.
        trust: allow layers from outside rlab.

    Raises:
        UsageError: there is no such folder or member, or a package is missing.
        RlabError: a folder is damaged, or its network cannot be written as such a file.
    """
    start = (
        f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import {convert.__name__} as run; "
        "run(*map(json.loads, sys.argv[2:]))"
    )
    if not folders:
        yield []
        return
    with tempfile.TemporaryDirectory() as name:
        allowed = trust if isinstance(trust, bool | str) else sorted(trust)
        words = [json.dumps(each) for each in (sys.path, [*map(str, folders)], member, allowed, name)]
        done = subprocess.run(
            [sys.executable, "-P", "-c", start, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        refusal = Path(name) / REFUSAL
        if refusal.exists():
            found = files.read_json(refusal)
            raise ERRORS[found["kind"]](found["error"])
        if done.returncode:
            reason = next(iter(reversed(done.stderr.splitlines())), f"exit code {done.returncode}")
            raise RlabError(f"the policies could not be made ready to be served: {reason}")
        yield [Path(name) / f"{number}.onnx" for number in range(len(folders))]


def convert(folders: list[str], member: int | None, trust: Trust, into: str) -> None:
    """What the process does: write the files `0.onnx`, `1.onnx` and so on, each checked against its member, or a JSON
    that says why one is not to be had."""
    from rlab.compression.export.member_file import export
    from rlab.compression.export.metadata import Origin
    from rlab.compression.export.parity import MIN_ROWS
    from rlab.runs.policies import load_policy
    from rlab.serving.probes import probes
    from rlab.trust import in_force

    try:
        for number, folder in enumerate(folders):
            loaded = load_policy(folder, in_force(trust))
            alone = loaded.policy.member(member)
            obs = probes(alone.spec.obs_space, MIN_ROWS)
            # without its env, which serving does not need, and which may name paths of this machine
            export(alone, obs, "onnx", Path(into) / f"{number}.onnx", origin=Origin(loaded.extra.get("agent")))
    except RlabError as error:
        kind = "UsageError" if isinstance(error, UsageError) else "RlabError"
        files.write_json(Path(into) / REFUSAL, {"kind": kind, "error": str(error)})
