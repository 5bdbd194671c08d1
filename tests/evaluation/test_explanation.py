"""Explanations of policies: of every head, with memory and masks, tested by deletion, drawn as maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.evaluation.explanation.deletion import NOT_SHOWN, SHOWN, TOO_FEW, WORSE, deletions
from rlab.evaluation.explanation.explain import GRADIENTS, SHAPLEY, Counts, Explanation, explain
from rlab.evaluation.explanation.figures import shown_parts
from rlab.evaluation.explanation.gradients import NODES, gradients_of, integrated_gradients, saliency
from rlab.evaluation.explanation.maps import CELLS
from rlab.evaluation.explanation.page import Facts, page
from rlab.evaluation.explanation.players import players_of
from rlab.evaluation.explanation.strip import strip_of
from rlab.evaluation.explanation.target import target_of
from rlab.evaluation.explanation.watching import visit
from rlab.evaluation.stats import Interval
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.heads import build_head
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import MemberPolicy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete, Masked, MultiBinary, MultiDiscrete, Space

OBS = Box((4,), "float32", -np.inf, np.inf)
BODY = BodySettings((8,), "tanh")
FEW = Counts(states=12, background=4, orders=8)
HEADS: dict[str, tuple[dict[str, Any], Space]] = {
    "q": ({"kind": "q"}, Discrete(3)),
    "categorical_value": ({"kind": "categorical_value", "atoms": 5, "low": -1.0, "high": 4.0}, Discrete(3)),
    "implicit_quantile": ({"kind": "implicit_quantile", "points": 6}, Discrete(3)),
    "quantile": ({"kind": "quantile", "quantiles": 4}, Discrete(3, 1)),
    "categorical": ({"kind": "categorical"}, Discrete(3)),
    "multi_categorical": ({"kind": "multi_categorical"}, MultiDiscrete((2, 3), (0, 1), (2,))),
    "bernoulli": ({"kind": "bernoulli"}, MultiBinary((2,))),
    "gaussian": ({"kind": "gaussian"}, Box((2,), "float32", -2.0, 2.0)),
    "squashed_gaussian": ({"kind": "squashed_gaussian"}, Box((1,), "float32", -2.0, 2.0)),
    "deterministic": ({"kind": "deterministic"}, Box((2,), "float32", -2.0, 2.0)),
}


class Walks:
    """Episodes of 20 steps of noise that no action changes. With a `mask` the last action is never allowed."""

    time_limit = 20

    def __init__(self, num_envs: int, space: Space = OBS) -> None:
        self.num_envs, self.obs_space = num_envs, space

    def reset(self, seeds: Any) -> np.ndarray:
        self.rngs, self.t = [np.random.default_rng(seed) for seed in seeds], 0
        return self._obs()

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, ...]:
        self.t += 1
        ended = np.full(self.num_envs, self.t == 20)
        return self._obs(), np.full(self.num_envs, 0.5), np.zeros_like(ended), ended

    def close(self) -> None:
        pass

    def _obs(self) -> np.ndarray:
        rows = np.stack([rng.normal(size=4) for rng in self.rngs]).astype(np.float32)
        if isinstance(self.obs_space, Masked):
            size = self.obs_space.size
            bits = np.tile(np.arange(size) < size - 1, (self.num_envs, 1))
            rows = np.concatenate([rows, bits.astype(np.float32)], axis=1)
        return rows


def policy_of(kind: str, obs: Space = OBS, body: BodySettings = BODY) -> MemberPolicy:
    head, actions = HEADS[kind]
    if kind == "implicit_quantile":
        network = q_network_spec(obs, 3, body, implicit={"cosines": 8, "samples": 4, "points": 6})
    else:
        network = actor_network_spec(obs, build_head(head, actions).width, body, output_gain=1.0)
    spec = PolicySpec(obs, actions, {"scaling": "none", "scale": None}, network, head)
    return build_policy(spec, [3]).member()


def explained(policy: MemberPolicy, counts: Counts = FEW, axes: Sequence[str] = ()) -> Explanation:
    space, target = policy.spec.obs_space, target_of(policy.head)

    def make(n: int) -> Any:
        envs = Walks(n, space)
        envs.action_space = policy.spec.action_space  # type: ignore[attr-defined]
        return envs

    visited = visit(policy, target, make, range(100_000, 100_006), 10)
    players = players_of(space)
    return explain(policy, target, players, visited, counts, players.axes(axes))


@pytest.mark.parametrize("kind", HEADS)
def test_the_values_of_every_head_add_up_to_what_is_explained_less_the_background(kind: str) -> None:
    policy = policy_of(kind)
    found = explained(policy)
    gap = found.methods[SHAPLEY].sum(axis=1) - (found.value - found.base)
    assert np.abs(gap).max() < 1e-6
    assert found.exact
    # what is explained is what the policy does
    scores = found.question.target.scores(policy.outputs(found.states.obs))
    value = (scores.detach().unsqueeze(-2) * found.states.contrast.weights).sum(dim=-1)
    assert found.value == pytest.approx(value.double().numpy(), abs=1e-6)
    action = np.asarray(policy(found.states.obs.numpy()))
    if isinstance(policy.spec.action_space, Box):
        assert found.value == pytest.approx(action.reshape(found.value.shape), abs=1e-6)
    else:
        start = np.asarray(getattr(policy.spec.action_space, "start", 0))
        assert (found.states.contrast.chosen.numpy() + start == action.reshape(found.value.shape)).all()
        assert (found.value >= 0).all()


def test_the_advantage_of_distributional_heads_is_that_of_their_means() -> None:
    policy = policy_of("quantile")
    found = explained(policy)
    returns = policy.outputs(found.states.obs).detach().reshape(-1, 3, 4).mean(dim=-1)  # [N, actions]
    best = returns.sort(dim=-1, descending=True).values
    assert found.value[:, 0] == pytest.approx((best[:, 0] - best[:, 1]).numpy(), abs=1e-6)


@pytest.mark.parametrize("kind", ["q", "categorical", "multi_categorical"])
def test_a_forbidden_action_is_neither_chosen_nor_runner_up(kind: str) -> None:
    head, actions = HEADS[kind]
    size = build_head(head, actions).mask_width
    assert size is not None
    found = explained(policy_of(kind, Masked(OBS, size)))
    contrast = found.states.contrast
    last = 2
    assert (contrast.chosen[:, -1] < last).all()
    assert (contrast.runner_up[:, -1] < last).all()
    assert (contrast.runner_up != contrast.chosen).all()
    assert found.question.players.names == ("obs[0]", "obs[1]", "obs[2]", "obs[3]")


def test_a_choice_of_one_option_is_left_out() -> None:
    actions = MultiDiscrete((1, 3), (0, 0), (2,))
    network = actor_network_spec(OBS, 4, BODY, output_gain=1.0)
    head = {"kind": "multi_categorical"}
    policy = build_policy(PolicySpec(OBS, actions, {"scaling": "none", "scale": None}, network, head), [3]).member()
    found = explained(policy)
    assert [part for part, _ in shown_parts(found)] == [1]
    assert {each.part for each in found.tests} == {"choice 1"}
    assert (found.methods[SHAPLEY][:, :, 0] == 0).all()
    assert "What matters: choice 1" in page(found, Facts("mine", "an env", "", ""))


def test_gradients_are_those_of_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    found = explained(policy_of("q"), Counts(5, 3, 1))
    states, question = found.states, found.question

    def advantage(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return question.explained(features, {}, weights)[:, 0]

    weights = states.contrast.weights
    own = states.features.clone().requires_grad_()
    theirs = captum.Saliency(advantage).attribute(own, additional_forward_args=(weights,))
    ours = saliency(question, states, torch.ones(4))
    assert ours[:, :, 0] == pytest.approx(theirs.numpy(), abs=1e-6)
    each = [
        captum.IntegratedGradients(advantage).attribute(
            own, background.expand(5, -1), additional_forward_args=(weights,), n_steps=NODES
        )
        for background in question.background
    ]
    ours = integrated_gradients(question, states)
    assert ours[:, :, 0] == pytest.approx(torch.stack(each).mean(dim=0).detach().numpy(), abs=1e-5)
    assert found.gradients_gap < 1e-4  # a smooth network


def test_saliency_is_per_standard_deviation_of_each_feature() -> None:
    found = explained(policy_of("q"), Counts(5, 3, 1))
    one = saliency(found.question, found.states, torch.ones(4))
    assert saliency(found.question, found.states, torch.tensor([1.0, 2.0, 3.0, 0.0])) == pytest.approx(
        one * np.array([1.0, 2.0, 3.0, 0.0])[:, None]
    )


def test_a_network_that_passes_no_gradient_on_has_gradients_of_zero() -> None:
    found = explained(policy_of("q"), Counts(3, 2, 1))
    question = found.question
    for parameter in question.policy.parameters():
        parameter.requires_grad_(False)
    question.policy.network = torch.nn.Sequential(Rounding(), question.policy.network)
    rows = found.states
    assert gradients_of(question, rows.features, {}, rows.contrast.weights).abs().sum() == 0


class Rounding(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().round()


def linear(weights: list[list[float]]) -> MemberPolicy:
    """Q values that are linear in the observation."""
    network = q_network_spec(OBS, 2, BodySettings((), "tanh"))
    policy = build_policy(PolicySpec(OBS, Discrete(2), {"scaling": "none", "scale": None}, network), [3]).member()
    with torch.no_grad():
        policy.network[-1].weight.copy_(torch.tensor(weights))
        policy.network[-1].bias.zero_()
    return policy


def test_a_linear_advantage_is_explained_by_its_terms() -> None:
    # Q(0) = 3 x0, Q(1) = -x2: the advantage of action 0 is 3 x0 + x2, and a feature adds its own term less the mean of
    # that term at the background.
    found = explained(linear([[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]))
    sign = 1 - 2 * found.states.contrast.chosen[:, :1].numpy()
    terms = (found.states.features - found.question.background.mean(dim=0)).numpy() * [3.0, 0.0, 1.0, 0.0] * sign
    for name in (SHAPLEY, GRADIENTS):
        assert found.methods[name][:, :, 0] == pytest.approx(terms, abs=1e-5)
    assert list(np.argsort(-found.importance[SHAPLEY][:, 0])[:2]) == [0, 2]
    assert found.map is not None
    assert found.map.players == (0, 2)


def test_the_deletion_test_knows_a_good_order_and_a_bad_one() -> None:
    found = explained(linear([[3.0, 1.0, 0.0, 0.0], [-3.0, -1.0, 0.0, 0.0]]), Counts(40, 8, 8))
    assert [each.verdict for each in found.tests if each.method == SHAPLEY] == [SHOWN]
    rng = np.random.default_rng(0)
    good = found.methods[SHAPLEY]
    tests = deletions(found.question, found.states, {"good": good, "bad": -good}, found.base, rng)
    assert [each.verdict for each in tests] == [SHOWN, WORSE]
    for each in tests:  # from the advantage of the state to that of the background
        assert each.curve[0] == pytest.approx(found.value.mean(), abs=1e-5)
        assert each.curve[-1] == pytest.approx(found.base.mean(), abs=1e-5)


def test_where_nothing_matters_no_order_means_anything() -> None:
    found = explained(linear([[0.0] * 4, [0.0] * 4]))
    assert {each.verdict for each in found.tests} == {NOT_SHOWN}
    assert {each.gain.estimate for each in found.tests if isinstance(each.gain, Interval)} == {0.0}


def test_from_fewer_than_six_episodes_the_deletion_test_concludes_nothing() -> None:
    found = explained(linear([[3.0, 1.0, 0.0, 0.0], [-3.0, -1.0, 0.0, 0.0]]), Counts(40, 8, 8))
    some = found.states.at(np.flatnonzero(found.states.episode != 100_000))
    values = {"good": found.methods[SHAPLEY][found.states.episode != 100_000]}
    (test,) = deletions(found.question, some, values, found.base[: len(some)], np.random.default_rng(0))
    assert (test.verdict, test.episodes) == (TOO_FEW, 5)


def test_a_continuous_action_that_is_smaller_than_usual_counts_with_the_other_sign() -> None:
    found = explained(policy_of("deterministic"), Counts(20, 8, 8))
    for each in found.tests:
        assert each.curve[0] > each.curve[-1]
    assert [each.verdict for each in found.tests if each.method == SHAPLEY] == [SHOWN, SHOWN]


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
def test_the_memory_is_held_as_it_was_at_the_step_explained(kind: str) -> None:
    policy = policy_of("q", body=BodySettings((8,), "tanh", memory=MemorySettings(kind, 8, 4)))
    found = explained(policy)
    for row in range(len(found.states)):
        seed, step = int(found.states.episode[row]), int(found.states.step[row])
        rng = np.random.default_rng(seed)
        obs = torch.tensor(np.stack([rng.normal(size=4) for _ in range(step + 1)]).astype(np.float32))
        begins = torch.arange(step + 1).unsqueeze(0) == 0
        outputs, _ = policy.unroll(obs.unsqueeze(0), policy.initial_state(1), begins)
        best = outputs[0, -1].detach().sort(descending=True).values
        assert found.value[row, 0] == pytest.approx(float(best[0] - best[1]), abs=1e-6)
    assert np.abs(found.methods[SHAPLEY].sum(axis=1) - (found.value - found.base)).max() < 1e-6


def test_sampled_values_add_up_as_exact_ones_do() -> None:
    space = Box((14,), "float32", -np.inf, np.inf)
    policy = policy_of("categorical", space)

    class Wide(Walks):
        def _obs(self) -> np.ndarray:
            return np.stack([rng.normal(size=14) for rng in self.rngs]).astype(np.float32)

    def make(n: int) -> Any:
        envs = Wide(n, space)
        envs.action_space = policy.spec.action_space  # type: ignore[attr-defined]
        return envs

    target = target_of(policy.head)
    found = explain(policy, target, players_of(space), visit(policy, target, make, range(5), 10), Counts(6, 4, 16))
    assert not found.exact
    assert np.abs(found.methods[SHAPLEY].sum(axis=1) - (found.value - found.base)).max() < 1e-6
    assert (found.error > 0).all()


def test_a_map_says_what_the_policy_says_there() -> None:
    policy = linear([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    found = explained(policy, axes=("obs[1]", "obs[0]"))
    over = found.map
    assert over is not None
    choice, value, gap = over.fields
    assert choice.options == ("action 0", "action 1")
    x, y = over.x[None, :], over.y[:, None]  # obs[1] and obs[0]
    assert choice.values.shape == (CELLS, CELLS)
    assert (choice.values == (2 * x > y)).mean() > 0.999  # but for cells where the two are equal
    assert value.values == pytest.approx(np.maximum(2 * x, y), abs=1e-5)
    assert gap.values == pytest.approx(np.abs(2 * x - y), abs=1e-5)
    assert over.visited.shape == (60, 2)


def test_options_have_the_names_that_are_given() -> None:
    head = build_head({"kind": "q"}, Discrete(2, 5))
    assert target_of(head).options() == ("action 5", "action 6")
    assert target_of(head, ("left", "right")).options() == ("left", "right")
    for kind in ("gaussian", "multi_categorical"):
        with pytest.raises(UsageError, match="--actions has 2 names; the action has no options of a single choice"):
            target_of(build_head(*HEADS[kind]), ("left", "right"))


def test_a_map_is_over_numbers_with_many_values_where_there_are_two() -> None:
    policy = linear([[9.0, 9.0, 1.0, 2.0], [0.0] * 4])

    class Legs(Walks):
        def _obs(self) -> np.ndarray:
            rows = super()._obs()
            rows[:, :2] = rows[:, :2] > 0
            return rows

    def make(n: int) -> Any:
        envs = Legs(n)
        envs.action_space = policy.spec.action_space  # type: ignore[attr-defined]
        return envs

    target = target_of(policy.head)
    found = explain(policy, target, players_of(OBS), visit(policy, target, make, range(6), 10), FEW)
    assert list(np.argsort(-found.importance[SHAPLEY][:, 0])[:2]) in ([0, 1], [1, 0])
    assert found.map is not None
    assert found.map.players == (3, 2)


def test_what_cannot_be_explained_or_drawn_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="has one action alone: there is no choice to explain"):
        target_of(build_head({"kind": "q"}, Discrete(1)))
    policy = policy_of("q")
    with pytest.raises(UsageError, match=r"unknown feature 'obs\[9\]'. Did you mean"):
        explained(policy, axes=("obs[9]", "obs[0]"))
    with pytest.raises(UsageError, match="--axes takes two different features, not 1"):
        explained(policy, axes=("obs[0]",))
    with pytest.raises(UsageError, match="--axes takes two different features, not 1"):
        explained(policy, axes=("obs[0]", "obs[0]"))
    alone = Masked(OBS, 3)

    class OnlyOne(Walks):
        def _obs(self) -> np.ndarray:
            rows = super()._obs()
            rows[:, 4:] = [1.0, 0.0, 0.0]
            return rows

    def make(n: int) -> Any:
        envs = OnlyOne(n, alone)
        envs.action_space = Discrete(3)  # type: ignore[attr-defined]
        return envs

    masked = policy_of("q", alone)
    target = target_of(masked.head)
    with pytest.raises(UsageError, match="a mask allows one action in each"):
        explain(masked, target, players_of(alone), visit(masked, target, make, range(3), 5), Counts())


@pytest.mark.parametrize(
    ("kind", "what", "lines"),
    [
        ("quantile", "Q value", ("action 1", "action 2", "action 3")),
        ("categorical", "probability", ("action 0", "action 1", "action 2")),
        ("multi_categorical", "probability of the option taken", ("choice 0", "choice 1")),
        ("bernoulli", "probability of 1", ("bit 0", "bit 1")),
        ("gaussian", "action", ("action 0", "action 1")),
    ],
)
def test_the_strip_has_what_was_said_and_paid_at_every_step(kind: str, what: str, lines: tuple[str, ...]) -> None:
    policy = policy_of(kind)
    shown: list[int] = []

    def picture() -> np.ndarray:
        shown.append(1)
        return np.zeros((4, 6, 3), np.uint8)

    strip = strip_of(policy, target_of(policy.head), Walks(1), 7, picture)
    assert (strip.what, strip.lines, strip.ending) == (what, lines, "truncated")
    assert strip.values.shape == (20, len(lines))
    assert strip.reward.tolist() == [0.5] * 20
    assert [step for step, _ in strip.pictures] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    rng = np.random.default_rng(7)
    obs = torch.tensor(np.stack([rng.normal(size=4) for _ in range(20)]).astype(np.float32))
    scores = target_of(policy.head).scores(policy.outputs(obs)).detach()
    expected = {"categorical": scores.softmax(dim=-1), "bernoulli": scores.sigmoid()}.get(kind, scores)
    if kind != "multi_categorical":
        assert strip.values == pytest.approx(expected.numpy(), abs=1e-6)
