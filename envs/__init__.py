"""Environments: specs, vector envs, wrappers by name, and probe worlds with values known on paper."""

if __name__ != "rlab.envs":
    raise ImportError(f"import this package as rlab.envs, not as {__name__}: its name inside the wheel is rlab.envs")

from rlab.envs.adapter import GymVectorEnv as GymVectorEnv
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
from rlab.envs.probe_spaces import SPACE_PROBES as SPACE_PROBES
from rlab.envs.specs import EnvSpec as EnvSpec
from rlab.envs.sub_env import SubEnv as SubEnv
from rlab.envs.wrappers import WRAPPERS as WRAPPERS
