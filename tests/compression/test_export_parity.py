"""Every file is checked against its member, judged like its member, and says where it comes from."""

import io
import pickle
import re
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlab.compression.export import member_file
from rlab.compression.export.member_file import export
from rlab.compression.export.metadata import Origin, weights_sha256
from rlab.compression.export.parity import Parity, check
from rlab.compression.export.runtimes import SUFFIXES, NumpyRunner, latency, open_exported
from rlab.compression.export.torch_export import load_program
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.networks.bodies import BodySettings
from rlab.networks.spaces import Box, Discrete, Masked, pack

FORMATS = [
    "numpy",
    "torch-export",
    pytest.param("c", marks=pytest.mark.skipif(which("gcc") is None, reason="gcc is not installed")),
    "onnx",
]
ORIGIN = Origin(agent="ppo", env={"id": "CartPole-v1", "kwargs": {"level": "maps/hard"}}, parent_sha256="ab" * 32)


@pytest.fixture(scope="module")
def plain(exports):
    """An MLP 4-37-20-3 and 1000 observations."""
    return exports.member(), exports.obs(exports.vector, 1000)


@pytest.fixture(scope="module", params=FORMATS)
def file(request, plain, tmp_path_factory):
    """The plain member as a file of each format in turn."""
    if request.param == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("file") / f"policy{SUFFIXES[request.param]}"
    export(*plain, request.param, path, origin=ORIGIN)
    return path


class Off(NumpyRunner):
    """A runtime that adds 0.5 to one output of one row, and 1 to the action of three rows."""

    def __init__(self, path):
        super().__init__(path)
        right = self.run

        def wrong(obs):
            action, outputs = right(obs)
            outputs[obs[:, 0] == 77.0, 1] += 0.5
            return action + (obs[:, 1] == 88.0), outputs

        self.run = wrong


def test_parity_counts_what_differs(plain, tmp_path):
    member, obs = plain
    path = export(member, obs, "numpy", tmp_path / "p.npz").path
    rows = np.array(obs)
    rows[13, 0], rows[[3, 500, 999], 1] = 77.0, 88.0
    parity = check(member, Off(path), rows)
    assert (parity.rows, parity.agreement, parity.rounding) == (1000, 0.997, 0.0)
    assert parity.largest_error == pytest.approx(0.5, abs=1e-5)
    assert parity.output_scale == pytest.approx(member.outputs(torch.from_numpy(rows)).abs().max().item())
    assert parity.failure is not None
    assert check(member, path, rows).failure is None


@pytest.mark.parametrize(
    ("error", "rounding", "agreement", "failure"),
    [
        (1.9e-5, 0.0, 1.0, None),  # outputs up to 2: 2e-5 is a hundred-thousandth of them
        (2.1e-5, 0.0, 1.0, "an output is 2.1e-05 off, and 2e-05 is allowed"),
        (0.0, 0.0, 0.998, r"0\.9980 of the actions are equal, and 0\.999 must be"),
        (0.01, 0.02, 0.99, None),  # rounding has moved outputs by 0.02
        (0.03, 0.02, 1.0, "an output is 0.03 off, and 0.02 is allowed"),
        (0.01, 0.02, 0.98, r"0\.9800 of the actions are equal, and 0\.99 must be"),
        (float("nan"), 0.0, 1.0, "an output is nan off"),
    ],
)
def test_what_counts_as_a_failure(error, rounding, agreement, failure):
    found = Parity(1000, error, 2.0, rounding, agreement).failure
    assert found is None if failure is None else re.match(failure, found)


