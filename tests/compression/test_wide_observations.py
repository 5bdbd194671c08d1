"""Numbers that float32 does not hold: running scaling tells them apart in training, in the policy and in every file."""

import numpy as np
import pytest
import torch

from rlab.compression.export.member_file import export
from rlab.compression.export.runtimes import open_exported
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Dict, Discrete, Masked, pack

INF = float("inf")
SECONDS = 1_700_000_000 + np.arange(100)  # float32 has 2 different numbers for these
LINEAR = BodySettings(hidden=())
SPACES = {
    "float64": Box((1,), "float64", -INF, INF),
    "int32": Box((1,), "int32", -(2.0**31), 2.0**31 - 1),
    "int64": Box((1,), "int64", 0.0, 2.0**40),
    "beside others": Dict((("gear", Discrete(3)), ("time", Box((1,), "float64", -INF, INF)))),
    "masked": Masked(Box((1,), "int64", 0.0, 2.0**40), 2),
}


def rows_of(space):
    """The 100 observations `[100, *obs]` in array form."""
    if isinstance(space, Dict):
        return np.stack([pack(space, {"gear": 1, "time": [float(second)]}) for second in SECONDS])
    return np.stack([pack(space, [second]) for second in SECONDS])


@pytest.mark.parametrize("name", SPACES)
def test_every_one_of_100_seconds_is_a_feature_of_its_own_and_the_right_one(name):
    """Their mean is 49.5 s after the first, their variance (100^2 - 1) / 12 s^2."""
    preprocess, rows = Preprocess(SPACES[name], "running", None, 1), rows_of(SPACES[name])
    preprocess.observe(rows[None], np.ones((1, 100), bool))
    found = preprocess(torch.from_numpy(rows)[None])[0, :, -1]
    assert found.dtype == torch.float32
    expected = ((np.arange(100) - 49.5) / np.sqrt(9999 / 12 + 1e-8)).astype(np.float32)
    assert len(found.unique()) == 100
    np.testing.assert_allclose(found.numpy(), expected, rtol=3e-7)  # two roundings of float32, and that of the square


@pytest.fixture(scope="module", params=SPACES)
def member(request):
    """A linear policy, its statistics those of the 100 seconds."""
    space = SPACES[request.param]
    network = q_network_spec(space, 2, LINEAR)
    policy = build_policy(PolicySpec(space, Discrete(2), {"scaling": "running", "scale": None}, network), [0])
    policy.preprocess.observe(rows_of(space)[None], np.ones((1, 100), bool))
    with torch.no_grad():
        policy.network[0].weight.copy_(torch.tensor([-1.0, 1.0]).expand_as(policy.network[0].weight))
        policy.network[0].bias.zero_()
    return policy.member()


def test_a_linear_policy_sees_each_second_later_than_the_one_before(member):
    rows = rows_of(member.spec.obs_space)
    outputs = member.outputs(torch.from_numpy(rows)).detach()
    assert len(outputs[:, 1].unique()) == 100
    margin = (outputs[:, 1] - outputs[:, 0]).numpy()
    assert np.all(np.diff(margin) > 0)


@pytest.mark.parametrize("format", ["onnx", "numpy", "c", "torch-export"])
def test_a_file_tells_the_seconds_apart_as_its_member_does(format, member, tmp_path):
    suffix = {"onnx": ".onnx", "numpy": ".npz", "c": ".h", "torch-export": ".pt2"}[format]
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    rows = rows_of(member.spec.obs_space)
    path = export(member, np.repeat(rows, 10, axis=0), format, tmp_path / f"p{suffix}").path
    found = open_exported(path, trust=True).run(rows)[1]
    expected = member.outputs(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert len(np.unique(found[:, 1])) == 100
