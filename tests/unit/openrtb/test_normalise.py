"""Identity across exchanges, domains, countries, and what real recorded requests become."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dsp.kernel.errors import InputError
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.geo import country_alpha3
from dsp.openrtb.names import domain
from dsp.openrtb.normalise import opportunities, user_key
from dsp.openrtb.opportunity import Permissions
from dsp.openrtb.profile import load_profiles
from dsp.openrtb.request import Device, Eid, Uid, User
from dsp.privacy.policy import permissions

KEY = b"a key of at least sixteen bytes"
RECORDED = Path(__file__).parents[3].parent / "shared" / "data" / "openrtb"
PROFILES = load_profiles(Path(__file__).parents[3] / "config" / "exchanges")
#: What a recorded request marked valid may be refused for: nothing that makes it invalid as a whole.
EXPECTED_REFUSALS = {
    *("currency_unsupported", "format_unsupported", "impression_ambiguous", "quantity_unsupported", "seat_not_allowed"),
    "disclosure_unshown",
}


@pytest.mark.parametrize(
    ("address", "want"),
    [
        ("", ""),
        ("WWW.Example.com", "example.com"),
        ("http://www.example.com/a?b#c", "example.com"),
        ("//example.com:8080/x", "example.com"),
        ("example.com.", "example.com"),
        ("user:secret@example.com", "example.com"),
        ("https://user@example.com/", "example.com"),
        ("example.com?x=1", "example.com"),
        ("wwww.example.com", "wwww.example.com"),
    ],
)
def test_domain(address: str, want: str) -> None:
    assert domain(address) == want


@pytest.mark.parametrize(
    ("code", "want"), [("us", "USA"), ("USA", "USA"), ("uk", "GBR"), (" de ", "DEU"), ("EU", ""), ("", ""), ("ZZZ", "")]
)
def test_countries(code: str, want: str) -> None:
    assert country_alpha3(code) == want


def test_a_device_is_one_user_on_every_exchange_and_a_cookie_is_not() -> None:
    device = Device(ifa="AEBE52E7-03EE-455A-B3C4-E57283966239")
    assert user_key(None, device, "one", KEY) == user_key(User(id="x"), device, "two", KEY)
    assert user_key(User(id="x"), None, "one", KEY) != user_key(User(id="x"), None, "two", KEY)
    bought = User(id="x", buyeruid="ours")
    assert user_key(bought, device, "one", KEY) == user_key(bought, None, "two", KEY)
    shared = User(id="x", eids=[Eid(source="id.example", uids=[Uid(id="e")])])
    assert user_key(shared, None, "one", KEY) == user_key(shared, None, "two", KEY)


def test_a_user_is_known_again_by_another_version() -> None:
    """Records of users are kept under their keys, so how a key is made may not change."""
    assert user_key(User(buyeruid="ours"), None, "one", KEY) == "e0c4fa4627258f64e4413db96aceb4e1"


def test_a_key_tells_nothing_without_the_secret() -> None:
    user = User(id="x")
    assert user_key(user, None, "one", KEY) != user_key(user, None, "one", KEY + b"2")
    assert len(user_key(user, None, "one", KEY)) == 32
    assert "x" not in user_key(user, None, "one", KEY)


@pytest.mark.parametrize(
    "device", [Device(), Device(ifa="00000000-0000-0000-0000-000000000000"), Device(ifa="abc", lmt=1)]
)
def test_nobody_is_nobody(device: Device) -> None:
    assert user_key(User(), device, "one", KEY) == ""
    assert user_key(None, None, "one", KEY) == ""


def test_a_lot_hangs_on_secret_ids_and_time() -> None:
    """All of them: ids that were sent before draw anew, and the bidders of a deployment draw alike."""

    def lots(auction_id: str = "a", key: bytes = KEY, at_ms: int = 7) -> list[int]:
        body = {"id": auction_id, "imp": [{"id": one, "banner": {"w": 300, "h": 250}} for one in ("1", "2")]}
        read = decode_request(json.dumps(body).encode())
        found, _ = opportunities(read, PROFILES["openrtb"], permissions(read, 100, ""), {"USD": 1.0}, key, at_ms)
        return [one.lot for one in found]

    assert lots() == lots()
    drawn = [*lots(), *lots("b"), *lots(key=b"another"), *lots(at_ms=8), *lots(key=b"k" * 100)]
    assert len(set(drawn)) == len(drawn) == 10
    assert all(0 <= lot < 2**64 for lot in drawn)
    assert max(drawn) > 2**62


def _lines(name: str) -> list[bytes]:
    path = RECORDED / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return [line for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]


def _understood(line: bytes, exchange: str) -> tuple[int, set[str]]:
    request = decode_request(line)
    validate(request)
    allowed = permissions(request, 100, "")
    found, refused = opportunities(request, PROFILES[exchange], allowed, {"USD": 1.0}, KEY, 0)
    assert len(found) + len(refused) == len(request.imp)
    return len(found), {label for _, label in refused}


def test_recorded_requests_that_are_valid_are_understood() -> None:
    marks: list[dict[str, Any]] = [json.loads(line) for line in _lines("requests.provenance.jsonl.gz")]
    found = 0
    for line, mark in zip(_lines("requests.jsonl.gz"), marks, strict=True):
        if mark["strict"]:
            got, labels = _understood(line, "openrtb")
            found += got
            assert labels <= EXPECTED_REFUSALS
    assert found > 1_500


def test_recorded_requests_that_are_not_valid_get_a_reason_or_are_valid_after_all() -> None:
    """Most are marked invalid for having neither site nor app, which the specification only recommends."""
    marks: list[dict[str, Any]] = [json.loads(line) for line in _lines("requests.provenance.jsonl.gz")]
    reasons: dict[str, int] = {}
    for line, mark in zip(_lines("requests.jsonl.gz"), marks, strict=True):
        if not mark["strict"]:
            try:
                _understood(line, "openrtb")
            except InputError as fault:
                reasons[fault.reason] = reasons.get(fault.reason, 0) + 1
    assert reasons == {"site_and_app": 29, "missing_imp_id": 6, "wrong_type": 1}


def test_recorded_exchange_traffic_is_understood() -> None:
    found = refused = 0
    for line in _lines("adx.jsonl.gz"):
        got, labels = _understood(line, "adx")
        found += got
        refused += len(labels)
        assert labels <= {"floor_absurd"}
    assert found >= 499
    assert refused <= 1


def test_without_permission_to_keep_anything_nobody_is_recognised() -> None:
    body = json.dumps({"id": "a", "imp": [{"id": "1", "banner": {"w": 1, "h": 1}}], "user": {"id": "x"}}).encode()
    contextual = Permissions(may_store=False, may_personalise=False)
    for allowed, known in ((Permissions(), True), (Permissions(may_personalise=False), True), (contextual, False)):
        found, _ = opportunities(decode_request(body), PROFILES["openrtb"], allowed, {"USD": 1.0}, KEY, 0)
        assert bool(found[0].user_key) is known
