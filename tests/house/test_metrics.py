"""The glossary of tags against what every agent writes, in both directions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab import supervised
from rlab.agents import AGENTS
from rlab.cli.main import main
from rlab.runs.glossary import GLOSSARY, TAGS
from rlab.runs.logs import read_json_lines

ONCE: dict[str, Any] = {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 0, "hidden": (8,)}
SMALL = {**ONCE, "experiment": "none", "env_steps": 128, "num_envs": 4, "max_episode_steps": 20}
REPLAY = {**SMALL, "learning_starts": 64, "batch_size": 8}
OFFLINE = {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 0, "updates": 4, "batch_size": 8}
CARTPOLE = "CartPole-v1"
# Evaluations and films are no rows of metrics.jsonl; tests/runs/test_tensorboard.py sees them written.
OTHERS = {name for name in GLOSSARY if name.partition("/")[0] in ("return", "eval", "final", "film")}

pytestmark = pytest.mark.usefixtures("quick_disk")


def runs(dataset: Path, dqn_run: Path, ppo_run: Path, out: Path) -> Iterator[tuple[str, rlab.Run]]:
    """Each agent once or more, so that all that it can report is reported."""
    replay = {"dataset": str(dataset), "demonstration_share": 0.5, **REPLAY}
    teacher = {"teacher": str(dqn_run), "teacher_member": 3}
    yield "dqn", rlab.train("dqn", CARTPOLE, out=out / "1", demonstration_loss="margin", **teacher, **replay)
    other = {"loss": "squared", "sparsity": 0.5, "demonstration_loss": "conservative"}
    yield "double_dqn", rlab.train("double_dqn", CARTPOLE, out=out / "2", **other, **replay)
    yield "rainbow", rlab.train("rainbow", CARTPOLE, out=out / "rainbow", **REPLAY)
    for head in ("c51", "qr"):
        yield "dqn", rlab.train("dqn", CARTPOLE, out=out / head, value_head=head, **REPLAY)
    for agent in ("ppo", "a2c", "reinforce"):
        yield (
            agent,
            rlab.train(agent, CARTPOLE, out=out / agent, rollout_steps=8, vector="sync", env_restarts=1, **SMALL),
        )
    no_limit = {**SMALL, "max_episode_steps": None, "baseline": False, "rollout_steps": 8}
    yield "reinforce", rlab.train("reinforce", "rlab/ProbeConstant-v0", out=out / "4", **no_limit)
    for agent in ("cql", "iql", "dqfd"):
        settings = {**OFFLINE, "experiment": "none", "dataset": str(dataset)}
        yield agent, rlab.train(agent, CARTPOLE, out=out / agent, **settings)
    held_out = {"validation_fraction": 0.5, "patience": 2, "log_every": 2}
    yield "bc", rlab.pretrain("bc", dataset, out=out / "bc", value_weight=0.5, **held_out, **OFFLINE)
    for objective in ("dynamics", "classification"):
        settings = {"objective": objective, "validation_fraction": 0.5, **OFFLINE}
        yield "encoder", rlab.pretrain("encoder", dataset, out=out / objective, **settings)
    rlab.collect_random("Pendulum-v1", out / "pendulum", episodes=2)
    shown = {"dataset": str(out / "pendulum"), "demonstration_share": 0.5, "cloning_weight": 0.1}
    for agent, settings in (
        ("sac", shown),
        ("td3", {"policy_delay": 2}),
        ("ddpg", {}),
        ("crossq", {"policy_delay": 2}),
        ("droq", {}),
    ):
        yield agent, rlab.train(agent, "Pendulum-v1", out=out / agent, **REPLAY, **settings)
    settings = {"validation_fraction": 0.5, **OFFLINE}
    yield "bc", rlab.pretrain("bc", out / "pendulum", out=out / "continuous", **settings)


def fits(out: Path) -> Iterator[Path]:
    """Supervised learning with each of its losses."""
    inputs = np.ones((8, 3), np.float32)
    for loss, target in (("cross_entropy", np.zeros(8, np.int64)), ("squared", inputs), ("huber", inputs)):
        settings = supervised.SupervisedSettings(epochs=1, batch_size=4, validation_fraction=0.5, loss=loss)
        with supervised.recorded(out / loss, (0,), updates=1) as listeners:
            supervised.fit(supervised.vector_network(3, 3, (4,)), inputs, target, settings, (0,), listeners)
        yield out / loss


def tags(folder: Path) -> set[str]:
    rows = [row for name in ("metrics", "timing") for row in read_json_lines(folder / f"{name}.jsonl")[1]]
    return {tag for row in rows for tag in row} - {"env_steps", "updates"}


@pytest.fixture(scope="module")
def written(
    dataset: Path, dqn_run: Path, ppo_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    """The tags that each agent wrote."""
    out = tmp_path_factory.mktemp("tags")
    found: dict[str, set[str]] = {}
    for agent, run in runs(dataset, dqn_run, ppo_run, out):
        found[agent] = found.get(agent, set()) | tags(run.path)
    found["rlab.supervised"] = set().union(*(tags(folder) for folder in fits(out)))
    return found


def test_every_agent_was_looked_at(written: dict[str, set[str]]) -> None:
    assert set(AGENTS) | {"rlab.supervised"} == set(written)


def test_no_tag_of_ours_is_missing_from_the_glossary(written: dict[str, set[str]]) -> None:
    assert set().union(*written.values()) - set(GLOSSARY) == set()


def test_no_row_of_the_glossary_is_written_by_nobody(written: dict[str, set[str]]) -> None:
    assert set(GLOSSARY) - OTHERS - set().union(*written.values()) == set()


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: str(tag.name))
def test_the_glossary_names_those_who_write_a_tag(written: dict[str, set[str]], tag: Any) -> None:
    writers = {agent for agent, found in written.items() if tag.name in found}
    named = {agent for agent in written if agent in tag.writer.replace(",", " ").replace(";", " ").split()}
    if tag.writer == "all":
        assert len(writers) >= len(AGENTS)
    elif named:
        assert writers <= named


def test_the_command_line_lists_the_glossary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "metrics", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert [row["metric"] for row in rows] == [tag.name for tag in TAGS]
    assert all(row["what"] and row["of"] for row in rows)
