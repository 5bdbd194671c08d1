"""One bit that turned over in a file of a run is found, wherever it is.

Logs, curves, `status.json` and `result.json` have no checksum: what they say decides nothing of how a run goes on.
"""

import random
import shutil
from pathlib import Path

import pytest

from rlab.runs.health import damages

WITHOUT = ("metrics.", "eval.", "timing.", "episodes.", "status.", "result.", "events.")


def checked_files(run: Path) -> list[Path]:
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    return [path for path in files if not path.name.startswith(WITHOUT)]


def flips_that_are_not_found(run: Path, count: int, seed: int) -> list[str]:
    """Of so many random bits, drawn over all bytes alike, those that may turn over without anybody's notice."""
    rng, paths = random.Random(seed), checked_files(run)
    sizes = [path.stat().st_size for path in paths]
    missed = []
    for _ in range(count):
        (path,) = rng.choices(paths, sizes)
        content = path.read_bytes()
        bit = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        if not damages(run):
            missed.append(f"bit {bit} of {path.relative_to(run)}")
        path.write_bytes(content)
    assert damages(run) == []
    return missed


@pytest.mark.parametrize("name", ["run", "dqn"])
def test_a_bit_that_turned_over_is_found(good: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(good / name, tmp_path / name)
    assert flips_that_are_not_found(tmp_path / name, 150, seed=0) == []


def test_each_file_with_a_checksum_is_looked_at(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good / "dqn", tmp_path / "dqn")
    for path in checked_files(tmp_path / "dqn"):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        assert damages(tmp_path / "dqn"), path
        path.write_bytes(content)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["run", "dqn"])
def test_ten_thousand_bits_are_found(good: Path, tmp_path: Path, name: str, seed: int) -> None:
    shutil.copytree(good / name, tmp_path / name)
    assert flips_that_are_not_found(tmp_path / name, 500, seed=1 + seed) == []
