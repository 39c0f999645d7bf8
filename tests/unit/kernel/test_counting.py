"""Plain counting says to a scrape what Prometheus's own would."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from dsp.kernel.counting import LoopCounter, LoopHistogram
from dsp.kernel.metrics import LATENCY_BUCKETS  # the module also turns series with creation times off

VALUES = (0.0, *LATENCY_BUCKETS, 0.10001, 7.0)


@pytest.mark.parametrize("labels", [(), ("kind",)])
def test_a_scrape_sees_no_difference(labels: tuple[str, ...]) -> None:
    texts = []
    for counter_class, histogram_class in ((Counter, Histogram), (LoopCounter, LoopHistogram)):
        registry = CollectorRegistry()
        counter = counter_class("c", "Counts.", labels, registry=registry)
        histogram = histogram_class("h", "Observes.", labels, buckets=LATENCY_BUCKETS, registry=registry)
        if labels:
            counter.labels("idle")
            counter, histogram = counter.labels("busy"), histogram.labels("busy")
        for value in VALUES:
            counter.inc(value)
            histogram.observe(value)
        counter.inc()
        texts += [generate_latest(registry), generate_latest(registry)]
    assert texts[0] == texts[2]
    assert texts[2] == texts[3]  # looking changes nothing
