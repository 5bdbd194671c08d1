"""The agent of a run: fresh or begun from a policy, with its teacher and its pruning."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlab.compression.quantized_layers import CompressedLayer, full_precision
from rlab.errors import UsageError
from rlab.jobs.inputs import Inputs
from rlab.jobs.request import Request, Start
from rlab.jobs.saved import SavedPolicy
from rlab.learning.common_config import StochasticPolicyConfig, patience_of
from rlab.learning.contract import LearnsWithMemory, LoadsCritic, heads_of
from rlab.learning.contract_checks import check_agent
from rlab.learning.distillation import Teacher
from rlab.learning.finetuning import (
    Refit,
    freeze_statistics,
    members_of,
    parameter_groups,
    refit,
    trainable_share,
    transfer,
)
from rlab.learning.finite import check_saved
from rlab.learning.hindsight_config import asks_for_hindsight
from rlab.learning.novel_agent import with_novelty
from rlab.learning.off_policy import OffPolicy
from rlab.learning.parameter_groups import ParameterGroup
from rlab.learning.per_member import apart, check_per_member
from rlab.learning.regrouping import regroup
from rlab.learning.sparsity import GradualPruning
from rlab.learning.terms import takes_terms
from rlab.networks.describe import with_network
from rlab.networks.policy import Policy, build_policy
from rlab.networks.spaces import Space
from rlab.runs.checkpoint import has_checkpoint, load_checkpoint
from rlab.runs.encoding import encode
from rlab.runs.folder import RunFolder, is_run

MOST_WARMUP = 4_000  # env steps of a fresh critic by itself; what experiments/no_dip.py was measured with


@dataclass(frozen=True)
class BuiltAgent:
    """An agent with its beginning and its teacher."""

    agent: Any
    notes: list[str]  # about them, for people
    start: Start | None = None  # what it began with, with what was left open decided
    trainable: float = 1.0  # share of the policy's parameters that ever learn


def build_agent(
    agent_class: Any, request: Request, spaces: tuple[Space, Space], device: torch.device, inputs: Inputs
) -> BuiltAgent:
    """The agent that a request asks for.

    Raises:
        UsageError: the agent cannot begin from a policy or take a teacher, or theirs do not suit it, or as
            `check_agent`.
    """
    seeds, settings = request.training_seeds, request.settings
    agent_class = with_novelty(agent_class, settings)
    arguments = (_of_members(request, agent_class, device), *spaces, seeds, device)
    if request.start is None or inputs.start is None:
        built = BuiltAgent(agent_class(*arguments), [])
    else:
        built = _from_policy(agent_class, arguments, request.start, inputs.start, request.budget)
    check_agent(request.agent, built.agent)
    try:
        encode(built.agent.state())
    except TypeError as error:
        raise UsageError(f"{request.agent}.state(): {error}.") from None
    learns_with_memory = isinstance(built.agent, LearnsWithMemory) and built.agent.learns_with_memory
    if built.agent.policy().has_memory and not learns_with_memory:
        raise UsageError(
            f"{request.agent} cannot learn with a network that has memory, such as a gru: it learns from single rows. "
            "Take a network without memory, or an agent whose class has learns_with_memory = True."
        )
    if inputs.teacher is not None:
        if not takes_terms(agent_class):
            raise UsageError(
                f"{request.agent} cannot learn from a teacher: its class has no loss terms; those that have annotate "
                "`terms: LossTerms` (rlab.learning.terms)."
            )
        teacher = _teacher(built.agent, request, spaces, inputs.teacher)
        built.agent.terms.append(teacher)
        if not {field.name for field in built.agent.fields()}.issuperset(field.name for field in teacher.fields()):
            raise UsageError(
                f"{request.agent} cannot learn from a teacher with memory, whose state it does not carry through its "
                "episodes; ppo, a2c, reinforce and the DQN family can, with memory or without."
            )
        built.notes.append(f"teacher: {request.sources.teacher}")
    if request.run.sparsity:
        if patience_of(settings) is not None:
            raise UsageError(
                "--sparsity with --patience: the best weights, which early stopping puts back, may be from before they "
                "were pruned. Leave one of the two out."
            )
        GradualPruning.of_policy(request.run.sparsity, built.agent)
    return built


def _of_members(request: Request, agent_class: Any, device: torch.device) -> Any:
    """The settings of all members of the stack, as the agent takes them."""
    sets = request.vary or (request.evolution or {}).get("population", ())
    names = tuple(sets[0]) if sets else ()
    check_per_member(request.agent, agent_class, names)
    each = [part.settings for part in request.parts() for _ in request.run.training_seeds]
    if request.evolution is not None:
        each = [replace(request.settings, **own) for own in sets]
    return apart(each, names, device)


def _from_policy(agent_class: Any, arguments: Any, start: Start, saved: SavedPolicy, budget: int) -> BuiltAgent:
    settings, obs_space, action_space, seeds, _ = arguments
    saved, unrounded = _in_full_precision(saved)
    parameters = inspect.signature(agent_class).parameters.values()
    takes_start = any(each.name == "start" or each.kind is each.VAR_KEYWORD for each in parameters)
    if not takes_start or not heads_of(agent_class):
        raise UsageError(
            f"{agent_class.__name__} cannot begin from a policy: it needs `heads`, `head_json`, `load_weights` and a "
            "constructor that takes `start` (rlab.learning.contract.Adaptable)."
        )
    if start.config.strategy == "lora" and getattr(settings, "noisy", False):
        raise UsageError(
            "strategy lora puts adapters in the place of noisy layers, without which nothing would explore: fine-tune "
            "with another strategy, or with epsilon in place of the noise, --no-noisy."
        )
    head = agent_class.head_json(settings, action_space)
    fitted = refit(
        saved.policy.spec,
        obs_space,
        action_space,
        head,
        agent_class.heads,
        start.config,
        log_std=settings.log_std_init if isinstance(settings, StochasticPolicyConfig) else None,
        output_gain=settings.actor_gain if isinstance(settings, StochasticPolicyConfig) else None,
    )
    agent = agent_class(*arguments, start=fitted.spec)
    members = members_of(saved.policy.seeds, seeds, start.member)
    transfer(saved.policy, agent.policy(), fitted, members)
    critic, fresh = _load_critic(agent, saved, members)
    agent.load_weights({})  # target networks follow
    if start.config.critic_warmup is None:
        warmup = min(MOST_WARMUP, budget // 5) if fresh and saved.acts else 0
        start = replace(start, config=replace(start.config, critic_warmup=warmup))
    first = next(iter(agent.networks))
    groups = parameter_groups(agent.networks, first, fitted, start.config)
    regroup(agent.optimizers, groups)
    freeze_statistics(agent.networks[first], groups)
    share = trainable_share(groups, agent.networks[first])
    kept = [*_transfer_notes(fitted, saved), *_without_renormalisation(agent_class, settings, fitted)]
    notes = [*kept, *unrounded, *critic, *_timetable(groups, start, share, budget)]
    return BuiltAgent(agent, notes, start, share)


def _timetable(groups: Sequence[ParameterGroup], start: Start, share: float, budget: int) -> list[str]:
    """What of the policy learns, and when; a warning where the budget ends before that.

    Raises:
        UsageError: the critic's warm-up takes the whole budget.
    """
    warmup, strategy = start.config.critic_warmup or 0, start.config.strategy
    if warmup >= budget:
        raise UsageError(f"--critic-warmup {warmup} leaves nothing of the {budget} env steps to the policy; lower it.")
    lines = [f"strategy {strategy}: {share:.1%} of the policy learns"]
    if warmup:
        lines[0] += f", after {warmup} env steps in which the critic learns alone"
    last = max((group.begins_at or 0 for group in groups), default=0)
    if last > warmup:
        late = "" if last < budget else "; WARNING: the budget ends before that"
        lines.append(f"the head learns from {warmup} env steps on, the lowest layer from {last}{late}")
    return lines


def _in_full_precision(saved: SavedPolicy) -> tuple[SavedPolicy, list[str]]:
    """The policy with weights that can learn, and notes on what was done."""
    policy = saved.policy
    if not any(isinstance(layer, CompressedLayer) for layer in policy.network.modules()):
        return saved, []
    notes = ["its compressed layers go on as plain ones in float, with the weights as they are"]
    return replace(saved, policy=with_network(policy, full_precision(policy.network))), notes


def _transfer_notes(fitted: Refit, saved: SavedPolicy) -> list[str]:
    replaced = ", ".join(fitted.replaced) if fitted.replaced else "nothing"
    kept = ", ".join(fitted.kept) if fitted.kept else "nothing"
    untrained = [] if saved.acts else ["its head was never trained: it is of an encoder"]
    return [f"begins from {saved.folder}: kept {kept}; replaced {replaced}", *untrained]


def _without_renormalisation(agent_class: Any, settings: Any, fitted: Refit) -> list[str]:
    """A note where the agent's own policies have batch renormalisation, and the one that it begins from has not."""
    own = issubclass(agent_class, OffPolicy) and agent_class.actor_body(settings).batch_renorm
    if not own or any(layer.kind == "batch_renorm" for layer in fitted.spec.network.layers):
        return []
    return [f"the policy has no batch renormalisation, as those of {agent_class.__name__} have, and goes on without"]


