"""`GET /metrics`: the numbers of a server in Prometheus's words."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from rlab.serving.counts import ROWS, SECONDS
from rlab.serving.shared import Numbers

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()
MOST_FEATURES = 256  # of a model, of which each has a line; of more only the furthest and the number are shown


class Page(Collector):
    """Numbers as Prometheus's client library renders them."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        """All families, in order."""
        yield from self._traffic()
        yield from self._drift()
        yield from self._recorded()

    def _traffic(self) -> Iterable[Metric]:
        named = ["model", "version"]
        requests = CounterMetricFamily(
            "rlab_requests", "Requests, by the status of the response.", labels=[*named, "status"]
        )
        seconds = HistogramMetricFamily(
            "rlab_request_seconds", "From the headers of a request to its answer.", labels=named
        )
        rows = HistogramMetricFamily("rlab_batch_rows", "Observations that were computed together.", labels=named)
        actions = CounterMetricFamily(
            "rlab_actions", "Actions that were answered, by choice and value.", labels=[*named, "choice", "action"]
        )
        for key, counts in self._numbers.counts.items():
            labels = _labels(key)
            for status, count in counts.requests.items():
                requests.add_metric([*labels, status], count)
            if any(counts.seconds):
                seconds.add_metric(labels, _buckets(SECONDS, counts.seconds), counts.seconds_sum)
                rows.add_metric(labels, _buckets(ROWS, counts.rows), counts.rows_sum)
            for action, count in counts.actions.items():
                actions.add_metric([*labels, *action.split()], count)
        return requests, seconds, rows, actions

    def _drift(self) -> Iterable[Metric]:
        named = ["model", "version"]
        compared = CounterMetricFamily("rlab_drift_observations", "Observations that were compared.", labels=named)
        drifting = GaugeMetricFamily("rlab_drift_features", "Features that drift now.", labels=named)
        furthest = GaugeMetricFamily("rlab_drift_score_max", "The largest of all scores.", labels=named)
        alarms = CounterMetricFamily("rlab_drift_alarms", "How often a feature began to drift.", labels=named)
        score = GaugeMetricFamily(
            "rlab_drift_score", "How far a feature is from its record; from 1 on it drifts.", labels=[*named, "feature"]
        )
        shift = GaugeMetricFamily(
            "rlab_drift_shift_std", "Mean less that on record, in its standard deviations.", labels=[*named, "feature"]
        )
        for key, state in self._numbers.drift.items():
            labels = _labels(key)
            compared.add_metric(labels, state.observations)
            alarms.add_metric(labels, state.alarms)
            drifting.add_metric(labels, sum(each.drifting for each in state.features))
            furthest.add_metric(labels, max((each.score for each in state.features), default=0.0))
            for each in state.features if len(state.features) <= MOST_FEATURES else ():
                score.add_metric([*labels, each.name], each.score)
                shift.add_metric([*labels, each.name], each.shift)
        return compared, drifting, furthest, alarms, score, shift

    def _recorded(self) -> Iterable[Metric]:
        found = self._numbers.recorded
        yield CounterMetricFamily("rlab_recorded_observations", "Observations that were recorded.", found.observations)
        yield CounterMetricFamily("rlab_recorded_feedback", "Requests whose outcome was recorded.", found.feedback)
        yield CounterMetricFamily("rlab_recorded_lost", "Lines of a recording that the disk refused.", found.lost)


def render(numbers: Numbers) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(Page(numbers))


def _labels(key: str) -> list[str]:
    name, _, version = key.rpartition("@")
    return [name, version]


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulated, by upper bound."""
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))
