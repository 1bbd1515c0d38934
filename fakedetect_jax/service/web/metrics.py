"""What /metrics says, in the text format of Prometheus."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fakedetect_jax.service.queue.store import Store

KIND = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of the store, and of what this process refused."""

    def __init__(self, store: Store):
        """The store's counts outlive this process."""
        self._store = store
        self.refused: Counter[str] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)  # pyright: ignore[reportArgumentType]

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing ahead of time, so that registering asks no store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families; called by the library."""
        counts = self._store.counts()
        queue = GaugeMetricFamily(
            "fakedetect_jobs", "Jobs that are not over.", labels=["state"]
        )
        queue.add_metric(["waiting"], counts.waiting)
        queue.add_metric(["running"], counts.running)
        yield queue
        making = GaugeMetricFamily(
            "fakedetect_making", "Pages, copies and annotated videos to be made."
        )
        making.add_metric([], counts.making)
        yield making
        accepted = CounterMetricFamily("fakedetect_accepted", "Videos taken in.")
        retries = CounterMetricFamily(
            "fakedetect_retries", "Jobs begun again after their process died."
        )
        outcomes = CounterMetricFamily(
            "fakedetect_outcomes", "Jobs by how they ended.", labels=["outcome"]
        )
        seconds = CounterMetricFamily(
            "fakedetect_phase_seconds", "Seconds spent by phase.", labels=["phase"]
        )
        videos = CounterMetricFamily(
            "fakedetect_phase_videos", "Videos that went through.", labels=["phase"]
        )
        single = {"accepted": accepted, "retries": retries}
        labelled = {"outcome": outcomes, "seconds": seconds, "videos": videos}
        for total in self._store.totals():
            if total.name in single:
                single[total.name].add_metric([], total.value)
            elif total.name in labelled:
                labelled[total.name].add_metric([total.label], total.value)
        yield from (accepted, retries, outcomes, seconds, videos)
        refused = CounterMetricFamily(
            "fakedetect_refused", "Requests refused by this process.", labels=["why"]
        )
        for why, count in self.refused.items():
            refused.add_metric([why], count)
        yield refused
