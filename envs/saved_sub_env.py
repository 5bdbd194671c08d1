"""`SavedSubEnv`: a sub-env of training whose state can be saved, and which goes on from a saved one to the bit.

The state is read where `rlab.envs.env_states` knows how; elsewhere the episode under way is played again from a journal
and has to end in the same observation, in the same way and with the same return.
"""

import contextlib
import copy
import hashlib
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import gymnasium as gym

from rlab.envs.checks import raised, stopped_by_user
from rlab.envs.env_memory import (
    as_data,
    attributes_at,
    look_through,
    make_new_again,
    put_back,
    seed_spaces,
    set_attributes,
    set_generators,
)
from rlab.envs.env_states import KnownState, state_pair
from rlab.envs.gym_spaces import sampled
from rlab.envs.journal import Beginning, Journal, UnsavedError, actions_of
from rlab.envs.obs_packing import Packing
from rlab.envs.own_globals import OwnGlobals
from rlab.envs.sub_env import SubEnv, SubEnvError
from rlab.envs.watch import ENV_TIMEOUT
from rlab.randomness import generator_states, load_generator_states

REPLAY_SECONDS = 1.0  # of an episode played again before the caller is told
SHORT = 1000  # steps of an episode in which an unseen source of random numbers may not yet have shown
TRIED_STEPS = 100  # steps by which one shows


