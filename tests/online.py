"""Decisions and notices of a small world in which phones click, for the tests of the online learner."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from dsp.events.schema import Decision, Event, Notice, NoticeKind
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.training.learner import Learner
from tests import notices
from tests.notices import BID, FACTS

BEGIN_MS = 1_750_000_000_000
PHONE, DESKTOP = 1, 2
_DEVICE, _FORMAT = REQUEST_COLUMNS.index("device"), AD_COLUMNS.index("format")


class Stamped(NamedTuple):
    """An event and the log's stamp."""

    at_ms: int
    event: Event


def request(device: int) -> np.ndarray:
    row = np.zeros(len(REQUEST_COLUMNS), dtype=np.int64)
    row[_DEVICE] = device
    return row


def ad() -> np.ndarray:
    row = np.arange(1, len(AD_COLUMNS) + 1, dtype=np.int64)
    row[_FORMAT] = 1
    return row


def decision(bid_id: str, at_ms: int, device: int, feature_hash: str = FEATURE_HASH) -> Decision:
    facts = msgspec.structs.replace(FACTS, bid_id=bid_id, auction_id=bid_id, bid_at_ms=at_ms)
    features = {"ad_features": ad().tobytes(), "request_features": request(device).tobytes()}
    return notices.decision(msgspec.structs.replace(BID, facts=facts, **features), feature_hash=feature_hash)


def notice(bid_id: str, kind: NoticeKind, at_ms: int) -> Notice:
    return Notice(kind=kind, facts=msgspec.structs.replace(FACTS, bid_id=bid_id), at_ms=at_ms)


def traffic(count: int, begin_ms: int, seed: int = 1, step_ms: int = 50) -> Iterator[Stamped]:
    """Yield events in order of time: half of the bids are phones, which click 30 times as often."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        at_ms, device, bid_id = begin_ms + step_ms * number, int(rng.integers(PHONE, DESKTOP + 1)), f"{seed}-{number}"
        found.append(Stamped(at_ms, decision(bid_id, at_ms, device)))
        found.append(Stamped(at_ms + 200, notice(bid_id, NoticeKind.BILL, at_ms + 200)))
        if rng.random() < (0.3 if device == PHONE else 0.01):
            clicked_ms = at_ms + 300 + int(rng.exponential(3_000))
            found.append(Stamped(clicked_ms, notice(bid_id, NoticeKind.CLICK, clicked_ms)))
            if rng.random() < 0.3:
                converted_ms = clicked_ms + int(rng.exponential(20_000))
                found.append(Stamped(converted_ms, notice(bid_id, NoticeKind.CONVERSION, converted_ms)))
    yield from sorted(found, key=lambda one: one.at_ms)


def tell(
    found: Learner,
    events: Iterable[tuple[int, Event]],
    from_ms: int = BEGIN_MS,
    to_ms: int = 2**62,
    every_ms: int = 1_000,
) -> None:
    """Tell events stamped in [from_ms, to_ms), and advance as time goes on."""
    next_ms = from_ms
    for at_ms, event in events:
        if not from_ms <= at_ms < to_ms:
            continue
        while at_ms >= next_ms + every_ms:
            next_ms += every_ms
            found.advance(next_ms)
        if isinstance(event, Decision):
            found.decided(event, at_ms)
        elif isinstance(event, Notice):
            found.told(event, at_ms)
