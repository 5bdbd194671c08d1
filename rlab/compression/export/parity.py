"""Does an exported file give what its member gives? Outputs and actions of both on the same visited states."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlab.compression.export.member_step import answers, states_before
from rlab.compression.export.runtimes import Runner, open_exported
from rlab.compression.quantized_layers import QuantizedLayer, full_precision
from rlab.errors import UsageError
from rlab.networks.policy import MemberPolicy

MIN_ROWS = 1_000  # fewer states prove little
FLOAT_ERROR = 1e-5  # of the largest output: what float32 sums in another order differ by
FLOAT_AGREEMENT = 0.999
ROUNDED_AGREEMENT = 0.99  # with activations in 8 bits
ACTION_ERROR = 1e-4  # continuous actions count as equal within this share of their largest size


@dataclass(frozen=True)
class Parity:
    """How far a file is from its member on `rows` states.

    Where activations are rounded to 8 bits, a number on the edge between two integers may fall to either side,
    depending on the order of a sum. So the error of such a file may be as large as the change that rounding makes in
    the member's own outputs: an error moves a few activations by one step, while rounding moves all of them.
    """

    rows: int
    largest_error: float  # of any output, in its units
    output_scale: float  # the member's largest output without its sign
    rounding: float  # how far rounded activations move any output of the member; 0 where none are rounded
    agreement: float  # share of rows with equal actions

    @property
    def relative_error(self) -> float:
        """The largest error as a share of the largest output."""
        return self.largest_error / max(self.output_scale, 1e-12)

    @property
    def allowed_error(self) -> float:
        """The largest error of an output that passes, in its units."""
        return max(self.rounding, FLOAT_ERROR * max(self.output_scale, 1e-12))

    @property
    def failure(self) -> str | None:
        """What is wrong, in words; None where the file is as good as its member."""
        least = ROUNDED_AGREEMENT if self.rounding else FLOAT_AGREEMENT
        if not self.largest_error <= self.allowed_error:  # a NaN fails too
            return f"an output is {self.largest_error:.3g} off, and {self.allowed_error:.3g} is allowed"
        if not self.agreement >= least:
            return f"{self.agreement:.4f} of the actions are equal, and {least} must be"
        return None


def check(member: MemberPolicy, file: Runner | Path | str, obs: np.ndarray) -> Parity:
    """Compare a file (a path is one that the caller trusts) with its member on `obs [R, *obs]` in array form.

    The member runs in batches as large as the runtime's, since a range of activations may be the batch's own.

    Raises:
        UsageError: there are fewer than `MIN_ROWS` rows.
        RlabError: the file cannot be run.
    """
    if len(obs) < MIN_ROWS:
        raise UsageError(f"parity is checked on {MIN_ROWS} visited states or more, not on {len(obs)}.")
    runner = file if isinstance(file, Runner) else open_exported(file, trust=True)
    obs = np.ascontiguousarray(obs, member.spec.obs_space.dtype)
    batch = 250 if runner.rows_at_once is None else runner.rows_at_once
    state = states_before(member, obs)
    action, *numbers = answers(member, obs, batch, state)
    parts = [(obs[i : i + 250], *(() if state is None else (state[i : i + 250],))) for i in range(0, len(obs), 250)]
    found = [runner.run(*part) for part in parts]
    found_action, *found_numbers = (np.concatenate(part) for part in zip(*found, strict=True))
    shapes = [[array.shape for array in each] for each in ((action, *numbers), (found_action, *found_numbers))]
    if shapes[0] != shapes[1]:
        raise UsageError(f"the file answers actions {found_action.shape}, the member {action.shape}: not its file.")
    # The next state counts as the outputs do.
    outputs, found_outputs = (np.concatenate(each, axis=1) for each in (numbers, found_numbers))
    return Parity(
        rows=len(obs),
        largest_error=float(np.abs(found_outputs.astype(np.float64) - outputs).max()),
        output_scale=float(np.abs(outputs).max()),
        rounding=rounding_effect(member, obs, batch, outputs, state),
        agreement=_equal_share(action, found_action),
    )


def rounding_effect(
    member: MemberPolicy, obs: np.ndarray, batch: int, outputs: np.ndarray, state: np.ndarray | None = None
) -> float:
    """How far rounded activations move any of the outputs, and of the next states, that the member gave."""
    layers = (layer for layer in member.network.modules() if isinstance(layer, QuantizedLayer))
    if all(layer.activations == "none" for layer in layers):
        return 0.0
    exact = MemberPolicy(member.spec, member.preprocess, full_precision(member.network), member.seed).eval()
    _, *numbers = answers(exact, obs, batch, state)
    return float(np.abs(np.concatenate(numbers, axis=1) - outputs).max())


def _equal_share(action: np.ndarray, found: np.ndarray) -> float:
    """The share of rows in which actions are equal, those of floats to rounding."""
    if np.issubdtype(action.dtype, np.floating):
        near = ACTION_ERROR * max(float(np.abs(action).max()), 1e-12)
        equal = np.abs(action.astype(np.float64) - found) <= near
    else:
        equal = action == found
    return float(equal.reshape(len(action), -1).all(axis=1).mean())
