"""PPO, A2C and REINFORCE with memory: a rollout is learned from in the states that it was acted with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.sequence_samplers import read_rollout
from rlab.experience.storage import Storage
from rlab.learning.distillation import Teacher
from rlab.networks import memory
from rlab.networks.spaces import Box, Discrete
from rlab.runs.policies import load_policy
from rlab.types import Clock

OBS = Box((3,), "float32", -1.0, 1.0)
PUSH = Box((2,), "float32", -2.0, 2.0)
CLOCK = Clock(1_000, 10_000)
KINDS = ("gru", "lstm", "transformer")
ENVS, STEPS = 4, 8


def made(
    name: str = "ppo", kind: str = "gru", seeds: tuple[int, ...] = (0, 1), actions: Any = None, **more: Any
) -> Any:
    agent: Any = load_agent(name)
    settings = {"hidden": (8,), "rollout_steps": STEPS, "memory": kind, "memory_size": 8, "memory_window": 3, **more}
    made = agent(agent.Config(**settings), OBS, actions or Discrete(3), seeds, torch.device("cpu"))
    with torch.no_grad():
        for parameter in (*made.actor.parameters(), *made.critic.parameters()):
            parameter *= 1.5  # what is remembered moves the outputs
    return made


class Played:
    """An agent plays on random observations, with every kind of ending; it may go on for several rollouts."""

    def __init__(self, agent: Any, seed: int = 0, reset_rows: bool = False) -> None:
        self.agent, self.rng, self.reset_rows = agent, np.random.default_rng(seed), reset_rows
        self.lanes = (len(agent.seeds), ENVS)
        self.storage = Storage(*self.lanes, STEPS * ENVS, agent.fields())
        self.obs, self.initial = self.uniform(), agent.initial_state(ENVS)
        self.state, self.resetting = self.initial, torch.zeros(self.lanes, dtype=torch.bool)

    def uniform(self) -> torch.Tensor:
        return torch.from_numpy(self.rng.uniform(-1, 1, (*self.lanes, 3)).astype(np.float32))

    def rollout(self) -> dict[str, torch.Tensor]:
        for _ in range(STEPS):
            self.step()
        return read_rollout(self.storage, STEPS)

    def step(self) -> None:
        acted = self.agent.act(self.obs, self.agent.scheduled(CLOCK), self.state)
        valid = ~self.resetting
        terminated = torch.from_numpy(self.rng.random(self.lanes) < 0.15) & valid
        truncated = torch.from_numpy(self.rng.random(self.lanes) < 0.15) & valid & ~terminated
        led_to, ended = self.uniform(), terminated | truncated
        # An env either resets itself at once, so that what a row led to is hidden, or with the next step.
        at_once = ended.unsqueeze(-1) & (not self.reset_rows)
        following = torch.where(at_once, self.uniform(), led_to)
        reward = torch.from_numpy(self.rng.normal(size=self.lanes))
        step = Step(following, led_to, reward, terminated, truncated, valid)
        self.storage.add(self.obs, acted.action, step, **acted.extras)
        self.state = memory.reset(acted.state, self.initial, ~valid | ended)
        self.obs, self.resetting = following, ended & self.reset_rows


def values_alone(agent: Any, batch: dict[str, torch.Tensor], member: int, env: int, gamma: float) -> list[float]:
    """What one env's rows should be worth with one-step targets, played alone, step by step, by one row."""

    def at(obs: torch.Tensor, state: memory.State) -> tuple[float, memory.State]:
        rows = torch.zeros(len(agent.seeds), 1, 3)
        rows[member, 0] = obs
        value, after = agent.model.step_value(agent.preprocess(rows), state)
        return value[member, 0].item(), after

    final = {int(row): batch["final_obs"][member, i] for i, row in enumerate(batch["final_row"][member])}
    state = {name: batch[name][:, env : env + 1, 0] for name in agent.initial_state(1)}
    targets, fresh = [], agent.initial_state(1)
    for t in range(STEPS):
        _, after = at(batch["obs"][member, env, t], state)
        following, _ = at(final.get(env * STEPS + t, batch["obs"][member, env, t + 1]), after)
        terminated, truncated, valid = (bool(batch[n][member, env, t]) for n in ("terminated", "truncated", "valid"))
        targets.append(batch["reward"][member, env, t].item() + gamma * following * (not terminated))
        state = fresh if terminated or truncated or not valid else after
    return targets


