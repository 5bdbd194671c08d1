"""Policies with memory are compressed: states in the order of their episodes, each policy with a state of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rlab
from rlab.compression.agreement import agreement, outputs_of
from rlab.compression.distil import DistilSettings, distil, retrain, student_spec
from rlab.compression.linear_units import LinearUnit, opened
from rlab.compression.report import count_multiply_adds
from rlab.compression.search import Candidate, candidates, heads_of, hidden_widths
from rlab.compression.sequences import Visits, lanes
from rlab.compression.steps import check_parent, compress, parse_steps
from rlab.compression.trials import Trials
from rlab.compression.visits import visits
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.networks import memory
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.describe import with_network
from rlab.networks.memory_bodies import KINDS, MemorySettings
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spec import LayerSpec, NetworkSpec
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import save_policy

CUE = EnvSpec("rlab/ProbeMemory-v0", {"delay": 4})  # episodes of 5 steps
QUICK = DistilSettings(rounds=2, rows=100, updates=100, batch_size=64, sequence_length=4)
TINY = replace(QUICK, rows=40, updates=8, batch_size=16)


@pytest.fixture(autouse=True)
def few_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlab.compression.steps.FEATURE_ROWS", 100)
    monkeypatch.setattr("rlab.compression.report.STATES", 200)
    monkeypatch.setattr("rlab.jobs.compress.DistilSettings", lambda **asked: replace(TINY, **asked))


def make_envs(n: int):
    return make_episodes(CUE, n)


def policy_with(kind: str, hidden: tuple[int, ...] = (2,), size: int = 4, seeds: tuple[int, ...] = (3, 4)) -> Policy:
    envs = make_envs(1)
    body = BodySettings(hidden, "relu", memory=MemorySettings(kind, size, 6))
    spaces = envs.obs_space, envs.action_space
    envs.close()
    preprocess, head = {"scaling": "none", "scale": None}, {"kind": "q", "epsilon": 0.1}
    return build_policy(PolicySpec(*spaces, preprocess, q_network_spec(spaces[0], 2, body), head), seeds)


def cue_teacher() -> Policy:
    """Units that take over the sign of the first number that is not 0, and keep it."""
    policy = policy_with("gru")
    first, unit, last = (policy.network[i] for i in (0, 2, 3))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.zero_()
        first.weight[:, 0] = torch.tensor([1.0, -1.0])  # behind the relu: how far above 0, how far below
        unit.bias_ih[:, :, 4:8] = 6.0  # keep the state
        unit.weight_ih[:, :, 4:8] = -12.0  # but not where a cue is
        unit.weight_ih[:, 0, 8:], unit.weight_ih[:, 1, 8:] = 3.0, -3.0
        last.weight[:, :, 0], last.weight[:, :, 1] = -0.25, 0.25
    return policy


def random_policy(kind: str) -> Policy:
    """Its weights are large, so that memory decides."""
    policy = policy_with(kind, (8,), 8)
    for parameter in policy.network.parameters():
        parameter.data *= 2.0
    return policy


def apart(one: Policy, other: Policy) -> float:
    """How far the advantages of the second action are from each other, in units of their deviation."""
    states = visits(one, make_envs, 200, 400_000)
    ours, theirs = (said[..., 1] - said[..., 0] for said in (outputs_of(one, states), outputs_of(other, states)))
    return ((ours - theirs).abs().mean(dim=1) / ours.std(dim=1)).max().item()


def test_visits_of_a_policy_with_memory_are_whole_episodes_in_their_order() -> None:
    found = visits(cue_teacher(), make_envs, 63, sampled=0.5)
    assert found.obs.shape == (2, 63, 1)
    assert torch.equal(found.begins, found.obs[..., 0] != 0.0)  # a cue is seen at the beginning, and nothing after it
    assert found.begins[0].nonzero().flatten().tolist() == list(range(0, 63, 5))
    assert set(found.obs[0, ::5, 0].tolist()) == {-1.0, 1.0}
    sample = visits(cue_teacher(), make_envs, 63, in_order=False)
    assert sample.begins.all()
    alone = visits(cue_teacher().only(4), make_envs, 63, sampled=0.5)
    assert torch.equal(alone.obs[0], found.obs[1])


def test_lanes_begin_with_episodes_and_have_every_row() -> None:
    begins = torch.zeros(2, 9, dtype=torch.bool)
    begins[0, [0, 2, 6]] = begins[1, [0, 3, 6]] = True  # episodes of 2, 4 and 3 rows; three of 3
    rows = lanes(begins)
    assert rows.tolist() == [
        [[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 0]],
        [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 0]],
    ]
    assert lanes(torch.ones(1, 3, dtype=torch.bool)).tolist() == [[[0], [1], [2]]]
    whole = torch.zeros(1, 5, dtype=torch.bool)
    whole[0, 0] = True
    assert lanes(whole).tolist() == [[[0, 1, 2, 3, 4]]]


def test_agreement_of_two_steps_on_numbers_worked_by_hand() -> None:
    ours, theirs = cue_teacher(), cue_teacher()
    theirs.network[2].bias_ih.data[:, :, 4:8] = -200.0  # forgets at once, what it sees is its state
    obs = torch.tensor([1.0, 0.0, -1.0, 0.0]).reshape(1, 4, 1).repeat(2, 1, 1)
    states = Visits(obs, torch.tensor([[True, False, True, False]]).repeat(2, 1))
    said = [outputs_of(policy, states)[0] for policy in (ours, theirs)]
    # n = tanh(3), z = sigmoid(-6) at the cue; then z = sigmoid(6) and n = 0; the four units are alike, in quarters
    cue = (1 - 1 / (1 + np.exp(6.0))) * np.tanh(3.0)
    kept = cue / (1 + np.exp(-6.0))
    signs = torch.tensor([[-1.0, 1.0]])
    expected = torch.tensor([cue, kept, -cue, -kept]).unsqueeze(1).float() * signs
    torch.testing.assert_close(said[0], expected)
    torch.testing.assert_close(said[1], np.tanh(3.0) * torch.tensor([[-1.0, 1.0], [0, 0], [1.0, -1.0], [0, 0]]))
    # where nothing is known both values are 0 and the first action is taken: equal behind the cue of -1 alone
    assert agreement(said[0], said[1], ours.head).value.item() == 0.75


def test_a_student_that_is_its_teacher_stays_so_in_stretches_of_one_step() -> None:
    """The state goes from one stretch to the next: with an empty one the cue would be lost, and the student changed."""
    teacher, student = cue_teacher(), cue_teacher()
    retrain(student, teacher, make_envs, replace(QUICK, sequence_length=1, optimizer="sgd", learning_rate=0.1))
    states = visits(teacher, make_envs, 100, 400_000)
    torch.testing.assert_close(outputs_of(student, states), outputs_of(teacher, states), atol=1e-4, rtol=0.0)


def test_a_student_with_half_the_units_still_answers_the_cue() -> None:
    student = distil(cue_teacher(), (2,), make_envs, QUICK)
    assert [layer.kind for layer in student.spec.network.layers] == ["gru", "linear"]
    assert evaluate(student, make_envs, 20, 100_000).returns.tolist() == [[1.0] * 20] * 2


@pytest.mark.parametrize(("kind", "answers"), [("lstm", True), ("transformer", True), ("none", False)])
def test_a_student_of_another_kind_learns_what_can_be_learned_with_its_memory(kind: str, answers: bool) -> None:
    obs_space = cue_teacher().spec.obs_space
    body = BodySettings((4,), "relu", memory=None if kind == "none" else MemorySettings(kind, 4, 6))
    student = distil(cue_teacher(), q_network_spec(obs_space, 2, body), make_envs, replace(QUICK, updates=150))
    right = evaluate(student, make_envs, 20, 100_000).returns == 1.0
    assert right.all() if answers else right.mean() < 0.8  # without memory as many as there are of one cue


@pytest.mark.parametrize("steps", ["fp16", "lowrank:2", "sparse:0.5", "static8", "distil:8x4,int8"])
def test_a_step_keeps_the_answers_to_the_cue(steps: str) -> None:
    small = compress(cue_teacher(), steps, make_envs, QUICK if steps[0] in "dls" else TINY)
    assert (evaluate(small, make_envs, 20, 100_000).returns == 1.0).all()


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("gru", "qat4"), ("lstm", "int8"), ("lstm", "dynamic8"), ("transformer", "int8"), ("gru", "bf16")],
)
def test_weights_of_every_memory_are_rounded_and_the_policy_acts_as_before(kind: str, steps: str) -> None:
    parent = random_policy(kind)
    small = compress(parent, steps, make_envs, TINY)
    names = dict(small.network.named_modules())
    rounded = [name for name, layer in names.items() if hasattr(layer, "load_dense")]
    inside = ("query", "key", "value", "place", "output") if kind == "transformer" else ("inputs", "hidden")
    assert {f"{2 if kind != 'transformer' else 3}.{name}.0" for name in inside} <= set(rounded)
    assert not any(isinstance(layer, nn.Linear) for layer in names.values())
    assert apart(parent, small) < 0.15  # 0.08 at most; 0.5 and more where they answer one episode with another's


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_an_opened_unit_says_what_the_whole_one_says(kind: str) -> None:
    network = random_policy(kind).network
    x, begins = torch.randn(2, 3 * 7, 1), torch.rand(2, 3, 7) < 0.3
    state = {name: torch.randn(2, 3, 8) for name in memory.initial_state(network, 3)}
    whole, last = memory.unroll(network, x, state, begins)
    found, after = memory.unroll(opened(network), x, state, begins)
    torch.testing.assert_close(found, whole)
    plain = [opened(unstack(network, i)) for i in range(2)]
    steps = stack([opened(each) for each in plain])
    assert any(isinstance(layer, LinearUnit) for layer in steps)
    for member, each in enumerate(plain):
        alone = {name: value[member] for name, value in state.items()}
        said, _ = memory.unroll(each, x[member], alone, begins[member])  # one step after another
        torch.testing.assert_close(said, whole[member])
    for name, value in memory.unroll(steps, x, state, begins)[1].items():
        torch.testing.assert_close(value, last[name])
        torch.testing.assert_close(after[name], last[name])


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden": [{"kind": "relu"}]},
        {"cell": "rnn"},
        {"size": 5},
        {"hidden": [{"kind": "dropout", "p": 0.1}]},
        {"inputs": 3},
    ],
)
def test_a_file_whose_unit_does_not_fit_together_is_refused_in_one_line(changed: dict[str, Any]) -> None:
    parent = policy_with("gru")
    spec = with_network(parent, opened(parent.network)).spec.to_json()
    assert build_policy(PolicySpec.from_json(spec), (3,)).has_memory
    (unit,) = (layer for layer in spec["network"]["layers"] if layer["kind"] == "linear_unit")
    unit.update(changed)
    with pytest.raises(RlabError, match="the policy's spec cannot be built"):
        build_policy(PolicySpec.from_json(spec), (3,))


def test_multiply_adds_of_memory_on_numbers_worked_by_hand() -> None:
    gru, lstm = (policy_with(kind, (5,), 4).member().network for kind in ("gru", "lstm"))
    assert count_multiply_adds(gru, torch.zeros(1, 1)) == 5 + 3 * 4 * (5 + 4) + 4 * 2
    assert count_multiply_adds(lstm, torch.zeros(1, 1)) == 5 + 4 * 4 * (5 + 4) + 4 * 2
    attention = policy_with("transformer", (5,), 4).member().network
    # the query and the output of one step, key and value of the six in the window; twice 4 behind them
    assert count_multiply_adds(attention, torch.zeros(1, 1)) == 5 + 5 * 4 + 16 * (2 + 2 * 6) + 2 * 4 * 8 + 4 * 2


def test_a_candidate_of_a_search_takes_what_it_was_expected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlab.compression.trials.STATES", 50)
    parent = policy_with("transformer", (5,), 8)
    widths = hidden_widths(parent.spec.network)
    assert (widths, heads_of(parent.spec.network)) == ((5, 8), 4)
    assert [each.widths for each in candidates((20, 24), last=4)][::16] == [
        (w, w - w % 4) for w in (4, 6, 8, 12, 16)
    ] + [None]
    trials = Trials(parent, make_envs, TINY, episodes=2)
    for candidate in (Candidate((5, 4)), Candidate(None, word="int8")):
        expected = trials.expected([candidate], timed=False)[candidate]
        assert trials.screened(candidate).size.weight_bytes == expected.weight_bytes


def test_the_last_width_of_a_student_is_its_memory_s() -> None:
    for kind in KINDS:
        spec = student_spec(policy_with(kind).spec, (6, 8)).network
        assert spec == q_network_spec(
            make_envs(1).obs_space, 2, BodySettings((6,), "relu", memory=MemorySettings(kind, 8, 6))
        )
    small = compress(cue_teacher(), "int8", make_envs, TINY)
    assert student_spec(small.spec, (3,)).network.layers[0].args["hidden"] == 3


@pytest.mark.parametrize(
    ("kind", "steps", "words"),
    [
        ("gru", "int8", None),
        (
            "lstm",
            "prune:0.5",
            r"prune:0.5 cannot be done: no neuron of the layer with memory 2 \(StackedLSTM\) can go by",
        ),
        ("transformer", "distil:8,prune:0.5,int8", r"memory 3 \(Attention\) can go by itself; steps for policies with"),
        ("transformer", "distil:6", "memory_size 6 of a transformer must be a multiple of its 4 heads"),
    ],
)
def test_what_memory_does_not_take_says_so_in_one_line(kind: str, steps: str, words: str | None) -> None:
    if words is None:
        check_parent(policy_with(kind), parse_steps(steps))
        return
    with pytest.raises(UsageError, match=words):
        check_parent(policy_with(kind), parse_steps(steps))


class Total(nn.Module):
    """A memory of the user's own: what a row has read so far, in all."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def settings(self) -> dict[str, Any]:
        return {}

    def initial_state(self, rows: int) -> memory.State:
        return {"total": torch.zeros(self.members, rows, 1)}

    def step(self, x: torch.Tensor, state: memory.State) -> tuple[torch.Tensor, memory.State]:
        total = state["total"] + x
        return total, {"total": total}

    def unroll(self, x: torch.Tensor, state: memory.State, begins: torch.Tensor) -> tuple[torch.Tensor, memory.State]:
        outputs = []
        for now, begin in zip(x.unbind(2), begins.unbind(2), strict=True):
            y, state = self.step(now, memory.reset(state, self.initial_state(x.shape[1]), begin))
            outputs.append(y)
        return torch.stack(outputs, dim=2), state


