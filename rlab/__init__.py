"""rlab: train, watch and judge reinforcement-learning agents, ten seeds at once."""

from rlab import import_path  # noqa: F401  first of all; it says why

# isort: split

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlab.errors import RlabError as RlabError
from rlab.errors import UsageError as UsageError
from rlab.version import VERSION

__version__ = VERSION

_HERE = Path(__file__).resolve().parent


class _Bridge:
    """In a checkout agents/, envs/ and experiments/ stand beside this folder; in a wheel they are inside it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in ("rlab.agents", "rlab.envs", "rlab.experiments"):
            return PathFinder.find_spec(name, [str(_HERE.parent)])
        return None


if not (_HERE / "agents").is_dir():
    # First of all: the finder of an editable install would bring those of the clone that it was made in, also where
    # this `rlab` is another clone's, found in the working folder or on PYTHONPATH.
    sys.meta_path.insert(0, _Bridge)

# What rlab offers, found on demand: rlab/api.py and rlab.supervised import torch, which takes over a second.
API = (
    "FinishedEpisode",
    "Listener",
    "Played",
    "Run",
    "bench",
    "check",
    "collect",
    "collect_random",
    "compare",
    "compress",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "live_report",
    "load",
    "merge_datasets",
    "play",
    "pretrain",
    "publish",
    "report",
    "resume",
    "search_compression",
    "serve",
    "train",
    "tune",
)
__all__ = ["RlabError", "UsageError", "__version__", "supervised", *API]

if TYPE_CHECKING:
    from rlab import supervised as supervised
    from rlab.api import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'rlab' has no attribute {name!r}; it has {', '.join(__all__)}")
        if name == "supervised":
            return importlib.import_module("rlab.supervised")
        return getattr(importlib.import_module("rlab.api"), name)


def __dir__() -> list[str]:
    """What Tab completes: the public names, whether torch is imported yet or not."""
    return sorted({*__all__, "__doc__", "__file__", "__name__", "__path__"})
