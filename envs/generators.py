"""Random generators as data, without pickle: NumPy's, `random.Random` and torch's."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

BIT_GENERATORS = frozenset({"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"})


def generator_state(generator: Any) -> dict[str, Any] | None:
    """All that decides what a generator draws next, in arrays and JSON values; None where this is not one of them, or
    a process shares it (`OwnGlobals` has these)."""
    kind = type(generator)  # not isinstance, which asks a proxy for the class of what it stands for
    if issubclass(kind, np.random.Generator):
        state = generator.bit_generator.state
        return {"numpy": state} if state["bit_generator"] in BIT_GENERATORS else None
    if issubclass(kind, np.random.RandomState):
        shared = generator is np.random.mtrand._rand
        return None if shared else {"numpy legacy": generator.get_state(legacy=False)}
    if kind is random.Random:
        return None if generator is random._inst else {"random": python_state(generator.getstate())}
    torch = sys.modules.get("torch")
    if torch is not None and kind is torch.Generator and generator is not torch.default_generator:
        return {"torch": generator.get_state().numpy()} if generator.device.type == "cpu" else None
    return None


def set_generator_state(generator: Any, saved: Mapping[str, Any]) -> None:
    """Let a generator of the same kind draw next what the saved one would have drawn.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is of another kind, or this is not a saved state.
    """
    ((kind, state),) = saved.items()
    if kind == "numpy":
        generator.bit_generator.state = checked(state)
    elif kind == "numpy legacy":
        generator.set_state(checked(state))
    elif kind == "random":
        generator.setstate(from_python_state(state))
    elif kind == "torch":
        generator.set_state(sys.modules["torch"].from_numpy(state.copy()))
    else:
        raise ValueError(f"unknown kind of random generator {kind!r}")


def new_generator(saved: Mapping[str, Any]) -> Any:
    """A generator that draws next what the saved one would have drawn.

    Raises:
        KeyError, TypeError, ValueError: this is not a saved state.
    """
    ((kind, state),) = saved.items()
    if kind == "numpy":
        return np.random.Generator(bit_generator(state))
    found: Any = np.random.RandomState()
    if kind == "random":
        found = random.Random()
    elif kind == "torch":
        found = sys.modules["torch"].Generator()
    set_generator_state(found, saved)
    return found


def bit_generator(state: Mapping[str, Any]) -> Any:
    """NumPy's bit generator of this state.

    Raises:
        ValueError: it names another class.
    """
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise ValueError(f"{name!r} is not a bit generator of NumPy")
    found = getattr(np.random, name)()
    found.state = checked(state)
    return found


def checked(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of one of NumPy's bit generators, where it may be set: NumPy would read beyond the words.

    Raises:
        ValueError: it may not.
    """
    inner = state["state"]
    if state["bit_generator"] == "MT19937":
        valid = inner["key"].shape == (624,) and 0 <= inner["pos"] <= 624
    else:
        valid = 0 <= state.get("buffer_pos", 0) <= 4  # of Philox
    if not valid:
        raise ValueError(f"this is not a state of {state['bit_generator']}")
    return state


def python_state(state: tuple[Any, ...]) -> list[Any]:
    """What `random.getstate` gives, its 625 words as an array."""
    version, words, gauss = state
    return [version, np.array(words, np.uint32), gauss]


def from_python_state(saved: Any) -> tuple[Any, ...]:
    """What `random.setstate` takes, from `python_state`."""
    version, words, gauss = saved
    return version, tuple(words.tolist()), gauss
