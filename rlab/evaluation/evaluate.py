"""Evaluation of a population of policies: the same episodes for every member, from seeds that training never uses,
with greedy actions by default.

Episode k starts one env from seed `first_seed + k`, for every member and every policy: two evaluations with the same
`first_seed` are paired, episode by episode.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError, pip_install
from rlab.evaluation.episode_driver import (
    EpisodeStep,
    PolicyActor,
    PolicyStack,
    check_episodes,
    check_spaces,
    envs_at_once,
    episode_streams,
    play,
)
from rlab.evaluation.stats import (
    COVERAGE,
    Interval,
    iqm,
    mean_interval,
    shown_digits,
    stratified_bootstrap,
    too_narrow,
)
from rlab.experience.env_contract import EpisodeEnvs

# Hears a step of a block: the members of its rows `[P]`, the episode of its first column (0 is the first of all).
OnStep = Callable[[np.ndarray, int, EpisodeStep], None]
NOBODY_HEARS: OnStep = lambda playing, first_episode, step: None  # noqa: E731  # one constant, given on


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What every member of a population reached in every episode."""

    seeds: tuple[int, ...]  # training seed of each member
    first_seed: int  # of the episodes
    returns: np.ndarray  # [S, E] float64, undiscounted sums of the env's own rewards
    lengths: np.ndarray  # [S, E] int64, env steps
    greedy: bool = True  # False: actions were sampled as in training

    @property
    def episodes(self) -> int:
        """E, per member."""
        return int(self.returns.shape[1])

    @property
    def env_steps(self) -> int:
        """Env steps that the evaluation took, over all members."""
        return int(self.lengths.sum())

    @property
    def per_seed_mean(self) -> np.ndarray:
        """The mean return of each member, `[S]`."""
        return self.returns.mean(axis=1)

    @property
    def iqm(self) -> float:
        """Interquartile mean of the members' mean returns: with one member, its mean return."""
        return iqm(self.per_seed_mean)

    @property
    def ci95(self) -> tuple[float, float] | None:
        """What the IQM would be for other training seeds: 95 % interval; None with one seed, which cannot tell."""
        return _ends(self._over_seeds)

    @property
    def episodes_ci95(self) -> tuple[float, float] | None:
        """What these members' mean return would be on other episodes: 95 % interval; None with one episode.

        All members share an episode's seed, so that whole episodes are resampled, members and all.
        """
        return _ends(self._over_episodes)

    @cached_property
    def _over_seeds(self) -> Interval | None:
        return stratified_bootstrap(self.per_seed_mean) if len(self.seeds) > 1 else None

    @cached_property
    def _over_episodes(self) -> Interval | None:
        return mean_interval(self.returns.mean(axis=0)) if self.episodes > 1 else None

    def to_json(self, policy: str, agent: str, env_id: str) -> dict[str, Any]:
        """The one object that `rlab eval --json` prints: plain numbers, `return_std` over episodes (divided by E)."""
        return {
            "policy": policy,
            "agent": agent,
            "env_id": env_id,
            "episodes": self.episodes,
            "greedy": self.greedy,
            "evaluation_env_steps": self.env_steps,
            "per_seed": [
                {
                    "seed": seed,
                    "return_mean": float(returns.mean()),
                    "return_std": float(returns.std()),
                    "return_min": float(returns.min()),
                    "length_mean": float(lengths.mean()),
                    "returns": returns.tolist(),
                }
                for seed, returns, lengths in zip(self.seeds, self.returns, self.lengths, strict=True)
            ],
            "iqm": self.iqm,
            "ci95": list(self.ci95) if self.ci95 else None,
            "ci95_coverage": COVERAGE.get(len(self.seeds)),
            "episodes_ci95": list(self.episodes_ci95) if self.episodes_ci95 else None,
        }

    def to_frame(self) -> Any:
        """A pandas table with a row for each member and episode: seed, episode_seed, return and length.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ImportError as error:
            needed = f"evaluation.to_frame() needs pandas: {pip_install('pandas')}"
            raise UsageError(f"{needed}; evaluation.returns [seeds, episodes] is there without it.") from error
        of_episodes = np.arange(self.first_seed, self.first_seed + self.episodes)
        keys = {"seed": np.repeat(self.seeds, self.episodes), "episode_seed": np.tile(of_episodes, len(self.seeds))}
        return pd.DataFrame({**keys, "return": self.returns.ravel(), "length": self.lengths.ravel()})

    def summary(self) -> str:
        """The result for people: a line per member, then what it says about other seeds and other episodes."""
        digits = shown_digits(self.returns.min(), self.returns.max())
        rows = [f"{'seed':>10} {'mean return':>12} {'std':>9} {'min':>9} {'mean length':>12}"]
        for seed, returns, lengths in zip(self.seeds, self.returns, self.lengths, strict=True):
            mean, std, least = (f"{value:.{digits}f}" for value in (returns.mean(), returns.std(), returns.min()))
            rows.append(f"{seed:>10} {mean:>12} {std:>9} {least:>9} {lengths.mean():>12.1f}")
        return "\n".join([*rows, *self._verdict()])

    def _verdict(self) -> list[str]:
        last_seed = self.first_seed + self.episodes - 1
        count = f"{self.episodes} episodes each" if len(self.seeds) > 1 else f"{self.episodes} episodes"
        what = f"{count}, episode seeds {self.first_seed} to {last_seed}{'' if self.greedy else ', sampled actions'}"
        if self._over_episodes is None:
            lines = [f"one episode, seed {self.first_seed}: it shows nothing about other episodes"]
        else:
            whose = "this learner" if len(self.seeds) == 1 else f"these {len(self.seeds)} learners"
            lines = [f"{self._over_episodes} mean return of {whose}, 95 % interval for other episodes ({what})"]
        if self._over_seeds is None:
            return [*lines, "One run shows nothing about other training seeds: train more, for example --seeds 10."]
        lines.append(f"{self._over_seeds} IQM of {len(self.seeds)} training seeds, 95 % interval for other seeds")
        if narrow := too_narrow(len(self.seeds)):
            lines.append(f"({narrow}; 6 seeds come close, 10 reach it)")
        return lines


def evaluate(
    policy: PolicyStack,
    make_envs: Callable[[int], EpisodeEnvs],
    episodes: int,
    first_seed: int,
    max_envs: int | None = None,
    greedy: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = NOBODY_HEARS,
) -> Evaluation:
    """Play `episodes` whole episodes with every member of `policy`.

    Episodes are played in blocks, one env for each member and episode of the block; all blocks use the same envs. With
    fewer envs than members the members take turns. An episode is played until it terminates or is truncated.

    Args:
        policy: the stack.
        make_envs: makes n envs without autoreset; they are closed at the end.
        episodes: per member, 1 or more.
        first_seed: seed of the first episode; all of them stay below `FIRST_TRAINING_ENV_SEED`.
        max_envs: most envs at once, 1 or more; None: what `make_envs` advises, see `envs_at_once`.
        greedy: false samples actions, each episode of each member from a stream of its own, so that they do not depend
            on the other episodes.
        should_stop: called before every step.
        on_step: called after every step.

    Raises:
        StoppedError: `should_stop` returned true.
        UsageError: no episodes, no envs or those of other spaces than the policy's, or episode seeds that training
            envs may have used.
        RlabError: a return is not finite, or an episode does not end; the message names member and episode.
    """
    check_episodes("an evaluation", episodes, first_seed)
    members = len(policy.seeds)
    max_envs = envs_at_once(make_envs, members) if max_envs is None else max_envs
    if max_envs < 1:
        raise UsageError(f"an evaluation needs one env or more, not {max_envs}")
    together = min(members, max_envs)  # members that play at once
    blocks = math.ceil(episodes / (max_envs // together))
    width = math.ceil(episodes / blocks)  # of equal blocks, so that few envs idle in the last one
    returns = np.zeros((members, episodes), dtype=np.float64)
    lengths = np.zeros((members, episodes), dtype=np.int64)
    envs = make_envs(together * width)
    try:
        check_spaces(policy, envs)
        for first, start in itertools.product(range(0, members, together), range(0, episodes, width)):
            playing = np.minimum(np.arange(first, first + together), members - 1)  # [P]
            rows, block = slice(first, first + together), slice(start, min(start + width, episodes))
            found = returns[rows, block], lengths[rows, block]
            hear = partial(on_step, playing, start)
            _play_block(policy, envs, playing, first_seed, block, found, greedy, should_stop, hear)
            check_returns(found[0], policy.seeds[rows], first_seed + start)
    finally:
        envs.close()
    return Evaluation(tuple(policy.seeds), first_seed, returns, lengths, greedy)


def _play_block(
    policy: PolicyStack,
    envs: EpisodeEnvs,
    playing: np.ndarray,
    first_seed: int,
    block: slice,
    found: tuple[np.ndarray, np.ndarray],
    greedy: bool,
    should_stop: Callable[[], bool],
    hear: Callable[[EpisodeStep], None],
) -> None:
    """One episode in each of `P x width` envs, of the members `playing [P]`; returns and lengths go into `found`.

    Rows outside `found [members of the block, episodes of the block]` repeat a member or a seed and are never stepped.
    """
    width = envs.num_envs // len(playing)
    columns = first_seed + np.minimum(np.arange(block.start, block.start + width), block.stop - 1)  # episode seeds, [B]
    act = PolicyActor(policy, playing, width, None if greedy else episode_streams(policy.seeds, columns))
    active = np.zeros((len(playing), width), dtype=bool)  # [P, B]
    active[: found[0].shape[0], : found[0].shape[1]] = True
    returns, lengths = np.zeros(active.shape, dtype=np.float64), np.zeros(active.shape, dtype=np.int64)
    seeds, training_seeds = np.tile(columns, (len(playing), 1)), [policy.seeds[member] for member in playing]
    for step in play(envs, act, seeds, active, training_seeds, should_stop):
        # A finished row's reward is 0 by contract; where() keeps the sum right even so.
        returns += np.where(step.active, step.reward, 0.0)
        lengths += step.active
        hear(step)
    for whole, part in zip(found, (returns, lengths), strict=True):
        whole[:] = part[: whole.shape[0], : whole.shape[1]]


def check_returns(returns: np.ndarray, seeds: tuple[int, ...], first_seed: int) -> None:
    """Refuse returns `[P, B]` of members with these training seeds that are not finite.

    Raises:
        RlabError: one is not; the message names member and episode.
    """
    for member, column in np.argwhere(~np.isfinite(returns))[:1]:
        raise RlabError(
            f"the return of training seed {seeds[member]} in the episode of seed {first_seed + column} is "
            f"{returns[member, column]}: the env gave a reward that is not finite"
        )


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)
