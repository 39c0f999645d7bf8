"""What the online learner waits for: bids that may become impressions, impressions that may be clicked, clicks that may
convert; and what each teaches once it is due. No I/O.

All times are the event log's stamps. What is read again after a kill therefore falls due as it did before, and lessons
that fell due by `resumed_ms` are not given twice: nothing needs to remember which impressions were learned.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec

#: A bid that nobody has told to be seen is forgotten after the one, an impression so long after it was learned.
BID_MS = 300_000
IMPRESSION_MS = 1_800_000
#: A click counts as a part of one without a conversion at each of these ages.
AGES_MS = (60_000, 300_000, 1_800_000, 7_200_000, 28_800_000, 86_400_000, 259_200_000, 604_800_000)
#: Of what may be waited for, the share that clicks may be: they are kept in the state.
_CLICKS_SHARE = 10
#: What is believed of conversions before there are any: so many of a click, spread evenly over the steps of age, as if
#: so many clicks had shown it.
_RATE = 0.05
_CLICKS = 20.0


class Target(Enum):
    """What a lesson is about."""

    CLICK = "ctr"
    CONVERSION = "cvr"


class Row(NamedTuple):
    """The features of a bid as the log has them."""

    request: bytes
    ad: bytes


class Lesson(NamedTuple):
    """One row's responses, and the share of an impression (or click) that they are of: models.training.ftrl.Lessons."""

    target: Target
    row: Row
    share: float
    responses: float


@dataclass(slots=True)
class Counts:
    """What became of what was read."""

    learned: int = 0  # impressions
    clicked: int = 0
    late: int = 0  # clicks among these that came after their impression had been learned
    converted: int = 0
    unmatched: int = 0  # impressions whose bid, with features of ours, the log did not have
    forgotten: int = 0  # bids, impressions and clicks for which there was no room


class Click(msgspec.Struct):
    """A click that may still convert; `step` is how many of AGES_MS it has lived through."""

    request: bytes
    ad: bytes
    clicked_ms: int
    step: int = 0
    converted: bool = False


class Arrivals(msgspec.Struct):
    """How late conversions come: by step of age, clicks that have lived through it and conversions that came in it.

    A conversion rate a step needs only clicks that are old enough to have it, so young clicks do not bend it.
    """

    lived: list[float] = msgspec.field(default_factory=lambda: [_CLICKS] * len(AGES_MS))
    hits: list[float] = msgspec.field(default_factory=lambda: [_CLICKS * _RATE / len(AGES_MS)] * len(AGES_MS))

    def share(self, step: int) -> float:
        """Return the share of all conversions that come in a step."""
        rates = [hits / lived for hits, lived in zip(self.hits, self.lived, strict=True)]
        return rates[step] / sum(rates)

    def came(self, delay_ms: int) -> None:
        """Count a conversion."""
        step = sum(delay_ms > age for age in AGES_MS)
        if step < len(AGES_MS):
            self.hits[step] += 1.0


@dataclass(slots=True)
class _Fate:
    """What is known of a bid from its notices, stamps, and whether its impression has been learned."""

    row: Row | None
    first_ms: int
    seen_ms: int | None = None
    clicked_ms: int | None = None
    converted_ms: int | None = None
    learned: bool = False
    clicked: bool = False


class _Event(IntEnum):
    """What falls due; of the same instant in this order, so that it does not depend on the order of telling."""

    MATURE = 0
    CLICK = 1
    AGE = 2
    CONVERSION = 3


