"""What the tests of exported files share: members of every kind of space, head and body, and observations for them."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from rlab.compression.neuron_pruning import hidden_layers
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.heads import build_head, stochastic_head_json
from rlab.networks.policy import MemberPolicy, PolicySpec, build_policy
from rlab.networks.spaces import (
    Box,
    Dict,
    Discrete,
    Masked,
    MultiBinary,
    MultiDiscrete,
    Tuple,
    leaves,
)

VECTOR = Box((4,), "float32", float("-inf"), float("inf"))
BITS = Box((6, 6, 2), "bool", 0.0, 1.0)
PIXELS = Box((8, 9, 3), "uint8", 0.0, 255.0)
PARTS = Dict(
    (
        ("place", Box((2,), "float32", -2.0, 4.0)),
        ("kind", Discrete(4, start=2)),
        ("pair", MultiDiscrete((3, 2), (0, -1), (2,))),
        ("bits", MultiBinary((3,))),
        ("small image", Box((2, 2, 1), "uint8", 0.0, 255.0)),
    )
)
SCENE = Dict(
    (
        ("speed", Box((2,), "float32", -float("inf"), float("inf"))),
        ("front", Box((7, 8, 2), "uint8", 0.0, 255.0)),
        ("gear", Discrete(3)),
        ("back", Box((1, 5, 6), "uint8", 0.0, 16.0)),
        ("load", Box((1,), "float32", 0.0, 9.0)),
    )
)
SINCE = Tuple((Discrete(3), Box((2,), "float64", 0.0, float("inf")), Box((4, 3, 1), "uint8", 0.0, 9.0), Discrete(2)))
THREE = Discrete(3, start=-1)
CHOICES = MultiDiscrete((3, 2), (0, 1), (2,))
ARM = Box((2,), "float32", (-2.0, -1.0), (1.0, 3.0))
HIDDEN = BodySettings(hidden=(37, 20))  # no multiple of anything that a kernel likes

# name -> how its member is made
CASES = {
    **{
        f"{name} and layer norm": {"body": BodySettings(hidden=(37, 20), activation=name, layer_norm=True)}
        for name in ("relu", "tanh", "elu", "gelu", "silu", "leaky_relu")
    },
    "batch renormalisation": {"body": BodySettings(hidden=(37, 20), batch_renorm=True)},
    "no hidden layer": {"body": BodySettings(hidden=())},
    "dueling, running": {"dueling": True, "scaling": "running"},
    "dropout, fixed": {
        "space": Box((3,), "float32", -5.0, 5.0),
        "scaling": "fixed",
        "body": BodySettings((9,), dropout=0.5),
    },
    "image of bits, dueling": {"space": BITS, "dueling": True, "body": BodySettings(hidden=(9,), activation="silu")},
    "pixels": {"space": PIXELS, "body": BodySettings(hidden=(9,), activation="elu")},
    "channels first, bounds of 4": {"space": Box((2, 7, 6), "uint8", 0.0, 4.0), "body": BodySettings(hidden=(9,))},
    "pixels in floats": {"space": Box((5, 6, 2), "float32", 0.0, 1.0), "body": BodySettings(hidden=(9,))},
    "images beside numbers, running": {"space": SCENE, "scaling": "running", "dueling": True},
    "one integer": {"space": Discrete(5, start=-2)},
    "bytes": {"space": MultiDiscrete((3, 4), (0, 2), (2,))},
    "parts, running": {"space": PARTS, "scaling": "running"},
    "tuple of integers": {"space": Tuple((Discrete(3), Discrete(300, start=-7)))},
    "float64 observations": {"space": Box((2, 3), "float64", -1.0, 1.0), "scaling": "running"},
    "seconds since 1970, running": {"space": SINCE, "scaling": "running"},
    "large integers, running": {"space": Box((3,), "int64", -(2.0**40), 2.0**40), "scaling": "running"},
    "masked": {"space": Masked(PARTS, 3), "head": "actor"},
    "masked image and choices": {"space": Masked(PIXELS, 5), "actions": CHOICES, "head": "actor"},
    "masked q values": {"space": Masked(VECTOR, 3)},
    "choices in two dimensions": {"actions": MultiDiscrete((3, 2, 4, 2), (0, 1, -1, 0), (2, 2)), "head": "actor"},
    "one choice": {"actions": MultiDiscrete((3,), (1,), (1,)), "head": "actor"},
    "bernoulli": {"actions": MultiBinary((2, 2)), "head": "actor"},
    "gaussian": {"actions": ARM, "head": "actor", "log_std": -0.5},
    "gaussian, float64, one bound": {
        "actions": Box((2, 1), "float64", (-2.0, -1.0), (1.0, float("inf"))),
        "head": "actor",
        "log_std": 0.0,
    },
    "squashed gaussian": {"actions": ARM, "head": "actor", "squash": True},
    "deterministic": {"actions": ARM, "head": {"kind": "deterministic"}},
    "atoms": {"value": {"kind": "categorical_value", "atoms": 5, "low": -1.0, "high": 1.0}},
    "atoms, dueling": {"value": {"kind": "categorical_value", "atoms": 5, "low": 0.0, "high": 2.0}, "dueling": True},
    "implicit quantiles": {"value": {"kind": "implicit_quantile", "points": 6}},
    "masked implicit quantiles, dueling": {
        "space": Masked(VECTOR, 3),
        "value": {"kind": "implicit_quantile", "points": 3},
        "dueling": True,
        "body": BodySettings((9, 7), "tanh", layer_norm=True),
    },
    "masked quantiles": {"space": Masked(VECTOR, 3), "head": {"kind": "quantile", "quantiles": 5}},
}


def make_member(space=VECTOR, actions=THREE, body=HIDDEN, head="q", scaling="none", **more):
    """A member with random weights, biases and statistics."""
    if head == "q":
        head = more.get("value", {"kind": "q"})
        implicit = {"cosines": 7, "samples": 2, "points": head["points"]} if "points" in head else None
        dueling, per_action = more.get("dueling", False), build_head(head, actions).per_action
        network = q_network_spec(space, actions.n, body, dueling, per_action, implicit)
    else:
        head = stochastic_head_json(actions, more.get("squash", False)) if head == "actor" else head
        width = build_head(head, actions).width
        network = actor_network_spec(space, width, body, output_gain=1.0, log_std=more.get("log_std"))
    spec = PolicySpec(space, actions, {"scaling": scaling, "scale": None}, network, head)
    policy = build_policy(spec, (5, 6, 7))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in policy.named_parameters():
            if "bias" in name or (tensor.dim() == 3 and tensor.shape[1] == 1):  # layer norms too
                tensor += torch.rand(tensor.shape, generator=generator) - 0.5
        for tensor in policy.network.buffers():  # statistics of batches
            if tensor.is_floating_point():
                tensor += torch.rand(tensor.shape, generator=generator)
    obs = torch.from_numpy(np.stack([make_obs(space, 50, seed) for seed in range(3)]))
    policy.preprocess.observe(obs, torch.ones(3, 50, dtype=torch.bool))
    return policy.member(6)


def make_obs(space, rows, seed=0):
    """Observations `[rows, *obs]` in array form; about every tenth mask allows nothing."""
    rng = np.random.default_rng(seed)
    parts = [_leaf(leaf, rows, rng) for leaf in leaves(space)]
    if isinstance(space, Masked):
        parts[-1][rng.random(rows) < 0.1] = 0
    if isinstance(space, Dict | Tuple | Masked):
        return np.concatenate([part.reshape(rows, -1).astype(space.dtype) for part in parts], axis=1)
    return parts[0]


def _leaf(leaf, rows, rng):
    shape = (rows, *leaf.shape)
    if isinstance(leaf, Box) and leaf.dtype in ("uint8", "bool"):
        return rng.integers(0, int(np.max(leaf.high)) + 1, shape).astype(leaf.dtype)
    if isinstance(leaf, Box):
        return rng.normal(size=shape).astype(leaf.dtype)
    if isinstance(leaf, Discrete):
        return rng.integers(leaf.start, leaf.start + leaf.n, shape)
    if isinstance(leaf, MultiDiscrete):
        return (np.array(leaf.start) + rng.integers(0, leaf.nvec, (rows, len(leaf.nvec)))).reshape(shape)
    return rng.integers(0, 2, shape).astype(np.int8)


def with_network(member, network):
    """The member with another network."""
    return MemberPolicy(member.spec, member.preprocess, network, member.seed).eval()


@pytest.fixture(scope="session")
def exports():
    """The helpers above, by name."""
    return SimpleNamespace(
        cases=CASES, vector=VECTOR, pixels=PIXELS, member=make_member, obs=make_obs, with_network=with_network
    )


def member_and_obs(name):
    """A member of that kind, and 1000 observations for it."""
    member = make_member(**CASES[name])
    return member, make_obs(member.spec.obs_space, 1000)


@pytest.fixture(scope="session", params=list(CASES))
def case(request):
    """A member of each kind in turn, and its observations."""
    return member_and_obs(request.param)


def each_day(every):
    """One kind in so many, and all of them in `make prove`."""
    return [pytest.param(name, marks=pytest.mark.prove if at % every else ()) for at, name in enumerate(CASES)]


@pytest.fixture(scope="session", params=each_day(2))
def second_case(request):
    """As `case`, for what takes a compiler's time for each kind: of every second one every day."""
    return member_and_obs(request.param)


