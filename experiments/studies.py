"""What the studies share: experts, populations, demonstrations, compressed policies, and records of what came out."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.evaluation.charts.curves import Series, curve_of, curves_chart
from rlab.evaluation.charts.files import save_chart
from rlab.evaluation.stats import iqm, stratified_bootstrap

# Where the runs of a study go; those of experts and controls are used again when they are there.
RUNS = Path("runs/studies")
HERE = Path(__file__).parent
# An expert is one member, trained as its shipped experiment says; its seed is none that a study trains.
EXPERT_SEED = 1_000
MEMBERS = 10  # of the populations that are compressed


def run_folder(name: str) -> Path:
    """A fresh place for a run of that name; what was there is removed."""
    path = RUNS / name
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def expert(agent: str, env: str, **settings: Any) -> Path:
    """The run of one expert, trained with the shipped settings where it is not there yet."""
    path = RUNS / f"expert-{agent}-{env}"
    if not (path / "result.json").exists():
        say(f"training the expert: {agent} on {env}")
        rlab.train(agent, env, out=run_folder(path.name), seed=EXPERT_SEED, **settings)
    return path


def population(agent: str, env: str, kind: str = "", **settings: Any) -> Path:
    """The run of ten members, trained where it is not there yet: with the shipped settings, or with others for a
    `kind` of its own, such as `-256x256`."""
    path = RUNS / f"population-{agent}-{env}{kind}"
    if not (path / "result.json").exists():
        say(f"training {path.name}")
        rlab.train(agent, env, out=run_folder(path.name), seeds=MEMBERS, **settings)
    return path


def compressed(source: Path, steps: str, **how: Any) -> dict[str, Any]:
    """What a list of steps made of a population, judged beside it on the same episodes; pairs are parent and child."""
    name = source.name.removeprefix("population-")
    out = run_folder(f"compressed-{name}-{re.sub('[^a-z0-9.]+', '-', steps)}")
    started = time.perf_counter()
    report = rlab.compress(source, steps, out=out, **how).report
    seconds = time.perf_counter() - started
    assert report.ratio is not None  # the policies of all these envs have a mean return that is not 0
    sides = (report.parent, report.child)
    ratio, agreed = report.ratio, of_seeds(np.array(report.agreement))
    say(
        f"{name}, {steps}: return ratio {ratio:.3f}, agreement "
        f"{np.mean(report.agreement):.4f}, {sides[1].weight_bytes} of {sides[0].weight_bytes} bytes, {seconds:.0f} s"
    )
    return {
        "parent": name,
        "steps": steps,
        "settings": how,
        "return_ratio": [ratio.estimate, ratio.low, ratio.high],
        "agreement": {"mean": float(np.mean(report.agreement)), **agreed},
        "worst_output_error": max(report.worst_output_error),
        "returns": [of_seeds(np.array(side.returns)) for side in sides],
        "weight_bytes": [side.weight_bytes for side in sides],
        "parameters": [side.parameters for side in sides],
        "multiply_adds": [side.multiply_adds for side in sides],
        "runtimes": [side.runtime for side in sides],
        "latency": [[asdict(each) for each in side.runtime_latency] for side in sides],
        "seconds": seconds,
    }


def smaller(row: Mapping[str, Any], what: str) -> float:
    """The child's share of its parent's `weight_bytes`, `parameters` or `multiply_adds`."""
    parent, child = row[what]
    return float(child / parent)


def control(name: str, train: Callable[[Path], api.Run]) -> api.Run:
    """A run that `train` makes in a folder; where it is there already it is opened and judged again."""
    path = RUNS / name
    if not (path / "result.json").exists():
        return train(run_folder(name))
    run = api.Run(path, True, "env_steps", 0, rlab.evaluate(path))
    return replace(run, time=int(run.curve()[0][-1]))


def demonstrations(name: str, source: Path | str, episodes: int, **how: Any) -> Path:
    """A dataset of `episodes` episodes of a policy, recorded anew."""
    path = run_folder(f"data-{name}")
    rlab.collect(source, episodes=episodes, out=path, **how)
    return path


def judged(run: api.Run) -> dict[str, Any]:
    """What a run's final weights reached, for a record: every seed's mean return, and the IQM with its interval."""
    assert run.evaluation is not None
    return of_seeds(run.evaluation.per_seed_mean)


def of_seeds(values: np.ndarray) -> dict[str, Any]:
    """A value per training seed, with the IQM and its 95 % interval."""
    interval = stratified_bootstrap(values)
    per_seed = [round(float(value), 4) for value in values]
    return {"per_seed": per_seed, "iqm": iqm(values), "ci95": [interval.low, interval.high]}


def goal(what: str, found: float, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    """A goal with what was found, said and returned for the record; one of the two bounds is given."""
    name, bound = ("at_least", at_least) if at_most is None else ("at_most", at_most)
    assert bound is not None
    holds = bool(found >= bound if name == "at_least" else found <= bound)
    say(f"{what}: {found:.4g}, asked for {name.replace('_', ' ')} {bound:.4g}: {'met' if holds else 'MISSED'}")
    return {"goal": what, "found": float(found), name: bound, "holds": holds}


def record(name: str, result: Mapping[str, Any]) -> None:
    """Write `<name>.result.json` beside the script of that name."""
    content = {"format": 1, "study": name, "hardware": api.hardware(), "versions": api.versions(), **result}
    (HERE / f"{name}.result.json").write_text(json.dumps(content, indent=2) + "\n")


def picture(name: str, curves: Mapping[str, Series], x_label: str, y_label: str) -> None:
    """Draw `<name>.png` there."""
    drawn = (curve_of(side, name, data) for side, (name, data) in enumerate(curves.items()))
    title = "IQM over seeds with its 95 % interval"
    save_chart(HERE / f"{name}.png", curves_chart([each for each in drawn if each], (x_label, y_label), title))


def say(line: str) -> None:
    """One line for people, at once."""
    print(line, file=sys.stderr, flush=True)
