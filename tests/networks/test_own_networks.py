"""Bodies that a function of the user's makes: as stacked layers, under vmap or one by one, members independent."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

import rlab
from rlab.errors import RlabError, UsageError
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.bodies import BodySettings, actor_network_spec, critic_like, q_network_spec
from rlab.networks.describe import spec_of
from rlab.networks.own import OwnBody, remembered, standing_in
from rlab.networks.own_bodies import Own
from rlab.networks.spaces import Box
from rlab.networks.spec import LayerSpec, NetworkSpec, build, draws_in_training
from rlab.networks.stacking import unstack

VECTOR = Box((4,), "float32", float("-inf"), float("inf"))
PIXELS = Box((9, 9, 2), "uint8", 0.0, 255.0)
SETTINGS = {"hidden": (8, 6), "gamma": 0.9}


class Sum(nn.Module):
    """Two linear layers side by side, with a constant that is not trained."""

    def __init__(self, inputs, width=5):
        super().__init__()
        self.left, self.right = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.register_buffer("shift", torch.rand(width))

    def forward(self, x):
        return torch.tanh(self.left(x)) + self.right(x) + self.shift


class Recurrent(nn.Module):
    """torch.vmap does not take a GRU."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 5, batch_first=True)

    def forward(self, x):
        return self.gru(x.unsqueeze(-1))[0][:, -1]


def own(function, space=VECTOR, **body):
    """The spec of Q values of three actions on top of what the function makes."""
    settings = BodySettings(own=Own(remembered(function, None), SETTINGS))
    return q_network_spec(space, 3, settings, **body)


def kinds(spec):
    return [layer.kind for layer in spec.layers]


def test_a_sequence_of_known_layers_becomes_stacked_layers_with_the_functions_own_weights():
    def body(shape, settings):
        first, second = nn.Linear(shape[0], settings.hidden[0]), nn.Linear(settings.hidden[0], settings.hidden[1])
        nn.init.orthogonal_(first.weight, 3.0)
        return nn.Sequential(first, nn.LayerNorm(8), nn.Tanh(), nn.Sequential(second, nn.Identity(), nn.ReLU()))

    spec = own(body)
    assert kinds(spec) == ["linear", "layer_norm", "tanh", "linear", "relu", "linear"]
    assert spec.layers[-1].args["in_features"] == 6
    network = build(spec, [3, 4], "q")
    first = network[0].weight  # [S, in, out], each column of length 3 and square to the others
    torch.testing.assert_close(first @ first.transpose(1, 2), 9.0 * torch.eye(4).expand(2, 4, 4), rtol=1e-4, atol=1e-4)
    again = build(spec, [4], "q")
    assert torch.equal(again[0].weight[0], first[1])  # from the seed and the use alone
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(build(spec, [3], "critic")[0].weight[0], first[0])
    critic = build(critic_like(spec), [3], "critic")
    torch.testing.assert_close(critic[0].weight[0].norm(), torch.tensor(6.0))  # drawn by the function too: 3 * sqrt(4)


