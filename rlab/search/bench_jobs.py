"""The runs of a bench as jobs for an engine, and the results that are made of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlab.engines.job import Event, Job
from rlab.envs import EnvSpec
from rlab.errors import DiskError, RlabError
from rlab.jobs.experiment_files import Experiment
from rlab.jobs.jobs_progress import JobsProgress
from rlab.jobs.recording import final_evaluation
from rlab.jobs.request import Request, train_request
from rlab.jobs.running import begin
from rlab.runs import files
from rlab.runs.folder import RunFolder, is_run
from rlab.search.regression import WORSE, regression
from rlab.search.results import facts_of, result_of, verdicts
from rlab.trust import Trust


@dataclass(frozen=True)
class BenchRequest:
    """What to run, and what becomes of the results."""

    experiments: tuple[Experiment, ...]
    seeds: int | None = None  # a trial with so many, which is not recorded; None: as each file says
    accept_worse: bool = False
    trust: Trust = False

    def run_of(self, experiment: Experiment) -> Request:
        """What an experiment asks to be trained."""
        count = experiment.seeds if self.seeds is None else self.seeds
        settings = {"seed": experiment.seed, "seeds": count, "final_eval_episodes": experiment.episodes}
        env, path = EnvSpec.parse(experiment.env), str(experiment.path)
        return train_request(experiment.agent, env, (), (), path, settings, trust=self.trust)


class BenchJobs:
    """A bench under way: hands jobs to an engine, and makes results of those that have ended.

    Args:
        path: the folder of the bench, which has a run folder and a result for each experiment.
        name: what people call it.
    """

    def __init__(self, request: BenchRequest, path: Path, name: str) -> None:
        self._request, self._path, self._name = request, path, name
        self.shows: JobsProgress | None = None
        self._of: dict[Job, Experiment] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.not_recorded: dict[str, str] = {}
        self.errors: list[RlabError] = []

    @property
    def to_do(self) -> int:
        """How many experiments have no result yet."""
        return sum(not self._kept(each).is_file() for each in self._request.experiments)

    def jobs(self) -> Iterator[Job]:
        """The runs that are still to be trained and judged; what was done before an interruption is taken as it is."""
        for experiment in self._request.experiments:
            kept = self._kept(experiment)
            try:
                if kept.is_file():
                    self._take(experiment, files.read_json(kept))
                    continue
                job = Job(self._folder(experiment), experiment.name)
            except RlabError as error:
                self._fail(experiment, error)
                continue
            self._of[job] = experiment
            yield job

    def hear(self, event: Event) -> None:
        """Note what became of a job."""
        if self.shows is not None:
            self.shows.on_event(event)
        if event.kind != "ended":
            return
        experiment, folder = self._of[event.job], event.job.folder
        if event.text is not None:
            self._fail(experiment, RlabError(event.text))
        elif (judged := final_evaluation(folder)) is not None:
            against = regression(experiment, judged, folder)
            beside = None if against is None else against.to_json(experiment.name)
            result = {**result_of(experiment, facts_of(folder), judged), "regression": beside}
            files.write_json(self._kept(experiment), result)
            self._take(experiment, result)

    def _folder(self, experiment: Experiment) -> RunFolder:
        """The folder of its run, which begins now unless it has begun before."""
        path = self._path / experiment.name
        if is_run(path):
            return RunFolder.open(path)
        return begin(self._request.run_of(experiment), path, self._request.trust)

    def _take(self, experiment: Experiment, result: dict[str, Any]) -> None:
        """A result that is there: record it, unless that is a step back."""
        self.results[experiment.name] = result
        worse = (result["regression"] or {}).get("verdict") == WORSE
        why = None
        if self._request.seeds is not None:
            why = "--seeds was given"
        elif worse and not self._request.accept_worse:
            why = (
                f"the result on record is better and stays; the new one is in {self._name} (--accept-worse records it)"
            )
        else:
            try:
                files.write_json(experiment.result_path, result)
            except DiskError as error:
                why = f"{error}; it is in {self._name}"
        if why is not None:
            self.not_recorded[experiment.name] = why
        if self.shows is not None:
            self.shows.say("\n".join(verdicts(result)))

    def _fail(self, experiment: Experiment, error: RlabError) -> None:
        self.failed[experiment.name] = str(error)
        self.errors.append(error)
        if self.shows is not None:
            self.shows.say(f"{experiment.name}: not run: {error}")

    def _kept(self, experiment: Experiment) -> Path:
        return self._path / f"{experiment.name}.result.json"