def test_beside_a_memory_of_the_user_s_own_layers_are_rounded_and_a_student_needs_a_spec() -> None:
    envs = make_envs(1)
    linear = LayerSpec("linear", {"in_features": 1, "out_features": 2})
    network = NetworkSpec((LayerSpec(f"{__name__}:Total"), linear))
    spec = PolicySpec(envs.obs_space, envs.action_space, {"scaling": "none", "scale": None}, network)
    parent = build_policy(spec, (3, 4), trust=True)
    with torch.no_grad():
        parent.network[1].weight.copy_(torch.tensor([[-1.0, 1.0]]))
        parent.network[1].bias.zero_()
    small = compress(parent, "int8", make_envs, TINY)
    assert evaluate(small, make_envs, 20, 100_000).returns.tolist() == [[1.0] * 20] * 2
    with pytest.raises(
        UsageError, match="this policy remembers by a layer of your own, and students made of widths by"
    ):
        check_parent(parent, parse_steps("distil:8"))
    student = distil(parent, network, make_envs, replace(QUICK, updates=150))
    assert evaluate(student, make_envs, 20, 100_000).returns.tolist() == [[1.0] * 20] * 2


@pytest.mark.parametrize("format", ["numpy", "onnx"])
def test_a_compressed_policy_with_memory_is_saved_judged_and_exported(format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    save_policy(tmp_path / "parent", cue_teacher(), {"agent": "dqn", "env": CUE.to_json()})
    done = rlab.compress(tmp_path / "parent", "int8", out=tmp_path / "small", episodes=10, updates=4, envs=20)
    assert done.report.child.weight_bytes < done.report.parent.weight_bytes + 300  # small as it is, names weigh more
    assert done.report.agreement == (1.0, 1.0)
    assert done.success
    judged = rlab.evaluate(done, episodes=5)
    file = rlab.export(done, format, member=4, out=tmp_path / f"small.{'npz' if format == 'numpy' else format}")
    assert file.exported.parity.failure is None
    assert rlab.evaluate(file.path, episodes=5).returns.tolist() == judged.returns[1:].tolist() == [[1.0] * 5]