def test_a_policy_of_known_layers_is_plain_data_and_needs_no_function():
    written = json.loads(json.dumps(own(lambda shape: nn.Sequential(nn.Linear(shape[0], 7), nn.GELU())).to_json()))
    assert kinds(NetworkSpec.from_json(written)) == ["linear", "gelu", "linear"]
    assert build(NetworkSpec.from_json(written), [0])(torch.zeros(1, 2, 4)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("function", "space", "one_by_one"),
    [
        (lambda shape: Sum(shape[0]), VECTOR, False),
        (lambda shape: Recurrent(), VECTOR, True),
        (lambda shape: nn.Sequential(nn.Conv2d(shape[0], 3, 3, padding=1), nn.ReLU()), PIXELS, False),
    ],
)
def test_other_modules_are_stacked_and_each_member_is_the_module_that_the_function_made(function, space, one_by_one):
    spec = own(function, space)
    network = build(spec, [3, 4, 5]).eval()
    body = network[0]
    assert isinstance(body, OwnBody)
    assert body.one_by_one is one_by_one
    assert all(parameter.shape[0] == 3 for parameter in network.parameters())
    x = torch.rand(3, 6, *((4,) if space is VECTOR else (2, 9, 9)), generator=torch.Generator().manual_seed(0))
    y = network(x)
    for member in range(3):
        alone = build(spec, [3 + member]).eval()
        plain = unstack(network, member)
        torch.testing.assert_close(alone(x[member : member + 1])[0], y[member], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain(x[member]), y[member], rtol=1e-5, atol=1e-5)
        assert type(plain[0]) is type(function((4,) if space is VECTOR else (2, 9, 9)))
    assert spec_of(network) == spec
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_members_of_other_modules_learn_alone_what_they_learn_together():
    spec = own(lambda shape: Sum(shape[0]))
    x = torch.rand(2, 8, 4, generator=torch.Generator().manual_seed(1))
    found = []
    for seeds, rows in (([3, 4], x), ([4], x[1:])):
        network = build(spec, seeds)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(rows).square().mean(dim=(1, 2)).sum().backward()
            optimizer.step()
        found.append(network(rows)[-1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_dropout_of_other_modules_draws_from_streams_of_each_member():
    def body(shape):
        return nn.Sequential(nn.Linear(shape[0], 64, bias=False), nn.Dropout(0.5))

    spec = own(body)
    assert kinds(spec)[0] == "own"  # a linear layer without a bias has no stacked counterpart
    x = torch.ones(2, 3, 4)
    before = torch.random.get_rng_state()
    together, alone = build(spec, [3, 4]).train()[:1], build(spec, [4]).train()[:1]
    assert draws_in_training(together)
    noisy = together(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(alone(x[1:])[0], noisy[1])
    assert 0.2 < (noisy == 0).float().mean() < 0.8
    assert (together.eval()(x) != 0).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda shape: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), r"has a BatchNorm1d, .*Use nn\.LayerNorm"),
        (lambda shape: nn.Sequential(nn.Linear(4, 8), BatchRenorm(8)), r"has a BatchRenorm, .*Use nn\.LayerNorm"),
        (lambda shape: nn.Linear(5, 8), r"does not take features \(4,\): RuntimeError"),
        (lambda shape: 7, r"returned a int; it must return a torch\.nn\.Module for one member, or a NetworkSpec"),
        (lambda shape, width: None, r"has the arguments shape, width; it can have obs_space, shape, settings"),
        (lambda settings: settings.nothing, r"failed: AttributeError"),
    ],
)
def test_what_cannot_be_a_body_is_refused_in_one_line(function, message):
    with pytest.raises(UsageError, match=message) as caught:
        own(function)
    assert "\n" not in str(caught.value)


def test_a_spec_has_batch_renormalisation_for_the_agent_that_keeps_its_statistics_alone(tmp_path):
    def body(shape):
        renorm = LayerSpec("batch_renorm", {"features": shape[0]})
        return NetworkSpec((renorm, LayerSpec("linear", {"in_features": shape[0], "out_features": 8})))

    tiny = {"env_steps": 8, "learning_starts": 4, "batch_size": 4, "final_eval_episodes": 0, "experiment": "none"}
    run = rlab.train("crossq", "Pendulum-v1", network=body, out=tmp_path / "run", **tiny)
    assert any(isinstance(layer, BatchRenorm) for layer in rlab.load(run.path, network=body).network.modules())
    for agent in ("sac", "dqn", "ppo"):
        with pytest.raises(UsageError, match=r"has a StackedBatchRenorm, .*Use nn\.LayerNorm"):
            rlab.train(agent, "Pendulum-v1" if agent == "sac" else "CartPole-v1", network=body, out=tmp_path / agent)
        assert not (tmp_path / agent).exists()


