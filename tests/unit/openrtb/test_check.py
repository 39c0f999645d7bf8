"""The self-check: a bid that keeps every rule passes, and each rule broken drops it under its own label."""

from typing import Any

import msgspec
import pytest

from dsp.openrtb.check import CHECKS, check, judge
from dsp.openrtb.request import BidRequest
from dsp.openrtb.response import Bid, BidExt, BidResponse, Disclosure, SeatBid
from dsp.openrtb.template import Template, mark

RATES = {"USD": 1.0, "EUR": 1.1, "IDR": 0.00006, "BTC": 100_000.0}
VAST = '<?xml version="1.0"?><VAST version="3.0" xmlns="http://www.iab.com/VAST"></VAST>'


def _request(imp: dict[str, Any] | None = None, **fields: Any) -> BidRequest:
    slot = {"id": "1", "banner": {"w": 300, "h": 250}, **(imp or {})}
    return msgspec.convert({"id": "a", "imp": [slot], **fields}, BidRequest)


def _bid(**fields: Any) -> Bid:
    standard: dict[str, Any] = {
        "id": "b",
        "impid": "1",
        "price": 1.0,
        "adm": '<a href="https://x"><img src="https://x"></a>',
        "adomain": ["ford.com"],
        "w": 300,
        "h": 250,
        "mtype": 1,
        "nurl": "http://127.0.0.1/win?p=${AUCTION_PRICE}",
    }
    return Bid(**{**standard, **fields})


def _labels(request: BidRequest, *bids: Bid, seat: str = "dsp", **fields: Any) -> list[str]:
    response = BidResponse(**{"id": "a", "cur": "USD", "seatbid": [SeatBid(bid=list(bids), seat=seat)], **fields})
    checked, labels = check(response, request, rates=RATES)
    kept = [] if checked is None else [bid for one in checked.seatbid for bid in one.bid]
    assert len(kept) + len(labels) == len(bids)
    assert checked is None or kept  # without a bid there is no response
    assert set(labels) <= set(CHECKS)
    return labels


def test_a_good_bid_passes() -> None:
    assert _labels(_request(), _bid()) == []


VIDEO = {"banner": None, "video": {"mimes": ["video/mp4"], "minduration": 5, "maxduration": 30, "protocols": [2, 3]}}
TIMED = {
    "banner": None,
    "video": {},
    "pmp": {
        "deals": [
            {"id": "D", "bidfloor": 2.0, "mincpmpersec": 0.2},
            {"id": "E", "bidfloor": 2.0, "durfloors": [{"maxdur": 15, "bidfloor": 4.0}]},
            {"id": "F", "bidfloor": 2.0, "mincpmpersec": 0.2, "at": 3},
        ]
    },
}
PAYER = BidExt(Disclosure(behalf="Ford", paid="Ford", adrender=0))
SPOT = {"mtype": 2, "adm": VAST, "w": 640, "h": 360}
DEALS = {"pmp": {"private_auction": 1, "deals": [{"id": "D", "bidfloor": 2.0, "wadomain": ["ford.com"]}]}}


