"""A teacher guides a learning agent, less and less: sooner with it than without, and in the end without it."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents import load_agent
from rlab.draws import Draws
from rlab.envs import EnvSpec, make_episodes, make_vec
from rlab.evaluation.evaluate import evaluate
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.storage import Storage
from rlab.learning.base_loop import Periods
from rlab.learning.distillation import Teacher
from rlab.learning.loop import ReplayLoop
from rlab.learning.rollout_loop import RolloutLoop
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.heads import build_head
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock

NEVER, CPU, SEEDS, NUM_ENVS = 10**9, torch.device("cpu"), (0, 1, 2), 4
WORLD = "rlab/ProbeActionObservation-v0"  # 1 where the action agrees with the observation's sign, else -1
NUMBER, TWO = Box((1,), "float32", -1.0, 1.0), Discrete(2)
# Plain gradients, small steps: in the budget little is learned without a teacher. Adam's steps would be of one size.
PLAIN = {"optimizer": "sgd", "max_grad_norm": None, "lr_schedule": "constant"}
ON_POLICY = {**PLAIN, "actor_gain": 0.1}
SLOW: dict[str, dict[str, Any]] = {
    "dqn": {**PLAIN, "learning_rate": 3e-3, "learning_starts": 20, "batch_size": 32, "epsilon_end": 1.0},
    "ppo": {**ON_POLICY, "learning_rate": 3e-3, "rollout_steps": 20, "epochs": 4},
    "a2c": {**ON_POLICY, "learning_rate": 3e-2, "rollout_steps": 8},
    "reinforce": {**ON_POLICY, "learning_rate": 3e-2, "rollout_steps": 8},
}


def teacher(head: str = "q", scale: float = 1.0) -> Policy:
    """Knows the world: `Q(x, 0) = -x` and `Q(x, 1) = x`, times `scale`."""
    preprocess = Preprocess(NUMBER, "none", None, None).to_json()
    spec = PolicySpec(NUMBER, TWO, preprocess, q_network_spec(NUMBER, 2, BodySettings(())), {"kind": head})
    policy = build_policy(spec, SEEDS)
    state = policy.state_dict()
    weight = next(name for name in state if name.endswith("weight"))
    state[weight].copy_(scale * torch.tensor([[-1.0, 1.0]]))
    state[weight.replace("weight", "bias")].zero_()
    return policy


def make(name: str, term: Teacher | None = None, **settings: Any) -> Any:
    agent_class: Any = load_agent(name)
    config = agent_class.Config(**{"hidden": (16,), **SLOW[name], **settings})
    agent = agent_class(config, NUMBER, TWO, SEEDS, CPU)
    if term is not None:
        agent.terms.append(term)
    return agent


def teacher_for(name: str, weight: float = 1.0, fraction: float = 1.0) -> Teacher:
    return Teacher(teacher(), build_head({"kind": "q" if name == "dqn" else "categorical"}, TWO), weight, fraction)


def trained(name: str, env_steps: int, term: Teacher | None) -> Any:
    agent = make(name, term)
    env = HostEnv(make_vec(EnvSpec.parse(WORLD), SEEDS, NUM_ENVS), CPU)
    storage = Storage(len(SEEDS), NUM_ENVS, 1000, agent.fields())
    loop: Any = RolloutLoop if agent.data == "rollout" else ReplayLoop
    sampler = agent.sampler(storage, Draws(SEEDS, loop.stream_use, CPU))
    judged = SimpleNamespace(returns=np.zeros((len(SEEDS), 1)), lengths=np.ones((len(SEEDS), 1)))
    loop(agent, Collector(env), storage, sampler, env_steps, Periods(NEVER, NEVER, NEVER), lambda: judged).run()
    env.close()
    return agent


def mean_return(agent: Any) -> float:
    """Of greedy episodes."""
    return float(evaluate(agent.policy(), lambda n: make_episodes(EnvSpec(WORLD), n), 20, 100_000).returns.mean())


def chance_of_being_right(agent: Any) -> float:
    """Of a sampled action, a mean over members and states."""
    with torch.no_grad():
        outputs = agent.policy().outputs(torch.tensor([[[-1.0], [1.0]]]).expand(3, 2, 1))
    chance: float = outputs.softmax(dim=-1)[:, [0, 1], [0, 1]].mean().item()
    return chance


def test_a_student_of_values_with_a_teacher_reaches_it_sooner_than_one_without() -> None:
    assert mean_return(trained("dqn", 120, teacher_for("dqn", weight=5.0))) == 1.0
    assert mean_return(trained("dqn", 120, None)) < 1.0


@pytest.mark.parametrize("name", ["a2c", "ppo", "reinforce"])
def test_a_student_of_probabilities_with_a_teacher_reaches_it_sooner_than_one_without(name: str) -> None:
    assert chance_of_being_right(trained(name, 480, teacher_for(name, weight=5.0))) > 0.75
    assert 0.5 < chance_of_being_right(trained(name, 480, None)) < 0.7


def batch_for(agent: Any) -> dict[str, torch.Tensor]:
    """Prepared rows of every kind."""
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(3, 4, 9, 1)).astype(np.float32))
    action = torch.from_numpy(rng.integers(2, size=(3, 4, 8)))
    reward = torch.from_numpy(rng.choice([-1.0, 1.0], size=(3, 4, 8)).astype(np.float32))
    yes, no = torch.ones(3, 4, 8, dtype=torch.bool), torch.zeros(3, 4, 8, dtype=torch.bool)
    rows = {"action": action, "reward": reward, "terminated": yes, "truncated": no}
    if agent.data == "rollout":
        hidden = {"final_obs": torch.zeros(3, 0, 1), "final_row": torch.zeros(3, 0, dtype=torch.int64)}
        return dict(agent.prepare({**rows, **hidden, "obs": obs, "valid": yes}))
    flat = {key: value.flatten(1) for key, value in rows.items()}
    flat |= {"reward": flat["reward"].unsqueeze(-1), "steps": torch.ones(3, 32, dtype=torch.int64)}
    flat |= {"obs": obs[:, :, :8].flatten(1, 2), "next_obs": obs[:, :, 1:].flatten(1, 2)}
    return dict(agent.prepare(flat))


def after_one_update(name: str, term: Teacher | None, clock: Clock) -> dict[str, torch.Tensor]:
    """The policy's weights."""
    agent = make(name, term)
    agent.update(batch_for(agent), agent.scheduled(clock))
    return copy.deepcopy(dict(agent.policy().state_dict()))


