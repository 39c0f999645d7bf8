"""An auctioneer with everything around it passed in, for tests of what auctions decide."""

import dataclasses
import json
from typing import Any

from msgspec.structs import replace

from bidder.auction import Answer
from bidder.config import BidderConfig
from bidder.journal import Journal
from bidder.outbox import Outbox
from bidder.run import Arrival, Run
from bidder.state import Serving, ServingState, serve
from bidder.wiring import Deployment, wire
from dsp.cache.port import LeaseReport, LeaseState
from dsp.catalog.entities import AuctionType, Deal
from dsp.catalog.rules import Clause, Dimension, Targeting
from dsp.catalog.status import Status
from dsp.events.schema import Bid
from dsp.kernel.clock import ManualClock
from dsp.kernel.config import Platform
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import Profile
from dsp.pacing.columns import align, paced
from dsp.pacing.controller import Control, Controls
from dsp.snapshot.build import build
from models.serving.prior import ConstantPredictor
from tests.integration.bidder.world import catalogue
from tests.unit.bidder.fakes import FakeLog, FakeUsers

PROFILE = Profile(name="x", auction_default=1)
CONFIG = BidderConfig(notice_base_url="https://n.example", request_sample_rate=1.0)
DAY_MS = 86_400_000


class Market:
    """An auctioneer and what surrounds it, with money for both line items."""

    def __init__(
        self,
        profile: Profile = PROFILE,
        money: int = 1_000_000,
        *,
        deal: bool = False,
        alike: bool = False,
        key: bytes = b"k" * 16,
    ) -> None:
        self.clock = ManualClock()
        self.profile = profile
        wanted = catalogue()
        if deal:
            targeting = Targeting(clauses={Dimension.DEAL: Clause(include=("d1",))})
            item = replace(wanted.line_items[0], id=12, name="Deal", targeting=targeting, bid_max_micros_cpm=2_000_000)
            creative = replace(wanted.creatives[0], id=102, line_item_id=12)
            terms = Deal(
                id=7, name="d", exchange="x", deal_id="d1", auction=AuctionType.FIRST_PRICE, status=Status.ACTIVE
            )
            wanted = replace(
                wanted, line_items=(*wanted.line_items, item), creatives=(*wanted.creatives, creative), deals=(terms,)
            )
        if alike:  # a second creative of the first's size
            wanted = replace(wanted, creatives=(*wanted.creatives, replace(wanted.creatives[0], id=103)))
        self.serving = Serving()
        snapshot = build(wanted, "v1", self.clock.now_ms())
        served = serve(snapshot, None)
        prior = ConstantPredictor("prior").prepare(served.ad_rows)
        self.state = ServingState(served, align(None, snapshot.line_item_ids), 0, prior, prior)
        self.serving.swap(self.state)
        self.leases = LeaseBook(1)
        day = self.clock.now_ms() // DAY_MS
        granted = [LeaseState(f"1-{item}-{day}", item, day, money, 0) for item in (10, 11, 12)]
        self.leases.reserve(10, day, "", 0, self._elapsed_ms(), self.clock.now_ms() + DAY_MS)  # demand comes first
        self.leases.wants(self._elapsed_ms())
        self.leases.apply(LeaseReport(granted, 0), self._elapsed_ms())
        self.users, self.log = FakeUsers(), FakeLog()
        deployment = Deployment(Platform(), {profile.name: profile}, [key])
        self.auctioneer, _, self.outbox = wire(
            deployment, CONFIG, self.clock, self.log, serving=self.serving, leases=self.leases, users=self.users
        )
        self.pending = self.auctioneer.pending

    def _elapsed_ms(self) -> int:
        return self.clock.elapsed_ns() // 1_000_000

    def pace(self, multiplier: float) -> None:
        """Let pacing leave so much of all values."""
        told = Controls(at_ms=0, line_items={number: Control(multiplier=multiplier) for number in (10, 11, 12)})
        controls = align(paced(told), self.state.served.snapshot.line_item_ids)
        self.serving.swap(dataclasses.replace(self.state, controls=controls))

    def model(self, predictor: Any) -> None:
        fallback = ConstantPredictor("fallback").prepare(self.state.served.ad_rows)
        self.serving.swap(ServingState(self.state.served, self.state.controls, 0, predictor, fallback))

    async def ask(self, request: dict[str, Any]) -> tuple[Answer, list[dict[str, Any]]]:
        arrival = Arrival(self.profile, json.dumps(request).encode(), "", self.clock.elapsed_ns())
        answer = await self.auctioneer.answer(arrival)
        body = json.loads(answer.body) if answer.body else {}
        return answer, [bid for seat in body.get("seatbid", []) for bid in seat["bid"]]


class Heard(Journal):
    """Keeps the records of bids beside queueing them."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(outbox, b"k", 1.0)
        self.bids: list[Bid] = []

    def decision(self, run: Run, auction_id: str) -> None:
        self.bids += [offer.record for offer in run.sent]
        super().decision(run, auction_id)
