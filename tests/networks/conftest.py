"""What several tests of networks share: spaces, specs of every body, and policies with weights of their own."""

import pytest
import torch

from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete

VECTOR = Box((4,), "float32", float("-inf"), float("inf"))
SMALL = Box((10, 10, 3), "bool", 0.0, 1.0)
PIXELS = Box((84, 84, 4), "uint8", 0.0, 255.0)

BODIES = {
    "mlp": (VECTOR, BodySettings(hidden=(8, 6), activation="tanh"), False),
    "no hidden layer": (VECTOR, BodySettings(hidden=()), False),
    "layer norm": (VECTOR, BodySettings(hidden=(8, 6), layer_norm=True), False),
    "batch renorm": (VECTOR, BodySettings(hidden=(8, 6), batch_renorm=True), False),
    "dropout": (VECTOR, BodySettings(hidden=(8,), dropout=0.5), False),
    "dueling": (VECTOR, BodySettings(hidden=(8, 6), layer_norm=True), True),
    "small cnn": (SMALL, BodySettings(activation="silu"), True),
    "nature cnn": (PIXELS, BodySettings(hidden=(16,), init="orthogonal"), False),
}


def obs_of(space, *lead, seed=0):
    """Random observations `[*lead, *obs]` as a tensor."""
    generator = torch.Generator().manual_seed(seed)
    if space.dtype == "uint8":
        return torch.randint(256, (*lead, *space.shape), generator=generator, dtype=torch.uint8)
    if space.dtype == "bool":
        return torch.rand((*lead, *space.shape), generator=generator) < 0.5
    return torch.randn((*lead, *space.shape), generator=generator)


@pytest.fixture(scope="session")
def random_obs():
    return obs_of


@pytest.fixture(params=list(BODIES))
def body(request):
    """`(obs_space, network spec with 3 actions)` of each body in turn."""
    space, settings, dueling = BODIES[request.param]
    return space, q_network_spec(space, 3, settings, dueling)


@pytest.fixture(scope="session")
def make_policy():
    """`make_policy(seeds, ...)`: an MLP policy, each member with weights of its own."""

    def make(seeds=(5, 6, 7), space=VECTOR, scaling="none", scale=None, epsilon=0.25, dueling=False, **options):
        actions, body = options.get("actions", Discrete(3)), options.get("body", BodySettings(hidden=(8,)))
        network = q_network_spec(space, actions.n, body, dueling)
        preprocess = {"scaling": scaling, "scale": scale}
        return build_policy(PolicySpec(space, actions, preprocess, network, {"kind": "q", "epsilon": epsilon}), seeds)

    return make
