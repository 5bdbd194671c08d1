"""TensorBoard events: one sub-run per training seed and one for the population."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

FLUSH_SECONDS = 10  # how far the page may lag behind the run
QUEUED_EVENTS = 1000  # the writer's thread empties the queue; a short one would make the training loop wait for it
SCORES = ("final/return", "eval/return")  # what the HPARAMS tab compares runs by


class EventLog:
    """Writes `seed-<seed>/` and `population/` under one folder.

    A member's metric goes into its own sub-run, and the IQM over the members into the population's. What has one
    value for all members goes into the population's only. An evaluation adds the ends of its interval as
    `eval/return_low` and `eval/return_high`.
    """

    def __init__(
        self, folder: Path, seeds: Sequence[int], iqm: Callable[[np.ndarray], float], resume_at: int | None = None
    ) -> None:
        """Open the sub-runs; `resume_at` (env steps) hides what an earlier process wrote after that point."""
        self._iqm = iqm
        self._members = [_opened(folder / f"seed-{seed}", resume_at) for seed in seeds]
        self._population = _opened(folder / "population", resume_at)

    def settings(self, settings: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        """The settings as a table on the TEXT tab and as a row on the HPARAMS tab, and the chart of the return."""
        from torch.utils.tensorboard.summary import custom_scalars, hparams

        self._population.add_text("settings", settings_table(settings, origins), 0)
        experiment, session_start, _ = hparams(_hparams(settings), dict.fromkeys(SCORES))
        summaries = [experiment, session_start]
        if len(self._members) > 1:  # one seed has no interval to draw
            chart = ["Margin", ["eval/return", "eval/return_low", "eval/return_high"]]
            summaries.append(custom_scalars({"IQM over training seeds with its 95 % interval": {"eval/return": chart}}))
        for summary in summaries:
            _writer(self._population).add_summary(summary, 0)

    def metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Values `[S]` or 0-d; NaN is nothing to show."""
        per_member = {tag: value for tag, value in metrics.items() if value.ndim}
        for index, writer in enumerate(self._members):
            _add(writer, env_steps, {tag: value[index] for tag, value in per_member.items()})
        everywhere = {tag: self._over_members(value) if value.ndim else value for tag, value in metrics.items()}
        _add(self._population, env_steps, everywhere)

    def evaluation(
        self,
        env_steps: int,
        returns: np.ndarray,
        lengths: np.ndarray,
        summary: tuple[float, float, float],
        final: bool,
    ) -> None:
        """Returns and lengths `[S, E]`, and the IQM of the members' mean returns with its interval."""
        kind = "final" if final else "eval"
        means = {f"{kind}/return": returns.mean(axis=1), f"{kind}/length": lengths.mean(axis=1)}
        for index, writer in enumerate(self._members):
            _add(writer, env_steps, {tag: value[index] for tag, value in means.items()})
        tags = (f"{kind}/return", f"{kind}/return_low", f"{kind}/return_high")
        length = {f"{kind}/length": self._over_members(means[f"{kind}/length"])}
        _add(self._population, env_steps, dict(zip(tags, summary, strict=True)) | length)
        if final:
            self._end_session()

    def flush(self) -> None:
        for writer in (*self._members, self._population):
            writer.flush()

    def close(self) -> None:
        for writer in (*self._members, self._population):
            writer.close()

    def _over_members(self, values: np.ndarray) -> float:
        present = values[~np.isnan(values)]
        return float(self._iqm(present)) if present.size else float("nan")

    def _end_session(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        _, _, session_end = hparams({}, {})
        _writer(self._population).add_summary(session_end, 0)


def settings_table(settings: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """A Markdown table of settings, their values and where each came from."""
    rows = [f"| {_cell(name)} | {_cell(value)} | {_cell(origins.get(name, ''))} |" for name, value in settings.items()]
    return "\n".join(["| setting | value | origin |", "|---|---|---|", *rows])


def _opened(folder: Path, resume_at: int | None) -> "SummaryWriter":
    from torch.utils.tensorboard.writer import SummaryWriter  # here, since listing runs should not wait for torch

    return SummaryWriter(
        str(folder),
        purge_step=None if resume_at is None else resume_at + 1,
        max_queue=QUEUED_EVENTS,
        flush_secs=FLUSH_SECONDS,
    )


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _hparams(settings: Mapping[str, Any]) -> dict[str, float | str]:
    """Numbers stay numbers, which get a slider; everything else becomes a word, which gets a box to tick."""
    return {
        name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
        for name, value in settings.items()
    }


def _add(writer: "SummaryWriter", env_steps: int, values: Mapping[str, Any]) -> None:
    """Everything of one row as one event, which is cheaper than one event per tag."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # it has no types

    shown = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items() if not np.isnan(value)]
    if shown:
        _writer(writer).add_summary(Summary(value=shown), env_steps)


def _writer(writer: "SummaryWriter") -> Any:
    """The file writer inside, which takes ready-made summaries; SummaryWriter itself has no method for them."""
    return writer.file_writer
