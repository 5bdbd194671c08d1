"""Pretraining of a body: what its models learn in worlds that can be predicted, and what is left of the policy."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents.encoder import Encoder, EncoderConfig
from rlab.agents.ppo import PPO, PPOConfig
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import Demonstrations, demonstrations_of
from rlab.experience.samplers import Sampler
from rlab.learning.base_loop import Periods
from rlab.learning.dataset_loop import DatasetLoop
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from rlab.types import Clock

NEVER, CPU = 10**9, torch.device("cpu")
PLANE = Box((2,), "float32", -9.0, 9.0)
FOUR, PUSH = Discrete(4), Box((2,), "float32", -1.0, 1.0)
BOARD = Box((8, 8, 1), "uint8", 0, 255)
MOVES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
OBJECTIVES = ("inverse", "forward", "dynamics", "classification")


def walks(obs_space: Space = PLANE, action_space: Space = FOUR, episodes: int = 30, steps: int = 20) -> Dataset:
    """Somebody walks about: every action moves it as it says, in the plane or as the one light on a round board."""
    rng, found = np.random.default_rng(0), []
    for _ in range(episodes):
        if isinstance(action_space, Box):
            actions = rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32)
            moved = actions
        else:
            actions = rng.integers(4, size=steps)
            moved = MOVES[actions]
        place = np.concatenate([rng.integers(-2, 3, size=(1, 2)), moved]).cumsum(axis=0)  # [T + 1, 2]
        obs = place.astype(np.float32) / 4
        if obs_space is BOARD:
            obs = np.zeros((steps + 1, 8, 8, 1), np.uint8)
            obs[(np.arange(steps + 1), *(place.astype(int) % 8).T, 0)] = 255
        found.append(Episode(obs, actions, np.zeros(steps, np.float32), terminated=False, truncated=True))
    return Dataset("walks", obs_space, action_space, tuple(found))


def homing() -> Dataset:
    """In the plane, actions that the observation gives away: towards the middle along the longer way."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, size=(400, 2)).astype(np.float32)
    obs = obs[np.abs(np.abs(obs[:, 0]) - np.abs(obs[:, 1])) > 0.1]
    long = np.abs(obs).argmax(axis=1)
    action = 2 * long + (obs[np.arange(len(obs)), long] > 0)
    cut = [Episode(obs[[i, i]], action[[i]], np.zeros(1, np.float32), False, True) for i in range(len(obs))]
    return Dataset("homing", PLANE, FOUR, tuple(cut))


def make(dataset: Dataset, seeds: Sequence[int] = (0, 1), **settings: Any) -> tuple[Encoder, Demonstrations]:
    chosen = {"hidden": (32,), "model_hidden": (64,), "learning_rate": 3e-3, "batch_size": 128, **settings}
    agent = Encoder(EncoderConfig(**chosen), dataset.obs_space, dataset.action_space, seeds, CPU)
    storage = demonstrations_of(dataset, seeds)
    agent.fit_statistics(*storage.observations())
    return agent, storage


def sampler_of(agent: Any, storage: Demonstrations) -> Sampler:
    return agent.sampler(storage, Draws(agent.seeds, "dataset", CPU))  # type: ignore[no-any-return]


def learned(dataset: Dataset, updates: int, **settings: Any) -> tuple[Encoder, dict[str, torch.Tensor]]:
    """The agent, and what it says of all rows."""
    agent, storage = make(dataset, **settings)
    DatasetLoop(
        agent,
        agent.seeds,
        sampler_of(agent, storage),
        updates,
        Periods(NEVER, NEVER, NEVER),
    ).run()
    return agent, judged(agent, storage)


def judged(agent: Encoder, storage: Demonstrations) -> dict[str, torch.Tensor]:
    rows = agent.prepare(storage.rows_in_order())
    return agent.validate({**rows, "weight": torch.ones(rows["action"].shape[:2])})


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


def test_the_inverse_model_finds_the_action_in_what_it_did() -> None:
    _, before = learned(walks(), 0, objective="inverse")
    assert before["validation/accuracy"].max() < 0.7
    _, after = learned(walks(), 300, objective="inverse")
    assert after["validation/accuracy"].tolist() == [1.0, 1.0]


def test_the_forward_model_predicts_better_than_no_change_and_features_do_not_collapse() -> None:
    agent, after = learned(walks(), 400, objective="forward")
    assert after["validation/forward_error"].max() < 0.15
    features = agent.target_body(torch.from_numpy(walks().episodes[0].obs).expand(2, -1, -1)).detach()
    assert features.std(dim=1).mean(dim=-1).min() > 0.1


