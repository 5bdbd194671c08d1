"""What `rlab check` can find in an env, from the evidence of one play: each finding with its fix."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym

from rlab.envs.checks import TOO_LARGE
from rlab.envs.episodes import time_limit_of
from rlab.envs.evidence import Evidence
from rlab.envs.obs_packing import MASK_METHOD, Packing, layers
from rlab.errors import RlabError
from rlab.networks.spaces import MASK_KEY, Masked, choices

LARGE_REWARD, LARGE_OBS = 1_000.0, 1_000.0  # beyond which learning without scaling is slow or fails
HUGE_REWARD = 1e16  # float32 cannot square a return of a hundred such: losses and gradients become infinite
SLIGHT = 0.05  # of the largest number of an observation: Box2D's solver starts a used world that much differently
SLOW = 0.010  # seconds for one step
Severity = Literal["error", "warning", "note"]
# An error makes training or evaluation fail, a warning makes it worse, a note is good to know.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd."""

    code: str  # a name for scripts, such as `reward-large`
    severity: Severity
    what: str
    fix: str

    def line(self) -> str:
        """The finding as a line of text."""
        return f"{self.severity:<7}  {self.code}: {self.what.rstrip('.')}; {self.fix}"


# How bad each finding usually is, and what to do about it.
ADVICE: Mapping[str, tuple[Severity, str]] = {
    # Faults that rlab refuses in training (see `checks`).
    "raised": (
        "error",
        "fix it there; env.reset(seed=0) and env.step(env.action_space.sample()) in a loop show its traceback",
    ),
    "spaces": ("error", "give it the same spaces each time that it is made"),
    "reset": ("error", "end reset with: return obs, info"),
    "step": ("error", "end step with: return obs, reward, terminated, truncated, info"),
    "observation": ("error", "return observations of observation_space, or change the space"),
    "mask": ("error", "give one 0 or 1 for each action in every reset and step, and allow one at least"),
    "reward": ("error", "return one number, such as float(reward)"),
    "terminated": ("error", "return bool(terminated)"),
    "truncated": ("error", "return bool(truncated)"),
    "not-finite": ("error", "look for a division by zero or an overflow; np.nan_to_num hides it, and the cause stays"),
    # An env that could not be made or played.
    "normalizes": ("error", "agents and policies carry such scalings themselves"),
    "space": ("error", "change it, or use a wrapper that does"),
    "not-made": ("error", "make one by hand, to see the traceback"),
    "one-instance": (
        "warning",
        "let several live in one process, or train with --vector async --num-envs 1 --eval-every 0",
    ),
    "close": ("warning", "make close do nothing where there is nothing to close"),
    # Habits of an env that can be played.
    "not-deterministic": (
        "warning",
        "draw from self.np_random alone, begin reset with super().reset(seed=seed), keep nothing between envs",
    ),
    "reset-keeps": ("warning", "set everything that step changes in reset"),
    "action-changed": ("warning", "begin step with: action = action.copy()"),
    "obs-reused": ("warning", "return obs.copy()"),
    "space-changes": (
        "warning",
        "set it in __init__, large enough for every step; an action mask forbids what is not allowed",
    ),
    "reward-large": ("warning", "divide them in the env, or use --reward-scaling running"),
    "no-reward": ("note", "check that a good policy gets one; a denser reward is learned sooner"),
    "obs-outside": ("warning", "scale or clip it, or state bounds that hold; --obs-scaling fixed divides by them"),
    "obs-large": ("warning", "scale them in the env, or use --obs-scaling running"),
    "truncated-in-info": ("warning", "return terminated=False, truncated=True there"),
    "no-end": ("warning", "end episodes in the env, or use --max-episode-steps 1000"),
    "no-time-limit": ("note", "--max-episode-steps sets one"),
    "slow": ("note", "--vector async plays each env in its own process"),
    "mask-name": (
        "note",
        f"if it gives the allowed actions, name it {MASK_METHOD}, or give info['{MASK_KEY}'] each time",
    ),
    "image": ("note", "check whether that is so"),
    "global-random": ("warning", "draw from self.np_random, which super().reset(seed=seed) seeds"),
    "changes-folder": ("warning", "use absolute paths, no os.chdir"),
    "prints": ("note", "leave print out of reset and step"),
    "warns": ("note", "see whether that matters"),
    "no-name": ("note", "define it in a module, by its own name"),
}


def finding(code: str, what: str, severity: Severity | None = None, fix: str = "") -> Finding:
    """A finding with the severity and the fix of `ADVICE`, where no others are given."""
    usual, advice = ADVICE[code]
    return Finding(code, severity or usual, what, fix or advice)


def not_made(error: RlabError) -> Finding:
    """For an env that could not be made, or whose spaces or mask rlab cannot use."""
    text = str(error).rstrip(".")
    if " space of " in text and MASK_KEY not in text and "running statistics" not in text:
        what, _, hint = text.partition(". ")
        return finding("space", what, fix=hint[:1].lower() + hint[1:])
    code = "mask" if MASK_KEY in text else "normalizes" if "running statistics" in text else "not-made"
    return finding(code, text)