def test_a_broken_writer_leaves_nothing_and_the_old_file_as_it_was(plain, tmp_path, monkeypatch):
    member, obs = plain
    path = export(member, obs, "numpy", tmp_path / "p.npz").path
    before, right = path.read_bytes(), member_file.WRITERS["numpy"]

    def one_weight_wrong(request):
        with np.load(io.BytesIO(right(request))) as stored:
            arrays = {name: np.array(stored[name]) for name in stored.files}
        arrays["constant_0"][0, 0] += 0.01
        content = io.BytesIO()
        np.savez(content, **arrays)
        return content.getvalue()

    monkeypatch.setitem(member_file.WRITERS, "numpy", one_weight_wrong)
    with pytest.raises(RlabError, match=r"the numpy file is not what was exported: .* Nothing was written\."):
        export(member, obs, "numpy", path)
    monkeypatch.setitem(member_file.WRITERS, "numpy", lambda request: right(request)[:1000])
    with pytest.raises(RlabError, match="is not a whole file of arrays"):
        export(member, obs, "numpy", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_requests_that_cannot_be_met_are_refused(plain, tmp_path):
    member, obs = plain
    with pytest.raises(UsageError, match=r"unknown format 'onxx'\. Did you mean 'onnx'\?"):
        export(member, obs, "onxx", tmp_path / "p.onnx")
    with pytest.raises(UsageError, match=r"format numpy is for names that end in \.npz, not for p\.onnx"):
        export(member, obs, "numpy", tmp_path / "p.onnx")
    with pytest.raises(UsageError, match=r"R 1000 or more, \*obs = \(4,\); not on \(999, 4\)"):
        export(member, obs[:999], "numpy", tmp_path / "p.npz")
    with pytest.raises(UsageError, match="not on 999"):
        check(member, tmp_path / "p.npz", obs[:999])
    with pytest.raises(RlabError, match=r"cannot write .*: No such file or directory"):
        export(member, obs, "numpy", tmp_path / "missing" / "p.npz")
    with pytest.raises(UsageError, match="unknown exporter 'mine'"):
        export(member, obs, "onnx", tmp_path / "p.onnx", exporter="mine")
    for name, because in (("p.zip", "is not named like an exported file"), ("p.npz", "is missing")):
        with pytest.raises(RlabError, match=because):
            open_exported(tmp_path / name)


def test_a_runner_takes_one_observation_a_batch_or_a_stack_of_one(file, plain):
    member, obs = plain
    runner = open_exported(file, trust=True)
    expected = member(obs[:6])
    assert runner(obs[:6]).tolist() == expected.tolist()
    assert runner(obs[None, :6]).tolist() == [expected.tolist()]
    assert runner(obs[0]) == expected[0]
    assert (runner(obs[0]).dtype, runner(obs[0]).shape) == (np.int64, ())
    assert runner(obs[:6].astype(np.float64)[:, ::-1][:, ::-1]).tolist() == expected.tolist()
    assert runner.outputs(obs[None, :6]).shape == (1, 6, 3)
    read_only = obs[:6].view()
    read_only.flags.writeable = False
    assert runner(read_only).tolist() == expected.tolist()
    for wrong in (obs[:2, :3], obs[None, None], np.stack([obs, obs])):
        with pytest.raises(UsageError, match=r"does not fit; expected \[\*obs\], \[B, \*obs\] or \[1, B, \*obs\]"):
            runner(wrong)


def test_a_file_tells_where_it_comes_from_and_nothing_of_the_machine(file, plain):
    member, _ = plain
    runner = open_exported(file, trust=True)
    told = runner.metadata
    assert (told["format"], told["agent"], told["training_seed"], told["head"]) == (1, "ppo", 6, {"kind": "q"})
    assert (told["parent_sha256"], told["quantized"], runner.env, runner.seeds) == ("ab" * 32, "none", ORIGIN.env, (6,))
    assert (runner.obs_space, runner.action_space) == (member.spec.obs_space, member.spec.action_space)
    assert told["inputs"] == {"obs": {"shape": [4], "dtype": "float32"}}
    assert told["outputs"] == {
        "action": {"shape": [], "dtype": "int64"},
        "outputs": {"shape": [3], "dtype": "float32"},
    }
    content = file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for place in {Path.home(), Path.cwd(), file.parent, Path(member_file.__file__).parent}:
        assert len(str(place)) < 2 or str(place).encode() not in content
    assert not re.search(rb"\.py\b|site-packages|tmp-", content)


def test_a_path_of_this_machine_among_the_env_s_arguments_is_refused(plain, tmp_path):
    for path in ("/somewhere/map.xml", r"C:\maps\map.xml", "~/map.xml"):
        origin = Origin(env={"id": "Maze-v0", "kwargs": {"files": [path]}})
        with pytest.raises(UsageError, match="a path of this machine, which an exported file must not hold"):
            export(*plain, "numpy", tmp_path / "p.npz", origin=origin)
    assert list(tmp_path.iterdir()) == []


def test_without_a_parent_the_checksum_is_that_of_the_member_s_tensors(plain, exports, tmp_path):
    member, obs = plain
    path = export(member, obs, "numpy", tmp_path / "p.npz").path
    assert open_exported(path).metadata["parent_sha256"] == weights_sha256(member) == weights_sha256(exports.member())
    other = exports.member()
    with torch.no_grad():
        other.network[0].bias[3] += 1e-6
    assert weights_sha256(other) != weights_sha256(member)


def test_what_a_mask_forbids_is_never_chosen(exports, tmp_path):
    """The network says 1, 2, 3 whatever it sees; the mask stands behind the observation."""
    member = exports.member(space=Masked(Box((1,), "float32", 0.0, 1.0), 3), body=BodySettings(hidden=()))
    with torch.no_grad():
        member.network[0].weight.zero_()
        member.network[0].bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    obs = exports.obs(member.spec.obs_space, 1000)
    masks = np.array([[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    for format, suffix in SUFFIXES.items():
        if (format == "c" and which("gcc") is None) or (format == "onnx" and find_spec("onnxruntime") is None):
            continue
        runner = open_exported(export(member, obs, format, tmp_path / f"p{suffix}").path, trust=True)
        assert runner(masks).tolist() == [1, 0, -1, 1]  # the largest, counted from -1; no mask allows all
        packed = pack(member.spec.obs_space, np.array([0.5], np.float32), np.array([1, 0, 0]))
        assert runner(packed) == -1


class Countdown:
    """Envs that end after `seed % 4 + 1` steps and pay the action; observations are drawn from the seed."""

    time_limit = None

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self, seeds):
        self.left = np.array(seeds) % 4 + 1
        self.streams = [np.random.default_rng(seed) for seed in seeds]
        return self._obs()

    def step(self, action, active):
        self.left = self.left - active
        over = self.left == 0
        return self._obs(), np.where(active, action, 0.0).astype(np.float32), over, np.zeros_like(over)

    def close(self):
        pass

    def _obs(self):
        return np.stack([stream.normal(size=4) for stream in self.streams]).astype(np.float32)


def test_a_file_is_judged_by_the_protocol_of_its_member(file, plain):
    class Stack:
        seeds = (6,)

        def __call__(self, obs):
            return plain[0](obs[0])[None]

    judged = evaluate(open_exported(file, trust=True), Countdown, 20, 100, max_envs=8)
    expected = evaluate(Stack(), Countdown, 20, 100, max_envs=8)
    assert judged.seeds == (6,)
    assert judged.returns.tolist() == expected.returns.tolist()


def test_members_of_every_kind_go_through_torch_export(fourth_case, tmp_path):
    member, obs = fourth_case
    done = export(member, obs, "torch-export", tmp_path / "p.pt2")
    assert (done.writer, done.parity.agreement) == ("torch.export", 1.0)
    assert done.parity.relative_error < 1e-6


class Marks:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pt2_can_run_code_and_so_needs_trust(plain, tmp_path):
    """torch.export.load unpickles a weight wherever the file says so."""
    path, hostile, mark = (
        export(*plain, "torch-export", tmp_path / "p.pt2").path,
        tmp_path / "bad.pt2",
        tmp_path / "mark",
    )
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            target.writestr(name, pickle.dumps(Marks(mark)) if name.endswith("weight_0") else content)
    with pytest.raises(UsageError, match=r"bad\.pt2 can run code when it is opened"):
        open_exported(hostile)
    assert not mark.exists()
    with pytest.raises(RlabError, match=r"is not a complete \.pt2 file of this torch"):
        open_exported(hostile, trust=True)
    assert mark.exists()


def test_latency_is_measured_in_turn_for_each_batch_size(plain, monkeypatch):
    _, obs = plain
    called, clock = [], [0]
    monkeypatch.setattr("rlab.compression.export.runtimes.time.perf_counter_ns", lambda: clock[0])

    def runner(name, nanoseconds_a_row):
        def run(batch):
            called.append((name, len(batch)))
            clock[0] += nanoseconds_a_row * len(batch) * (100 if len(called) == 3 else 1)  # one call that is slow

        return run

    found = latency({"slow": runner("slow", 200_000), "quick": runner("quick", 1000)}, obs[:64], (1, 8), repeats=10)
    assert [(row.batch, row.p50_us) for row in found["slow"]] == [(1, 200.0), (8, 1600.0)]
    assert [(row.batch, row.p50_us) for row in found["quick"]] == [(1, 1.0), (8, 8.0)]
    # Of 64 times the 99th percentile lies at place 0.99 * 63 = 62.37, between the last usual one and the slow one.
    assert found["slow"][0].p99_us == pytest.approx(200 + 0.37 * (20_000 - 200))
    assert found["slow"][1].p99_us == 1600.0
    order = [name for name, size in called if size == 8]
    assert order == (["slow"] * 9 + ["quick"] * 9) * 2  # 8 batches of 8 and one to warm up, twice for 10 repeats
    with pytest.raises(UsageError, match="5 observations are too few for a batch of 8"):
        latency({}, obs[:5], (1, 8))


def test_actions_of_the_member_without_hidden_layers_are_worked_by_hand(exports, tmp_path):
    """Q = [x, 2 - x]: action 0 from x = 1 up, where both are equal and the first counts."""
    member = exports.member(Box((1,), "float32", -9.0, 9.0), Discrete(2), BodySettings(hidden=()))
    with torch.no_grad():
        member.network[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        member.network[0].bias.copy_(torch.tensor([0.0, 2.0]))
    runner = open_exported(export(member, np.ones((1000, 1), np.float32), "numpy", tmp_path / "p.npz").path)
    x = np.array([[0.0], [1.0], [3.0]], np.float32)
    assert runner(x).tolist() == [1, 0, 0]
    assert runner.outputs(x).tolist() == [[0.0, 2.0], [1.0, 1.0], [3.0, -1.0]]


def test_a_warning_of_torch_about_its_own_buffers_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(content: object) -> SimpleNamespace:
        warnings.warn("The given buffer is not writable", UserWarning, stacklevel=1)
        return SimpleNamespace(module=lambda: "the function")

    monkeypatch.setattr(torch.export, "load", load)
    (tmp_path / "policy.pt2").write_bytes(b"content")
    assert load_program(tmp_path / "policy.pt2") == "the function"
