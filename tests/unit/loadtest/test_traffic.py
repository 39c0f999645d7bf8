"""The same seed gives the same traffic, byte for byte, and the traffic is what the demo says it is."""

import gzip
import hashlib
from collections import Counter

import msgspec
import pytest

from dsp.store import load
from loadtest.consent import consent_string
from loadtest.draw import Draw, Weighted
from loadtest.platform import CATALOGUE
from loadtest.traffic import SOURCES, Traffic
from loadtest.world import ELSEWHERE, VENDOR_MAX


def digest(seed: int, count: int) -> str:
    traffic = Traffic(seed)
    return hashlib.sha256(b"\n".join(traffic.request(index).body for index in range(count))).hexdigest()


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert digest(7, 400) == digest(7, 400)
    assert digest(7, 400) != digest(8, 400)


def test_a_request_depends_on_its_number_alone() -> None:
    forwards, backwards = Traffic(3), Traffic(3)
    expected = [forwards.request(index).body for index in range(50)]
    assert [backwards.request(index).body for index in reversed(range(50))] == expected[::-1]


def test_a_share_comes_from_elsewhere_and_the_others_are_the_same() -> None:
    home, mixed = Traffic(3), Traffic(3, elsewhere=0.75)
    pairs = [(home.request(index), mixed.request(index)) for index in range(1_000)]
    foreign = [other for one, other in pairs if one.body != other.body]
    assert len(foreign) / len(pairs) == pytest.approx(0.75, abs=0.04)
    assert {request.payload["device"]["geo"]["country"] for request in foreign} == {one.country for one in ELSEWHERE}
    assert all(request.payload["wlang"] == [request.user.place.language] for request in foreign)


def test_no_creative_of_the_demo_speaks_a_language_from_elsewhere() -> None:
    spoken = {one["language"] for one in load.read(CATALOGUE)["creative"]}
    assert spoken
    assert spoken.isdisjoint(place.language for place in ELSEWHERE)


@pytest.fixture(scope="module")
def requests() -> list[dict]:
    traffic = Traffic(1)
    return [traffic.request(index).payload for index in range(4_000)]


def test_body_is_the_payload_gzipped_or_not() -> None:
    traffic = Traffic(1)
    zipped = 0
    for index in range(300):
        request = traffic.request(index)
        body = request.body
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
            zipped += 1
        assert msgspec.json.decode(body) == request.payload
    assert zipped > 10


def test_every_format_size_country_and_source_is_there(requests: list[dict]) -> None:
    imps = [imp for request in requests for imp in request["imp"]]
    formats = Counter(next(name for name in ("banner", "video", "native", "audio") if name in imp) for imp in imps)
    assert set(formats) == {"banner", "video", "native", "audio"}
    sizes = {(imp["banner"]["w"], imp["banner"]["h"]) for imp in imps if "banner" in imp}
    assert sizes == {(300, 250), (728, 90), (320, 50), (160, 600), (970, 250)}
    assert {request["device"]["geo"]["country"] for request in requests} == {"USA", "GBR", "DEU", "FRA"}
    assert {bool("site" in request) for request in requests} == {True, False}
    assert all(("site" in request) != ("app" in request) for request in requests)
    assert {request["at"] for request in requests} == {1, 2}
    assert any("pmp" in imp for imp in imps)
    assert len({request["id"] for request in requests}) == len(requests)


def test_versions_put_consent_where_their_version_has_it(requests: list[dict]) -> None:
    placed = Counter()
    for request in requests:
        european = request["device"]["geo"]["country"] in {"DEU", "FRA"}
        newer = "gdpr" in request["regs"]
        gdpr = request["regs"]["gdpr"] if newer else request["regs"]["ext"]["gdpr"]
        user = request["user"]
        consent = user.get("consent") if newer else user.get("ext", {}).get("consent")
        assert gdpr == int(european)
        assert bool(consent) == european
        placed[newer, european] += 1
    assert len(placed) == 4


def test_a_few_users_make_many_visits_and_users_come_back(requests: list[dict]) -> None:
    visits = Counter(request["user"]["id"] for request in requests)
    assert len(visits) > 500
    assert visits.most_common(1)[0][1] >= 5


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning")  # by iab_tcf
def test_consent_strings_decode_to_what_was_consented() -> None:
    iab_tcf = pytest.importorskip("iab_tcf")
    consent = iab_tcf.decode(consent_string(frozenset({1, 2, 7}), VENDOR_MAX))
    assert [purpose for purpose, given in consent.purposes_consent.items() if given] == [1, 2, 7]
    assert consent.is_vendor_allowed(1_000)
    assert not consent.is_vendor_allowed(VENDOR_MAX + 1)
    assert not iab_tcf.decode(consent_string(frozenset(), 0)).is_vendor_allowed(1_000)


def test_draws_are_uniform_and_weights_hold() -> None:
    draw = Draw("test")
    values = [draw.uniform() for _ in range(20_000)]
    assert 0.0 <= min(values) < 0.001
    assert 0.999 < max(values) < 1.0
    assert abs(sum(values) / len(values) - 0.5) < 0.01
    picked = Counter(draw.weighted(Weighted([("a", 3.0), ("b", 1.0)])) for _ in range(8_000))
    assert abs(picked["a"] / 8_000 - 0.75) < 0.02


def test_sources_name_distinct_exchanges() -> None:
    assert len({source.exchange for source in SOURCES}) == len(SOURCES)
