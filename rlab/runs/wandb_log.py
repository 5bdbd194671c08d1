"""Runs in Weights & Biases: on its server, or offline, for `wandb sync` to send them some day."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlab.runs.logged_rows import NOTHING, LoggedRow, LoggedRun, Mark
from rlab.runs.status import FAILED

KIND = "logged"  # the column that says which kind of row it is; with the clock it is the row's mark
WAITING = 60.0  # seconds for the server, when a run begins


class WandbLog:
    """A run there; see `Service`. It is no active run of the calling program, whose own run goes on as it was.

    On the server a run goes on where it was. Offline nobody can tell how far files were written when a process was
    killed, so that a run that goes on is written anew from what its folder has, in place of those files.
    """

    name, title = "wandb", "W&B"

    def __init__(self) -> None:
        self._run: Any = None
        self._unit = ""

    def check(self) -> None:
        import wandb

        if wandb.setup().settings.mode in ("online", "shared"):
            wandb.login()  # which asks in a terminal; elsewhere it fails where no key is set

    def begin(self, run: LoggedRun) -> tuple[Mark, str]:
        import wandb

        if self._run is not None:  # it has failed: the process that writes its files may be gone
            with suppress(Exception):
                wandb.teardown()
        usual = wandb.setup().settings
        offline = usual.mode in ("offline", "dryrun")
        key = _free_key(Path(usual.wandb_dir), run.key) if offline else run.key
        self._unit = run.unit
        self._run = wandb.init(
            id=key,
            resume="allow",
            reinit="create_new",
            project=run.project or usual.project or "rlab",
            name=usual.run_name or run.name,
            notes=usual.run_notes or run.command,
            tags=[*(usual.run_tags or ()), *run.tags],
            job_type=usual.run_job_type or "train",
            config=run.config,
            allow_val_change=True,
            settings=wandb.Settings(console="off", silent=True, init_timeout=WAITING),
        )
        self._run.define_metric(run.unit, hidden=True)
        self._run.define_metric(KIND, hidden=True)
        self._run.define_metric("*", step_metric=run.unit)
        if offline:
            return NOTHING, f"offline; to send it: wandb sync {self._run.settings.sync_dir}"
        summary = dict(self._run.summary)
        known = {run.unit, KIND} <= summary.keys()
        return (int(summary[run.unit]), int(summary[KIND])) if known else NOTHING, str(self._run.url)

    def send(self, rows: Sequence[LoggedRow]) -> None:
        for row in rows:
            self._run.log({self._unit: row.time, KIND: row.mark[1], **row.values})

    def end(self, status: str, files: Mapping[str, Path]) -> None:
        import wandb

        if "policy" in files:
            kept = wandb.Artifact(f"{self._run.id}-policy", type="model", metadata={"status": status})
            for path in sorted(files["policy"].iterdir()):
                kept.add_file(str(path))
            self._run.log_artifact(kept)
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == FAILED))


def _free_key(root: Path, key: str) -> str:
    """A key for files of a run: the run's own once those that a process left before are deleted; another one where
    they were sent already."""
    earlier = sorted(root.glob(f"offline-run-*-{key}*"))
    sent = [folder for folder in earlier if any(folder.glob("*.wandb.synced"))]
    for folder in earlier:
        if folder not in sent and not folder.is_symlink():
            shutil.rmtree(folder)
    return f"{key}-{len(sent) + 1}" if sent else key
