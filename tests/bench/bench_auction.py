"""What a bid request costs the processor, from bytes to answer, with the catalogue and the model of a finished demo.

Run it by hand after `make demo`: python tests/bench/bench_auction.py [ROUNDS]. HTTP and notices are not part of it;
a calibration loop beside each round tells how fast the machine was just then.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from bidder.auction import Auctioneer
from bidder.config import BidderConfig
from bidder.run import Arrival
from bidder.state import Serving, ServingState, serve
from bidder.wiring import Deployment, wire
from dsp import registry
from dsp.cache.local import LocalBlobStore
from dsp.cache.port import LeaseReport, LeaseState
from dsp.kernel.clock import NS_PER_MS, ManualClock
from dsp.kernel.config import Platform
from dsp.ledger.lease import LeaseBook
from dsp.ledger.terms import lease_id
from dsp.openrtb.profile import load_profiles
from dsp.pacing.controller import align
from dsp.snapshot import codec
from loadtest.platform import EXCHANGES, VENDOR_ID
from loadtest.traffic import Traffic
from models.serving import bundle, landscape
from tests.unit.bidder.fakes import FakeLog, FakeUsers

DEMO = Path(__file__).parents[2] / "var" / "demo"
REQUESTS = 3_000
PLENTY_MICROS = 10**12
RATES = {"USD": 1.0, "EUR": 1.16, "GBP": 1.33}
FLIGHT_BEGUN_MS = 20_000


class Clock(ManualClock):
    """Wall time of the demo, elapsed time of this machine."""

    def elapsed_ns(self) -> int:
        return time.perf_counter_ns()


async def auctioneer() -> Auctioneer:
    """Return the auction with the demo's snapshot and champion, and money for every line item."""
    found = await LocalBlobStore(DEMO / "blobs").get("snapshot")
    version = registry.resolve(DEMO / "models", bundle.CHAMPION)
    if found is None or version is None:
        raise SystemExit("no finished demo here: run `make demo` first")
    snapshot, loaded = codec.decode(found[1]), bundle.load(DEMO / "models", version)
    clock, profiles, serving = Clock(snapshot.built_at_ms + FLIGHT_BEGUN_MS), load_profiles(EXCHANGES), Serving()
    served = serve(snapshot, None)
    scorers = loaded.predictor.prepare(served.ad_rows), loaded.prior.prepare(served.ad_rows)
    priced = registry.resolve(DEMO / "models", landscape.LANDSCAPE)
    landscapes = landscape.load(DEMO / "models", priced) if priced is not None else landscape.NO_LANDSCAPES
    serving.swap(ServingState(served, align(None, snapshot.line_item_ids), 0, *scorers, landscapes))
    leases = LeaseBook(1, silence_ms_max=3_600_000)
    elapsed_ms, days = clock.elapsed_ns() // NS_PER_MS, snapshot.days(clock.now_ms())
    pairs = zip(snapshot.line_item_ids.tolist(), days.tolist(), strict=True)
    states = [LeaseState(lease_id(1, item, day), item, day, PLENTY_MICROS, 0) for item, day in pairs]
    leases.reserve(0, 0, "", 0, elapsed_ms, clock.now_ms() + 3_600_000)  # demand comes first
    leases.wants(elapsed_ms)
    leases.apply(LeaseReport(states, 0), elapsed_ms)
    platform = Platform(currency_rates=RATES, privacy_vendor_id=VENDOR_ID)
    deployment = Deployment(platform, profiles, [b"k" * 32])
    return wire(
        deployment, BidderConfig(), clock, FakeLog(), serving=serving, leases=leases, users=FakeUsers()
    ).auctioneer


def calibration_ms() -> float:
    """Return the processor time of a million additions in a Python loop."""
    began, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return (time.process_time() - began) * 1_000


async def main(rounds: int) -> None:
    """Print a line a round, and the medians."""
    auction, traffic, profiles = await auctioneer(), Traffic(1), load_profiles(EXCHANGES)
    made = [traffic.request(index) for index in range(REQUESTS)]
    arrivals = [(profiles[each.source.exchange], each.body, each.headers.get("Content-Encoding", "")) for each in made]
    costs = []
    for number in range(rounds + 1):  # the first warms up
        loop_ms, bids, began = calibration_ms(), 0, time.process_time()
        for profile, body, encoding in arrivals:
            answer = await auction.answer(Arrival(profile, body, encoding, time.perf_counter_ns()))
            bids += answer.status == 200
        cost_us = (time.process_time() - began) / REQUESTS * 1e6
        if number:
            costs.append(cost_us)
            print(f"{cost_us:6.0f} us a request, {bids / REQUESTS:.0%} bid; a million additions took {loop_ms:.0f} ms")
    print(f"median {statistics.median(costs):.0f} us a request")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
