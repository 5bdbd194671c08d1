"""Fine-tuning strategies: which layers of a policy that was trained elsewhere learn, when, and how fast."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.adapters import LORA_LAYERS, with_lora
from rlab.learning.finetune_config import FinetuneConfig
from rlab.learning.layer_transfer import NORMS, WEIGHTLESS, Refit, refit_policy
from rlab.learning.parameter_groups import ParameterGroup
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.merging import merge_policy
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.spaces import Space
from rlab.networks.spec import NetworkSpec
from rlab.types import Json


def refit(
    source: PolicySpec,
    obs_space: Space,
    action_space: Space,
    head: Json,
    heads: Sequence[str],
    config: FinetuneConfig,
    *,
    log_std: float | None = None,
    output_gain: float | None = None,
) -> Refit:
    """The source's policy for these spaces, with adapters where the strategy is `lora`; see `refit_policy`.

    Layers that are fresh get no adapter: they are trained in full.

    Raises:
        UsageError: as `refit_policy`, or the network has fewer layers than `last-K` names, or less rank than LoRA asks.
    """
    found = refit_policy(source, obs_space, action_space, head, heads, log_std, output_gain)
    layers = len(layers_of(found.spec.network))
    if config.last is not None and config.last > layers:
        raise UsageError(f"strategy {config.strategy}: the network has {layers} layers; last-{layers} is all of them.")
    if config.strategy != "lora":
        return found
    network = with_lora(found.spec.network, config.lora_rank, config.lora_alpha, found.fresh)
    return replace(found, spec=replace(found.spec, network=network))


def kept_tensors(source: Policy, refit: Refit, member_of: Sequence[int]) -> dict[str, Tensor]:
    """What the source gives to a policy of `refit.spec`, by name in the state dict; member i's from its own member
    `member_of[i]`. A copy."""
    old = merge_policy(source)
    kept = refit.kept if "preprocess" in refit.fresh else (*refit.kept, "preprocess")
    members = torch.as_tensor(member_of)
    return {
        name: tensor[members.to(tensor.device)]
        for name, tensor in old.state_dict().items()
        if name.startswith(tuple(f"{layer}." for layer in kept))
    }


def transfer(source: Policy, target: Policy, refit: Refit, member_of: Sequence[int]) -> None:
    """Copy all that is kept into `target`, a policy of `refit.spec`: member i's from the source's `member_of[i]`.

    The statistics of the observations come along where the observation space is the same.
    """
    target.load_state_dict(kept_tensors(source, refit, member_of), strict=False)


def members_of(source_seeds: Sequence[int], run_seeds: Sequence[int], chosen: int | None = None) -> list[int]:
    """Which member of the source each member of a run begins from, by place.

    The one with training seed `chosen` for all; without it the one with the same training seed; or the only one.

    Raises:
        UsageError: none of these is possible.
    """
    source, run = (", ".join(map(str, seeds)) for seeds in (source_seeds, run_seeds))
    if chosen is not None:
        if chosen not in source_seeds:
            raise UsageError(f"the source has no member with training seed {chosen}; it has {source}.")
        return [source_seeds.index(chosen)] * len(run_seeds)
    if set(run_seeds) <= set(source_seeds):
        return [source_seeds.index(seed) for seed in run_seeds]
    if len(source_seeds) == 1:
        return [0] * len(run_seeds)
    raise UsageError(
        f"the run's training seeds {run} are not all among the source's, {source}: take some of those, or one for all "
        f"with --member SEED."
    )


def layers_of(network: NetworkSpec) -> list[tuple[int, ...]]:
    """The layers that strategies speak of, from the input up: the indices of what belongs together.

    Each linear layer or convolution, with the normalisation behind it; the first one also with that before it. The last
    is the head, with its log standard deviations; the streams of `dueling` are one head.
    """
    found: list[tuple[int, ...]] = []
    first: tuple[int, ...] = ()
    for index, layer in enumerate(network.layers):
        if layer.kind in (*NORMS, "log_std"):
            if found:
                found[-1] = (*found[-1], index)
            else:
                first = (*first, index)
        elif layer.kind not in WEIGHTLESS:
            found.append((*first, index))
            first = ()
    return found


def parameter_groups(
    networks: Mapping[str, nn.Module], policy_network: str, refit: Refit, config: FinetuneConfig
) -> list[ParameterGroup]:
    """Everything that is trained, in groups for optimizers: first the policy's layers, then the other networks.

    Layers that begin at the same time with the same rate are one group, named after all of them: `actor.0,2` or, where
    the strategy makes no difference between layers, `actor`. Other networks always learn. Fresh layers learn from the
    start at the full rate, whatever the strategy; with LoRA so do log standard deviations, which have no adapter.

    Args:
        networks: by name; `networks[policy_network]` is one of `refit.spec`.

    Raises:
        UsageError: a warm-up of the critic is requested, and the policy's network is the only one.
    """
    others = {name: network for name, network in networks.items() if name != policy_network}
    if config.critic_warmup and not others:
        raise UsageError("critic_warmup needs an agent with a critic beside its policy; leave it at 0.")
    labels: dict[_Plan, list[str]] = {}
    parameters: dict[_Plan, list[nn.Parameter]] = {}
    for name, parameter in networks[policy_network].named_parameters():
        label, plan = _plan_of(name, networks[policy_network], refit, config)
        if label not in labels.setdefault(plan, []):
            labels[plan].append(label)
        parameters.setdefault(plan, []).append(parameter)
    groups = []
    for plan, found in parameters.items():
        name = policy_network if len(parameters) == 1 else f"{policy_network}.{','.join(labels[plan])}"
        begins_at = None if plan.begins_at is None else max(plan.begins_at, config.critic_warmup or 0)
        groups.append(ParameterGroup(name, tuple(found), plan.factor, begins_at))
    return [*groups, *(ParameterGroup(name, tuple(network.parameters())) for name, network in others.items())]


def freeze_statistics(network: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Let batch renormalisation in layers that never learn keep the statistics that it has. Those in layers that begin
    later follow from the start."""
    never = {id(parameter) for group in groups if group.begins_at is None for parameter in group.parameters}
    for layer in network.modules():
        if isinstance(layer, BatchRenorm):
            layer.frozen = id(layer.weight) in never


