"""Plays a policy, or at random, and keeps every step: episodes to learn from.

Episode k starts one env from seed `first_seed + k`. Members of a stack take turns: member i of S plays the episodes k
with `k % S == i`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import check_spaces, endless, envs_at_once, most_steps
from rlab.experience.contract import EpisodeEnvs
from rlab.experience.dataset import Episode, action_from_env
from rlab.networks.bounds import inwards, is_bound
from rlab.networks.policy import Policy
from rlab.networks.spaces import Box, Discrete, Masked, MultiBinary, MultiDiscrete, Space, choices
from rlab.randomness import FIRST_TRAINING_ENV_SEED, stream, torch_stream

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
    """Play so many whole episodes, all members together, and keep them in the order of their seeds.

    Args:
        policy: the stack; None plays uniformly random actions, of those that a mask allows.
        make_envs: makes n envs that do not reset themselves; they are closed at the end.
        spaces: of observations and of actions.
        first_seed: seed of the first episode; all of them stay below `FIRST_TRAINING_ENV_SEED`.
        greedy: false samples from the policy as in training.
        noise: probability of a uniformly random action in place of the policy's, drawn at each step from the
            episode's own stream.
        max_envs: most envs at once, at least one per member; None: what `make_envs` advises, as for `evaluate`.

    Raises:
        UsageError: no episodes, seeds that training envs may have used, noise that is no probability, or actions that
            cannot be drawn uniformly.
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
    act = _acting(policy, members, greedy, first_seed)
    found: dict[int, Episode] = {}
    try:
        check_spaces(policy, envs)
        for start in range(0, columns, width):
            numbers = (start + np.arange(width)) * members + np.arange(members)[:, None]  # [S, B]
            block = _Block(envs, numbers, episodes, first_seed)
            block.play(act, random_action, noise)
            found |= block.recorded(action_space)
    finally:
        envs.close()
    return tuple(found[k] for k in range(episodes))


def check_request(episodes: int, first_seed: int, noise: float) -> None:
    """Raise UsageError for what `record` would refuse, before anything is made."""
    if episodes < 1:
        raise UsageError(f"a recording needs one episode or more, not {episodes}.")
    if first_seed < 0 or first_seed + episodes > FIRST_TRAINING_ENV_SEED:
        raise UsageError(
            f"episode seeds must lie between 0 and {FIRST_TRAINING_ENV_SEED - 1}; {episodes} episodes from seed "
            f"{first_seed} do not."
        )
    if not 0.0 <= noise <= 1.0:
        raise UsageError(f"noise is the probability of a random action, so in [0, 1], not {noise}.")


def uniform_action(obs_space: Space, action_space: Space) -> RandomAction:
    """Draws one action uniformly, for each choice among the options that the observation's mask allows.

    Raises:
        UsageError: an element of the actions has no finite bounds, or ones that float32 does not tell apart.
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
    """Draws through float32, the form in which actions are kept: what is kept is what was done, and in bounds."""
    fixed = low == high
    least = np.where(fixed, low.astype(np.float32), inwards(low, np.inf))
    most = np.where(fixed, high.astype(np.float32), inwards(high, -np.inf))
    if not (fixed | (least < most)).all():
        row = np.flatnonzero(~(fixed | (least < most)))[0]
        raise UsageError(
            f"actions {space} cannot be drawn and kept: float32 does not tell the numbers between "
            f"{low.ravel()[row]} and {high.ravel()[row]} apart; scale the actions in the env or with --wrapper "
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


def _acting(
    policy: Policy | None, members: int, greedy: bool, first_seed: int
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Observations `[S, B, *obs]` to what the policy does, as `env.step` takes it."""
    if policy is None:
        return None
    if greedy:
        return lambda obs: np.asarray(policy(obs))
    generators = [torch_stream(seed, f"recording from {first_seed}", _device_of(policy)) for seed in policy.seeds]
    return lambda obs: np.asarray(policy(obs, greedy=False, generators=generators))


