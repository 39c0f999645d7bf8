"""The online learner's state: what it waits for, both regressions, whether they have foretold anything, its position.

It is a function of the event log: what it knows follows from the records and their stamps alone. No I/O.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.events.schema import Decision, Notice, NoticeKind
from dsp.kernel.errors import BundleError
from dsp.stream.port import Position
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.features.logged import AD_BYTES, REQUEST_BYTES, unpack
from models.features.platform import PLATFORM
from models.serving import online
from models.serving.linear import LinearModel
from models.serving.prior import offsets
from models.serving.statistics import sigmoid
from models.training import ftrl
from models.training.ftrl import FtrlConfig, Lessons
from models.training.pending import BID_MS, IMPRESSION_MS, Arrivals, Click, Lesson, Pending, Row, Target

#: Rates of learning chosen on a simulated day of 40,000 requests. Both have the same table, so what is said is found
#: once for both.
FTRL = {
    Target.CLICK: FtrlConfig(bits=18, alpha=0.1, batch=32),
    Target.CONVERSION: FtrlConfig(bits=18, alpha=0.02, batch=256),
}
_BITS = tuple(config.bits for config in FTRL.values())
#: How far back records are read again after a start: whatever may still be waited for came later.
_OPEN_MS = BID_MS + IMPRESSION_MS
#: Lessons that fall due in the same slice of time are learned together.
SLICE_MS = 5_000
#: How often a place in the log is noted down from which to read again.
_NOTE_MS = 10_000
#: Ads in the golden rows.
_GOLDEN_ADS = 8
#: After so many responses, what was foretold before counts half.
_GAIN_RESPONSES = 2_000.0
_TINY = 1e-9


class Gain(msgspec.Struct):
    """How well a regression foretold what it then learned, beside the constants it began with; sums of log losses."""

    model: float = 0.0
    start: float = 0.0
    responses: float = 0.0

    def add(self, lessons: Lessons, predicted: NDArray[np.float64]) -> None:
        """Count lessons, and what was predicted of them before they were learned."""
        kept = 0.5 ** (float(lessons.responses.sum()) / _GAIN_RESPONSES)
        self.model = kept * self.model + _loss(lessons, predicted)
        self.start = kept * self.start + _loss(lessons, sigmoid(lessons.offsets))
        self.responses = kept * self.responses + float(lessons.responses.sum())

    @property
    def ratio(self) -> float:
        """Return the log loss over that of the constants; 1 before anything was learned."""
        return self.model / self.start if self.start else 1.0

    def shown(self, responses_min: float) -> bool:
        """Tell whether it has foretold better than the constants, of enough responses to tell."""
        return self.responses >= responses_min and self.model < self.start


class State(msgspec.Struct, frozen=True):
    """What is kept beside the regressions' arrays. `positions` are by topic."""

    feature_hash: str
    spec_hash: str
    bits: tuple[int, ...]
    learned_to_ms: int
    positions: dict[str, Position]
    clicks: dict[str, Click]
    arrivals: Arrivals
    gains: dict[str, Gain]


