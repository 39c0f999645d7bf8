"""Whatever a stranger sends, the wire answers with an opportunity or with a reason, never with another exception."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.catalog.reasons import Exclusion
from dsp.kernel.errors import InputError
from dsp.openrtb import native
from dsp.openrtb.check import CHECKS, check
from dsp.openrtb.codec import decode_request, encode_response, validate
from dsp.openrtb.macros import expand, unknown
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.price import GooglePrice, PlainPrice
from dsp.openrtb.profile import Profile
from dsp.openrtb.response import Bid, BidResponse, SeatBid
from dsp.openrtb.tracker import Tracker, TrackerEvent
from dsp.privacy import consent, gpp
from dsp.privacy.bits import CHARS_MAX
from dsp.privacy.policy import permissions
from tests.opportunities import made_again

PROFILE = Profile(name="fuzz", impressions_max=8)
RATES = {"USD": 1.0, "EUR": 1.1}
KEY = b"a key of at least sixteen bytes"

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


GOOD: dict[str, Any] = {
    "id": "a",
    "imp": [
        {
            "id": "1",
            "banner": {"w": 300, "h": 250, "format": [{"w": 728, "h": 90}], "battr": [1], "api": [3], "mimes": ["x"]},
            "video": {"mimes": ["video/mp4"], "maxduration": 30, "protocols": [2], "rqddurs": [15], "plcmt": 1},
            "audio": {"mimes": ["audio/mp4"], "durfloors": [{"mindur": 1, "bidfloor": 2}]},
            "native": {"request": '{"assets":[{"id":1,"title":{"len":20}}]}'},
            "pmp": {"private_auction": 0, "deals": [{"id": "d", "bidfloor": 1.5, "at": 3, "wseat": ["1"]}]},
            "bidfloor": 0.5,
            "bidfloorcur": "USD",
            "secure": 1,
            "ext": {"rwdd": 1},
        },
        {"id": "2", "banner": {"w": 300, "h": 250}, "bcat": [3]},
    ],
    "site": {"domain": "x.example", "publisher": {"id": "p"}, "cat": ["IAB1"], "content": {"language": "en"}},
    "device": {
        "ua": "Mozilla/5.0",
        "geo": {"country": "USA", "region": "CA", "city": "x", "zip": "1", "utcoffset": -60},
        "sua": {"browsers": [{"brand": "B", "version": ["1"]}], "platform": {"brand": "macOS", "version": ["1"]}},
        "ifa": "i",
        "devicetype": 4,
        "language": "en",
    },
    "user": {
        "id": "u",
        "data": [{"segment": [{"id": "s"}]}],
        "ext": {
            "consent": "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA",
            "eids": [{"source": "s", "uids": [{"id": "i"}]}],
        },
    },
    "regs": {"gpp": "DBABM~A", "gpp_sid": [2], "ext": {"gdpr": 1, "us_privacy": "1YNN"}},
    "source": {"ext": {"schain": {"complete": 1}}},
    "cur": ["USD"],
    "bcat": ["IAB25"],
    "badv": ["ford.com"],
    "wlang": ["en"],
    "at": 1,
    "tmax": 100,
}
VALID = json.dumps(GOOD).encode()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 3, -1, 0.5, 2**31, 2**63, 10**40, 1e308, -1e308]),
    st.sampled_from(["", "1", "USD", "nan", "1e999", "{}", "http://x", "US", "DEU", "1YYN", "x" * 600, "\x00\u202e"]),
    st.text(max_size=8),
)
ODD = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["id", "w", "request", "gdpr", "consent", "language"]), SCALARS, max_size=3),
    st.lists(st.dictionaries(st.sampled_from(["id", "bidfloor", "brand"]), SCALARS, max_size=2), max_size=2),
)


def _twisted(changes: list[tuple[int, Any]]) -> dict[str, Any]:
    """Return the good request with the value at each numbered place replaced."""
    request = json.loads(VALID)
    for number, value in changes:
        places = list(_places(request))
        holder, key = places[number % len(places)]
        holder[key] = value
    return request  # type: ignore[no-any-return]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


REQUEST = st.lists(st.tuples(st.integers(0, 5_000), ODD), max_size=5).map(_twisted)


def _refused(fault: InputError, *prefixes: str) -> list[Opportunity]:
    assert fault.reason.startswith(prefixes or "")
    assert fault.reason.isascii()
    assert fault.status == 400
    return []


def _understand(body: bytes, encoding: str = "") -> list[Opportunity]:
    """Return what a body becomes, none if it is refused; anything but InputError escapes and fails the test."""
    try:
        request = decode_request(body, encoding=encoding)
        validate(request)
    except InputError as fault:
        return _refused(fault)
    allowed = permissions(request, 7, "")
    found, refused = opportunities(request, PROFILE, allowed, RATES, KEY, 0)
    assert len(found) + len(refused) == len(request.imp)
    assert all(Exclusion(label) for _, label in refused)
    for opportunity in found:
        assert made_again(opportunity) == opportunity
        numbers = (opportunity.position, opportunity.connection, opportunity.utc_offset_minutes, *opportunity.apis)
        assert all(abs(number) < 2**31 for number in numbers)
        assert 0 <= opportunity.floor_micros_cpm <= 10_000_000_000
    return found


@given(st.binary(max_size=400), st.sampled_from(["", "gzip", "deflate", "br", "x-gzip"]))
def test_any_bytes(body: bytes, encoding: str) -> None:
    _understand(body, encoding)


@settings(max_examples=300)
@given(REQUEST, st.sampled_from(["", "gzip", "deflate"]))
def test_a_good_request_with_values_replaced(request: dict[str, Any], encoding: str) -> None:
    body = json.dumps(request).encode()
    _understand({"": body, "gzip": gzip.compress(body), "deflate": zlib.compress(body)}[encoding], encoding)


def test_the_request_that_is_mutated_is_a_good_one() -> None:
    assert len(_understand(VALID)) == 2


@settings(max_examples=300)
@given(st.data())
def test_a_good_request_with_bytes_changed(data: st.DataObject) -> None:
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["change", "drop", "insert"]))
        if kind == "change":
            body[place] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del body[place : place + data.draw(st.integers(1, 30))]
        else:
            body[place:place] = data.draw(
                st.sampled_from([b'"', b"{", b"]", b",", b"null", b"1e400", b"\\ud800", b"\xff"])
            )
        if not body:
            break
    _understand(bytes(body))


@given(st.binary(max_size=200))
def test_a_good_compressed_request_followed_by_anything(tail: bytes) -> None:
    _understand(gzip.compress(VALID) + tail, "gzip")


CODE = st.text(alphabet=ALPHABET + ".~=", max_size=400)


@given(st.one_of(CODE, st.text(max_size=60), CODE.map(lambda text: "C" + text)), st.integers(-1, 70_000))
def test_any_consent_string(text: str, vendor: int) -> None:
    assert consent.basis(text, vendor).purposes <= set(range(1, 25))


@given(st.one_of(CODE.map(lambda text: "DB" + text), CODE, st.text(max_size=60)), st.integers(-5, 60))
def test_any_gpp_string(text: str, section: int) -> None:
    held = gpp.sections(text)
    for number, body in (held or {section: text}).items():
        assert gpp.opted_out(number, body) in (True, False)


def test_a_consent_string_made_to_be_slow_is_not() -> None:
    """All ones ask for 65,535 vendors in ranges and thousands of restrictions; the string's length bounds the work."""
    assert consent.basis("C" + "_" * (CHARS_MAX - 1), 5) == consent.NO_BASIS


