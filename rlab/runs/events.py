"""TensorBoard events: the run under its own name, and with several training seeds each of them below it.

    <run>           the run: with one seed its values, with several their interquartile mean
    <run>/seed-3    one of several seeds
    <run>/hparams   what the HPARAMS tab shows: the settings that tell runs apart, and one number

TensorBoard calls a curve by the folder that its file lies in, so that files lie in the run's folder itself.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlab.door import clean
from rlab.errors import DiskError, RlabError
from rlab.places import warn
from rlab.runs import files
from rlab.runs.appending import Appender, Trouble
from rlab.runs.event_files import VERSION, drop_after, encoded
from rlab.runs.glossary import GLOSSARY

FILES = "events.out.tfevents."  # how the names of event files begin; TensorBoard reads those of a folder by name
SCORE = "return"  # what the HPARAMS tab compares runs by
FILM = "film"
# Charts on the CUSTOM SCALARS tab; tags are regular expressions there.
CHARTS = {
    "eval/return: greedy episodes during training": ["Multiline", ["^eval/return$"]],
    "train/episode_return: the episodes that are learned from": ["Multiline", ["^train/episode_return$"]],
}
_NUMBERS = itertools.count()  # of the files of this process
ENDS = ["eval/return", "eval/return_low", "eval/return_high"]
INTERVAL = {"eval/return: IQM over training seeds, with its 95 % interval": ["Margin", ENDS]}


class EventLog:
    """Writes a run's events. Curves never end a run: what the disk refuses of them is warned of.

    A value for each member goes to the member, and its IQM to the run; a value that all
    members share goes to the run alone. An evaluation adds the ends of its interval as `eval/return_low` and
    `eval/return_high`.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        iqm: Callable[[np.ndarray], float],
        resume_at: int | None = None,
        judged_again: bool = False,
        trouble: Trouble | None = None,
    ) -> None:
        """Open the files.

        Args:
            resume_at: the time behind which everything that an earlier process wrote is dropped.
            judged_again: whether the policy of that time will be judged again.
            trouble: is told where the disk refuses something.
        """
        self._iqm, self._folder, self._resume_at = iqm, folder, resume_at
        self._trouble = trouble or Trouble()
        if resume_at is not None:
            try:
                for place in (folder, *(folder / f"seed-{seed}" for seed in seeds), folder / "hparams"):
                    drop_after(place, resume_at, judged_again)
            except RlabError as error:
                warn(f"{error}. TensorBoard's curves may overlap where the run goes on")
        self._run = _Curves(folder, resume_at, self._trouble)
        # The curves of a single seed would lie on the run's.
        self._members = []
        if len(seeds) > 1:
            self._members = [_Curves(folder / f"seed-{seed}", resume_at, self._trouble) for seed in seeds]
        self._comparison: _Curves | None = None

    def settings(self, settings: Mapping[str, Any], origins: Mapping[str, str], compared: Mapping[str, Any]) -> None:
        """All settings as a table on the TEXT tab, those in `compared` on the HPARAMS tab; the charts of the return.

        No experiment is declared, as torch's own function does: TensorBoard would take the columns of the first one
        that it finds for those of all runs, whatever their agents. Without one it collects them from all runs.
        """
        from torch.utils.tensorboard.summary import custom_scalars, hparams, text

        self._run.summary(text("settings", settings_table(settings, origins)), 0)
        _, session_start, _ = hparams(_hparams(compared), {})
        # In a separate folder: TensorBoard compares runs by every scalar that lies beside the settings.
        self._comparison = _Curves(self._folder / "hparams", self._resume_at, self._trouble)
        self._comparison.summary(session_start, 0)
        charts = CHARTS | INTERVAL if self._members else CHARTS  # one seed has no interval to draw
        self._run.summary(custom_scalars({"Return": charts}), 0)

    def metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Values `[S]` or 0-d; NaN is nothing to show."""
        per_member = {tag: value for tag, value in metrics.items() if value.ndim}
        for index, curves in enumerate(self._members):
            curves.add(env_steps, {tag: value[index] for tag, value in per_member.items()})
        self._run.add(env_steps, {t: self._over_members(v) if v.ndim else v for t, v in metrics.items()})

    def evaluation(
        self, env_steps: int, returns: np.ndarray, lengths: np.ndarray, summary: tuple[float, float, float], final: bool
    ) -> None:
        """Returns and lengths `[S, E]`, and the IQM of the members' mean returns with its interval."""
        kind = "final" if final else "eval"
        mean = returns.mean(axis=1)  # NaN of members that were dropped
        means = {f"{kind}/return": mean, f"{kind}/length": np.where(np.isnan(mean), np.nan, lengths.mean(axis=1))}
        for index, curves in enumerate(self._members):
            curves.add(env_steps, {tag: value[index] for tag, value in means.items()})
        tags = (f"{kind}/return", f"{kind}/return_low", f"{kind}/return_high")
        length = {f"{kind}/length": self._over_members(means[f"{kind}/length"])}
        self._run.add(env_steps, dict(zip(tags, summary, strict=True)) | length)
        if self._comparison is not None:
            # The last one is known by its end: a run that goes on from before is judged again.
            self._comparison.add(env_steps, {SCORE: summary[0]}, list(_session_end().value) if final else [])

    def film(self, env_steps: int, film: bytes, size: tuple[int, int]) -> None:
        """An animated GIF on the IMAGES tab."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # it has no types
        from tensorboard.plugins.image.metadata import create_summary_metadata  # type: ignore[import-untyped]

        height, width = size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=film)
        described = create_summary_metadata(FILM, GLOSSARY[FILM].description)
        self._run.summary(Summary(value=[Summary.Value(tag=FILM, image=image, metadata=described)]), env_steps)

    def close(self) -> None:
        for curves in self._all:
            curves.close()

    @property
    def _all(self) -> "list[_Curves]":
        return [*self._members, self._run, *([] if self._comparison is None else [self._comparison])]

    def _over_members(self, values: np.ndarray) -> float:
        present = values[~np.isnan(values)]
        return float(self._iqm(present)) if present.size else float("nan")


class _Curves:
    """One name in TensorBoard's list of runs: a file of records, written here and not by TensorBoard's own writer,
    whose thread would lose an error of the disk."""

    def __init__(self, folder: Path, resume_at: int | None, trouble: Trouble) -> None:
        self._described: set[str] = set()
        self._folder, self._purged, self._trouble = folder, resume_at, trouble
        self._file: Appender | None = None
        self._open()

    def add(self, env_steps: int, values: Mapping[str, Any], more: Sequence[Any] = ()) -> None:
        """Everything of one row as one event, which is cheaper than one event per tag, and ready-made values."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = [self._value(tag, float(value)) for tag, value in values.items() if not np.isnan(value)]
        shown += more
        if shown:
            self.summary(Summary(value=shown), env_steps)

    def _value(self, tag: str, value: float) -> Any:
        """A point; the first of a tag also writes its meaning, where the glossary has one."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.scalar.metadata import create_summary_metadata  # type: ignore[import-untyped]

        if tag in self._described or tag not in GLOSSARY:
            return Summary.Value(tag=tag, simple_value=value)
        self._described.add(tag)
        described = create_summary_metadata(tag, GLOSSARY[tag].description)
        return Summary.Value(tag=tag, simple_value=value, metadata=described)

    def summary(self, summary: Any, env_steps: int) -> None:
        """A ready-made summary as one event."""
        self._write(step=env_steps, summary=summary)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except DiskError as error:
                warn(f"{error}. The last of TensorBoard's curves is lost")

    def _open(self) -> None:
        """Begin a new file, whose first event hides what earlier ones have after the time of the checkpoint."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]

        try:
            if not os.path.isdir(self._folder):
                files.make_folder(self._folder)
            self._file = Appender(_fresh_file(self._folder), self._trouble)
        except (DiskError, OSError) as error:
            warn(f"{error}. TensorBoard has no curves of this run from here")
            return
        self._write(file_version=VERSION)
        if self._purged is not None:
            self._write(step=self._purged + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **event: Any) -> None:
        if self._file is not None:
            self._file.append(encoded(**event))


def _fresh_file(folder: Path) -> Path:
    """A name after those of all event files in the folder: TensorBoard reads them in the order of their names."""
    known = [int(path.name.removeprefix(FILES)[:10]) for path in folder.glob(f"{FILES}{'[0-9]' * 10}*")]
    second = max([int(time.time()), *(each + 1 for each in known)])
    return folder / f"{FILES}{second:010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"


def settings_table(settings: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """A Markdown table of settings, their values and where each came from."""
    rows = [f"| {_cell(name)} | {_cell(value)} | {_cell(origins.get(name, ''))} |" for name, value in settings.items()]
    return "\n".join(["| setting | value | origin |", "|---|---|---|", *rows])


def _cell(value: Any) -> str:
    return clean(value).replace("|", "\\|").replace("\n", " ")


def _hparams(settings: Mapping[str, Any]) -> dict[str, float | str]:
    """Numbers stay numbers, which get a slider; everything else becomes a word, which gets a box to tick."""
    return {
        name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else clean(value)
        for name, value in settings.items()
    }


def _session_end() -> Any:
    from torch.utils.tensorboard.summary import hparams

    return hparams({}, {})[2]
