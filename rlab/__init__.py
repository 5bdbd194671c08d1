"""rlab: train, watch and judge reinforcement-learning agents, ten seeds at once."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlab.errors import RlabError as RlabError
from rlab.errors import UsageError as UsageError

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent


class _Bridge:
    """In a checkout agents/, envs/ and experiments/ stand beside this folder; in a wheel they are inside it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in ("rlab.agents", "rlab.envs", "rlab.experiments"):
            return PathFinder.find_spec(name, [str(_HERE.parent)])
        return None


if not (_HERE / "agents").is_dir():
    sys.meta_path.append(_Bridge)

if TYPE_CHECKING:
    from rlab.api import collect as collect
    from rlab.api import compress as compress
    from rlab.api import evaluate as evaluate
    from rlab.api import export as export
    from rlab.api import finetune as finetune
    from rlab.api import load as load
    from rlab.api import pretrain as pretrain
    from rlab.api import search as search
    from rlab.api import train as train
else:

    def __getattr__(name: str) -> Any:
        # On demand, since rlab.api imports torch, which takes over a second.
        if name not in ("collect", "compress", "evaluate", "export", "finetune", "load", "pretrain", "search", "train"):
            raise AttributeError(f"module 'rlab' has no attribute {name!r}")
        from rlab import api

        return getattr(api, name)
