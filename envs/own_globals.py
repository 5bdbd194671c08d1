"""Global state of a process for one env alone: the random generators of NumPy, `random` and torch, and settings.

An env should draw from `self.np_random`, which `reset(seed=...)` seeds. One that draws from a global generator would
give different episodes with the same seed and in different processes, and share the generator with other envs. So each
env has its own global generators, seeded with it, which are swapped in while the env runs. That costs time, so it is
done only while an env is new, at a few later calls, and for envs that were seen to use them.
"""

import importlib
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from rlab.envs.generators import bit_generator, from_python_state, python_state
from rlab.places import warn
from rlab.randomness import global_seeds

WATCHED_CALLS = 16  # resets and steps after which an env that used nothing global runs without, apart from a few calls
MAKING, PLAYING = "global generators while an env is made", "global generators of an env"  # streams
PROCESS = "global generators of a worker process"
DTYPES = ("float16", "bfloat16", "float32", "float64")  # that torch takes as its default

T = TypeVar("T")
_warned: set[str] = set()  # envs for which this process has warned that they use a global generator


class OwnGlobals:
    """Calls an env with its own global generators and settings.

    Args:
        seed: of the generators until `seed` is called, while the env is made.
    """

    def __init__(self, seed: int) -> None:
        numpy_seed, random_seed, torch_seed = global_seeds(seed, MAKING)
        self._generators: tuple[_Generator, ...] = (
            _NumpyGenerator(numpy_seed),
            _RandomGenerator(random_seed),
            _TorchGenerator(torch_seed),
        )
        self._all: tuple[_Part, ...] = (*self._generators, _Settings())
        self._parts = list(self._all)  # those that are swapped in
        self._left = WATCHED_CALLS
        self._new: tuple[_Part, ...] = ()  # those watched again, which were not in use before
        self.late = False  # whether a generator was seen in use only when it was watched again

    @property
    def idle(self) -> bool:
        """Whether the env can be called directly: it has used nothing global so far."""
        return not self._parts

    @property
    def generators_used(self) -> list[str]:
        """The names of the generators that the env has drawn from or seeded."""
        return [part.name for part in self._parts if part.used and part.name]

    def seed(self, seed: int) -> None:
        """Begin an episode with this seed."""
        if self.idle:
            return  # it is seeded when it is watched again
        for generator, own_seed in zip(self._generators, global_seeds(seed, PLAYING), strict=True):
            if generator in self._parts:
                generator.seed(own_seed)

    def look_again(self, seed: int | None) -> None:
        """Watch the next call as the first ones were, in an episode that began with this seed (None: no new
        episode)."""
        self._new = tuple(part for part in self._all if part not in self._parts)
        self._parts, self._left = list(self._all), 1
        if seed is not None:
            for generator, own_seed in zip(self._generators, global_seeds(seed, PLAYING), strict=True):
                if generator in self._new:
                    generator.seed(own_seed)

    def state(self) -> dict[str, Any]:
        """All that decides what the env's next calls find, in arrays and JSON values."""
        return {
            "parts": [part.state() for part in self._all],
            "in_use": [part in self._parts for part in self._all],
            "new": [part in self._new for part in self._all],
            "left": self._left,
            "late": self.late,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved."""
        for part, saved in zip(self._all, state["parts"], strict=True):
            part.load_state(saved)
        self._parts = [part for part, used in zip(self._all, state["in_use"], strict=True) if used]
        self._new = tuple(part for part, new in zip(self._all, state["new"], strict=True) if new)
        self._left, self.late = int(state["left"]), bool(state["late"])

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What the function returns, called with the env's own globals in place."""
        for part in self._parts:
            part.enter()
        try:
            return function(*args, **kwargs)
        finally:
            watched = self._left > 0
            for part in reversed(self._parts):
                part.leave(watched)
            self._left -= 1
            if not self._left:
                self._parts = [part for part in self._parts if part.used]
                self.late = any(part.used and part.name for part in self._new)


def seed_process(seed: int) -> None:
    """Seed the global generators of a worker process, which belong to its env alone: so even what it draws for the
    first time after it was watched is the same in every run."""
    of_numpy, of_random, of_torch = global_seeds(seed, PROCESS)
    np.random.seed(of_numpy)
    random.seed(of_random)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(of_torch)


def due_again(call: int) -> bool:
    """Whether a reset or step of this number, counted from 1, is watched again: 32, 64, 128 ..."""
    return call > WATCHED_CALLS and call & (call - 1) == 0


def warn_of_generators(env_id: str, own: OwnGlobals) -> None:
    """Warn once that an env uses a global generator."""
    used = own.generators_used
    if used and env_id not in _warned:
        _warned.add(env_id)
        late = (
            ", from now on. It was first seen to draw long after it was made, and what it drew before may differ "
            "with the same seed"
        )
        warn(
            f"{env_id} draws from the global generator of {' and '.join(used)}, which any other code of a program may "
            f"draw from or seed; rlab gives each env its own, seeded with it{late if own.late else ''}. Draw from "
            "self.np_random instead"
        )


class _Part:
    """One piece of global state: `enter` swaps the env's own in, `leave` swaps it out."""

    name = ""  # of a generator, for messages
    used = False  # seen to be drawn from or changed by the env

    def enter(self) -> None:
        raise NotImplementedError

    def leave(self, watched: bool) -> None:
        """`watched`: check whether the env has used it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Whether it is used, and the env's own, as data."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError


class _Generator(_Part):
    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart from a seed."""
        self._seed = seed  # all that there is to know until the env uses it
        self._restart()

    def _restart(self) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"used": self.used, "seed": self._seed, "own": self._saved() if self.used else None}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.used = bool(state["used"])
        self.seed(int(state["seed"]))
        if self.used:
            self._load(state["own"])

    def _saved(self) -> Any:
        raise NotImplementedError

    def _load(self, saved: Any) -> None:
        raise NotImplementedError


