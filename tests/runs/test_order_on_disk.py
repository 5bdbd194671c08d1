"""In which order a save reaches the disk, as the kernel sees it."""

import re
import shutil
import subprocess
import sys

import pytest

STRACE = shutil.which("strace")
SAVES = """
import sys
import numpy as np
from rlab.runs.checkpoint import CheckpointWriter, snapshot
from rlab.runs.folder import RunFolder

class Piece:
    index, complete = 0, True
    def arrays(self):
        return {"obs": np.zeros(3)}

run = RunFolder.open(sys.argv[1])
writer = CheckpointWriter(run, keep=1)
for n in range(3):
    writer.commit(snapshot({"n": n, "array": np.full(3, n)}), [Piece()])
"""
CALL = re.compile(r"(rename|fsync|unlink)\w*\(([^)]*)\)\s+= 0")


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_content_then_names_then_the_commit_reach_the_disk_and_only_then_is_anything_deleted(run, tmp_path):
    log = tmp_path / "calls"
    traced = [str(STRACE), "-f", "-y", "-s", "300", "-e", "trace=fsync,/rename,/unlink", "-o", str(log)]
    done = subprocess.run([*traced, sys.executable, "-c", SAVES, str(run.path)], capture_output=True, text=True)
    if "ptrace" in done.stderr and not log.exists():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    synced: set[str] = set()  # files whose content is on the disk
    named: set[str] = set()  # names that are not yet
    commits = deleted = 0
    for line in log.read_text().splitlines():
        call = CALL.search(line)
        if call is None or str(run.checkpoint) not in line:
            continue
        kind, (first, *rest) = call[1], re.findall(r'"([^"]*)"|<([^>]*)>', call[2])
        path = first[0] or first[1]
        if kind == "fsync":
            synced.add(path)
            if path == str(run.checkpoint):
                named.clear()
        elif kind == "rename":
            target = rest[-1][0]
            assert path in synced, f"{target} got its name before its content was on the disk"
            if "checkpoint-" in target:
                assert not named, f"the commit came before the names of {named}"
                commits += 1
            named.add(target)
        elif "/.tmp-" not in path:
            assert commits, "something was deleted before a commit"
            assert not named, f"{path} was deleted before the names of {named} were on the disk"
            deleted += 1
    assert commits == 3
    assert deleted == 2 * 3  # each time the commit before and its state in two files