@pytest.mark.parametrize("reset_rows", [False, True], ids=["reset at once", "reset rows"])
@pytest.mark.parametrize("shared_body", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_worth_what_it_is_to_an_env_that_plays_alone(
    kind: str, shared_body: bool, reset_rows: bool
) -> None:
    agent = made("ppo", kind, shared_body=shared_body, gae_lambda=0.0, gamma=0.5)
    play = Played(agent, reset_rows=reset_rows)
    play.rollout()
    batch = play.rollout()  # begins in the middle of episodes
    assert batch["truncated"].any()
    assert batch["terminated"].any()
    target = agent.prepare(batch)["target"].reshape(2, ENVS, STEPS)
    assert batch["valid"].all().item() is not reset_rows
    for member in range(2):
        for env in range(ENVS):
            valid = batch["valid"][member, env].numpy()
            alone = np.array(values_alone(agent, batch, member, env, 0.5))
            np.testing.assert_allclose(target[member, env].numpy()[valid], alone[valid], atol=1e-5)


@pytest.mark.parametrize("sequence_length", [None, 4, 1])
@pytest.mark.parametrize("shared_body", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_minibatch_has_ratio_one_also_in_the_middle_of_episodes(
    kind: str, shared_body: bool, sequence_length: int | None
) -> None:
    for actions in (Discrete(3), PUSH):
        agent = made("ppo", kind, actions=actions, shared_body=shared_body, sequence_length=sequence_length)
        play = Played(agent, reset_rows=True)
        for _ in range(2):
            batch = play.rollout()
            sequences = agent.prepare(batch)
            length = sequence_length or STEPS
            assert sequences["begins"].shape == (2, ENVS * STEPS // length, length)
            # As it was acted with: one step from the state of each row, which storage kept.
            states = {name: batch[name].flatten(1, 2) for name in agent.initial_state(1)}
            features = agent.preprocess(batch["obs"][:, :, :-1].flatten(1, 2))
            outputs, _ = agent.model.act(features, states)
            acted = agent.head.log_prob(outputs, batch["action"].flatten(1, 2))
            torch.testing.assert_close(sequences["log_prob"].flatten(1), acted, rtol=0.0, atol=1e-5)
            part = {name: value[:, : ENVS // 2] for name, value in sequences.items()}
            metrics = agent.update(part, agent.scheduled(CLOCK)).metrics
            assert metrics["policy/clip_fraction"].tolist() == [0.0, 0.0]
            torch.testing.assert_close(metrics["policy/kl"], torch.zeros(2), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("shared_body", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize(
    ("name", "kind"), [("ppo", "gru"), ("ppo", "lstm"), ("a2c", "transformer"), ("reinforce", "gru")]
)
def test_gradients_equal_finite_differences(name: str, kind: str, shared_body: bool) -> None:
    more = {"memory_size": 4, "shared_body": shared_body, "entropy_weight": 0.1}
    agent = made(name, kind, seeds=(0,), **more)
    batch = agent.prepare(Played(agent, reset_rows=True).rollout())
    agent.actor.double()
    agent.critic.double()
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    # away from the old policy, so that the ratio is not at a kink, with some rows beyond the clip
    generator = torch.Generator().manual_seed(0)
    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    now = agent.scheduled(CLOCK)

    def loss() -> torch.Tensor:
        total: torch.Tensor = agent.loss(agent.rows(batch), now)[0].sum()
        return total

    grads = torch.autograd.grad(loss(), parameters)
    # Along random directions: every parameter takes part in each.
    for _ in range(4):
        ways = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        expected = sum((grad * way).sum().item() for grad, way in zip(grads, ways, strict=True))
        ends = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for parameter, way in zip(parameters, ways, strict=True):
                    parameter.add_(way, alpha=step)
                ends.append(loss().item())
        with torch.no_grad():
            for parameter, way in zip(parameters, ways, strict=True):
                parameter.add_(way, alpha=1e-6)
        assert expected == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("ppo", "lstm"), ("a2c", "transformer"), ("reinforce", "gru")])
def test_a_member_learns_the_same_alone_and_beside_others(name: str, kind: str) -> None:
    both, alone = made(name, kind, seeds=(0, 1)), made(name, kind, seeds=(1,))
    play = Played(both, reset_rows=True)
    for _ in range(2):
        batch = play.rollout()
        for agent, given in ((both, batch), (alone, {key: value[1:] for key, value in batch.items()})):
            agent.update(agent.prepare(given), agent.scheduled(CLOCK))
    for together, apart in ((both.actor, alone.actor), (both.critic, alone.critic)):
        for (key, tensor), other in zip(together.named_parameters(), apart.parameters(), strict=True):
            torch.testing.assert_close(tensor[1:], other, rtol=0, atol=1e-5, msg=key)


def test_a_teacher_without_memory_guides_a_student_with_memory() -> None:
    agent = made("ppo", "gru")
    plain = load_agent("ppo")
    teacher = plain(plain.Config(hidden=(8,)), OBS, Discrete(3), (0, 1), torch.device("cpu")).policy()
    agent.terms.append(Teacher(teacher, agent.head, weight=1.0, fraction=1.0))
    batch = Played(agent).rollout()
    now, sequences = agent.scheduled(CLOCK), agent.prepare(batch)
    outputs = teacher.outputs(batch["obs"][:, :, :-1].flatten(1, 2))
    expected = torch.nn.functional.kl_div(
        agent.outputs(sequences).log_softmax(-1), outputs.log_softmax(-1), log_target=True, reduction="none"
    )
    metrics = agent.update(sequences, now).metrics
    torch.testing.assert_close(metrics["loss/teacher"], expected.sum(-1).mean(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("student", "kind"), [("gru", "lstm"), ("none", "gru"), ("lstm", "transformer")])
def test_a_teacher_with_memory_follows_the_episodes_with_a_state_of_its_own(student: str, kind: str) -> None:
    """From one rollout to the next; beside a student with memory or without."""
    agent, teacher = made("ppo", student), made("a2c", kind).policy()
    agent.terms.append(Teacher(teacher, agent.head, weight=1.0, fraction=1.0))
    play = Played(agent, reset_rows=True)
    batches = [play.rollout() for _ in range(2)]
    state, initial = teacher.initial_state(ENVS), teacher.initial_state(ENVS)
    for batch in batches:
        for t in range(STEPS):
            outputs, after = teacher.step(batch["obs"][:, :, t], state)
            torch.testing.assert_close(batch["teacher"][:, :, t], outputs)
            over = batch["terminated"][:, :, t] | batch["truncated"][:, :, t] | ~batch["valid"][:, :, t]
            state = memory.reset(after, initial, over)
    rows = agent.rows(agent.prepare(batches[1]))
    torch.testing.assert_close(rows["teacher"], batches[1]["teacher"].flatten(1, 2))
    assert agent.update(agent.prepare(batches[1]), agent.scheduled(CLOCK)).metrics["loss/teacher"].min() > 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_envs": 2},
            "minibatches 4 is more than the 2 sequences of a rollout, which a memory keeps whole.",
        ),
        ({"sequence_length": 48}, "sequence_length 48 must divide rollout_steps 128 evenly"),
        ({"memory": "transformer", "memory_size": 30}, "memory_size 30 of a transformer must be a multiple of its 4"),
        ({"memory_window": 4}, "--memory-window has no effect here: it is for memory transformer, and that is gru"),
        ({"memory": "none", "sequence_length": 4}, "--sequence-length has no effect here: memory is none"),
    ],
    ids=str,
)
def test_settings_of_a_memory_that_do_not_fit_are_one_clear_line(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", experiment="none", **{"memory": "gru", **settings})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", ["full", "head", "lora"])
def test_a_run_with_memory_is_fine_tuned_with_its_memory_and_its_critic_s(strategy: str, tmp_path: Path) -> None:
    small = {"rollout_steps": 16, "num_envs": 4, "env_steps": 128, "final_eval_episodes": 1, "eval_every": 0}
    first = rlab.train("a2c", "CartPole-v1", out=tmp_path / "first", memory="lstm", experiment="none", **small)
    more = rlab.finetune(first.path, out=tmp_path / "more", strategy=strategy, critic_warmup=0, **small)
    before, after = (load_policy(tmp_path / name).policy for name in ("first", "more"))
    assert after.initial_state(1).keys() == before.initial_state(1).keys()
    assert more.evaluation is not None
    moved = not torch.equal(before.state_dict()["network.4.weight_hh"], after.state_dict()["network.4.weight_hh"])
    assert moved is (strategy == "full")


def solves_the_cue(name: str, kind: str, out: Path, seeds: int, env_steps: int) -> None:
    quiet = {"eval_every": env_steps, "eval_episodes": 2, "experiment": "none"}
    run = rlab.train(
        name,
        "rlab/ProbeMemory-v0",
        out=out,
        seeds=seeds,
        env_steps=env_steps,
        memory=kind,
        final_eval_episodes=40,
        **quiet,
    )
    assert run.evaluation is not None
    np.testing.assert_allclose(run.evaluation.returns, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("ppo", "gru"), pytest.param("a2c", "transformer", marks=pytest.mark.prove)]
)
def test_plain_defaults_solve_the_world_of_memory(name: str, kind: str, tmp_path: Path) -> None:
    solves_the_cue(name, kind, tmp_path / "run", seeds=3, env_steps=4_096)


@pytest.mark.prove
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_plain_defaults_solve_the_world_of_memory_in_ten_of_ten_seeds(name: str, kind: str, tmp_path: Path) -> None:
    solves_the_cue(name, kind, tmp_path / "run", seeds=10, env_steps=8_192)
