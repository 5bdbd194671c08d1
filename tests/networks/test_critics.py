"""Networks of Q(s, a) and ensembles: what they see, and that members and networks are independent."""

import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.bodies import BodySettings, actor_network_spec, mlp_spec
from rlab.networks.critics import ActionValue, action_value_like, action_value_spec, build_ensemble
from rlab.networks.own import remembered
from rlab.networks.own_bodies import Own
from rlab.networks.spaces import Box
from rlab.networks.spec import NetworkSpec, build, load_members

VECTOR = Box((3,), "float32", -1.0, 1.0)
IMAGE = Box((6, 6, 2), "bool", 0.0, 1.0)


def sizes(spec: NetworkSpec) -> list[tuple[str, int | None, int | None]]:
    return [(layer.kind, layer.args.get("in_features"), layer.args.get("out_features")) for layer in spec.layers]


def test_an_mlp_has_its_hidden_layers_and_no_activation_behind_the_last() -> None:
    spec = mlp_spec(3, 2, BodySettings((8, 4), "tanh", dropout=0.5), output_gain=0.1)
    hidden = [("tanh", None, None), ("dropout", None, None)]
    assert sizes(spec) == [("linear", 3, 8), *hidden, ("linear", 8, 4), *hidden, ("linear", 4, 2)]
    assert spec.layers[-1].args["gain"] == 0.1
    assert sizes(mlp_spec(3, 2, BodySettings(()))) == [("linear", 3, 2)]
    assert sizes(mlp_spec(3, 2, BodySettings()))[0] == ("linear", 3, 64)
    with pytest.raises(UsageError, match="must all be 1 or more"):
        mlp_spec(3, 2, BodySettings((0,)))


def test_a_vector_and_its_action_enter_the_first_layer_together() -> None:
    spec = action_value_spec(VECTOR, 2, BodySettings((8,)))
    assert spec.body.layers == ()
    assert sizes(spec.top) == [("linear", 5, 8), ("relu", None, None), ("linear", 8, 1)]
    q = ActionValue(build(spec.body, [0, 1]), build(spec.top, [0, 1]))
    obs, action = torch.randn(2, 4, 3), torch.randn(2, 4, 2)
    assert torch.equal(q(obs, action), q.top(torch.cat([obs, action], dim=-1)))


def test_convolutions_see_the_image_and_the_layers_behind_them_also_the_action() -> None:
    spec = action_value_spec(IMAGE, 2, BodySettings((8,)))
    assert [layer.kind for layer in spec.body.layers] == ["conv2d", "relu", "flatten"]
    assert sizes(spec.top)[0] == ("linear", 16 * 4 * 4 + 2, 8)
    q = build_ensemble(spec, [0], "q", 2)
    assert q(torch.rand(1, 5, 2, 6, 6), torch.randn(1, 5, 2)).shape == (1, 2, 5, 1)


def test_behind_a_body_of_one_s_own_state_and_action_meet_in_a_hidden_layer() -> None:
    name = remembered(lambda shape: torch.nn.Linear(shape[0], 5), None)
    spec = action_value_spec(VECTOR, 2, BodySettings(own=Own(name, {})))
    assert sizes(spec.top) == [("linear", 7, 5), ("relu", None, None), ("linear", 5, 1)]


def test_a_critic_like_an_actor_has_its_layers_with_the_action_in_the_first() -> None:
    actor = actor_network_spec(VECTOR, 4, BodySettings((8, 6)), log_std=0.0)
    spec = action_value_like(actor, 2)
    assert [layer for layer in sizes(spec.top) if layer[0] == "linear"] == [
        ("linear", 5, 8),
        ("linear", 8, 6),
        ("linear", 6, 1),
    ]
    assert sizes(action_value_like(actor, outputs=4).top)[-1] == ("linear", 6, 4)


def test_the_networks_of_an_ensemble_differ_and_a_member_s_do_not_depend_on_the_others() -> None:
    spec = action_value_spec(VECTOR, 1, BodySettings((8,)))
    together, alone = build_ensemble(spec, [4, 7], "q", 3), build_ensemble(spec, [7], "q", 3)
    obs, action = torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    values = together(obs, action)
    assert values.shape == (2, 3, 5, 1)
    torch.testing.assert_close(values[1], alone(obs[1:], action[1:])[0])
    for c, network in enumerate(together):
        torch.testing.assert_close(values[:, c], network(obs, action))
    assert len(together) == 3
    assert not torch.allclose(values[:, 0], values[:, 1])
    assert not torch.allclose(values[0, 0], values[1, 0])
    twin = build_ensemble(spec, [0, 1], "target", 3)
    twin.load_state_dict(together.state_dict())
    assert torch.equal(twin(obs, action), values)


