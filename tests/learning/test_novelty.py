"""Random network distillation: what pays, how it is brought to a common size, and that no agent's file knows of it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlab.agents.dqn import DQN, DQNConfig
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler
from rlab.experience.storage import Storage
from rlab.experience.successors import SuccessorSampler
from rlab.learning.novel_agent import PaidForNovelty, with_novelty
from rlab.learning.novelty import RandomNetworkDistillation, led_to
from rlab.learning.novelty_config import NoveltyConfig
from rlab.learning.reward_scaling import CLIP, EPSILON
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock

CPU = torch.device("cpu")
PLANE = Box((2,), "float32", -9.0, 9.0)
NOW = {"novelty/learning_rate": 1e-3}


def distillation(seeds=(3, 4), obs_space=PLANE, **settings):
    config = NoveltyConfig(novelty="rnd", novelty_hidden=(16,), novelty_features=8, **settings)
    return RandomNetworkDistillation(config, 0.9, obs_space, seeds, CPU)


def seen(members, rows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(members, rows, 2)).astype(np.float32))


def everywhere(rows):
    return torch.ones(rows.shape[:2], dtype=torch.bool)


def test_what_was_learned_from_pays_less_than_what_was_not():
    novelty, familiar = distillation(), seen(2, 64)
    novelty.observe(familiar, everywhere(familiar))
    strange = familiar + torch.tensor([3.0, -3.0])
    features = novelty.features(familiar)
    before = novelty.error(features), novelty.error(novelty.features(strange))
    for _ in range(300):
        novelty.update(features, everywhere(features), NOW)
    after = novelty.error(features), novelty.error(novelty.features(strange))
    assert (after[0].mean(dim=1) < 0.1 * before[0].mean(dim=1)).all()
    assert (after[1].mean(dim=1) > 3 * after[0].mean(dim=1)).all()


def test_the_error_is_the_mean_squared_difference_of_two_networks_of_which_one_learns():
    novelty = distillation()
    features = novelty.features(seen(2, 5))
    target = [each.clone() for each in novelty.target.parameters()]
    expected = (novelty.predictor(features) - novelty.target(features)).square().mean(dim=-1)
    assert torch.equal(novelty.error(features), expected)
    counts = torch.tensor([[True, True, False, True, False]] * 2)
    found = novelty.update(features, counts, NOW)["loss/novelty"]
    torch.testing.assert_close(found, expected[:, [0, 1, 3]].mean(dim=1).detach())
    assert all(torch.equal(one, other) for one, other in zip(target, novelty.target.parameters(), strict=True))


def test_observations_are_less_their_mean_by_their_deviation_and_kept_within_5():
    novelty = distillation(seeds=(3,))
    obs = torch.tensor([[[0.0, 10.0], [2.0, 10.0]]])  # means 1 and 10, deviations 1 and 0
    novelty.observe(obs, everywhere(obs))
    found = novelty.features(torch.tensor([[[2.0, 10.0], [4.5, 10.0], [-99.0, 10.1]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0], [3.5, 0.0], [-5.0, 5.0]]]))


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return_through_endings():
    # One env and three vector steps with the errors e1, e2, e3; gamma 0.9. Returns e1, e2 + .9 e1, e3 + .9 e2 + .81 e1.
    novelty, errors = distillation(seeds=(3,), novelty_weight=0.5), []
    for t in range(3):
        obs = seen(1, 1, seed=t)
        novelty.observe(obs, everywhere(obs))
        errors.append(novelty.error(novelty.features(obs)).item())
    one, two, three = errors
    returns = np.array([one, two + 0.9 * one, three + 0.9 * two + 0.81 * one])
    features, counts = novelty.features(seen(1, 4, seed=9)), torch.tensor([[[True], [True], [False], [True]]])
    error = novelty.error(features).detach().numpy()[0]
    expected = 0.5 * np.minimum(error / np.sqrt(returns.var() + EPSILON), CLIP) * [1, 1, 0, 1]
    found = novelty.reward(features.unsqueeze(2), counts)[0, :, 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)  # float32 beside float64
    paid = novelty.update(features, everywhere(features), NOW)["novelty/reward"]
    np.testing.assert_allclose(paid.numpy(), [2 * expected.sum() / 3], rtol=1e-5)  # before it is weighted


def test_a_member_beside_others_is_paid_and_learns_as_it_does_alone():
    both, alone, obs = distillation((3, 4)), distillation((4,)), seen(2, 20)
    for each, rows in ((both, obs), (alone, obs[1:])):
        for _ in range(5):
            each.observe(rows, everywhere(rows))
            each.update(each.features(rows), everywhere(rows), NOW)
    counts = torch.ones(1, 20, 1, dtype=torch.bool)
    mine = alone.reward(alone.features(obs[1:]).unsqueeze(2), counts)
    theirs = both.reward(both.features(obs).unsqueeze(2), counts.expand(2, 20, 1))[1:]
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "obs_space", [Discrete(4), Box((8, 8, 3), "uint8", 0.0, 255.0), Box((3,), "float64", -1e9, 1e9)]
)
def test_observations_of_every_kind_pay(obs_space):
    novelty = distillation(obs_space=obs_space)
    high = 4 if isinstance(obs_space, Discrete) else 255
    obs = torch.randint(high, (2, 6, *obs_space.shape), generator=torch.Generator().manual_seed(0))
    obs = obs.to(getattr(torch, obs_space.dtype))
    novelty.observe(obs, everywhere(obs))
    features = novelty.features(obs)
    assert torch.isfinite(novelty.update(features, everywhere(obs), NOW)["loss/novelty"]).all()


def test_a_saved_novelty_goes_on_as_it_would_have():
    first, second, obs = distillation((3, 4)), distillation((8, 9)), seen(2, 20)
    first.observe(obs, everywhere(obs))
    first.update(first.features(obs), everywhere(obs), NOW)
    second.load_state(copy.deepcopy(first.state()))
    for each in (first, second):
        each.observe(obs + 1.0, everywhere(obs))
        each.update(each.features(obs), everywhere(obs), NOW)
    mine, theirs = first.state(), second.state()
    assert torch.equal(mine["returns"]["variance"], theirs["returns"]["variance"])
    assert all(torch.equal(value, theirs["predictor"][name]) for name, value in mine["predictor"].items())


def test_what_the_steps_of_a_rollout_led_to_is_the_next_row_or_what_the_env_hid():
    # One env, T = 3; behind row 1 an episode ended, and the env reset at once: 7 was hidden. Member 1 has none.
    obs = torch.tensor([[[[0.0], [1.0], [2.0], [3.0]]], [[[10.0], [11.0], [12.0], [13.0]]]])  # [S, N, T + 1, 1]
    batch = {"obs": obs, "reward": torch.zeros(2, 1, 3), "valid": torch.ones(2, 1, 3, dtype=torch.bool)}
    batch |= {"final_obs": torch.tensor([[[7.0]], [[0.0]]]), "final_row": torch.tensor([[1], [3]])}
    found, counts = led_to(batch)
    assert found[..., 0].tolist() == [[[1.0, 7.0, 3.0]], [[11.0, 12.0, 13.0]]]
    assert counts is batch["valid"]


def test_every_step_of_a_window_is_paid_for_what_it_led_to():
    fields = (Field("obs", (2,), "float32"), Field("action", (), "int64"))
    storage = Storage(1, 1, 10, fields, has_reset_rows=False)
    flag = lambda value: torch.full((1, 1), value)  # noqa: E731
    for t in range(6):
        obs, next_obs = (torch.full((1, 1, 2), float(i)) for i in (t, t + 1))
        ended = Step(next_obs, next_obs, torch.zeros(1, 1), flag(t == 3), flag(False), flag(True))
        storage.add(obs, torch.zeros(1, 1, dtype=torch.int64), ended)
    sampler = SuccessorSampler(UniformSampler(storage, Draws((0,), "replay", CPU), 3), storage)
    batch = sampler.sample(50)
    obs, counts = led_to(batch)
    for i in range(50):
        row, steps = int(batch["row"][0, i]), int(batch["steps"][0, i])
        assert steps == min(3, 4 - row if row < 4 else 6 - row)
        assert obs[0, i, :steps, 0].tolist() == [row + 1.0 + k for k in range(steps)]
        assert counts[0, i].tolist() == [k < steps for k in range(3)]


def test_the_agent_s_rewards_change_and_nothing_else_of_its_rows():
    settings = DQNConfig(novelty="rnd", novelty_weight=2.0, hidden=(8,))
    plain, paid = (kind(settings, PLANE, Discrete(2), (3, 4), CPU) for kind in (DQN, with_novelty(DQN, settings)))
    assert (type(paid).__name__, isinstance(paid, DQN), isinstance(paid, PaidForNovelty)) == ("DQN", True, True)
    assert list(paid.networks) == [*plain.networks, "novelty"]
    assert "novelty/learning_rate" in paid.scheduled(Clock(0, 10))
    obs = seen(2, 6)
    step = SimpleNamespace(next_obs=obs, valid=everywhere(obs))
    paid.observe(obs, step, paid.scheduled(Clock(1, 10)))
    batch = {"row": torch.zeros(2, 6).long(), "obs": obs, "next_obs": obs + 1.0, "action": torch.zeros(2, 6).long()}
    batch |= {"reward": torch.ones(2, 6, 1), "steps": torch.ones(2, 6).long()}
    batch |= {name: torch.zeros(2, 6, dtype=torch.bool) for name in ("terminated", "truncated")}
    mine, theirs = paid.prepare(batch), plain.prepare(batch)
    for name, value in theirs.items():
        assert torch.equal(mine[name], value) == (name != "reward"), name
    features, counts = paid.novelty.features(obs + 1.0), torch.ones(2, 6, 1, dtype=torch.bool)
    expected = theirs["reward"] + paid.novelty.reward(features.unsqueeze(2), counts)[..., 0]
    assert torch.equal(mine["reward"], expected)
    assert (batch["reward"] == 1.0).all()


def test_without_novelty_the_class_is_the_agent_s_own():
    assert with_novelty(DQN, DQNConfig()) is DQN
    with pytest.raises(UsageError, match=r"unknown novelty 'rdn'. Did you mean 'rnd'"):
        DQNConfig(novelty="rdn")
