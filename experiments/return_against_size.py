"""The table of return against size, and its picture, from what the studies of compression have recorded.

python -m rlab.experiments.return_against_size
"""

import json
from collections.abc import Sequence
from typing import Any

from rlab.evaluation.charts.files import save_chart
from rlab.evaluation.charts.front import Choice, Words, front_chart
from rlab.evaluation.stats import Interval
from rlab.experiments.studies import HERE

STUDIES = ("quantization", "pruning", "distillation")
AGENTS, ENVS = ("ppo", "dqn"), ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
TABLE = (
    "int8",
    "qat4",
    "qat2",
    "prune:0.5",
    "prune:0.75",
    "sparse:0.8",
    "sparse:0.8,int8",
    "distil:16x16",
    "distil:12x12",
    "distil:12x12,int8",
    "distil:12x12,qat4",
    "distil:8x8",
    "distil:4x4",
)
DRAWN = "dqn-LunarLander-v3"  # the population that is hardest to make smaller


def recorded() -> list[dict[str, Any]]:
    """All rows of the studies that were made with the settings as they are."""
    files = [HERE / f"{study}.result.json" for study in STUDIES]
    return [row for file in files for row in json.loads(file.read_text())["results"] if not row["settings"]]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return ratio with the lower end of its interval, and agreement, of each list of steps; in Markdown."""
    found = {(row["parent"], row["steps"]): row for row in rows}
    columns = [f"{agent}-{env}" for agent in AGENTS for env in ENVS]
    lines = [" | ".join(["steps", "bytes", *columns]), "|".join(["---", "---:", *["---"] * len(columns)])]
    for steps in TABLE:
        cells = [_cell(found[column, steps]) for column in columns]
        sizes = {found[column, steps]["weight_bytes"][1] for column in columns}
        lines.append(" | ".join([f"`{steps}`", f"{min(sizes)} to {max(sizes)}", *cells]))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _cell(row: dict[str, Any]) -> str:
    estimate, low, _ = row["return_ratio"]
    return f"{estimate:.3f} [{low:.3f}], {row['agreement']['mean']:.3f}"


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """The population's return against the bytes of its weights, every list of steps a point."""
    mine = [row for row in rows if row["parent"] == DRAWN]
    costs = [row["weight_bytes"][1] for row in mine]
    worth = [row["return_ratio"][0] for row in mine]
    points = []
    for row, cost, value in zip(mine, costs, worth, strict=True):
        as_small = [other for other, size in zip(worth, costs, strict=True) if size <= cost]
        points.append(Choice(row["steps"], cost, Interval(*row["return_ratio"]), value == max(as_small), False))
    words = Words("weights of one member, bytes", "return ratio, 95 %")
    save_chart(HERE / "return_against_size.png", front_chart(points, [], (None, 0.95), words, f"{DRAWN}, ten seeds"))


def main() -> None:
    """Print the one, draw the other."""
    rows = recorded()
    print(table(rows))
    draw(rows)


if __name__ == "__main__":
    main()