def test_a_plain_spec_may_be_an_ensemble_too() -> None:
    spec = mlp_spec(3, 2, BodySettings((4,)))
    ensemble = build_ensemble(spec, [0, 1], "value", 2)
    obs = torch.randn(2, 5, 3)
    assert torch.equal(ensemble(obs)[:, 1], build(spec, [0, 1], "value_2")(obs))


def test_one_network_of_an_ensemble_shares_its_weights_and_statistics_and_passes_gradients_on() -> None:
    ensemble = build_ensemble(mlp_spec(3, 1, BodySettings((4,), batch_renorm=True)), [0, 1], "q", 2)
    obs = torch.randn(2, 5, 3)
    values, one = ensemble(obs), ensemble[1](obs)
    torch.testing.assert_close(one, values[:, 1])
    weight = ensemble.network[1].weight
    (expected,) = torch.autograd.grad(values[:, 1].sum(), weight)
    (found,) = torch.autograd.grad(one.sum(), weight)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        ensemble[1][1].weight.zero_()
    assert weight.unflatten(0, (2, 2)).abs().sum(dim=(0, 2, 3)).gt(0).tolist() == [True, False]


def test_the_state_of_an_ensemble_leads_with_members_so_that_some_of_them_can_be_taken_over() -> None:
    spec = action_value_spec(VECTOR, 1, BodySettings((8,), batch_renorm=True))
    three, two = build_ensemble(spec, [4, 7, 9], "q", 2), build_ensemble(spec, [0, 1], "q", 2)
    with torch.no_grad():
        three.train()(torch.randn(3, 5, 3), torch.randn(3, 5, 1))
    assert {tensor.shape[:2] for tensor in three.state_dict().values()} == {(3, 2)}
    assert load_members(two, three.state_dict(), [2, 0]) is None
    obs, action = torch.randn(1, 5, 3).expand(3, -1, -1), torch.randn(1, 5, 1).expand(3, -1, -1)
    torch.testing.assert_close(two(obs[:2], action[:2]), three.eval()(obs, action)[[2, 0]])


def test_the_dropout_of_the_networks_of_an_ensemble_is_drawn_for_each_and_for_a_member_alone() -> None:
    spec = mlp_spec(3, 2, BodySettings((64,), dropout=0.5))
    together, alone = (build_ensemble(spec, seeds, "q", 2).train() for seeds in ([4, 7], [7]))
    obs = torch.randn(2, 5, 3)
    values = together(obs)
    torch.testing.assert_close(values[1], alone(obs[1:])[0])
    one = build(spec, [4, 7], "q_2").train()
    torch.testing.assert_close(one(obs), values[:, 1])  # each network draws what it would by itself


def test_an_optimizer_steps_an_ensemble_beside_other_networks_as_it_would_by_itself() -> None:
    seeds = [4, 7]
    ensembles = [build_ensemble(action_value_spec(VECTOR, 1, BodySettings((8,))), seeds, "q", 3) for _ in "ab"]
    others = [build(mlp_spec(3, 1, BodySettings((4,))), seeds) for _ in "ab"]
    settings = OptimizerSettings("adam", 0.01, max_grad_norm=0.5)
    both = StackedOptimizer(settings, [*ensembles[0].parameters(), *others[0].parameters()], members=2)
    optimizer = torch.optim.Adam([*ensembles[1].parameters(), *others[1].parameters()], 0.01)
    obs, action = torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    for _ in range(3):
        losses = [
            q(obs, action).square().mean(dim=(1, 2, 3)) + v(obs).square().mean(dim=(1, 2))
            for q, v in zip(ensembles, others, strict=True)
        ]
        norm = both.step(losses[0])
        optimizer.zero_grad()
        losses[1].sum().backward()
        for i in range(2):  # each member's gradient is clipped by its own norm
            mine = [p.grad[3 * i : 3 * i + 3] for p in ensembles[1].parameters()]
            mine += [p.grad[i] for p in others[1].parameters()]
            whole = torch.cat([g.flatten() for g in mine]).norm()
            assert norm[i].item() == pytest.approx(whole.item(), rel=1e-5)
            for grad in mine:
                grad.mul_((0.5 / (whole + 1e-6)).clamp(max=1.0))
        optimizer.step()
    for a, b in zip(
        [*ensembles[0].parameters(), *others[0].parameters()],
        [*ensembles[1].parameters(), *others[1].parameters()],
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert both.learning() == ("all",)
