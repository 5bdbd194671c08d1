"""Opening what was saved: `rlab.load`, and a policy with the env that it was trained in."""

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.compression.export.runtimes import SUFFIXES
from rlab.envs import EnvLike, EnvSpec, EpisodeMaker, given_again
from rlab.errors import RlabError, UsageError
from rlab.jobs.aliases import answering
from rlab.jobs.foreign_code import check_trust
from rlab.jobs.request import stated
from rlab.learning.dropping import Dropped
from rlab.networks.own import Builder, standing_in
from rlab.networks.policy import MemberPolicy, Policy
from rlab.runs.folder import RunFolder, is_run
from rlab.runs.policies import LoadedPolicy, load_policy
from rlab.runs.policy_folder import POLICY
from rlab.runs.registry import policy_path
from rlab.runs.versions import read_version
from rlab.trust import Trust, in_force

# Settings that decide what the values of a trained network mean, and the loss on demonstrations where it has one.
TRAINED_WITH = (
    *("gamma", "demonstration_loss", "demonstration_weight", "margin"),
    *("munchausen", "munchausen_alpha", "munchausen_temperature", "munchausen_clip"),
)


@dataclass(frozen=True)
class SavedPolicy:
    """What a policy folder holds, with its env ready to be made."""

    policy: Policy
    agent: str
    env: EnvSpec
    folder: Path  # as it was named
    where: Path  # the same, absolute: an env may change the working folder
    envs: int | None = None  # instances of the env at once, in all; None: as many as serve
    dropped: tuple[Dropped, ...] = ()  # members that its run went on without, which are not in it
    trained_with: dict[str, Any] = field(default_factory=dict)  # of a compressed one: see `trained_with`

    @property
    def acts(self) -> bool:
        """Whether the policy was trained to act: an encoder trains the body alone."""
        return self.agent != "encoder"

    @property
    def make_episodes(self) -> EpisodeMaker:
        """Makes n envs for evaluation."""
        return EpisodeMaker(self.env, self.envs)


@answering
def load(
    path: str | PathLike[str],
    seed: int | None = None,
    trust: Trust = False,
    *,
    sample_seed: int = 0,
    network: Builder | None = None,
) -> MemberPolicy:
    """The policy of one member of a run or policy folder, as plain `torch.nn` modules on the CPU.

    `policy(obs)` takes `[*obs]` or `[B, *obs]`: NumPy gives NumPy, which `env.step` accepts, and torch gives torch.
    `policy(obs, greedy=False)` samples as in training; `policy.reseed(7)` starts the random stream of
    seed 7 again.

    Args:
        path: a run or policy folder, or the name of a published policy, such as `cartpole@best`.
        seed: the training seed of the member; None takes the first.
        sample_seed: of the stream that `greedy=False` draws from: the same seed gives the same actions.
        trust: allow layers written by others, which run their code.
        network: the function that made the network, where only the process that trained could find it.

    Raises:
        RlabError: the folder is missing, broken or not ours.
        UsageError: no member has that training seed.
    """
    with standing_in(network):
        policy = load_policy(policy_path(path), in_force(trust)).policy.member(seed)
    policy.reseed(sample_seed)
    return policy


def open_policy(run: Any, trust: Trust, env: EnvLike | None = None) -> SavedPolicy:
    """The stack of policies in a run or policy folder.

    Args:
        run: its path, an object that has one, such as a `Run`, or the name of a published policy.
        env: makes the env where only the process that trained in it can, or is another env; None: the one on record.

    Raises:
        UsageError: it is not a folder, or it is an exported file.
        RlabError: the folder is broken, its parent is not a policy, or it names code from outside rlab and `trust` is
            false.
    """
    path = policy_path(run)
    if has_exported_name(path) and Path(path).is_file():
        raise UsageError(
            f"{path} is an exported file, which eval, compare, report and serve take; give a run or policy folder here."
        )
    loaded = load_policy(path, in_force(trust))
    if "env" not in loaded.extra:
        raise RlabError(f"{loaded.folder} does not say which env its policy is for.")
    spec = EnvSpec.from_json(loaded.extra["env"])
    if env is None or spec.local:  # else nothing of what the folder names is made
        check_trust(str(loaded.folder), spec.foreign_modules, trust)
    spec = spec if env is None else given_again(spec, env)
    _check_parent(loaded)
    agent = loaded.extra.get("agent", "unknown")
    dropped = Dropped.from_json(loaded.extra.get("dropped", []), loaded.folder / POLICY)
    recorded = _recorded_settings(loaded)
    return SavedPolicy(loaded.policy, agent, spec, loaded.folder, loaded.folder.absolute(), None, dropped, recorded)


def config_of(saved: SavedPolicy) -> dict[str, Any]:
    """The config of the run that a policy belongs to or was published from; empty where that is not known."""
    version = read_version(saved.folder)
    if version is not None:
        return dict(version.config or {})
    run = saved.folder.parent
    return RunFolder.open(run).config if is_run(run) else {}


def trained_with(saved: SavedPolicy) -> dict[str, Any]:
    """Those of `TRAINED_WITH` that a policy was trained with, which one that is made of it records."""
    known = stated(config_of(saved), "settings") or saved.trained_with
    return {name: known[name] for name in TRAINED_WITH if name in known and _is_recorded(name, known[name])}


def check_can_sample(policy: Any) -> None:
    """Refuse to sample the actions of a policy that knows its best actions alone.

    Raises:
        UsageError: it is an exported file, or its head has no distribution and records no exploration.
    """
    if not isinstance(policy, Policy):
        raise UsageError("an exported file gives greedy actions alone; sample those of the run that it was made of.")
    if not policy.head.explores:
        raise UsageError(
            "this policy records no exploration (epsilon or noise 0): its greedy actions are the only ones. One of Q "
            "values explores from Python: policy(obs, greedy=False, epsilon=0.05)."
        )


def has_exported_name(path: str) -> bool:
    """Whether the name ends as those of exported files do."""
    return Path(path).suffix in SUFFIXES.values()


def _is_recorded(name: str, value: Any) -> bool:
    """Whether this is one of `TRAINED_WITH`, of the kind that rlab's own agents have; others may have another."""
    kinds = (str,) if name == "demonstration_loss" else (bool, int, float)
    return name in TRAINED_WITH and type(value) in kinds


def _recorded_settings(loaded: LoadedPolicy) -> dict[str, Any]:
    recorded = loaded.extra.get("trained_with", {})
    if not isinstance(recorded, dict) or not all(_is_recorded(*item) for item in recorded.items()):
        raise RlabError(
            f"{loaded.folder / POLICY}: 'trained_with' must be settings among {', '.join(TRAINED_WITH)}, not "
            f"{recorded!r:.80}. Was it edited?"
        )
    return dict(recorded)


def _check_parent(loaded: LoadedPolicy) -> None:
    """What a compressed policy says of the one that it was made of: the name of its folder, the checksum of its
    weights."""
    if "parent" not in loaded.extra:
        return
    parent = loaded.extra["parent"]
    whole = (
        isinstance(parent, dict)
        and parent.keys() == {"folder", "weights_sha256"}
        and all(isinstance(value, str) for value in parent.values())
        and parent["folder"]
        and re.fullmatch(r"[0-9a-f]{64}", parent["weights_sha256"])
    )
    if not whole:
        raise RlabError(
            f"{loaded.folder / POLICY}: 'parent' must be the folder name and the weights_sha256 (64 hex digits) of the "
            f"policy that this one was made of, not {parent!r:.80}. Was it edited?"
        )
