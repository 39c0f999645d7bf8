"""The terms a line item or campaign runs under: goal, budget, flight, dayparts, pacing, frequency caps."""

from enum import StrEnum

import msgspec

from dsp.kernel.money import Micros


class GoalKind(StrEnum):
    """What the advertiser pays attention to; it decides how an impression is valued."""

    CPM = "cpm"
    CPC = "cpc"
    CPA = "cpa"
    ROAS = "roas"


class Goal(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A constraint on the average: as much as possible is bought as long as a unit costs at most its target.

    `target_micros` is the cost of a thousand impressions (CPM), a click (CPC) or a conversion (CPA); for ROAS it is the
    conversion value that one unit of money must bring at least, so that 4_000_000 is 400 %.
    """

    kind: GoalKind
    target_micros: Micros


class Budget(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """Hard bounds on spend in micros of the book's currency; None means no bound of that kind."""

    daily_micros: Micros | None = None
    total_micros: Micros | None = None


class Flight(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """When it runs: milliseconds since the epoch, UTC; end exclusive; None means open."""

    start_ms: int
    end_ms: int | None = None

    def within(self, other: "Flight") -> "Flight":
        """Return what it shares with another; that ends no later than it begins where they share nothing."""
        ends = [flight.end_ms for flight in (self, other) if flight.end_ms is not None]
        return Flight(start_ms=max(self.start_ms, other.start_ms), end_ms=min(ends, default=None))


class Daypart(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """Hours of a weekday (Monday is 0) in the advertiser's time zone; `end_hour` is exclusive, 1 to 24."""

    weekday: int
    start_hour: int
    end_hour: int


class PacingMode(StrEnum):
    """How spend spreads over the flight or day."""

    EVEN = "even"
    AHEAD = "ahead"
    ASAP = "asap"


#: A cap counts what is remembered of a user, and that is bounded.
CAP_IMPRESSIONS_MAX = 1_000


class FrequencyCap(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """At most `impressions` per user within any `window_seconds`."""

    impressions: int
    window_seconds: int
