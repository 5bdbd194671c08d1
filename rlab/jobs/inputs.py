"""What a run begins with and learns from besides its env: a dataset, the policy of another run, a teacher."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlab.compression.quantized_layers import CompressedLayer, full_precision
from rlab.errors import UsageError
from rlab.experience.dataset import Dataset
from rlab.experience.demonstrations import Demonstrations, demonstrations_of
from rlab.experience.minari_files import read_dataset
from rlab.jobs.defaults import data_of
from rlab.jobs.request import Request, Start
from rlab.jobs.saved import SavedPolicy, open_policy
from rlab.learning.common_config import HeldOutConfig, StochasticPolicyConfig
from rlab.learning.contract import Adaptable, LoadsCritic
from rlab.learning.distillation import Teacher
from rlab.learning.finetuning import Refit, members_of, parameter_groups, refit, trainable_share, transfer
from rlab.learning.optimizers import ParameterGroup, regroup
from rlab.learning.sparsity import GradualPruning
from rlab.learning.terms import takes_terms
from rlab.networks.describe import with_network
from rlab.networks.policy import Policy, build_policy
from rlab.networks.spaces import Space
from rlab.runs.checkpoint import has_checkpoint, load_checkpoint
from rlab.runs.folder import RunFolder, is_run
from rlab.runs.policies import save_policy
from rlab.trust import Trust

MOST_WARMUP = 4_000  # env steps of a fresh critic by itself; what experiments/no_dip.py was measured with


@dataclass(frozen=True)
class Sources:
    """All that was asked for, opened; None where it was not."""

    dataset: Dataset | None = None
    start: SavedPolicy | None = None
    teacher: SavedPolicy | None = None

    def keep(self, folder: RunFolder) -> None:
        """Copy the policies into the run, so that it can go on without the runs that they came from."""
        for saved, place in ((self.start, folder.start), (self.teacher, folder.teacher)):
            if saved is not None:
                save_policy(place, saved.policy, {"agent": saved.agent, "env": saved.env.to_json()})


NO_SOURCES = Sources()


def open_sources(request: Request, folder: RunFolder | None = None, trust: Trust = False) -> Sources:
    """Open what a request names; policies from `folder` where the run keeps copies of them.

    Raises:
        UsageError: the agent has no use for a dataset, or cannot do without one.
        RlabError: something that is named is missing or broken.
    """
    _check_dataset(request, data_of(request.agent))
    path = request.sources.dataset
    dataset = None if path is None else read_dataset(path)
    begun = None if request.start is None else request.start.run
    start = _policy(begun, None if folder is None else folder.start, trust)
    teacher = _policy(request.sources.teacher, None if folder is None else folder.teacher, trust)
    return Sources(dataset, start, teacher)


def demonstrations_for(
    sources: Sources, request: Request, obs_space: Space, action_space: Space
) -> tuple[Demonstrations | None, Demonstrations | None]:
    """Each member's demonstrations, and those that are held out to judge it by; None where there are none.

    Raises:
        UsageError: the dataset's spaces are not the env's, it has fewer episodes than were asked for, or a run is to
            stop early by rows that nobody holds out.
    """
    if sources.dataset is None:
        return None, None
    held_out = request.settings if isinstance(request.settings, HeldOutConfig) else None
    fraction = 0.0 if held_out is None else held_out.validation_fraction
    if held_out is not None and held_out.patience is not None and not fraction:
        raise UsageError(
            f"--patience {held_out.patience} counts validations; hold some episodes out: --validation-fraction 0.2"
        )
    sources.dataset.check_fits(obs_space, action_space, request.env.env_id)
    seeds = request.run.training_seeds
    demonstrations = demonstrations_of(sources.dataset, seeds, request.sources.dataset_episodes)
    return demonstrations.split(fraction or 0.0, seeds)


@dataclass(frozen=True)
class Made:
    """An agent with its beginning and its teacher."""

    agent: Any
    said: list[str]  # what there is to say about them, for people
    start: Start | None = None  # what it began with, with what was left open decided
    trainable: float = 1.0  # share of the policy's parameters that ever learn


def make_agent(
    agent_class: Any, request: Request, spaces: tuple[Space, Space], device: torch.device, sources: Sources
) -> Made:
    """The agent that a request asks for.

    Raises:
        UsageError: the agent cannot begin from a policy or take a teacher, or theirs do not suit it.
    """
    seeds, settings = request.run.training_seeds, request.settings
    arguments = (settings, *spaces, seeds, device)
    if request.start is None or sources.start is None:
        made = Made(agent_class(*arguments), [])
    else:
        made = _begun(agent_class, arguments, request.start, sources.start, request.budget)
    if sources.teacher is not None:
        if not takes_terms(agent_class):
            raise UsageError(f"{request.agent} cannot learn from a teacher: its class has no loss terms.")
        made.agent.terms.append(_teacher(made.agent, request, spaces, sources.teacher))
        made.said.append(f"teacher: {request.sources.teacher}")
    if request.run.sparsity:
        GradualPruning.of_policy(request.run.sparsity, made.agent)
    return made


def _begun(agent_class: Any, arguments: Any, start: Start, saved: SavedPolicy, budget: int) -> Made:
    settings, obs_space, action_space, seeds, _ = arguments
    saved, unrounded = _in_full_precision(saved)
    if not isinstance(agent_class, Adaptable) or "start" not in inspect.signature(agent_class).parameters:
        raise UsageError(
            f"{agent_class.__name__} cannot begin from a policy: it needs `heads`, `head_json`, `load_weights` and a "
            "constructor that takes `start` (rlab.learning.contract.Adaptable)."
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
    agent.load_weights({})  # whatever follows the policy, such as a target network, follows
    told, fresh = _adopt_critic(agent, saved, members)
    if start.config.critic_warmup is None:
        warmup = min(MOST_WARMUP, budget // 5) if fresh and saved.acts else 0
        start = replace(start, config=replace(start.config, critic_warmup=warmup))
    first = next(iter(agent.networks))
    groups = parameter_groups(agent.networks, first, fitted, start.config)
    regroup(agent.optimizers, groups)
    share = trainable_share(groups, agent.networks[first])
    said = [*_told(fitted, saved), *unrounded, *told, *_timetable(groups, start, share, budget)]
    return Made(agent, said, start, share)


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
    """The policy with weights that can learn, and what there is to say about it."""
    policy = saved.policy
    if not any(isinstance(layer, CompressedLayer) for layer in policy.network.modules()):
        return saved, []
    said = ["its compressed layers go on as plain ones in float, with the weights as they are"]
    return replace(saved, policy=with_network(policy, full_precision(policy.network))), said


def _told(fitted: Refit, saved: SavedPolicy) -> list[str]:
    replaced = ", ".join(fitted.replaced) if fitted.replaced else "nothing"
    kept = ", ".join(fitted.kept) if fitted.kept else "nothing"
    untrained = [] if saved.acts else ["its head was never trained: it is of an encoder"]
    return [f"begins from {saved.folder}: kept {kept}; replaced {replaced}", *untrained]


def _adopt_critic(agent: Any, saved: SavedPolicy, members: Sequence[int]) -> tuple[list[str], bool]:
    """Take the critic over from the checkpoint of the run that the policy is of, where both have one that fits.

    Returns what there is to say about it, and whether there is one that is fresh.
    """
    if not isinstance(agent, LoadsCritic):
        return [], False
    run = saved.where.parent
    if is_run(run) and saved.folder.name == "policy" and has_checkpoint(folder := RunFolder.open(run)):
        state, _ = load_checkpoint(folder)
        reason = agent.load_critic(state["loop"]["agent"], members)
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
    sources, seeds = request.sources, request.run.training_seeds
    known = set(saved.policy.seeds)
    if sources.teacher_member is None and len(known) > 1 and not known.issuperset(seeds):
        raise UsageError(
            f"the teacher {saved.folder} has the training seeds {_listed(saved.policy.seeds)}, not all of the run's, "
            f"{_listed(seeds)}: take some of those, or one teacher for all with --teacher-member SEED."
        )
    chosen = members_of(saved.policy.seeds, seeds, sources.teacher_member)
    teacher = _picked(saved.policy, chosen, seeds).to(agent.device)
    return Teacher(
        teacher,
        agent.policy().head,
        sources.teacher_weight,
        sources.teacher_fraction,
        sources.teacher_temperature,
    )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _picked(policy: Policy, members: Sequence[int], seeds: Sequence[int]) -> Policy:
    """A stack of copies of some members, in this order."""
    picked = build_policy(policy.spec, seeds, trust=True)  # these layers are running already
    tensors: dict[str, Tensor] = {name: tensor[list(members)] for name, tensor in policy.state_dict().items()}
    picked.load_state_dict(tensors)
    return picked


def _policy(named: str | None, kept: Path | None, trust: Trust) -> SavedPolicy | None:
    if named is None:
        return None
    return open_policy(str(kept) if kept is not None and kept.is_dir() else named, trust)


def _check_dataset(request: Request, data: str) -> None:
    dataset, share = request.sources.dataset, request.sources.demonstration_share
    if data == "dataset" and dataset is None:
        raise UsageError(f"{request.agent} learns from a dataset: name one with --dataset DIR. rlab collect makes one.")
    if data == "rollout" and dataset is not None:
        raise UsageError(f"{request.agent} learns from its own rollouts; --dataset is for agents with a replay.")
    if data == "replay" and (dataset is not None) != (share > 0.0):
        raise UsageError("--dataset and --demonstration-share belong together; the share is that of every batch.")
    if data != "replay" and share > 0.0:
        raise UsageError(f"{request.agent} mixes no replay with demonstrations; leave out --demonstration-share.")
