"""What hindsight and novelty are worth where random play hardly ever meets a reward: the same run with and without.

Ten seeds of each shipped experiment of the sparse probe worlds, and ten with its switch off and all else the same.

    python -m rlab.experiments.sparse_rewards
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab.evaluation.stats import stratified_bootstrap

SEEDS = 10
# Agent, env, the switch, and from which mean return on a seed has solved the world.
CASES = (
    ("dqn", "rlab/ProbeBitFlip-v0", "hindsight", -8.0),  # half of 15 bits are wrong: -6.5 on average; -15 is never
    ("ppo", "rlab/ProbeChain-v0", "novelty", 10.0),
    ("dqn", "rlab/ProbeChain-v0", "novelty", 10.0),
)


def returns(agent: str, env: str, **settings: Any) -> np.ndarray:
    """The mean return of each seed, `[S]`."""
    with tempfile.TemporaryDirectory() as folder:
        run = rlab.train(agent, env, out=Path(folder) / "run", seeds=SEEDS, progress=True, **settings)
    assert run.evaluation is not None
    mean: np.ndarray = run.evaluation.returns.mean(axis=1)
    return mean


def compared(agent: str, env: str, switch: str, solved: float) -> dict[str, Any]:
    """Both sets of seeds, and how many of each solved the world."""
    found = {"with": returns(agent, env), "without": returns(agent, env, **{switch: "none"})}
    for name, values in found.items():
        print(f"{agent} on {env} {name} {switch}: {stratified_bootstrap(values)}")
    rows = {
        name: {"per_seed": values.tolist(), "solved": int((values >= solved).sum())} for name, values in found.items()
    }
    return {"agent": agent, "env_id": env, "switch": switch, "solved_from": solved, **rows}


def main() -> None:
    """Measure, print, record."""
    rows = [compared(*case) for case in CASES]
    holds = all(row["with"]["solved"] >= 0.9 * SEEDS and row["without"]["solved"] <= 0.1 * SEEDS for row in rows)
    result = {"format": 1, "seeds": SEEDS, "cases": rows, "holds": holds}
    Path(__file__).with_suffix(".result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