def test_rows_that_lean_on_each_other_and_idle_parameters_are_refused():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(dim=0))

    class Idle(Sum):
        def __init__(self):
            super().__init__(4)
            self.spare = nn.Linear(2, 2)

    with pytest.raises(UsageError, match="each row must be computed by itself"):
        own(lambda shape: Centred(4, 8))
    with pytest.raises(UsageError, match=r"parameters that its output does not depend on: spare\.weight"):
        own(lambda shape: Idle())


def test_a_function_may_give_a_spec_and_ask_for_what_it_likes():
    def stacked(obs_space, shape, settings):
        assert (obs_space, shape, settings.gamma) == (VECTOR, (4,), 0.9)
        return NetworkSpec((LayerSpec("linear", {"in_features": 4, "out_features": 9}), LayerSpec("relu")))

    assert own(stacked).layers[-1].args["in_features"] == 9
    assert kinds(own(lambda s: nn.Sequential(nn.Linear(s[0], 9)), dueling=True)) == ["linear", "dueling"]
    body = BodySettings(own=Own(remembered(stacked, None), SETTINGS))
    assert kinds(actor_network_spec(VECTOR, 4, body, log_std=-0.5)) == ["linear", "relu", "linear", "log_std"]


class Summed(nn.Module):
    """A stacked layer that loses its features."""

    def __init__(self, members):
        super().__init__()

    def forward(self, x):
        return x.sum(-1)


def test_a_spec_that_does_not_give_features_is_refused():
    with pytest.raises(
        UsageError, match=r"gave \(1, 3\) for 3 observations of one member; expected \[1, 3, features\]"
    ):
        own(lambda shape: NetworkSpec((LayerSpec(f"{__name__}:Summed"),)))


def test_functions_that_differ_only_in_what_they_hold_have_different_names_and_each_keeps_its_own():
    class Scaled(nn.Module):
        def __init__(self, shape, scale):
            super().__init__()
            self.layer, self.scale = nn.Linear(shape[0], 2), scale

        def forward(self, x):
            return self.layer(x) * self.scale

    class Maker:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, shape):
            return Scaled(shape, self.scale)

    def closed_over(scale):
        return lambda shape: Scaled(shape, scale)

    def with_default(scale):
        return lambda shape, scale=scale: Scaled(shape, scale)

    for kind in (lambda scale: partial(Scaled, scale=scale), Maker, closed_over, with_default):
        first, second = kind(1.0), kind(3.0)
        names = [remembered(first, None), remembered(second, None)]
        assert names[0] != names[1]
        assert remembered(first, None) == names[0]  # of one function always the same
        given = {"obs_space": VECTOR.to_json(), "shape": [4], "settings": {}}
        one, three = (build(NetworkSpec((LayerSpec("own", {"builder": n, "given": given}),)), [0]) for n in names)
        torch.testing.assert_close(three(torch.ones(1, 1, 4)), 3.0 * one(torch.ones(1, 1, 4)))


def test_a_module_of_others_needs_trust_and_a_function_of_another_process_is_asked_for():
    given = {"obs_space": VECTOR.to_json(), "shape": [4], "settings": {}}
    with pytest.raises(RlabError, match=r"layer 'torch\.nn:Identity' runs code from outside rlab; add --trust"):
        build(NetworkSpec((LayerSpec("own", {"builder": "torch.nn:Identity", "given": given}),)), [0])
    elsewhere = NetworkSpec((LayerSpec("own", {"builder": "local:body-00000000", "given": given}),))
    with pytest.raises(RlabError, match=r"the function 'body' of another process: give it again from Python"):
        build(elsewhere, [0])
    with standing_in(lambda shape: Sum(shape[0])):
        assert build(elsewhere, [0])(torch.zeros(1, 2, 4)).shape == (1, 2, 5)


class Of(nn.Module):
    """A module of these parts whose output is `says(self, x)`."""

    def __init__(self, says, **parts):
        super().__init__()
        self.says = says
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.says(self, x)


def twice():
    layer = nn.Linear(4, 4)
    return Of(lambda m, x: m.second(torch.tanh(m.first(x))), first=layer, second=layer)


def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    return Of(lambda m, x: m.second(torch.tanh(m.first(x))), first=first, second=second)


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return Of(lambda m, x: m.layer(x.unsqueeze(1))[:, 0], layer=layer)


