"""A migrated database with a small catalogue, and the embedded stores beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from dsp.cache.local import LocalBlobStore, LocalLeaseStore
from dsp.catalog.entities import Campaign
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.catalog.terms import Budget
from dsp.kernel.clock import ManualClock
from dsp.ledger.book import Transaction
from dsp.store.book import BookRepository
from dsp.store.catalog import CatalogRepository
from dsp.store.database import create_engine, session_factory

#: A Monday at noon, UTC.
NOON_MS = 1_748_865_600_000
TODAY = NOON_MS // 86_400_000
#: A budget that no test spends.
ENDLESS = {"total_micros": 10**15}


class World:
    """What the workers of one machine share, in a directory of its own."""

    def __init__(self, path: Path, database: str) -> None:
        self.path = path
        self.clock = ManualClock(NOON_MS)
        self.engine: Engine = create_engine(database)
        self.sessions = session_factory(self.engine)
        self.views = session_factory(self.engine, read_only=True)
        self.leases = LocalLeaseStore(path / "leases.db")
        self.blobs = LocalBlobStore(path / "blobs")
        self._bids = 0

    def create(self, kind: Kind, **fields: Any) -> int:
        """Create an entity and activate it."""
        with self.sessions.begin() as session:
            repository = CatalogRepository(session, "test", self.clock.now_ms())
            entity = repository.create(kind, {"name": f"a {kind.words}", **fields})
            repository.set_status(kind, entity.id, Status.ACTIVE)
        return entity.id

    def set_status(self, kind: Kind, number: int, status: Status) -> None:
        with self.sessions.begin() as session:
            CatalogRepository(session, "test", self.clock.now_ms()).set_status(kind, number, status)

    def update(self, kind: Kind, number: int, **fields: Any) -> None:
        with self.sessions.begin() as session:
            CatalogRepository(session, "test", self.clock.now_ms()).update(kind, number, fields)

    def advertiser(self, **fields: Any) -> int:
        return self.create(Kind.ADVERTISER, **{"domain": "brand.example", **fields})

    def campaign(self, advertiser_id: int, **fields: Any) -> int:
        flight = {"start_ms": NOON_MS, "end_ms": NOON_MS + 120_000}
        return self.create(Kind.CAMPAIGN, **{"advertiser_id": advertiser_id, "flight": flight, **fields})

    def line_item(self, campaign_id: int, **fields: Any) -> int:
        """Create an active line item, of a budget that it never reaches where none is given, its campaign's neither."""
        with self.views() as session:
            campaign = CatalogRepository(session, "test", 0).get(Kind.CAMPAIGN, campaign_id)
        defaults = {
            "budget": {} if isinstance(campaign, Campaign) and campaign.budget != Budget() else ENDLESS,
            "campaign_id": campaign_id,
            "flight": {"start_ms": NOON_MS, "end_ms": NOON_MS + 120_000},
            "goal": {"kind": "cpm", "target_micros": 2_000_000},
        }
        return self.create(Kind.LINE_ITEM, **{**defaults, **fields})

    def spend(self, campaign_id: int, line_item_id: int, micros: int, day: int = TODAY) -> None:
        """Enter one billed impression in the book."""
        self._bids += 1
        transaction = Transaction(
            exchange="exchange",
            auction_id=f"auction-{self._bids}",
            imp_id="1",
            kind="bill",
            bid_id=f"bid-{self._bids}",
            at_ms=self.clock.now_ms(),
            appended_ms=self.clock.now_ms(),
            advertiser_id=1,
            campaign_id=campaign_id,
            line_item_id=line_item_id,
            creative_id=1,
            day=day,
            hour=day * 24,
            lease_id="",
            charged_micros=micros,
            late_micros=0,
        )
        with self.sessions.begin() as session:
            BookRepository(session).apply([transaction], {})


@pytest.fixture
def world(tmp_path: Path, sqlite: str) -> Iterator[World]:
    made = World(tmp_path, sqlite)
    yield made
    made.engine.dispose()