def _device_of(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


class _Block:
    """One episode in each of `members x width` envs, side by side."""

    def __init__(self, envs: EpisodeEnvs, numbers: np.ndarray, episodes: int, first_seed: int) -> None:
        self.envs, self.shape = envs, numbers.shape  # [S, B]
        self.numbers = numbers.ravel()
        self.active = self.numbers < episodes  # [n]; what is left over repeats a seed and is never stepped
        self.seeds = first_seed + np.minimum(self.numbers, episodes - 1)
        self.played = self.active.copy()
        self.terminated, self.truncated = np.zeros((2, len(self.numbers)), bool)
        # The rows of the envs that were active at each step, and which envs these were; observations lead by one.
        self._obs: list[np.ndarray] = []
        self._obs_of: list[np.ndarray] = []
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []  # action, reward

    def play(
        self,
        act: Callable[[np.ndarray], np.ndarray] | None,
        random_action: RandomAction | None,
        noise: float,
    ) -> None:
        """Play until every episode is over."""
        streams = [stream(int(seed), "recording") for seed in self.seeds] if random_action else []
        obs = self.envs.reset(self.seeds.tolist())
        self._keep_obs(obs)
        while self.active.any():
            action = None if act is None else self._asked(act, obs)
            if random_action is not None:
                action = self._disturbed(action, obs, random_action, streams, noise)
            assert action is not None  # one of the two acts
            before = self.active.copy()
            obs, reward, terminated, truncated = self.envs.step(action, before)
            self._steps.append((action[before], self._stored_reward(reward, before)))
            self._keep_obs(obs)
            self.terminated |= before & terminated
            self.truncated |= before & truncated & ~terminated
            self.active = before & ~(terminated | truncated)
            self._check_length()

    def _keep_obs(self, obs: np.ndarray) -> None:
        self._obs.append(obs[self.active])
        self._obs_of.append(np.flatnonzero(self.active))

    def _asked(self, act: Callable[[np.ndarray], np.ndarray], obs: np.ndarray) -> np.ndarray:
        """The policy's actions `[n, ...]`, asking nothing for columns that are over in every member."""
        live = self.active.reshape(self.shape).any(axis=0)
        chosen = act(obs.reshape(*self.shape, *obs.shape[1:])[:, live])
        # A column that is over repeats its neighbour's action: never stepped, yet always one that the env would accept.
        spread = chosen[:, np.maximum(live.cumsum() - 1, 0)]
        return spread.reshape(-1, *spread.shape[2:])

    def _disturbed(
        self,
        action: np.ndarray | None,
        obs: np.ndarray,
        random_action: RandomAction,
        streams: Sequence[np.random.Generator],
        noise: float,
    ) -> np.ndarray:
        for i in np.flatnonzero(self.active).tolist():
            if streams[i].random() < noise:
                drawn = random_action(streams[i], obs[i])
                if action is None:
                    action = np.tile(drawn, (len(obs), *(1 for _ in drawn.shape)))
                action[i] = drawn
        assert action is not None  # without a policy the noise is 1
        return action

    def _stored_reward(self, reward: np.ndarray, active: np.ndarray) -> np.ndarray:
        """The rewards `[n]` of the envs that were active, as float32."""
        too_large = active & (np.abs(reward) > FLOAT32_MAX)
        if too_large.any():
            row = too_large.argmax()
            raise RlabError(
                f"the env gave a reward of {reward[row]} in the episode of seed {self.seeds[row]}, which float32 does "
                "not hold; recordings keep rewards as float32."
            )
        return reward[active].astype(np.float32)

    def _check_length(self) -> None:
        if len(self._steps) >= most_steps(self.envs) and self.active.any():
            raise endless(str(self.seeds[self.active.argmax()]), self.envs)

    def recorded(self, action_space: Space) -> dict[int, Episode]:
        """The episodes that were played, by number."""
        obs = _by_env(self._obs, self._obs_of, len(self.numbers))
        actions, rewards = zip(*self._steps, strict=True)
        action, reward = (_by_env(rows, self._obs_of[1:], len(self.numbers)) for rows in (actions, rewards))
        return {
            int(self.numbers[i]): Episode(
                obs[i],
                action_from_env(action_space, action[i]),
                reward[i],
                bool(self.terminated[i]),
                bool(self.truncated[i]),
                int(self.seeds[i]),
            )
            for i in np.flatnonzero(self.played)
        }


def _by_env(rows: Sequence[np.ndarray], env: Sequence[np.ndarray], num_envs: int) -> list[np.ndarray]:
    """Rows of each step `[active, ...]`, with the envs that they are of, as the rows of each env in time order."""
    owner = np.concatenate(env)
    order = np.argsort(owner, kind="stable")
    return np.split(np.concatenate(rows)[order], np.cumsum(np.bincount(owner, minlength=num_envs))[:-1])
