"""Candidates of a search as networks: untrained to measure their sizes, trained and screened for the return they lose.

The screening has its own states and episodes, from `FIRST_SCREENING_STATE_SEED` and `FIRST_SCREENING_SEED`, which are
the highest of the seeds for visits (`rlab.compression.visits`). So the best of many trials is not chosen by the
episodes on which `compare` then evaluates it.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from rlab.compression.agreement import agreement, outputs_of
from rlab.compression.distil import DistilSettings, MakeEnvs, student_spec
from rlab.compression.export.runtimes import latency
from rlab.compression.linear_units import opened
from rlab.compression.quantize import weight_only
from rlab.compression.report import in_its_runtime, weight_bytes
from rlab.compression.search import BITS, Candidate, Size, Trial
from rlab.compression.steps import Job, Step, check_order
from rlab.compression.visits import visits
from rlab.compression.weight_pruning import packed, prune_weights
from rlab.evaluation.differences import paired_difference
from rlab.evaluation.evaluate import evaluate
from rlab.networks.describe import with_network
from rlab.networks.merging import merge_policy
from rlab.networks.policy import MemberPolicy, Policy, build_policy

FIRST_SCREENING_STATE_SEED = 450_000  # of the episodes whose states decisions are compared on
FIRST_SCREENING_SEED = 460_000  # of the episodes that are played
STATES = 1_000  # per member
EPISODES = 20  # per member
REPEATS = 256  # timed calls of each candidate


class Trials:
    """Makes and screens candidates; steps that several of them begin with are carried out once.

    Args:
        parent: the stack that is compressed.
        make_envs: makes n envs that do not reset themselves.
        settings: of every step that trains.
        episodes: per member, of the screening.
    """

    def __init__(self, parent: Policy, make_envs: MakeEnvs, settings: DistilSettings, episodes: int = EPISODES) -> None:
        self.parent = merge_policy(parent)
        self._make_envs, self._episodes = make_envs, episodes
        self._made: dict[Candidate, Policy] = {}
        self._jobs: dict[tuple[Step, ...], Job] = {(): Job(self.parent, self.parent, make_envs, settings)}
        self.states = visits(self.parent, make_envs, STATES, FIRST_SCREENING_STATE_SEED)
        self.returns = evaluate(self.parent, make_envs, episodes, FIRST_SCREENING_SEED).returns  # [S, E]
        self._outputs = outputs_of(self.parent, self.states)
        self.same_action = self.parent.head.half_range is None  # what `agreement` measures

    def made(self, candidate: Candidate) -> Policy:
        """The candidate's policy, trained: the one that `rlab.compression.steps.compress` makes with its steps.

        Raises:
            UsageError, RlabError: as `compress` does.
        """
        if candidate not in self._made:
            self._made[candidate] = self._job(candidate.steps).finished()
        return self._made[candidate]

    def _job(self, steps: tuple[Step, ...]) -> Job:
        if steps not in self._jobs:
            check_order(steps)
            self._jobs[steps] = replace(self._job(steps[:-1]))
            self._jobs[steps].carry_out(steps[-1])
        return self._jobs[steps]

    def expected(self, candidates: Sequence[Candidate], timed: bool) -> dict[Candidate, Size]:
        """What the candidates will take, by the same layers with other weights: nothing is trained.

        Bytes are those of the finished policy, but for sparse weights: how many of these are rounded to 0 besides is
        not known before. Candidates of the same widths are timed in turn, since these are compared with each other.
        """
        found: dict[Candidate, Size] = {}
        for widths in dict.fromkeys(each.widths for each in candidates):
            same = [each for each in candidates if each.widths == widths]
            members = [_untrained(self.parent, each) for each in same]
            latencies: Sequence[float | None] = self.medians(members) if timed else [None] * len(same)
            sizes = map(Size, map(weight_bytes, members), latencies)
            found.update(zip(same, sizes, strict=True))
        return {each: found[each] for each in candidates}

    def screened(self, candidate: Candidate, latency_us: float | None = None) -> Trial:
        """How the candidate does, made where it was not yet; `latency_us` is what was expected."""
        policy = self.made(candidate)
        returns = evaluate(policy, self._make_envs, self._episodes, FIRST_SCREENING_SEED).returns
        mask = self.parent.preprocess.mask(self.states.obs)
        found = agreement(self._outputs, outputs_of(policy, self.states), policy.head, mask)
        likeness = found.value.mean().item()
        difference = paired_difference(returns, self.returns)
        return Trial(
            candidate,
            Size(weight_bytes(policy.member()), latency_us),
            float(returns.mean()),
            difference,
            likeness if found.measure == "same_action" else -likeness,
        )

    def timed_in_turn(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with the latencies of what was made, which can be compared with each other."""
        latencies = self.medians([self.made(trial.candidate).member() for trial in trials])
        return [
            replace(trial, size=replace(trial.size, latency_us=latency_us))
            for trial, latency_us in zip(trials, latencies, strict=True)
        ]

    def medians(self, members: Sequence[MemberPolicy]) -> list[float]:
        """Microseconds of one decision of each, in the runtime that the report uses; timed in turn, so that all
        of them see one machine."""
        runners = {str(number): in_its_runtime(member)[0] or member for number, member in enumerate(members)}
        found = latency(runners, self.states.obs[0].numpy(), batch_sizes=(1,), repeats=REPEATS)
        return [found[str(number)][0].p50_us for number in range(len(members))]


def _untrained(parent: Policy, candidate: Candidate) -> MemberPolicy:
    """One member of the candidate's layers: the parent's own or fresh weights, cut and rounded as they are."""
    first = parent.seeds[:1]
    if candidate.widths is None:
        policy = parent.only(*first)
    else:
        policy = build_policy(student_spec(parent.spec, candidate.widths), first, trust=True)  # as the parent runs
    network: nn.Module = policy.network
    if policy.has_memory and len(candidate.steps) > (candidate.widths is not None):
        network = opened(network)
    if candidate.share:
        network = prune_weights(network, candidate.share)
    if candidate.word != "float32":
        network = weight_only(network, BITS[candidate.word])
    if candidate.share:
        network = packed(network)
    return with_network(policy, network).member()
