"""A linter for envs: plays one with random actions and says what training in it would stumble over, with the fix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.checks import EnvError
from rlab.envs.episodes import time_limit_of
from rlab.envs.evidence import Difference, Evidence, GlobalGenerators, folder_kept, play, quiet, replay
from rlab.envs.make import make_single, packing_of
from rlab.envs.packing import Packing
from rlab.envs.spaces import array_space_from_gym, space_from_gym
from rlab.envs.specs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.networks.images import image_notes
from rlab.networks.spaces import MASK_KEY

STEPS = 1_000  # env steps of random play
LARGE_REWARD, LARGE_OBS = 1_000.0, 1_000.0  # beyond which learning without scaling is slow or fails
SLIGHT = 0.05  # of the largest number of an observation: Box2D's solver begins a used world that much otherwise
SLOW = 0.010  # seconds for one step
Severity = Literal["error", "warning", "note"]
# An error is what training or judging fails over, a warning what makes it worse, a note what is good to know.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# What to do about a fault that rlab refuses in training, by its kind (see `checks`).
FIXES: Mapping[str, str] = {
    "raised": "look at its traceback: env.reset(seed=0), then env.step(env.action_space.sample()) in a plain loop",
    "reset": "end reset with: return obs, info",
    "step": "end step with: return obs, reward, terminated, truncated, info",
    "observation": "return what observation_space says, or change the space",
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
        """The finding for people."""
        return f"{self.severity:<7}  {self.code}: {self.what}; {self.fix}"


@dataclass(frozen=True)
class Checkup:
    """What came out: the findings, errors first, and what was seen of the env."""

    env: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    packing: Packing | None = field(default=None, repr=False)  # its spaces, where they are any
    agents: tuple[str, ...] | None = None  # registered agents that can learn in it; None: not known

    @property
    def ok(self) -> bool:
        """Whether training would work: there may be warnings."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab check --json` prints."""
        rows = [{"code": f.code, "severity": f.severity, "what": f.what, "fix": f.fix} for f in self.findings]
        agents = None if self.agents is None else list(self.agents)
        return {"format": 1, "env": self.env, "ok": self.ok, "findings": rows, "agents": agents, **self.facts}

    def report(self) -> str:
        """The findings for people, one line each."""
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        totals = ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items() if n)
        verdict = "training in it would fail" if not self.ok else "ready to train in"
        agents = [] if self.agents is None else [f"agents: {', '.join(self.agents) or 'none'}"]
        lines = [finding.line() for finding in self.findings]
        return "\n".join([*self._seen(), *agents, *lines, f"{self.env}: {verdict} ({totals or 'nothing found'})"])

    def _seen(self) -> list[str]:
        facts = self.facts
        if "steps" not in facts:
            return []
        lines = [f"observation {facts['obs_space']}, action {facts['action_space']}"]
        played = f"{facts['steps']} random steps, {facts['ms_per_step']:.3g} ms each"
        if facts["episodes"]:
            low, high = facts["returns"]
            short, long = facts["lengths"]
            played += f"; {facts['episodes']} episodes of {short} to {long} steps with returns {low:g} to {high:g}"
        return [*lines, played]


def check_env(spec: EnvSpec, steps: int = STEPS, seed: int = 0) -> Checkup:
    """Play an env and report; nothing of this process is left changed.

    Raises:
        UsageError: the env or a wrapper does not exist, or `steps` is below 1.
    """
    if steps < 1:
        raise UsageError(f"--steps {steps} must be 1 or more.")
    found = spec.check()
    generators = GlobalGenerators()
    with folder_kept() as moved, quiet() as said:
        try:
            checkup = _examined(spec, found, steps, seed, generators)
        finally:
            generators.restore()
        printed, warned = said()
        further = list(_manners(moved(), printed, warned))
    if spec.local:
        what = f"no other process can import {spec.env_id}, so only this one can play a run in it"
        further.append(Finding("no-name", "note", what, "define it in a module, by its own name"))
    everything = dict.fromkeys(
        [*checkup.findings, *further]
    )  # an env that was made twice may be found fault with twice
    return replace(checkup, findings=tuple(sorted(everything, key=lambda f: SEVERITIES.index(f.severity))))


def _examined(spec: EnvSpec, found: Registered, steps: int, seed: int, generators: GlobalGenerators) -> Checkup:
    generators.seed()
    try:
        packing = _spaces(spec, found)
        env = make_single(spec, found)
    except RlabError as error:
        return Checkup(spec.label, (_not_made(error),))
    generators.seed()
    evidence = play(env, packing, steps, seed)
    used = (*evidence.generators, *generators.used())
    findings = [*_faults(evidence), *_habits(evidence, env, spec), *_global_use(used)]
    if not evidence.stopped():
        findings += _repeated(spec, found, env, packing, evidence, seed, generators)
    findings += _closed(env)
    findings += [Finding("image", "note", line, "look whether that is so") for line in image_notes(packing.obs_space)]
    return Checkup(spec.label, tuple(findings), _facts(packing, evidence), packing)


def _spaces(spec: EnvSpec, found: Registered) -> Packing:
    """What the env says of itself; where its first reset or step fails, without a mask, for the play to show how."""
    try:
        return packing_of(spec, found)[0]
    except UsageError:
        raise
    except RlabError:
        env = make_single(spec, found)
        try:
            spaces = space_from_gym(env.observation_space), array_space_from_gym(env.action_space, "its action space")
        finally:
            _closed(env)
        return Packing(spec.env_id, *spaces)


