"""Which tensor holds NaN or infinity, and whose it is."""

import math

import pytest
import torch
from torch import nn

from rlab.errors import RlabError
from rlab.networks.finite import NotFinite, check_finite, first_not_finite


def test_the_first_tensor_and_its_first_row_are_named_and_integers_pass():
    tensors = {
        "whole": torch.ones(3, dtype=torch.int64),
        "fine": torch.tensor([1e38, -1e38]),
        "later": torch.tensor([[1.0, 2.0], [math.nan, 0.0], [math.inf, 0.0]]),
        "last": torch.tensor(math.nan),
    }
    assert first_not_finite(tensors) == NotFinite("later", 1)
    assert first_not_finite({"alone": tensors["last"]}) == NotFinite("alone", None)
    assert first_not_finite({name: tensors[name] for name in ("whole", "fine")}) is None
    assert first_not_finite({}) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_of_a_policy_is_named_with_its_member(make_policy, value):
    policy = make_policy()
    check_finite(policy, policy.seeds, "the policy cannot play")
    policy.network[0].bias.data[1, 0, 2] = value
    with pytest.raises(
        RlabError, match=r"^the policy cannot play: 'network\.0\.bias' of the member with seed 6 is NaN "
    ):
        check_finite(policy, policy.seeds, "the policy cannot play")
    alone = policy.member(6)
    with pytest.raises(RlabError, match=r"'network\.0\.bias' of the member with seed 6"):
        check_finite(alone, (6,), "the policy cannot play")


def test_running_statistics_are_looked_at(make_policy):
    policy = make_policy(scaling="running")
    policy.preprocess.mean[2, 0, 1] = math.inf
    with pytest.raises(RlabError, match=r"'preprocess\.mean' of the member with seed 7"):
        check_finite(policy, policy.seeds, "the policy cannot play")


class Attends(nn.Module):
    """A user's layer, with the mask that attention has."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))


def test_the_buffers_of_others_may_be_infinite_and_not_nan():
    module = nn.Sequential(Attends())
    check_finite(module, (0,), "it")
    module[0].mask[0] = math.nan
    with pytest.raises(RlabError, match=r"^it: '0\.mask'"):
        check_finite(module, (0,), "it")
    module[0].mask[0], module[0].weight.data[0] = 0.0, math.inf
    with pytest.raises(RlabError, match=r"^it: '0\.weight'"):
        check_finite(module, (0,), "it")
