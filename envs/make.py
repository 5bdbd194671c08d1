"""From an `EnvSpec` to envs: vector envs to train in, episodes to evaluate with, one env to play."""

import contextlib
import copy
import inspect
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.adapter import GymVectorEnv
from rlab.envs.atari_vector import AtariVector, why_not_atari_vector
from rlab.envs.checks import Hung, old_gym, raised, stopped_by_user
from rlab.envs.drawing import creator, drawing, make_drawn
from rlab.envs.episodes import NativeEpisodes, SingleEpisodes, time_limit_of
from rlab.envs.ids import ALE
from rlab.envs.native import SeededCartPole, make_native, why_not_native
from rlab.envs.obs_packing import Packing, find_packing
from rlab.envs.own_globals import OwnGlobals
from rlab.envs.pixels import MODE as PICTURES
from rlab.envs.pool import PoolVectorEnv, check_same_spaces
from rlab.envs.specs import EnvSpec
from rlab.envs.sub_env import SubEnv, SubEnvError, with_interface_check
from rlab.envs.watch import watched
from rlab.envs.watched import WatchedSyncVectorEnv
from rlab.envs.workers import WatchedAsyncVectorEnv, sub_env_maker
from rlab.envs.wrappers import apply_wrappers, pictures_wanted, refuse_running_statistics
from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.spaces import Space
from rlab.places import message_of, place_of
from rlab.randomness import env_seed

VECTOR = ("auto", "native", "sync", "async", "envpool")
# How many envs play episodes at once: rows of one native env cost next to nothing, other envs may cost a process each.
MOST_NATIVE, MOST_SINGLE, MOST_PER_MEMBER = 4096, 64, 10


def make_vec(
    spec: EnvSpec,
    seeds: tuple[int, ...],
    num_envs: int,
    vector: str = "auto",
    on_nan: str = "stop",
    restarts: int = 0,
    first_env: int = 0,
) -> GymVectorEnv:
    """`num_envs` training envs for each of the members with these training seeds.

    Args:
        vector: `auto` takes the native vector env where its sub-envs can be seeded one by one, it supports the spec and
            its state can be saved, else sync; `native` takes ALE's for Atari games, too (see `atari_vector`); `async`
            is one process per env; `envpool` is another package's envs.
        on_nan: as of `GymVectorEnv`.
        restarts: how often each sub-env that fails is made again; those of a native vector env and of EnvPool cannot
            be, one by one, and fail.
        first_env: as of `GymVectorEnv`.

    Raises:
        UsageError: an env, keyword, wrapper or space that does not work, or a vector env that is not available.
    """
    if vector not in VECTOR:
        raise unknown("kind of vector env", vector, VECTOR)
    if not seeds or num_envs < 1:
        raise UsageError(f"expected one member and one env or more, not {len(seeds)} and {num_envs}")
    found = spec.check()
    total = len(seeds) * num_envs
    obs_space: Space | None = None
    limit = spec.max_episode_steps or found.max_episode_steps
    env: gym.vector.VectorEnv
    if vector == "envpool":
        env = _make_pool(spec, found, total)
    elif vector == "native" and found.id.startswith(ALE):
        env = _make_atari(spec, found, total)
        limit = env.time_limit
    elif _runs_natively(spec, found, vector):
        env = make_native(found, total, spec.max_episode_steps, spec.kwargs)
    else:
        packing, limit = packing_of(spec, found)
        obs_space = packing.obs_space
        make = partial(make_single, spec, found)
        own_seeds = [env_seed(seed, first_env + n) for seed in seeds for n in range(num_envs)]
        makers = [sub_env_maker(make, i, packing, own_seed, spec.timeout) for i, own_seed in enumerate(own_seeds)]
        try:
            if vector == "async":
                env = WatchedAsyncVectorEnv(makers, spec.timeout, restarts)
            else:
                env = WatchedSyncVectorEnv(makers, restarts)
        except SubEnvError as error:
            raise RlabError(f"{spec.env_id} could not be started: {error}") from error
    timeout = spec.timeout if obs_space is None else None
    return GymVectorEnv(env, seeds, spec.env_id, obs_space, limit, timeout, on_nan, first_env)


def make_episodes(spec: EnvSpec, n: int, render_mode: str | None = None) -> SingleEpisodes | NativeEpisodes:
    """n envs that play one seeded episode each: native ones where possible, else single Gymnasium envs.

    Raises:
        UsageError: an env, keyword, wrapper or render mode that does not work, or not so many times at once.
    """
    found = spec.check()
    native = _native_episodes(spec, found, n) if render_mode is None else None
    if native is not None:
        return native
    packing, _ = packing_of(spec, found, render_mode)
    return SingleEpisodes(_make_several(spec, found, packing, n, render_mode))


