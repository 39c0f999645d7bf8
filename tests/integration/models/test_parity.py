"""Features and scores of the running bidder equal those computed offline from what it stored."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dsp import registry
from dsp.cache.local import LocalBlobStore
from dsp.events.schema import Decision, SampledRequest
from dsp.kernel.config import Platform
from dsp.openrtb.codec import decode_request
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.profile import load_profiles
from dsp.privacy.policy import permissions
from dsp.snapshot import codec
from models.features.columns import FEATURE_HASH, REQUEST_COLUMNS
from models.features.encode import ad_rows, request_row
from models.serving import bundle
from models.serving.predictor import predict
from tests.integration.bidder.world import World, bid_request, catalogue, world
from tests.waiting import until

SEGMENTS = ["gamer", "auto", "über", "", "travel", "fashion", "news", "7", "foodie"]
KEY = b"another key than the bidder's, which no feature may depend on"


def requests() -> list[dict[str, Any]]:
    """Return requests that differ in everything that features read; every user is seen once."""
    made = []
    for number in range(24):
        request = bid_request(f"parity-{number}")
        segments = [{"id": name} for name in SEGMENTS[: number % 9]]
        request["user"] = {"id": f"parity user {number}", "data": [{"segment": segments}]}
        request["site"] |= {"domain": f"Site{number % 5}.example", "cat": ["IAB2-3", "IAB19", "IAB2-1"][: number % 4]}
        request["device"] |= {
            "ua": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
            "devicetype": (1, 2, 4, 5)[number % 4],
            "language": ("en", "DE", "")[number % 3],
            "connectiontype": number % 7,
            "geo": {"country": "USA", "region": "CA", "city": "Los Angeles", "utcoffset": 60 * (number - 12)},
            "lmt": int(number % 6 == 5),
        }
        request["imp"][0] |= {"tagid": f"tag {number % 3}", "instl": number % 2, "bidfloor": 0.01 * number}
        request["imp"][0]["banner"]["pos"] = number % 8
        made.append(request)
    return made


async def logged(made: World, wanted: int) -> dict[str, Decision]:
    """Return the decisions by auction id once all have been logged, and none of the probes."""

    async def found() -> dict[str, Decision]:
        events = await made.events("decisions", Decision)
        return {event.auction_id: event for event in events if event.auction_id.startswith("parity")}

    return dict(await until(lambda: _enough(found(), wanted)))


async def sampled(made: World, wanted: Collection[str]) -> dict[str, SampledRequest]:
    """Return the requests by auction id once those wanted are there: their topic is written apart from decisions."""

    async def found() -> dict[str, SampledRequest]:
        events = {event.auction_id: event for event in await made.events("requests", SampledRequest)}
        return events if events.keys() >= set(wanted) else {}

    return dict(await until(found))


async def _enough(found: Any, wanted: int) -> Any:
    decisions = await found
    return decisions if len(decisions) >= wanted else None


async def _bid(made: World, request: dict[str, Any]) -> bool:
    return (await made.bid(request))[0] == 200


async def test_features_and_scores_are_the_same_offline(tmp_path: Path, trained: Path) -> None:
    async with world(tmp_path) as made:
        shutil.copytree(trained / "models", made.data / "models")
        await made.publish(catalogue())
        await made.start()
        await until(made.ready)
        await until(made.bidding)
        for request in requests():
            await until(lambda request=request: _bid(made, request))  # a burst may have to wait for its lease
        decisions = await logged(made, len(requests()))
        raw = await sampled(made, decisions.keys())
        blob = await LocalBlobStore(made.data / "blobs").get("snapshot")
        await made.stop()

    assert blob is not None
    snapshot = codec.decode(blob[1])
    profiles = load_profiles(made.exchanges)
    ads = {creative.id: row for creative, row in zip(snapshot.creatives, ad_rows(snapshot), strict=True)}
    version = registry.resolve(trained / "models", bundle.CHAMPION)
    assert version is not None
    predictor = bundle.load(trained / "models", version).predictor
    rows = []
    for auction_id, decision in decisions.items():
        stored = raw[auction_id]
        request = decode_request(stored.body)
        profile = profiles[stored.exchange]
        offline, _ = opportunities(request, profile, permissions(request, 0, ""), Platform().rates, KEY, stored.at_ms)
        (bid,) = decision.bids
        row = request_row(offline[0], None)
        rows.append(row)
        assert decision.feature_hash == FEATURE_HASH
        assert row.tobytes() == bid.request_features
        assert ads[bid.facts.creative_id].tobytes() == bid.ad_features
        # Scores too: the bidder served the champion, and its logged features give the logged probabilities.
        assert decision.model_version == version
        again = predict(
            predictor,
            np.frombuffer(bid.request_features, "<i8"),
            np.frombuffer(bid.ad_features, "<i8").reshape(1, -1),
        )
        assert bid.pctr == again.pctr[0]
        assert bid.pcvr == again.pcvr[0]
    # The requests did differ where they were meant to.
    differing = (np.array(rows) != rows[0]).any(axis=0)
    varied = {name for name, differs in zip(REQUEST_COLUMNS, differing, strict=True) if differs}
    expected = {"domain", "device", "language", "hour", "position", "placement", "segment_1", "content_category_2"}
    assert expected <= varied
