"""What `rlab check` can find in an env, from the evidence of one play: each finding with its fix."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym

from rlab.envs.checks import TOO_LARGE, EnvError
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

# What to do about a fault that rlab refuses in training, by its kind (see `checks`).
FIXES: Mapping[str, str] = {
    "raised": "fix it there; env.reset(seed=0) and env.step(env.action_space.sample()) in a loop show its traceback",
    "spaces": "give it the same spaces each time that it is made",
    "reset": "end reset with: return obs, info",
    "step": "end step with: return obs, reward, terminated, truncated, info",
    "observation": "return observations of observation_space, or change the space",
    "mask": "give one 0 or 1 for each action in every reset and step, and allow one at least",
    "reward": "return one number, such as float(reward)",
    "terminated": "return bool(terminated)",
    "truncated": "return bool(truncated)",
    "not finite": "look for a division by zero or an overflow; np.nan_to_num hides it, and the cause stays",
}


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


def not_made(error: RlabError) -> Finding:
    """For an env that could not be made, or whose spaces or mask rlab cannot use."""
    text = str(error).rstrip(".")
    if MASK_KEY in text:
        return Finding("mask", "error", text, FIXES["mask"])
    if "running statistics" in text:
        return Finding("normalizes", "error", text, "agents and policies carry such scalings themselves")
    if " space of " in text:
        what, _, hint = text.partition(". ")
        return Finding("space", "error", what, hint[:1].lower() + hint[1:] or "change it, or use a wrapper that does")
    return Finding("not-made", "error", text, "make one by hand, to see the traceback")


def faults(evidence: Evidence) -> Iterator[Finding]:
    """What rlab refuses in training."""
    for kind, fault in evidence.faults.items():
        what = fault.line("it", "", f"at step {evidence.fault_at[kind]}")
        fix = "divide rewards in the env" if kind == "reward" and fault.why == TOO_LARGE else FIXES[kind]
        yield Finding(_code(fault), "error", what, fix)


def _code(fault: EnvError) -> str:
    return fault.kind.replace(" ", "-")


def habits(evidence: Evidence, env: gym.Env) -> Iterator[Finding]:
    """Findings from one play in which nothing was refused."""
    yield from _borrowed(evidence)
    yield from _rewards(evidence)
    yield from _observations(evidence)
    yield from _endings(evidence, time_limit_of(env))
    yield from _speed(evidence)


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
            what = f"it has {name!r}, which rlab does not use: any action may be chosen"
            fix = f"if it gives the allowed actions, name it {MASK_METHOD}, or give info['{MASK_KEY}'] each time"
            yield Finding("mask-name", "note", what, fix)
            return


def _borrowed(evidence: Evidence) -> Iterator[Finding]:
    if evidence.action_changed:
        yield Finding(
            "action-changed",
            "warning",
            "step writes into the action that it gets; rlab hands out copies, others may not",
            "begin step with: action = action.copy()",
        )
    if evidence.obs_reused:
        yield Finding(
            "obs-reused",
            "warning",
            "an observation changes after it was given; rlab copies it, others may not",
            "return obs.copy()",
        )
    for name, before, after in evidence.changed_spaces:
        yield Finding(
            "space-changes",
            "warning",
            f"its {name} space is {before} when it is made and {after} later; rlab reads it once, at the beginning",
            "set it in __init__, large enough for every step; an action mask forbids what is not allowed",
        )


def _rewards(evidence: Evidence) -> Iterator[Finding]:
    largest, scaling = evidence.largest_reward, "divide them in the env, or use --reward-scaling running"
    if largest > HUGE_REWARD:
        what = f"rewards reach {largest:.3g} in size, whose squares float32 does not hold: updates would not be finite"
        yield Finding("reward-large", "error", what, scaling)
    elif largest > LARGE_REWARD:
        yield Finding("reward-large", "warning", f"rewards reach {largest:.3g} in size", scaling)
    if not evidence.rewarded and evidence.returns and "reward" not in evidence.faults:
        yield Finding(
            "no-reward",
            "note",
            f"every reward of {len(evidence.returns)} random episodes was 0",
            "check that a good policy gets one; a denser reward is learned sooner",
        )


def _observations(evidence: Evidence) -> Iterator[Finding]:
    if evidence.outside is not None and evidence.outside.excess > SLIGHT:
        found = evidence.outside
        yield Finding(
            "obs-outside",
            "warning",
            f"{found.place} has {found.value:g} where its space has {found.low:g} to {found.high:g}",
            "scale or clip it, or state bounds that hold; --obs-scaling fixed divides by them",
        )
    if evidence.largest_obs > LARGE_OBS:
        yield Finding(
            "obs-large",
            "warning",
            f"observations reach {evidence.largest_obs:.3g} in size",
            "scale them in the env, or use --obs-scaling running",
        )


def _endings(evidence: Evidence, limit: int | None) -> Iterator[Finding]:
    if evidence.truncated_in_info:
        yield Finding(
            "truncated-in-info",
            "warning",
            'its info["TimeLimit.truncated"] shows that an episode was cut, but terminated is True, so that the value '
            "of what follows counts as 0",
            "return terminated=False, truncated=True there",
        )
    if limit is not None or evidence.stopped():
        return
    if not evidence.returns:
        yield Finding(
            "no-end",
            "warning",
            f"no episode ended in {evidence.steps} random steps, and no time limit is known",
            "end episodes in the env, or use --max-episode-steps 1000",
        )
    else:
        yield Finding(
            "no-time-limit",
            "note",
            "no time limit is known: all random episodes ended, those of a trained policy may not",
            "--max-episode-steps sets one",
        )


def _speed(evidence: Evidence) -> Iterator[Finding]:
    if evidence.steps and evidence.seconds / evidence.steps > SLOW:
        hours = evidence.seconds / evidence.steps * 1e6 / 3600
        yield Finding(
            "slow",
            "note",
            f"a step takes {1e3 * evidence.seconds / evidence.steps:.3g} ms: {hours:.1f} h for 1 million",
            "--vector async plays each env in its own process",
        )


def global_use(used: tuple[str, ...]) -> Iterator[Finding]:
    """Of generators that belong to the whole process."""
    if used:
        yield Finding(
            "global-random",
            "warning",
            f"it draws from the global generator of {', '.join(dict.fromkeys(used))}",
            "draw from self.np_random, which super().reset(seed=seed) seeds",
        )


def manners(moved: bool, printed: str, warned: list[str]) -> Iterator[Finding]:
    """What an env does to the process that it runs in."""
    if moved:
        yield Finding("changes-folder", "warning", "it changes the working folder", "use absolute paths, no os.chdir")
    if printed.strip():
        lines = printed.strip().splitlines()
        what = f"it prints {len(lines)} line{'' if len(lines) == 1 else 's'}, the first: {lines[0]:.60}"
        yield Finding("prints", "note", what, "leave print out of reset and step")
    for line in warned[:3]:
        yield Finding("warns", "note", f"it warns: {' '.join(line.split()):.200}", "see whether that matters")
