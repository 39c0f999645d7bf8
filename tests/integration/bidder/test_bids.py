"""A bid that a running bidder sends is in the book once the bidder has handed over what it counted."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsp.cache.connect import lease_store
from dsp.events.schema import BidsSent
from dsp.store.database import create_engine, session_factory, url
from dsp.store.migrate import upgrade
from dsp.store.results import sum_results
from dsp.stream.connect import event_log
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob
from tests.integration.bidder.world import CLOCK, World, bid_request, catalogue, world
from tests.waiting import until

pytestmark = pytest.mark.platform


@pytest.fixture
async def bidder(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def test_bids_and_impressions_of_a_running_bidder_are_in_one_report(bidder: World) -> None:
    await bidder.publish(catalogue())
    await bidder.start()
    await until(bidder.ready)
    offered = await bidder.offer("first")
    assert await bidder.notify(offered["burl"].replace("${AUCTION_PRICE}", "1.00")) == 200
    await until(lambda: bidder.events("notices", BidsSent))  # while it runs
    for number in range(4):
        await bidder.offer(f"a{number}")
    status, _ = await bidder.bid({**bid_request("t"), "test": 1})
    assert status == 200
    sent = await bidder.metric("dsp_bids_total")
    assert await bidder.stop() == 0  # and what is left when it ends

    database = url(bidder.platform)
    upgrade(database)
    engine = create_engine(database)
    job = LedgerJob(engine, event_log(bidder.platform, CLOCK), lease_store(bidder.platform), WorkersConfig())
    await job.open()
    while await job.step():
        pass
    await job.close()
    with session_factory(engine, read_only=True)() as session:
        (row,) = sum_results(session, ["line_item_id", "exchange"], {}, (None, None), 9)
    engine.dispose()
    assert (row["line_item_id"], row["exchange"]) == (10, "openrtb")
    assert (row["bids"], row["impressions"]) == (sent - 1, 1)  # without the test
