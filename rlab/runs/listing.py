"""The runs under a folder, at a glance. Broken ones are listed with the reason; nothing here raises because of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.folder import BEGUN, CONFIG, MANIFEST, PARTS, SETTINGS, RunFolder, is_run, read_vouched
from rlab.runs.logs import last_row, read_json_lines
from rlab.runs.status import BROKEN, RUNNING, read_status


def list_runs(root: Path | str = "runs") -> list[dict[str, Any]]:
    """One dict per run folder directly under `root`, by name; an empty list where `root` is missing.

    Keys: `path`, `agent`, `env_id`, `seeds` (list), `env_steps` (saved, or reached by a run in progress) and
    `total_env_steps` (both per member, the total in whole steps of all its envs; None where a run learns from a
    dataset), `updates` and `total_updates` (only there), `dropped` (the seeds that it went on without), `final_iqm` (of
    the final evaluation) with its 95 % interval `final_ci95`, `eval_iqm` and `eval_ci95` (of the last one during
    training), `status` (`finished`, `not-judged`: trained, and the final evaluation is still to come, `running`,
    `stopped`, `failed` or `broken`), `reason` (why so), `at` (since when, UTC), `began` (UTC), `wall_seconds` (of
    training and judging, without processes that were killed), `only_here` (true where no other process finds the env),
    and what made it: `version` and `commit` of rlab, and the `command`.
    What is not known is None. Weights are not read: `load_policy` checks them.
    """
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except OSError:
        return []
    return [_described(path) for path in folders if any((path / name).exists() for name in (CONFIG, MANIFEST, BEGUN))]


def _described(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = dict.fromkeys(
        (
            *("path", "agent", "env_id", "seeds", "env_steps", "total_env_steps", "updates", "total_updates"),
            *("dropped", "final_iqm", "final_ci95", "eval_iqm", "eval_ci95"),
            *("status", "at", "began", "wall_seconds", "only_here", "reason", "version", "commit", "command"),
        )
    )
    known["path"] = str(path)
    try:
        known |= _facts(RunFolder.open(path))
    except (RlabError, OSError) as error:
        known |= {"status": BROKEN, "reason": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        known |= {"status": BROKEN, "reason": f"{path / CONFIG} lacks something ({type(error).__name__}: {error})"}
    return known


def _facts(run: RunFolder) -> dict[str, Any]:
    settings = run.config["run"]
    unit = clock_unit(run)
    first, total = settings["seed"], settings[unit]
    saved = saved_time(run)
    evaluations = read_json_lines(run.path / "eval.jsonl")[1] if (run.path / "eval.jsonl").is_file() else []
    last = {bool(row.get("final")): row for row in evaluations}
    final, during = (last.get(kind, {"iqm": None, "ci95": None}) for kind in (True, False))
    status = read_status(run, saved, total)
    return {
        "agent": run.config["agent"],
        "env_id": run.config["env"]["env_id"],
        "seeds": list(range(first, first + settings["seeds"])),
        unit: reached(run, unit, saved) if status.status == RUNNING else saved,
        f"total_{unit}": whole_steps(total, settings.get("num_envs", 1)) if unit == "env_steps" else total,
        "dropped": [each["seed"] for each in policy_facts(run).get("dropped", [])] or None,
        "only_here": True if run.config["env"].get("local") else None,
        "final_iqm": final["iqm"],
        "final_ci95": final["ci95"],
        "eval_iqm": during["iqm"],
        "eval_ci95": during["ci95"],
        **asdict(status),
        "version": run.config.get("computed_with", {}).get("rlab"),
        "commit": run.config.get("commit"),
        "command": run.config.get("command"),
    }


def reached(run: RunFolder, unit: str, saved: int) -> int:
    """How far a run in progress has come: its last row of metrics, or what was saved."""
    return max(saved, int((last_row(run.path / "metrics.jsonl") or {}).get(unit, 0)))


def whole_steps(budget: int, num_envs: int) -> int:
    """The env steps at which a budget is used up: all envs of a member step together."""
    return -(-budget // num_envs) * num_envs


def clock_unit(run: RunFolder) -> str:
    """What the clock of a run counts: `env_steps`, or `updates` where it learns from a dataset alone."""
    return str(run.config.get("unit", "env_steps"))


def saved_time(run: RunFolder) -> int:
    """How far the saved policy was trained, in the run's unit; 0 where there is none yet. Until the parts of a run are
    put together, and where sets of settings have policies of their own: the one that is least far."""
    if not (run.policy / "policy.json").exists():
        parts = filter(is_run, [*(run.path / PARTS).glob("*"), *(run.path / SETTINGS).glob("*")])
        return min((saved_time(RunFolder.open(part)) for part in parts), default=0)
    return int(policy_facts(run).get(clock_unit(run), 0))


def policy_facts(run: RunFolder) -> dict[str, Any]:
    """What was saved with the policy of a run; empty where none was saved."""
    path = run.policy / "policy.json"
    if not path.exists():
        return {}
    content = read_vouched(run.path, f"policy/{path.name}")
    facts: dict[str, Any] = files.parse_json(content, path).get("extra", {})
    return facts