@pytest.fixture(scope="session", params=each_day(4))
def fourth_case(request):
    """As `case`, for what knows nothing of kinds: of every fourth one every day."""
    return member_and_obs(request.param)


class MaskedLayerNorm(nn.Module):
    """A LayerNorm over the elements of the last axis where `keep` is true; the others are 0."""

    def __init__(self, norm, keep):
        super().__init__()
        self.weight, self.bias, self.eps, self.keep = norm.weight, norm.bias, norm.eps, keep

    def forward(self, x):
        y = torch.zeros_like(x)
        kept = int(self.keep.sum())
        weight, bias = self.weight[self.keep], self.bias[self.keep]
        y[..., self.keep] = functional.layer_norm(x[..., self.keep], (kept,), weight, bias, self.eps)
        return y


@torch.no_grad()
def masked_copy(network, masks):
    """A copy of full size in which the neurons that `masks` does not keep are 0 for all that read them."""
    whole = copy.deepcopy(network)
    for layer in hidden_layers(network):
        if layer.name not in masks:
            continue
        keep = masks[layer.name]
        for name in layer.norms:
            path, _, child = name.rpartition(".")
            norm = whole.get_submodule(name)
            if not isinstance(norm, nn.LayerNorm):
                continue  # it works on each neuron by itself
            each = keep.repeat_interleave(norm.weight.shape[-1] // len(keep))
            setattr(whole.get_submodule(path), child, MaskedLayerNorm(norm, each))
        for name in layer.readers:
            weight = whole.get_submodule(name).weight
            weight[:, ~keep.repeat_interleave(weight.shape[1] // len(keep))] = 0.0
    return whole


@pytest.fixture(scope="session")
def masked():
    """`masked_copy`, what pruned networks are held against."""
    return masked_copy
