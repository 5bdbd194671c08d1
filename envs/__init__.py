"""Environments: specs, vector envs, wrappers by name, and probe worlds with values known on paper."""

if __name__ != "rlab.envs":
    raise ImportError(f"import this package as rlab.envs, not as {__name__}: its name inside the wheel is rlab.envs")

from rlab.envs.adapter import GymVectorEnv
from rlab.envs.callables import EnvLike, env_spec, given_again
from rlab.envs.episodes import NativeEpisodes, SingleEpisodes
from rlab.envs.findings import Finding
from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.ids import EnvRow, list_envs
from rlab.envs.linter import Checkup, check_env
from rlab.envs.make import EpisodeMaker, EpisodePool, make_env, make_episodes, make_vec
from rlab.envs.probe import PROBES, Probe, ProbeValue
from rlab.envs.probe_spaces import SPACE_PROBES
from rlab.envs.specs import EnvSpec
from rlab.envs.sub_env import SubEnv
from rlab.envs.wrappers import WRAPPERS

__all__ = [
    "PROBES",
    "SPACE_PROBES",
    "WRAPPERS",
    "Checkup",
    "EnvLike",
    "EnvRow",
    "EnvSpec",
    "EpisodeMaker",
    "EpisodePool",
    "Finding",
    "GymVectorEnv",
    "NativeEpisodes",
    "Probe",
    "ProbeValue",
    "SingleEpisodes",
    "SubEnv",
    "check_env",
    "env_spec",
    "given_again",
    "list_envs",
    "make_env",
    "make_episodes",
    "make_vec",
    "space_from_gym",
]
