"""What a policy that is called wrongly answers, each in one line that names the likeliest fix."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlab.errors import UsageError
from rlab.networks.limits import space_words
from rlab.networks.spaces import Space, choices

PREDICT = (
    "a policy of rlab has no predict: call it, action = policy(obs), or policy(obs, greedy=False) to sample as in "
    "training. One with memory takes and gives its state: action, state = policy(obs, state=state)."
)
OUTPUTS_NEED_STATE = (
    "this policy has memory, and what was asked for needs outputs that depend on the observation alone. Code for "
    "policies with memory uses policy.step(obs, state), or for sequences policy.unroll(obs, state, begins)."
)
Shapes = Mapping[str, tuple[int, ...]]


def check_allows(mask: np.ndarray, actions: Space) -> None:
    """Refuse a mask `[..., A]` that leaves one of the choices that an action makes without an option.

    Raises:
        UsageError: it does.
    """
    sizes = choices(actions)
    starts = np.cumsum((0, *sizes[:-1]))
    if np.logical_or.reduceat(mask != 0, starts, axis=-1).all():
        return
    every = "action" if len(sizes) == 1 else "option of one of the choices"
    raise UsageError(f"a mask allows no {every} of {space_words(actions)}; every row needs one that is true.")


def no_such_member(seed: int, seeds: Sequence[int]) -> UsageError:
    """The error for a member that a stack does not have."""
    has = f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return UsageError(f"no member with training seed {seed}; this policy has {has}.")


def unknown_keyword(name: str) -> UsageError:
    """The error for `policy(obs, name=...)`."""
    if name == "deterministic":
        return UsageError(
            "policy(obs, deterministic=...): rlab calls it greedy; greedy=True is the default, and "
            "policy(obs, greedy=False) samples as in training."
        )
    return UsageError(
        f"policy(obs, {name}=...): unknown keyword {name!r}. Known: mask, state, greedy, epsilon, generators."
    )


def missing_state(rows: int | None) -> UsageError:
    """The error for a policy with memory that is called without a state, for a batch of `rows` or one observation."""
    return UsageError(
        f"this policy has memory and needs its state: state = {_beginning(rows)} where an episode begins, then action, "
        "state = policy(obs, state=state) at every step."
    )


def wrong_state(found: Shapes, expected: Shapes, rows: int | None) -> UsageError:
    """The error for a state of other names or shapes than the policy's."""
    return UsageError(
        f"a state of shapes {dict(found)} does not fit these observations; expected {dict(expected)}. An episode "
        f"begins with state = {_beginning(rows)}."
    )


def _beginning(rows: int | None) -> str:
    return f"policy.initial_state({'' if rows is None else rows})"