class SavedSubEnv(SubEnv):
    """A `SubEnv` that keeps what its state takes: nothing where the env's own can be read, else a journal.

    Args:
        alone: whether the env has a process to itself, with its global generators.
        seed: of the generators of its spaces, where it has not seeded them itself.
    """

    def __init__(
        self,
        env: gym.Env,
        packing: Packing | None = None,
        index: int = 0,
        env_id: str = "the env",
        own: OwnGlobals | None = None,
        timeout: float = ENV_TIMEOUT,
        alone: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(env, packing, index, env_id, own, timeout)
        self._alone = alone
        self._untouched = seed_spaces(env, seed)
        self._pair = state_pair(env, self._untouched)
        self._journal = Journal(env, self._untouched) if self._pair is None else None
        self._loading: Iterator[str | None] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        journal = self._journal
        if journal is None:
            return super().reset(seed=seed, options=options)
        journal.begin(seed, options, self._counters(), self._globals())
        obs, info = super().reset(seed=seed, options=options)
        journal.result = (obs, 0.0, False, False, info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        if self._journal is not None:
            self._journal.add(action, result)
        return result

    def save_state(self) -> dict[str, Any]:
        """All that decides its future, as data: `{"why_not": a clause}` where that is impossible."""
        try:
            if self._pair is not None:
                played = {"pair": self._limited(self._pair.get)}
            else:
                assert self._journal is not None
                played = {"journal": self._journal.state()}
        except UnsavedError as error:
            return {"why_not": str(error)}
        except BaseException as error:  # the env's own get_state may raise anything
            if stopped_by_user(error):
                raise
            return {"why_not": f"{self._name} gave no state: {raised(error).why}"}
        return {**played, "counters": self._counters(), "globals": self._globals()}

    def load_state(self, state: Mapping[str, Any] | None) -> bool | str:
        """Go on where a state was saved: True where that is done, or a clause that says why it is impossible.

        False: the episode is still being played again, and the next call, with None, goes on. So no call takes much
        longer than a second, and a time limit finds an env that hangs.
        """
        if state is not None:
            self._loading = self._load(state)
        if self._loading is None:
            return True
        deadline = time.monotonic() + REPLAY_SECONDS
        try:
            for obstacle in self._loading:
                if obstacle is not None:
                    self._loading = None
                    return obstacle
                if time.monotonic() > deadline:
                    return False
        except BaseException as error:  # of the env, which may raise anything, or of a state that is not its own
            if stopped_by_user(error):
                raise
            self._loading = None
            return f"the state of {self._name} could not be restored: {raised(error).why}"
        self._loading = None
        return True

    def _load(self, state: Mapping[str, Any]) -> Iterator[str | None]:
        """Restores the state; gives None now and then while it works, or the obstacle."""
        objects = look_through(self.env, self._untouched).objects
        new = attributes_at(self.env, objects)
        yield from self._restore(state)
        if self._is_proven(state):
            return
        found, generators = [], generator_states()
        for _ in range(2):
            load_generator_states(generators)
            found.append((yield from self._go_on()))
            make_new_again(self.env, new)
            yield from self._restore(state)
        if found[0] != found[1]:
            yield f"{self._name} draws from something that rlab cannot save: restored twice, it went on in two ways"

    def _is_proven(self, state: Mapping[str, Any]) -> bool:
        """Whether a state is known to be all that decides the future. A short replay may end where it should though the
        env draws from a generator of its own that rlab has not seen; and an env may say less than all."""
        if "pair" in state:
            return isinstance(self._pair, KnownState)
        # With a mask, random actions may do harm.
        return sum(map(len, state["journal"]["actions"])) >= SHORT or self._mask is not None

    def _go_on(self) -> Generator[None, None, bytes]:
        """What follows on some random actions, in short."""
        digest, space = hashlib.blake2b(), copy.deepcopy(self.action_space)
        space.seed(0)
        ended = self._journal is not None and any(self._journal.result[2:4])
        with contextlib.suppress(SubEnvError):  # the same each time, or not
            for _ in range(TRIED_STEPS):
                if ended:
                    obs, reward, terminated, truncated = self.reset()[0], 0.0, False, False
                else:
                    obs, reward, terminated, truncated, _ = self.step(sampled(space))
                ended = terminated or truncated
                digest.update(obs.tobytes() + repr((reward, terminated, truncated)).encode())
                yield None
        return digest.digest()

    def _restore(self, state: Mapping[str, Any]) -> Iterator[str | None]:
        if self._pair is not None:
            self._limited(self._pair.set, state["pair"])
        else:
            yield from self._replay(state["journal"])
        self._set_counters(state["counters"])
        self._set_globals(state["globals"])

    def _replay(self, saved: Mapping[str, Any]) -> Iterator[str | None]:
        """Play the episode again. An env may remember earlier episodes, so where it ends elsewhere it is played once
        more, with the attributes that the env had when it began."""
        journal, began, difference = self._journal, Beginning(**saved["beginning"]), None
        assert journal is not None
        for remembering in (False, True):
            self._set_counters(began.counters)
            self._set_globals(began.globals)
            if remembering:
                set_attributes(self.env, began.attributes)
            place = set_generators(self.env, self._untouched, began.generators)
            if place is not None:
                yield f"{self._name} has another random generator in {place} than when its episode began"
            self.reset(seed=began.seed, options=as_data(began.options))
            for action in actions_of(saved, self.action_space.dtype):
                self.step(action)
                yield None
            difference = journal.difference(saved["result"])
            if difference is None:
                break
        if difference is not None:
            yield f"{self._name} draws from something that rlab cannot save: replaying its episode {difference}"
        journal.beginning = began
        place = put_back(self.env, self._untouched, saved["memory"])
        journal.look()
        if place is not None:
            yield f"{self._name} remembers in {place} what replaying its episode does not restore"

    @property
    def _name(self) -> str:
        return type(self.env.unwrapped).__name__

    def _counters(self) -> dict[str, Any]:
        """What decides when its own globals are in place and looked at again, and what errors say."""
        return {
            "seed": self._seed,
            "steps": self._steps,
            "earlier": self._earlier,
            "alone_until": self._alone_until,
        }

    def _set_counters(self, saved: Mapping[str, Any]) -> None:
        seed = saved["seed"]
        self._seed = None if seed is None else int(seed)
        self._steps, self._earlier = int(saved["steps"]), int(saved["earlier"])
        self._alone_until = int(saved["alone_until"])

    def _globals(self) -> dict[str, Any]:
        return {"own": self._own.state(), "process": generator_states() if self._alone else None}

    def _set_globals(self, saved: Mapping[str, Any]) -> None:
        self._own.load_state(saved["own"])
        if self._alone and saved["process"] is not None:
            load_generator_states(saved["process"])