def test_both_together_do_both() -> None:
    _, after = learned(walks(), 400, objective="dynamics")
    assert after["validation/accuracy"].min() > 0.99
    assert after["validation/forward_error"].max() < 0.15


def test_the_classifier_finds_the_action_in_the_observation() -> None:
    _, before = learned(homing(), 0, objective="classification")
    _, after = learned(homing(), 300, objective="classification")
    assert before["validation/accuracy"].max() < 0.6
    assert after["validation/accuracy"].min() > 0.97


def test_continuous_actions_and_images_are_learned_too() -> None:
    _, before = learned(walks(PLANE, PUSH), 0, objective="dynamics")
    _, after = learned(walks(PLANE, PUSH), 300, objective="dynamics")
    assert before["validation/action_error"].min() > 0.4  # of a uniform action from the middle: 0.5
    assert after["validation/action_error"].max() < 0.1
    assert after["validation/forward_error"].max() < 0.2
    _, seen = learned(walks(BOARD, episodes=10), 120, objective="inverse", seeds=(0,))
    assert seen["validation/accuracy"].min() > 0.95


@pytest.mark.parametrize("action_space", [MultiDiscrete((2, 3), (0, 0), (2,)), MultiBinary((2,))], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_several_choices_and_bits_are_taken(action_space: Space, objective: str) -> None:
    actions = np.array([[0, 1], [1, 0]] * 10, action_space.dtype)
    obs = np.concatenate([np.zeros((1, 2)), actions]).cumsum(axis=0).astype(np.float32)
    episode = Episode(obs, actions, np.zeros(20, np.float32), terminated=True, truncated=False)
    agent, storage = make(Dataset("steps", PLANE, action_space, (episode,)), objective=objective)
    first = judged(agent, storage)["validation/loss"]
    rows = agent.prepare(storage.rows_in_order())
    for update in range(150):
        agent.update(rows, agent.scheduled(Clock(update + 1, 150)))
    assert (judged(agent, storage)["validation/loss"] < 0.5 * first).all()


@pytest.mark.parametrize(("objective", "expected"), [("inverse", 2.0), ("forward", 4.0), ("dynamics", 2.6)])
def test_dynamics_weighs_its_losses_as_the_paper_does(objective: str, expected: float) -> None:
    agent, _ = make(walks(episodes=1), objective=objective, forward_weight=0.3)
    known = {"inverse": torch.tensor([2.0, 2.0]), "forward": torch.tensor([4.0, 4.0])}
    losses = {name: known[name] for name in agent.models}  # 0.7 * 2 + 0.3 * 4
    assert agent._total(losses).tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize(("predicted", "error"), [((3.0, 0.0), 0.0), ((0.0, 0.5), 2.0), ((-1.0, 0.0), 4.0)])
def test_the_forward_error_is_the_squared_distance_of_directions(predicted: tuple[float, float], error: float) -> None:
    agent, storage = make(walks(episodes=1), objective="forward", hidden=(2,), model_hidden=())
    model = agent.models["forward"][0]
    model.weight.data.zero_()
    model.bias.data.copy_(torch.tensor(predicted))
    agent.target_body[0].weight.data.zero_()
    agent.target_body[0].bias.data.copy_(torch.tensor([9.0, 0.0]))  # whatever is observed
    batch = agent.prepare(storage.rows_in_order())
    losses, told = agent.losses(batch, agent.body(batch["obs"]), training=False)
    torch.testing.assert_close(losses["forward"], torch.full((2, 20), error), atol=1e-6, rtol=0.0)
    assert told["no_change"].abs().max() == 0.0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_body_is_trained_and_the_last_layer_stays_fresh(objective: str) -> None:
    for dataset in (walks(episodes=4), walks(PLANE, PUSH, episodes=4)):
        agent, storage = make(dataset, objective=objective)
        body, top = weights(agent.body), weights(agent.actor[len(agent.body) :])
        DatasetLoop(
            agent,
            agent.seeds,
            sampler_of(agent, storage),
            20,
            Periods(NEVER, NEVER, NEVER),
        ).run()
        assert not any(equal(body, weights(agent.body)))
        assert all(equal(top, weights(agent.actor[len(agent.body) :])))


def test_the_target_follows_by_its_share_and_gets_no_gradient() -> None:
    agent, storage = make(walks(episodes=4), objective="forward", target_tau=0.25)
    before = weights(agent.target_body)
    assert all(equal(before, weights(agent.body)))
    agent.update(agent.prepare(storage.rows_in_order()), agent.scheduled(Clock(1, 10)))
    for old, online, target in zip(before, weights(agent.body), weights(agent.target_body), strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * online)
    assert not any(p.requires_grad for p in agent.target_body.parameters())


def test_its_policy_is_one_that_ppo_begins_from_and_that_it_begins_from_itself() -> None:
    agent, _ = learned(walks(), 50)
    settings = {"hidden": (32,), "log_std_init": -1.0}
    ppo = PPO(PPOConfig(**settings), PLANE, FOUR, (0, 1), CPU)
    assert agent.policy().spec == ppo.policy().spec
    ppo.load_weights(agent.policy().state_dict())
    obs = torch.rand(2, 5, 2)
    torch.testing.assert_close(ppo.policy().outputs(obs), agent.policy().outputs(obs))
    again = Encoder(EncoderConfig(), PLANE, FOUR, (0, 1), CPU, start=agent.policy().spec)
    again.load_weights(agent.policy().state_dict())
    torch.testing.assert_close(again.policy().outputs(obs), agent.policy().outputs(obs))
    assert all(equal(weights(again.target_body), weights(agent.body)))


EVERYTHING = {"hidden": (16, 16), "dropout": 0.2, "layer_norm": True, "obs_scaling": "running", "max_grad_norm": 0.1}


def test_members_learn_beside_others_what_they_learn_alone() -> None:
    periods = Periods(NEVER, NEVER, NEVER)
    together, storage = make(walks(), (5, 17, 2), **EVERYTHING)
    before = weights(together.body)
    DatasetLoop(together, together.seeds, sampler_of(together, storage), 40, periods).run()
    assert not torch.allclose(before[0], weights(together.body)[0], atol=1e-3)
    for i, seed in enumerate((5, 17, 2)):
        alone, storage = make(walks(), (seed,), **EVERYTHING)
        DatasetLoop(alone, alone.seeds, sampler_of(alone, storage), 40, periods).run()
        for kind, network in alone.networks.items():
            for name, value in network.state_dict().items():
                both = together.networks[kind].state_dict()[name][i : i + 1]
                torch.testing.assert_close(both, value, rtol=1e-3, atol=1e-4, msg=f"{seed} {kind} {name}")


def test_a_run_that_stops_and_goes_on_is_the_run_that_never_stopped() -> None:
    agents = [make(walks(), **EVERYTHING) for _ in range(3)]
    loops = [DatasetLoop(a, a.seeds, sampler_of(a, storage), 45, Periods(NEVER, NEVER, NEVER)) for a, storage in agents]
    whole, broken, resumed = loops
    whole.run()
    broken.host = replace(broken.host, should_stop=lambda: broken.updates == 17)
    assert not broken.run()
    resumed.load_state(copy.deepcopy(broken.state()))
    assert resumed.run()
    one, other = agents[0][0], agents[2][0]
    for kind in ("actor", "inverse", "forward"):
        assert all(equal(weights(one.networks[kind]), weights(other.networks[kind])))
    assert all(equal(weights(one.target_body), weights(other.target_body)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "invers"}, "unknown objective 'invers'. Did you mean 'inverse'?"),
        ({"forward_weight": 1.5}, "forward_weight 1.5 must be in [0, 1]."),
        ({"forward_weight": math.nan}, "forward_weight nan must be in [0, 1]."),
        ({"model_hidden": (64, 0)}, "model_hidden (64, 0) must all be 1 or more."),
        ({"target_tau": 0.0}, "target_tau 0.0 must be in (0, 1]."),
        ({"validation_fraction": -0.1}, "validation_fraction -0.1 must be in [0, 1)."),
        ({"patience": 0}, "patience 0 must be 1 or more."),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_born(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        EncoderConfig(**settings)
    assert str(caught.value) == said


def test_a_policy_without_a_body_is_refused_and_convolutions_are_one() -> None:
    with pytest.raises(
        UsageError, match=r"hidden \(\) leaves no body to train; give it a layer, such as --hidden 64\."
    ):
        make(walks(episodes=1), hidden=())
    assert len(make(walks(BOARD, episodes=1), hidden=())[0].body) == 3
