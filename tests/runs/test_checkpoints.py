"""Checkpoints: everything comes back equal, and no instant of death loses the previous one."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import RlabError, RlabWarning
from rlab.runs import parity
from rlab.runs.checkpoint import (
    CheckpointWriter,
    commits,
    has_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    snapshot,
)
from rlab.runs.encoding import decode, encode
from rlab.runs.folder import RunFolder
from rlab.runs.parity import BLOCK
from rlab.runs.tensors import tensors_from_bytes, tensors_to_bytes


def save_checkpoint(run, state, chunks=(), keep=2):
    """Add a checkpoint to those of a run, as the next save of a run that goes on does."""
    CheckpointWriter(run, keep, max(commits(run.checkpoint), default=None)).commit(snapshot(state), chunks)


@dataclass
class Piece:
    """A chunk that counts how often it was asked for."""

    index: int
    complete: bool
    value: int
    reads: list[int] = field(default_factory=list)

    def arrays(self):
        self.reads.append(self.index)
        return {"obs": np.full((2, 3), self.value, np.uint8), "terminated": np.array([True, False])}


@dataclass
class Large:
    """A complete chunk of several blocks."""

    content: np.ndarray
    index: int = 0
    complete: bool = True

    def arrays(self):
        return {"obs": self.content}


def through_disk(state):
    structure, tensors = encode(state)
    return decode(
        json.loads(json.dumps(structure, allow_nan=False)), tensors_from_bytes(tensors_to_bytes(tensors), "x")
    )


def same(a, b):
    """Equal values of equal kinds, all the way down; NaN equals NaN and 0.0 does not equal -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(DTYPES).map(lambda dtype: np.arange(6).reshape(2, 3).astype(dtype)),
    st.sampled_from(["float16", "float32", "float64"]).map(lambda dtype: np.array(-0.1, dtype)),
    st.sampled_from(
        [torch.tensor(True), torch.zeros(0, 3), torch.arange(4, dtype=torch.bfloat16), torch.tensor(2**62)]
    ),
    st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True), np.float64("inf")]),
)
KEYS = st.one_of(st.text(), st.integers(), st.sampled_from(["$torch", "$items", "a/b", "0"]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, TREES))
def test_any_state_comes_back_equal_and_of_the_same_kinds(state):
    assert same(through_disk(state), state)


