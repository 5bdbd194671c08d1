"""Checks of what an env gives; those of observations are in `obs_checks`.

Each function takes one thing that an env gave and returns it in rlab's form, or raises `EnvError`. `SubEnv` calls all
of them, so that training, evaluation, recording and play have the same rules for envs.
"""

import dis
import signal
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlab.errors import RlabError
from rlab.places import one_line, place_of

_FAILURES = ("raised", "mask", "not finite")  # kinds whose reason follows a colon
TOO_LARGE = "which float32 does not hold"
RESET_RULE = "reset must return two values, obs and info (a dict)"
STEP_RULE = "step must return five values: obs, reward, terminated, truncated and info (a dict)"
OLD_GYM = (
    "An env with the interface of the old package gym needs a wrapper, such as shimmy's: "
    "shimmy:GymV21Environment-v0 with --env-kwargs env_id=ITS_ID"
)
_PLAIN_NUMBERS = frozenset((int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_))


class EnvError(Exception):
    """An env broke its interface. It can be pickled, and so passed between processes.

    Args:
        kind: where the fault is, such as "reset", "step", "spaces", "observation" or "reward"; or one of `_FAILURES`.
        what: the action of the env, `"gave a reward of 1e+39"`.
        why: what is wrong with it, `"which float32 does not hold"`.
    """

    def __init__(self, kind: str, what: str, why: str) -> None:
        super().__init__(kind, what, why)
        self.kind, self.what, self.why = kind, what, why

    def __str__(self) -> str:
        return f"{self.what}{': ' if self.kind in _FAILURES else ', '}{self.why}"

    def line(self, env_id: str, where: str, when: str) -> str:
        """The whole message: `line("CartPole-v1", "in env 0 of seed 3", "at vector step 7")`."""
        begin = " ".join(part for part in (env_id, self.what, where) if part)
        if self.kind in _FAILURES:
            return f"{begin}{' ' if when else ''}{when}: {self.why}"
        return f"{begin}, {self.why}" + (f" ({when.removeprefix('at ')})" if when else "")


class Hung(BaseException):  # not an Exception, which an env may catch
    """Raised by `watch` inside a call of an env that takes too long."""


def old_gym() -> str:
    """What to do with an env of the old package gym, for the end of a message; "" where gym is not imported."""
    return f". {OLD_GYM}" if "gym" in sys.modules else ""


def raised(error: BaseException) -> EnvError:
    """What an env or a wrapper raised and where, with a hint where the env's interface is wrong."""
    text = str(error)
    if isinstance(error, Hung):
        place = place_of(error)
        return EnvError("raised", "failed", f"{text} ({place})" if place else text)
    why = text if isinstance(error, RlabError) else one_line(error)
    function = _function_that_raised(error)
    if "unpack" in text and function in ("reset", "step"):  # a wrapper found other than two or five values
        why = f"{why}. {RESET_RULE if function == 'reset' else STEP_RULE}{old_gym()}"
    elif "unexpected keyword argument" in text and ("'seed'" in text or "'options'" in text):
        why = f"{why}. An env's reset takes both: def reset(self, *, seed=None, options=None){old_gym()}"
    return EnvError("raised", "failed", why)


def stopped_by_user(error: BaseException | None) -> bool:
    """Whether an error is the user's Ctrl+C, and not a KeyboardInterrupt that an env raises by itself.

    An env's own comes from a `raise` in Python code. A signal comes at any other instruction, or from a `raise` in the
    function that handles it.
    """
    if not isinstance(error, KeyboardInterrupt) or error.__traceback__ is None:
        return False
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if code is handler or code.co_code[trace.tb_lasti] != dis.opmap["RAISE_VARARGS"]:
        return True
    return stopped_by_user(error.__cause__ or error.__context__)  # an env may have caught it and raised another one


def _function_that_raised(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_name


def reset_values(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """`obs, info` of what `reset` returned, not yet checked."""
    if isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], Mapping):
        return result[0], result[1]
    raise EnvError("reset", f"returned {_returned(result, 'reset')}", f"but {RESET_RULE}{old_gym()}")


