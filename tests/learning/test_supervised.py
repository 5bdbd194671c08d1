"""The supervised learner and `fit`: any network, any labelled arrays, members that never mix."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.experience.examples import Examples
from rlab.learning.supervised import StackOfOne, Supervised, SupervisedSettings
from rlab.learning.supervised_fit import fit, fit_examples, make_loop
from rlab.networks.sequences import LastGRU
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack
from rlab.types import Clock


def mlp(inputs=2, outputs=2, hidden=16, dropout=0.0):
    middle = (LayerSpec("dropout", {"p": dropout}),) if dropout else ()
    first = LayerSpec("linear", {"in_features": inputs, "out_features": hidden})
    last = LayerSpec("linear", {"in_features": hidden, "out_features": outputs})
    return NetworkSpec((first, LayerSpec("tanh"), *middle, last))


def corners(rows=200):
    """Points in the plane whose label is whether their signs agree: no line parts them."""
    inputs = np.random.default_rng(1).uniform(-1, 1, size=(rows, 2)).astype(np.float32)
    return inputs, (inputs.prod(axis=1) > 0).astype(np.int64)


QUICK = SupervisedSettings(epochs=60, batch_size=32, learning_rate=0.03)


def test_a_stack_learns_what_no_line_can_tell_apart():
    found = fit(mlp(), *corners(), QUICK, seeds=(0, 1, 2))
    assert found.finished
    assert found.updates == 60 * 200 / 32
    accuracy = (found.outputs(corners()[0]).argmax(axis=-1) == corners()[1]).mean(axis=1)
    assert accuracy.shape == (3,)
    assert accuracy.min() > 0.95
    tags = {"loss/cross_entropy", "train/accuracy", "grad/norm", "optimizer/learning_rate", "train/epoch"}
    assert tags <= found.history[-1].keys()
    assert all(row[tag].shape in ((), (3,)) for row in found.history for tag in row)
    assert found.history[-1]["train/epoch"] == 60
    assert found.best_update.tolist() == [found.updates] * 3
    assert found.validation == {}


def test_any_plain_module_learns_and_is_the_one_that_was_given():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    found = fit(module, *corners(), QUICK)
    assert found.network is module
    assert not module.training
    with torch.no_grad():
        outputs = module(torch.from_numpy(corners()[0]))
    assert np.allclose(found.outputs(corners()[0])[0], outputs.numpy())
    assert (outputs.argmax(dim=-1).numpy() == corners()[1]).mean() > 0.9
    storages = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    assert len(storages) == len(list(module.parameters()))  # nothing is a view of the optimizer's any more


def test_numbers_are_learned_with_one_output_or_several():
    inputs = corners()[0]
    settings = SupervisedSettings(loss="squared", epochs=150, learning_rate=0.03, lr_schedule="cosine")
    one = fit(NetworkSpec(mlp(outputs=1).layers[-1:]), np.repeat(inputs, 8, axis=1), inputs.sum(axis=1), settings)
    assert one.judge(Examples((0,), np.repeat(inputs, 8, axis=1), inputs.sum(axis=1)))[
        "validation/absolute_error"
    ] == pytest.approx(0, abs=1e-2)
    both = fit(mlp(outputs=2), inputs, inputs[:, ::-1] ** 2, settings, validation=(inputs, inputs[:, ::-1] ** 2))
    assert both.validation["validation/absolute_error"] < 0.05


def test_the_best_weights_are_those_of_the_epoch_with_the_lowest_held_out_loss():
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(30, 8)).astype(np.float32), generator.integers(2, size=30)
    held_out = generator.normal(size=(200, 8)).astype(np.float32), generator.integers(2, size=200)
    settings = SupervisedSettings(epochs=40, batch_size=10, learning_rate=0.05, patience=5)
    found = fit(mlp(8), inputs, labels, settings, (0, 1), validation=held_out)  # noise: learning it by heart hurts
    losses = np.stack([row["validation/loss"] for row in found.history])
    updates = np.array([int(row["updates"]) for row in found.history])
    best = losses.argmin(axis=0)
    assert (losses[-1] > losses.min(axis=0) * 1.05).all()
    assert found.updates < 40 * 3
    assert found.best_update.tolist() == updates[best].tolist()
    np.testing.assert_allclose(found.validation["validation/loss"], losses.min(axis=0), rtol=1e-6)
    stop = _after(updates[best[0]])
    again = fit(mlp(8), inputs, labels, settings, (0, 1), validation=held_out, should_stop=stop)
    for a, b in zip(again.network.parameters(), found.network.parameters(), strict=True):
        assert torch.equal(a[0], b[0])


def _after(updates):
    count = iter(range(1, 10**9))
    return lambda: next(count) >= updates


def test_a_member_learns_what_it_learns_beside_any_others():
    settings = SupervisedSettings(
        epochs=5, learning_rate=0.03, augmentation="noise:0.1", validation_fraction=0.25, class_weights="balanced"
    )
    together = fit(mlp(dropout=0.2), *corners(), settings, seeds=(3, 4, 5))
    alone = fit(mlp(dropout=0.2), *corners(), settings, seeds=(4,))
    for a, b in zip(together.network.parameters(), alone.network.parameters(), strict=True):
        torch.testing.assert_close(a[1], b[0], atol=1e-5, rtol=1e-4)
    assert together.validation["validation/loss"][1] == pytest.approx(alone.validation["validation/loss"][0], rel=1e-4)
    for tag in ("loss/cross_entropy", "train/accuracy", "grad/norm", "validation/loss"):
        found, expected = ([row[tag][i] for row in fit.history] for i, fit in ((1, together), (0, alone)))
        assert found == pytest.approx(expected, rel=1e-3), tag


def test_a_stack_of_one_learns_what_the_plain_module_learns():
    settings = SupervisedSettings(epochs=5, learning_rate=0.03, label_smoothing=0.1, max_grad_norm=0.5)
    stacked = build(mlp(), (7,), "supervised")
    plain = fit(unstack(stacked, 0), *corners(), settings, seeds=(7,))
    learned = fit(stacked, *corners(), settings, seeds=(7,))
    assert np.allclose(plain.outputs(corners()[0]), learned.outputs(corners()[0]), atol=1e-5)


def test_noise_of_a_plain_module_comes_from_its_seed_and_leaves_torch_s_own_stream_alone():
    def outputs(seed, torch_seed):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2))
        torch.manual_seed(torch_seed)
        before = torch.get_rng_state()
        found = fit(module, *corners(), SupervisedSettings(epochs=2), seeds=(seed,)).outputs(corners()[0])
        assert torch.equal(torch.get_rng_state(), before)
        return found

    assert (outputs(0, 1) == outputs(0, 2)).all()
    assert (outputs(0, 1) != outputs(1, 1)).any()


def test_dropout_is_on_in_updates_and_off_elsewhere():
    seen = []
    layer = nn.Dropout(0.5)
    layer.register_forward_hook(lambda module, x, y: seen.append((module.training, bool((y == 0).any()))))
    module = nn.Sequential(layer, nn.Linear(2, 2))
    found = fit(module, *corners(40), SupervisedSettings(epochs=1, batch_size=40, validation_fraction=0.5))
    found.outputs(corners()[0])
    assert seen.count((True, True)) == found.updates == 1
    assert seen.count((False, False)) == len(seen) - 1


def test_nothing_is_augmented_but_the_inputs_of_updates():
    seen = []
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda module, x, y: seen.append((module.training, x[0].clone())))
    inputs, labels = corners(6)
    settings = SupervisedSettings(epochs=3, batch_size=6, augmentation="noise:0.5")
    fit(module, inputs, labels, settings, validation=(inputs, labels))
    rows = {tuple(row) for row in inputs.tolist()}
    for training, x in seen:
        same = [tuple(row) in rows for row in x.tolist()]
        assert any(same) != training
        assert all(same) != training


def test_balanced_weights_count_every_class_alike_over_each_member_s_own_rows():
    inputs, labels = np.zeros((6, 2), np.float32), np.array([0, 0, 0, 0, 0, 1])
    examples = Examples((0, 1), inputs, labels, rows=[np.arange(6), np.array([0, 5])])
    loop = make_loop(mlp(), examples, SupervisedSettings(class_weights="balanced"))
    expected = torch.tensor([[6 / (2 * 5), 6 / (2 * 1)], [1.0, 1.0]])
    torch.testing.assert_close(loop.agent.class_weights, expected)
    batch = {"input": torch.zeros(2, 6, 2), "target": torch.from_numpy(labels).expand(2, 6)}
    outputs = torch.zeros(2, 6, 2)
    losses = loop.agent._losses(outputs, loop.agent.prepare(batch)["target"])
    torch.testing.assert_close(losses[0], torch.log(torch.tensor(2.0)) * expected[0][torch.from_numpy(labels)])


def test_smoothing_reaches_the_loss_of_updates_and_of_held_out_rows():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.copy_(torch.tensor([1.0, 3.0]).log())
    learner = Supervised(module, SupervisedSettings(label_smoothing=0.2), (0,))
    batch = {"input": torch.zeros(1, 1, 2), "target": torch.ones(1, 1, dtype=torch.int64)}
    smoothed = -0.9 * np.log(0.75) - 0.1 * np.log(0.25)
    judged = learner.validate({**batch, "weight": torch.ones(1, 1)})
    assert judged["validation/loss"].tolist() == pytest.approx([smoothed])
    assert learner.update(batch, learner.scheduled(Clock(1, 2))).metrics[
        "loss/cross_entropy"
    ].tolist() == pytest.approx([smoothed])


def test_labels_of_every_token_are_learned_with_one_loss_a_row():
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Embedding(5, 8), LastGRU(8, 16, sequence=True), nn.Linear(16, 5))
    tokens = np.random.default_rng(0).integers(5, size=(100, 6))
    before = np.concatenate([np.zeros((100, 1), np.int64), tokens[:, :-1]], axis=1)  # the label is the token before
    settings = SupervisedSettings(epochs=60, learning_rate=0.03, class_weights="balanced")
    found = fit(reader, tokens, before, settings, validation=(tokens, before))
    assert found.outputs(tokens).shape == (1, 100, 6, 5)
    assert found.validation["validation/accuracy"] > 0.95


def test_a_schedule_and_the_clipping_reach_the_optimizer():
    schedule = {"lr_schedule": "linear", "lr_final": 0.5, "learning_rate": 0.1}
    settings = SupervisedSettings(**schedule, max_grad_norm=1e-3, optimizer="sgd")
    learner = Supervised(build(mlp(), (0,)), settings, (0,))
    before = [parameter.detach().clone() for parameter in learner.network.parameters()]
    batch = {"input": torch.ones(1, 4, 2), "target": torch.zeros(1, 4, dtype=torch.int64)}
    learner.update(batch, learner.scheduled(Clock(50, 100)))
    assert learner.optimizer.rates() == {"all": pytest.approx(0.075)}
    moved = sum((a - b).square().sum() for a, b in zip(learner.network.parameters(), before, strict=True)) ** 0.5
    assert moved.item() == pytest.approx(0.075 * 1e-3, rel=1e-2)


def test_a_stack_made_of_plain_modules_gets_random_streams_for_its_dropout():
    network = stack([unstack(build(mlp(dropout=0.5), (i,)), 0) for i in range(2)])
    assert fit(network, *corners(), SupervisedSettings(epochs=1), seeds=(0, 1)).updates == 4


def test_frozen_parameters_stay_as_they_are():
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    fit(module, *corners(), SupervisedSettings(epochs=2, optimizer="adamw", weight_decay=0.1))
    assert torch.equal(module[0].weight, before["0.weight"])
    assert not torch.equal(module[2].weight, before["2.weight"])


def test_a_stack_of_one_gives_its_tensors_with_the_seed_axis_and_takes_them_back():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    wrapped = StackOfOne(module, Draws((0,), "some use", "cpu"))
    tensors = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    assert tensors["0.weight"].shape == (1, 3, 2)
    assert tensors["1.num_batches_tracked"].shape == (1,)
    wrapped(torch.ones(1, 4, 2))
    assert module[1].num_batches_tracked == 1
    wrapped.load_state_dict(tensors)
    assert module[1].num_batches_tracked == 0


def test_weights_that_break_stop_the_fit_with_the_member_s_seed():
    inputs = np.full((4, 2), 1e30, np.float32)
    settings = SupervisedSettings(loss="squared", optimizer="sgd", learning_rate=1.0)
    with pytest.raises(RlabError, match="seed 7 is not finite"):
        fit(NetworkSpec(mlp(hidden=2, outputs=2).layers[-1:]), inputs, inputs, settings, seeds=(7,))


def test_more_rows_in_a_batch_than_there_are_means_all_of_them():
    found = fit_examples(mlp(), Examples((0,), *corners(10)), SupervisedSettings(epochs=3, batch_size=64))
    assert found.updates == 3
    assert len(found.history) == 3