def test_optimizers_and_random_streams_go_on_to_the_bit(run):
    torch.manual_seed(0)
    weight = torch.randn(3, 2, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(2)

    def step():
        optimizer.zero_grad()
        (weight * torch.as_tensor(rng.normal(size=(3, 2))) * torch.rand(3, 2, generator=generator)).sum().backward()
        optimizer.step()

    step()
    save_checkpoint(
        run,
        {
            "weight": weight,
            "optimizer": optimizer.state_dict(),
            "numpy": rng.bit_generator.state,
            "torch": generator.get_state(),
            "best_return": -math.inf,
        },
    )
    step()
    step()
    expected = weight.detach().clone()
    state, chunks = load_checkpoint(run)
    with torch.no_grad():
        weight.copy_(state["weight"])
    optimizer.load_state_dict(state["optimizer"])
    rng.bit_generator.state = state["numpy"]
    generator.set_state(state["torch"])
    step()
    step()
    assert torch.equal(weight, expected)
    assert list(state["optimizer"]["state"]) == [0]
    assert state["best_return"] == -math.inf
    assert chunks == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [object()]}, "state/a/0: a checkpoint cannot hold a object"),
        ({"a": {1, 2}}, "state/a: a checkpoint cannot hold a set"),
        ({"a": np.array(["x"])}, "state/a: a checkpoint cannot hold NumPy's <U1"),
        ({"a": np.array([None])}, "state/a: a checkpoint cannot hold NumPy's object"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "state/a: a checkpoint cannot hold complex128"),
        ({"a": {True: 1}}, "state/a: a key of a checkpoint is a string or an integer, not True"),
        ({"a": {(1, 2): 1}}, r"state/a: a key of a checkpoint is a string or an integer, not \(1, 2\)"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named_and_the_previous_one_stays(run, state, message):
    save_checkpoint(run, {"n": 1})
    with pytest.raises(TypeError, match=message):
        save_checkpoint(run, state)
    assert load_checkpoint(run)[0] == {"n": 1}


def test_complete_chunks_are_written_once_and_growing_ones_again(run):
    first = [Piece(0, True, 10), Piece(1, False, 11)]
    save_checkpoint(run, {}, first)
    assert [piece.reads for piece in first] == [[0], [1]]
    names = set(os.listdir(run.checkpoint))
    second = [Piece(0, True, 99), Piece(1, True, 12), Piece(2, False, 13)]
    save_checkpoint(run, {}, second)
    assert [piece.reads for piece in second] == [[], [1], [2]]  # index 0 was not even asked for
    _, chunks = load_checkpoint(run)
    assert [(chunk.index, chunk.complete, chunk.arrays()["obs"][0, 0]) for chunk in chunks] == [
        (0, True, 10),
        (1, True, 12),
        (2, False, 13),
    ]
    assert names - set(os.listdir(run.checkpoint)) == set()  # the first checkpoint is kept too
    for _ in range(2):
        save_checkpoint(run, {}, [Piece(2, True, 14)])  # a ring has forgotten the oldest
    assert [chunk.index for chunk in load_checkpoint(run)[1]] == [2]
    assert len([name for name in os.listdir(run.checkpoint) if name.startswith("chunk-")]) == 1


def test_a_chunk_that_says_it_still_grows_is_written_whatever_is_there(run):
    save_checkpoint(run, {}, [Piece(0, True, 10)])
    save_checkpoint(run, {}, [Piece(0, False, 11)])
    assert load_checkpoint(run)[1][0].arrays()["obs"].tolist() == [[11] * 3] * 2


def test_a_complete_chunk_that_has_vanished_is_written_again(run):
    save_checkpoint(run, {}, [Piece(0, True, 10)])
    (path,) = run.checkpoint.glob("chunk-*")
    path.unlink()
    save_checkpoint(run, {}, [Piece(0, True, 10)])
    assert load_checkpoint(run)[1][0].arrays()["obs"].tolist() == [[10] * 3] * 2


def test_chunks_come_lazily_so_that_only_one_is_in_memory(run):
    alive = []

    def pieces():
        for index in range(3):
            alive.append(index)
            assert len(list(run.checkpoint.glob("chunk-*"))) == index  # the one before is on the disk already
            yield Piece(index, True, index)

    save_checkpoint(run, {}, pieces())
    assert alive == [0, 1, 2]


def check(run, n):
    """The checkpoint of generation n: state and chunks belong together."""
    state, chunks = load_checkpoint(run)
    assert state["n"] == n
    assert state["tensor"].tolist() == [n] * 5
    assert [chunk.arrays()["obs"][0, 0] for chunk in chunks] == [0, n]


def generation(n):
    return {"n": n, "tensor": torch.full((5,), n)}, [Piece(0, True, 0), Piece(1, False, n)]


def test_death_at_any_instant_leaves_the_previous_checkpoint_or_the_new_one(run, every_death):
    save_checkpoint(run, *generation(1))
    seen = set()
    for copy, survived in every_death(run.path, lambda copy: save_checkpoint(RunFolder.open(copy), *generation(2))):
        opened = RunFolder.open(copy)
        n = load_checkpoint(opened)[0]["n"]
        check(opened, n)
        assert not survived or n == 2
        seen.add(n)
        save_checkpoint(opened, *generation(3))  # and the next one cleans up
        check(opened, 3)
        assert len(os.listdir(opened.checkpoint)) == 10  # of two generations, which share a chunk
    assert seen == {1, 2}


def test_death_in_the_first_checkpoint_leaves_none_or_a_whole_one(run, every_death):
    for copy, survived in every_death(run.path, lambda copy: save_checkpoint(RunFolder.open(copy), *generation(1))):
        if has_checkpoint(RunFolder.open(copy)):
            check(RunFolder.open(copy), 1)
        else:
            assert not survived
            with pytest.raises(RlabError, match="has no checkpoint to resume from"):
                load_checkpoint(RunFolder.open(copy))


WRITER = """
import itertools, sys
import numpy as np, torch
from rlab.runs.checkpoint import CheckpointWriter, commits, snapshot
from rlab.runs.folder import RunFolder

class Piece:
    def __init__(self, index, complete, value):
        self.index, self.complete, self.value = index, complete, value
    def arrays(self):
        return {"obs": np.full((2, 3), self.value, np.uint8)}

run = RunFolder.open(sys.argv[1])
for n in itertools.count(1):
    n %= 200
    writer = CheckpointWriter(run, 2, max(commits(run.checkpoint), default=None))
    writer.commit(snapshot({"n": n, "tensor": torch.full((5,), n)}), [Piece(0, True, 0), Piece(1, False, n)])
    print(n, flush=True)
"""


def test_a_process_that_is_really_killed_leaves_a_whole_checkpoint(run):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        for wait in (0.0, 0.0007, 0.003):
            time.sleep(wait)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)  # now it is frozen, in the middle of whatever it was doing
            check(run, load_checkpoint(run)[0]["n"])
            process.send_signal(signal.SIGCONT)
            process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    n = load_checkpoint(run)[0]["n"]
    check(run, n)
    save_checkpoint(run, *generation(n + 1))
    check(run, n + 1)
    assert len(os.listdir(run.checkpoint)) == 10


