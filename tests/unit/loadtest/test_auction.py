"""The simulated exchange keeps the rules that real ones keep."""

from typing import Any

import pytest

from dsp.kernel.money import decimal_from_micros
from loadtest import auction
from loadtest.traffic import Request, Slot, Traffic


def request_with(**changes: Any) -> Request:
    traffic = Traffic(2)
    request = next(
        found
        for found in map(traffic.request, range(500))
        if found.slots[0].format == "banner" and len(found.slots) == 1 and not found.slots[0].deals
    )
    slot = request.slots[0]
    slots = (
        Slot(
            slot.imp_id,
            changes.get("format", slot.format),
            slot.size,
            slot.position,
            changes.get("floor", 0.5),
            changes.get("deals", {}),
        ),
    )
    payload = request.payload | changes.get("payload", {})
    return Request(request.id, request.source, b"", {}, request.user, request.property, slots, payload)


def bid_for(request: Request, **changes: Any) -> dict[str, Any]:
    width, height = map(int, request.slots[0].size.split("x"))
    bid = {
        "id": "b1",
        "impid": request.slots[0].imp_id,
        "price": 1.0,
        "adomain": ["shop.example"],
        "cat": ["IAB2"],
        "crid": "7",
        "cid": "3",
        "mtype": 1,
        "w": width,
        "h": height,
        "adm": "<a href='x'>ad</a>",
    }
    return bid | changes


def answer(request: Request, *bids: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": request.id, "cur": "USD", "seatbid": [{"seat": "dsp", "bid": list(bids)}]} | changes


def test_a_good_bid_is_read() -> None:
    request = request_with()
    offers, faults = auction.read(answer(request, bid_for(request)), request)
    assert faults == []
    assert [offer.price_micros_cpm for offer in offers] == [1_000_000]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"impid": "nope"}, "unknown_imp"),
        ({"price": 0}, "price"),
        ({"price": "1.0"}, "price"),
        ({"price": 1e9}, "price"),
        ({"price": 0.49}, "below_floor"),
        ({"adomain": []}, "no_adomain"),
        ({"adomain": ["blocked.example"]}, "blocked_advertiser"),
        ({"cat": ["IAB26"]}, "blocked_category"),
        ({"crid": ""}, "no_crid"),
        ({"mtype": 2}, "wrong_mtype"),
        ({"w": 1}, "wrong_size"),
        ({"adm": ""}, "no_markup"),
        ({"dealid": "no-such-deal"}, "unknown_deal"),
        ({"id": ""}, "bid_id"),
    ],
)
def test_a_bid_that_breaks_a_rule_is_dropped_and_named(changes: dict[str, Any], label: str) -> None:
    request = request_with(payload={"badv": ["blocked.example"]})
    offers, faults = auction.read(answer(request, bid_for(request, **changes)), request)
    assert offers == []
    assert label in faults


@pytest.mark.parametrize(("changes", "label"), [({"id": "other"}, "response_id"), ({"cur": "EUR"}, "currency")])
def test_a_response_that_is_not_ours_is_dropped(changes: dict[str, Any], label: str) -> None:
    request = request_with()
    assert auction.read(answer(request, bid_for(request), **changes), request) == ([], [label])
    assert auction.read(["not an object"], request) == ([], ["response_not_object"])


def offer_of(request: Request, price: float, **changes: Any) -> auction.Offer:
    offers, faults = auction.read(answer(request, bid_for(request, price=price, **changes)), request)
    assert not faults
    return offers[0]


def test_first_price_winner_pays_its_bid_and_second_price_a_cent_more_than_the_rival() -> None:
    offer = offer_of(request_with(), 2.0)
    assert auction.clear(offer, 1.5, first_price=True) == (True, 2_000_000, 1_500_000)
    assert auction.clear(offer, 1.5, first_price=False) == (True, 1_510_000, 1_500_000)
    assert auction.clear(offer, 1.995, first_price=False).price_micros_cpm == 2_000_000  # never above the bid


def test_the_floor_is_what_a_lone_bid_must_pay_in_a_second_price_auction() -> None:
    offer = offer_of(request_with(floor=0.8), 2.0)
    assert auction.clear(offer, 0.0, first_price=False).price_micros_cpm == 810_000


def test_the_rival_wins_when_it_bids_as_much_or_more() -> None:
    offer = offer_of(request_with(), 2.0)
    assert not auction.clear(offer, 2.0, first_price=True).won
    lost = auction.clear(offer, 3.0, first_price=True)
    assert (lost.won, lost.price_micros_cpm, lost.min_to_win_micros_cpm) == (False, 3_000_000, 3_010_000)


def test_a_deal_goes_before_the_open_auction_and_is_held_to_its_own_floor() -> None:
    request = request_with(floor=5.0, deals={"d1": (1.0, 3), "d2": (1.0, 1)})
    fixed, first = offer_of(request, 1.4, dealid="d1"), offer_of(request, 1.4, dealid="d2")
    assert auction.clear(fixed, 9.0, first_price=True) == (True, 1_000_000, 1_000_000)
    assert auction.clear(first, 9.0, first_price=True).price_micros_cpm == 1_400_000
    _, faults = auction.read(answer(request, bid_for(request, price=0.9, dealid="d1")), request)
    assert faults == ["below_floor"]
    dearer = offer_of(request_with(floor=0.1), 7.0)
    assert auction.best([dearer, fixed]) == {fixed.slot.imp_id: fixed}


def test_macros_are_replaced_and_prices_lose_nothing() -> None:
    request = request_with()
    offer = offer_of(request, 2.0)
    clearing = auction.clear(offer, 3.0, first_price=True)
    url = "https://n.example/loss?t=x&p=${AUCTION_PRICE}&r=${AUCTION_LOSS}&m=${AUCTION_MIN_TO_WIN}&i=${AUCTION_IMP_ID}"
    assert auction.substitute(url, request, offer, decimal_from_micros(1_234_567), clearing, 102) == (
        f"https://n.example/loss?t=x&p=1.234567&r=102&m=3.010000&i={offer.slot.imp_id}"
    )


def test_links_are_found_in_html_vast_and_native_markup() -> None:
    banner = '<a href="http://n/click?t=a.b&amp;x=1"><img src="https://cdn/x.png"></a><img src="http://n/imp?t=c.d">'
    vast = "<VAST><Impression><![CDATA[http://n/imp?t=v]]></Impression><ClickThrough>http://n/click?t=w</ClickThrough>"
    native = '{"native":{"link":{"url":"http:\\/\\/n\\/click?t=1"},"imptrackers":["http://n/imp?t=2"]}}'
    assert auction.links(banner, "/click") == ["http://n/click?t=a.b&x=1"]
    assert auction.links(banner, "/imp") == ["http://n/imp?t=c.d"]
    assert auction.links(vast, "/imp") == ["http://n/imp?t=v"]
    assert auction.links(vast, "/click") == ["http://n/click?t=w"]
    assert auction.links(native, "/click") == ["http://n/click?t=1"]


def test_the_advertisers_page_finds_the_conversion_pixel() -> None:
    landing = "https://shop.example/offer?utm=1&dsp_click_id=abc.def"
    assert auction.conversion_url(landing, "http://n:81/click?t=zzz") == "http://n:81/conv?t=abc.def"
    assert auction.conversion_url("https://shop.example/offer", "http://n:81/click?t=zzz") is None
