"""Agents with values in outsiders' files learn what is known on paper, and CartPole; the files are in `outside`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.envs import MEMORY_PROBES, PROBES, EnvSpec, ProbeValue, make_env
from rlab.errors import UsageError
from rlab.networks.policy import Policy
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy

GAMMA, SEEDS = 0.9, 3
MEMORY = "rlab/ProbeMemory-v0"
CREDIT = "rlab/ProbeCredit-v0"
QUICK: dict[str, Any] = {"experiment": "none", "eval_every": 10**6, "eval_episodes": 1}
# Few and large updates: unrolling a sequence takes its time.
DRQN = {"memory": 16, "length": 4, "burn_in": 2, "learning_starts": 200, "batch_size": 32, "updates_per_learn": 2}
RECURRENT = {**DRQN, "learning_rate": 5e-3, "layer_norm": False, "target_every": 100, "env_steps": 2_500}

pytestmark = pytest.mark.usefixtures("quick_disk", "importable")


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "outside"))
        yield


CREDIT_VALUES = PROBES[CREDIT].values(GAMMA)
ENDLESS = [ProbeValue(((0.0,),) * steps, action, 2.0) for steps in (1, 2, 3) for action in (0, 1)]  # 1 / (1 - 0.5)
REMEMBERED = MEMORY_PROBES[MEMORY].values(GAMMA)
WORLDS: list[tuple[str, str, list[ProbeValue], dict[str, Any]]] = [
    ("drqn:DRQN", MEMORY, REMEMBERED, RECURRENT),
    ("drqn:DRQN", MEMORY, REMEMBERED, {**RECURRENT, "stored_state": True}),
    ("drqn:DRQN", "rlab/ProbeEndless-v0", ENDLESS, {**RECURRENT, "gamma": 0.5}),
]


@pytest.mark.parametrize(("agent", "env_id", "known", "settings"), WORLDS)
def test_an_outsider_s_agent_learns_the_values_known_on_paper_in_every_seed(
    agent: str, env_id: str, known: list[ProbeValue], settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**QUICK, "env_steps": 2_500, "gamma": GAMMA, "seeds": SEEDS, **settings}
    run = rlab.train(agent, env_id, out=tmp_path / "run", final_eval_episodes=20, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == {**PROBES, **MEMORY_PROBES}[env_id].episode_return).all()
    policy = load_policy(run.path, trust=True).policy
    for row in known:
        q = values(policy, row.obs)
        worth = q.amax(dim=-1) if row.action is None else q[:, row.action]
        assert (worth - row.value).abs().max().item() <= 0.05, f"{row} was learned as {worth.tolist()}"


def values(policy: Policy, obs: Any) -> torch.Tensor:
    """Q `[S, A]` at an observation, or behind all that was observed in the episode."""
    seen = torch.tensor(obs if isinstance(obs[0], tuple) else (obs,))  # [T, *obs]
    state = policy.initial_state(1)
    with torch.no_grad():
        for now in seen.expand(len(policy.seeds), 1, *seen.shape).unbind(2):
            outputs, state = policy.step(now, state)
    return policy.head.values(outputs)[:, 0]


def test_the_values_of_the_world_of_memory_are_those_of_its_best_play() -> None:
    env = make_env(EnvSpec(MEMORY))
    for seed in range(6):
        for last in (0, 1):
            obs, _ = env.reset(seed=seed)
            seen, reward, over = [tuple(obs.tolist())], 0.0, False
            while not over:
                done, action = tuple(seen), last if len(seen) == 3 else 0
                obs, reward, over, _, _ = env.step(np.int64(action))
                seen.append(tuple(obs.tolist()))
            stated = {(row.obs, row.action): row.value for row in MEMORY_PROBES[MEMORY].values(GAMMA)}
            assert stated[done, last] == reward
            assert (
                stated[done[:2], 0]
                == stated[done[:2], 1]
                == pytest.approx(GAMMA * max(stated[done, 0], stated[done, 1]))
            )
            assert stated[done[:1], 0] == stated[done[:1], 1] == pytest.approx(GAMMA * stated[done[:2], 0])
    env.close()


def test_without_memory_the_world_of_memory_is_a_coin(tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 800, "gamma": GAMMA, "seeds": SEEDS}
    run = rlab.train("dqn", MEMORY, out=tmp_path / "run", final_eval_episodes=100, **settings)
    assert run.evaluation is not None
    assert (np.abs(run.evaluation.returns.mean(axis=1)) < 0.4).all()  # 100 coins have a standard error of 0.1


@pytest.mark.parametrize("agent", ["drqn:DRQN"])
def test_a_member_of_an_outsider_s_agent_learns_the_same_alone_and_beside_others(agent: str, tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 160, "final_eval_episodes": 0, "learning_starts": 96, "batch_size": 8}
    tensors = []
    for name, seed, seeds in (("both", 0, 2), ("alone", 1, 1)):
        rlab.train(agent, "CartPole-v1", out=tmp_path / name, seed=seed, seeds=seeds, **settings)
        tensors.append(load_policy(tmp_path / name, trust=True).policy.only(1).state_dict())
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=1e-5, msg=name)


def test_the_state_that_was_acted_with_is_stored_and_learned_from(tmp_path: Path) -> None:
    settings = {**QUICK, **DRQN, "stored_state": True, "env_steps": 320, "final_eval_episodes": 0}
    rlab.train("drqn:DRQN", MEMORY, out=tmp_path / "run", num_envs=2, **settings)
    _, chunks = load_checkpoint(RunFolder.open(tmp_path / "run"))
    rows = chunks[0].arrays()
    hidden = next(rows[name] for name in rows if name.endswith("hidden"))  # [S, N, rows, H]
    assert hidden.shape[-1] == DRQN["memory"]
    begins = rows["obs"][..., 0] != 0.0  # the cue comes first
    assert (hidden[begins] == 0.0).all()
    assert (hidden[~begins & rows["valid"]] != 0.0).any(axis=-1).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_starts": 20}, "learning_starts 20 must be at least 24: windows of 6 rows from each of 4 envs."),
        (
            {"replay_capacity": 20, "batch_size": 4},
            "the storage keeps 5 rows of each of 4 envs, fewer than a sequence of 6; raise --replay-capacity.",
        ),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused_before_anything_is_written(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train("drqn:DRQN", MEMORY, out=tmp_path / "run", num_envs=4, **{**DRQN, **settings})
    assert str(caught.value) == said
    assert not (tmp_path / "run").exists()


# Nothing is tuned for these agents: they have the settings of DQN. A random policy has a return of 22.
RECURRENT_CARTPOLE: dict[str, Any] = {
    "experiment": "none",
    "env_steps": 40_000,
    "stored_state": True,
    "memory": 64,
    "layer_norm": False,
    "obs_scaling": "fixed",
    "obs_scale": (2.4, 3.0, 0.2095, 3.0),
    "gamma": 0.98,
    "lr_schedule": "linear",
    "batch_size": 32,
    "updates_per_learn": 2,
    "target_every": 500,
}
CARTPOLE: list[tuple[str, dict[str, Any], float]] = [
    ("drqn:DRQN", RECURRENT_CARTPOLE, 50.0),  # 64 to 103: targets of one step learn slowly here
]


@pytest.mark.prove
@pytest.mark.parametrize(("agent", "settings", "more_than"), CARTPOLE)
def test_an_outsider_s_agent_learns_cartpole_in_every_seed(
    agent: str, settings: dict[str, Any], more_than: float, tmp_path: Path
) -> None:
    budget = {"seeds": 5, "eval_every": 5_000, "eval_episodes": 5, "final_eval_episodes": 100}
    settings = {"experiment": "dqn-CartPole-v1", **budget, **settings}
    run = rlab.train(agent, "CartPole-v1", out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns.mean(axis=1) > more_than).all()
