"""Bid, win, bill, click, convert through the real process; and what it says when it does not bid."""

import gzip
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from dsp.events.schema import Decision, NoticeKind, SampledRequest
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from tests.integration.bidder.world import (
    LANDING,
    World,
    bid_request,
    link,
    only_bid,
    price_at,
)
from tests.waiting import until

pytestmark = [pytest.mark.platform, pytest.mark.asyncio(loop_scope="module")]


async def test_a_bid_and_all_its_notices(bidder: World) -> None:
    await bidder.offer("warm")
    status, answer = await bidder.bid(bid_request("a1"))
    assert (status, answer["id"], answer["cur"], answer["seatbid"][0]["seat"]) == (200, "a1", "USD", "dsp")
    bid = only_bid(answer)
    assert bid["impid"] == "1"
    assert 1.0 < bid["price"] <= 5.0
    assert (bid["w"], bid["h"], bid["mtype"], bid["adid"], bid["cid"]) == (300, 250, 1, "100", "2")
    assert bid["adomain"] == ["shop.example"]

    assert await bidder.notify(price_at(bid["nurl"], "2.5")) == 200
    assert await bidder.notify(price_at(bid["burl"], "2.5")) == 200
    assert await bidder.notify(link(bid["adm"], "imp")) == 200
    async with bidder.session.get(link(bid["adm"], "click"), allow_redirects=False) as click:
        assert click.status == 302
        location = click.headers["Location"]
        assert click.headers["Cache-Control"].startswith("no-store")
    assert location.startswith(LANDING)
    (token,) = parse_qs(urlsplit(location).query)["dsp_click_id"]
    base = f"http://127.0.0.1:{bidder.notice_port}"
    assert await bidder.notify(f"{base}/conv?t={token}&rule=5") == 200

    notices = {notice.kind: notice for notice in await bidder.notices() if notice.facts.auction_id == "a1"}
    assert set(notices) == set(NoticeKind) - {NoticeKind.LOSS}
    assert notices[NoticeKind.BILL].cost_micros == 2_500
    assert notices[NoticeKind.BILL].clearing_micros_cpm == 2_500_000
    assert notices[NoticeKind.WIN].cost_micros == 0
    # What the line item's goal says a thousand are worth, of one: every notice tells, so the book needs no look-up.
    assert {notice.facts.value_micros for notice in notices.values()} == {5_000}
    assert (notices[NoticeKind.CONVERSION].conversion_rule_id, notices[NoticeKind.CONVERSION].value_micros) == (5, 9)


async def test_video_and_banner_in_one_request(bidder: World) -> None:
    request = bid_request("two")
    video = {"mimes": ["video/mp4"], "protocols": [2, 3], "w": 640, "h": 360, "minduration": 5, "maxduration": 30}
    request["imp"].append({"id": "2", "video": video, "bidfloor": 0.5})
    await until(lambda: _bids(bidder, request, 2))
    _, answer = await bidder.bid(request)
    by_imp = {bid["impid"]: bid for bid in answer["seatbid"][0]["bid"]}
    assert by_imp["2"]["adm"].startswith("<?xml")
    assert by_imp["2"]["mtype"] == 2
    assert await bidder.notify(link(by_imp["2"]["adm"], "imp")) == 200


async def _bids(bidder: World, request: dict[str, object], count: int) -> bool:
    _, answer = await bidder.bid(request)
    return bool(answer) and len(answer["seatbid"][0]["bid"]) == count


async def test_no_bid_is_204_with_a_counted_reason(bidder: World) -> None:
    before = await bidder.metric("dsp_no_bids_total", exchange="openrtb", reason="size")
    request = bid_request("n1")
    request["imp"][0]["banner"] = {"w": 1, "h": 1}
    assert await bidder.bid(request) == (204, {})
    assert await bidder.metric("dsp_no_bids_total", exchange="openrtb", reason="size") == before + 1


async def test_no_bid_with_a_body_where_the_profile_says_so(bidder: World) -> None:
    request = bid_request("n2", tmax=1)
    assert await bidder.bid(request, exchange="demo-second") == (200, {"id": "n2", "nbr": 15})


async def test_headers(bidder: World) -> None:
    await until(bidder.bidding)
    url = f"http://127.0.0.1:{bidder.bid_port}/openrtb2/openrtb"
    body = gzip.compress(json.dumps(bid_request("h1")).encode())
    headers = {"Content-Encoding": "gzip", "x-openrtb-version": "2.5", "Accept-Encoding": "gzip"}
    async with bidder.session.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["x-openrtb-version"] == "2.5"
        assert answer.headers["Content-Type"] == "application/json"
        assert int(answer.headers["Content-Length"]) > 0
        assert "Content-Encoding" not in answer.headers  # the profile does not ask for it
        assert "Python" not in answer.headers["Server"]
    async with bidder.session.post(url, data=b"{}", headers={"x-openrtb-version": "evil\tstuff"}) as answer:
        assert answer.status == 400
        assert answer.headers["x-openrtb-version"] == "2.6"
        assert await answer.read() == b""


async def test_a_test_request_is_answered_and_never_billed(bidder: World) -> None:
    await bidder.offer("warm")
    status, answer = await bidder.bid(bid_request("t1", test=1))
    assert status == 200
    bid = only_bid(answer)
    assert bid["price"] > 1.0
    # Whoever tries out the loop sees it work, and pays nothing at any price.
    assert await bidder.notify(price_at(bid["nurl"], "2.5")) == 200
    assert await bidder.notify(price_at(bid["burl"], "2.5")) == 200
    assert await bidder.notify(bid["burl"]) == 200
    told = [notice for notice in await bidder.notices() if notice.facts.auction_id == "t1"]
    assert [(one.kind, one.cost_micros, one.clearing_micros_cpm) for one in told] == [
        (NoticeKind.WIN, 0, 0),
        (NoticeKind.BILL, 0, 0),
    ]


async def test_ready_answers(bidder: World) -> None:
    async with bidder.session.get(f"http://127.0.0.1:{bidder.bid_port}/ready") as answer:
        assert (answer.status, await answer.text()) == (200, "1")


async def test_sampled_requests_and_decisions_reach_the_log(bidder: World) -> None:
    await bidder.offer("d1")
    await until(lambda: _depth_zero(bidder))
    decisions = await bidder.events("decisions", Decision)
    (decision,) = [one for one in decisions if one.auction_id == "d1" and one.bids]
    (bid,) = decision.bids
    assert decision.feature_hash == FEATURE_HASH
    assert len(bid.request_features) == 8 * len(REQUEST_COLUMNS)
    assert len(bid.ad_features) == 8 * len(AD_COLUMNS)
    sampled = await bidder.events("requests", SampledRequest)
    assert {"d1"} <= {one.auction_id for one in sampled}
    (request,) = [one for one in sampled if one.auction_id == "d1" and one.outcome == "bid"]
    assert json.loads(request.body) == bid_request("d1")


async def _depth_zero(bidder: World) -> bool:
    return await bidder.metric("dsp_outbox_depth") == 0
