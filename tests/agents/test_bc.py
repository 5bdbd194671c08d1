"""Behavioural cloning: what the data's own frequencies say the policy must become, and the value beside it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents.bc import BC, BCConfig
from rlab.agents.ppo import PPO, PPOConfig
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import Demonstrations, demonstrations_of
from rlab.experience.samplers import Sampler
from rlab.learning.base_loop import Periods
from rlab.learning.dataset_loop import DatasetLoop
from rlab.networks.spaces import Box, Discrete, Masked, MultiBinary, MultiDiscrete, Space
from rlab.types import Clock

NEVER = 10**9
NUMBER, TWO = Box((1,), "float32", -1.0, 1.0), Discrete(2)
CPU = torch.device("cpu")


def one_step(obs_space: Space, action_space: Space, rows: Sequence[tuple[Any, Any]], times: int = 1) -> Dataset:
    """Episodes of one step each: what was observed, what was done; reward 1."""
    episodes = [
        Episode(
            np.array([obs, obs], obs_space.dtype).reshape(2, *obs_space.shape),
            np.array([action], "float32" if isinstance(action_space, Box) else action_space.dtype),
            np.ones(1, np.float32),
            terminated=True,
            truncated=False,
        )
        for obs, action in list(rows) * times
    ]
    return Dataset("worked by hand", obs_space, action_space, tuple(episodes))


def make(dataset: Dataset, seeds: Sequence[int] = (0, 1), **settings: Any) -> tuple[BC, Demonstrations]:
    """An agent and what it learns from."""
    chosen = {"hidden": (16,), "learning_rate": 1e-2, "value_weight": 0.0, "batch_size": 128, **settings}
    agent = BC(BCConfig(**chosen), dataset.obs_space, dataset.action_space, seeds, CPU)
    storage = demonstrations_of(dataset, seeds)
    agent.fit_statistics(*storage.observations())
    return agent, storage


def sampler_of(agent: Any, storage: Demonstrations) -> Sampler:
    return agent.sampler(storage, Draws(agent.seeds, "dataset", CPU))  # type: ignore[no-any-return]


def learn(agent: BC, storage: Demonstrations, updates: int, **more: Any) -> DatasetLoop:
    loop = DatasetLoop(
        agent,
        agent.seeds,
        sampler_of(agent, storage),
        updates,
        Periods(NEVER, NEVER, NEVER),
        **more,
    )
    loop.run()
    return loop


def cloned(dataset: Dataset, updates: int = 250, **settings: Any) -> BC:
    agent, storage = make(dataset, lr_schedule="linear", lr_final=0.0, **settings)
    learn(agent, storage, updates)
    return agent


@torch.no_grad()
def probabilities(agent: BC, obs: Sequence[float]) -> np.ndarray:
    """Of each action, `[S, A]`."""
    return agent.policy().outputs(torch.tensor(obs).expand(2, 1, -1))[:, 0].softmax(dim=-1).numpy()


def test_what_can_be_told_apart_is_learned_to_the_last_row() -> None:
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, size=(200, 2))
    obs = obs[np.abs(obs).min(axis=1) > 0.1]
    space = Box((2,), "float32", -1.0, 1.0)
    dataset = one_step(space, Discrete(3, start=5), [(o, int(o[0] > 0) + int(o[0] > 0 and o[1] > 0)) for o in obs])
    agent, storage = make(dataset)
    train, held_out = storage.split(0.2, agent.seeds)
    assert held_out is not None
    loop = learn(agent, train, 300, validation=held_out.rows_in_order())
    assert loop.validate()["validation/accuracy"].min() >= 0.95
    everything = agent.prepare(storage.rows_in_order())
    judged = agent.validate({**everything, "weight": torch.ones(2, len(obs))})
    assert judged["validation/accuracy"].tolist() == [1.0, 1.0]
    action = agent.policy()(obs[None].repeat(2, axis=0).astype(np.float32))
    assert set(action.flatten().tolist()) == {5, 6, 7}  # as the env takes them


THREE_OF_FOUR = one_step(NUMBER, TWO, [(-1.0, 0), (-1.0, 0), (-1.0, 0), (-1.0, 1), (1.0, 1), (1.0, 0)], times=20)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_policy_takes_on_the_frequencies_of_the_data(smoothing: float) -> None:
    agent = cloned(THREE_OF_FOUR, batch_size=512, label_smoothing=smoothing)
    first = 0.75 * (1 - smoothing) + smoothing / 2  # 0.7 with smoothing
    np.testing.assert_allclose(probabilities(agent, [-1.0]), [[first, 1 - first]] * 2, atol=0.02)
    np.testing.assert_allclose(probabilities(agent, [1.0]), [[0.5, 0.5]] * 2, atol=0.02)


def test_balanced_weights_make_rare_actions_count_like_frequent_ones() -> None:
    rare = one_step(NUMBER, Discrete(3), [(0.0, 0)] * 9 + [(0.0, 2)], times=10)
    np.testing.assert_allclose(probabilities(cloned(rare), [0.0]), [[0.9, 0.0, 0.1]] * 2, atol=0.03)
    agent = cloned(rare, class_weights="balanced")
    np.testing.assert_allclose(probabilities(agent, [0.0]), [[0.5, 0.0, 0.5]] * 2, atol=0.03)
    # 90 and 10 of 100 rows in two classes that occur: 100 / (2 * 90), and 100 / (2 * 10)
    np.testing.assert_allclose(agent.class_weights()[:, [0, 2]], [[100 / 180, 5.0]] * 2, rtol=0.15)


def test_several_choices_and_several_bits_take_on_their_frequencies() -> None:
    pairs = one_step(NUMBER, MultiDiscrete((2, 3), (0, -1), (2,)), [(0.0, (1, 2)), (0.0, (1, 0))], times=50)
    outputs = cloned(pairs).policy().outputs(torch.zeros(2, 1, 1)).detach()
    np.testing.assert_allclose(outputs[..., :2].softmax(dim=-1), [[[0.0, 1.0]]] * 2, atol=0.02)
    np.testing.assert_allclose(outputs[..., 2:].softmax(dim=-1), [[[0.5, 0.0, 0.5]]] * 2, atol=0.03)
    bits = one_step(NUMBER, MultiBinary((2,)), [(0.0, (1, 0)), (0.0, (1, 1)), (0.0, (1, 0)), (0.0, (1, 0))], times=25)
    chance = cloned(bits).policy().outputs(torch.zeros(2, 1, 1)).detach().sigmoid()
    np.testing.assert_allclose(chance, [[[1.0, 0.25]]] * 2, atol=0.03)


ARM = Box((1,), "float32", -2.0, 2.0)
SPREAD = one_step(NUMBER, ARM, [(0.0, (0.4,)), (0.0, (1.2,))], times=50)  # in half ranges 0.2 and 0.6


@pytest.mark.parametrize(
    ("settings", "mean", "deviation"),
    [
        ({}, 0.4, 0.2),
        ({"squash": True}, (math.atanh(0.2) + math.atanh(0.6)) / 2, (math.atanh(0.6) - math.atanh(0.2)) / 2),
        ({"loss": "squared"}, 0.4, 0.5),  # its deviation stays where it began
        ({"loss": "squared", "squash": True}, math.atanh(0.4), 0.5),
    ],
    ids=str,
)
def test_a_gaussian_policy_takes_on_mean_and_deviation(settings: dict[str, Any], mean: float, deviation: float) -> None:
    agent = cloned(SPREAD, 400, log_std_init=math.log(0.5), batch_size=512, **settings)
    outputs = agent.policy().outputs(torch.zeros(2, 1, 1)).detach()[:, 0]
    np.testing.assert_allclose(outputs[:, 0], [mean] * 2, atol=0.02)
    np.testing.assert_allclose(outputs[:, 1].exp(), [deviation] * 2, atol=0.02)
    judged = agent.validate(
        {**agent.prepare(demonstrations_of(SPREAD, (0, 1)).rows_in_order()), "weight": torch.ones(2, 100)}
    )
    np.testing.assert_allclose(judged["validation/action_error"], [0.2] * 2, atol=0.02)  # of the greedy action


def test_a_forbidden_action_gets_no_probability_and_no_share_of_the_smoothing() -> None:
    space = Masked(NUMBER, 3)
    dataset = one_step(space, Discrete(3), [((0.0, 1, 1, 0), 0)], times=50)
    agent, storage = make(dataset, label_smoothing=0.5)
    batch = agent.prepare(storage.rows_in_order())
    loss = agent.cloning_loss(torch.tensor([0.0, math.log(3), 9.0]).expand(2, 50, 3), batch)
    # among the two that are allowed: 1/4 and 3/4
    expected = 0.5 * math.log(4) + 0.5 * (math.log(4) + math.log(4 / 3)) / 2
    torch.testing.assert_close(loss, torch.full((2, 50), expected))


def two_worlds() -> Dataset:
    """Two steps with reward 1 at the end, through 0 and 1; and reward 1 for ever in 2, cut after three steps."""
    reward = np.array([0, 1], np.float32)
    ends = Episode(np.array([0, 1, 1]), np.zeros(2, np.int64), reward, terminated=True, truncated=False)
    ones = np.ones(3, np.float32)
    cut = Episode(np.full(4, 2), np.zeros(3, np.int64), ones, terminated=False, truncated=True)
    return Dataset("two worlds", Discrete(3), TWO, (ends, cut))


@pytest.mark.parametrize("n_step", [1, 20])
def test_the_value_is_what_the_demonstrator_earns_and_ppo_takes_it_over(n_step: int) -> None:
    agent = cloned(two_worlds(), 400, value_weight=1.0, gamma=0.5, n_step=n_step, hidden=(), learning_rate=3e-2)
    assert agent.critic is not None
    obs = torch.arange(3).expand(2, 3)
    known = [0.5, 1.0, 2.0]  # gamma; 1; 1 / (1 - gamma)
    np.testing.assert_allclose(agent.critic(agent.preprocess(obs)).detach()[..., 0], [known] * 2, atol=0.02)
    ppo = PPO(PPOConfig(), Discrete(3), TWO, (7, 8), CPU, start=agent.policy().spec)
    ppo.load_critic(agent.state(), [1, 0])
    torch.testing.assert_close(ppo.value(obs), agent.critic(agent.preprocess(obs)).squeeze(-1).flip(0))


def test_without_a_weight_there_is_no_value() -> None:
    agent, _ = make(SPREAD, value_weight=0.0)
    assert list(agent.networks) == ["actor"]
    assert "critic" not in agent.state()
    assert list(make(SPREAD, value_weight=0.1)[0].networks) == ["actor", "critic"]


def test_the_value_changes_nothing_in_the_policy() -> None:
    with_value, without = (cloned(THREE_OF_FOUR, 20, value_weight=weight) for weight in (0.5, 0.0))
    for a, b in zip(with_value.actor.parameters(), without.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b)


EVERYTHING = {
    "hidden": (16, 16),
    "dropout": 0.2,
    "layer_norm": True,
    "obs_scaling": "running",
    "obs_noise": 0.1,
    "class_weights": "balanced",
    "label_smoothing": 0.1,
    "value_weight": 0.5,
    "max_grad_norm": 0.1,
    "l1": 1e-5,
}


def test_noise_and_dropout_are_for_updates_alone() -> None:
    agent, storage = make(THREE_OF_FOUR, **EVERYTHING)
    obs = torch.rand(2, 5, 1)
    before = agent.policy().outputs(obs)
    torch.testing.assert_close(agent.policy().outputs(obs), before)
    batch = {**agent.prepare(storage.rows_in_order()), "weight": torch.ones(2, 120)}
    losses = [agent.validate(batch)["validation/loss"] for _ in range(2)]
    assert torch.equal(*losses)
    noise = agent.state()["noise"]
    agent.update(batch, agent.scheduled(Clock(1, 10)))
    assert agent.state()["noise"] != noise
    torch.testing.assert_close(agent.policy().outputs(obs), agent.policy().outputs(obs))
    assert not any(module.training for module in agent.actor.modules())


def test_members_learn_beside_others_what_they_learn_alone() -> None:
    together, storage = make(THREE_OF_FOUR, seeds=(5, 17, 2), **EVERYTHING)
    start = copy.deepcopy(together.policy().state_dict())
    learn(together, storage, 60)
    first = next(name for name in start if name.startswith("network"))
    assert not torch.allclose(start[first], together.policy().state_dict()[first], atol=1e-3)
    for i, seed in enumerate((5, 17, 2)):
        alone, storage = make(THREE_OF_FOUR, seeds=(seed,), **EVERYTHING)
        learn(alone, storage, 60)
        for kind, network in alone.networks.items():
            for name, value in network.state_dict().items():
                both = together.networks[kind].state_dict()[name][i : i + 1]
                torch.testing.assert_close(both, value, rtol=1e-3, atol=1e-4, msg=f"{seed} {kind} {name}")


def test_a_run_that_stops_and_goes_on_is_the_run_that_never_stopped() -> None:
    whole, storage = make(THREE_OF_FOUR, **EVERYTHING)
    learn(whole, storage, 45)
    agent, storage = make(THREE_OF_FOUR, **EVERYTHING)
    periods = Periods(NEVER, NEVER, NEVER)
    broken = DatasetLoop(agent, agent.seeds, sampler_of(agent, storage), 45, periods)
    broken.host = replace(broken.host, should_stop=lambda: broken.updates == 17)
    assert not broken.run()
    state = copy.deepcopy(broken.state())
    agent, storage = make(THREE_OF_FOUR, **EVERYTHING)
    resumed = DatasetLoop(agent, agent.seeds, sampler_of(agent, storage), 45, periods)
    resumed.load_state(state)
    assert resumed.run()
    for name, value in whole.state()["policy"].items():
        assert torch.equal(agent.state()["policy"][name], value), name
    for name, value in whole.state()["critic"].items():
        assert torch.equal(agent.state()["critic"][name], value), name


def test_running_statistics_are_those_of_the_whole_data() -> None:
    agent, _ = make(one_step(NUMBER, TWO, [(1.0, 0), (0.0, 0), (-0.25, 1)]), obs_scaling="running")
    assert agent.preprocess.get_buffer("count").tolist() == [3.0, 3.0]
    assert agent.preprocess.get_buffer("mean").flatten().tolist() == [0.25, 0.25]


def test_it_begins_from_a_policy_that_there_is() -> None:
    ppo = PPO(PPOConfig(hidden=(8,), activation="relu"), NUMBER, TWO, (0, 1), CPU)
    agent = BC(BCConfig(), NUMBER, TWO, (0, 1), CPU, start=ppo.policy().spec)
    assert agent.policy().spec == ppo.policy().spec
    agent.load_weights(ppo.policy().state_dict())
    obs = torch.rand(2, 5, 1)
    torch.testing.assert_close(agent.policy().outputs(obs), ppo.policy().outputs(obs))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "squard"}, "unknown loss 'squard'. Did you mean 'squared'?"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0 must be in [0, 1)."),
        ({"class_weights": "even"}, "class_weights 'even' must be 'balanced' or None."),
        ({"obs_noise": -0.1}, "obs_noise -0.1 must be 0 or more."),
        ({"value_weight": math.nan}, "value_weight nan must be 0 or more."),
        ({"gamma": 1.1}, "gamma 1.1 must be in [0, 1]."),
        ({"n_step": 0}, "n_step 0 must be 1 or more."),
        ({"validation_fraction": 1.0}, "validation_fraction 1.0 must be in [0, 1)."),
        ({"patience": 0}, "patience 0 must be 1 or more."),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more."),
        ({"init_gain": 0.0}, "init_gain 0.0 must be above 0."),
        ({"actor_gain": math.inf}, "actor_gain inf must be above 0."),
        ({"dropout": 1.0}, "dropout 1.0 must be in [0, 1)."),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_born(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        BCConfig(**settings)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("settings", "actions", "said"),
    [
        (
            {"loss": "squared"},
            TWO,
            "loss squared is for Box actions, not Discrete(n=2, start=0); likelihood is for all.",
        ),
        ({"label_smoothing": 0.1}, ARM, "label_smoothing is for Discrete actions, not Box((1,), float32)."),
        ({"class_weights": "balanced"}, MultiBinary((2,)), "class_weights is for Discrete actions, not MultiBinary"),
        ({"optimizer": "adm"}, TWO, "unknown optimizer 'adm'."),
        ({"lr_schedule": "cosin"}, TWO, "unknown learning-rate schedule 'cosin'."),
        ({"activation": "rleu"}, TWO, "unknown activation 'rleu'."),
        ({"init": "hee"}, TWO, "unknown initialisation 'hee'."),
        ({"obs_scaling": "fixd"}, TWO, "unknown observation scaling 'fixd'."),
    ],
)
def test_a_setting_that_does_not_suit_is_refused_before_training(
    settings: dict[str, Any], actions: Space, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        BC(BCConfig(**settings), NUMBER, actions, (0,), CPU)
    assert str(caught.value).startswith(said)


def test_noise_on_images_is_refused() -> None:
    with pytest.raises(UsageError, match=r"obs_noise 0.1 is for vectors; observations are Box\(\(8, 8, 3\), uint8\)."):
        BC(BCConfig(obs_noise=0.1), Box((8, 8, 3), "uint8", 0, 255), TWO, (0,), CPU)
