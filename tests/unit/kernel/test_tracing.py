"""Which requests are traced, and what their spans say."""

from collections import Counter

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from dsp.kernel.clock import NS_PER_MS, ManualClock
from dsp.kernel.tracing import FAILURES_PER_SECOND_MAX, Finished, Parent, Tracer, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [(f"00-{TRACE}-{SPAN}-01", True), (f"00-{TRACE}-{SPAN}-00", False), (f"cc-{TRACE}-{SPAN}-09-more", True)],
)
def test_a_traceparent_is_read(header: str, sampled: bool) -> None:
    assert parent_of(header.encode()) == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "header",
    [
        "", "rubbish", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01\n", f"00-{TRACE}-{SPAN}-0\xe9",
    ],
)  # fmt: skip
def test_what_breaks_the_specification_names_nobody(header: str) -> None:
    assert parent_of(header.encode()) is None


def tracer(share: float, clock: ManualClock | None = None) -> tuple[Tracer, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracer(provider, share, clock or ManualClock()), exporter


def test_the_caller_decides_then_chance() -> None:
    sampled, unsampled = Parent(1, 2, True), Parent(1, 2, False)
    never, always, some = tracer(0.0)[0], tracer(1.0)[0], tracer(0.25)[0]
    assert never.wants(sampled, False)
    assert not always.wants(unsampled, False)
    assert always.wants(None, False)
    assert not never.wants(None, False)
    wanted = sum(some.wants(None, False) for _ in range(4_000))
    assert 800 < wanted < 1_200


def test_failures_are_traced_up_to_a_bound() -> None:
    clock = ManualClock()
    found, _ = tracer(0.0, clock)
    for _ in range(2):  # in each second anew
        counts = Counter(found.wants(Parent(1, 2, False), True) for _ in range(FAILURES_PER_SECOND_MAX + 5))
        assert counts == {True: FAILURES_PER_SECOND_MAX, False: 5}
        clock.advance(1_000)


def test_spans_are_where_the_time_went() -> None:
    clock = ManualClock(1_750_000_000_000)
    found, exporter = tracer(1.0, clock)
    arrived_ns = clock.elapsed_ns()
    times_ms = {"decode": (1, 3), "funnel": (3, 4), "predict": (5, 8), "respond": (8, 9)}  # others had their turn at 4
    parts = [
        (name, arrived_ns + began_ms * NS_PER_MS, arrived_ns + ended_ms * NS_PER_MS)
        for name, (began_ms, ended_ms) in times_ms.items()
    ]
    clock.advance(10)
    parent = parent_of(f"00-{TRACE}-{SPAN}-01".encode())
    finished = Finished("auction", parent, arrived_ns, clock.elapsed_ns(), parts, True, {"dsp.exchange": "x"})
    found.emit(finished)
    *inner, root = exporter.get_finished_spans()
    epoch_ns = 1_750_000_000_000 * NS_PER_MS
    assert (root.name, root.start_time, root.end_time) == ("auction", epoch_ns, epoch_ns + 10 * NS_PER_MS)
    assert root.status.status_code is StatusCode.ERROR
    assert dict(root.attributes or {}) == {"dsp.exchange": "x"}
    assert root.parent is not None
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    assert all(span.parent is not None and span.parent.span_id == root.context.span_id for span in inner)
    times = [(span.start_time, span.end_time) for span in inner if span.start_time and span.end_time]
    found_ms = [((began - epoch_ns) / NS_PER_MS, (ended - epoch_ns) / NS_PER_MS) for began, ended in times]
    assert dict(zip([span.name for span in inner], found_ms, strict=True)) == times_ms


def test_without_a_caller_a_trace_begins() -> None:
    clock = ManualClock()
    found, exporter = tracer(1.0, clock)
    for _ in range(2):
        found.emit(Finished("auction", None, clock.elapsed_ns(), clock.elapsed_ns(), [], False, {}))
    first, second = exporter.get_finished_spans()
    assert first.parent is None
    assert first.context.trace_id != second.context.trace_id
    assert first.status.status_code is StatusCode.UNSET