@pytest.mark.parametrize(
    ("imp", "fields", "bid", "want"),
    [
        ({}, {}, {"impid": "2"}, "impression"),
        ({}, {}, {"id": ""}, "bid_id"),
        ({}, {}, {"price": 0.0}, "price"),
        ({}, {}, {"price": -1.0}, "price"),
        ({}, {}, {"price": float("nan")}, "price"),
        ({}, {}, {"price": 1e9}, "price"),
        ({}, {}, {"price": float("inf")}, "price"),
        # Floors
        ({"bidfloor": 1.01}, {}, {}, "floor"),
        ({"bidfloor": 1.0}, {}, {}, ""),
        ({"bidfloor": 0.95, "bidfloorcur": "EUR"}, {}, {}, "floor"),
        ({"bidfloor": 0.9, "bidfloorcur": "EUR"}, {}, {}, ""),
        ({"bidfloor": 0.9, "bidfloorcur": "XYZ"}, {}, {}, "floor"),
        ({"bidfloor": float("nan")}, {}, {}, "floor"),
        ({"bidfloor": float("inf")}, {}, {}, "floor"),
        ({"bidfloor": 1.0}, {}, {"price": 0.99}, "floor"),
        ({"bidfloor": 0.0, "bidfloorcur": "XYZ"}, {}, {}, ""),
        # Deals
        (DEALS, {}, {}, "private_auction"),
        (DEALS, {}, {"dealid": "E", "price": 3.0}, "deal"),
        (DEALS, {}, {"dealid": "D", "price": 3.0, "adomain": ["audi.com"]}, "deal"),
        (DEALS, {}, {"dealid": "D", "price": 3.0, "adomain": ["cars.ford.com"]}, ""),
        (DEALS, {}, {"dealid": "D", "price": 3.0, "adomain": ["afford.com"]}, "deal"),
        (DEALS, {}, {"dealid": "D", "price": 1.9}, "floor"),
        (DEALS, {}, {"dealid": "D", "price": 2.0}, ""),
        ({"bidfloor": 9.0, **DEALS}, {}, {"dealid": "D", "price": 2.0}, ""),
        ({"bidfloorcur": "EUR", "pmp": {"deals": [{"id": "D", "bidfloor": 1.0}]}}, {}, {"dealid": "D"}, ""),
        ({}, {}, {"dealid": "D"}, "deal"),
        ({"pmp": {"private_auction": 0, "deals": [{"id": "D", "bidfloor": 2.0}]}}, {}, {}, ""),
        # Format, size, duration, protocol
        ({}, {}, {"mtype": 2}, "format"),
        ({}, {}, {"mtype": 0}, "format"),
        ({}, {}, {"mtype": 9}, "format"),
        ({}, {}, {"w": 728, "h": 90}, "size"),
        ({"banner": {"format": [{"w": 728, "h": 90}]}}, {}, {"w": 728, "h": 90}, ""),
        ({"banner": {}}, {}, {"w": 1, "h": 1}, ""),
        ({"banner": {"w": 300}}, {}, {}, "size"),
        ({"banner": {"format": [{"wratio": 16, "hratio": 9}]}}, {}, {}, "size"),
        ({"banner": {"api": [5]}}, {}, {"apis": [5]}, ""),
        ({"video": {"api": [5]}}, {}, {"apis": [5]}, "api"),
        (VIDEO, {}, SPOT, ""),
        ({"banner": None, "video": {"linearity": 2}}, {}, SPOT, "format"),
        ({"banner": None, "video": {"linearity": 1}}, {}, SPOT, ""),
        (VIDEO, {}, {**SPOT, "dur": 31}, "duration"),
        ({"banner": None, "video": {"poddur": 15, "maxduration": 30}}, {}, {**SPOT, "dur": 30}, "duration"),
        ({"banner": None, "video": {"poddur": 15, "maxduration": -1}}, {}, {**SPOT, "dur": 15}, ""),
        (VIDEO, {}, {**SPOT, "dur": 4}, "duration"),
        (VIDEO, {}, {**SPOT, "dur": 5}, ""),
        (VIDEO, {}, {**SPOT, "dur": 30, "protocol": 3}, ""),
        (VIDEO, {}, {**SPOT, "protocol": 7}, "protocol"),
        ({"banner": None, "video": {}}, {}, {**SPOT, "protocol": 7}, ""),
        ({"banner": None, "video": {"protocol": [3]}}, {}, {**SPOT, "protocol": 7}, "protocol"),
        ({"banner": None, "audio": {}}, {}, {**SPOT, "mtype": 3}, ""),
        ({}, {}, {**SPOT, "mtype": 3}, "format"),
        ({"banner": None, "video": {"rqddurs": [15, 30]}}, {}, {**SPOT, "dur": 20}, "duration"),
        ({"banner": None, "video": {"mincpmpersec": 0.1}}, {}, {**SPOT, "dur": 15}, "floor"),
        ({"banner": None, "video": {"durfloors": [{"maxdur": 15, "bidfloor": 2}]}}, {}, {**SPOT, "dur": 15}, "floor"),
        ({"banner": None, "video": {"durfloors": [{"maxdur": 15, "bidfloor": 2}]}}, {}, {**SPOT, "dur": 16}, ""),
        ({"banner": None, "video": {"durfloors": [{"mindur": 15, "bidfloor": 2}]}}, {}, {**SPOT, "dur": 15}, "floor"),
        (TIMED, {}, {**SPOT, "dealid": "D", "dur": 15, "price": 2.9}, "floor"),
        (TIMED, {}, {**SPOT, "dealid": "D", "dur": 15, "price": 3.0}, ""),
        (TIMED, {}, {**SPOT, "dealid": "E", "dur": 15, "price": 3.9}, "floor"),
        (TIMED, {}, {**SPOT, "dealid": "E", "dur": 16, "price": 2.0}, ""),
        (TIMED, {}, {**SPOT, "dealid": "F", "dur": 15, "price": 2.0}, ""),
        # Markup
        ({}, {}, {"adm": ""}, "markup"),
        (VIDEO, {}, {**SPOT, "adm": "<div>"}, ""),
        (VIDEO, {}, {**SPOT, "adm": "{}"}, "markup"),
        ({"native": {}}, {}, {"mtype": 4, "adm": "<div>"}, "markup"),
        ({}, {}, {"nurl": "https://x?p=${AUCTION_PRIZE}"}, "macro"),
        ({}, {}, {"adm": "<p>${AUCTION_PRICE:X} ${other}"}, ""),
        # Kinds of banner that the slot blocks
        ({"banner": {"w": 300, "h": 250, "btype": [1, 3, 4]}}, {}, {}, ""),
        ({"banner": {"w": 300, "h": 250, "btype": [3]}}, {}, {"adm": '<SCRIPT src="https://x"></SCRIPT>'}, "attribute"),
        ({"banner": {"w": 300, "h": 250, "btype": [4]}}, {}, {"adm": "<p><iframe src='https://x'>"}, "attribute"),
        ({"banner": {"w": 300, "h": 250, "btype": [4]}}, {}, {"adm": "<script>1</script>"}, ""),
        # Secure
        ({"secure": 1}, {}, {}, ""),
        ({"secure": 1}, {}, {"adm": '<img src="http://x">'}, "secure"),
        ({}, {}, {"adm": '<img src="http://x">'}, ""),
        ({"bidfloor": 1.0, "bidfloorcur": " usd "}, {"cur": ["usd "]}, {"price": 1.5}, ""),
        ({"bidfloor": 2.0, "bidfloorcur": " usd "}, {"cur": [" "]}, {"price": 1.5}, "floor"),
        ({"secure": 1}, {}, {"adm": "<img src = 'HTTP://x'>"}, "secure"),
        ({"secure": 1}, {}, {"adm": "<img src=http://x>"}, "secure"),
        ({"secure": 1}, {}, {"adm": "<i style=\"background:url( 'http://x')\">"}, "secure"),
        ({"secure": 1}, {}, {"adm": "<i style=background:url(http://x)>"}, "secure"),
        ({"secure": 1}, {}, {"adm": '<i style="background:url(&quot;http://x&quot;)">'}, "secure"),
        ({"secure": 1}, {}, {"adm": '<script>new Image().src="http://x"</script>'}, "secure"),
        ({"secure": 1}, {}, {"adm": "<script>new Image().src=`http://x`</script>"}, "secure"),
        ({"secure": 1}, {}, {"adm": '<a href="http://landing.example">go to http://landing.example</a>'}, ""),
        ({"secure": 1, **VIDEO}, {}, SPOT, ""),
        ({"secure": 1, **VIDEO}, {}, {**SPOT, "adm": "<VAST><Impression><![CDATA[http://x]]></Impression>"}, "secure"),
        ({"secure": 1, **VIDEO}, {}, {**SPOT, "adm": "<VAST><Impression> http://x</Impression>"}, "secure"),
        ({"secure": 1, **VIDEO}, {}, {**SPOT, "adm": "<VAST><ClickThrough><![CDATA[http://x]]></ClickThrough>"}, ""),
        ({"secure": 1, "native": {}}, {}, {"mtype": 4, "adm": '{"imptrackers":["http://x"]}'}, "secure"),
        ({"secure": 1, "native": {}}, {}, {"mtype": 4, "adm": '{"link":{"url":"http://x"}}'}, ""),
        # Text to read.
        ({"secure": 1}, {}, {"adm": "<p><b>http://x</b> (http://x)</p>"}, ""),
        (
            {"secure": 1, "native": {}},
            {},
            {"mtype": 4, "adm": '{"assets":[{"title":{"text":"http://x \\"http://x"}}]}'},
            "",
        ),
        ({"secure": 1, "native": {}}, {}, {"mtype": 4, "adm": '{"assets":[{"data":{"value":"http://x"}}]}'}, ""),
        ({"secure": 1, "native": {}}, {}, {"mtype": 4, "adm": '{"assets":[{"img":{"url":"http://x"}}]}'}, "secure"),
        ({"secure": 1}, {}, {"adm": "<script>v='<VAST><MediaFile>http://x</MediaFile></VAST>'</script>"}, "secure"),
        # Blocks
        ({}, {"badv": ["www.Ford.com"]}, {}, "advertiser"),
        ({}, {"badv": ["ford.com"]}, {"adomain": ["cars.ford.com"]}, "advertiser"),
        ({}, {"badv": ["cars.ford.com"]}, {}, ""),
        ({}, {"badv": ["afford.com"]}, {}, ""),
        ({}, {}, {"adomain": []}, "advertiser"),
        ({}, {"regs": {"ext": {}}}, {}, ""),
        ({}, {"regs": {"ext": {"dsa": {"dsarequired": 1}}}}, {}, ""),
        ({}, {"regs": {"ext": {"dsa": {"dsarequired": 2, "pubrender": 1}}}}, {"ext": BidExt()}, "disclosure"),
        ({}, {"regs": {"ext": {"dsa": {"dsarequired": 2, "pubrender": 1}}}}, {}, "disclosure"),
        ({}, {"regs": {"ext": {"dsa": {"dsarequired": 2, "pubrender": 1}}}}, {"ext": PAYER}, ""),
        ({}, {"regs": {"ext": {"dsa": {"dsarequired": 3, "pubrender": 0}}}}, {"ext": PAYER}, "disclosure"),
        ({}, {"bapp": ["com.Ford.app"]}, {"bundle": "com.ford.App"}, "app"),
        ({}, {"bapp": ["com.ford"]}, {"bundle": "com.ford.app"}, ""),
        ({}, {"bcat": ["iab2"]}, {"cat": ["IAB2-3"]}, "category"),
        ({}, {"bcat": ["IAB2-3"]}, {"cat": ["IAB2"]}, ""),
        ({}, {"bcat": ["483"], "cattax": 6}, {"cat": ["IAB2"]}, "category"),
        ({}, {"bcat": ["483"], "cattax": 6}, {}, "category"),
        ({}, {"bcat": ["483"], "cattax": 6}, {"cat": ["483"], "cattax": 6}, "category"),
        ({}, {"bcat": ["483"], "cattax": 6}, {"cat": ["53"], "cattax": 6}, ""),
        ({}, {"bcat": ["IAB7"], "cattax": 6}, {"cat": ["IAB2"]}, ""),
        ({}, {"bcat": [], "cattax": 6}, {"cat": ["IAB2"]}, ""),
        ({}, {"acat": ["IAB2"]}, {}, "category"),
        ({}, {"acat": ["IAB2"]}, {"cat": ["53"], "cattax": 7}, "category"),
        ({"bcat": [19]}, {}, {"cat": ["19"]}, "category"),
        ({}, {"acat": ["IAB1"]}, {"cat": ["IAB2"]}, "category"),
        ({}, {"acat": ["IAB1"]}, {"cat": ["IAB1-2"]}, ""),
        ({"banner": {"w": 300, "h": 250, "battr": [1, 6]}}, {}, {"attr": [6]}, "attribute"),
        ({}, {"wlang": ["de"]}, {"language": "en"}, "language"),
        ({"banner": {"w": 300, "h": 250, "battr": [1]}}, {}, {"attr": [6]}, ""),
        ({}, {"wlang": ["de"]}, {"language": "de"}, ""),
        ({}, {"wlang": ["EN-us"]}, {"language": "en-GB"}, ""),
        ({}, {"wlang": ["iw"]}, {"language": "he"}, ""),
        ({}, {"wlang": ["de"]}, {}, ""),
        ({}, {"wlangb": ["de"]}, {"language": "en"}, "language"),
        ({}, {}, {"language": "en"}, ""),
    ],
)
def test_each_rule(imp: dict[str, Any], fields: dict[str, Any], bid: dict[str, Any], want: str) -> None:
    assert _labels(_request(imp, **fields), _bid(**bid)) == ([want] if want else [])


