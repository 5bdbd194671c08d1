"""A member learns what it learns, whoever it learns beside.

Computed in double precision: the sums of a stack and of a single network may be taken in another order, and in float32
one ReLU that this puts on the other side of 0 changes a step by far more than the rounding did. Rounding of 2e-16, over
the at most 3136 terms of a unit and a few steps, stays under 1e-10 of a weight; what leaks would not.
"""

import pytest
import torch

from rlab.networks.preprocess import Preprocess
from rlab.networks.spec import build, draw_states, load_draw_states
from rlab.networks.stacking import unstack

SEEDS = (3, 4, 5)
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def batches(space, random_obs, steps):
    """Inputs `[S, B, ...]` and targets `[S, B, A]` for every step."""
    preprocess = Preprocess(space, "none", None, len(SEEDS))
    for step in range(steps):
        x = preprocess(random_obs(space, len(SEEDS), 8, seed=step))
        yield x.double(), torch.randn(len(SEEDS), 8, 3, generator=torch.Generator().manual_seed(step)).double()


def built(spec, seeds):
    return build(spec, seeds).double()


def train(network, data, make_optimizer):
    """A few steps on a loss that is averaged over the batch and summed over members."""
    optimizer = make_optimizer(network.parameters())
    for x, target in data:
        optimizer.zero_grad()
        (network(x) - target).square().mean(dim=(-2, -1)).sum().backward()
        optimizer.step()
    return network


@pytest.mark.parametrize(
    "make_optimizer",
    [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), lambda p: torch.optim.Adam(p, 1e-3, eps=1e-4)],
    ids=["sgd", "adam"],
)
def test_each_member_of_a_stack_learns_what_it_learns_alone(body, random_obs, make_optimizer):
    space, spec = body
    data = list(batches(space, random_obs, 4))
    together = train(built(spec, SEEDS), data, make_optimizer)
    fresh = built(spec, SEEDS)
    for i, seed in enumerate(SEEDS):
        alone = train(built(spec, [seed]), [(x[i : i + 1], y[i : i + 1]) for x, y in data], make_optimizer)
        for name, parameter in together.named_parameters():
            learned, start = alone.get_parameter(name)[0], fresh.get_parameter(name)[i]
            torch.testing.assert_close(parameter[i], learned, **CLOSE)
            assert not torch.equal(learned, start)  # or the test would be about nothing


def test_a_wild_neighbour_changes_nothing(body, random_obs):
    space, spec = body
    (x, target), *_ = batches(space, random_obs, 1)
    gradients = []
    for scale in (1.0, 1e6):
        network = built(spec, SEEDS)
        wild = target.clone()
        wild[0] *= scale
        train(network, [(x, wild)], lambda p: torch.optim.SGD(p, 0.0))
        gradients.append([parameter.grad for parameter in network.parameters()])
    for calm, stormy in zip(*gradients, strict=True):
        torch.testing.assert_close(calm[1:], stormy[1:], **CLOSE)


def test_a_plain_module_learns_what_the_stack_of_one_learns(body, random_obs):
    space, spec = body
    data = [(x[:1], y[:1]) for x, y in batches(space, random_obs, 3)]
    stacked = built(spec, SEEDS[:1]).eval()  # dropout off: a plain one draws from torch's own stream
    plain = unstack(stacked, 0)
    train(stacked, data, lambda p: torch.optim.SGD(p, 0.05))
    train(plain, [(x[0], y[0]) for x, y in data], lambda p: torch.optim.SGD(p, 0.05))
    for a, b in zip(unstack(stacked, 0).parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_training_goes_on_to_the_bit_after_the_random_streams_are_put_back(body, random_obs):
    space, spec = body
    data = list(batches(space, random_obs, 4))
    network = train(built(spec, SEEDS), data[:2], lambda p: torch.optim.SGD(p, 0.05))
    weights, streams = {k: v.clone() for k, v in network.state_dict().items()}, draw_states(network)
    train(network, data[2:], lambda p: torch.optim.SGD(p, 0.05))
    again = built(spec, SEEDS)
    again.load_state_dict(weights)
    load_draw_states(again, streams)
    train(again, data[2:], lambda p: torch.optim.SGD(p, 0.05))
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