def names_alike():
    return Of(
        lambda m, x: m.a(x) + getattr(m, "a-weight") + m.keys,
        **{"a": nn.Linear(4, 4), "a-weight": nn.Parameter(torch.rand(4)), "keys": nn.Parameter(torch.rand(4))},
    )


def looked_at():
    def says(module, x):
        module.last = module.a(x)
        return module.last

    return Of(says, a=nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("function", "one_by_one"),
    [
        (twice, False),
        (tied, False),
        (transformer, True),  # its fast way has no derivative under vmap
        (names_alike, False),
        (looked_at, False),
        (lambda: Of(lambda m, x: m.a(x), a=nn.LazyLinear(5)), False),
    ],
)
def test_a_natural_module_is_trained_copied_and_taken_out_of_the_stack(function, one_by_one):
    def body(settings):
        return function()

    network = build(own(body), [3, 4]).eval()
    assert network[0].one_by_one is one_by_one
    x = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        y = network(x)
        gradients = torch.autograd.grad(y.sum(), list(network.parameters()))
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
    for member in range(2):
        plain = unstack(network, member)
        torch.testing.assert_close(plain(x[member]), y[member], rtol=1e-5, atol=1e-5)
        assert len(list(plain.parameters())) == len(list(network.parameters()))  # a tie stays one
    torch.testing.assert_close(copy.deepcopy(network)(x), y)


def test_layers_that_draw_their_sizes_late_become_stacked_layers_as_others_do():
    spec = own(lambda settings: nn.Sequential(nn.LazyLinear(7), nn.ReLU()))
    assert [layer.args.get("in_features") for layer in spec.layers] == [4, None, 7]
    assert torch.equal(build(spec, [3, 4])[0].weight[1], build(spec, [4])[0].weight[0])


def test_dropout_as_a_function_draws_from_streams_of_each_member_too():
    spec = own(lambda s: Of(lambda m, x: nn.functional.dropout(m.a(x), 0.5, m.training), a=nn.Linear(4, 64)))
    together, alone = build(spec, [3, 4]).train()[:1], build(spec, [4]).train()[:1]
    assert draws_in_training(together)
    before = torch.random.get_rng_state()
    noisy = together(torch.ones(2, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(alone(torch.ones(1, 3, 4))[0], noisy[1])
    assert 0.2 < (noisy == 0).float().mean() < 0.8


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_modules_that_cannot_be_members_are_refused_before_training():
    def keeps(module, x):
        module.state = module.a(x) + getattr(module, "state", 0.0)
        return module.state

    def compiled(shape):
        return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))

    refused = [
        (compiled, r"was compiled with torch\.jit, and rlab cannot put weights of each member into it. Give the plain"),
        (
            lambda settings: Of(lambda m, x: m.a(x).half(), a=nn.Linear(4, 4)),
            r"gave numbers of torch\.float16; expected float32: end with \.float\(\)\.",
        ),
        (
            lambda settings: Of(keeps, a=nn.Linear(4, 4)),
            "gives other outputs at every call: it keeps a state, or draws random numbers outside training",
        ),
        (
            lambda settings: Of(lambda m, x: m.a(x), a=torch.nn.utils.weight_norm(nn.Linear(4, 4))),
            "cannot be copied: RuntimeError: Only Tensors created explicitly by the user",
        ),
        (lambda settings: nn.Sequential(nn.LazyConv2d(3, 3)), r"does not take features \(4,\): RuntimeError"),
    ]
    for function, message in refused:
        with pytest.raises(UsageError, match=message) as caught:
            build(own(function), [0, 1])
        assert "\n" not in str(caught.value)

    def only_when_judged(module, x):
        if module.training:
            raise ValueError("no training here")
        return module.a(x)

    with pytest.raises(UsageError, match="cannot be trained: ValueError: no training here"):
        build(own(lambda settings: Of(only_when_judged, a=nn.Linear(4, 4))), [0, 1])