@pytest.mark.parametrize("name", sorted(SLOW))
def test_once_its_time_is_over_a_teacher_changes_no_bit(name: str) -> None:
    term = teacher_for(name, weight=3.0, fraction=0.5)
    for env_steps, same in ((499, False), (500, True), (900, True)):
        clock = Clock(env_steps, 1000)
        taught, alone = after_one_update(name, term, clock), after_one_update(name, None, clock)
        assert all(torch.equal(taught[key], alone[key]) for key in alone) == same, env_steps


@pytest.mark.parametrize("name", sorted(SLOW))
def test_the_loss_has_the_teacher_s_share_by_the_weight_of_the_moment(name: str) -> None:
    term = teacher_for(name, weight=2.0, fraction=0.5)
    agent, alone = make(name, term), make(name)
    batch = batch_for(agent)
    assert "teacher" in batch
    clock = Clock(125, 1000)  # a quarter of the way: 1.5
    expected = term.loss(agent.policy().outputs(batch["obs"]), batch)
    losses = []
    for each in (agent, alone):
        each.optimizer.step = lambda loss, *rest, **more: losses.append(loss) or loss.detach()
        metrics = each.update(batch_for(each), each.scheduled(clock)).metrics
        if each is agent:
            torch.testing.assert_close(metrics["loss/teacher"], expected)
        else:
            assert "loss/teacher" not in metrics
    torch.testing.assert_close(losses[0] - losses[1], 1.5 * expected, rtol=1e-4, atol=1e-5)


def test_members_of_a_student_learn_from_their_own_teachers() -> None:
    policy = teacher("categorical", scale=3.0)
    next(policy.network.parameters()).data[1] *= -1.0  # member 1 is taught the opposite
    agent = make("a2c", Teacher(policy, policy.head, weight=10.0, fraction=1.0), learning_rate=3e-2)
    for _ in range(60):
        agent.update(batch_for(agent), agent.scheduled(Clock(32, NEVER)))
    obs = np.array([[[-1.0], [1.0]]] * 3, np.float32)
    assert agent.policy()(obs).tolist() == [[0, 1], [1, 0], [0, 1]]
