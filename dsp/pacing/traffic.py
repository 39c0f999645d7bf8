"""When the impressions come that a line item may bid on: counts by hour of the day, and the curve learned from them.

What is counted is supply, whatever pacing made of it: own spend would only show the plan that it followed.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from dsp.kernel.clock import MS_PER_HOUR

#: The blob under which the traffic worker publishes `Traffic` and the pacing worker follows it.
TRAFFIC_BLOB = "traffic"
HOURS = 24
#: An hour is taken for watched in twelfths: one without a single impression on the whole platform is a hole.
_SLOTS = 12
#: What is left of a count after a day: yesterday weighs as much as all days before it.
_DECAY = 0.5
#: How many impressions of an average hour the assumption weighs that is made before any are counted.
_PRIOR = 30.0

Weights = tuple[float, ...]
_FLAT: Weights = (1.0,) * HOURS


class Supply(msgspec.Struct, kw_only=True):
    """What one line item may bid on, by hour; `missed` is the platform's exposure from before it was known."""

    counts: list[float] = msgspec.field(default_factory=lambda: [0.0] * HOURS)
    missed: list[float] = msgspec.field(default_factory=lambda: [0.0] * HOURS)


class Traffic(msgspec.Struct, kw_only=True):
    """Impressions counted by hour of the day in UTC, older days faded; lists have 24 entries. Mutable: the learner's.

    `watched` is the share of each hour in which the platform saw any traffic, on days before the hour's `days` and
    faded like the counts; `slots` are the bits of those of that day. `position` is where in the log counting goes on.
    """

    position: dict[int, int] = {}
    days: list[int] = msgspec.field(default_factory=lambda: [0] * HOURS)
    slots: list[int] = msgspec.field(default_factory=lambda: [0] * HOURS)
    watched: list[float] = msgspec.field(default_factory=lambda: [0.0] * HOURS)
    platform: list[float] = msgspec.field(default_factory=lambda: [0.0] * HOURS)
    line_items: dict[int, Supply] = msgspec.field(default_factory=dict)

    def know(self, line_item_ids: Iterable[int]) -> None:
        """Count for these line items from now on, and forget all others."""
        known, missed = self.line_items, self.exposure()
        self.line_items = {number: known.get(number) or Supply(missed=list(missed)) for number in line_item_ids}

    def add(self, at_ms: int, line_item_ids: Iterable[int]) -> None:
        """Count one impression that these line items may bid on; one of the day before the hour's last is too late.

        One of an earlier day tells that a clock was ahead and was set right: its day is the hour's last.
        """
        since_epoch, into_hour_ms = divmod(at_ms, MS_PER_HOUR)
        day, hour = divmod(since_epoch, HOURS)
        if day > self.days[hour]:
            self._fade(hour, _DECAY ** (day - self.days[hour]))
        elif day == self.days[hour] - 1:
            return
        self.days[hour] = day
        self.slots[hour] |= 1 << (into_hour_ms * _SLOTS // MS_PER_HOUR)
        self.platform[hour] += 1.0
        for number in line_item_ids:
            if number in self.line_items:
                self.line_items[number].counts[hour] += 1.0

    def exposure(self) -> list[float]:
        """Return how often each hour was watched, in days, older ones faded."""
        return [past + slots.bit_count() / _SLOTS for past, slots in zip(self.watched, self.slots, strict=True)]

    def _fade(self, hour: int, share: float) -> None:
        self.watched[hour] = (self.watched[hour] + self.slots[hour].bit_count() / _SLOTS) * share
        self.slots[hour] = 0
        self.platform[hour] *= share
        for supply in self.line_items.values():
            supply.counts[hour] *= share
            supply.missed[hour] *= share


class Curves:
    """The curves learned from a traffic's counts, each worked out once. Pure; for as long as the counts stay."""

    def __init__(self, traffic: Traffic | None = None, configured: Sequence[float] = ()) -> None:
        """Take the counts, and the curve by local hour that is assumed before there are any; empty means flat."""
        self._traffic = traffic
        self._configured = tuple(configured)
        self._found: dict[tuple[tuple[int, ...], int], Weights] = {}

    def local(self, line_item_ids: Sequence[int], timezone: str, now_ms: int) -> Weights:
        """Return the relative traffic of these line items together, by local hour of the day (24 weights, mean 1).

        Without any counts that is the configured curve, which may be empty.
        """
        if self._traffic is None:
            return self._configured
        offset = datetime.fromtimestamp(now_ms // 1_000, ZoneInfo(timezone)).utcoffset()
        minutes = 0 if offset is None else round(offset.total_seconds() / 60)
        key = (tuple(line_item_ids), minutes)
        if key not in self._found:
            self._found[key] = self._learned(self._traffic, *key)
        return self._found[key]

    def _learned(self, traffic: Traffic, line_item_ids: tuple[int, ...], minutes: int) -> Weights:
        exposure = traffic.exposure()
        assumed = shifted(_normal(self._configured or _FLAT), -minutes)
        _, platform = _posterior(traffic.platform, exposure, assumed)
        together = [0.0] * HOURS
        for supply in [traffic.line_items[number] for number in line_item_ids if number in traffic.line_items]:
            watched = [max(all_ - missed, 0.0) for all_, missed in zip(exposure, supply.missed, strict=True)]
            rate, own = _posterior(supply.counts, watched, platform)
            together = [sum_ + rate * weight for sum_, weight in zip(together, own, strict=True)]
        curve = shifted(_normal(together) if any(together) else platform, minutes)
        # Rounded, so that counts that hardly differ give equal curves, and plans made of them can be remembered.
        return tuple(round(weight, 3) for weight in curve)


def shifted(curve: Weights, minutes: int) -> Weights:
    """Return a curve by the hour (24 weights) as clocks see it that are `minutes` ahead.

    Where they are ahead by parts of an hour, an hour of theirs is made of parts of two.
    """
    found = []
    for hour in range(HOURS):
        first, into = divmod((60 * hour - minutes) % (60 * HOURS), 60)
        found.append((curve[first] * (60 - into) + curve[(first + 1) % HOURS] * into) / 60)
    return tuple(found)


def _posterior(counts: Sequence[float], exposure: Sequence[float], assumed: Weights) -> tuple[float, Weights]:
    """Return (impressions of an average hour, weights by hour) given counts from hours watched for `exposure`.

    Counts are Poisson, the prior of each weight is a Gamma of mean `assumed` that weighs `_PRIOR` impressions of an
    average hour: an hour never watched keeps what was assumed, and one watched in part is scaled up.
    """
    expected = sum(watched * weight for watched, weight in zip(exposure, assumed, strict=True))
    if expected <= 0.0:
        return 0.0, assumed
    rate = sum(counts) / expected
    weights = [
        (count + _PRIOR * weight) / (rate * watched + _PRIOR)
        for count, watched, weight in zip(counts, exposure, assumed, strict=True)
    ]
    return rate, _normal(weights)


def _normal(curve: Sequence[float]) -> Weights:
    """Return 24 weights, not all 0, with a mean of 1."""
    mean = sum(curve) / HOURS
    return tuple(weight / mean for weight in curve)


def encode(traffic: Traffic) -> bytes:
    """Return the blob's bytes (MessagePack)."""
    return msgspec.msgpack.encode(traffic)


def decode(data: bytes) -> Traffic:
    """Return the counts; raises msgspec.DecodeError for bytes that are none."""
    return msgspec.msgpack.decode(data, type=Traffic)