@pytest.mark.parametrize(
    ("currency", "price", "floor", "want"),
    [
        ("IDR", 70_000.0, 4.0, ""),  # 4.20 dollars
        ("IDR", 66_000.0, 4.0, "floor"),
        ("IDR", 200_000_000.0, 0.0, "price"),
        ("BTC", 0.00004, 4.0, ""),
        ("BTC", 0.000012, 1.25, ""),  # the last decimal is ten cents: as near as the currency allows
        ("BTC", 0.2, 0.0, "price"),
    ],
)
def test_prices_are_judged_in_the_book_s_currency(currency: str, price: float, floor: float, want: str) -> None:
    request = _request({"bidfloor": floor, "bidfloorcur": "USD"}, cur=[currency])
    assert _labels(request, _bid(price=price), cur=currency) == ([want] if want else [])


@pytest.mark.parametrize(
    ("fields", "response", "seat", "want"),
    [
        ({}, {"id": "other"}, "dsp", "request_id"),
        ({"cur": ["EUR"]}, {}, "dsp", "currency"),
        ({"cur": ["EUR", "usd"]}, {}, "dsp", ""),
        ({}, {"cur": ""}, "dsp", ""),
        ({"wseat": ["x"]}, {}, "dsp", "seat"),
        ({"wseat": ["dsp"]}, {}, "dsp", ""),
        ({"bseat": ["dsp"]}, {}, "dsp", "seat"),
        ({"bseat": ["x"]}, {}, "dsp", ""),
    ],
)
def test_the_response_as_a_whole(fields: dict[str, Any], response: dict[str, Any], seat: str, want: str) -> None:
    bids = _bid(), _bid(id="c")
    assert _labels(_request(**fields), *bids, seat=seat, **response) == ([want] * 2 if want else [])


