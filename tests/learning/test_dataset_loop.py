"""The loop without an env: held-out rows, early stopping, and a run that goes on to the bit where it was cut."""

import copy
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from rlab.errors import UsageError
from rlab.experience.examples import EpochSampler, Examples
from rlab.learning.base_loop import Periods
from rlab.learning.contract import Updated
from rlab.learning.dataset_loop import DRAWN_UPDATES, VALIDATED_ROWS, DatasetLoop, validation_metrics
from rlab.learning.early_stopping import EarlyStopping
from rlab.learning.supervised import SupervisedSettings
from rlab.learning.supervised_fit import History, make_loop
from rlab.networks.spec import LayerSpec, NetworkSpec
from rlab.runs.encoding import decode, encode

FAR = 10**9


class Scripted:
    """Its weight counts its updates; what it says of held-out rows is written beforehand, by update."""

    device = torch.device("cpu")

    def __init__(self, losses, members=2):
        self.config = SimpleNamespace(batch_size=3)
        self.network = nn.Module()
        self.network.weight = nn.Parameter(torch.zeros(members, 1), requires_grad=False)
        self.losses, self.adopted = losses, []

    optimizers: ClassVar[dict] = {}

    def prepare(self, batch):
        return dict(batch)

    def update(self, batch, now):
        self.network.weight += 1
        return Updated({"loss/nothing": torch.zeros(len(self.network.weight))})

    def validate(self, batch):
        return {"validation/loss": torch.tensor(self.losses[int(self.network.weight[0])])}

    def scheduled(self, clock):
        return {}

    def policy(self):
        return self.network

    def load_weights(self, tensors):
        self.adopted.append({name: tensor.clone() for name, tensor in tensors.items()})
        self.network.load_state_dict(tensors)

    def state(self):
        return {}


def numbers(rows, seeds=(3, 4)):
    return Examples(seeds, np.arange(rows, dtype=np.float32)[:, None], np.arange(rows, dtype=np.float32))


def shuffled(rows):
    return EpochSampler(numbers(rows), "dataset")


def scripted_loop(losses, updates, patience=None, log_every=1, **options):
    agent = Scripted(losses)
    stopping = EarlyStopping(2, patience)
    diary = History()
    options |= {"listeners": [diary, *options.get("listeners", [])], "early_stopping": stopping}
    periods, held_out = Periods(log_every, FAR, FAR), numbers(4).rows()
    loop = DatasetLoop(agent, (3, 4), shuffled(10), updates, periods, validation=held_out, **options)
    return loop, agent, diary


def test_a_held_out_loss_that_rises_sends_every_member_back_to_its_best_weights():
    losses = {1: [9.0, 9.0], 2: [3.0, 5.0], 3: [4.0, 4.0], 4: [5.0, 2.0], 5: [6.0, 3.0], 6: [7.0, 4.0], 7: [0.0, 0.0]}
    loop, agent, diary = scripted_loop(losses, updates=7, patience=2)
    assert loop.run()
    assert loop.updates == 6  # member 3 stopped at 4, member 4 at 6; update 7 would have been better for both
    assert agent.network.weight.tolist() == [[2.0], [4.0]]
    assert loop.early_stopping.best.reached_at.tolist() == [2, 4]
    assert [row["validation/loss"].tolist() for row in diary.rows] == [losses[i] for i in range(1, 7)]
    assert diary.rows[-1]["validation/best_loss"].tolist() == [3.0, 2.0]


def test_without_patience_the_budget_is_used_and_the_best_weights_are_kept():
    losses = {1: [1.0, 9.0], 2: [2.0, 8.0], 3: [3.0, 7.0]}
    loop, agent, _ = scripted_loop(losses, updates=3)
    loop.run()
    assert loop.updates == 3
    assert agent.network.weight.tolist() == [[1.0], [3.0]]


def test_the_last_update_is_judged_also_where_no_period_ends_there():
    loop, _, diary = scripted_loop({5: [1.0, 2.0], 7: [0.5, 3.0]}, updates=7, log_every=5)
    loop.run()
    assert [int(row["updates"]) for row in diary.rows] == [5, 7]
    assert loop.early_stopping.best.reached_at.tolist() == [7, 5]


def test_the_final_evaluation_and_the_save_see_the_best_weights():
    seen = []

    def evaluate():
        seen.append(loop.agent.network.weight.flatten().tolist())
        return SimpleNamespace(returns=np.zeros((2, 1)), lengths=np.ones((2, 1)))

    saves = History()
    saves.on_save = lambda now: seen.append(loop.agent.network.weight.flatten().tolist())
    losses = {1: [1.0, 9.0], 2: [2.0, 8.0]}
    loop, _, _ = scripted_loop(losses, updates=2, evaluate=evaluate, listeners=[saves])
    loop.run()
    assert seen == [[1.0, 2.0]] * 3  # saved, judged, and saved with what was judged


def test_a_run_that_is_interrupted_keeps_its_latest_weights():
    loop, agent, _ = scripted_loop({1: [1.0, 1.0], 2: [2.0, 2.0]}, updates=9, should_stop=lambda: loop.updates == 2)
    assert not loop.run()
    assert agent.adopted == []
    assert agent.network.weight.tolist() == [[2.0], [2.0]]