def _load_critic(agent: Any, saved: SavedPolicy, members: Sequence[int]) -> tuple[list[str], bool]:
    """Take the critic over from the checkpoint of the run that the policy is of, where both have one that fits.

    Returns notes on it, and whether the critic is a fresh one.
    """
    if not isinstance(agent, LoadsCritic):
        return [], False
    run = saved.where.parent
    if is_run(run) and saved.folder.name == "policy" and has_checkpoint(folder := RunFolder.open(run)):
        state, _ = load_checkpoint(folder)
        first, count = folder.config["run"]["seed"], folder.config["run"]["seeds"]
        trained = range(first, first + count)  # the policy lacks those that were dropped
        check_saved(state, trained)
        rows = [trained.index(saved.policy.seeds[member]) for member in members]
        reason = agent.load_critic(state["loop"]["agent"], rows)
        if reason is None:
            return ["critic: from the run's checkpoint"], False
        return [f"critic: fresh, since {reason}"], True
    return ["critic: fresh, since only a run's checkpoint holds one"], True


def _teacher(agent: Any, request: Request, spaces: tuple[Space, Space], saved: SavedPolicy) -> Teacher:
    spec = saved.policy.spec
    if (spec.obs_space, spec.action_space) != spaces:
        raise UsageError(
            f"the teacher {saved.folder} acts on {spec.obs_space} with {spec.action_space}, and {request.env.env_id} "
            f"has {spaces[0]} and {spaces[1]}; a teacher needs the same spaces."
        )
    if saved.policy.has_memory and asks_for_hindsight(agent.config):
        raise UsageError(
            f"--hindsight {agent.config.hindsight} gives transitions other goals, and what the teacher {saved.folder} "
            "says of them depends on the goals that it saw before: it has memory. Take one without, or no --hindsight."
        )
    sources, seeds = request.sources, request.training_seeds
    known = set(saved.policy.seeds)
    if sources.teacher_member is None and len(known) > 1 and not known.issuperset(seeds):
        raise UsageError(
            f"the teacher {saved.folder} has the training seeds {_listed(saved.policy.seeds)}, not all of the run's, "
            f"{_listed(seeds)}: take some of those, or one teacher for all with --teacher-member SEED."
        )
    chosen = members_of(saved.policy.seeds, seeds, sources.teacher_member)
    teacher = _picked(saved.policy, chosen, seeds).to(agent.device)
    settings = sources.teacher_weight, sources.teacher_fraction, sources.teacher_temperature
    return Teacher(teacher, agent.policy().head, *settings)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _picked(policy: Policy, members: Sequence[int], seeds: Sequence[int]) -> Policy:
    """A stack of copies of some members, in this order."""
    picked = build_policy(policy.spec, seeds, trust=True)  # these layers are running already
    tensors: dict[str, Tensor] = {name: tensor[list(members)] for name, tensor in policy.state_dict().items()}
    picked.load_state_dict(tensors)
    return picked
