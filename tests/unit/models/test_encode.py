"""Raw features: stable, complete, cheap to trust, and silent about people who may not be known."""

import subprocess
import sys
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import pytest

from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.kernel.remember import Remembered
from dsp.openrtb.opportunity import DeviceKind, Opportunity, Video
from models.features import encode
from models.features.columns import (
    AD_COLUMNS,
    CLICKED_ADVERTISER_COLUMNS,
    CLICKED_CAMPAIGN_COLUMNS,
    CLICKED_CATEGORY_COLUMNS,
    CLICKED_CREATIVE_COLUMNS,
    CONVERTED_ADVERTISER_COLUMNS,
    CONVERTED_CATEGORY_COLUMNS,
    DEVICE_CODES,
    FEATURE_HASH,
    HISTORY_AGE_COLUMNS,
    HISTORY_CAMPAIGN_COLUMNS,
    REQUEST_COLUMNS,
    USER_COLUMNS,
)
from models.features.encode import request_row, text_hash, tier_one

AT_MS = 1_750_000_000_000  # Sunday, 2025-06-15 15:06:40 UTC
OPPORTUNITY = Opportunity(
    auction_id="a", imp_id="1", exchange="e", at_ms=AT_MS, lots=blake2b(digest_size=8), test=False,
    first_price=True, tmax_ms=100,
    formats=frozenset({"banner"}), sizes=((300, 250), (320, 50)), video=None, native_request="", mimes=frozenset(),
    apis=frozenset(), blocked_attributes=frozenset(), position=3, interstitial=False, rewarded=False, secure=True,
    floor_micros_cpm=100_000, placement="top", deals=(), private_auction=False, inventory="site",
    domain="news.example", bundle="", publisher="pub", categories=frozenset(), content_language="en",
    device=DeviceKind.TABLET, os="ios", os_version="17", browser="safari", make="apple", model="ipad", language="en",
    connection=2, country="USA", region="USA-CA", city="USA-los angeles", postcode="", utc_offset_minutes=0,
    user_key="user", segments=frozenset({"b", "a"}), may_store=True, may_personalise=True,
    blocked_categories=frozenset(), blocked_advertisers=frozenset(), blocked_apps=frozenset(),
    languages_allowed=frozenset(), currency="USD", currency_rate=1.0,
)  # fmt: skip
RESPONSES = (
    Response("b1", 1, 11, 21, "IAB2", clicked_ms=AT_MS - 60_000),
    Response("b2", 2, 12, 22, "IAB9", clicked_ms=AT_MS - 50_000, converted_ms=AT_MS - 2_500),
    Response("b3", 3, 13, 23, "", clicked_ms=AT_MS - 40_000, converted_ms=AT_MS - 20_000),
    Response("b4", 4, 14, 24, "IAB1", converted_ms=AT_MS - 10_000),
    Response("b5", 2, 15, 25, "IAB9", clicked_ms=AT_MS - 1_999),
)
USER = UserRecord(pack([Exposure("b1", AT_MS - 90_500, 1, 2, 3)]), ("c",), responses=RESPONSES)


def features(user: UserRecord | None = None, **changes: Any) -> dict[str, int]:
    row = request_row(msgspec.structs.replace(OPPORTUNITY, **changes), user)
    assert row.dtype == np.int64
    return dict(zip(REQUEST_COLUMNS, row.tolist(), strict=True))


def test_every_column_has_its_value() -> None:
    found = features(USER)
    assert found["exchange"] == text_hash("e")
    assert (found["slot_width"], found["slot_height"], found["position"]) == (300, 250, 3)
    assert found["device"] == DEVICE_CODES[DeviceKind.TABLET]
    assert (found["hour"], found["weekday"]) == (15, 6)
    assert found["segment_count"] == 3
    assert [found[f"segment_{slot}"] for slot in (1, 2, 3, 4)] == [text_hash(name) for name in ("a", "b", "c", "")]
    assert (found["exposures"], found["history_age_seconds_1"]) == (1, 90)
    assert found["user_known"] == 1


def test_the_latest_exposures_come_first_and_no_more_than_there_is_room_for() -> None:
    seen = tuple(Exposure(f"b{number}", AT_MS - 1_000 * (9 - number), 1, 10 + number, 3) for number in range(9))
    found = features(UserRecord(pack(seen)))
    assert found["exposures"] == 9
    assert [found[name] for name in HISTORY_CAMPAIGN_COLUMNS] == [18, 17, 16, 15, 14, 13]
    assert [found[name] for name in HISTORY_AGE_COLUMNS] == [1, 2, 3, 4, 5, 6]
    short = features(UserRecord(pack(seen[:2])))
    assert [short[name] for name in HISTORY_CAMPAIGN_COLUMNS] == [11, 10, 0, 0, 0, 0]
    assert [short[name] for name in HISTORY_AGE_COLUMNS] == [8, 9, -1, -1, -1, -1]