def damaged(name, content):
    def harm(folder):
        (path,) = folder.glob(name)
        path.write_bytes(content(path.read_bytes())) if content else path.unlink()

    return harm


def commit(change):
    def harm(folder):
        data = json.loads((folder / "checkpoint-000001.json").read_text())
        change(data)
        (folder / "checkpoint-000001.json").write_text(json.dumps(data))

    return harm


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged("checkpoint-*.json", None), "has no checkpoint to resume from"),
        (damaged("checkpoint-*.json", lambda data: data[:20]), "checkpoint-000001.json is not complete JSON"),
        (damaged("state-*.json", None), r"state-000001-\w+.json is missing"),
        (damaged("state-*.json", lambda data: data + b" "), r"state-000001-\w+.json has a different SHA-256"),
        (
            damaged("state-*.safetensors", lambda data: data[:-1]),
            r"state-000001-\w+.safetensors has a different SHA-256",
        ),
        (damaged("chunk-000000-*", lambda data: data[1:]), r"chunk-000000-\w+.safetensors has a different SHA-256"),
        (damaged("chunk-000000-*", None), r"chunk-000000-\w+.safetensors is missing"),
        (
            damaged("chunk-000001-*", lambda data: data[:-1]),
            r"chunk-000001-000001-\w+.safetensors has a different SHA-256",
        ),
        (commit(lambda data: data.update(format=7)), "has format 7; this rlab reads format 1"),
        (commit(lambda data: data.update(chunks={})), "checkpoint-000001.json is broken: 'chunks' must be a list"),
        (
            commit(lambda data: data.update(chunks=[{"index": "0"}])),
            "checkpoint-000001.json is broken: 'chunks' must be",
        ),
        (commit(lambda data: data["structure"].update(name="../config.json")), r"names '../config.json' where a file"),
        (commit(lambda data: data["chunks"][0].update(name="state-1")), "names 'state-1' where a file"),
        (commit(lambda data: data.pop("tensors")), "'structure' and 'tensors' must be objects"),
    ],
)
def test_a_broken_checkpoint_gives_one_line(run, harm, message):
    save_checkpoint(run, *generation(1))
    harm(run.checkpoint)
    with pytest.raises(RlabError, match=message) as caught:
        [chunk.arrays() for chunk in load_checkpoint(run)[1]]
    assert "\n" not in str(caught.value)
    assert str(run.path) in str(caught.value)


def keeping(keep, generations=3):
    """A function that saves so many generations, of which so many checkpoints are kept."""

    def save(run):
        for n in range(1, generations + 1):
            save_checkpoint(run, *generation(n), keep=keep)

    return save


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_checkpoints_are_kept_with_all_that_they_name_and_nothing_else(run, keep):
    keeping(keep)(run)
    assert commits(run.checkpoint) == [1, 2, 3][-keep:]
    # a commit, two files of a state and a growing chunk for each; a chunk that they share and its parity
    assert len(os.listdir(run.checkpoint)) == 4 * keep + 2
    for number in (3, 2, 1)[:keep]:
        check(run, number)
        (run.checkpoint / f"checkpoint-{number:06d}.json").unlink()


@pytest.mark.parametrize("name", ["checkpoint-000003.json", "state-*.json", "state-*.safetensors", "chunk-000001-*"])
def test_a_flipped_bit_in_the_newest_checkpoint_is_named_and_the_one_before_is_gone_on_from(run, name):
    keeping(2, 2)(run)
    before = set(run.checkpoint.iterdir())
    save_checkpoint(run, *generation(3))
    (path,) = set(run.checkpoint.glob(name)) - before
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])
    with pytest.warns(RlabWarning, match=rf"{path.name} .*run goes on from the checkpoint before it") as said:
        found = newest_checkpoint(run)
    assert len(said) == 1
    assert (found.number, found.state["n"]) == (2, 2)
    writer = CheckpointWriter(run, base=found.number)
    writer.commit(snapshot(generation(4)[0]), generation(4)[1])
    assert commits(run.checkpoint) == [2, 4]  # the damaged one is gone, and its number is not used again
    check(run, 4)


