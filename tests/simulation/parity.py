"""Offline features of a day: raw requests encoded anew, users' histories made anew from the event log."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bidder.pending import PendingExposures
from dsp.cache.local import LocalBlobStore, LocalUserStore
from dsp.events.schema import Bid, Decision, Event, Notice, SampledRequest, decode
from dsp.events.topics import Topic
from dsp.frequency.evidence import exposure_at, exposure_of, response_of
from dsp.kernel.clock import ManualClock
from dsp.kernel.config import Platform
from dsp.openrtb.codec import decode_request
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile, load_profiles
from dsp.privacy.policy import permissions
from dsp.snapshot import codec
from dsp.snapshot.build import Snapshot
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Position
from loadtest.day.platform import BIDDER
from loadtest.platform import EXCHANGES, VENDOR_ID
from models.features.columns import FEATURE_HASH, HISTORY_CAMPAIGN_COLUMNS, REQUEST_COLUMNS
from models.features.encode import ad_rows, request_row

_Event = TypeVar("_Event", bound=Event)
_CLICKS, _CONVERSIONS = REQUEST_COLUMNS.index("clicks"), REQUEST_COLUMNS.index("conversions")
_HISTORY = [REQUEST_COLUMNS.index(name) for name in HISTORY_CAMPAIGN_COLUMNS]


@dataclass(slots=True)
class Parity:
    """How many bids of sampled requests were compared, and what differed: auction id and column."""

    compared: int = 0
    with_history: int = 0
    with_two_campaigns: int = 0
    with_clicks: int = 0
    with_conversions: int = 0
    differing: list[tuple[str, str]] = field(default_factory=list)

    def add(self, auction_id: str, row: NDArray[np.int64], bid: Bid, ad_row: bytes) -> None:
        """Compare one bid's features with those made again."""
        logged = np.frombuffer(bid.request_features, "<i8")
        names = (name for name, differs in zip(REQUEST_COLUMNS, logged != row, strict=True) if differs)
        self.differing += [(auction_id, name) for name in names]
        if ad_row != bid.ad_features:
            self.differing.append((auction_id, "ad"))
        self.compared += 1
        campaigns = set(logged[_HISTORY].tolist()) - {0}
        self.with_history += bool(campaigns)
        self.with_two_campaigns += len(campaigns) > 1
        self.with_clicks += bool(logged[_CLICKS])
        self.with_conversions += bool(logged[_CONVERSIONS])


def compare(data: Path) -> Parity:
    """Compare every bid whose request was sampled with what its raw request and the log before it give."""
    decisions, notices, sampled = asyncio.run(_events(data))
    snapshot = asyncio.run(_snapshot(data))
    ads = {creative.id: row.tobytes() for creative, row in zip(snapshot.creatives, ad_rows(snapshot), strict=True)}
    users = LocalUserStore(data / "offline-users.db", window_ms=lambda: 0)  # a day is kept in any case
    pending = PendingExposures(BIDDER.pending_exposure_ms, BIDDER.pending_exposures_max)
    found, profiles = Parity(), load_profiles(EXCHANGES)
    for _, event in sorted([*decisions, *notices], key=itemgetter(0)):
        if isinstance(event, Notice):
            exposed = exposure_of(event)
            if exposed is not None:
                users.expose(*exposed)
            responded = response_of(event)
            if responded is not None:
                users.respond(*responded)
            pending.hear(event, event.at_ms)
            continue
        assert event.feature_hash == FEATURE_HASH
        raw = sampled.get(event.auction_id)
        offered = _offered(raw, profiles[raw.exchange]) if raw is not None else {}
        for bid in event.bids:
            facts = bid.facts
            if raw is not None:
                known = pending.merged(facts.user_key, users.get(facts.user_key), event.at_ms)
                row = request_row(offered[facts.imp_id], known if facts.user_key else None)
                found.add(event.auction_id, row, bid, ads[facts.creative_id])
            pending.add(facts.user_key, exposure_at(facts, facts.bid_at_ms))
    return found


def _offered(raw: SampledRequest, profile: Profile) -> dict[str, Opportunity]:
    request = decode_request(raw.body)
    allowed = permissions(request, VENDOR_ID, "")
    found, _ = opportunities(request, profile, allowed, Platform().rates, b"any key", raw.at_ms)
    return {opportunity.imp_id: opportunity for opportunity in found}


async def _snapshot(data: Path) -> Snapshot:
    blob = await LocalBlobStore(data / "blobs").get("snapshot")
    assert blob is not None
    return codec.decode(blob[1])


async def _events(
    data: Path,
) -> tuple[list[tuple[int, Decision]], list[tuple[int, Notice]], dict[str, SampledRequest]]:
    """Return decisions and notices with the time at which the bidder knew of them, and requests by auction."""
    log = LocalEventLog(data / "log", ManualClock(0), "NORMAL")
    await log.open()
    try:
        decisions = [(event.at_ms, event) async for _, event in _read(log, Topic.DECISIONS, Decision)]
        notices = [(at_ms, event) async for at_ms, event in _read(log, Topic.NOTICES, Notice)]
        sampled = {event.auction_id: event async for _, event in _read(log, Topic.REQUESTS, SampledRequest)}
    finally:
        await log.close()
    return decisions, notices, sampled


async def _read(log: LocalEventLog, topic: Topic, kind: type[_Event]) -> AsyncIterator[tuple[int, _Event]]:
    position: Position = {}
    while True:
        batch = await log.read(topic, position, 10_000)
        for record in batch.records:
            event = decode(record.value)
            assert isinstance(event, kind)
            yield record.appended_ms, event
        position = batch.position
        if batch.end:
            return
