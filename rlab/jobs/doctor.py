"""`rlab doctor`: what rlab runs on here, what is missing, and which runs and published versions are damaged."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlab.errors import pip_install
from rlab.experience.minari_files import dataset_root
from rlab.learning.compiler import cache_folder, why_not_compile
from rlab.machine import is_installed, processor, versions
from rlab.runs.folder import CONFIG, MANIFEST, ROOT, existing_folder
from rlab.runs.health import damages, leftovers
from rlab.runs.registry import list_models, models_folder

# Extra -> the module that it brings, and what it is for.
EXTRAS = {
    "atari": ("ale_py", "Atari games"),
    "hub": ("huggingface_hub", "policies on the Hugging Face hub"),
    "box2d": ("Box2D", "LunarLander, BipedalWalker, CarRacing"),
    "envpool": ("envpool", "envs in C++"),
    "minari": ("minari", "datasets"),
    "minatar": ("minatar", "small Atari games"),
    "minigrid": ("minigrid", "grid worlds"),
    "mujoco": ("mujoco", "HalfCheetah, Hopper and their like"),
    "robotics": ("gymnasium_robotics", "goals for robot arms, hands and mazes"),
    "mlflow": ("mlflow", "--log mlflow"),
    "notebook": ("ipykernel", "notebooks"),
    "onnx": ("onnxruntime", "exported .onnx files"),
    "pandas": ("pandas", "run.to_frame() and evaluation.to_frame()"),
    "plot": ("matplotlib", "plots"),
    "postgres": ("psycopg", "rlab tune on a PostgreSQL server"),
    "ray": ("ray", "--engine ray"),
    "serve": ("uvicorn", "rlab serve"),
    "sklearn": ("sklearn", "classification metrics beside scikit-learn's"),
    "tune": ("optuna", "rlab tune"),
    "video": ("moviepy", "films as .mp4"),
    "wandb": ("wandb", "--log wandb"),
}


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found."""

    versions: dict[str, str | None]
    cpu: dict[str, Any]
    devices: dict[str, str | None]  # device -> why nothing can be compiled for it; None where it can
    missing: dict[str, str]  # extra -> the command that installs it
    caches: dict[str, str]
    runs: int  # and published versions that were looked at
    damaged: dict[str, list[tuple[str, str]]]  # run or version -> what is wrong, and what can be done
    left: list[str]  # by writers that were killed

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab doctor --json` prints."""
        damaged = {
            run: [{"damage": damage, "advice": advice} for damage, advice in found]
            for run, found in self.damaged.items()
        }
        names = ("versions", "cpu", "devices", "missing", "caches", "runs", "left")
        return {"format": 1, "ok": self.ok, **{name: getattr(self, name) for name in names}, "damaged": damaged}

    def report(self) -> str:
        """The diagnosis for people."""
        lines = [", ".join(f"{name} {version or 'missing'}" for name, version in self.versions.items())]
        lines.append(", ".join(f"{name} {value}" for name, value in self.cpu.items() if value is not None))
        lines += [f"{d}: {'can compile' if why is None else 'no compiling: ' + why}" for d, why in self.devices.items()]
        lines += [f"not installed: {EXTRAS[name][1]}: {command}" for name, command in self.missing.items()]
        lines += [f"{what}: {path}" for what, path in self.caches.items()]
        for run, found in self.damaged.items():
            lines += [f"damaged: {run}: {_joined(damage, advice)}" for damage, advice in found]
        lines += [f"left by a writer that was killed, may be deleted: {path}" for path in self.left]
        whole = self.runs - len(self.damaged)
        lines.append(f"runs and published versions that are whole: {whole} of {self.runs}")
        return "\n".join(lines)


def doctor(runs: Sequence[str] = (), root: str = ROOT) -> Diagnosis:
    """Look at what rlab runs on, and at runs; nothing is changed and no code of others runs.

    Args:
        runs: folders of runs or published versions; none: the runs directly under `root`, and all versions unless it is
            another root than the usual one.

    Raises:
        UsageError: one of them is not a folder.
    """
    if not runs and root != ROOT:
        existing_folder(root)
    folders = [existing_folder(run) for run in runs] or [
        *_runs_under(Path(root)),
        *(Path(row["path"]) for row in list_models(models_folder()) if root == ROOT),
    ]
    found = {str(folder): damages(folder) for folder in folders}
    roots = [Path(run) for run in runs] or [Path(root)]
    return Diagnosis(
        versions=versions(),
        cpu=_cpu(),
        devices=_devices(),
        missing={name: pip_install(name) for name, (module, _) in EXTRAS.items() if not is_installed(module)},
        caches={
            "compiled code": str(cache_folder()),
            "datasets by Minari id": str(dataset_root()),
            "temporary files": tempfile.gettempdir(),
        },
        runs=len(folders),
        damaged={run: wrong for run, wrong in found.items() if wrong},
        left=[path for each in roots for path in leftovers(each)],
    )


def _joined(damage: str, advice: str) -> str:
    return f"{damage} {advice}" if damage.endswith("?") else f"{damage.rstrip('.')}; {advice}"


def _cpu() -> dict[str, Any]:
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _devices() -> dict[str, str | None]:
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    found = {"cpu": why_not_compile(torch.device("cpu"))}
    return found | {
        f"cuda:{n} ({torch.cuda.get_device_name(n)})": why_not_compile(torch.device("cuda", n)) for n in gpus
    }


def _runs_under(root: Path) -> list[Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [path for path in folders if any(os.path.lexists(path / name) for name in (CONFIG, MANIFEST))]
