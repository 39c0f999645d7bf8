"""Counters and histograms for the hot path: Prometheus's own to whoever scrapes, plain numbers to whoever counts.

They have no lock, so that only one thread may count: the event loop's.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

import prometheus_client
from prometheus_client.samples import Sample


class LoopCounter(prometheus_client.Counter):
    """A counter that costs an addition."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._count = 0.0

    def inc(self, amount: float = 1.0, exemplar: dict[str, str] | None = None) -> None:
        """Add; there are no exemplars."""
        self._count += amount

    def numbers(self) -> list[float]:
        """Return the numbers of a scrape's lines, of one combination of labels."""
        return [self._count]

    def _child_samples(self) -> Iterable[Sample]:
        self._value.set(self._count)
        return super()._child_samples()


class LoopHistogram(prometheus_client.Histogram):
    """A histogram that costs a search and two additions."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._counts = [0] * len(self._upper_bounds)
        self._total = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe one value; there are no exemplars."""
        self._counts[bisect_left(self._upper_bounds, amount)] += 1
        self._total += amount

    def numbers(self) -> list[float]:
        """Return the numbers of a scrape's lines, of one combination of labels: buckets, count and sum."""
        buckets = list(accumulate(self._counts))
        return [*buckets, buckets[-1], self._total]

    def _child_samples(self) -> Iterable[Sample]:
        for bucket, count in zip(self._buckets, self._counts, strict=True):
            bucket.set(count)
        self._sum.set(self._total)
        return super()._child_samples()


Counted = LoopCounter | LoopHistogram