def trainable_share(groups: Sequence[ParameterGroup], network: nn.Module) -> float:
    """The parameters of `network` that ever learn, as a share of those that full fine-tuning would train.

    Adapters count as trained; what they stand beside is the whole.
    """
    own = {id(parameter) for parameter in network.parameters()}
    trained = [p for group in groups if group.begins_at is not None for p in group.parameters if id(p) in own]
    adapters = [p for name, p in network.named_parameters() if _is_adapter(network, name)]
    whole = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in adapters)
    return sum(p.numel() for p in trained) / whole


@dataclass(frozen=True)
class _Plan:
    """How a layer learns."""

    factor: float = 1.0  # of the learning rate
    begins_at: int | None = 0  # env steps; None: never


def _plan_of(parameter: str, network: nn.Module, refit: Refit, config: FinetuneConfig) -> tuple[str, _Plan]:
    """The label and the plan of one parameter of the policy's network, such as `4.value.0.weight`."""
    layers = layers_of(refit.spec.network)
    place = next(i for i, layer in enumerate(layers) if int(parameter.partition(".")[0]) in layer)
    label = str(layers[place][0])
    if config.strategy == "lora":
        if _is_adapter(network, parameter):
            return "lora", _Plan()
        if _is_within(f"network.{parameter}", refit.fresh) or parameter.endswith(".log_std"):
            return label, _Plan()
        return "base", _Plan(begins_at=None)
    fresh = any(_is_within(name, [f"network.{index}" for index in layers[place]]) for name in refit.fresh)
    return label, _Plan() if fresh else _plan_at(len(layers) - 1 - place, config)


def _plan_at(depth: int, config: FinetuneConfig) -> _Plan:
    """The plan of a layer that is taken over, `depth` layers below the head."""
    if config.last is not None:
        return _Plan(begins_at=0 if depth < config.last else None)
    if config.strategy == "gradual":
        return _Plan(begins_at=depth * config.unfreeze_every)
    return _Plan(factor=config.layer_decay**depth if config.strategy == "discriminative" else 1.0)


def _is_within(name: str, modules: Collection[str]) -> bool:
    """Whether `name` is one of these modules or inside one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _is_adapter(network: nn.Module, parameter: str) -> bool:
    module, _, name = parameter.rpartition(".")
    return name in ("down", "up") and isinstance(network.get_submodule(module), LORA_LAYERS)
