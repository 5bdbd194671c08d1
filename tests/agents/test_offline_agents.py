"""DQfD, CQL and IQL on recorded probe worlds: their fixed points are known on paper."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab.envs  # noqa: F401  # the probe worlds
from rlab.agents import load_agent
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import Demonstrations, demonstrations_of
from rlab.experience.samplers import Sampler
from rlab.learning.base_loop import Periods
from rlab.learning.dataset_loop import DatasetLoop
from rlab.learning.sparsity import GradualPruning
from rlab.networks.spaces import Box, Discrete, Masked, Space, pack
from rlab.types import Clock

NEVER, CPU = 10**9, torch.device("cpu")
NUMBER, TWO = Box((1,), "float32", -1.0, 1.0), Discrete(2)
GAMMA = 0.5
OFFLINE = ("cql", "dqfd", "iql")
Choose = Callable[[int, Any], Any]  # (step of the whole recording, mask) -> action


def recorded(
    env_id: str, episodes: int, choose: Choose, obs_space: Space = NUMBER, action_space: Space = TWO
) -> Dataset:
    """What happens in a world in which `choose` acts."""
    env, found, step = gym.make(env_id), [], 0
    for seed in range(episodes):
        obs, info = env.reset(seed=seed)
        seen, done, earned, terminated, truncated = (
            [pack(obs_space, obs, info.get("action_mask"))],
            [],
            [],
            False,
            False,
        )
        while not (terminated or truncated):
            done.append(choose(step, info.get("action_mask")))
            obs, reward, terminated, truncated, info = env.step(done[-1])
            seen.append(pack(obs_space, obs, info.get("action_mask")))
            earned.append(reward)
            step += 1
        actions = np.array(done, action_space.dtype)
        found.append(Episode(np.stack(seen), actions, np.array(earned, np.float32), bool(terminated), bool(truncated)))
    return Dataset(env_id, obs_space, action_space, tuple(found))


def make(name: str, dataset: Dataset, seeds: Sequence[int] = (0, 1), **settings: Any) -> tuple[Any, Demonstrations]:
    agent_class: Any = load_agent(name)
    config = agent_class.Config(**{"gamma": GAMMA, "hidden": (32,), "learning_rate": 1e-2, **settings})
    agent = agent_class(config, dataset.obs_space, dataset.action_space, seeds, CPU)
    storage = demonstrations_of(dataset, seeds)
    agent.fit_statistics(*storage.observations())
    return agent, storage


def sampler_of(agent: Any, storage: Demonstrations) -> Sampler:
    return agent.sampler(storage, Draws(agent.seeds, "dataset", CPU))  # type: ignore[no-any-return]


def learned(name: str, dataset: Dataset, updates: int, **settings: Any) -> Any:
    agent, storage = make(name, dataset, **{"lr_schedule": "linear", "lr_final": 0.0, "batch_size": 256, **settings})
    DatasetLoop(
        agent,
        agent.seeds,
        sampler_of(agent, storage),
        updates,
        Periods(NEVER, NEVER, NEVER),
    ).run()
    return agent


@torch.no_grad()
def q_of(agent: Any, *obs: Sequence[float]) -> np.ndarray:
    """`[S, len(obs), A]`."""
    found: np.ndarray = agent.policy().outputs(torch.tensor([list(obs)]).expand(2, -1, -1)).numpy()
    return found


def alternate(step: int, mask: Any) -> int:
    return step % 2


# Steps 2 k and 2 k + 1 are one episode of ProbeCredit: every pair of actions equally often.
def pairs(step: int, mask: Any) -> int:
    return (step // 2 + (step % 2) * (step // 4)) % 2


@torch.no_grad()
def iql_values(agent: Any, obs: Sequence[float], action: int) -> tuple[np.ndarray, np.ndarray]:
    """V(obs), and the smaller Q(obs, action), `[S]` each."""
    rows = {"obs": agent.preprocess(torch.tensor(obs).expand(2, 1, -1)), "action": torch.full((2, 1), action)}
    return agent.critic(rows["obs"])[:, 0, 0].numpy(), agent.action_values(agent.q_networks, rows).amin(1)[:, 0].numpy()


def test_iql_s_value_is_an_expectile_and_its_policy_weighs_actions_by_their_advantage() -> None:
    agent = learned("iql", recorded("rlab/ProbeAction-v0", 200, alternate), 500, target_tau=0.1, beta=1.0)
    for action, q in ((0, -1.0), (1, 1.0)):
        value, found = iql_values(agent, (0.0,), action)
        np.testing.assert_allclose(found, q, atol=0.03)
        np.testing.assert_allclose(value, 0.4, atol=0.04)  # 0.7 (1 - v) = 0.3 (v + 1)
    chance = torch.from_numpy(q_of(agent, (0.0,))).softmax(-1)[:, 0, 1]
    np.testing.assert_allclose(chance, 1 / (1 + math.exp(-2)), atol=0.02)  # the weights' ratio is exp(beta * 2)


def test_iql_without_beta_clones() -> None:
    agent = learned("iql", recorded("rlab/ProbeAction-v0", 200, lambda step, mask: int(step % 4 == 0)), 300, beta=0.0)
    np.testing.assert_allclose(torch.from_numpy(q_of(agent, (0.0,))).softmax(-1)[:, 0, 1], 0.25, atol=0.03)


def test_iql_sends_credit_back_through_states_that_the_data_knows() -> None:
    agent = learned("iql", recorded("rlab/ProbeCredit-v0", 200, pairs), 800, target_tau=0.1)
    for obs, action, expected in (((0.0,), 0, -GAMMA), ((0.0,), 1, GAMMA), ((-1.0,), 0, -1.0), ((1.0,), 1, 1.0)):
        value, q = iql_values(agent, obs, action)
        np.testing.assert_allclose(q, expected, atol=0.06)
        np.testing.assert_allclose(value, 0.4 * GAMMA if obs == (0.0,) else expected, atol=0.06)
    assert (q_of(agent, (0.0,)).argmax(-1) == 1).all()


PLAIN = {"demonstration_weight": 0.0, "target_every": 20}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(("cql", PLAIN), ("dqfd", PLAIN), ("iql", {"target_tau": 0.2})),
        pytest.param("dqfd", {**PLAIN, "n_step": 1}, marks=pytest.mark.prove),
    ],
)
def test_a_time_limit_is_no_ending(name: str, settings: dict[str, Any]) -> None:
    agent = learned(name, recorded("rlab/ProbeEndless-v0", 100, alternate), 800, **settings)
    found = iql_values(agent, (0.0,), 1)[1] if name == "iql" else q_of(agent, (0.0,))
    np.testing.assert_allclose(found, 1 / (1 - GAMMA), atol=0.06)


def test_iql_moves_a_continuous_action_to_where_it_pays() -> None:
    arm, rng = Box((1,), "float32", -2.0, 2.0), np.random.default_rng(0)
    choose = lambda step, mask: rng.uniform(-2.0, 2.0, size=1).astype(np.float32)  # noqa: E731
    dataset = recorded("rlab/ProbeContinuous-v0", 1000, choose, action_space=arm)
    agent = learned("iql", dataset, 1_000, target_tau=0.1, hidden=(32, 32))
    obs = np.array([[[-1.0], [1.0]]] * 2, np.float32)
    np.testing.assert_allclose(agent.policy()(obs), obs, atol=0.2)
    rows = agent.prepare(demonstrations_of(dataset, (0, 1)).rows_in_order())
    with torch.no_grad():
        q = agent.action_values(agent.q_networks, rows).amin(dim=1)
    assert (q - rows["reward"]).abs().mean() < 0.15  # 1 - (a - x)^2, which goes down to -8


def test_cql_is_as_much_too_low_as_its_fixed_point_says() -> None:
    # Per state: p_a (Q_a - r_a) + alpha (softmax_a - p_a) = 0; here p = 1/2 and r = -1, 1: q + alpha tanh q = 1.
    agent = learned(
        "cql", recorded("rlab/ProbeAction-v0", 200, alternate), 600, demonstration_weight=0.5, loss="squared"
    )
    q = 0.6989  # 0.6989 + 0.5 * 0.6036 = 1.0007
    assert q + 0.5 * math.tanh(q) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(q_of(agent, (0.0,))[:, 0], [[-q, q]] * 2, atol=0.02)


def test_cql_without_its_loss_is_double_q_learning_and_with_it_unseen_actions_are_worth_less() -> None:
    three = Discrete(3)
    dataset = recorded("rlab/ProbeAction-v0", 200, alternate, action_space=three)  # action 2 is never done
    plain = learned("cql", dataset, 300, demonstration_weight=0.0, loss="squared")
    np.testing.assert_allclose(q_of(plain, (0.0,))[:, 0, :2], [[-1.0, 1.0]] * 2, atol=0.02)
    careful = learned("cql", dataset, 300, loss="squared")
    assert (q_of(careful, (0.0,))[:, 0, 2] < q_of(careful, (0.0,))[:, 0, :2].min(axis=-1)).all()


def test_dqfd_values_what_was_shown_and_keeps_the_rest_below_by_the_margin() -> None:
    agent = learned("dqfd", recorded("rlab/ProbeCredit-v0", 50, lambda step, mask: 1), 600, margin=0.3, target_every=20)
    q = q_of(agent, (0.0,), (1.0,))
    np.testing.assert_allclose(q[..., 1], [[GAMMA, 1.0]] * 2, atol=0.03)
    assert (q[..., 0] <= q[..., 1] - 0.27).all()


@pytest.mark.parametrize("name", OFFLINE)
def test_what_a_mask_forbids_is_never_chosen_and_takes_no_part(name: str) -> None:
    rng = np.random.default_rng(0)

    def choose(step: int, mask: Any) -> int:
        # DQfD is shown what is best, the others anything
        return max(1, int(np.argmax(mask))) if name == "dqfd" else int(rng.choice(np.flatnonzero(mask)))

    space = Masked(NUMBER, 3)
    dataset = recorded("rlab/ProbeMasked-v0", 60, choose, obs_space=space, action_space=Discrete(3))
    settings = {"iql": {}, "cql": {"target_every": 20, "demonstration_weight": 0.1}, "dqfd": {"target_every": 20}}
    agent = learned(name, dataset, 400, **settings[name])
    masks = {0.0: (1, 1, 0), -1.0: (1, 0, 0), 1.0: (0, 1, 1)}
    rows = [pack(space, np.array([x], np.float32), np.array(mask)) for x, mask in masks.items()]
    actions = agent.policy()(np.stack([rows] * 2))
    assert actions.tolist() == [[1, 0, 1]] * 2
    assert agent.act(torch.from_numpy(np.stack([rows] * 2)), {}, {}).action.tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize("name", ["cql", "dqfd"])
def test_the_target_follows_when_so_many_updates_are_over(name: str) -> None:
    agent, storage = make(name, recorded("rlab/ProbeAction-v0", 20, alternate), target_every=3)
    batch = agent.prepare(storage.rows_in_order())
    equal = []
    for update in range(1, 8):
        agent.update(batch, agent.scheduled(Clock(update, 100)))
        pairs = zip(agent.q_network.parameters(), agent.target_network.parameters(), strict=True)
        equal.append(all(torch.equal(a, b) for a, b in pairs))
    assert equal == [False, False, True, False, False, True, False]


def test_iql_s_targets_take_over_their_share() -> None:
    agent, storage = make("iql", recorded("rlab/ProbeAction-v0", 20, alternate), target_tau=0.25)
    before = [p.detach().clone() for p in agent.target_networks.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_networks.parameters(), strict=True))
    agent.update(agent.prepare(storage.rows_in_order()), agent.scheduled(Clock(1, 100)))
    for old, online, target in zip(
        before, agent.q_networks.parameters(), agent.target_networks.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * online)


def test_iql_s_losses_on_numbers_worked_by_hand() -> None:
    agent, _ = make("iql", recorded("rlab/ProbeAction-v0", 4, alternate), hidden=(), beta=1.0, learning_rate=1e-9)
    for network, bias in ((agent.critic, [0.5]), (agent.actor, [math.log(3), 0.0])):
        network[0].weight.data.zero_()
        network[0].bias.data.copy_(torch.tensor(bias))
    for networks in (agent.q_networks, agent.target_networks):
        last = networks.network.top[0]  # of 2 networks for each of 2 members
        last.weight.data.zero_()
        last.bias.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0]] * 2).unsqueeze(1))
    rows = {"obs": torch.zeros(2, 2, 1), "next_obs": torch.zeros(2, 2, 1), "action": torch.tensor([[0, 1]] * 2)}
    rows |= {"reward": torch.tensor([[1.0, 1.0]] * 2), "discount": torch.tensor([[0.5, 0.0]] * 2)}
    rows["mask"] = torch.tensor([[[True, True], [False, True]]] * 2)  # the second row leaves no choice
    metrics = agent.update(rows, agent.scheduled(Clock(1, 10))).metrics
    # the smaller Q is 1 for action 0 and 0 for action 1; V is 0.5: 0.7 * 0.5^2 and 0.3 * 0.5^2
    assert metrics["loss/value"].tolist() == pytest.approx([0.5 * 0.25] * 2)
    # goals 1.25 and 1: (1 - 1.25)^2 + (3 - 1.25)^2 and (2 - 1)^2 + (0 - 1)^2
    assert metrics["loss/q"].tolist() == pytest.approx([(0.0625 + 3.0625 + 2.0) / 2] * 2)
    expected = (math.exp(0.5) * math.log(4 / 3) + math.exp(-0.5) * 0.0) / 2
    assert metrics["loss/policy"].tolist() == pytest.approx([expected] * 2)


Q_EVERYTHING = {
    "hidden": (16,),
    "dropout": 0.2,
    "obs_scaling": "running",
    "dueling": True,
    "target_every": 7,
    "n_step": 3,
}
EVERYTHING: dict[str, dict[str, Any]] = {
    "cql": Q_EVERYTHING,
    "dqfd": Q_EVERYTHING,
    "iql": {"hidden": (16,), "dropout": 0.2, "layer_norm": True, "obs_scaling": "running", "max_grad_norm": 0.5},
}


@pytest.mark.parametrize("name", OFFLINE)
def test_members_learn_beside_others_what_they_learn_alone(name: str) -> None:
    dataset = recorded("rlab/ProbeCredit-v0", 40, pairs)
    periods = Periods(NEVER, NEVER, NEVER)
    together, storage = make(name, dataset, (5, 17, 2), **EVERYTHING[name])
    start = copy.deepcopy(together.policy().state_dict())
    DatasetLoop(together, together.seeds, sampler_of(together, storage), 60, periods).run()
    assert any(not torch.allclose(start[k], v, atol=1e-3) for k, v in together.policy().state_dict().items())
    for i, seed in enumerate((5, 17, 2)):
        alone, storage = make(name, dataset, (seed,), **EVERYTHING[name])
        DatasetLoop(alone, alone.seeds, sampler_of(alone, storage), 60, periods).run()
        for kind, network in alone.networks.items():
            for tensor, value in network.state_dict().items():
                both = together.networks[kind].state_dict()[tensor][i : i + 1]
                torch.testing.assert_close(both, value, rtol=1e-3, atol=1e-4, msg=f"{seed} {kind} {tensor}")


@pytest.mark.parametrize(("name", "sparsity"), [*((name, 0.0) for name in OFFLINE), ("cql", 0.8)])
def test_a_run_that_stops_and_goes_on_is_the_run_that_never_stopped(name: str, sparsity: float) -> None:
    dataset, periods = recorded("rlab/ProbeCredit-v0", 40, pairs), Periods(NEVER, NEVER, NEVER)
    agents = [make(name, dataset, **EVERYTHING[name]) for _ in range(3)]
    for agent, _ in agents:
        if sparsity:
            GradualPruning.of_policy(sparsity, agent)
    whole, broken, resumed = (
        DatasetLoop(agent, agent.seeds, sampler_of(agent, storage), 45, periods) for agent, storage in agents
    )
    whole.run()
    broken.host = dataclasses.replace(broken.host, should_stop=lambda: broken.updates == 17)
    assert not broken.run()
    resumed.load_state(copy.deepcopy(broken.state()))
    assert resumed.run()
    check_same(whole.agent.state(), resumed.agent.state())


def check_same(one: Any, other: Any, where: str = "state") -> None:
    """Two states, bit for bit."""
    if isinstance(one, dict | list):
        assert len(one) == len(other), where
        for key in one if isinstance(one, dict) else range(len(one)):
            check_same(one[key], other[key], f"{where} {key}")
    else:
        assert np.array_equal(one, other), where


@pytest.mark.parametrize("name", OFFLINE)
def test_an_agent_without_an_env_has_no_settings_of_acting_in_one_and_reports_none(name: str) -> None:
    agent, _ = make(name, recorded("rlab/ProbeAction-v0", 4, alternate))
    fields = {field.name for field in dataclasses.fields(agent.config)}
    assert not fields & {"replay_capacity", "learning_starts", "learn_every", "updates_per_learn", "rollout_steps"}
    assert not [name for name in fields if name.startswith(("epsilon", "entropy"))]
    logged = {tag: value for tag, value in agent.scheduled(Clock(0, 10)).items() if "/" in tag}
    assert logged == {"optimizer/learning_rate": 0.01}
    assert agent.policy().spec.head.get("epsilon", 0.0) == 0.0
    assert agent.data == "dataset"


@pytest.mark.parametrize("name", OFFLINE)
def test_it_begins_from_a_policy_that_there_is(name: str) -> None:
    first, storage = make(name, recorded("rlab/ProbeCredit-v0", 8, pairs), hidden=(8,), activation="elu")
    agent = type(first)(type(first.config)(), NUMBER, TWO, (0, 1), CPU, start=first.policy().spec)
    for tensor in first.policy().state_dict().values():
        tensor += 1.0
    agent.load_weights(first.policy().state_dict())
    np.testing.assert_array_equal(q_of(agent, (0.5,)), q_of(first, (0.5,)))
    if name != "iql":
        assert all(map(torch.equal, agent.q_network.parameters(), agent.target_network.parameters()))
    agent.update(agent.prepare(storage.rows_in_order()), agent.scheduled(Clock(1, 10)))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("iql", {"expectile": 1.0}, "expectile 1.0 must be above 0 and below 1."),
        ("iql", {"beta": -1.0}, "beta -1.0 must be 0 or more."),
        ("iql", {"max_weight": 0.0}, "max_weight 0.0 must be above 0."),
        ("iql", {"target_tau": 0.0}, "target_tau 0.0 must be in (0, 1]."),
        ("iql", {"gamma": -0.1}, "gamma -0.1 must be in [0, 1]."),
        ("cql", {"demonstration_weight": -1.0}, "demonstration_weight -1.0 must be 0 or more."),
        ("cql", {"demonstration_loss": "conservativ"}, "unknown demonstration_loss 'conservativ'. Did you mean"),
        ("dqfd", {"margin": math.nan}, "margin nan must be 0 or more."),
        ("dqfd", {"n_step": 0}, "n_step 0 must be 1 or more."),
        ("dqfd", {"target_every": 0}, "target_every 0 must be 1 or more."),
        ("cql", {"batch_size": 0}, "batch_size 0 must be 1 or more."),
        ("cql", {"loss": "hubber"}, "unknown loss 'hubber'. Did you mean 'huber'?"),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_born(name: str, settings: dict[str, Any], said: str) -> None:
    agent_class: Any = load_agent(name)
    with pytest.raises(UsageError) as caught:
        agent_class.Config(**settings)
    assert str(caught.value).startswith(said)
