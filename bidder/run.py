"""One auction under way: what it works on, the money it has reserved, and the notes that become metrics at its end."""

import types
from collections.abc import Generator, Sequence

import msgspec

from bidder.cohort import Cohort
from bidder.offer import Offer
from bidder.state import ServingState
from bidder.tally import Tally
from dsp.kernel.clock import NS_PER_MS, NS_PER_SECOND, Clock, Deadline
from dsp.kernel.metrics import Outcome, Stage
from dsp.kernel.tracing import Finished, Tracer, parent_of
from dsp.openrtb.profile import Profile

#: What was done for a stage, when that began and when it ended, on the monotonic clock.
Part = tuple[Stage, int, int]
#: A request may have one for each impression.
REASONS_TRACED = 8
#: Before a request is decoded it has told no deadline, and nothing asks for it.
_UNTOLD = Deadline(0)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A request as it came in; `arrived_ns` is on the monotonic clock."""

    profile: Profile
    body: bytes
    encoding: str
    arrived_ns: int
    traceparent: bytes = b""  # of a caller that traces, where we do as well


class Run:
    """The mutable part of one auction."""

    __slots__ = (
        "_clock", "_cohort", "_marked_ns", "_spent", "arrival", "deadline", "late", "model_version", "now_ms",
        "outcome", "profile", "reasons", "reserved", "sent", "state",
    )  # fmt: skip

    def __init__(self, arrival: Arrival, state: ServingState | None, clock: Clock, cohort: Cohort) -> None:
        self._clock = clock
        self._cohort = cohort
        self._marked_ns = clock.elapsed_ns()
        self._spent: list[Part] = []
        self.arrival = arrival
        self.profile = arrival.profile
        self.state = state
        self.now_ms = clock.now_ms()
        self.deadline = _UNTOLD
        self.outcome = Outcome.NO_BID
        self.reasons: list[str] = []  # one for each impression without a bid, or one for the whole request
        self.reserved: list[Offer] = []
        self.sent: list[Offer] = []  # of those reserved; the others are withdrawn at the end
        self.late = False
        self.model_version = ""

    def elapsed_ms(self) -> int:
        """Return the monotonic reading of the last mark. An auction reads the clock once a stage."""
        return self._marked_ns // NS_PER_MS

    def left_ms(self) -> float:
        """Return the milliseconds that were left at the last mark until the answer must leave."""
        return self.deadline.left_ms(self._marked_ns)

    @types.coroutine
    def mark(self, stage: Stage) -> Generator[None, None, None]:
        """Charge the time since the last mark to a stage, and let the cohort's other auctions come as far."""
        now_ns = self._clock.elapsed_ns()
        self._spent.append((stage, self._marked_ns, now_ns))
        self._marked_ns = now_ns
        if self._cohort.several:
            yield
            self._marked_ns = self._clock.elapsed_ns()

    def end(self, outcome: Outcome, reason: str = "") -> None:
        """Note how the request ended."""
        self.outcome = outcome
        if reason:
            self.reasons.append(reason)

    def withdrawn(self) -> list[Offer]:
        """Return the offers whose money was reserved and that have not left."""
        if not self.sent:
            return self.reserved
        sent = {offer.facts.bid_id for offer in self.sent}
        return [offer for offer in self.reserved if offer.facts.bid_id not in sent]

    def record(self, tally: Tally) -> None:
        """Turn the notes into metrics."""
        exchange = self.profile.name
        tally.stages(self._spent)
        for reason in self.reasons:
            tally.no_bid(exchange, reason)
        for offer in self.sent:
            tally.bid(exchange, offer.creative.format.value)
        if self.late:
            tally.late(exchange)
        elapsed_ns = self._clock.elapsed_ns() - self.arrival.arrived_ns
        tally.answered(exchange, self.outcome, elapsed_ns / NS_PER_SECOND)
        if tally.tracer is not None:
            self._trace(tally.tracer, self.arrival.arrived_ns + elapsed_ns)

    def _trace(self, tracer: Tracer, ended_ns: int) -> None:
        parent, failed = parent_of(self.arrival.traceparent), self.late or self.outcome is Outcome.ERROR
        if not tracer.wants(parent, failed):
            return
        attributes = {
            "dsp.exchange": self.profile.name,
            "dsp.outcome": self.outcome.value,
            "dsp.reasons": self.reasons[:REASONS_TRACED],
            "dsp.bids": len(self.sent),
            "dsp.late": self.late,
            "dsp.model": self.model_version,
            "dsp.snapshot": self.state.served.snapshot.version if self.state is not None else "",
        }
        tracer.record(
            Finished("auction", parent, self.arrival.arrived_ns, ended_ns, _joined(self._spent), failed, attributes)
        )


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Join parts of one stage between which nobody else had a turn."""
    found: list[Part] = []
    for stage, began_ns, ended_ns in parts:
        joined = bool(found) and found[-1][0] is stage and found[-1][2] == began_ns
        found.append((stage, found.pop()[1] if joined else began_ns, ended_ns))
    return found
