"""The corpus of hostile artefacts: each is refused in one line, quickly, in little memory, and nothing of it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from hostile import cases  # type: ignore[import-not-found, unused-ignore]

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SLICES = 30


def refused(good: Path, first: int, step: int) -> int:
    """How many cases of a slice were tried; fails where one is not refused as it should be."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is measured by /proc, and FIFOs are made: this needs Linux")
    words = [sys.executable, str(Path(__file__).with_name("run_corpus.py")), str(good), str(first), str(step)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    *found, last = done.stdout.splitlines() or [done.stderr]
    assert not found, "\n".join(found)
    assert done.returncode == 0, done.stderr
    return int(json.loads(last)["tried"])


def test_the_corpus_has_every_kind_and_a_reason_for_each() -> None:
    corpus = cases()
    assert len(corpus) >= 500
    assert all(case.reason and case.codes for case in corpus)
    assert {case.verb[0] for case in corpus} == {"eval", "resume", "list", "bench", "train", "pretrain"}


@pytest.mark.parametrize("part", [0])
def test_hostile_artefacts_are_refused(good: Path, part: int) -> None:
    assert refused(good, part, SLICES) >= 15


@pytest.mark.prove
@pytest.mark.parametrize("part", range(1, SLICES))
def test_the_rest_of_the_hostile_artefacts_is_refused(good: Path, part: int) -> None:
    assert refused(good, part, SLICES) >= 15
