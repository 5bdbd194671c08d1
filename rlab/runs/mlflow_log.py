"""Runs in MLflow, on the server or in the database that `MLFLOW_TRACKING_URI` names."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlab.runs.logged_rows import EVALUATION, FINAL, METRICS, NOTHING, LoggedRow, LoggedRun, Mark
from rlab.runs.status import FAILED, FINISHED
from rlab.version import VERSION

AT_ONCE = 1_000  # metrics in a request, and
PARAMS = 100  # settings in one: MLflow takes no more
LONGEST = 6_000  # letters of a setting
KEY = "rlab.key"  # the tag by which a run is found again
# A tag of every row of this kind, by which it is known how far MLflow has a run.
MARKS = {METRICS: "train/updates", EVALUATION: "eval/return", FINAL: "final/return"}
# A server that is gone should cost seconds: MLflow would try for minutes. What the user has set stays.
WAITING = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",  # which is drawn from Python's global generator
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which --json has for itself
}


class MLflowLog:
    """A run there; see `Service`. It is no active run of the calling program, whose own runs go on as they were."""

    name, title = "mlflow", "MLflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._run_id = ""
        self._set: list[str] = []  # environment variables that were not set before

    def check(self) -> None:
        try:
            self._connected().search_experiments(max_results=1)
        finally:
            self._forget()

    def begin(self, run: LoggedRun) -> tuple[Mark, str]:
        client = self._connected()
        experiment = self._experiment(run)
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
            mark = self._received()
        else:
            self._run_id, mark = self._begun(run, experiment), NOTHING
        where = f"{client.tracking_uri}, experiment {client.get_experiment(experiment).name}, run {run.name}"
        if client.tracking_uri.startswith("http"):
            where = f"{client.tracking_uri}/#/experiments/{experiment}/runs/{self._run_id}"
        return mark, where

    def send(self, rows: Sequence[LoggedRow]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch: list[Metric] = []
        for row in rows:
            # The one by which a row is known comes last: a row that does not fit into one request is whole once it is.
            tags = sorted(row.values, key=lambda tag: tag == MARKS[row.mark[1]])
            metrics = [Metric(_name(tag), row.values[tag], now, row.time) for tag in tags]
            if len(batch) + len(metrics) > AT_ONCE:
                self._log(batch)
                batch = []
            batch += metrics
        self._log(batch)

    def end(self, status: str, files: Mapping[str, Path]) -> None:
        for place, path in files.items():
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), place)
            else:
                self._client.log_artifact(self._run_id, str(path))
        self._client.set_tag(self._run_id, "rlab.status", status)
        ending = {FINISHED: "FINISHED", FAILED: "FAILED"}.get(status, "KILLED")
        self._client.set_terminated(self._run_id, ending)
        self._forget()

    def _connected(self) -> Any:
        fresh = [name for name in WAITING if name not in os.environ]
        os.environ.update({name: WAITING[name] for name in fresh})
        self._set += fresh  # beside those of an attempt that failed
        from mlflow import MlflowClient

        self._client = MlflowClient()
        return self._client

    def _forget(self) -> None:
        for name in self._set:
            os.environ.pop(name, None)
        self._set = []

    def _experiment(self, run: LoggedRun) -> str:
        """The id of the experiment, which is made where there is none."""
        chosen = os.environ.get("MLFLOW_EXPERIMENT_ID") if run.project is None else None
        if chosen is not None:
            return chosen
        name = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "rlab"
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _begun(self, run: LoggedRun, experiment: str) -> str:
        from mlflow.entities import Param

        tags = {
            KEY: run.key,
            "rlab.version": VERSION,
            "rlab.folder": run.folder.name,
            **{f"rlab.{name}": str(run.config[name]) for name in ("agent", "env")},
            "mlflow.source.name": run.command,
            "mlflow.source.type": "LOCAL",
        }
        if run.config.get("commit"):
            tags["mlflow.source.git.commit"] = run.config["commit"]
        run_id = str(self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id)
        params = [Param(_name(name), str(value)[:LONGEST]) for name, value in run.config.items()]
        for first in range(0, len(params), PARAMS):
            self._client.log_batch(run_id, params=params[first : first + PARAMS])
        return run_id

    def _received(self) -> Mark:
        """The last row that the server has."""
        marks = [NOTHING]
        for kind, tag in MARKS.items():
            marks += [(point.step, kind) for point in self._client.get_metric_history(self._run_id, tag)]
        return max(marks)

    def _log(self, metrics: list[Any]) -> None:
        for first in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + AT_ONCE])


def _name(tag: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", tag)