@dataclass(slots=True)
class Pending:
    """Joins bids and notices, which may come in any order, and gives lessons in the order in which they fall due.

    An impression is learned `maturity_ms` after it was first told to be seen, as clicked or not; a later click is a
    response of an impression that has been counted. A click counts as not converted step by step, as much as
    conversions have been seen to come in each; a conversion is a response likewise. So sums of what is predicted equal
    responses at any age, and young clicks do not make a new campaign look worthless.
    """

    maturity_ms: int
    room: int  # bids, and impressions, that may be waited for
    resumed_ms: int = 0
    clicks: dict[str, Click] = field(default_factory=dict)
    arrivals: Arrivals = field(default_factory=Arrivals)
    counts: Counts = field(default_factory=Counts)
    _bids: dict[str, tuple[int, Row]] = field(default_factory=dict)
    _fates: dict[str, _Fate] = field(default_factory=dict)
    _events: list[tuple[int, _Event, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wait on for clicks that an earlier process left."""
        for bid_id in self.clicks:
            self._age(bid_id)

    def __len__(self) -> int:
        return len(self._bids) + len(self._fates) + len(self.clicks)

    def bid(self, bid_id: str, row: Row, at_ms: int) -> None:
        """Take note of a bid."""
        fate = self._fates.get(bid_id)
        if fate is not None:
            fate.row = row
        elif bid_id not in self._bids:
            self._bids[bid_id] = at_ms, row
            if len(self._bids) > self.room:
                del self._bids[next(iter(self._bids))]
                self.counts.forgotten += 1

    def lost(self, bid_id: str) -> None:
        """Take note of a lost bid: nothing is to come of it."""
        self._bids.pop(bid_id, None)

    def seen(self, bid_id: str, at_ms: int) -> None:
        """Take note of an impression; the first such notice counts."""
        fate = self._fate(bid_id, at_ms)
        if fate.seen_ms is None:
            fate.seen_ms = at_ms
            self._push(at_ms + self.maturity_ms, _Event.MATURE, bid_id)

    def click(self, bid_id: str, at_ms: int) -> None:
        """Take note of a click; the first one counts, and only of an impression."""
        fate = self._fate(bid_id, at_ms)
        if fate.clicked_ms is None:
            fate.clicked_ms = at_ms
            self._push(at_ms, _Event.CLICK, bid_id)

    def conversion(self, bid_id: str, at_ms: int) -> None:
        """Take note of a conversion; the first one counts, and only of a click."""
        fate = self._fates.get(bid_id)
        if fate is not None and fate.converted_ms is None:
            fate.converted_ms = at_ms
        if fate is not None or bid_id in self.clicks:
            self._push(at_ms, _Event.CONVERSION, bid_id)

    def next_ms(self) -> int | None:
        """Return when the next thing falls due; None while nothing is waited for."""
        return self._events[0][0] if self._events else None

    def due(self, until_ms: int) -> Iterator[Lesson]:
        """Yield what falls due by `until_ms`; everything stamped before that must have been told. Exhaust it."""
        while self._events and self._events[0][0] <= until_ms:
            at_ms, event, bid_id = heappop(self._events)
            if event is _Event.AGE:
                yield from self._aged(bid_id)
            elif event is _Event.CONVERSION:
                if at_ms > self.resumed_ms:
                    yield from self._converted(bid_id, at_ms)
            elif (fate := self._fates.get(bid_id)) is not None:
                found = self._matured(fate, at_ms) if event is _Event.MATURE else self._clicked(fate)
                if at_ms > self.resumed_ms:
                    yield from self._counted(bid_id, fate, at_ms, found)

    def forget(self, until_ms: int) -> None:
        """Drop what nothing more is expected of by `until_ms`; both are in order of time."""
        while self._bids and next(iter(self._bids.values()))[0] < until_ms - BID_MS:
            del self._bids[next(iter(self._bids))]
        before_ms = until_ms - self.maturity_ms - IMPRESSION_MS
        while self._fates and next(iter(self._fates.values())).first_ms < before_ms:
            del self._fates[next(iter(self._fates))]

    def _matured(self, fate: _Fate, at_ms: int) -> tuple[float, float]:
        """Return share and responses of an impression that is old enough."""
        fate.learned = True
        fate.clicked = fate.clicked_ms is not None and fate.clicked_ms <= at_ms
        return 1.0, float(fate.clicked)

    def _clicked(self, fate: _Fate) -> tuple[float, float] | None:
        """Return share and responses of a click, None where its impression has not been learned or has had one."""
        if not fate.learned or fate.clicked:
            return None
        fate.clicked = True
        return 0.0, 1.0

    def _counted(self, bid_id: str, fate: _Fate, at_ms: int, found: tuple[float, float] | None) -> Iterator[Lesson]:
        if found is None:
            return
        share, responses = found
        if fate.row is None:
            self.counts.unmatched += bool(share)
            return
        self.counts.learned += bool(share)
        self.counts.clicked += bool(responses)
        self.counts.late += bool(responses) and not share
        yield Lesson(Target.CLICK, fate.row, share, responses)
        if responses and fate.clicked_ms is not None and bid_id not in self.clicks:
            self._open(bid_id, fate.row, fate.clicked_ms)
            if fate.converted_ms is not None and fate.converted_ms <= at_ms:
                yield from self._converted(bid_id, fate.converted_ms)

    def _open(self, bid_id: str, row: Row, clicked_ms: int) -> None:
        self.clicks[bid_id] = Click(row.request, row.ad, clicked_ms)
        self._age(bid_id)
        if len(self.clicks) > max(1, self.room // _CLICKS_SHARE):
            del self.clicks[next(iter(self.clicks))]
            self.counts.forgotten += 1

    def _age(self, bid_id: str) -> None:
        click = self.clicks[bid_id]
        self._push(click.clicked_ms + AGES_MS[click.step], _Event.AGE, bid_id)

    def _aged(self, bid_id: str) -> Iterator[Lesson]:
        click = self.clicks.get(bid_id)
        if click is None:
            return
        yield Lesson(Target.CONVERSION, Row(click.request, click.ad), self.arrivals.share(click.step), 0.0)
        self.arrivals.lived[click.step] += 1.0
        click.step += 1
        if click.step < len(AGES_MS):
            self._age(bid_id)
        else:
            del self.clicks[bid_id]

    def _converted(self, bid_id: str, at_ms: int) -> Iterator[Lesson]:
        click = self.clicks.get(bid_id)
        if click is None or click.converted:
            return
        click.converted = True
        self.arrivals.came(at_ms - click.clicked_ms)
        self.counts.converted += 1
        yield Lesson(Target.CONVERSION, Row(click.request, click.ad), 0.0, 1.0)

    def _fate(self, bid_id: str, at_ms: int) -> _Fate:
        fate = self._fates.get(bid_id)
        if fate is None:
            _, row = self._bids.pop(bid_id, (0, None))
            fate = self._fates[bid_id] = _Fate(row, at_ms)
            if len(self._fates) > self.room:
                del self._fates[next(iter(self._fates))]
                self.counts.forgotten += 1
        return fate

    def _push(self, due_ms: int, event: _Event, bid_id: str) -> None:
        heappush(self._events, (due_ms, event, bid_id))