def test_rows_are_judged_in_parts_and_each_counts_once():
    rows = VALIDATED_ROWS * 2 + 100
    parts = []

    class Mean:
        device = torch.device("cpu")

        def prepare(self, batch):
            assert "weight" not in batch
            return batch

        def validate(self, batch):
            parts.append(batch["weight"].shape[1])
            weight = batch["weight"]
            return {"mean": (batch["target"] * weight).sum(dim=1) / weight.sum(dim=1)}

    some = numbers(rows).subset([np.arange(rows), np.arange(7)])  # the second member has no row in two of three parts
    assert validation_metrics(Mean(), some.rows())["mean"] == pytest.approx([(rows - 1) / 2, 3.0])
    assert parts == [VALIDATED_ROWS, VALIDATED_ROWS, 100]


def test_rows_without_a_weight_all_count():
    agent = Scripted({})
    rows = {"target": torch.zeros(2, 5)}
    loop = DatasetLoop(agent, (3, 4), shuffled(4), 1, Periods(FAR, FAR, FAR), validation=rows)
    assert loop.validation["weight"].tolist() == [[1.0] * 5] * 2


def without(name, method):
    """The class `Scripted` without one of its methods, under another name."""
    return type(name, (), {key: value for key, value in vars(Scripted).items() if key != method})


Blind, Stubborn = without("Blind", "validate"), without("Stubborn", "load_weights")


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        (Blind({}), {"validation": {"target": torch.zeros(2, 1)}}, "Blind has no validate(batch), so held-out rows"),
        (Scripted({}), {"early_stopping": EarlyStopping(2)}, "early stopping needs held-out rows; set a validation"),
        (
            Stubborn({}),
            {"early_stopping": EarlyStopping(2), "validation": {"target": torch.zeros(2, 1)}},
            "Stubborn has no load_weights(tensors): it cannot go back to its best weights",
        ),
        (
            Scripted({}),
            {"validation": {"target": torch.zeros(2, 1), "weight": torch.tensor([[1.0], [0.0]])}},
            "the member with seed 4 has no held-out row; raise the validation fraction.",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_before_anything_is_learned(agent, options, message):
    with pytest.raises(UsageError) as caught:
        DatasetLoop(agent, (3, 4), shuffled(4), 1, Periods(FAR, FAR, FAR), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_early_stopping_needs_the_loss_that_it_goes_by():
    loop, agent, _ = scripted_loop({}, updates=1)
    agent.validate = lambda batch: {"validation/accuracy": torch.ones(2)}
    with pytest.raises(UsageError, match="early stopping goes by validation/loss, which Scripted does not report"):
        loop.run()


SPEC = NetworkSpec(
    (
        LayerSpec("linear", {"in_features": 4, "out_features": 8}),
        LayerSpec("dropout", {"p": 0.3}),
        LayerSpec("relu"),
        LayerSpec("linear", {"in_features": 8, "out_features": 2}),
    )
)


def plain():
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)
    return nn.Sequential(*layers)


def learning_loop(kind, stop_at=None, **settings):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(50, 4)).astype(np.float32)
    examples = Examples((5,) if kind == "plain" else (5, 6, 7), inputs, (inputs[:, 0] > inputs[:, 1]).astype(int))
    chosen = {"batch_size": 16, "epochs": 20, "validation_fraction": 0.3, "augmentation": "noise:0.1", "patience": 9}
    history = History()
    loop = make_loop(
        plain() if kind == "plain" else SPEC,
        examples,
        SupervisedSettings(**(chosen | {"lr_schedule": "cosine", "learning_rate": 0.005} | settings)),
        [history],
        should_stop=lambda: loop.updates == stop_at,
    )
    return loop, history


@pytest.mark.parametrize("kind", ["stack", "plain"])
@pytest.mark.parametrize("stop_at", [1, 7, DRAWN_UPDATES - 1, DRAWN_UPDATES, DRAWN_UPDATES + 9])
def test_a_loop_that_is_loaded_from_its_state_learns_the_same_bits(kind, stop_at):
    whole, history = learning_loop(kind)
    assert whole.run()
    first, before = learning_loop(kind, stop_at)
    assert not first.run()
    value, tensors = encode(copy.deepcopy(first.state()))
    state = decode(value, {name: tensor.clone() for name, tensor in tensors.items()})
    torch.manual_seed(99)  # nothing may hang on torch's own stream
    second, after = learning_loop(kind)
    second.load_state(state)
    assert second.updates == stop_at
    assert second.run()
    assert second.updates == whole.updates > stop_at
    for name, tensor in whole.agent.policy().state_dict().items():
        assert torch.equal(second.agent.policy().state_dict()[name], tensor), name
    assert (second.early_stopping.best.reached_at == whole.early_stopping.best.reached_at).all()
    judged = [row["validation/loss"].tolist() for row in (*before.rows, *after.rows)]
    assert judged == [row["validation/loss"].tolist() for row in history.rows]


def test_a_run_in_which_all_have_stopped_stays_stopped():
    loop, _ = learning_loop("stack", patience=1, learning_rate=0.3)
    loop.run()
    assert loop.updates < loop.clock.total_env_steps
    again, _ = learning_loop("stack", patience=1, learning_rate=0.3)
    again.load_state(copy.deepcopy(loop.state()))
    assert again.finished
