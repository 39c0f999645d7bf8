"""The bid path's metrics with their labels resolved beforehand, so that counting costs a dictionary look-up."""

from collections.abc import Iterable
from functools import cache
from itertools import product

from prometheus_client import Counter, Histogram

from dsp.catalog.entities import MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.kernel import metrics
from dsp.kernel.clock import NS_PER_SECOND
from dsp.kernel.metrics import Fallback, Outcome, Stage
from dsp.kernel.tracing import Tracer

#: Stands for every exchange that has no profile, so that a stranger cannot make labels.
UNKNOWN_EXCHANGE = "unknown"
#: Stage durations are observed of one auction in so many.
STAGES_EVERY = 8


class Tally:
    """Counts requests, reasons and stages, and knows who traces some of them. One instance per process."""

    def __init__(self, exchanges: Iterable[str], tracer: Tracer | None = None) -> None:
        self.tracer = tracer
        names = [*exchanges, UNKNOWN_EXCHANGE]
        self._outcomes: dict[tuple[str, Outcome], Counter] = {
            (name, outcome): metrics.BID_REQUESTS.labels(name, outcome.value) for name in names for outcome in Outcome
        }
        self._durations: dict[str, Histogram] = {name: metrics.BID_DURATION.labels(name) for name in names}
        self._late: dict[str, Counter] = {name: metrics.BIDS_LATE.labels(name) for name in names}
        self._stages: dict[Stage, Histogram] = {
            stage: metrics.BID_STAGE_DURATION.labels(stage.value) for stage in Stage
        }
        self._auctions = 0
        self._reason = cache(metrics.NO_BIDS.labels)
        self._bid = cache(metrics.BIDS.labels)
        for fallback in Fallback:
            metrics.PREDICT_FALLBACKS.labels(fallback.value)
        for call, fault in product(("get", "expose", "respond"), ("timeout", "unavailable")):
            metrics.USER_FAULTS.labels(call, fault)
        for result in ("scored", "failed"):
            metrics.SHADOW_SCORED.labels(result)
        for name in names:
            for reason in Exclusion:
                self._reason(name, reason.value)
            for media in MediaFormat:
                self._bid(name, media.value)

    def answered(self, exchange: str, outcome: Outcome, seconds: float) -> None:
        """Count one answered request."""
        self._outcomes[exchange, outcome].inc()
        self._durations[exchange].observe(seconds)

    def no_bid(self, exchange: str, reason: str) -> None:
        """Count one request or impression without a bid; `reason` comes from our code, never from a request."""
        self._reason(exchange, reason).inc()

    def bid(self, exchange: str, media: str) -> None:
        """Count one bid sent."""
        self._bid(exchange, media).inc()

    def late(self, exchange: str) -> None:
        """Count one answer that was ready too late."""
        self._late[exchange].inc()

    def stages(self, parts: Iterable[tuple[Stage, int, int]]) -> None:
        """Observe the stages' durations of one auction in `STAGES_EVERY`; each histogram has its cost."""
        self._auctions += 1
        if self._auctions % STAGES_EVERY:
            return
        totals: dict[Stage, int] = {}
        for stage, began_ns, ended_ns in parts:  # several of a stage, and of an impression
            totals[stage] = totals.get(stage, 0) + ended_ns - began_ns
        for stage, nanoseconds in totals.items():
            self._stages[stage].observe(nanoseconds / NS_PER_SECOND)

    def invalid(self, exchange: str, reason: str) -> None:
        """Count a request refused before any auction."""
        self._outcomes[exchange, Outcome.INVALID].inc()
        self._reason(exchange, reason).inc()

    def refused(self, reason: str) -> None:
        """Count a request on the bid port that belongs to no exchange."""
        self.invalid(UNKNOWN_EXCHANGE, reason)
