"""DQN with memory learns from windows of replay: returns on paper, states as they were, and worlds that need it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rlab
from rlab.agents import load_agent
from rlab.draws import Draws
from rlab.envs import MEMORY_PROBES, PROBES
from rlab.envs.probe import remembered
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.samplers import read_windows
from rlab.experience.sequence_samplers import read_sequences
from rlab.experience.storage import Storage
from rlab.learning.distillation import Teacher
from rlab.learning.replayed_windows import ReplayedWindows, n_step_windows
from rlab.networks.memory import reset
from rlab.networks.policy import Policy
from rlab.networks.spaces import Box, Discrete
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy
from rlab.types import Clock

MEMORY = "rlab/ProbeMemory-v0"
KINDS = ("gru", "lstm", "transformer")
CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"experiment": "none", "eval_every": 10**6, "eval_episodes": 1}
SMALL: dict[str, Any] = {
    "hidden": (8,),
    "memory_size": 8,
    "sequence_length": 5,
    "burn_in": 2,
    "replay_capacity": 400,
    "learning_starts": 64,
}


def made(name: str, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    agent: Any = load_agent(name)
    return agent(
        agent.Config(**{**SMALL, "memory_window": 4, **settings}),
        Box((3,), "float32", -1.0, 1.0),
        Discrete(2),
        seeds,
        CPU,
    )


def filled(agent: Any, rows: int = 40, reset_rows: bool = False, into: Storage | None = None) -> Storage:
    """Storage of random rows of two envs, in which episodes end, are cut and begin."""
    members, num_envs, rng = len(agent.seeds), 2, torch.Generator().manual_seed(7)
    storage = into or Storage(members, num_envs, 400, agent.fields(), has_reset_rows=reset_rows)
    shape, state = (members, num_envs), agent.initial_state(num_envs)
    initial, resetting = state, torch.zeros(shape, dtype=torch.bool)
    obs = torch.randn(*shape, 3, generator=rng)
    for _ in range(rows):
        acted = agent.act(obs, agent.scheduled(Clock(0, 100)), state)
        chance = torch.rand(shape, generator=rng)
        valid = ~resetting
        terminated, truncated = (chance < 0.1) & valid, (chance > 0.85) & valid
        next_obs = torch.randn(*shape, 3, generator=rng)
        fresh = torch.randn(*shape, 3, generator=rng)
        ended = (terminated | truncated).unsqueeze(-1)
        now = next_obs if reset_rows else torch.where(ended, fresh, next_obs)
        step = Step(now, next_obs, torch.randn(shape, generator=rng), terminated, truncated, valid)
        storage.add(obs, acted.action, step, **acted.extras)
        resetting = ended.squeeze(-1) if reset_rows else resetting
        state, obs = reset(acted.state, initial, ended.squeeze(-1) | ~valid), now
    return storage


def test_returns_of_windows_on_numbers_worked_by_hand() -> None:
    flags = torch.tensor
    batch = {
        "reward": flags([[1.0, 2.0, 4.0, 8.0, 16.0]]),
        "terminated": flags([[False, True, False, False, False]]),
        "truncated": flags([[False, False, False, True, False]]),
    }
    # the episode ends with the row of 2 and is cut behind that of 8; behind 16 the window ends
    reward, steps = n_step_windows(batch, 3)
    assert reward.tolist() == [[[1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [4.0, 8.0, 0.0], [8.0, 0.0, 0.0], [16.0, 0.0, 0.0]]]
    assert steps.tolist() == [[2, 1, 2, 1, 1]]
    reward, steps = n_step_windows(batch, 1)
    assert reward.tolist() == [[[1.0], [2.0], [4.0], [8.0], [16.0]]]
    assert steps.tolist() == [[1, 1, 1, 1, 1]]


def stepped(policy: Policy, network: Any, storage: Storage, member: int, env: int, first: int, last: int) -> list[Any]:
    """The outputs of a network at each row of one lane from `first` on, and at what the row led to, each step taken by
    itself from an empty state at `first`."""
    rows = storage.read_lanes(0, last + 1, "obs", "terminated", "truncated", "valid")
    successors = storage.read(torch.tensor([[t * storage.num_envs + env for t in range(last + 1)]] * 3), "next_obs")
    state, found = policy.initial_state(1), []
    twin = Policy(policy.spec, policy.preprocess, network, policy.seeds).eval()
    for time in range(first, last + 1):
        if time > 0:
            over = any(rows[name][member, env, time - 1] for name in ("terminated", "truncated"))
            state = policy.initial_state(1) if over or not rows["valid"][member, env, time - 1] else state
        outputs, state = twin.step(rows["obs"][:, env, time].unsqueeze(1), state)
        ahead, _ = twin.step(successors["next_obs"][:, time].unsqueeze(1), state)
        found.append((outputs[member, 0], ahead[member, 0]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reset_rows", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_window_s_targets_are_those_of_the_states_that_were_passed_through(
    kind: str, reset_rows: bool, n_step: int
) -> None:
    """Row by row, with one step of the network at a time; a time limit is bootstrapped from the state before it."""
    agent = made("dqn", (3, 4, 5), memory=kind, n_step=n_step, gamma=0.9, stored_state=False)
    for parameter in agent.target_network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    storage = filled(agent, reset_rows=reset_rows)
    starts = torch.tensor([[8, 21, 50], [9, 22, 33], [10, 30, 41]])
    batch = read_sequences(storage, starts, 7)
    prepared = agent.prepare(batch)
    weight = agent.replayed.rows(prepared)["weight"].unflatten(1, (3, 5))
    cut = 0
    for s, b in np.ndindex(3, 3):
        time, env = divmod(int(starts[s, b]), 2)
        seen = stepped(agent.policy(), agent.target_network, storage, s, env, time, time + 6)
        ended = batch["terminated"][s, b] | batch["truncated"][s, b]
        for t in range(2, 7):  # behind the burn-in
            steps = 1
            while steps < n_step and t + steps < 7 and not ended[t + steps - 1]:
                steps += 1
            last, at = t + steps - 1, t - 2
            reward = sum(0.9**k * float(batch["reward"][s, b, t + k]) for k in range(steps))
            discount = 0.0 if batch["terminated"][s, b, last] else 0.9**steps
            cut += bool(batch["truncated"][s, b, last])
            assert prepared["reward"][s, b, at].item() == pytest.approx(reward, abs=1e-5)
            assert prepared["discount"][s, b, at].item() == pytest.approx(discount)
            assert weight[s, b, at].item() == float(batch["valid"][s, b, t])
            torch.testing.assert_close(prepared["next_outputs"][s, b, at], seen[last][1], atol=1e-5, rtol=1e-5)
    assert cut > 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_answers_as_if_it_had_gone_through_the_window_step_by_step(kind: str) -> None:
    agent = made("double_dqn", (3, 4, 5), memory=kind, stored_state=False)
    storage = filled(agent)
    starts = torch.tensor([[8], [9], [21]])
    rows = agent.replayed.rows(agent.prepare(read_sequences(storage, starts, 7)))
    outputs, ahead = agent.replayed.outputs(rows), agent.replayed.next_outputs(rows)
    for s in range(3):
        time, env = divmod(int(starts[s, 0]), 2)
        seen = stepped(agent.policy(), agent.q_network, storage, s, env, time, time + 6)[2:]
        torch.testing.assert_close(outputs[s], torch.stack([each[0] for each in seen]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ahead[s], torch.stack([each[1] for each in seen]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "none"])
def test_what_a_teacher_with_memory_said_as_the_agent_acted_is_learned_from(kind: str) -> None:
    agent, teacher = made("dqn", (3, 4), memory=kind, stored_state=kind != "none"), made("dqn", (3, 4), memory="lstm")
    agent.terms.append(Teacher(teacher.policy(), agent.head, weight=1.0, fraction=1.0))
    storage, rows = filled(agent), torch.tensor([[8, 21], [9, 22]])
    said = storage.read(rows, "teacher")["teacher"]
    assert said.abs().min() > 0.0
    prepared = agent.prepare(read_windows(storage, rows) if kind == "none" else read_sequences(storage, rows - 4, 7))
    # with memory the windows begin two rows of either env before, which warm the state up
    torch.testing.assert_close(prepared["teacher"] if kind == "none" else prepared["teacher"][:, :, 0], said)


@pytest.mark.parametrize("name", ["dqn", "double_dqn"])
def test_windows_of_one_row_without_memory_learn_what_plain_dqn_learns(name: str) -> None:
    plain, windows = (made(name, (3, 4), sequence_length=1, burn_in=0, munchausen=True) for _ in range(2))
    windows.replayed = ReplayedWindows(windows.config, windows.policy(), windows.target_network)
    storage, now = filled(plain), plain.scheduled(Clock(0, 100))
    for first in range(4):
        row = torch.arange(first, first + 32).repeat(2, 1)
        reports = []
        for agent, batch in ((plain, read_windows(storage, row)), (windows, read_sequences(storage, row, 1))):
            reports.append(agent.update(agent.prepare(batch), now))
        torch.testing.assert_close(reports[0].feedback.abs(), reports[1].feedback)
    for one, other in zip(plain.q_network.parameters(), windows.q_network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_rows_that_only_warm_the_state_up_have_no_gradient_and_reset_rows_no_loss() -> None:
    agent = made("dqn", memory="gru", loss="squared")
    storage = filled(agent, reset_rows=True)
    batch = read_sequences(storage, torch.arange(40).unsqueeze(0), 7)
    batch["obs"] = batch["obs"].clone().requires_grad_(True)
    with torch.enable_grad():
        prepared = agent.prepare(batch)
        window = prepared["window/obs"].detach().requires_grad_(True)
        loss, _, error = agent.loss(agent.replayed.rows({**prepared, "window/obs": window}))
        (gradient,) = torch.autograd.grad(loss.sum(), window)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()
    valid = batch["valid"][:, :, 2:].flatten(1, 2)
    assert not valid.all()
    assert loss.item() == pytest.approx((0.5 * error.square() * valid).mean().item(), rel=1e-5)


def test_the_priority_of_a_window_on_numbers_worked_by_hand() -> None:
    agent = made("dqn", memory="gru", sequence_length=3)
    error = torch.tensor([[1.0, -4.0, 100.0, 2.0, 2.0, 2.0]])  # two windows; the third row is not valid
    valid = torch.tensor([[True, True, False, True, True, True]])
    # 0.9 * 4 + 0.1 * (1 + 4) / 2, and 0.9 * 2 + 0.1 * 2
    found = agent.replayed.feedback(error, {"valid": valid})
    torch.testing.assert_close(found, torch.tensor([[3.85, 2.0]]))


@pytest.mark.parametrize(
    "switches",
    [
        {"value_head": "c51", "replay": "prioritised", "noisy": True, "dueling": True, "n_step": 3},
        {"value_head": "qr", "munchausen": True, "dropout": 0.2},
        {"value_head": "iqn", "iqn_samples": 3, "iqn_points": 4, "replay": "prioritised"},
        {"value_rescaling": True, "l1": 1e-3, "stored_state": True},
    ],
    ids=lambda switches: next(iter(switches.values())),
)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_combines_with_the_switches_of_the_family(kind: str, switches: dict[str, Any]) -> None:
    agent = made("double_dqn", (3, 4), memory=kind, **switches)
    before = {name: value.detach().clone() for name, value in agent.q_network.named_parameters()}
    storage = Storage(2, 2, 60, agent.fields(), has_reset_rows=False)
    sampler = agent.sampler(storage, Draws((3, 4), "replay", CPU))
    filled(agent, 30, into=storage)
    now = agent.scheduled(Clock(0, 100))
    for _ in range(2):
        batch = sampler.sample(6)
        report = agent.update(agent.prepare(batch), now)
        sampler.feedback(batch["row"], report.feedback)
        assert report.feedback.shape == (2, 6)
        assert all(value.isfinite().all() for value in report.metrics.values())
    still = [name for name, value in agent.q_network.named_parameters() if torch.equal(value, before[name])]
    # a softmax does not see what all keys share
    assert all("bias" in name and (".key." in name or ".place." in name) for name in still)


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        ("double_dqn", "lstm"),
        *(pytest.param("dqn", kind, marks=pytest.mark.prove) for kind in ("gru", "transformer")),
    ],
)
def test_a_run_with_memory_learns_for_a_member_the_same_beside_others(agent: str, kind: str, tmp_path: Path) -> None:
    settings = {**QUICK, **SMALL, "memory": kind, "env_steps": 160, "final_eval_episodes": 0, "batch_size": 8}
    tensors = []
    for name, seed, seeds in (("both", 0, 2), ("alone", 1, 1)):
        rlab.train(
            agent, "CartPole-v1", out=tmp_path / name, seed=seed, seeds=seeds, wrappers=["NoVelocity"], **settings
        )
        tensors.append(load_policy(tmp_path / name).policy.only(1).state_dict())
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.usefixtures("quick_disk")
def test_the_state_that_was_acted_with_is_stored_and_windows_begin_with_it(tmp_path: Path) -> None:
    settings = {**QUICK, **SMALL, "memory": "gru", "stored_state": True, "env_steps": 160, "final_eval_episodes": 0}
    rlab.train("dqn", MEMORY, out=tmp_path / "run", num_envs=2, batch_size=8, **settings)
    _, chunks = load_checkpoint(RunFolder.open(tmp_path / "run"))
    rows = chunks[0].arrays()
    hidden = next(rows[name] for name in rows if name.endswith("hidden"))  # [S, N, rows, H]
    assert hidden.shape[-1] == SMALL["memory_size"]
    begins = rows["obs"][..., 0] != 0.0  # the cue comes first
    assert (hidden[begins] == 0.0).all()
    assert (hidden[~begins & rows["valid"]] != 0.0).any(axis=-1).all()
    agent = made("dqn", memory="gru", stored_state=True)
    storage = filled(agent)
    start = torch.tensor([[31]])
    prepared = agent.prepare(read_sequences(storage, start, 7))
    (name,) = agent.policy().initial_state(1)
    assert torch.equal(prepared[f"window/state/{name}"], storage.read(start, name)[name])
    assert (prepared[f"window/state/{name}"] != 0).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"learning_starts": 20},
            "learning_starts 20 must be at least 28: a window of 7 rows (sequence_length 5 + "
            "burn_in 2) from each of 4 envs.",
        ),
        (
            {"replay_capacity": 20, "batch_size": 4},
            "the storage keeps 5 rows of each of 4 envs, fewer than a sequence of 7; raise --replay-capacity.",
        ),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused_before_anything_is_written(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train("dqn", MEMORY, out=tmp_path / "run", num_envs=4, **{**SMALL, "memory": "gru", **settings})
    assert str(caught.value) == said
    assert not (tmp_path / "run").exists()


def test_memory_and_hindsight_are_refused_together_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--hindsight future .* --memory gru learns from sequences: leave one"):
        rlab.train("dqn", "rlab/ProbeBitFlip-v0", out=tmp_path / "run", memory="gru", hindsight="future")
    assert not (tmp_path / "run").exists()


def values(policy: Policy, seen: Any) -> Tensor:
    """Q `[S, A]` behind all that was observed in the episode."""
    state = policy.initial_state(1)
    with torch.no_grad():
        for now in torch.tensor(seen).expand(len(policy.seeds), 1, *np.shape(seen)).unbind(2):
            outputs, state = policy.step(now, state)
    return policy.head.values(outputs)[:, 0]


# Few and large updates: unrolling a sequence takes its time.
FEW: dict[str, Any] = {
    "memory_size": 16,
    "sequence_length": 4,
    "burn_in": 2,
    "learning_starts": 200,
    "batch_size": 32,
    "updates_per_learn": 2,
    "learning_rate": 5e-3,
    "layer_norm": False,
    "target_every": 100,
    "env_steps": 2_500,
}


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize(
    "more",
    [pytest.param({}, id="stored"), pytest.param({"stored_state": False}, id="empty state", marks=pytest.mark.prove)],
)
def test_values_after_each_history_of_the_memory_world_are_those_known_on_paper(
    more: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**QUICK, **FEW, "memory": "gru", "gamma": 0.9, "seeds": 3, "final_eval_episodes": 20, **more}
    run = rlab.train("dqn", MEMORY, out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == MEMORY_PROBES[MEMORY].episode_return).all()
    policy = load_policy(run.path).policy
    for row in remembered(0.9):
        q = values(policy, row.obs)
        worth = q.amax(dim=-1) if row.action is None else q[:, row.action]
        assert (worth - row.value).abs().max().item() <= 0.05, f"{row} was learned as {worth.tolist()}"


@pytest.mark.prove
@pytest.mark.usefixtures("quick_disk")
def test_a_time_limit_is_not_an_ending_in_a_window(tmp_path: Path) -> None:
    settings = {**QUICK, **FEW, "memory": "lstm", "gamma": 0.5, "seeds": 3, "final_eval_episodes": 1}
    run = rlab.train("dqn", "rlab/ProbeEndless-v0", out=tmp_path / "run", **settings)
    policy = load_policy(run.path).policy
    for steps in (1, 2, 3):  # 1 / (1 - 0.5)
        assert (values(policy, ((0.0,),) * steps) - 2.0).abs().max().item() <= 0.05
    assert PROBES["rlab/ProbeEndless-v0"].episode_return == 3.0


@pytest.mark.usefixtures("quick_disk")
def test_without_memory_the_memory_world_stays_a_coin(tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 800, "gamma": 0.9, "seeds": 3, "final_eval_episodes": 100}
    run = rlab.train("dqn", MEMORY, out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert (np.abs(run.evaluation.returns.mean(axis=1)) < 0.4).all()  # 100 coins have a standard error of 0.1


@pytest.mark.prove
@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("agent", ["dqn", "double_dqn"])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_defaults_remember_the_cue_in_ten_of_ten_seeds(agent: str, kind: str, tmp_path: Path) -> None:
    settings = {**QUICK, "memory": kind, "env_steps": 2_500, "seeds": 10, "final_eval_episodes": 20}
    run = rlab.train(agent, MEMORY, out=tmp_path / "run", **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == 1.0).all()
