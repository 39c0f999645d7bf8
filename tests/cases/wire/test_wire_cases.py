"""Runs every JSON case of this folder: a request, and what it becomes or why it is refused.

A case holds `request` (or `body`, raw text), optionally `profile`, `rates` and `permissions`, and in `expect` either
`error` (the reason) or `opportunities` (the fields that matter) and `refused`. Every case is also sent compressed, and
every opportunity is held to what its struct promises.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsp.catalog.reasons import Exclusion
from dsp.kernel.errors import InputError
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity, Permissions
from dsp.openrtb.profile import Profile
from tests.opportunities import made_again

CASES = sorted(Path(__file__).parent.glob("*.json"))
KEY = b"a key of at least sixteen bytes"
NOW_MS = 1_750_000_000_000
ECHOED = ("auction_id", "imp_id", "country", "region", "city", "postcode", "native_request", "currency")


def _body(case: dict[str, Any]) -> bytes:
    if "request" in case:
        return json.dumps(case["request"], separators=(",", ":")).encode()
    if "body_repeat" in case:
        head, middle, times, tail = case["body_repeat"]
        return (head + middle * times + tail).encode()
    return str(case["body"]).encode()


def _run(case: dict[str, Any], body: bytes, encoding: str) -> dict[str, Any]:
    profile = Profile(name="test", seat="dsp", tmax_default_ms=200, **case.get("profile", {}))
    try:
        request = decode_request(body, encoding=encoding)
        validate(request)
    except InputError as fault:
        return {"error": fault.reason}
    found, refused = opportunities(
        request, profile, Permissions(**case.get("permissions", {})), case.get("rates", {"USD": 1.0}), KEY, NOW_MS
    )
    assert len(found) + len(refused) == len(request.imp)
    for opportunity in found:
        _well_behaved(opportunity, case.get("rates", {"USD": 1.0}))
    assert all(Exclusion(label) for _, label in refused)
    return {"opportunities": found, "refused": [list(pair) for pair in refused]}


def _well_behaved(opportunity: Opportunity, rates: dict[str, float]) -> None:
    """Hold an opportunity to its struct: types, lower case, bounds, money in whole micros."""
    assert made_again(opportunity) == opportunity
    for field in opportunity.__struct_fields__:
        value = getattr(opportunity, field)
        if type(value) is str and field not in ECHOED:
            assert value == value.lower(), field
    assert opportunity.formats
    assert opportunity.floor_micros_cpm >= 0
    assert 0 < opportunity.tmax_ms <= 10_000
    assert opportunity.currency_rate == rates[opportunity.currency]
    assert all(0 < width <= 20_000 and 0 < height <= 20_000 for width, height in opportunity.sizes)
    if not opportunity.may_store and not opportunity.may_personalise:
        assert opportunity.user_key == ""


def _plain(value: Any) -> Any:
    """Return what JSON can hold, sets in order."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {field: _plain(getattr(value, field)) for field in value.__struct_fields__}
    return value


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_case(path: Path, encoding: str) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    body = _body(case)
    packed = {"": body, "gzip": gzip.compress(body), "deflate": zlib.compress(body)}[encoding]
    got = _run(case, packed, encoding)
    want = case["expect"]
    if "error" in want:
        assert got == want
        return
    assert got["refused"] == want["refused"]
    assert len(got["opportunities"]) == len(want["opportunities"])
    for opportunity, fields in zip(got["opportunities"], want["opportunities"], strict=True):
        plain = _plain(opportunity)
        assert {name: plain[name] for name in fields} == fields


def test_cases_are_found() -> None:
    assert len(CASES) > 50
