"""What agents reach in MinAtar's five games in a million env steps, as a table with intervals.

python -m rlab.experiments.minatar [--agents dqn ppo] [--games Breakout] [--seeds 10] [--quick]

Each agent is trained as its experiment file says. A run that was stopped goes on, and one that is there is not trained
again; the record has every run that is finished, whichever process trained it.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab.experiments import studies
from rlab.experiments.studies import of_seeds, record, say

AGENTS = ("dqn", "rainbow", "ppo")
# Young and Tian 2019: the mean return of their DQN at a million frames, read off figure 3; no table was published.
GAMES = {"Asterix": 7.0, "Breakout": 9.0, "Freeway": 48.0, "Seaquest": 1.0, "SpaceInvaders": 33.0}
ID = "MinAtar/{}-v1"  # with the actions that do something in the game, unlike theirs
SHORT: dict[str, Any] = {"env_steps": 400, "eval_every": 0, "final_eval_episodes": 2, "max_episode_steps": 100}
SHORT_LEARNING: dict[str, Any] = {"learning_starts": 100}


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", nargs="+", default=AGENTS, choices=AGENTS)
    parser.add_argument("--games", nargs="+", default=tuple(GAMES), choices=tuple(GAMES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few steps with two seeds; nothing is recorded")
    asked = parser.parse_args(argv)
    prefix = "minatar-quick" if asked.quick else "minatar"
    for game in asked.games:
        for agent in asked.agents:
            train(
                agent, game, 2 if asked.quick else asked.seeds, studies.RUNS / f"{prefix}-{agent}-{game}", asked.quick
            )
            found = table(prefix)
            if not asked.quick:
                record("minatar", found)
            say(lines(found)[-1])
    print("\n".join(lines(found)))


def train(agent: str, game: str, seeds: int, path: Path, quick: bool) -> None:
    """One agent in one game, where that is not done yet."""
    if (path / "result.json").exists():
        return
    say(f"training {agent} in {game}: {seeds} seeds")
    if (path / "config.json").exists():
        rlab.resume(path)
        return
    settings = SHORT | (SHORT_LEARNING if agent != "ppo" else {}) if quick else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    rlab.train(agent, ID.format(game), out=path, seeds=seeds, **settings)


def table(prefix: str) -> dict[str, Any]:
    """Every finished run with its seeds' mean returns, their IQM and its interval, beside the figure of the paper."""
    rows = []
    for game, of_paper in GAMES.items():
        for agent in AGENTS:
            path = studies.RUNS / f"{prefix}-{agent}-{game}"
            if not (path / "result.json").exists():
                continue
            result, config = (json.loads((path / name).read_text()) for name in ("result.json", "config.json"))
            returns = of_seeds(np.array([member["return_mean"] for member in result["per_seed"]]))
            beside = {"young_and_tian_dqn": of_paper, "at_or_above": returns["iqm"] >= of_paper}
            rows.append({"game": game, "agent": agent, "env_steps": config["run"]["env_steps"], **returns, **beside})
    return {"minatar": importlib.metadata.version("minatar"), "ids": ID.format("*"), "results": rows}


def lines(found: dict[str, Any]) -> list[str]:
    """The table, for people: a line for each game and agent."""
    said = [f"MinAtar {found['minatar']}, ids {found['ids']}; IQM of the seeds' greedy returns [95 % interval]"]
    for row in found["results"]:
        low, high = row["ci95"]
        held = f"{'at or above' if row['at_or_above'] else 'BELOW'} Young and Tian's DQN, {row['young_and_tian_dqn']:g}"
        reached = (
            f"{row['iqm']:8.2f} [{low:.2f}, {high:.2f}]  {len(row['per_seed'])} seeds, {row['env_steps']:,} env steps"
        )
        said.append(f"{row['game']:<14}{row['agent']:<9}{reached}; {held}")
    return said


if __name__ == "__main__":
    main()
