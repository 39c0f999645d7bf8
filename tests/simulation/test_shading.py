"""Shading in the simulated first-price market: what a night learns from the log of a constant buys more the next day.

The requests, the platform's reading of them, its log, its training, its prices and the exchange's rules are the real
ones; only sockets are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsp import registry
from dsp.events.schema import Notice, NoticeKind
from dsp.kernel.money import PRICE_MICROS_CPM_MAX, price_micros_from_cpm
from dsp.openrtb.codec import decode_request
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.pricing.bid import price
from dsp.pricing.explore import UNMOVED, Jitter, draw
from dsp.pricing.landscape import WinCurve
from dsp.privacy.policy import permissions
from dsp.workers.hourly import HourlyFiles
from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA, bid_rows, notice_rows
from loadtest.auction import Offer, clear
from loadtest.draw import Draw
from loadtest.exchange import context_of
from loadtest.market import rival_cpm
from loadtest.traffic import Request, Slot, Source, Traffic
from models.features.encode import request_row
from models.features.logged import pack
from models.serving import landscape as serving
from models.training import landscapes
from models.training.config import TrainingConfig
from tests.notices import BID, FACTS, decision

SEED = 11
START_MS = 1_750_000_000_000
STEP_MS = 100
LEARNED, BOUGHT = 6_000, 2_000
CONSTANT = 0.85
EXPLORE = 0.1
MEAN_WORTH_CPM = 6.0
EXCHANGE = "demo-first"
SOURCE = Source(EXCHANGE, version="2.6", first_price=True, tmax_ms=150, share=1.0, gzip_share=0.0, deals=False)
PROFILE = Profile(name=EXCHANGE, seat="dsp")


@dataclass(frozen=True, slots=True)
class Chance:
    """An impression as it is bid for: what the bidder knows, what it is worth, and the rival it does not see."""

    request: Request
    slot: Slot
    opportunity: Opportunity
    worth_micros_cpm: int
    rival_cpm: float


def chances(first: int, count: int) -> Iterator[Chance]:
    traffic = Traffic(SEED, (SOURCE,))
    for index in range(first, first + count):
        request = traffic.request(index)
        read = decode_request(request.body)
        allowed = permissions(read, 0, "")
        found, _ = opportunities(read, PROFILE, allowed, {"USD": 1.0}, b"key", START_MS + index * STEP_MS)
        slots = {slot.imp_id: slot for slot in request.slots}
        for opportunity in found:
            slot = slots[opportunity.imp_id]
            # What it is worth is the advertiser's and the user's affair, what it costs the slot's.
            worth = MEAN_WORTH_CPM * (0.5 + Draw("worth", request.id).uniform())
            rival = rival_cpm(SEED, request.id, slot.imp_id, context_of(request, slot))
            yield Chance(request, slot, opportunity, price_micros_from_cpm(worth), rival)


def bid(chance: Chance, shading: WinCurve | float, jitter: Jitter) -> int:
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1)
    floors = np.array([chance.opportunity.floor_micros_cpm])
    worth, bid_max = np.array([float(chance.worth_micros_cpm)]), np.full(1, PRICE_MICROS_CPM_MAX)
    first_price = np.ones(1, dtype=np.bool_)
    return int(price(worth, one, floors, first_price, shading, zero, bid_max, None, jitter.factor)[0])


def surplus(chance: Chance, price_micros_cpm: int) -> int:
    if price_micros_cpm <= 0:
        return 0
    offer = Offer(chance.slot, "b", price_micros_cpm, "dsp", {}, "USD")
    clearing = clear(offer, chance.rival_cpm, first_price=True)
    return chance.worth_micros_cpm - clearing.price_micros_cpm if clearing.won else 0


def write_log(root: Path, feedback: str, key: bytes) -> None:
    """Write the log of a day of constant shading, with the feedback of one kind of exchange."""
    bids, notices = [], []
    for number, chance in enumerate(chances(0, LEARNED)):
        opportunity = chance.opportunity
        ids = f"{opportunity.auction_id}\0{opportunity.imp_id}"
        lot = int.from_bytes(blake2b(ids.encode(), digest_size=8, key=key).digest(), "little")
        jitter = draw(lot, EXPLORE)
        offered = bid(chance, CONSTANT, jitter)
        if not offered:
            continue
        at_ms = opportunity.at_ms
        facts = msgspec.structs.replace(
            FACTS, exchange=EXCHANGE, auction_id=opportunity.auction_id, imp_id=opportunity.imp_id, bid_id=str(number),
            price_micros_cpm=offered, cost_micros_max=offered // 1_000, bid_at_ms=at_ms, expires_at_ms=at_ms + 5_000,
        )  # fmt: skip
        record = msgspec.structs.replace(
            BID, facts=facts, value_micros_cpm=chance.worth_micros_cpm, floor_micros_cpm=opportunity.floor_micros_cpm,
            request_features=pack(request_row(opportunity, None)), jitter=jitter.factor, propensity=jitter.propensity,
        )  # fmt: skip
        bids += [(at_ms, row) for row in bid_rows(decision(record))]
        clearing = clear(Offer(chance.slot, "b", offered, "dsp", {}, "USD"), chance.rival_cpm, first_price=True)
        told = clearing.min_to_win_micros_cpm
        if clearing.won:
            notice = Notice(
                kind=NoticeKind.BILL, facts=facts, at_ms=at_ms + 500, clearing_micros_cpm=offered,
                min_to_win_micros_cpm=told if feedback == "both" else None,
            )  # fmt: skip
        elif feedback == "silence":
            continue
        else:
            notice = Notice(
                kind=NoticeKind.LOSS, facts=facts, at_ms=at_ms + 300, loss_reason=102, min_to_win_micros_cpm=told
            )
        notices += [(notice.at_ms, row) for row in notice_rows(notice)]
    HourlyFiles(root / "bids", BIDS_SCHEMA).write(0, 0, len(bids), bids)
    HourlyFiles(root / "notices", NOTICES_SCHEMA).write(0, 0, len(notices), notices)


#: By what an exchange tells: at least so much of the best constant's surplus in hindsight. Where wins tell nothing, one
#: day of high bids says little of low prices, and much hangs on which were explored: of eight keys .67 to .87, so that
#: what holds for the first is more than holds for any. The next day's lower bids will say more.
@pytest.mark.parametrize(
    ("feedback", "share", "key"),
    [("both", 1.0, b"dsp.pricing.explore"), ("losses", 0.8, b"dsp.pricing.explore"),
     ("silence", 0.8, b"dsp.pricing.explore"), ("silence", 0.65, b"b")],
)  # fmt: skip
def test_what_is_learned_from_a_constant_beats_it(tmp_path: Path, feedback: str, share: float, key: bytes) -> None:
    write_log(tmp_path / "training", feedback, key)
    now_ms = START_MS + (LEARNED + 100) * STEP_MS
    found = landscapes.publish(tmp_path, now_ms, TrainingConfig(landscape_rows_min=2_000))
    assert found["with_context"] == 1, found
    assert (found["price_told"] == 0) == (feedback == "silence")
    version = registry.resolve(tmp_path / "models", serving.LANDSCAPE)
    assert version == found["version"]
    learned = serving.load(tmp_path / "models", version)

    constants = [round(0.05 * step, 2) for step in range(2, 21)]
    gained: dict[float, int] = dict.fromkeys(constants, 0)
    ours = oracle = 0
    for chance in chances(LEARNED, BOUGHT):
        curve = learned.curve(request_row(chance.opportunity, None), chance.opportunity.floor_micros_cpm)
        assert curve is not None
        for shading in constants:
            gained[shading] += surplus(chance, bid(chance, shading, UNMOVED))
        ours += surplus(chance, bid(chance, curve, UNMOVED))
        oracle += max(0, chance.worth_micros_cpm - price_micros_from_cpm(max(chance.rival_cpm, chance.slot.floor_cpm)))
    print(feedback, gained[CONSTANT] / oracle, max(gained.values()) / oracle, ours / oracle)
    assert 1.5 * gained[CONSTANT] < ours < oracle
    assert ours > share * max(gained.values())
