"""`rlab collect`: what is recorded is what the env gave and took, and wrong requests play nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.cli.main import main
from rlab.envs import EnvSpec, make_env, make_episodes
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.evaluation.record import record, uniform_action
from rlab.experience.dataset import Dataset, action_to_env
from rlab.experience.env_contract import EpisodeEnvs
from rlab.experience.minari_files import read_dataset
from rlab.jobs.collect import collect, collect_random
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete, Masked, MultiBinary, MultiDiscrete
from rlab.randomness import FIRST_TRAINING_ENV_SEED
from rlab.runs.policies import load_policy, save_policy

minari = pytest.importorskip("minari")

CARTPOLE = EnvSpec("CartPole-v1")
SEEDS = (3, 4, 9)


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three untrained members for CartPole-v1."""
    envs = make_episodes(CARTPOLE, 1)
    network = q_network_spec(envs.obs_space, 2, BodySettings((16,), "tanh", init="orthogonal"), False)
    head = {"kind": "q", "epsilon": 0.3}
    spec = PolicySpec(envs.obs_space, envs.action_space, {"scaling": "none", "scale": None}, network, head)
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder, build_policy(spec, SEEDS), {"agent": "dqn", "env": CARTPOLE.to_json()})
    return folder


@pytest.fixture
def policy(policy_folder: Path) -> Policy:
    return load_policy(policy_folder).policy


def spaces_of(env: EnvSpec) -> Any:
    envs = make_episodes(env, 1)
    return envs.obs_space, envs.action_space


def assert_replays(dataset: Dataset, env: EnvSpec) -> None:
    """A single env, reset with the episode's seed and given its actions, does what was recorded."""
    single = make_env(env)
    for episode in dataset.episodes:
        obs, _ = single.reset(seed=episode.seed)
        ended = False
        for t, action in enumerate(action_to_env(dataset.action_space, episode.action)):
            assert not ended
            assert np.array_equal(obs, episode.obs[t])
            obs, reward, terminated, truncated, _ = single.step(action[()])
            assert np.float32(reward) == episode.reward[t]
            ended = terminated or truncated
        assert ended
        assert np.array_equal(obs, episode.obs[-1])
        assert (episode.terminated, episode.truncated) == (terminated, truncated and not terminated)


PROBES = ["Masked", "Continuous", "MultiDiscrete", "MultiBinary", "DiscreteObservation", "DictObservation"]


@pytest.mark.parametrize(
    "env",
    [
        EnvSpec("CartPole-v1", max_episode_steps=12),
        EnvSpec("Acrobot-v1", {}, (), 9),
        *(EnvSpec(f"rlab/Probe{name}-v0") for name in PROBES),
    ],
    ids=lambda env: env.env_id,
)
def test_a_recording_read_from_the_disk_replays_in_the_env(env: EnvSpec, tmp_path: Path) -> None:
    collect_random(env, tmp_path / "d", episodes=15)
    data = read_dataset(tmp_path / "d")
    assert [episode.seed for episode in data.episodes] == list(range(200_000, 200_015))
    assert (data.obs_space, data.action_space) == spaces_of(env)
    assert EnvSpec.from_json(data.env or {}) == env
    assert_replays(data, env)