def test_the_latest_clicks_and_conversions_come_first_each_by_its_own_time() -> None:
    found = features(USER)
    assert [found[name] for name in ("clicks", "click_age_seconds")] == [4, 1]
    assert [found[name] for name in CLICKED_ADVERTISER_COLUMNS] == [2, 3, 2]
    assert [found[name] for name in CLICKED_CAMPAIGN_COLUMNS] == [15, 13, 12]
    assert [found[name] for name in CLICKED_CREATIVE_COLUMNS] == [25, 23, 22]
    assert [found[name] for name in CLICKED_CATEGORY_COLUMNS] == [text_hash("IAB9"), 0, text_hash("IAB9")]
    assert [found[name] for name in ("conversions", "conversion_age_seconds")] == [3, 2]
    assert [found[name] for name in CONVERTED_ADVERTISER_COLUMNS] == [2, 4]
    assert [found[name] for name in CONVERTED_CATEGORY_COLUMNS] == [text_hash("IAB9"), text_hash("IAB1")]
    clicked = features(UserRecord(responses=RESPONSES[:1]))
    assert [clicked[name] for name in ("exposures", "clicks", "conversions", "conversion_age_seconds")] == [0, 1, 0, -1]
    assert [clicked[name] for name in CLICKED_CAMPAIGN_COLUMNS] == [11, 0, 0]
    assert [clicked[name] for name in CONVERTED_ADVERTISER_COLUMNS] == [0, 0]
    converted = features(UserRecord(responses=RESPONSES[3:4]))
    assert [converted[name] for name in ("clicks", "click_age_seconds", "conversions")] == [0, -1, 1]
    assert [converted[name] for name in CLICKED_CATEGORY_COLUMNS] == [0, 0, 0]


@pytest.mark.parametrize(("offset", "hour", "weekday"), [(-480, 7, 6), (600, 1, 0), (-960, 23, 5), (345, 20, 6)])
def test_hour_and_weekday_are_the_users(offset: int, hour: int, weekday: int) -> None:
    found = features(utc_offset_minutes=offset)
    assert (found["hour"], found["weekday"]) == (hour, weekday)


def test_nothing_of_a_person_is_used_without_permission() -> None:
    silent = features(USER, may_personalise=False)
    assert silent["segment_count"] == silent["segment_1"] == silent["exposures"] == 0
    nobody = features()
    assert {name: silent[name] for name in USER_COLUMNS} == {name: nobody[name] for name in USER_COLUMNS}
    assert nobody["history_age_seconds_1"] == nobody["click_age_seconds"] == nobody["conversion_age_seconds"] == -1
    assert features(UserRecord())["clicks"] == nobody["clicks"] == nobody["clicked_advertiser_1"] == 0


def test_video_slots_and_apps() -> None:
    video = Video(
        duration_seconds_min=5, duration_seconds_max=30, protocols=frozenset(), placement=3,
        skippable=True,
    )  # fmt: skip
    found = features(video=video, domain="", bundle="com.example.app", sizes=())
    assert (found["video_placement"], found["skippable"], found["slot_width"]) == (3, 1, 0)
    assert found["domain"] == text_hash("com.example.app")


def test_categories_are_taken_at_their_top_level_once() -> None:
    found = features(categories=frozenset({"IAB2-3", "IAB2-1", "IAB19"}))
    slots = [found[f"content_category_{slot}"] for slot in (1, 2, 3)]
    assert slots == [text_hash("IAB19"), text_hash("IAB2"), 0]
    assert tier_one("483") == "483"


@pytest.mark.parametrize("absurd", [10**30, -(10**30), 2**63, -(2**63) - 1])
def test_absurd_numbers_are_bounded(absurd: int) -> None:
    assert abs(features(position=absurd)["position"]) == 2**63 - 1


def test_absurd_strings_have_features() -> None:
    assert features(domain="\ud800")["domain"] > 0
    assert features(domain="x" * 100_000)["domain"] > 0
    many = features(segments=frozenset(str(number) for number in range(10_000)))
    assert many["segment_count"] == 10_000


def test_hashes_are_the_same_in_every_process() -> None:
    script = (
        "from models.features.encode import text_hash; from models.features.columns import FEATURE_HASH;"
        "print(text_hash('news.example'), FEATURE_HASH)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{text_hash('news.example')} {FEATURE_HASH}\n"}


def test_the_definition_is_pinned() -> None:
    # Whoever changes the features sees this fail, and knows that logs and bundles of before do not fit any more.
    assert len(set(REQUEST_COLUMNS)) == len(REQUEST_COLUMNS) == 72
    assert len(set(AD_COLUMNS)) == len(AD_COLUMNS) == 12
    assert text_hash("news.example") == 4_884_597_473_972_978_772


def test_no_more_hashes_are_remembered_than_the_bound_and_forgotten_ones_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may send new strings without end."""
    monkeypatch.setattr(encode, "_HASHES", Remembered(encode._hash, entries_max=10))
    sent = [f"s{number}" for number in range(25)] * 2
    found = [text_hash(text) for text in sent]
    assert len(encode._HASHES) <= 10
    assert found[:25] == found[25:]
    assert len(set(found)) == 25


def test_what_nobody_calls_anything_is_not_remembered() -> None:
    """A request may name a publisher or a category in as many characters as a body holds."""
    endless = "x" * 100_000
    assert text_hash(endless) == text_hash(endless) != 0
    assert tier_one(endless) == endless.upper()
    text_hash("publisher"), tier_one("IAB1"), encode._content(frozenset(["IAB1"]))
    encode._content(frozenset([endless]))
    for kept in (encode._HASHES, encode._TIERS, encode._KNOWN_CONTENT):
        assert max(len(repr(key)) for key in kept) < 10_000
