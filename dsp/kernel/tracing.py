"""Traces of a few requests, by OpenTelemetry: made after the answer, from timings that were taken anyway.

Off, tracing costs its caller one `if`. On, a caller's own sampled trace is continued, else a share of requests is
sampled, and failures are, up to a bound. OpenTelemetry (extra `trace`) is imported when tracing is on.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dsp.kernel.clock import NS_PER_MS, NS_PER_SECOND, Clock
from dsp.kernel.errors import UnavailableError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

#: https://www.w3.org/TR/trace-context/: version, trace id, the caller's span id, flags.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
#: When everything fails, as under overload, tracing all of it would add to the load.
FAILURES_PER_SECOND_MAX = 10
#: Spans that wait for the collector; beyond it they are thrown away.
_SPANS_WAITING_MAX = 2_048
#: A collector that does not answer may keep a process from ending for about so long.
_EXPORT_SECONDS_MAX = 2.0

Attributes = Mapping[str, str | int | bool | Sequence[str]]


class Parent(NamedTuple):
    """The caller's span, as its `traceparent` header names it."""

    trace_id: int
    span_id: int
    sampled: bool


class Finished(NamedTuple):
    """A request that is over: `began_ns` and `ended_ns` on the monotonic clock, as are its parts."""

    name: str
    parent: Parent | None
    began_ns: int
    ended_ns: int
    parts: Sequence[tuple[str, int, int]]  # name, when it began, when it ended
    failed: bool
    attributes: Attributes


def parent_of(traceparent: bytes) -> Parent | None:
    """Return whom a `traceparent` header names; None where it is absent or breaks the specification."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return Parent(trace_id, span_id, bool(flags & _SAMPLED))


class Tracer:
    """Decides what is traced, and hands it over once the event loop is free. One instance per process."""

    def __init__(self, provider: TracerProvider, share: float, clock: Clock) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("dsp")
        self._share = share
        self._clock = clock
        self._failures = 0
        self._second = 0

    def wants(self, parent: Parent | None, failed: bool) -> bool:
        """Return whether a request is to be traced: as the caller decided, else by chance; failures in any case."""
        if failed:
            return self._one_more_failure()
        return parent.sampled if parent is not None else random.random() < self._share  # noqa: S311 - a sample

    def record(self, finished: Finished) -> None:
        """Make the spans on the event loop's next turn, when the answer has left."""
        asyncio.get_running_loop().call_soon(self.emit, finished)

    def emit(self, finished: Finished) -> None:
        """Make one span of a request and one of each part."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        epoch_ns = self._clock.now_ms() * NS_PER_MS - self._clock.elapsed_ns()
        span = self._tracer.start_span(
            finished.name,
            _context(finished.parent),
            SpanKind.SERVER,
            finished.attributes,
            start_time=finished.began_ns + epoch_ns,
        )
        inside = set_span_in_context(span)
        for name, began_ns, ended_ns in finished.parts:
            self._tracer.start_span(name, inside, start_time=began_ns + epoch_ns).end(ended_ns + epoch_ns)
        if finished.failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(finished.ended_ns + epoch_ns)

    async def close(self) -> None:
        """Send what is left, for a bounded time."""
        await asyncio.to_thread(self._provider.shutdown)

    def _one_more_failure(self) -> bool:
        second = self._clock.elapsed_ns() // NS_PER_SECOND
        if second != self._second:
            self._second, self._failures = second, 0
        self._failures += 1
        return self._failures <= FAILURES_PER_SECOND_MAX


def connect(url: str, share: float, clock: Clock, service: str, instance: str) -> Tracer:
    """Return a tracer that sends to an OTLP/HTTP collector, e.g. http://collector:4318/v1/traces.

    Raises:
        UnavailableError: the extra `trace` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as fault:
        raise UnavailableError("tracing needs OpenTelemetry: install the extra `trace`") from fault
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": instance}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=url, timeout=_EXPORT_SECONDS_MAX)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_SPANS_WAITING_MAX))
    return Tracer(provider, share, clock)


def _context(parent: Parent | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    # Whether to trace has been decided already, for failures against the caller.
    caller = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(caller), Context())