def faults(evidence: Evidence) -> Iterator[Finding]:
    """What rlab refuses in training."""
    for kind, fault in evidence.faults.items():
        too_large = kind == "reward" and fault.why == TOO_LARGE
        what = fault.line("it", "", f"at step {evidence.fault_at[kind]}")
        yield finding(kind.replace(" ", "-"), what, fix="divide rewards in the env" if too_large else "")


def habits(evidence: Evidence, env: gym.Env) -> Iterator[Finding]:
    """Findings from one play in which nothing was refused."""
    yield from _borrowed(evidence)
    yield from _rewards(evidence)
    yield from _observations(evidence)
    yield from _endings(evidence, time_limit_of(env))
    if evidence.steps and (each := evidence.seconds / evidence.steps) > SLOW:
        yield finding("slow", f"a step takes {1e3 * each:.3g} ms: {each * 1e6 / 3600:.1f} h for 1 million")


NEAR_MASK_METHOD = (
    "action_mask",
    "action_masks",  # neither a method nor a property, or it would be used
    "get_action_mask",
    "get_action_masks",
    "valid_action_mask",
    "valid_action_masks",
    "valid_actions_mask",
    "legal_actions",
    "valid_actions",
)


def near_masks(env: gym.Env, packing: Packing) -> Iterator[Finding]:
    """An env without masks that has something under a name that other packages use for them."""
    if isinstance(packing.obs_space, Masked) or not choices(packing.action_space):
        return
    for name in NEAR_MASK_METHOD:
        if any(inspect.getattr_static(layer, name, None) is not None for layer in layers(env)):
            yield finding("mask-name", f"it has {name!r}, which rlab does not use: any action may be chosen")
            return


def _borrowed(evidence: Evidence) -> Iterator[Finding]:
    if evidence.action_changed:
        yield finding(
            "action-changed", "step writes into the action that it gets; rlab hands out copies, others may not"
        )
    if evidence.obs_reused:
        yield finding("obs-reused", "an observation changes after it was given; rlab copies it, others may not")
    for name, before, after in evidence.changed_spaces:
        changed = f"its {name} space is {before} when it is made and {after} later"
        yield finding("space-changes", f"{changed}; rlab reads it once, at the beginning")


def _rewards(evidence: Evidence) -> Iterator[Finding]:
    largest = f"rewards reach {evidence.largest_reward:.3g} in size"
    if evidence.largest_reward > HUGE_REWARD:
        what = f"{largest}, whose squares float32 does not hold: updates would not be finite"
        yield finding("reward-large", what, "error")
    elif evidence.largest_reward > LARGE_REWARD:
        yield finding("reward-large", largest)
    if not evidence.rewarded and evidence.returns and "reward" not in evidence.faults:
        yield finding("no-reward", f"every reward of {len(evidence.returns)} random episodes was 0")


def _observations(evidence: Evidence) -> Iterator[Finding]:
    found = evidence.outside
    if found is not None and found.excess > SLIGHT:
        bounds = f"{found.low:g} to {found.high:g}"
        yield finding("obs-outside", f"{found.place} has {found.value:g} where its space has {bounds}")
    if evidence.largest_obs > LARGE_OBS:
        yield finding("obs-large", f"observations reach {evidence.largest_obs:.3g} in size")


def _endings(evidence: Evidence, limit: int | None) -> Iterator[Finding]:
    if evidence.truncated_in_info:
        yield finding(
            "truncated-in-info",
            'its info["TimeLimit.truncated"] shows that an episode was cut, but terminated is True, so that the value '
            "of what follows counts as 0",
        )
    if limit is not None or evidence.stopped():
        return
    if not evidence.returns:
        steps = evidence.steps
        yield finding("no-end", f"no episode ended in {steps} random steps, and no time limit is known")
    else:
        what = "no time limit is known: all random episodes ended, those of a trained policy may not"
        yield finding("no-time-limit", what)


def global_use(used: tuple[str, ...]) -> Iterator[Finding]:
    """Of generators that belong to the whole process."""
    if used:
        names = ", ".join(dict.fromkeys(used))
        yield finding("global-random", f"it draws from the global generator of {names}")


def manners(moved: bool, printed: str, warned: list[str]) -> Iterator[Finding]:
    """What an env does to the process that it runs in."""
    if moved:
        yield finding("changes-folder", "it changes the working folder")
    if printed.strip():
        lines = printed.strip().splitlines()
        what = f"it prints {len(lines)} line{'' if len(lines) == 1 else 's'}, the first: {lines[0]:.60}"
        yield finding("prints", what)
    for line in warned[:3]:
        yield finding("warns", f"it warns: {' '.join(line.split()):.200}")