def step_values(result: Any) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    """`obs, reward, terminated, truncated, info` of what `step` returned, not yet checked."""
    if isinstance(result, tuple | list) and len(result) == 5 and isinstance(result[4], Mapping):
        obs, reward, terminated, truncated, info = result
        return obs, reward, terminated, truncated, info
    raise EnvError("step", f"returned {_returned(result, 'step')}", f"but {STEP_RULE}{old_gym()}")


def _returned(result: Any, function: str) -> str:
    if not isinstance(result, tuple | list):
        return f"{shown(result)} from {function}"
    number = f"{len(result)} value{'' if len(result) == 1 else 's'} from {function}"
    if len(result) in (2, 5) and not isinstance(result[-1], Mapping):
        return f"{number}, the last of which is {shown(result[-1])}"
    return number


def reward_number(reward: Any) -> float:
    """One number, also where it comes in an array or list of one element.

    A number that is not finite, or that float32 does not hold, passes: these are checked for whole batches.
    """
    if type(reward) is float:
        return reward
    if type(reward) in _PLAIN_NUMBERS:
        try:
            return float(reward)
        except OverflowError:
            raise EnvError("reward", f"gave a reward of {shown(reward)}", TOO_LARGE) from None
    array = numbers_of(reward)
    if array is None or array.size != 1:
        raise EnvError("reward", f"gave the reward {shown(reward)}", "but a reward is one number")
    return float(array.item())


def flag(name: str, value: Any) -> bool:
    """True or false, also where it comes as 0 or 1 or in an array of one element.

    Args:
        name: `terminated` or `truncated`.
    """
    if value is True or value is False:
        return value
    array = numbers_of(value)
    if array is None or array.size != 1 or array.item() not in (0, 1):
        raise EnvError(name, f"gave {shown(value)} as {name}", f"but {name} is True or False")
    return bool(array.item())


def mask_bits(mask: Any, size: int) -> np.ndarray:
    """A mask of actions as bool `[size]`; it may be a tuple of masks, one for each choice."""
    bits = numbers_of(_joined(mask))
    if bits is None or bits.shape != (size,):
        found = f"a mask of shape {bits.shape}" if bits is not None else f"a mask that is {shown(mask)}"
        raise EnvError("mask", "failed", f"{found} does not fit; expected {size} zeros and ones.")
    allowed = bits != 0
    if bits.dtype.kind != "b" and np.count_nonzero(bits == allowed) != size:
        raise EnvError("mask", "failed", f"a mask {shown(mask)} does not fit; expected {size} zeros and ones.")
    return allowed


def _joined(mask: Any) -> Any:
    """Gymnasium writes the mask of a MultiDiscrete as a tuple of arrays, a tuple of tuples where it is 2-D, and others
    as a list of arrays."""
    if in_parts(mask):
        return np.concatenate([np.atleast_1d(_joined(part)) for part in mask], axis=-1)
    return mask


def in_parts(mask: Any) -> bool:
    """Whether a mask is several, one for each choice: a tuple that holds more than numbers, or a list of arrays or of
    lists."""
    if isinstance(mask, list):
        return any(hasattr(part, "__len__") for part in mask)
    return isinstance(mask, tuple) and any(not np.isscalar(part) for part in mask)


def shown(value: Any) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, np.ndarray) and (value.size > 8 or value.dtype.kind not in "biuf"):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, np.ndarray):
        return f"{value.tolist()} of shape {value.shape}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int | float | complex | str | list | tuple):
        words = repr(value)
        if len(words) <= 60:
            array = as_array(value) if isinstance(value, list | tuple) else None
            return words if array is None else f"{words} of shape {array.shape}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def as_array(value: Any) -> np.ndarray | None:
    """The value as an array; None where NumPy cannot convert it."""
    try:
        return np.asarray(value)
    except Exception:  # ragged lists; a foreign __array__ may raise anything
        return None


def numbers_of(value: Any) -> np.ndarray | None:
    """The value as an array of numbers; None where it is something else."""
    array = as_array(value)
    return array if array is not None and array.dtype.kind in "biuf" else None
