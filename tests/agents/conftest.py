"""What the tests of agents share: an agent on a table, and real training of any members without a run folder."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents import load_agent
from rlab.draws import Draws
from rlab.envs import EnvSpec, make_vec
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.jobs.data_sources import data_source, make_storage
from rlab.learning.base_loop import Periods
from rlab.learning.contract import LoopListener
from rlab.learning.per_member import apart
from rlab.learning.programs import AS_IT_IS, Programs
from rlab.learning.runtime import torch_settings
from rlab.learning.sparsity import GradualPruning
from rlab.networks.spaces import Box, Discrete
from rlab.runs.config import RunConfig

NEVER = 10**9
STATES = 3


def table_agent(name: str, seeds: Sequence[int] = (0,), **settings: Any) -> Any:
    """An agent whose networks are tables: observations are one-hot, so `weight[s, a]` is Q(s, a). Two actions."""
    agent: Any = load_agent(name)
    config = agent.Config(**{"hidden": (), "obs_scaling": "none", **settings})
    space = Box((STATES,), "float32", 0.0, 1.0)
    return agent(config, space, Discrete(2), seeds, torch.device("cpu"))


@torch.no_grad()
def set_table(network: torch.nn.Module, table: Sequence[Sequence[float]]) -> None:
    """Write Q(s, a) into every member's network."""
    weight, bias = sorted(network.parameters(), key=lambda p: p.numel(), reverse=True)
    weight.copy_(torch.tensor(table).expand_as(weight))  # [S, in = state, out = action]
    bias.zero_()


def one_hot(states: Sequence[int]) -> torch.Tensor:
    """`[S=1, B, STATES]`."""
    return torch.nn.functional.one_hot(torch.tensor([states]), STATES).float()


def windows(
    states: Sequence[int],
    actions: Sequence[int],
    rewards: Sequence[Sequence[float]],
    next_states: Sequence[int],
    terminated: Sequence[bool],
    truncated: Sequence[bool] | None = None,
    steps: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """A batch as replay samples it, for one member."""
    rows = len(states)
    return {
        "obs": one_hot(states),
        "action": torch.tensor([actions]),
        "reward": torch.tensor([rewards]),
        "steps": torch.tensor([steps or [1] * rows]),
        "terminated": torch.tensor([terminated]),
        "truncated": torch.tensor([truncated or [False] * rows]),
        "next_obs": one_hot(next_states),
    }


def train_members(
    agent: str | type,
    env_id: str,
    seeds: Sequence[int],
    env_steps: int,
    num_envs: int = 4,
    listeners: Sequence[LoopListener] = (),
    log_every: int = NEVER,
    sparsity: float = 0.0,
    each: Sequence[Mapping[str, Any]] = (),
    programs: Programs = AS_IT_IS,
    **settings: Any,
) -> Any:
    """Train these members in one stack, in the real loop, without evaluation or files; returns the agent. `each` has
    the settings in which members differ, one mapping for each of them."""
    agent_class: Any = load_agent(agent) if isinstance(agent, str) else agent
    with torch_settings(threads=torch.get_num_threads()):
        device = torch.device("cpu")
        env = HostEnv(make_vec(EnvSpec.parse(env_id), tuple(seeds), num_envs), device)
        configs = [agent_class.Config(**{**settings, **own}) for own in each or [{}] * len(seeds)]
        config = apart(configs, tuple({name: None for own in each for name in own}), device)
        learner = agent_class(config, env.obs_space, env.action_space, seeds, device)
        if sparsity:
            GradualPruning.of_policy(sparsity, learner)
        source = data_source(agent_class.__name__, agent_class.data)
        run = RunConfig(seed=seeds[0], seeds=len(seeds), num_envs=num_envs, env_steps=env_steps)
        storage = make_storage(source, learner, run, None, env)
        judged = SimpleNamespace(returns=np.zeros((len(seeds), 1)), lengths=np.ones((len(seeds), 1)))
        periods = Periods(log_every, NEVER, NEVER)
        sampler = learner.sampler(storage, Draws(seeds, source.loop.stream_use, device))
        rest = periods, lambda: judged, listeners
        source.loop(learner, Collector(env), storage, sampler, env_steps, *rest, programs=programs).run()
        env.close()
    return learner


@pytest.fixture
def lab() -> SimpleNamespace:
    """The helpers above."""
    return SimpleNamespace(
        table_agent=table_agent, set_table=set_table, one_hot=one_hot, windows=windows, train_members=train_members
    )
