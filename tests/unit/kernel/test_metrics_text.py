"""The text is what prometheus_client would write, and whoever else is on the loop need not wait for all of it."""

import asyncio
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, Metric, generate_latest

from dsp.kernel.counting import LoopCounter, LoopHistogram
from dsp.kernel.metrics import LATENCY_BUCKETS  # the module also turns series with creation times off
from dsp.kernel.metrics_text import TURN_NS, MetricsText

NUMBERS = (0.0, *LATENCY_BUCKETS, 0.1 + 0.2, 7.0, 1e6, 1234567.0, 1e21, 5e-324, float("inf"))
LABELS = ("plain", "", 'quoted "', "back\\slash", "two\nlines", "ünïcode", "1.0 }")


@pytest.mark.parametrize("names", [(), ("kind",), ("b", "a")])
async def test_the_text_is_that_of_prometheus_client(names: tuple[str, ...]) -> None:
    registry = CollectorRegistry()
    Gauge("before", 'Says "this"\nand \\that.', registry=registry).set(-1.5)
    counter = LoopCounter("c_total", 'Counts "these"\nand \\those.', names, registry=registry)
    histogram = LoopHistogram("h_seconds", "Observes.", names, buckets=LATENCY_BUCKETS, registry=registry)
    LoopCounter("untouched", "Counts nothing.", ["kind"], registry=registry)
    Info("build", "Tells.", registry=registry).info({"version": "1"})
    Counter("after", "Counts.", ["kind"], registry=registry).labels("x").inc()
    text = MetricsText(registry)
    assert await text.render() == generate_latest(registry)
    for label in LABELS:  # each is new to what is kept of those before it
        labels = [f"{label}{name}" for name in names]
        for number in NUMBERS:
            (counter.labels(*labels) if names else counter).inc(number)
            (histogram.labels(*labels) if names else histogram).observe(number)
            assert await text.render() == generate_latest(registry)


async def test_the_loop_has_turns_meanwhile() -> None:
    class Slow:
        def __init__(self, number: int) -> None:
            self.name = f"slow_{number}"

        def collect(self) -> Iterable[Metric]:
            seen.append(turns)
            until = loop.time() + 2 * TURN_NS / 1e9
            while loop.time() < until:
                pass
            return [Metric(self.name, "Takes a turn's time.", "gauge")]

        describe = None  # it is not asked for its names beforehand

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    registry, loop = CollectorRegistry(), asyncio.get_running_loop()
    seen: list[int] = []
    turns = 0
    for number in range(3):
        registry.register(Slow(number))
    loop.call_soon(turn)
    await MetricsText(registry).render()
    assert seen[0] < seen[1] < seen[2]