class EpisodeMaker:
    """`make_episodes` for one spec, and how many of its envs should live at once.

    Args:
        most: the limit in all; None: 4096 rows where they are of one native vector env, else `per_member`, 64 in all.
    """

    def __init__(self, spec: EnvSpec, most: int | None = None, per_member: int = MOST_PER_MEMBER) -> None:
        self.spec, self.most, self._per_member = spec, most, per_member

    def __call__(self, n: int) -> SingleEpisodes | NativeEpisodes:
        return make_episodes(self.spec, n)

    def most_at_once(self, members: int) -> int:
        """How many envs to have at once for so many members; each of them has one at least, unless `most` is
        smaller."""
        if self.most is not None:
            return self.most
        if why_not_native(self.spec.check(), self.spec.kwargs, self.spec.wrappers) is None:
            return MOST_NATIVE
        return max(members, min(self._per_member * members, MOST_SINGLE))


class EpisodePool(EpisodeMaker):
    """An `EpisodeMaker` that keeps its single envs from one evaluation to the next, until `close`."""

    def __init__(self, spec: EnvSpec, most: int | None = None, per_member: int = MOST_PER_MEMBER) -> None:
        super().__init__(spec, most, per_member)
        self._envs: list[SubEnv] = []
        self._packing: Packing | None = None

    def __call__(self, n: int) -> SingleEpisodes | NativeEpisodes:
        found = self.spec.check()
        native = _native_episodes(self.spec, found, n)
        if native is not None:
            return native
        self._packing = self._packing or packing_of(self.spec, found)[0]
        if n > len(self._envs):
            self._envs += _make_several(self.spec, found, self._packing, n - len(self._envs), first=len(self._envs))
        return _Lent(self._envs[:n])

    def close(self) -> None:
        """Close the envs; the next call makes new ones."""
        kept, self._envs = self._envs, []
        if kept:
            SingleEpisodes(kept).close()


class _Lent(SingleEpisodes):
    """Envs of a pool, which closes them itself."""

    def close(self) -> None:
        """Keep them for the next evaluation."""


def make_env(spec: EnvSpec, render_mode: str | None = None) -> SubEnv:
    """One Gymnasium env with its time limit and wrappers; its observations are arrays, as in training.

    What the env gives is checked, and its infos are left out.

    Raises:
        UsageError: an env, keyword, wrapper, space or render mode that does not work.
    """
    found = spec.check()
    packing, _ = packing_of(spec, found, render_mode)
    return _make_sub_env(spec, found, packing, render_mode, 0)


def _make_sub_env(spec: EnvSpec, found: Registered, packing: Packing, render_mode: str | None, number: int) -> SubEnv:
    """`number` seeds the global random generators while the env is made; each episode seeds them again."""
    own = OwnGlobals(number)
    return SubEnv(own.call(make_single, spec, found, render_mode), packing, own=own, timeout=spec.timeout)


def packing_of(spec: EnvSpec, found: Registered, render_mode: str | None = None) -> tuple[Packing, int | None]:
    """The packing of the spec's observations and its time limit (None: none is known), from an env that is made for
    this and closed again, after the keywords and wrappers were checked.

    Raises:
        UsageError: a keyword, wrapper, space or render mode that does not work.
        RlabError: the env's reset or first step failed.
    """
    _check_kwargs(found, spec.kwargs)
    limits: list[int | None] = []

    def make() -> gym.Env:
        env = make_single(spec, found)
        if render_mode is not None:
            drawing(found, env, render_mode)
        limits.append(time_limit_of(env))
        return env

    packing = find_packing(make, spec.env_id, spec.timeout)
    return packing, limits[0]


def _make_several(
    spec: EnvSpec, found: Registered, packing: Packing, n: int, render_mode: str | None = None, first: int = 0
) -> list[SubEnv]:
    """n envs, or none: where one of them cannot be made, the others are closed again. They are counted from `first`."""
    envs: list[SubEnv] = []
    try:
        while len(envs) < n:
            envs.append(_make_sub_env(spec, found, packing, render_mode, first + len(envs)))
    except UsageError as error:
        made = len(envs)
        if not made:
            raise
        SingleEpisodes(envs).close()
        raise UsageError(
            f"{str(error).rstrip('.')}. {made} of {n} could be made at once: fewer do with --eval-envs {made} while "
            f"training, and with --envs {made} in rlab eval, collect, compress and export."
        ) from error
    return envs


def _native_episodes(spec: EnvSpec, found: Registered, n: int) -> NativeEpisodes | None:
    """n rows of a native vector env; None where such episodes have no native env."""
    if why_not_native(found, spec.kwargs, spec.wrappers) is not None:
        return None
    native = make_native(found, n, spec.max_episode_steps, spec.kwargs)
    return NativeEpisodes(native, spec.env_id) if isinstance(native, SeededCartPole) else None


