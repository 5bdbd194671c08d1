"""Two switches of DQN's family, noisy layers and prioritised replay: what they do in an agent, and in every verb."""

from pathlib import Path
from typing import Any

import pytest
import torch

import rlab
from rlab.agents.double_dqn import DoubleDQN
from rlab.agents.dqn import DQN, DQNConfig
from rlab.cli.main import main
from rlab.envs import PROBES
from rlab.networks.layers import StackedLinear
from rlab.networks.noisy import StackedNoisyLinear
from rlab.networks.spaces import Box, Discrete
from rlab.runs.policies import load_policy
from rlab.types import Clock

CREDIT, GAMMA = "rlab/ProbeCredit-v0", 0.9
QUICK: dict[str, Any] = {"experiment": "none", "eval_every": 10**6, "eval_episodes": 1}
NOISY, PRIORITISED = {"noisy": True}, {"replay": "prioritised"}
OBS, CPU = Box((1,), "float32", -1.0, 1.0), torch.device("cpu")

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits")


def agent_of(kind: type[DQN] = DQN, seeds: tuple[int, ...] = (0,), **settings: Any) -> DQN:
    return kind(DQNConfig(hidden=(8,), **settings), OBS, Discrete(2), seeds, CPU)


def rows(seeds: int = 1) -> dict[str, torch.Tensor]:
    zeros, obs = torch.zeros(seeds, 4), torch.linspace(-1, 1, 4).expand(seeds, 4).unsqueeze(-1)
    ends = {name: zeros.bool() for name in ("terminated", "truncated")}
    batch = {"obs": obs, "next_obs": obs, "action": zeros.long(), "reward": zeros.unsqueeze(-1) + 1.0, **ends}
    return {**batch, "steps": zeros.long() + 1, "row": zeros.long()}


@pytest.mark.prove  # every day rainbow learns with both
@pytest.mark.parametrize("settings", [PRIORITISED, NOISY], ids=["prioritised", "noisy"])
def test_it_learns_the_values_known_on_paper_in_every_seed(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 2_500, "gamma": GAMMA, "seeds": 3, **settings}
    run = rlab.train("dqn", CREDIT, out=tmp_path / "run", final_eval_episodes=20, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == PROBES[CREDIT].episode_return).all()
    policy = load_policy(run.path).policy
    for row in PROBES[CREDIT].values(GAMMA):
        if "noisy" in settings and row.value <= 0.0:
            continue  # once sure, it does not go where a wrong action leads
        q = policy.outputs(torch.tensor([row.obs]).expand(3, 1, -1))[:, 0]
        worth = q.amax(dim=-1) if row.action is None else q[:, row.action]
        # The largest of noisy values is larger than the largest mean: by 0.13 in 40 seeds, the furthest by 0.27.
        assert (worth - row.value).abs().max().item() <= (0.4 if "noisy" in settings else 0.05), row


@pytest.mark.parametrize("settings", [PRIORITISED, {**NOISY, **PRIORITISED}], ids=["prioritised", "both"])
def test_a_member_learns_the_same_alone_and_beside_others(settings: dict[str, Any], tmp_path: Path) -> None:
    small = {**QUICK, "env_steps": 160, "final_eval_episodes": 0, "learning_starts": 96, "batch_size": 8}
    tensors = []
    for name, seed, seeds in (("both", 0, 2), ("alone", 1, 1)):
        rlab.train("double_dqn", "CartPole-v1", out=tmp_path / name, seed=seed, seeds=seeds, **small, **settings)
        tensors.append(load_policy(tmp_path / name).policy.only(1).state_dict())
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=1e-5, msg=name)


def test_importance_weights_count_more_and_more() -> None:
    agent, weight = agent_of(replay="prioritised", priority_beta=0.5), torch.tensor([[1.0, 0.25, 0.25, 1.0]])
    losses = []
    for clock in (Clock(0, 10), Clock(10, 10)):
        now = agent.scheduled(clock)
        batch = agent.prepare({**rows(), "weight": weight})
        _, _, errors = agent.loss({name: value for name, value in batch.items() if name != "weight"})
        expected = torch.nn.functional.huber_loss(errors, errors * 0, reduction="none") * weight ** now["replay/beta"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent.optimizer, "step", lambda loss, now: losses.append(loss) or loss)
            agent.update(batch, now)
        torch.testing.assert_close(losses[-1], expected.mean(dim=1))
    assert losses[0] > losses[1]
    assert [agent.scheduled(Clock(step, 10))["replay/beta"] for step in (0, 5, 10)] == [0.5, 0.75, 1.0]