@pytest.mark.parametrize("seed", range(8))
def test_bits_flipped_in_a_chunk_that_all_checkpoints_share_are_put_right(run, seed):
    """Up to the last byte of a block, also in the file's header."""
    content = np.random.default_rng(seed).integers(0, 256, 3 * BLOCK + seed, np.uint8)
    for n in (1, 2):
        save_checkpoint(run, {"n": n}, [Large(content)])
    (path,) = run.checkpoint.glob("chunk-*")
    data = bytearray(path.read_bytes())
    at = int(np.random.default_rng(seed + 100).integers(len(data) // BLOCK)) * BLOCK
    for bit in (0, BLOCK - 1, seed) if at + BLOCK <= len(data) else (0,):
        data[at + bit] ^= 1 << seed
    path.write_bytes(data)
    with pytest.warns(RlabWarning, match=rf"{path.name} has a different SHA-256 .*It was repaired") as said:
        state, (chunk,) = load_checkpoint(run)
    assert len(said) == 1
    assert state["n"] == 2
    assert chunk.arrays()["obs"].tolist() == content.tolist()  # once and for all


def test_two_damaged_blocks_are_refused(run):
    save_checkpoint(run, {}, [Large(np.zeros(3 * BLOCK, np.uint8))])
    (path,) = run.checkpoint.glob("chunk-*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    data[BLOCK + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(RlabError, match="has a different SHA-256"):
        load_checkpoint(run)


@given(st.binary(max_size=200), st.data())
def test_any_block_is_repaired_and_any_length_comes_back(data, draw):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BLOCK", 16)
        made = parity.parity_of(data)
        assert parity.repaired(data, made) is None  # nothing is wrong
        block = draw.draw(st.integers(0, max(0, len(data) - 1) // 16))
        damaged = bytearray(data)
        for at in range(16 * block, min(16 * block + 16, len(data))):
            damaged[at] ^= draw.draw(st.integers(0, 255))
        if bytes(damaged) != data:
            assert parity.repaired(bytes(damaged), made) == data


def test_two_checkpoints_of_the_same_moment_share_no_file_but_complete_chunks(run):
    for _ in range(2):
        save_checkpoint(run, *generation(1))
    first, second = (json.loads((run.checkpoint / f"checkpoint-{n:06d}.json").read_text()) for n in (1, 2))
    names = [
        {part[kind]["name"] for kind in ("structure", "tensors")} | {part["chunks"][1]["name"]}
        for part in (first, second)
    ]
    assert not names[0] & names[1]
    assert first["chunks"][0] == second["chunks"][0]


def test_a_run_that_goes_on_from_an_earlier_checkpoint_takes_no_chunk_of_the_later_one(run):
    save_checkpoint(run, {"n": 1}, [Piece(0, False, 1)])
    save_checkpoint(run, {"n": 2}, [Piece(0, True, 2)])
    CheckpointWriter(run, base=1).commit(snapshot({"n": 3}), [Piece(0, True, 3)])
    assert load_checkpoint(run)[1][0].arrays()["obs"][0, 0] == 3


def test_a_snapshot_does_not_change_when_training_goes_on():
    weight, counts = torch.zeros(2), np.zeros(3)
    taken = snapshot({"weight": weight, "counts": counts, "list": [weight]})
    weight += 1
    counts += 1
    assert decode(taken.structure, taken.tensors)["weight"].tolist() == [0, 0]
    assert all(not tensor.any() for tensor in taken.tensors.values())


def test_a_chunk_written_ahead_belongs_to_the_next_checkpoint_and_is_cleaned_up_where_none_follows(run):
    writer = CheckpointWriter(run)
    writer.commit(snapshot({"n": 1}), [])
    ahead = Piece(0, True, 5)
    writer.write_chunk(0, ahead.arrays())
    assert writer.has(ahead)
    writer.commit(snapshot({"n": 2}), [Piece(0, True, 6)])  # not asked for again
    assert load_checkpoint(run)[1][0].arrays()["obs"][0, 0] == 5
    writer.write_chunk(1, Piece(1, True, 7).arrays())  # and the process is killed
    CheckpointWriter(run, base=2).commit(snapshot({"n": 3}), [ahead])
    assert len(list(run.checkpoint.glob("chunk-*"))) == 1


READER = """
import sys
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

run = RunFolder.open(sys.argv[1])
for _ in range(60):
    state, chunks = load_checkpoint(run)
    assert state["tensor"].tolist() == [state["n"]] * 5
print("read")
"""


def test_readers_see_whole_checkpoints_while_others_are_written(run):
    save_checkpoint(run, *generation(0), keep=1)
    reader = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", READER, str(run.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    n = 0
    while reader.poll() is None:
        n += 1
        save_checkpoint(run, *generation(n % 200), keep=1)
    out, err = reader.communicate()
    assert out == b"read\n", err.decode()
    assert n > 10


@pytest.mark.parametrize(
    "value", [{"$torch": "x"}, {"$new": 1}, {"$float": "a"}, {"$tuple": 3}, {"$float": "1", "b": 2}]
)
def test_a_structure_that_we_never_write_is_refused(value):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(value, {})
