"""What is kept of a request about whose user nothing may be kept, and that it is read as the request was."""

import json
from pathlib import Path
from typing import Any

import pytest

from dsp.kernel.errors import InputError
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Permissions
from dsp.openrtb.profile import Profile
from dsp.privacy.policy import permissions
from dsp.privacy.redaction import without_user

CASES = sorted((Path(__file__).parents[2] / "cases" / "wire").glob("*.json"))
#: What was sent for a number and is none cannot be written as JSON, and is kept as absent.
UNWRITABLE = {"floor-text", "floor-text-nan", "quantity"}
REQUEST: dict[str, Any] = {
    "id": "a",
    "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "native": {"ver": "1.2"}, "bidfloor": 1.5}],
    "site": {"domain": "news.example", "cat": ["IAB1"]},
    "device": {
        "ua": "Mozilla/5.0",
        "ip": "SECRET",
        "ipv6": "SECRET",
        "ifa": "SECRET",
        "didsha1": "SECRET",
        "lmt": 1,
        "geo": {"country": "USA", "region": "CA", "lat": 33.333, "lon": -44.444},
        "ext": {"atts": 2, "idfv": "SECRET"},
    },
    "user": {
        "id": "SECRET",
        "buyeruid": "SECRET",
        "yob": 2015,
        "keywords": "SECRET",
        "data": [{"segment": [{"id": "SECRET"}]}],
        "eids": [{"source": "s", "uids": [{"id": "SECRET"}]}],
        "consent": "CP",
        "ext": {"eids": [{"source": "s", "uids": [{"id": "SECRET"}]}], "consent": "CP"},
    },
    "regs": {"coppa": 1, "ext": {"gpc": "1"}},
}


def test_nothing_of_the_user_is_left_but_the_signals() -> None:
    request = decode_request(json.dumps(REQUEST).encode())
    body = without_user(request)
    assert not [mark for mark in (b"SECRET", b"33.333", b"44.444", b"2015") if mark in body]
    again = decode_request(body)
    assert permissions(again, 1, "") == permissions(request, 1, "")
    assert again.user is not None
    assert again.user.consent == "CP"
    assert again.imp == request.imp
    assert request.user is not None
    assert request.user.id == "SECRET"  # the request itself is as it was


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_it_is_the_same_opportunity(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    if "request" not in case or path.stem in UNWRITABLE:
        return
    try:
        request = decode_request(json.dumps(case["request"]).encode())
        validate(request)
    except InputError:
        return
    profile, rates = Profile(name="x", **case.get("profile", {})), case.get("rates", {"USD": 1.0})
    again = decode_request(without_user(request))
    validate(again)
    allowed = Permissions(may_store=False, may_personalise=False)
    assert opportunities(again, profile, allowed, rates, b"k" * 16, 0) == opportunities(
        request, profile, allowed, rates, b"k" * 16, 0
    )
