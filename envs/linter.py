"""A linter for envs: plays one with random actions and lists what would disturb training in it, with the fixes."""

from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs.checks import Hung, stopped_by_user
from rlab.envs.evidence import Evidence, GlobalGenerators, folder_kept, play, quiet, replay
from rlab.envs.findings import (
    SEVERITIES,
    SLIGHT,
    Finding,
    faults,
    finding,
    global_use,
    habits,
    manners,
    near_masks,
    not_made,
)
from rlab.envs.gym_spaces import array_space_from_gym, space_from_gym
from rlab.envs.make import make_single, packing_of
from rlab.envs.obs_packing import Packing
from rlab.envs.specs import EnvSpec
from rlab.envs.watch import watched
from rlab.errors import RlabError, UsageError
from rlab.networks.images import image_notes
from rlab.randomness import kept_generators

STEPS = 1_000  # env steps of random play


@dataclass(frozen=True, repr=False)
class Checkup:
    """The result: the findings, errors first, and facts about the env. Printed, it is the report."""

    env: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    packing: Packing | None = None  # its spaces, where they are valid
    agents: tuple[str, ...] | None = None  # registered agents that can learn in it; None: not known

    @property
    def ok(self) -> bool:
        """Whether training would work: there may be warnings."""
        return not any(finding.severity == "error" for finding in self.findings)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        found = ", ".join(finding.code for finding in self.findings) or "nothing found"
        return f"<Checkup of {self.env}: {'ok' if self.ok else 'not ok'}, {found}>"

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab check --json` prints."""
        rows = [{"code": f.code, "severity": f.severity, "what": f.what, "fix": f.fix} for f in self.findings]
        agents = None if self.agents is None else list(self.agents)
        return {"format": 1, "env": self.env, "ok": self.ok, "findings": rows, "agents": agents, **self.facts}

    def report(self) -> str:
        """The findings as text, one line each."""
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
            played += f"; {facts['episodes']} episodes of {_span(facts['lengths'])} steps"
            played += "" if facts["returns"] is None else f" with returns {_span(facts['returns'])}"
        return [*lines, played]


def _span(pair: list[float]) -> str:
    low, high = pair
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def check_env(spec: EnvSpec, steps: int = STEPS, seed: int = 0) -> Checkup:
    """Play an env and report; nothing in this process is left changed.

    Raises:
        UsageError: the env or a wrapper does not exist, or `steps` is below 1.
    """
    if steps < 1:
        raise UsageError(f"--steps {steps} must be 1 or more.")
    found = spec.check()
    generators = GlobalGenerators()
    with folder_kept() as moved, quiet() as output:
        with kept_generators():
            checkup = _examined(spec, found, steps, seed, generators)
        printed, warned = output()
        further = list(manners(moved(), printed, warned))
    if spec.local:
        what = f"no other process can import {spec.env_id}, so only this one can play a run in it"
        further.append(finding("no-name", what))
    everything = dict.fromkeys([*checkup.findings, *further])  # an env that was made twice may have a finding twice
    return replace(checkup, findings=tuple(sorted(everything, key=lambda f: SEVERITIES.index(f.severity))))


def _examined(spec: EnvSpec, found: Registered, steps: int, seed: int, generators: GlobalGenerators) -> Checkup:
    generators.seed()
    try:
        packing = _spaces(spec, found)
        env = make_single(spec, found)
    except RlabError as error:
        return Checkup(spec.label, (not_made(error),))
    generators.seed()
    evidence = play(env, packing, steps, seed, spec.timeout)
    used = (*evidence.generators, *generators.used())
    findings = [*faults(evidence), *habits(evidence, env), *near_masks(env, packing), *global_use(used)]
    if not evidence.stopped():
        findings += _repeated(spec, found, env, packing, evidence, seed, generators)
    findings += _closed(env, spec.timeout)
    findings += [finding("image", line) for line in image_notes(packing.obs_space)]
    return Checkup(spec.label, tuple(findings), _facts(packing, evidence), packing)


def _spaces(spec: EnvSpec, found: Registered) -> Packing:
    """The env's spaces; where its first reset or step fails, without a mask, so that the play can show the failure."""
    try:
        return packing_of(spec, found)[0]
    except UsageError:
        raise
    except RlabError:
        env = make_single(spec, found)
        try:
            spaces = space_from_gym(env.observation_space), array_space_from_gym(env.action_space, "its action space")
        finally:
            _closed(env, spec.timeout)
        return Packing(spec.env_id, *spaces)


def _repeated(
    spec: EnvSpec,
    found: Registered,
    env: gym.Env,
    packing: Packing,
    evidence: Evidence,
    seed: int,
    generators: GlobalGenerators,
) -> list[Finding]:
    """Repeats the same moves in a second env beside the first, and in the first once more."""
    try:
        second = make_single(spec, found)
    except RlabError as error:
        return [finding("one-instance", f"a second one beside the first fails: {error}")]
    generators.seed()
    other = replay(second, packing, evidence.moves, seed, spec.timeout)
    findings = _closed(second, spec.timeout)
    if other is not None and other.fault is not None and other.fault.kind == "spaces":
        return [*findings, finding("spaces", other.fault.line("another one", "", ""))]
    if other is not None:
        what = f"with equal seeds and actions, another env differs {other}"
        return [*findings, finding("not-deterministic", what, "note" if found.nondeterministic else None)]
    generators.seed()
    again = None if evidence.changed_spaces else replay(env, packing, evidence.moves, seed, spec.timeout)
    if again is not None:
        what = f"reset with the same seed does not begin the same episode again: it differs {again}"
        findings.append(finding("reset-keeps", what, "note" if again.size < SLIGHT else None))
    return findings


def _closed(env: gym.Env, timeout: float) -> list[Finding]:
    try:
        watched(timeout, lambda fault: fault.line("the env", "in close", ""), env.close)
    except BaseException as error:  # an env may raise anything, such as sys.exit()
        if stopped_by_user(error):
            raise
        why = f"has {error}" if isinstance(error, Hung) else f"raises {type(error).__name__}: {error}"
        return [finding("close", f"close {why}")]
    return []


def _facts(packing: Packing, evidence: Evidence) -> dict[str, Any]:
    span = lambda values: [float(np.min(values)), float(np.max(values))] if values else None  # noqa: E731
    lengths = [min(evidence.lengths), max(evidence.lengths)] if evidence.lengths else None
    return {
        "obs_space": str(packing.obs_space),
        "action_space": str(packing.action_space),
        "steps": evidence.steps,
        "episodes": len(evidence.returns),
        "returns": span(evidence.returns) if evidence.rewards_held else None,
        "lengths": lengths,
        "ms_per_step": 1e3 * evidence.seconds / max(evidence.steps, 1),
    }
