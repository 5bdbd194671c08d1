"""The report of a compression: sizes worked by hand, ratios that mean something for negative returns, verdicts."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression.quantize import weight_only
from rlab.compression.quantized_layers import full_precision
from rlab.compression.report import _relative, compare, count_multiply_adds
from rlab.compression.visits import FIRST_VISIT_SEED
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.evaluation.stats import Interval
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.describe import with_network
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import StackedNetwork

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))


class Bent(nn.Softsign):
    """A layer of somebody else's."""

    def unstack(self, member):
        return self


def make_envs(n):
    return make_episodes(EnvSpec("CartPole-v1", max_episode_steps=40), n)


def make_policy(seeds=(3, 4), hidden=(16, 8)):
    network = actor_network_spec(CARTPOLE, 2, BodySettings(hidden, "tanh"), output_gain=1.0)
    spec = PolicySpec(CARTPOLE, Discrete(2), {"scaling": "none", "scale": None}, network, {"kind": "categorical"})
    return build_policy(spec, seeds)


@pytest.fixture(scope="module")
def rounded():
    """A policy, it in 8 bits, and the report."""
    parent = make_policy()
    child = with_network(parent, weight_only(parent.network, 8))
    return parent, child, compare(parent, child, make_envs, episodes=5)


def test_sizes_are_those_of_one_member(rounded):
    _parent, _child, report = rounded
    assert report.parent.parameters == report.child.parameters == 4 * 16 + 16 + 16 * 8 + 8 + 8 * 2 + 2
    assert report.parent.multiply_adds == report.child.multiply_adds == 4 * 16 + 16 * 8 + 8 * 2
    floats, integers = 4 * 234, 208 + 4 * (16 + 8 + 2) * 2  # weights; scales and biases
    assert floats < report.parent.weight_bytes < floats + 1000  # and a header
    assert integers < report.child.weight_bytes < integers + 1000
    assert [each.batch for each in report.child.latency] == [1, 64]
    assert all(0 < each.p50_us <= each.p99_us for each in (*report.parent.latency, *report.child.latency))
    assert report.parent.nonzero > 0.99


def test_decisions_are_timed_in_the_runtime_that_would_be_used_and_in_torch(rounded):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    _parent, _child, report = rounded
    text = report.summary()
    for side in (report.parent, report.child):
        assert side.runtime == "onnxruntime"
        assert [each.batch for each in side.runtime_latency] == [1, 64]
        assert all(0 < each.p50_us <= each.p99_us for each in side.runtime_latency)
    for words in ("onnxruntime, batch 1, p50 in us", "(runtime that would be used: onnxruntime)"):
        assert words in text
    assert f" {report.child.runtime_latency[1].p99_us:.1f} " in text


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnxruntime_the_runtime_is_torch_and_the_report_says_why(package, rounded, monkeypatch):
    pytest.importorskip("onnx")
    parent, child, _ = rounded
    monkeypatch.setitem(sys.modules, package, None)
    report = compare(parent, child, make_envs, episodes=5)
    for side in (report.parent, report.child):
        assert (side.runtime, side.runtime_latency) == (f"torch ({package} is not installed)", side.latency)
    text = report.summary()
    assert f"(runtime that would be used: torch ({package} is not installed))" in text
    assert "torch, batch 64, p99 in us" in text
    assert "onnxruntime, batch" not in text


def test_a_file_that_onnxruntime_cannot_run_leaves_the_report_in_torch(rounded, monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")

    def too_old(*given, **more):
        raise ort.capi.onnxruntime_pybind11_state.NotImplemented("opset 25")

    monkeypatch.setattr(ort, "InferenceSession", too_old)
    parent, child, _ = rounded
    report = compare(parent, child, make_envs, episodes=5)
    assert (report.child.runtime, report.child.runtime_latency) == (
        "torch (this onnxruntime cannot run the file)",
        report.child.latency,
    )


@pytest.mark.skipif(find_spec("onnxruntime") is None or find_spec("onnx") is None, reason="onnx is not installed")
def test_a_layer_that_onnx_cannot_express_stays_in_torch_and_is_named(rounded):
    parent, child, _ = rounded
    network = StackedNetwork(*parent.network, Bent())
    foreign = Policy(parent.spec, parent.preprocess, network, parent.seeds).eval()
    report = compare(foreign, child, make_envs, episodes=5)
    assert report.parent.runtime == "torch (rlab's ONNX cannot express the layer Bent)"
    assert (report.parent.runtime_latency, report.child.runtime) == (report.parent.latency, "onnxruntime")
    text = report.summary()
    assert "own runtime, batch 1, p50 in us" in text
    assert "(runtime that the parent would be used in: torch (rlab's ONNX cannot express the layer Bent))" in text
    assert "(runtime that the child would be used in: onnxruntime)" in text


def test_agreement_is_that_of_states_which_training_never_visits(rounded):
    parent, child, report = rounded
    seeds = []

    def noting(n):
        envs = make_envs(n)
        reset = envs.reset
        envs.reset = lambda given: (seeds.extend(given), reset(given))[1]
        return envs

    again = compare(parent, child, noting, episodes=5)
    assert again.agreement == report.agreement
    assert again.worst_output_error == report.worst_output_error
    assert all(0.9 < each <= 1.0 for each in report.agreement)
    assert all(0.0 < each < 0.1 for each in report.worst_output_error)
    visits = {seed for seed in seeds if seed >= FIRST_VISIT_SEED}
    assert set(range(100_000, 100_005)) == {seed for seed in seeds if seed < FIRST_VISIT_SEED}
    assert min(visits) == 400_000
    assert max(visits) < 500_000


def test_a_policy_compared_with_itself_loses_nothing():
    policy = make_policy(seeds=(3,))
    report = compare(policy, policy, make_envs, episodes=4)
    assert (report.ratio.estimate, report.ratio.low, report.ratio.high) == (1.0, 1.0, 1.0)
    assert (report.agreement, report.worst_output_error) == ((1.0,), (0.0,))
    assert report.parent.returns == report.child.returns
    assert report.success(1.0)
    assert not report.success(1.01)


def test_multiply_adds_on_numbers_worked_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 3 * 3, 7))
    # each of 3 x 3 places costs 2 * 2 * 3 for each of 5 channels
    assert count_multiply_adds(network, torch.zeros(1, 3, 6, 6)) == 9 * 12 * 5 + 45 * 7