@dataclass(slots=True)
class Learner:
    """Learns from decisions and notices, told in any order, once `advance` says that all before an instant were told.

    Both regressions start from the constants' log-odds: knowing nothing, they answer as those do.
    """

    pending: Pending
    responses_min: int
    learned_to_ms: int = 0
    #: From where to read.
    positions: Mapping[str, Position] = field(default_factory=dict)
    models: dict[Target, ftrl.Ftrl] = field(
        default_factory=lambda: {target: ftrl.begin(PLATFORM, config) for target, config in FTRL.items()}
    )
    gains: dict[Target, Gain] = field(default_factory=lambda: {one: Gain() for one in Target})
    _notes: deque[tuple[int, dict[str, Position]]] = field(default_factory=deque)
    _latest: deque[Row] = field(default_factory=lambda: deque(maxlen=_GOLDEN_ADS))

    def decided(self, decision: Decision, at_ms: int) -> None:
        """Take note of bids, if their features are of our definition."""
        if decision.feature_hash != FEATURE_HASH:
            return
        for bid in decision.bids:
            row = Row(bid.request_features, bid.ad_features)
            if (len(row.request), len(row.ad)) == (REQUEST_BYTES, AD_BYTES):
                self.pending.bid(bid.facts.bid_id, row, at_ms)

    def told(self, notice: Notice, at_ms: int) -> None:
        """Take note of what became of a bid. An impression is one as in models.training.join."""
        kind, bid_id = notice.kind, notice.facts.bid_id
        if kind is NoticeKind.LOSS:
            self.pending.lost(bid_id)
        elif kind is NoticeKind.CLICK:
            self.pending.click(bid_id, at_ms)
        elif kind is NoticeKind.CONVERSION:
            self.pending.conversion(bid_id, at_ms)
        elif kind is not NoticeKind.WIN or notice.cost_micros > 0:
            self.pending.seen(bid_id, at_ms)

    def advance(self, until_ms: int) -> int:
        """Learn what falls due by `until_ms`, everything stamped before having been told; return how many lessons.

        It is learned slice by slice, each on its own, so that what is known does not depend on when this is called.
        """
        count, end_ms = 0, until_ms // SLICE_MS * SLICE_MS
        while (next_ms := self.pending.next_ms()) is not None and next_ms <= end_ms:
            count += self._learn(-(-next_ms // SLICE_MS) * SLICE_MS)
        self.learned_to_ms = max(self.learned_to_ms, end_ms)
        self.pending.forget(self.learned_to_ms)
        return count

    def _learn(self, end_ms: int) -> int:
        found: dict[Target, list[Lesson]] = {one: [] for one in Target}
        for lesson in self.pending.due(end_ms):
            found[lesson.target].append(lesson)
        for target, given in found.items():
            if given:
                lessons = _lessons(given, target)
                self.gains[target].add(lessons, self.models[target].learn(lessons))
        self._latest.extend(lesson.row for lesson in found[Target.CLICK][-_GOLDEN_ADS:])
        return sum(len(given) for given in found.values())

    def note(self, stamp_ms: int, positions: Mapping[str, Position]) -> None:
        """Remember where records end that are stamped `stamp_ms` or earlier."""
        if self._notes and stamp_ms < self._notes[-1][0] + _NOTE_MS:
            return
        self._notes.append((stamp_ms, {topic: dict(position) for topic, position in positions.items()}))
        before_ms = self.learned_to_ms - _OPEN_MS - self.pending.maturity_ms
        while self._notes and self._notes[0][0] < before_ms:
            _, self.positions = self._notes.popleft()

    def shown(self) -> dict[str, LinearModel]:
        """Return the regressions that have foretold better than the constants."""
        return {one.value: self.models[one].model() for one in Target if self.gains[one].shown(self.responses_min)}

    def blob(self) -> bytes | None:
        """Return what the bidder is to follow; None before anything was learned."""
        if not self._latest:
            return None
        request = unpack([self._latest[-1].request], REQUEST_COLUMNS)[0]
        ads = unpack((row.ad for row in self._latest), AD_COLUMNS)
        return online.pack(self.learned_to_ms, self.shown(), online.Golden(request, ads))

    def state(self) -> bytes:
        """Return all that `resume` needs."""
        kept = State(
            feature_hash=FEATURE_HASH,
            spec_hash=PLATFORM.content_hash,
            bits=_BITS,
            learned_to_ms=self.learned_to_ms,
            positions=dict(self.positions),
            clicks=self.pending.clicks,
            arrivals=self.pending.arrivals,
            gains={target.value: gain for target, gain in self.gains.items()},
        )
        arrays = {
            f"{target.value}.{name}": array
            for target, model in self.models.items()
            for name, array in model.arrays().items()
        }
        return online.seal({"state": np.frombuffer(msgspec.msgpack.encode(kept), dtype=np.uint8), **arrays})


def begin(maturity_ms: int, room: int, responses_min: int) -> Learner:
    """Return a learner that knows nothing and has read nothing."""
    return Learner(Pending(maturity_ms, room), responses_min)


def resume(data: bytes, maturity_ms: int, room: int, responses_min: int) -> Learner:
    """Return the learner that left this state; it reads again what was still open, and learns none of it twice.

    Raises:
        BundleError: corrupt, or of other features.
    """
    arrays = online.unseal(data)
    try:
        kept = msgspec.msgpack.decode(arrays["state"].tobytes(), type=State)
        if (kept.feature_hash, kept.spec_hash, kept.bits) != (FEATURE_HASH, PLATFORM.content_hash, _BITS):
            raise BundleError("of other features")
        models = {one: ftrl.restore(PLATFORM, FTRL[one], _part(arrays, one)) for one in Target}
        gains = {one: kept.gains[one.value] for one in Target}
    except (KeyError, ValueError, msgspec.DecodeError) as fault:
        raise BundleError(f"state: {type(fault).__name__}: {fault}") from fault
    pending = Pending(maturity_ms, room, kept.learned_to_ms, kept.clicks, kept.arrivals)
    return Learner(pending, responses_min, kept.learned_to_ms, kept.positions, models, gains)


def _part(arrays: Mapping[str, NDArray[Any]], target: Target) -> dict[str, NDArray[np.float64]]:
    return {name: arrays[f"{target.value}.{name}"] for name in ("scalars", "sums", "squares")}


def _lessons(given: Sequence[Lesson], target: Target) -> Lessons:
    requests = unpack((lesson.row.request for lesson in given), REQUEST_COLUMNS)
    ads = unpack((lesson.row.ad for lesson in given), AD_COLUMNS)
    starts = offsets(ads)
    return Lessons(
        requests,
        ads,
        np.array([lesson.share for lesson in given]),
        np.array([lesson.responses for lesson in given]),
        starts.ctr if target is Target.CLICK else starts.cvr,
    )


def _loss(lessons: Lessons, predicted: NDArray[np.float64]) -> float:
    rates = np.clip(predicted, _TINY, 1.0 - _TINY)
    missed = lessons.shares - lessons.responses
    return -float(lessons.responses @ np.log(rates) + missed @ np.log(1.0 - rates))