def test_it_acts_with_noise_of_every_step_and_its_policy_plays_without() -> None:
    agent = agent_of(noisy=True)
    obs, now = torch.linspace(-1, 1, 200).reshape(1, 200, 1), agent.scheduled(Clock(5_000, 10_000))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent.head, "act", lambda outputs, _: seen.append(outputs) or outputs.argmax(dim=-1))
        for _ in range(2):
            agent.act(obs, now, {})
    assert not torch.equal(seen[0], seen[1])
    first, second = (agent.policy().outputs(obs) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, seen[1])


def test_fresh_networks_act_uniformly_until_learning_starts_and_given_ones_act_with_noise_at_once() -> None:
    fresh = agent_of(noisy=True, learning_starts=32)
    given = DQN(fresh.config, OBS, Discrete(2), (0,), CPU, start=fresh.policy().spec)
    epsilon = {
        step: [each.scheduled(Clock(step, 100))["explore/epsilon"] for each in (fresh, given)] for step in (0, 31, 32)
    }
    assert epsilon == {0: [1.0, 0.0], 31: [1.0, 0.0], 32: [0.0, 0.0]}


def test_each_update_draws_noise_for_the_network_that_learns_its_choices_and_its_targets() -> None:
    agent = agent_of(DoubleDQN, noisy=True)
    online, target = agent.noise.layers[0].draws, agent.target_noise.layers[0].draws
    assert online is not None
    assert target is not None
    assert not torch.equal(online.normal(3), target.normal(3))  # streams of their own
    before = online.state()["draw"], target.state()["draw"]
    agent.update(agent.prepare(rows()), agent.scheduled(Clock(0, 10)))
    assert (online.state()["draw"] - before[0], target.state()["draw"] - before[1]) == (2, 1)


def test_noisy_layers_are_all_linear_ones_and_have_the_first_weights_of_plain_ones() -> None:
    for settings in ({}, {"dueling": True}):
        noisy, plain = agent_of(noisy=True, **settings), agent_of(**settings)
        kinds = {type(layer) for layer in noisy.q_network.modules() if isinstance(layer, StackedLinear)}
        assert kinds == {StackedNoisyLinear}
        weights = noisy.q_network.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in plain.q_network.state_dict().items())


TINY = ("--experiment", "none", "--env-steps", "128", "--learning-starts", "96", "--batch-size", "8")
ONCE = ("--eval-every", "1000000", "--final-eval-episodes", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("noisy") / "run"
    words = ["train", "double_dqn", "CartPole-v1", *TINY, *ONCE, "--hidden", "16", "8", "--seeds", "2"]
    assert main([*words, "--noisy", "--replay", "prioritised", "--out", str(place)]) == 0
    return place


@pytest.mark.parametrize("step", ["int8", "prune:0.5", "distil:8"])
def test_a_noisy_policy_is_compressed(step: str, run: Path, tmp_path: Path) -> None:
    few = ("--episodes", "1", "--updates", "2", "--min-return-ratio", "0")
    assert main(["compress", str(run), "--steps", step, "--out", str(tmp_path / "small"), *few]) == 0
    assert rlab.load(tmp_path / "small")([0.0, 0.1, 0.0, 0.1]) in (0, 1)


@pytest.mark.parametrize(
    ("format", "ending"),
    [
        *(("numpy", ".npz"), ("c", ".h")),
        *(pytest.param(*each, marks=pytest.mark.prove) for each in (("onnx", ".onnx"), ("torch-export", ".pt2"))),
    ],
)
def test_a_noisy_policy_is_exported(format: str, ending: str, run: Path, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"policy{ending}"
    assert main(["export", str(run), "--format", format, "--out", str(out)]) == 0  # which compares outputs


@pytest.mark.parametrize("noisy", [True, False])
def test_fine_tuning_goes_on_with_the_means_and_has_noise_where_it_is_asked_for(
    noisy: bool, run: Path, tmp_path: Path
) -> None:
    words = ["finetune", str(run), "--noisy" if noisy else "--no-noisy", *TINY, *ONCE, "--out", str(tmp_path / "on")]
    assert main(words) == 0
    network = load_policy(tmp_path / "on").policy.network
    assert any(isinstance(layer, StackedNoisyLinear) for layer in network.modules()) is noisy


def test_noisy_layers_cannot_become_sparse_while_they_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "dqn", "CartPole-v1", *TINY, *ONCE, "--noisy", "--sparsity", "0.5"]
    assert main([*words, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err.strip()
    assert "a StackedNoisyLinear merges into an ordinary layer when training is over" in said
    assert "\n" not in said
    assert not (tmp_path / "x").exists()