def test_a_ratio_above_1_is_better_whatever_the_sign_of_returns():
    parent = np.array([[-100.0, -100.0]])
    worse, better = _relative(parent - 10.0, parent), _relative(parent + 10.0, parent)
    assert (worse.low, worse.estimate, worse.high) == pytest.approx((0.9, 0.9, 0.9))  # 1 + (-10) / 100
    assert better.estimate == pytest.approx(1.1)
    assert _relative(-parent * 0.5, -parent).estimate == pytest.approx(0.5)
    spread = _relative(np.array([[-80.0, -140.0]]), parent)
    # Gains of 0.2 and -0.4: -0.1 of standard error 0.3, and t of 1 degree of freedom.
    assert spread.low == pytest.approx(0.9 - 12.7062047362 * 0.3)
    assert spread.high == pytest.approx(0.9 + 12.7062047362 * 0.3)
    assert _relative(parent, np.array([[-1.0, 1.0]])) is None


def test_the_lower_end_of_the_interval_decides(rounded):
    _, _, report = rounded
    report = replace(report, ratio=Interval(0.99, 0.94, 1.0))
    assert not report.success(0.95)
    assert report.success(0.94)
    assert report.verdict(0.95) == "NOT a success: the lower end of the return ratio is 0.940, the bound 0.95"
    assert report.verdict(0.9) == "success: the lower end of the return ratio is 0.940, the bound 0.9"
    hardly_judged = replace(report, ratio=Interval(0.9, -0.9, 2.6))
    assert not hardly_judged.success(0.01)
    assert hardly_judged.verdict(0.0) == (
        "success: the lower end of the return ratio is -0.900, the bound 0, which takes any return"
    )
    unknown = replace(report, ratio=None, difference=Interval(-0.1, -0.2, 0.1))
    assert not unknown.success(0.0)
    assert "no ratio" in unknown.verdict(0.95)
    assert "ratio:" not in unknown.summary()
    gained = replace(unknown, difference=Interval(0.2, 0.1, 0.3))
    assert gained.verdict(0.95).startswith("success: no ratio")
    assert "nothing is shown" not in gained.verdict(0.95)


def test_no_loss_beside_a_parent_that_may_return_nothing_is_said_to_show_nothing(rounded):
    _, _, report = rounded
    equal = replace(report, ratio=None, difference=Interval(0.0, 0.0, 0.0))
    assert equal.success(0.95)
    assert equal.verdict(0.95) == (
        "success: the child loses nothing, but the parent's own mean return may be 0, so nothing is shown"
    )


def test_the_report_is_plain_data_and_lines_for_people(rounded):
    _, _, report = rounded
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["parent"]["parameters"] == 234
    assert told["seeds"] == [3, 4]
    assert set(told["ratio"]) == {"estimate", "low", "high", "level"}
    text = report.summary()
    assert told["child"]["runtime_latency"][1]["batch"] == told["child"]["latency"][1]["batch"] == 64
    for words in ("weights, bytes", "multiply-adds", "torch, batch 64, p99 in us", "greedy actions are the same"):
        assert words in text
    assert "not 0" not in text
    assert "not 0" in replace(report, child=replace(report.child, nonzero=0.2)).summary()
    assert text.splitlines()[0].split()[:4] == ["seed", "parent", "child", "agreement"]
    continuous = replace(report, measure="action_difference").summary()
    assert "differ by" in continuous
    assert continuous.splitlines()[0].split()[:4] == ["seed", "parent", "child", "difference"]
    assert len(continuous.splitlines()[0]) == len(continuous.splitlines()[1])


@pytest.mark.parametrize(
    ("parent", "child", "shown"),
    [
        ((0.2, 0.1875), (0.2, -9.5), [["0.200", "0.200"], ["0.188", "-9.500"]]),
        ((0.2, 9.0), (0.2, -10.0), [["0.2", "0.2"], ["9.0", "-10.0"]]),
    ],
)
def test_returns_that_are_all_small_have_three_decimals(rounded, parent, child, shown):
    _, _, report = rounded
    sides = {"parent": replace(report.parent, returns=parent), "child": replace(report.child, returns=child)}
    rows = replace(report, **sides).summary().splitlines()[1:3]
    assert [row.split()[1:3] for row in rows] == shown


def test_what_cannot_be_compared_is_refused(rounded):
    parent, child, _ = rounded
    with pytest.raises(UsageError, match="same members"):
        compare(parent, child.only(3), make_envs)
    with pytest.raises(UsageError, match="1 episodes of one member show no interval"):
        compare(parent.only(3), child.only(3), make_envs, episodes=1)


def test_a_rounded_network_in_float_has_the_parameters_of_its_parent(rounded):
    parent, child, _ = rounded
    counts = [sum(p.numel() for p in full_precision(policy.network).parameters()) for policy in (parent, child)]
    assert counts == [468, 468]