def test_greedy_episodes_return_what_an_evaluation_of_that_member_returns(policy_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(policy_folder).policy
    judged = evaluate(policy, lambda n: make_episodes(CARTPOLE, n), 9, 200_000)
    for member, returns in zip(SEEDS, judged.returns, strict=True):
        data = collect(policy_folder, tmp_path / str(member), episodes=9, member=member).dataset
        assert data.returns.tolist() == returns.tolist()
        assert data.facts["members"] == [member]
    together = collect(policy_folder, tmp_path / "all", episodes=8, all_members=True).dataset
    assert together.returns.tolist() == [judged.returns[k % 3, k] for k in range(8)]
    assert_replays(together, CARTPOLE)


def test_stochastic_is_handed_on_and_recorded(policy_folder: Path, tmp_path: Path) -> None:
    greedy = collect(policy_folder, tmp_path / "greedy", episodes=20).dataset
    sampled = collect(policy_folder, tmp_path / "sampled", episodes=20, stochastic=True).dataset
    assert (greedy.facts["greedy"], sampled.facts["greedy"]) == (True, False)
    assert greedy.returns.tolist() != sampled.returns.tolist()


@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
def test_an_episode_is_the_same_however_many_are_played_beside_it(policy: Policy, noise: float) -> None:
    def played(episodes: int, max_envs: int) -> Any:
        return record(
            policy,
            lambda n: make_episodes(CARTPOLE, n),
            spaces_of(CARTPOLE),
            episodes,
            50,
            noise=noise,
            max_envs=max_envs,
        )

    for one, other in zip(played(7, 512), played(10, 3), strict=False):
        assert np.array_equal(one.action, other.action)
        assert np.array_equal(one.obs, other.obs)


def test_noise_is_the_share_of_random_actions(policy: Policy) -> None:
    short = EnvSpec("CartPole-v1")
    episodes = record(policy, lambda n: make_episodes(short, n), spaces_of(short), 300, 0, noise=0.5)
    greedy = [np.asarray(policy(np.stack([e.obs[:-1]] * 3)))[k % 3] for k, e in enumerate(episodes)]
    differ = np.concatenate([e.action != g for e, g in zip(episodes, greedy, strict=True)])
    assert abs(differ.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / differ.size)  # half are random, half of those differ


def test_stochastic_actions_explore_as_the_policy_records(policy: Policy) -> None:
    def played() -> Any:
        return record(policy, lambda n: make_episodes(CARTPOLE, n), spaces_of(CARTPOLE), 300, 0, greedy=False)

    episodes = played()
    greedy = [np.asarray(policy(np.stack([e.obs[:-1]] * 3)))[k % 3] for k, e in enumerate(episodes)]
    differ = np.concatenate([e.action != g for e, g in zip(episodes, greedy, strict=True)])
    assert abs(differ.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / differ.size)  # epsilon 0.3, half of those differ
    assert all(np.array_equal(one.action, other.action) for one, other in zip(episodes, played(), strict=True))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Discrete(3, start=5), [(5,), (6,), (7,)]),
        (MultiDiscrete((2, 2), (5, -1), (2,)), [(5, -1), (5, 0), (6, -1), (6, 0)]),
        (MultiBinary((2,)), [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (Box((1,), "uint8", 3.0, 5.0), [(3,), (4,), (5,)]),
    ],
    ids=str,
)
def test_random_actions_are_uniform(space: Any, expected: list[Any]) -> None:
    draw, rng, obs = uniform_action(Box((1,), "float32", 0.0, 1.0), space), np.random.default_rng(0), np.zeros(1)
    drawn = [draw(rng, obs) for _ in range(3000)]
    assert {(action.shape, str(action.dtype)) for action in drawn} == {(space.shape, space.dtype)}
    found, counts = np.unique([action.reshape(-1) for action in drawn], axis=0, return_counts=True)
    assert [tuple(row) for row in found.tolist()] == expected
    mean = 3000 / len(expected)
    assert np.square(counts - mean).sum() / mean < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001


def test_random_actions_keep_to_bounds_and_masks() -> None:
    rng = np.random.default_rng(0)
    box = uniform_action(Discrete(2), Box((2,), "float64", (-0.1, 2.0), (0.1, 4.0)))
    drawn = np.array([box(rng, np.zeros(())) for _ in range(500)])
    assert drawn.dtype == np.float64
    assert (drawn >= [-0.1, 2.0]).all()
    assert (drawn <= [0.1, 4.0]).all()
    assert np.abs(drawn.mean(axis=0) - [0.0, 3.0]).max() < 0.15
    choice = uniform_action(Masked(Discrete(2), 5), MultiDiscrete((2, 3), (1, 0), (2,)))
    found = {tuple(choice(rng, np.array([9, 0, 1, 1, 0, 1])).tolist()) for _ in range(100)}
    assert found == {(2, 0), (2, 2)}


