"""What the simulated exchange knows to have happened: the counts, the latencies, and every notice it sent."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from dsp.kernel.money import Micros

RECENT_SECONDS = 3.0


class NoticeKey(NamedTuple):
    """What makes a notice the same one, however often it is sent."""

    exchange: str
    auction_id: str
    imp_id: str
    kind: str  # "win" | "bill" | "loss" | "imp" | "click" | "conv"


@dataclass(slots=True)
class Sent:
    """One notice: what it should bill (0 for kinds that bill nothing), and how its sending went."""

    cost_micros: Micros
    attempts: int = 0
    acknowledged: int = 0
    acknowledged_at: float = 0.0  # for the first time, seconds, monotonic


class Answer(NamedTuple):
    """One answered request: when it was sent (seconds, monotonic), and how long the answer took."""

    at: float
    latency_ms: float


@dataclass(slots=True)
class Tally:
    """Counts of one stretch of traffic."""

    requests: int = 0
    responses: int = 0  # with at least one bid
    bids: int = 0
    wins: int = 0
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    late: int = 0
    unsent: int = 0  # requests that were due while too many were unanswered
    failures: Counter[str] = field(default_factory=Counter)  # requests without any answer, by what happened
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    lag_ms_max: float = 0.0  # how far the driver itself fell behind its schedule

    @property
    def failed(self) -> int:
        """Return how many requests got no answer at all."""
        return self.failures.total()

    @property
    def bid_rate(self) -> float:
        """Return the share of requests answered with a bid."""
        return self.responses / self.requests if self.requests else 0.0

    @property
    def win_rate(self) -> float:
        """Return the share of bids that won."""
        return self.wins / self.bids if self.bids else 0.0


class Truth:
    """Everything that happened, by phase and in total; the book is held against it at the end."""

    def __init__(self) -> None:
        self.phases: dict[str, Tally] = {}
        self.notices: dict[NoticeKey, Sent] = {}
        self.never_sent: set[NoticeKey] = set()
        self.recent: deque[Answer] = deque()
        self.failures_at: list[float] = []
        self.tally = self.begin("start")

    def begin(self, phase: str) -> Tally:
        """Start counting a new stretch; answers still on their way are counted where they were asked."""
        self.tally = self.phases.setdefault(phase, Tally())
        return self.tally

    def total(self) -> Tally:
        """Return the sum over all phases."""
        total = Tally()
        for part in self.phases.values():
            for name in (
                "requests",
                "responses",
                "bids",
                "wins",
                "impressions",
                "clicks",
                "conversions",
                "late",
                "unsent",
            ):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.failures += part.failures
            total.statuses += part.statuses
            total.faults += part.faults
            total.latencies_ms += part.latencies_ms
            total.lag_ms_max = max(total.lag_ms_max, part.lag_ms_max)
        return total

    def answered(self, tally: Tally, at: float, latency_ms: float, status: int) -> None:
        """Count one answer."""
        tally.statuses[status] += 1
        tally.latencies_ms.append(latency_ms)
        self.recent.append(Answer(at, latency_ms))
        while self.recent and self.recent[0].at < at - RECENT_SECONDS:
            self.recent.popleft()

    def failed(self, tally: Tally, at: float, fault: Exception) -> None:
        """Count one request that got no answer."""
        tally.failures[type(fault).__name__] += 1
        self.failures_at.append(at)

    def acknowledged(self, *, billing: bool) -> dict[NoticeKey, Sent]:
        """Return the notices that were acknowledged at least once, billing ones or the others."""
        return {
            key: sent for key, sent in self.notices.items() if sent.acknowledged and bool(sent.cost_micros) == billing
        }


def percentiles(values: list[float], *names: str, digits: int) -> dict[str, float]:
    """Return percentiles by their names, "p999" for the share 0.999, rounded; each as `percentile` has it."""
    return {name: round(percentile(values, float(f"0.{name[1:]}")), digits) for name in names}


def percentile(values: list[float], share: float) -> float:
    """Return the first value, in ascending order, that more than this share do not exceed; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