@given(st.text(max_size=60), st.sampled_from([PlainPrice(), GooglePrice(b"e" * 32, b"i" * 32)]))
def test_any_price_text(text: str, one: PlainPrice | GooglePrice) -> None:
    try:
        assert 0 <= one.decrypt(text) <= 1e9
    except InputError as fault:
        _refused(fault, "price_")


@given(st.one_of(st.text(max_size=80), ODD.map(lambda odd: json.dumps({"assets": odd})), ODD.map(json.dumps)))
def test_any_native_request(text: str) -> None:
    assets = native.NativeAssets(title="t", data={1: "d"})
    trackers = [Tracker(event=TrackerEvent.IMPRESSION, url="https://i/")]
    try:
        assert json.loads(native.respond(text, assets, click_url="https://c/", trackers=trackers))
    except InputError as fault:
        _refused(fault, "native_")


@given(st.text(max_size=200), st.dictionaries(st.just("AUCTION_PRICE"), st.text(max_size=5)))
def test_any_text_with_macros(text: str, values: dict[str, str]) -> None:
    assert unknown(text) == [] or "${AUCTION_" in text
    assert "${AUCTION_PRICE}" not in expand(text, {"AUCTION_PRICE": "1", **dict.fromkeys(values, "2")})


BID = st.builds(
    Bid,
    id=st.text(max_size=3),
    impid=st.sampled_from(["1", "2"]),
    price=st.floats(),
    adm=st.one_of(st.text(max_size=30), st.sampled_from(["<VAST>", "{}", '<img src="http://x">'])),
    adomain=st.lists(st.text(max_size=10), max_size=2),
    cat=st.lists(st.text(max_size=5), max_size=2),
    dealid=st.sampled_from(["", "d"]),
    mtype=st.integers(-1, 6),
    w=st.integers(0, 400),
    h=st.integers(0, 300),
    dur=st.integers(0, 60),
)


@settings(max_examples=200)
@given(REQUEST, st.lists(BID, max_size=4), st.sampled_from(["", "USD", "EUR"]))
def test_the_check_never_fails_and_repeats_itself(request: dict[str, Any], bids: list[Bid], currency: str) -> None:
    try:
        decoded = decode_request(json.dumps(request).encode())
    except InputError:
        return
    response = BidResponse(id=decoded.id, cur=currency, seatbid=[SeatBid(bid=bids, seat="dsp")])
    checked, labels = check(response, decoded, rates=RATES)
    assert set(labels) <= set(CHECKS)
    if checked is not None:
        assert encode_response(checked)
        again, none = check(checked, decoded, rates=RATES)
        assert again == checked
        assert none == []
