"""Environments: specs, vector envs, wrappers by name, and probe worlds with values known on paper."""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "rlab.envs":
    raise ImportError(f"import this package as rlab.envs, not as {__name__}: its name inside the wheel is rlab.envs")

from rlab.envs.adapter import GymVectorEnv as GymVectorEnv
from rlab.envs.atari import atari_notes as atari_notes
from rlab.envs.callables import EnvLike as EnvLike
from rlab.envs.callables import env_spec as env_spec
from rlab.envs.callables import given_again as given_again
from rlab.envs.episodes import NativeEpisodes as NativeEpisodes
from rlab.envs.episodes import SingleEpisodes as SingleEpisodes
from rlab.envs.findings import Finding as Finding
from rlab.envs.gym_spaces import space_from_gym as space_from_gym
from rlab.envs.ids import EnvRow as EnvRow
from rlab.envs.ids import list_envs as list_envs
from rlab.envs.linter import Checkup as Checkup
from rlab.envs.linter import check_env as check_env
from rlab.envs.make import EpisodeMaker as EpisodeMaker
from rlab.envs.make import EpisodePool as EpisodePool
from rlab.envs.make import make_env as make_env
from rlab.envs.make import make_episodes as make_episodes
from rlab.envs.make import make_vec as make_vec
from rlab.envs.probe import MEMORY_PROBES as MEMORY_PROBES
from rlab.envs.probe import PROBES as PROBES
from rlab.envs.probe import Probe as Probe
from rlab.envs.probe import ProbeValue as ProbeValue
from rlab.envs.probe_spaces import BOX_PROBES as BOX_PROBES
from rlab.envs.probe_spaces import SPACE_PROBES as SPACE_PROBES
from rlab.envs.probe_sparse import SPARSE_PROBES as SPARSE_PROBES
from rlab.envs.specs import EnvSpec as EnvSpec
from rlab.envs.sub_env import SubEnv as SubEnv
from rlab.envs.tensor_registry import tensor_env_of as tensor_env_of
from rlab.envs.tensor_registry import why_not_tensor as why_not_tensor
from rlab.envs.wrappers import WRAPPERS as WRAPPERS

# Found on demand: they import torch, which takes over a second.
TENSOR_NAMES = {
    "EnvState": "rlab.envs.tensor_env",
    "TensorCheck": "rlab.envs.tensor_check",
    "TensorEnv": "rlab.envs.tensor_env",
    "TensorVectorEnv": "rlab.envs.tensor_vector",
    "check_tensor_env": "rlab.envs.tensor_check",
}

if TYPE_CHECKING:
    from rlab.envs.tensor_check import TensorCheck as TensorCheck
    from rlab.envs.tensor_check import check_tensor_env as check_tensor_env
    from rlab.envs.tensor_env import EnvState as EnvState
    from rlab.envs.tensor_env import TensorEnv as TensorEnv
    from rlab.envs.tensor_vector import TensorVectorEnv as TensorVectorEnv
else:

    def __getattr__(name: str) -> Any:
        if name not in TENSOR_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(TENSOR_NAMES[name]), name)
