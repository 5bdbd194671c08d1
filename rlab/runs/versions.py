"""One version of a published policy: a policy folder, and beside the policy what is known of it.

policy.json, weights   the policy, as it was published
observed.json          what it observed while it was judged, where that was recorded
version.json           what it is, where it comes from, what it returned, and with what it was made
evaluation.json        the returns and lengths of all episodes that it was judged by
README.md              the model card, for people and for the Hugging Face hub
manifest.json          SHA-256 sums of all of these, checked whenever one is read
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from rlab.door import check_counts, clean
from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.folder import SHA256, read_vouched
from rlab.runs.schema import MOST_MEMBERS, MOST_STEPS, check_config

VERSION = "version.json"
EVALUATION = "evaluation.json"
CARD = "README.md"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a model
TRAINED, PRETRAINED, FINE_TUNED, COMPRESSED, TAKEN = "trained", "pretrained", "fine-tuned", "compressed", "taken"
# Everything that the folder of a version may hold, here and on the hub.
OWN = re.compile(
    r"policy\.json|observed\.json|version\.json|evaluation\.json|README\.md|manifest\.json|weights-[0-9a-f]{8}\.safetensors"
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step in the life of a policy."""

    how: str  # trained, pretrained, fine-tuned, compressed or, of one member of several, taken
    name: str | None = None  # of the policy that it was made of; None: of none
    weights_sha256: str | None = None  # of that policy
    version: str | None = None  # NAME@3, where that policy is in the registry, too
    same_members: bool = True  # the member of a training seed was made of the member with that seed
    steps: tuple[str, ...] = ()  # of compression

    def __str__(self) -> str:
        """`fine-tuned from cartpole@2`."""
        how = f"{self.how} ({', '.join(self.steps)})" if self.steps else self.how
        return how if self.name is None else f"{how} from {self.version or self.name}"


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What the policy returned when it was judged."""

    iqm: float  # interquartile mean of the members' mean returns
    ci95: tuple[float, float] | None  # of the IQM for other training seeds; None: one member cannot tell
    ci95_coverage: float | None  # how often such an interval holds the true value, where that is less than 95 %
    episodes_ci95: tuple[float, float] | None  # of these members' mean return for other episodes
    mean: float
    worst_seed: float  # the mean return of the worst member
    episodes: int  # per member
    first_seed: int  # of the episodes; episode k has `first_seed + k`
    greedy: bool = True


@dataclass(frozen=True, kw_only=True)
class Version:
    """What version.json says."""

    name: str
    version: int
    published: str  # UTC, ISO 8601
    source: str  # what it was published from: the name of a run, a folder or another version
    agent: str
    env: Mapping[str, Any]  # the env spec
    seeds: tuple[int, ...]  # training seeds of the members
    dropped: tuple[int, ...]  # training seeds that its run went on without
    unit: str  # env_steps or updates
    time: int | None  # how far it was trained, in that unit and per member; None: not on record
    weights_sha256: str
    lineage: tuple[Step, ...]  # the last step in its life first
    returned: Returned
    config: Mapping[str, Any] | None  # config.json of the run that trained it; None: not known
    computed_with: Mapping[str, Any]  # versions and hardware that it was trained with, or else judged with
    wall_seconds: float | None = None  # that training took, where it is known

    @property
    def label(self) -> str:
        """`cartpole@3`."""
        return f"{self.name}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """The content of version.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path) -> "Version":
        """What `to_json` wrote.

        Raises:
            RlabError: naming the first key that is missing, unknown or of another kind.
        """
        known = {name: value for name, value in data.items() if name != "format"}
        _check(known, VERSION_KINDS, where)
        lineage = tuple(_made(Step, STEP_KINDS, each, where) for each in known["lineage"])
        returned = _made(Returned, RETURNED_KINDS, known["returned"], where)
        for seed in (*known["seeds"], *known["dropped"]):
            check_counts(where, MOST_STEPS, seed=seed)
        check_counts(where, MOST_STEPS, version=known["version"], first_seed=returned.first_seed)
        check_counts(where, MOST_MEMBERS, episodes=returned.episodes)
        if not NAME.fullmatch(known["name"]):
            raise _broken(where, f"{clean(known['name'])!r:.60} cannot be its name")
        if not {step.how for step in lineage} <= {TRAINED, PRETRAINED, FINE_TUNED, COMPRESSED, TAKEN}:
            raise _broken(where, "lineage names a step that this rlab does not know")
        if not lineage or not known["seeds"] or not SHA256.fullmatch(known["weights_sha256"]):
            raise _broken(where, "lineage, seeds and weights_sha256 cannot be empty")
        if not isinstance(known["env"].get("env_id"), str):
            raise _broken(where, "env must name its env_id")
        if known["config"] is not None:
            check_config(known["config"], where)
        of_members = {name: tuple(known[name]) for name in ("seeds", "dropped")}
        return cls(**{**known, **of_members, "lineage": lineage, "returned": returned})


NUMBER = (int, float)
VERSION_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "published", "source", "agent", "unit", "weights_sha256"), (str,)),
    **dict.fromkeys(("seeds", "dropped", "lineage"), (list,)),
    "version": (int,),
    "time": (int, NoneType),
    "wall_seconds": (*NUMBER, NoneType),
    "env": (dict,),
    "returned": (dict,),
    "config": (dict, NoneType),
    "computed_with": (dict,),
}
STEP_KINDS: dict[str, tuple[type, ...]] = {
    "how": (str,),
    "same_members": (bool,),
    "steps": (list,),
    **dict.fromkeys(("name", "weights_sha256", "version"), (str, NoneType)),
}
RETURNED_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("iqm", "mean", "worst_seed"), NUMBER),
    **dict.fromkeys(("ci95", "episodes_ci95"), (list, NoneType)),
    "ci95_coverage": (*NUMBER, NoneType),
    "episodes": (int,),
    "first_seed": (int,),
    "greedy": (bool,),
}


def read_version(folder: Path) -> Version | None:
    """What a policy folder says as a version of a published policy; None where it is not one.

    Raises:
        RlabError: version.json is damaged or was changed.
    """
    path = folder / VERSION
    if not path.is_file():
        return None
    return Version.from_json(files.parse_json(read_vouched(folder, VERSION), path), path)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The evaluation of a version as it was written, see `rlab.jobs.versions`; raises RlabError where it is damaged."""
    return files.parse_json(read_vouched(folder, EVALUATION), folder / EVALUATION)


def _made(kind: Any, kinds: Mapping[str, tuple[type, ...]], data: Any, where: Path) -> Any:
    """A dataclass of plain values; lists become tuples."""
    if not isinstance(data, dict):
        raise _broken(where, f"an object is expected in place of {clean(repr(data)):.60}")
    _check(data, kinds, where)
    for name, value in data.items():
        if name == "steps" and not all(isinstance(each, str) for each in value):
            raise _broken(where, "'steps' must be a list of texts")
        if name.endswith("ci95") and value is not None and [type(each) in NUMBER for each in value] != [True, True]:
            raise _broken(where, f"{name!r} must be the two ends of an interval")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def _check(data: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: Path) -> None:
    for name in sorted(data.keys() ^ kinds.keys()):
        raise _broken(where, f"it {'lacks' if name in kinds else 'cannot have'} {clean(name)!r:.60}")
    for name, value in data.items():
        if type(value) not in kinds[name]:
            raise _broken(where, f"{name!r} cannot be {clean(repr(value)):.60}")


def _broken(where: Path, why: str) -> RlabError:
    return RlabError(f"{where} is not a whole version of a policy: {why}. Was it edited, or written by a newer rlab?")