def test_a_broken_bid_does_not_cost_the_others() -> None:
    response = BidResponse(id="a", seatbid=[SeatBid(bid=[_bid(price=-1.0)]), SeatBid(bid=[_bid(id="2"), _bid(id="2")])])
    checked, labels = check(response, _request())
    assert checked is not None
    assert [[bid.id for bid in seat.bid] for seat in checked.seatbid] == [["2"]]
    assert labels == ["price", "bid_id"]


def test_bids_are_bounded() -> None:
    response = BidResponse(id="a", seatbid=[SeatBid(bid=[_bid(id=str(n)) for n in range(5)])])
    checked, labels = check(response, _request(), bids_max=3)
    assert checked is not None
    assert len(checked.seatbid[0].bid) == 3
    assert labels == ["bids_max"] * 2


def test_a_repeated_impression_id_cannot_be_bid_on() -> None:
    slot = {"id": "1", "banner": {"w": 300, "h": 250}}
    request = msgspec.convert({"id": "a", "imp": [slot, slot, {**slot, "id": "2"}]}, BidRequest)
    checked, labels = check(BidResponse(id="a", seatbid=[SeatBid(bid=[_bid(), _bid(id="c", impid="2")])]), request)
    assert checked is not None
    assert ([bid.id for bid in checked.seatbid[0].bid], labels) == (["c"], ["impression"])


