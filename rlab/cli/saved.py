"""A saved policy with the env that it was trained in."""

from dataclasses import dataclass
from pathlib import Path

from rlab.cli.request import check_trust
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import RlabError
from rlab.experience.contract import EpisodeEnvs
from rlab.networks.policy import Policy
from rlab.runs.policies import load_policy


@dataclass(frozen=True)
class SavedPolicy:
    """What a policy folder holds, with its env ready to be made."""

    policy: Policy
    agent: str
    env: EnvSpec
    folder: Path

    @property
    def acts(self) -> bool:
        """Whether the policy was ever taught to act: an encoder trains the body alone."""
        return self.agent != "encoder"

    def make_episodes(self, n: int) -> EpisodeEnvs:
        """n envs for evaluation."""
        return make_episodes(self.env, n)


def open_policy(path: str, trust: bool) -> SavedPolicy:
    """The stack of policies in a run or policy folder.

    Raises:
        RlabError: the folder is broken, or names code of others and `trust` is false.
    """
    loaded = load_policy(path, trust)
    if "env" not in loaded.extra:
        raise RlabError(f"{loaded.folder} does not say which env its policy is for.")
    env = EnvSpec.from_json(loaded.extra["env"])
    check_trust(str(loaded.folder), env.foreign_modules, trust)
    return SavedPolicy(loaded.policy, loaded.extra.get("agent", "unknown"), env, loaded.folder)