class _NumpyGenerator(_Generator):
    name = "np.random"

    def _restart(self) -> None:
        self._own: Any = np.random.MT19937(self._seed)
        self._seen = self._own.state

    def _saved(self) -> Any:
        return self._own.state

    def _load(self, saved: Any) -> None:
        self._own = bit_generator(saved)

    def enter(self) -> None:
        self._theirs = np.random.get_bit_generator()  # type: ignore[attr-defined]
        # In every call: this drops the second of a pair of normal numbers, and must do so in all processes.
        np.random.set_bit_generator(self._own)  # type: ignore[attr-defined]

    def leave(self, watched: bool) -> None:
        now = np.random.get_bit_generator()  # type: ignore[attr-defined]
        if watched and not self.used:
            state = now.state
            self.used = now is not self._own or not _same_state(state, self._seen)
        self._own = now
        np.random.set_bit_generator(self._theirs)  # type: ignore[attr-defined]


def _same_state(first: Any, second: Any) -> bool:
    first, second = first["state"], second["state"]
    return first["pos"] == second["pos"] and np.array_equal(first["key"], second["key"])


class _RandomGenerator(_Generator):
    name = "random"

    def _restart(self) -> None:
        self._own = random.Random(self._seed).getstate()

    def _saved(self) -> Any:
        return python_state(self._own)

    def _load(self, saved: Any) -> None:
        self._own = from_python_state(saved)

    def enter(self) -> None:
        self._theirs = random.getstate()
        random.setstate(self._own)

    def leave(self, watched: bool) -> None:
        now = random.getstate()
        self.used = self.used or (watched and now != self._own)
        self._own = now
        random.setstate(self._theirs)


class _TorchGenerator(_Generator):
    """Used where torch is loaded, so that the worker process of an env without torch need not import it."""

    name = "torch"

    def _restart(self) -> None:
        self._own: Any = None

    def _saved(self) -> Any:
        return self._own.numpy()

    def _load(self, saved: Any) -> None:
        self._own = importlib.import_module("torch").from_numpy(saved.copy())  # the env had imported it

    def enter(self) -> None:
        self._torch: Any = sys.modules.get("torch")
        if self._torch is not None:
            if self._own is None:
                self._own = self._torch.Generator(device="cpu").manual_seed(self._seed).get_state()
            self._theirs = self._torch.get_rng_state()
            self._torch.set_rng_state(self._own)

    def leave(self, watched: bool) -> None:
        if self._torch is not None:
            now = self._torch.get_rng_state()
            self.used = self.used or (watched and not self._torch.equal(now, self._own))
            self._own = now
            self._torch.set_rng_state(self._theirs)


class _Settings(_Part):
    """torch's default dtype, whether torch records gradients, and what NumPy does about errors."""

    def __init__(self) -> None:
        self._own: tuple[Any, ...] | None = None  # None: the env has changed none

    def state(self) -> dict[str, Any]:
        own = self._own
        if own is None:
            return {"used": self.used, "own": None}
        dtype, records, errors = own
        return {
            "used": self.used,
            "own": [None if dtype is None else str(dtype).removeprefix("torch."), records, errors],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.used, self._own = bool(state["used"]), None
        if state["own"] is not None:
            name, records, errors = state["own"]
            if name is not None and name not in DTYPES:
                raise ValueError(f"torch's default dtype cannot be {name!r}")
            dtype = None if name is None else getattr(importlib.import_module("torch"), name)
            self._own = (dtype, records, dict(errors))

    def enter(self) -> None:
        self._theirs = _settings()
        if self._own is not None:
            _set(self._own)

    def leave(self, watched: bool) -> None:
        now = _settings()
        if now != (self._own or self._theirs):
            self.used, self._own = True, now
        if now != self._theirs:
            _set(self._theirs)


def _settings() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    of_torch = (None, None) if torch is None else (torch.get_default_dtype(), torch.is_grad_enabled())
    return (*of_torch, np.geterr())


def _set(settings: tuple[Any, ...]) -> None:
    dtype, records, errors = settings
    torch: Any = sys.modules.get("torch")
    if dtype is not None:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(records)
    np.seterr(**errors)
