"""Records whole episodes of a policy, or of random actions: demonstrations to learn from.

Episode k starts one env from seed `first_seed + k`. Members of a stack take turns: member i of S plays the episodes k
with `k % S == i`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import (
    Act,
    EpisodeStep,
    PolicyActor,
    check_episodes,
    check_spaces,
    envs_at_once,
    member_streams,
    play,
)
from rlab.experience.dataset import Episode, action_from_env
from rlab.experience.env_contract import EpisodeEnvs
from rlab.networks.bounds import inwards, is_bound
from rlab.networks.policy import Policy
from rlab.networks.spaces import Box, Discrete, Masked, MultiBinary, MultiDiscrete, Space, choices
from rlab.randomness import stream

FLOAT32_MAX = float(np.finfo(np.float32).max)
RandomAction = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # of an observation [*obs], as `env.step` takes


def record(
    policy: Policy | None,
    make_envs: Callable[[int], EpisodeEnvs],
    spaces: tuple[Space, Space],
    episodes: int,
    first_seed: int,
    *,
    greedy: bool = True,
    noise: float = 0.0,
    max_envs: int | None = None,
) -> tuple[Episode, ...]:
    """Record a number of whole episodes, all members side by side, in the order of their seeds.

    Args:
        policy: the stack; None plays uniformly random actions, of those that a mask allows.
        make_envs: makes n envs without autoreset; they are closed at the end.
        spaces: of observations and of actions.
        first_seed: seed of the first episode; all of them stay below `FIRST_TRAINING_ENV_SEED`.
        greedy: false samples from the policy as in training.
        noise: probability of a uniformly random action in place of the policy's, drawn at each step from the
            episode's own stream.
        max_envs: most envs at once, at least one per member; None: what `make_envs` advises, as for `evaluate`.

    Raises:
        UsageError: no episodes, seeds that training envs may have used, noise that is not a probability, or actions
            that cannot be drawn uniformly.
        RlabError: an episode does not end; the message names its seed.
    """
    check_request(episodes, first_seed, noise)
    obs_space, action_space = spaces
    noise = 1.0 if policy is None else noise
    random_action = uniform_action(obs_space, action_space) if noise else None
    members = 1 if policy is None else len(policy.seeds)
    max_envs = envs_at_once(make_envs, members) if max_envs is None else max_envs
    columns = math.ceil(episodes / members)  # episode k is in column k // S
    blocks = math.ceil(columns / max(1, max_envs // members))
    width = math.ceil(columns / blocks)  # of equal blocks, so that few envs idle in the last one
    envs = make_envs(members * width)
    generators = None
    if policy is not None and not greedy:
        generators = member_streams(policy, policy.seeds, f"recording from {first_seed}")
    found: dict[int, Episode] = {}
    try:
        check_spaces(policy, envs)
        for start in range(0, columns, width):
            numbers = (start + np.arange(width)) * members + np.arange(members)[:, None]  # [S, B]
            seeds = first_seed + np.minimum(numbers, episodes - 1)
            act: Act | None = None if policy is None else PolicyActor(policy, np.arange(members), width, generators)
            if random_action is not None:
                act = _disturbed(act, random_action, seeds, noise)
            assert act is not None  # without a policy the noise is 1
            played = numbers < episodes  # spare rows repeat a seed and are never stepped
            steps = play(envs, act, seeds, played, None if policy is None else policy.seeds)
            found |= dict(zip(numbers[played].tolist(), _recorded(steps, seeds, played, action_space), strict=True))
    finally:
        envs.close()
    return tuple(found[k] for k in range(episodes))


def check_request(episodes: int, first_seed: int, noise: float) -> None:
    """Raise UsageError for what `record` would refuse, before anything is made."""
    check_episodes("a recording", episodes, first_seed)
    if not 0.0 <= noise <= 1.0:
        raise UsageError(f"noise is the probability of a random action, so in [0, 1], not {noise}.")


def uniform_action(obs_space: Space, action_space: Space) -> RandomAction:
    """A function that draws one action uniformly; for each choice, from the options that the observation's mask allows.

    Raises:
        UsageError: an element of the actions has no finite bounds, or bounds that float32 cannot distinguish.
    """
    if isinstance(action_space, Discrete | MultiDiscrete):
        return _uniform_choices(obs_space, action_space)
    if isinstance(action_space, MultiBinary):
        return lambda rng, obs: rng.integers(2, size=action_space.shape, dtype=np.int8)
    if not isinstance(action_space, Box):
        raise UsageError(f"actions {action_space} cannot be drawn at random; they are made of parts.")
    size = math.prod(action_space.shape)
    low, high = (
        np.broadcast_to(np.asarray(bound, np.float64), size).reshape(action_space.shape)
        for bound in (action_space.low, action_space.high)
    )
    if not (is_bound(low, action_space.dtype) & is_bound(high, action_space.dtype)).all():
        raise UsageError(f"actions {action_space} cannot be drawn uniformly: each element needs two finite bounds.")
    dtype = np.dtype(action_space.dtype)
    if dtype.kind == "f":
        return _uniform_floats(action_space, low, high)
    return lambda rng, obs: rng.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True).astype(dtype)


def _uniform_floats(space: Box, low: np.ndarray, high: np.ndarray) -> RandomAction:
    """Draws in float32, the dtype in which actions are stored: what is stored is what was done, and in bounds."""
    fixed = low == high
    least = np.where(fixed, low.astype(np.float32), inwards(low, np.inf))
    most = np.where(fixed, high.astype(np.float32), inwards(high, -np.inf))
    if not (fixed | (least < most)).all():
        row = np.flatnonzero(~(fixed | (least < most)))[0]
        raise UsageError(
            f"actions {space} cannot be drawn and stored: float32 cannot distinguish the numbers between "
            f"{low.ravel()[row]} and {high.ravel()[row]}; scale the actions in the env or with --wrapper "
            "RescaleAction:min_action=-1,max_action=1."
        )
    dtype = np.dtype(space.dtype)

    def draw(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
        drawn = np.asarray(rng.uniform(low, high), np.float32)  # a plain float for a Box of shape ()
        return drawn.clip(least, most).astype(dtype)

    return draw


def _uniform_choices(obs_space: Space, action_space: Discrete | MultiDiscrete) -> RandomAction:
    sizes = choices(action_space)
    start = np.array(action_space.start)
    size = obs_space.size if isinstance(obs_space, Masked) else 0
    ends = np.cumsum(sizes)[:-1]

    def draw(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
        if not size:
            chosen = rng.integers(sizes)
        else:  # a choice of which nothing is allowed may take anything
            parts = np.split(obs[-size:] != 0, ends)
            chosen = np.array([rng.choice(np.flatnonzero(bits if bits.any() else ~bits)) for bits in parts])
        return (chosen.reshape(action_space.shape) + start.reshape(action_space.shape)).astype(np.int64)

    return draw


def _disturbed(act: Act | None, random_action: RandomAction, seeds: np.ndarray, noise: float) -> Act:
    """The actions of `act`, in place of which each episode takes a random one with probability `noise`, drawn from the
    stream of its seed `[S, B]`."""
    streams = [stream(int(seed), "recording") for seed in seeds.flat]

    def disturbed(obs: np.ndarray, active: np.ndarray) -> np.ndarray:
        action = None if act is None else act(obs, active)
        rows = obs.reshape(-1, *obs.shape[2:])
        for i in np.flatnonzero(active).tolist():
            if streams[i].random() < noise:
                drawn = random_action(streams[i], rows[i])
                if action is None:
                    action = np.tile(drawn, (*seeds.shape, *(1 for _ in drawn.shape)))
                action[np.unravel_index(i, seeds.shape)] = drawn
        assert action is not None  # without a policy the noise is 1
        return action

    return disturbed


def _recorded(steps: Iterable[EpisodeStep], seeds: np.ndarray, played: np.ndarray, space: Space) -> Iterator[Episode]:
    """The episodes of the rows `played [S, B]`, one row after another; `space` is that of actions."""
    # Of every step the rows that were active, and which these were; observations lead by one.
    obs: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    rows = [np.flatnonzero(played)]
    terminated, truncated = np.zeros((2, *played.shape), bool)
    for step in steps:
        active = step.active
        obs += [step.next_obs[active]] if obs else [step.obs[active], step.next_obs[active]]
        actions.append(step.action[active])
        rewards.append(_stored_reward(step.reward, active, seeds))
        rows.append(np.flatnonzero(active))
        terminated |= active & step.terminated
        truncated |= active & step.truncated & ~step.terminated
    all_obs = _by_row(obs, rows, played.size)
    action, reward = (_by_row(values, rows[1:], played.size) for values in (actions, rewards))
    for i in np.flatnonzero(played):
        endings = bool(terminated.flat[i]), bool(truncated.flat[i])
        yield Episode(all_obs[i], action_from_env(space, action[i]), reward[i], *endings, int(seeds.flat[i]))


def _stored_reward(reward: np.ndarray, active: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The rewards of the rows that were active, as float32."""
    too_large = active & (np.abs(reward) > FLOAT32_MAX)
    if too_large.any():
        row = np.unravel_index(too_large.argmax(), seeds.shape)
        raise RlabError(
            f"the env gave a reward of {reward[row]} in the episode of seed {seeds[row]}, which float32 does "
            "not hold; recordings keep rewards as float32."
        )
    return reward[active].astype(np.float32)


def _by_row(values: Sequence[np.ndarray], row: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Values of each step `[active, ...]`, with the rows that they are of, as the values of each row in time order."""
    owner = np.concatenate(row)
    order = np.argsort(owner, kind="stable")
    return np.split(np.concatenate(values)[order], np.cumsum(np.bincount(owner, minlength=rows))[:-1])
