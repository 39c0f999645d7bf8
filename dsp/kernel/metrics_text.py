"""The metrics as text for Prometheus, made on the event loop in short turns, so that it is nobody's longer wait.

All of it is as prometheus_client writes it. Of what the loop counts, which is most of the lines, only the numbers are
written anew; in a thread the whole took the interpreter's lock in turn with the loop for tens of milliseconds.
"""

import asyncio
from collections.abc import Iterable, Iterator
from time import perf_counter_ns
from typing import cast

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dsp.kernel.counting import Counted

#: Requests that come meanwhile wait for about so long.
TURN_NS = 250_000


class MetricsText:
    """A registry's metrics. What is known of their text is kept: names and labels never change, and are not removed."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._heads: dict[Collector, str] = {}
        self._lines: dict[Counted, list[str]] = {}

    async def render(self) -> bytes:
        """Return what `generate_latest` would, and let the loop do other things meanwhile."""
        pieces: list[str] = []
        until_ns = perf_counter_ns() + TURN_NS
        for piece in self.pieces():
            pieces.append(piece)
            if perf_counter_ns() > until_ns:
                await asyncio.sleep(0)
                until_ns = perf_counter_ns() + TURN_NS
        return "".join(pieces).encode()

    def pieces(self) -> Iterator[str]:
        """Yield the text in short pieces: a family, or one combination of labels of those that the loop counts."""
        for family in list(self._registry._collector_to_names):
            if isinstance(family, Counted):
                yield from self._counted(family)
            else:
                yield _text(family)

    def _counted(self, family: Counted) -> Iterator[str]:
        head = self._heads.get(family)
        if head is None:
            head = self._heads[family] = _text(_Given(family.describe()))
        yield head
        children = family._metrics.values() if family._labelnames else [family]
        for child in cast(list[Counted], list(children)):
            lines = self._lines.get(child)
            if lines is None:
                lines = self._lines[child] = _learn(family, child)
            numbers = map(floatToGoString, child.numbers())
            yield "".join([f"{line} {number}\n" for line, number in zip(lines, numbers, strict=True)])


class _Given:
    """Says what it was given to whoever collects."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _text(collector: Collector) -> str:
    return generate_latest(collector).decode()


def _learn(family: Counted, child: Counted) -> list[str]:
    """Return a child's lines without their numbers."""
    [metric] = family.describe()
    labels = dict(zip(family._labelnames, child._labelvalues, strict=True))
    for suffix, own, value, *_ in child._child_samples():
        metric.add_sample(metric.name + suffix, labels | own, value)
    lines = _text(_Given([metric])).splitlines()
    return [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