def make_single(spec: EnvSpec, found: Registered, render_mode: str | None = None) -> gym.Env:
    """One env as Gymnasium gives it, in its wrappers, not yet checked.

    Raises:
        UsageError: it cannot be made, or a wrapper does not suit it.
    """
    # Gymnasium's own record instead of the id: no warnings about versions, and it reaches spawned workers whole.
    kwargs = copy.deepcopy(spec.kwargs)
    limited = partial(watched, spec.timeout, lambda fault: fault.line(spec.env_id, "while it was made", ""))
    drawn_as = PICTURES if pictures_wanted(spec.wrappers) else render_mode
    try:
        make = gym.make if drawn_as is None else partial(make_drawn, render_mode=drawn_as)
        env = limited(make, found, max_episode_steps=spec.max_episode_steps, **kwargs)
    except UsageError:
        raise
    except BaseException as error:  # a constructor may raise anything about its arguments or a missing package
        if stopped_by_user(error):
            raise
        raise UsageError(f"{spec.env_id} cannot be made: {_not_made(error)}") from error
    _check_new(env, spec.env_id)
    env = limited(apply_wrappers, with_interface_check(env), spec.wrappers)
    refuse_running_statistics(env, spec.env_id)
    # A policy that learned from pictures needs them to act on: the window shows them too.
    return gym.wrappers.HumanRendering(env) if render_mode == "human" and drawn_as == PICTURES else env


def _not_made(error: BaseException) -> str:
    """Why Gymnasium could not make an env, in one line, with its place in the user's code and the fix where known."""
    if isinstance(error, Hung):
        return raised(error).why
    text = " ".join(message_of(error).split()).rstrip(".")
    if "gymnasium.Env" in text:  # the message that the object has another class
        if "NoneType" in text:
            return "its function returned None; end it with: return env"
        return f"{text}{old_gym()}"
    place = place_of(error)
    return f"{text} ({place})" if place else text


_made: weakref.WeakSet[gym.Env] = weakref.WeakSet()  # the envs of this process that are in use


def _check_new(env: gym.Env, env_id: str) -> None:
    """Refuse an env that was made before: `lambda: env` gives the same one to training and to evaluation."""
    inner = env.unwrapped
    with contextlib.suppress(TypeError):  # a class with __slots__ or its own equality may not be hashable
        if inner in _made:
            raise UsageError(
                f"{env_id} gave the same env object again; each call must make a new one: "
                f"lambda: {type(inner).__name__}(...)"
            )
        _made.add(inner)


def _runs_natively(spec: EnvSpec, found: Registered, vector: str) -> bool:
    obstacle = why_not_native(found, spec.kwargs, spec.wrappers)
    if vector == "native" and obstacle is not None:
        raise UsageError(f"--vector native: {obstacle}; use --vector sync")
    return vector in ("auto", "native") and obstacle is None


def _make_atari(spec: EnvSpec, found: Registered, total: int) -> AtariVector:
    obstacle = why_not_atari_vector(found, spec.kwargs, spec.wrappers, spec.max_episode_steps is not None)
    if obstacle is not None:
        raise UsageError(f"--vector native: {obstacle}; or use --vector sync or async")
    return AtariVector(total, {**found.kwargs, **spec.kwargs}, spec.wrappers)


def _make_pool(spec: EnvSpec, found: Registered, total: int) -> PoolVectorEnv:
    if spec.wrappers:
        raise UsageError("--vector envpool takes no wrappers; use --vector sync or async")
    limit = spec.max_episode_steps or found.max_episode_steps
    limits = {} if limit is None else {"max_episode_steps": limit}
    pool = PoolVectorEnv(found.id, total, {**spec.kwargs, **limits})
    check_same_spaces(pool, packing_of(spec, found)[0], found.id)
    return pool


def _check_kwargs(found: Registered, kwargs: Mapping[str, Any]) -> None:
    """A keyword that the constructor does not take is refused with the near miss, and one that it needs is named."""
    try:
        parameters = inspect.signature(creator(found)).parameters
    except ValueError:  # some callables written in C have no signature
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for key in kwargs:
            if key not in parameters:
                taken = parameters.keys() - {"render_mode", "self"}
                if not taken:
                    raise UsageError(f"{found.id} takes no keywords, so not {key!r}; its constructor names none")
                raise unknown(f"keyword for {found.id}", key, taken)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in variable]
    missing = [name for name in required if name not in {**found.kwargs, **kwargs}]
    if missing:
        given = ", ".join(f"{name}=..." for name in missing)
        raise UsageError(f"{found.id} needs {', '.join(missing)}: env_kwargs=dict({given}), or --env-kwargs {given}")
