"""What the online prior costs: 32 candidates of an impression beside a network's, and learning beside bare decoding.

Run it by hand: python tests/bench/bench_prior.py. It prints one JSON document. Microseconds are this machine's, the
best of many rounds taken in turns; what can be compared elsewhere are the ratios. `of_decoding` is the processor time
of the learner, decoding included, over that of decoding the same records and doing nothing with them; bids are won one
in four, impressions are clicked one in a hundred, and come so many a second.
"""

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter, process_time

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from dsp.events.schema import Decision, Event, Notice, NoticeKind, decode, encode
from loadtest.bids.model import drawn_inputs
from models.features.logged import pack
from models.features.platform import PLATFORM
from models.serving.linear import Coordinates, LinearModel
from models.serving.prior import ConstantPredictor, OnlinePredictor
from models.training import learner
from models.training.learner import FTRL
from models.training.network_layout import NetworkConfig
from models.training.pending import Target
from models.training.rows import Rows
from tests.bench.bench_network import ADS, CANDIDATES, ROUNDS, drawn_rows, measured
from tests.notices import BID, FACTS, decision

RECORDS_OF = 20_000  # bids
WON, CLICKED = 4, 100  # one in so many
BEGIN_MS = 1_750_000_000_000
NETWORK = NetworkConfig()


def prior(rows: Rows) -> Callable[[], object]:
    """Return a call that scores one impression's candidates by both regressions."""
    random = np.random.default_rng(1)
    ctr, cvr = (
        LinearModel(Coordinates(PLATFORM, config.bits), random.normal(0, 0.1, 1 << config.bits).astype(np.float32), 0.0)
        for config in FTRL.values()
    )
    predict = OnlinePredictor("bench", ctr, cvr, ConstantPredictor()).prepare(rows.ads[:ADS]).predict
    request, chosen = rows.requests[7], random.integers(0, ADS, CANDIDATES)
    return lambda: predict(request, chosen)


def scoring() -> dict[str, float]:
    """Return microseconds of scoring one impression's candidates, and the ratios of the prior's to the others'."""
    rows = drawn_rows()
    shape = f"{NETWORK.cross_layers} of rank {NETWORK.cross_rank}, split"
    known = dict(measured(rows, drawn_inputs(rows, 2)))
    wanted = ("reference", f"{shape}, int8", f"{shape}, fp32")
    calls = {"prior": prior(rows), **{name: known[name] for name in wanted}}
    best = dict.fromkeys(calls, np.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = perf_counter()
            call()
            best[name] = min(best[name], 1e6 * (perf_counter() - began))
    ratios = {f"prior / {name}": round(best["prior"] / best[name], 3) for name in wanted}
    return {name: round(taken, 1) for name, taken in best.items()} | ratios


def records(rate: float) -> list[tuple[int, bytes]]:
    """Return stamped records of bids and notices, so many impressions a second."""
    rows, numbers = drawn_rows(), count()
    found: list[tuple[int, bytes]] = []

    def add(at_ms: float, event: Event) -> None:
        found.append((int(at_ms), encode(event)))

    for number in range(RECORDS_OF):
        at_ms, bid_id = int(BEGIN_MS + 1_000 * number / rate / WON), str(next(numbers))
        facts = msgspec.structs.replace(FACTS, bid_id=bid_id, auction_id=bid_id, bid_at_ms=at_ms)
        features = {"ad_features": pack(rows.ads[number]), "request_features": pack(rows.requests[number])}
        add(at_ms + 250, decision(msgspec.structs.replace(BID, facts=facts, **features)))
        if number % WON == 0:
            add(at_ms + 500, Notice(kind=NoticeKind.WIN, facts=facts, at_ms=at_ms))
            add(at_ms + 700, Notice(kind=NoticeKind.BILL, facts=facts, at_ms=at_ms, cost_micros=900))
        if number % (WON * CLICKED) == 0:
            add(at_ms + 9_000, Notice(kind=NoticeKind.CLICK, facts=facts, at_ms=at_ms))
    return sorted(found)


def learning(rate: float) -> dict[str, float]:
    """Return processor milliseconds a thousand impressions, and the ratio to bare decoding."""
    made, impressions = records(rate), RECORDS_OF / WON
    began = process_time()
    for _, value in made:
        decode(value)
    decoding = process_time() - began
    found, next_ms = learner.begin(60_000, 50_000, 30), BEGIN_MS
    began = process_time()
    for at_ms, value in made:
        event = decode(value)
        if at_ms >= next_ms:
            found.advance(next_ms - 5_000)
            next_ms += 1_000
        if isinstance(event, Decision):
            found.decided(event, at_ms)
        elif isinstance(event, Notice):
            found.told(event, at_ms)
    found.advance(next_ms + 120_000)
    taken = process_time() - began
    began = process_time()
    blob = found.blob()
    publishing = process_time() - began
    began = process_time()
    state = found.state()
    return {
        "impressions_a_second": rate,
        "learned": found.pending.counts.learned,
        "ms_a_thousand": round(1e6 * taken / impressions, 1),
        "of_decoding": round(taken / decoding, 2),
        "publish_ms": round(1e3 * publishing, 1),
        "save_ms": round(1e3 * (process_time() - began), 1),
        "blob_kb": len(blob or b"") // 1_024,
        "state_kb": len(state) // 1_024,
        "weights": int(np.count_nonzero(found.models[Target.CLICK].squares)),
    }


if __name__ == "__main__":
    print(json.dumps({"scoring": scoring(), "learning": [learning(rate) for rate in (10.0, 100.0)]}, indent=2))