def _not_made(error: RlabError) -> Finding:
    text = str(error).rstrip(".")
    if MASK_KEY in text:
        return Finding("mask", "error", text, FIXES["mask"])
    if "running statistics" in text:
        return Finding("normalizes", "error", text, "agents and policies carry such scalings themselves")
    if " space of " in text:
        return Finding("space", "error", text, "change it, or use a wrapper that does: --wrapper FlattenObservation")
    return Finding("not-made", "error", text, "make one by hand, to see the traceback")


def _faults(evidence: Evidence) -> Iterator[Finding]:
    for kind, fault in evidence.faults.items():
        yield Finding(_code(fault), "error", fault.told("it", "", f"at step {evidence.fault_at[kind]}"), FIXES[kind])


def _code(fault: EnvError) -> str:
    return fault.kind.replace(" ", "-")


def _habits(evidence: Evidence, env: gym.Env, spec: EnvSpec) -> Iterator[Finding]:
    """What can be told from one play, where nothing was refused."""
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
    if evidence.largest_reward > LARGE_REWARD:
        yield Finding(
            "reward-large",
            "warning",
            f"rewards reach {evidence.largest_reward:.3g} in size",
            "divide them in the env, or use --reward-scaling running",
        )
    if not evidence.rewarded and evidence.returns and "reward" not in evidence.faults:
        yield Finding(
            "no-reward",
            "note",
            f"every reward of {len(evidence.returns)} random episodes was 0",
            "see that a good policy gets one; a denser reward learns sooner",
        )
    if evidence.largest_obs > LARGE_OBS:
        yield Finding(
            "obs-large",
            "warning",
            f"observations reach {evidence.largest_obs:.3g} in size",
            "scale them in the env, or use --obs-scaling running",
        )
    if not evidence.returns and time_limit_of(env) is None and not evidence.stopped():
        yield Finding(
            "no-end",
            "warning",
            f"no episode ended in {evidence.steps} random steps, and there is no time limit",
            "end episodes in the env, or use --max-episode-steps 1000",
        )
    if evidence.steps and evidence.seconds / evidence.steps > SLOW:
        hours = evidence.seconds / evidence.steps * 1e6 / 3600
        yield Finding(
            "slow",
            "note",
            f"a step takes {1e3 * evidence.seconds / evidence.steps:.3g} ms: {hours:.1f} h for 1 million",
            "--vector async plays each env in a process of its own",
        )


def _global_use(used: tuple[str, ...]) -> Iterator[Finding]:
    if used:
        yield Finding(
            "global-random",
            "warning",
            f"it draws from the global generator of {', '.join(dict.fromkeys(used))}",
            "draw from self.np_random, which super().reset(seed=seed) seeds",
        )


def _repeated(
    spec: EnvSpec,
    found: Registered,
    env: gym.Env,
    packing: Packing,
    evidence: Evidence,
    seed: int,
    generators: GlobalGenerators,
) -> list[Finding]:
    """The same moves in a second env beside the first, and in the first once more."""
    try:
        second = make_single(spec, found)
    except RlabError as error:
        return [
            Finding(
                "one-instance",
                "warning",
                f"a second one beside the first fails: {error}",
                "let several live in one process, or train with --vector async --num-envs 1 --eval-every 0",
            )
        ]
    generators.seed()
    other = replay(second, packing, evidence.moves, seed)
    findings = _closed(second)
    if other is not None:
        severity: Severity = "note" if found.nondeterministic else "warning"
        return [
            *findings,
            Finding(
                "not-deterministic",
                severity,
                f"with equal seeds and actions, another env differs {_when(other)}",
                "draw from self.np_random alone, begin reset with super().reset(seed=seed), keep nothing between envs",
            ),
        ]
    generators.seed()
    again = replay(env, packing, evidence.moves, seed)
    if again is not None:
        findings.append(
            Finding(
                "reset-keeps",
                "note" if again.size < SLIGHT else "warning",
                f"reset with the same seed does not begin the same episode again: it differs {_when(again)}",
                "set everything that step changes in reset",
            )
        )
    return findings


def _when(difference: Difference) -> str:
    place = "in the first observation" if difference.move == 0 else f"at move {difference.move}"
    return place if np.isinf(difference.size) else f"{place} by {difference.size:.1%}"


def _closed(env: gym.Env) -> list[Finding]:
    try:
        env.close()
    except Exception as error:  # whatever an env may raise
        what = f"close raises {type(error).__name__}: {error}"
        return [Finding("close", "warning", what, "let close do nothing where there is nothing to close")]
    return []


def _manners(moved: bool, printed: str, warned: list[str]) -> Iterator[Finding]:
    """What an env does to the process that it lives in."""
    if moved:
        yield Finding("changes-folder", "warning", "it changes the working folder", "use absolute paths, no os.chdir")
    if printed.strip():
        lines = printed.strip().splitlines()
        what = f"it prints {len(lines)} line{'' if len(lines) == 1 else 's'}, the first: {lines[0]:.60}"
        yield Finding("prints", "note", what, "leave print out of reset and step")
    for line in warned[:3]:
        yield Finding("warns", "note", f"it warns: {' '.join(line.split()):.200}", "see whether that matters")


def _facts(packing: Packing, evidence: Evidence) -> dict[str, Any]:
    span = lambda values: [float(np.min(values)), float(np.max(values))] if values else None  # noqa: E731
    lengths = [min(evidence.lengths), max(evidence.lengths)] if evidence.lengths else None
    return {
        "obs_space": str(packing.obs_space),
        "action_space": str(packing.action_space),
        "steps": evidence.steps,
        "episodes": len(evidence.returns),
        "returns": span(evidence.returns),
        "lengths": lengths,
        "ms_per_step": 1e3 * evidence.seconds / max(evidence.steps, 1),
    }