def run(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["collect", *words.split()])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_reports_what_it_wrote(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = run(f"{policy_folder} --episodes 5 --out datasets/cart --seed 7 --noise 0.1 --json", capsys)
    report = json.loads(said)
    assert code == 0
    found = [report[key] for key in ("format", "path", "episodes", "env_id")]
    assert found == [1, "datasets/cart", 5, "CartPole-v1"]
    data = read_dataset("datasets/cart")
    assert report["return_mean"] == data.returns.mean() == data.facts["return_mean"]
    assert data.facts["noise"] == 0.1
    assert [episode.seed for episode in data.episodes] == [7, 8, 9, 10, 11]
    assert run("random --env CartPole-v1 --episodes 5 --out datasets/random", capsys)[0] == 0
    code, said, _ = run("--merge datasets/cart datasets/random --out datasets/both", capsys)
    assert code == 0
    assert said.startswith("10 episodes")
    assert main(["list", "datasets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["datasets"]
    assert [(row["path"], row["episodes"], row["state"]) for row in rows] == [
        ("datasets/both", 10, "whole"),
        ("datasets/cart", 5, "whole"),
        ("datasets/random", 5, "whole"),
    ]
    env = minari.MinariDataset("datasets/both/data").recover_environment()
    assert env.spec.id == "CartPole-v1"


def test_episodes_that_return_too_little_are_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = collect_random(CARTPOLE, tmp_path / "all", episodes=40).dataset
    least = float(np.median(everything.returns))
    words = "random --env CartPole-v1 --episodes 40"
    code, said, _ = run(f"{words} --min-return {least} --out {tmp_path / 'good'}", capsys)
    good = everything.returns[everything.returns >= least]
    assert code == 0
    assert f"{40 - len(good)} more returned too little and were dropped" in said
    assert read_dataset(tmp_path / "good").returns.tolist() == good.tolist()
    code, _, said = run(f"{words} --min-return 501 --out {tmp_path / 'none'}", capsys)
    assert code == 1
    assert said.startswith("rlab: none of the 40 episodes returned 501.0 or more, the best")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out {new}", "it is not clear what should play. Write one of: rlab collect RUN --out DIR"),
        (
            "{policy} --merge a b --out {new}",
            "it is not clear what should play. Write one of: rlab collect RUN --out DIR",
        ),
        ("{policy}", "--out is missing"),
        ("{policy} --out {full}", "not empty"),
        ("{policy} --out {new} --episodes 0", "one episode or more, not 0"),
        (f"{{policy}} --out {{new}} --seed {FIRST_TRAINING_ENV_SEED}", "episode seeds must lie"),
        ("{policy} --out {new} --noise 1.5", "not 1.5"),
        ("{policy} --out {new} --member 5", "no member with training seed 5; this policy has training seeds 3, 4, 9"),
        ("{policy} --out {new} --member 3 --all-members", "cannot both play"),
        ("{policy} --out {new} --env CartPole-v1", "--env has no effect on a trained policy"),
        ("random --out {new}", "random actions need an env"),
        ("random --env CartPol-v1 --out {new}", "CartPole-v1"),
        ("random --env CartPole-v1 --noise 0.1 --out {new}", "--noise has no effect on random"),
        ("--merge {full} {full} --episodes 3 --out {new}", "--episodes has no effect on --merge"),
        ("--merge {full} {full} --out {new}", "is not a Minari dataset"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    words: str, message: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    filled = words.format(policy=policy_folder, full=tmp_path / "full", new=tmp_path / "new" / "d")
    code, said, complaint = run(filled, capsys)
    assert (code, said) == (2, "")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_where_to_write_is_looked_at_before_anything_is_played(policy: Policy, tmp_path: Path) -> None:
    save_policy(tmp_path / "policy", policy, {"env": EnvSpec("NotHere-v0").to_json()})
    with pytest.raises(UsageError, match="not empty"):
        collect(tmp_path / "policy", tmp_path)
    with pytest.raises(UsageError, match="NotHere"):
        collect(tmp_path / "policy", tmp_path / "d")


def test_an_episode_without_an_end_is_given_up(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlimited(n: int) -> EpisodeEnvs:
        envs = make_episodes(CARTPOLE, n)
        envs.time_limit = None
        return envs

    monkeypatch.setattr("rlab.evaluation.episode_driver.MOST_STEPS", 5)
    with pytest.raises(RlabError, match="episode of seed 60 of training seed 3 has not ended after 5 env steps"):
        record(policy, unlimited, spaces_of(CARTPOLE), 3, 60)
