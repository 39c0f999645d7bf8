"""The training log of a day that was bought: what the training-log worker would have written of it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsp.events.schema import Bid, BidFacts, Decision
from dsp.workers.hourly import HourlyFiles
from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA, bid_rows, notice_rows
from loadtest.learning.supply import Supply
from loadtest.learning.told import Placed, facts_of, notices_of
from models.features.columns import FEATURE_HASH
from models.features.logged import pack


def write(root: Path, supply: Supply, requests: NDArray[np.int64], won: list[Placed], seed: int, end_ms: int) -> None:
    """Write impressions won and their notices until `end_ms` below `root`. Bids that lost teach nothing of people.

    `requests` (N, R) are the impressions' features as they were when they were bid for.
    """
    bids, notices = [], []
    for win in won:
        facts = facts_of(supply, win)
        at_ms = facts.bid_at_ms
        decision = Decision(
            auction_id=facts.auction_id, exchange=facts.exchange, at_ms=at_ms,
            bids=(_bid(supply, requests[win.chance], facts, win),), snapshot_version="s", model_version="prior",
            feature_hash=FEATURE_HASH,
        )  # fmt: skip
        bids += [(at_ms, row) for row in bid_rows(decision)]
        known = [notice for notice in notices_of(facts, win, seed) if notice.at_ms < end_ms]
        notices += [(notice.at_ms, row) for notice in known for row in notice_rows(notice)]
    HourlyFiles(root / "bids", BIDS_SCHEMA).write(0, 0, max(len(bids) - 1, 0), bids)
    HourlyFiles(root / "notices", NOTICES_SCHEMA).write(0, 0, max(len(notices) - 1, 0), notices)


def _bid(supply: Supply, features: NDArray[np.int64], facts: BidFacts, win: Placed) -> Bid:
    creative = int(supply.creatives[win.candidate])
    return Bid(
        facts=facts, ad_features=pack(supply.ads[creative]),
        request_features=pack(features), pctr=0.0, pcvr=0.0, value_micros_cpm=0,
        floor_micros_cpm=int(supply.floors[win.candidate]), first_price=bool(supply.first_price[win.candidate]),
        pacing_multiplier=1.0,
    )  # fmt: skip