TOKEN = "01m807m562x0jsmrxvp59q3cph.CGgLUAGfIiCo"


@pytest.mark.parametrize(
    ("adm", "nurl", "want"),
    [
        (f'<img src="https://x?{mark(0)}">', "", ""),
        (f'<img src="http://x?{mark(0)}">', "", "secure"),
        (f'<p id="{mark(0)}">${{AUCTION_PRIZE}}', "", "macro"),
        ("<p>", f"https://x?{mark(0)}=${{AUCTION_PRIZE}}", "macro"),
        ("", "", "markup"),
    ],
    ids=range(5),  # marks differ from process to process
)
def test_what_is_judged_of_a_template_holds_of_every_bid_that_is_filled_from_it(adm: str, nurl: str, want: str) -> None:
    written = _bid(adm=adm, nurl=nurl)
    filled = _bid(adm=Template(adm).fill([TOKEN]), nurl=Template(nurl).fill([TOKEN]))
    assert judge(written) == judge(filled)
    for bid, judged in ((filled, {}), (_bid(adm=""), {"b": judge(written)})):
        response = BidResponse(id="a", cur="USD", seatbid=[SeatBid(bid=[bid])])
        _, labels = check(response, _request({"secure": 1}), rates=RATES, judged=judged)
        assert labels == ([want] if want else [])
