"""What a run begins with and learns from besides its env: a dataset, the policy of another run, a teacher."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rlab.errors import UsageError
from rlab.experience.dataset import Dataset
from rlab.experience.demonstrations import Demonstrations, demonstrations_of
from rlab.experience.minari_files import read_dataset
from rlab.jobs.defaults import data_of
from rlab.jobs.request import Request
from rlab.jobs.saved import SavedPolicy, open_policy
from rlab.learning.common_config import HeldOutConfig
from rlab.networks.spaces import Space
from rlab.runs.folder import RunFolder
from rlab.runs.policies import save_policy
from rlab.trust import Trust


@dataclass(frozen=True)
class Inputs:
    """All that was asked for, opened; None where it was not."""

    dataset: Dataset | None = None
    start: SavedPolicy | None = None
    teacher: SavedPolicy | None = None

    def keep(self, folder: Path) -> None:
        """Copy the policies into the folder of a run, so that it can go on without the runs that they came from."""
        for saved, name in ((self.start, "start"), (self.teacher, "teacher")):
            if saved is not None:
                save_policy(folder / name, saved.policy, {"agent": saved.agent, "env": saved.env.to_json()})


NO_INPUTS = Inputs()


def open_inputs(request: Request, folder: RunFolder | None = None, trust: Trust = False) -> Inputs:
    """Open what a request names; policies from `folder` where the run keeps copies of them.

    Raises:
        UsageError: the agent cannot use a dataset, or needs one.
        RlabError: something that is named is missing or broken.
    """
    _check_dataset(request, data_of(request.agent))
    path = request.sources.dataset
    dataset = None if path is None else read_dataset(path)
    begun = None if request.start is None else request.start.run
    start = _policy(begun, None if folder is None else folder.start, trust)
    teacher = _policy(request.sources.teacher, None if folder is None else folder.teacher, trust)
    return Inputs(dataset, start, teacher)


def demonstrations_for(
    inputs: Inputs, request: Request, obs_space: Space, action_space: Space, device: torch.device
) -> tuple[Demonstrations | None, Demonstrations | None]:
    """Each member's demonstrations, on the device, and those that are held out to judge it by; None where there are
    none.

    Raises:
        UsageError: the dataset's spaces are not the env's, it has fewer episodes than were asked for, or a run is to
            stop early and holds no rows out.
    """
    if inputs.dataset is None:
        return None, None
    held_out = request.settings if isinstance(request.settings, HeldOutConfig) else None
    fraction = 0.0 if held_out is None else held_out.validation_fraction
    if held_out is not None and held_out.patience is not None and not fraction:
        raise UsageError(
            f"--patience {held_out.patience} counts validations; hold some episodes out: --validation-fraction 0.2"
        )
    inputs.dataset.check_fits(obs_space, action_space, request.env.env_id)
    seeds = request.training_seeds
    demonstrations = demonstrations_of(inputs.dataset, seeds, request.sources.dataset_episodes, device)
    return demonstrations.split(fraction or 0.0, seeds)


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
