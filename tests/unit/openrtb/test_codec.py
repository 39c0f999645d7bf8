"""Content encodings and their bounds, what the lenient reader leaves alone, and the response's form."""

import gzip
import json
import zlib
from typing import Any

import pytest

from dsp.kernel.errors import DecodeError
from dsp.openrtb.codec import decode_request, encode_response
from dsp.openrtb.response import Bid, BidResponse, SeatBid

BODY = json.dumps({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}]}).encode()


def _raw_deflate(body: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(body) + squeezer.flush()


def _reason(body: bytes, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_request(body, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP ", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", _raw_deflate(BODY)),
    ],
)
def test_encodings_are_read(encoding: str, body: bytes) -> None:
    assert decode_request(body, encoding=encoding).imp[0].id == "1"


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "\x00"])
def test_other_encodings_are_named_as_the_reason(encoding: str) -> None:
    assert _reason(BODY, encoding=encoding) == "encoding_unsupported"


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        b"",
        gzip.compress(BODY, mtime=0)[:-5],
        gzip.compress(BODY, mtime=0) + b"x",
        gzip.compress(BODY, mtime=0)[:12],
        b"\x1f\x8b",
    ],
    ids=["not gzip", "empty", "cut short", "followed by something", "cut very short", "only the magic"],
)
def test_broken_compression_is_a_reason(body: bytes) -> None:
    assert _reason(body, encoding="gzip") == "encoding_broken"


def test_a_gzip_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(b" " * 50_000_000, mtime=0)
    assert len(bomb) < 60_000
    assert _reason(bomb, encoding="gzip", bytes_max=262_144) == "body_too_large"


def test_the_bound_holds_before_and_after_decompression() -> None:
    assert _reason(BODY, bytes_max=len(BODY) - 1) == "body_too_large"
    assert decode_request(BODY, bytes_max=len(BODY)).id == "a"
    packed = gzip.compress(BODY * 1, mtime=0)
    assert decode_request(packed, encoding="gzip", bytes_max=max(len(BODY), len(packed))).id == "a"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xfe", "json_broken"),
        (b'{"id":"\xff"}', "json_broken"),
        (b'{"id":"\\ud800"}', "json_broken"),
        (b'{"id":"a"} trailing', "json_broken"),
        (b"\xef\xbb\xbf{}", "json_broken"),
        (b"{" * 100_000, "json_broken"),
        (b"[" * 100_000, "json_too_deep"),
        (b'{"id":' * 40_000, "json_too_deep"),
        (b"1" * 5_000, "number_out_of_range"),
        (b'"text"', "wrong_type"),
    ],
)
def test_rubbish_is_a_reason(body: bytes, reason: str) -> None:
    assert _reason(body) == reason


def test_thousands_of_impressions_are_decoded() -> None:
    body = json.dumps({"id": "a", "imp": [{"id": str(n)} for n in range(10_000)]}).encode()
    assert len(decode_request(body).imp) == 10_000


def test_newer_places_win_over_ext() -> None:
    request = decode_request(
        json.dumps(
            {
                "id": "a",
                "imp": [{"id": "1"}],
                "regs": {
                    "gdpr": 0,
                    "gpp": "new",
                    "ext": {"gdpr": 1, "gpp": "old", "us_privacy": "1YNN", "gpp_sid": [7]},
                },
                "user": {"ext": {"consent": "C", "eids": [{"source": "s", "uids": [{"id": "u"}]}]}},
                "ext": {"schain": {"complete": 1}},
            }
        ).encode()
    )
    assert request.regs is not None
    assert request.user is not None
    assert request.source is not None
    assert (request.regs.gdpr, request.regs.gpp, request.regs.us_privacy, request.regs.gpp_sid) == (
        0,
        "new",
        "1YNN",
        (7,),
    )
    assert request.user.consent == "C"
    assert request.user.eids[0].uids[0].id == "u"
    assert request.source.schain is not None
    assert request.source.schain.complete == 1


def test_the_lenient_reader_changes_nothing_that_is_well_typed() -> None:
    """One null makes the typed decoder refuse; everything else must come out the same."""
    plain = {"id": "a", "imp": [{"id": "1", "bidfloor": 0.3, "native": {"request": "{}"}, "bcat": ["1", "b"]}], "at": 1}
    typed = decode_request(json.dumps(plain).encode())
    lenient = decode_request(json.dumps({**plain, "badv": None}).encode())
    native = [one.imp[0].native for one in (typed, lenient)]
    assert [bytes(one.request) for one in native if one is not None] == [b'"{}"'] * 2  # Raw compares by identity
    typed.imp[0].native = lenient.imp[0].native = None
    assert typed == lenient


def test_a_response_leaves_out_what_is_empty() -> None:
    bid = Bid(id="b", impid="1", price=0.5, adm="<p>", adomain=["ford.com"], w=300, h=250, mtype=1)
    response = BidResponse(id="a", bidid="r", cur="USD", seatbid=[SeatBid(bid=[bid], seat="dsp")])
    assert json.loads(encode_response(response)) == {
        "id": "a",
        "bidid": "r",
        "cur": "USD",
        "seatbid": [
            {
                "seat": "dsp",
                "bid": [
                    {
                        "id": "b",
                        "impid": "1",
                        "price": 0.5,
                        "adm": "<p>",
                        "adomain": ["ford.com"],
                        "w": 300,
                        "h": 250,
                        "mtype": 1,
                    }
                ],
            }
        ],
    }
    assert json.loads(encode_response(BidResponse(id="a", nbr=2))) == {"id": "a", "nbr": 2}
