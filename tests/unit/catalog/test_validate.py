"""What the catalogue accepts: property-like checks of the rules without a database."""

from contextlib import suppress
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.catalog import values
from dsp.catalog.creative import CLICK_MACROS_MAX, MARKUP_BYTES_MAX, TRACKERS_MAX
from dsp.catalog.entities import Creative, LineItem
from dsp.catalog.kinds import Kind
from dsp.catalog.rules import Clause, Dimension, Targeting
from dsp.catalog.terms import Goal, GoalKind
from dsp.catalog.validate import START_MS_MAX, parse
from dsp.kernel.errors import ValidationError
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod

LINE_ITEM: dict[str, Any] = {
    "name": "x",
    "campaign_id": 1,
    "flight": {"start_ms": 0},
    "goal": {"kind": "cpc", "target_micros": 1},
}
REQUIRED: dict[Kind, dict[str, Any]] = {
    Kind.ADVERTISER: {"name": "x", "domain": "x.example"},
    Kind.CAMPAIGN: {"name": "x", "advertiser_id": 1, "flight": {"start_ms": 0}},
    Kind.LINE_ITEM: LINE_ITEM,
    Kind.CREATIVE: {
        "name": "x", "line_item_id": 1, "format": "banner", "width": 1, "height": 1, "markup": "x",
        "landing_url": "https://x.example",
    },
    Kind.DEAL: {"name": "x", "exchange": "e", "deal_id": "d"},
    Kind.AUDIENCE: {"name": "x", "advertiser_id": 1, "segment_id": "s"},
    Kind.CONVERSION_RULE: {"name": "x", "advertiser_id": 1},
}  # fmt: skip


def refused(kind: Kind, fields: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        parse(kind, fields)
    return {fault.field: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize("kind", Kind)
def test_what_is_required_is_enough_and_needed(kind: Kind) -> None:
    entity = parse(kind, REQUIRED[kind])
    assert isinstance(entity, kind.entity)
    assert (entity.id, entity.version, entity.status.value) == (0, 1, "draft")
    conditional = {"width", "height"}  # needed by banners, not by every creative
    for name in REQUIRED[kind].keys() - conditional:
        without = {other: value for other, value in REQUIRED[kind].items() if other != name}
        assert refused(kind, without)[name] == "is required"


@pytest.mark.parametrize("kind", Kind)
def test_an_accepted_entity_is_accepted_again_unchanged(kind: Kind) -> None:
    entity = parse(kind, REQUIRED[kind])
    fields = msgspec.to_builtins(entity)
    again = {name: value for name, value in fields.items() if name not in ("id", "status", "version")}
    assert parse(kind, again) == entity


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_any_json_is_accepted_or_refused_with_fields(kind: Kind, data: st.DataObject) -> None:
    names = [field.name for field in msgspec.structs.fields(kind.entity)]
    changes = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=8), _json, max_size=4))
    try:
        entity = parse(kind, {**REQUIRED[kind], **changes})
    except ValidationError:
        return
    msgspec.json.encode(entity)


@pytest.mark.parametrize("dimension", Dimension)
@given(text=st.text(max_size=30))
def test_normal_form_is_stable(dimension: Dimension, text: str) -> None:
    try:
        once = values.SHAPES[dimension](text)
    except ValueError:
        return
    assert values.SHAPES[dimension](once) == once


@pytest.mark.parametrize(
    ("dimension", "text", "normal"),
    [
        (Dimension.COUNTRY, "usa", "USA"), (Dimension.REGION, "usa-ca", "USA-CA"),
        (Dimension.POSTCODE, "usa-90210", "USA-90210"), (Dimension.CATEGORY, "jlbcu7", "JLBCU7"),
        (Dimension.CITY, "usa-Los Angeles", "USA-los angeles"), (Dimension.DEVICE, "Phone", "phone"),
        (Dimension.OS, "iOS", "ios"), (Dimension.OS, "Mac OS X", "macos"), (Dimension.OS, "iPadOS", "ios"),
        (Dimension.BROWSER, "Google Chrome", "chrome"), (Dimension.BROWSER, "Internet Explorer", "ie"),
        (Dimension.SIZE, "300X250", "300x250"), (Dimension.DOMAIN, "www.News.example", "news.example"),
        (Dimension.BUNDLE, "com.Example.App", "com.example.app"), (Dimension.CATEGORY, "iab2-3", "IAB2-3"),
        (Dimension.LANGUAGE, "EN", "en"), (Dimension.DEAL, "Deal-A", "Deal-A"), (Dimension.SEGMENT, "Gamer", "gamer"),
        (Dimension.EXCHANGE, "Demo-First", "demo-first"), (Dimension.INVENTORY, "SITE", "site"),
    ],
)  # fmt: skip
def test_values_are_written_as_opportunities_write_them(dimension: Dimension, text: str, normal: str) -> None:
    assert values.SHAPES[dimension](text) == normal


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        (Dimension.COUNTRY, "Germany"), (Dimension.COUNTRY, "US"), (Dimension.REGION, "CA"), (Dimension.CITY, "Berlin"),
        (Dimension.DEVICE, "fridge"), (Dimension.SIZE, "300*250"), (Dimension.SIZE, "0x250"),
        (Dimension.DOMAIN, "https://a.example"),
        (Dimension.DOMAIN, "a"), (Dimension.DOMAIN, "a..b"), (Dimension.CATEGORY, "cars"), (Dimension.LANGUAGE, "eng"),
        (Dimension.SEGMENT, " "), (Dimension.BUNDLE, "a\x00b"), (Dimension.FORMAT, "popup"),
        (Dimension.INVENTORY, "print"), (Dimension.COUNTRY, "GER"), (Dimension.REGION, "USA-US-CA"),
        (Dimension.REGION, "GER-BY"), (Dimension.CITY, "ENG-london"), (Dimension.POSTCODE, "GER-10115"),
        (Dimension.LANGUAGE, "jp"), (Dimension.OS, "Unknown"),
    ],
)  # fmt: skip
def test_values_that_could_never_match_are_refused(dimension: Dimension, text: str) -> None:
    fields = {**LINE_ITEM, "targeting": {"clauses": {dimension.value: {"include": ["", text]}}}}
    path = f"targeting.clauses.{dimension.value}.include"
    assert f"{path}[1]" in refused(Kind.LINE_ITEM, fields)


def test_what_is_both_included_and_excluded_is_refused() -> None:
    clause = {"include": ["usa", "DEU"], "exclude": ["USA"]}
    fields = {**LINE_ITEM, "targeting": {"clauses": {"country": clause}}}
    assert refused(Kind.LINE_ITEM, fields) == {"targeting.clauses.country.exclude": "also included: USA"}


@pytest.mark.parametrize(
    ("targeting", "path"),
    [
        (
            {"clauses": {"domain": {"include": ["a.news.example"], "exclude": ["news.example"]}}},
            "clauses.domain.exclude",
        ),
        ({"clauses": {"category": {"include": ["IAB2-3"], "exclude": ["IAB2"]}}}, "clauses.category.exclude"),
        ({"clauses": {"segment": {"exclude": ["a", "b"]}}, "audience": [["a", "c"], ["B", "a"]]}, "audience[1]"),
    ],
)
def test_what_is_included_below_an_exclusion_is_refused(targeting: dict[str, Any], path: str) -> None:
    assert list(refused(Kind.LINE_ITEM, {**LINE_ITEM, "targeting": targeting})) == [f"targeting.{path}"]


def test_an_exclusion_below_what_is_included_is_accepted() -> None:
    clauses = {
        "domain": {"include": ["news.example"], "exclude": ["a.news.example"]},
        "category": {"include": ["IAB2"], "exclude": ["IAB2-3"]},
    }
    parse(Kind.LINE_ITEM, {**LINE_ITEM, "targeting": {"clauses": clauses, "audience": [["a"]]}})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"budget": {"daily_micros": 2, "total_micros": 1}}, "budget.daily_micros"),
        ({"budget": {"daily_micros": 10**19}}, "budget.daily_micros"),
        ({"flight": {"start_ms": 10**12, "end_ms": 10**12}}, "flight.end_ms"),
        ({"flight": {"start_ms": 1_795_000_000}}, "flight.start_ms"),  # seconds: it would begin at once
        ({"flight": {"start_ms": 0, "end_ms": 1_795_000_000}}, "flight.end_ms"),
        ({"flight": {"start_ms": -1}}, "flight.start_ms"),
        ({"flight": {"start_ms": START_MS_MAX + 1}}, "flight.start_ms"),  # its plan would go beyond the calendar
        ({"bid_min_micros_cpm": 2, "bid_max_micros_cpm": 1}, "bid_min_micros_cpm"),
        ({"goal": {"kind": "cpm", "target_micros": 10**11}}, "goal.target_micros"),
        ({"goal": {"kind": "roas", "target_micros": 4}}, "goal.target_micros"),  # units, where micros are meant
        ({"goal": {"kind": "roas", "target_micros": 1_000_000_001}}, "goal.target_micros"),
        ({"goal": {"kind": "roi", "target_micros": 1_000_000}}, "goal.kind"),
        ({"dayparts": [{"weekday": 0, "start_hour": 22, "end_hour": 6}]}, "dayparts[0].end_hour"),
        ({"frequency_caps": [{"impressions": 1, "window_seconds": 1}] * 11}, "frequency_caps"),
        ({"frequency_caps": [{"impressions": 1_001, "window_seconds": 1}]}, "frequency_caps[0].impressions"),
        ({"targeting": {"audience": [["a"], []]}}, "targeting.audience[1]"),
        ({"targeting": {"audience": ["a"]}}, "targeting.audience[0]"),
        ({"pacing": "fast"}, "pacing"),
        ({"status": "active"}, "status"),
    ],
)
def test_terms(fields: dict[str, Any], path: str) -> None:
    assert list(refused(Kind.LINE_ITEM, {**LINE_ITEM, **fields})) == [path]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Nike\xa0Inc ", "Nike Inc"), ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",) * 2,
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467",) * 2,
    ],
)  # fmt: skip
def test_names_are_of_any_script(name: str, kept: str) -> None:
    assert parse(Kind.ADVERTISER, {**REQUIRED[Kind.ADVERTISER], "name": name}).name == kept


@pytest.mark.parametrize(("name", "hidden"), [("a\x00b", "U+0000"), ("a\u200bb", "U+200B"), ("a\u202eb", "U+202E")])
def test_what_cannot_be_seen_in_a_name_is_named(name: str, hidden: str) -> None:
    said = refused(Kind.ADVERTISER, {**REQUIRED[Kind.ADVERTISER], "name": name})
    assert said == {"name": f"must not contain the invisible character {hidden}"}


def test_what_only_answers_hold_is_refused_with_the_way_to_change_it() -> None:
    said = refused(Kind.CAMPAIGN, {**REQUIRED[Kind.CAMPAIGN], "status": "paused", "effective_status": "paused"})
    assert said == {
        "status": "is changed by activate, pause and archive",
        "effective_status": "is set by the platform",
    }


@pytest.mark.parametrize("target_micros", [10_000, 4_000_000, 1_000_000_000])
def test_a_target_on_the_return_is_value_per_unit_of_cost(target_micros: int) -> None:
    made = parse(Kind.LINE_ITEM, {**LINE_ITEM, "goal": {"kind": "roas", "target_micros": target_micros}})
    assert isinstance(made, LineItem)
    assert made.goal == Goal(kind=GoalKind.ROAS, target_micros=target_micros)


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Olympus", "../etc/passwd", "America", "europe/berlin", "UTC\x00", "/UTC", "localtime", "Factory"],
)
def test_time_zones_must_be_known(zone: str) -> None:
    assert list(refused(Kind.ADVERTISER, {**REQUIRED[Kind.ADVERTISER], "timezone": zone})) == ["timezone"]


@pytest.mark.parametrize(
    "piece",
    [
        "<a ",
        "<a href ",
        "%%CLK",
        "CLK",
        "${CLICK",
        "http:<a ",
        "http:<ClickThrough>",
        "http:<ClickThrough ",
        "http:= ",
        'http:"data":{"value":"',
        "<",
        "<!--",
        "<!---->",
        "<a =",
        '<a ="',
        "<script>",
        "<xmp></xmp",
        "<svg><title/>",
    ],
)
def test_markup_that_is_made_to_be_slow_is_not(piece: str) -> None:
    """Some took half a minute, of a process that answers others as well."""
    markup = "%%" + piece * ((MARKUP_BYTES_MAX - 2) // len(piece))
    began = process_time()
    with suppress(ValidationError):
        parse(Kind.CREATIVE, REQUIRED[Kind.CREATIVE] | {"markup": markup})
    assert process_time() - began < 0.5


def test_an_address_that_is_read_and_not_loaded_leaves_a_creative_secure() -> None:
    shown = '{"title": "http://t.example", "data": {"11": "http://t.example"}, "image": {"url": "%s"}}'
    native = {**REQUIRED[Kind.CREATIVE], "format": "native", "width": None, "height": None}
    parse(Kind.CREATIVE, native | {"markup": shown % "https://t.example/x.png"})
    loaded = refused(Kind.CREATIVE, native | {"markup": shown % "http://t.example/x.png"})
    assert "over http" in loaded["markup"]
    banner = '<a href="${CLICK_URL}">http://t.example (http://t.example)</a><img src="https://t.example/x.png">'
    parse(Kind.CREATIVE, REQUIRED[Kind.CREATIVE] | {"markup": banner})


@pytest.mark.parametrize("macro", ["${CLICK_URL}", "${CLICK_URL_ENC}"])
def test_markup_holds_so_many_addresses(macro: str) -> None:
    link = f'<a href="{macro}">x</a>'
    parse(Kind.CREATIVE, REQUIRED[Kind.CREATIVE] | {"markup": link * CLICK_MACROS_MAX})
    too_many = REQUIRED[Kind.CREATIVE] | {"markup": link * (CLICK_MACROS_MAX + 1)}
    assert refused(Kind.CREATIVE, too_many)["markup"] == "must have ${CLICK_URL} at most 100 times"


def test_items_that_are_refused_are_named_each() -> None:
    said = refused(Kind.ADVERTISER, {**REQUIRED[Kind.ADVERTISER], "categories": ["IAB1", "cars", "IAB2", "boats"]})
    assert list(said) == ["categories[1]", "categories[3]"]


def test_repetitions_are_dropped() -> None:
    caps = [{"impressions": 1, "window_seconds": 60}] * 2
    made = parse(Kind.LINE_ITEM, {**LINE_ITEM, "frequency_caps": caps})
    assert isinstance(made, LineItem)
    assert len(made.frequency_caps) == 1


def test_a_conversion_after_a_view_alone_cannot_be_promised() -> None:
    """What reports a conversion is the token that a click takes to the landing page: without a click there is none."""
    rule = REQUIRED[Kind.CONVERSION_RULE]
    assert refused(Kind.CONVERSION_RULE, {**rule, "post_view": True}).keys() == {"post_view"}
    assert parse(Kind.CONVERSION_RULE, {**rule, "post_view": False}) == parse(Kind.CONVERSION_RULE, rule)


def test_a_change_is_judged_by_what_it_changes() -> None:
    """Older rules let in a country that is none, and a link whose clicks nobody counts."""
    old = msgspec.structs.replace(
        parse(Kind.LINE_ITEM, LINE_ITEM), targeting=Targeting(clauses={Dimension.COUNTRY: Clause(include=("XX",))})
    )
    kept = {**LINE_ITEM, "targeting": {"clauses": {"country": {"include": ["XX"], "exclude": []}}, "audience": []}}
    lowered = parse(Kind.LINE_ITEM, {**kept, "budget": {"daily_micros": 1}}, old)
    assert isinstance(lowered, LineItem)
    assert (lowered.budget.daily_micros, lowered.targeting) == (1, old.targeting)
    touched = {**LINE_ITEM, "targeting": {"clauses": {"country": {"include": ["XX", "USA"]}}}}
    assert _refused(Kind.LINE_ITEM, touched, old) == {"targeting.clauses.country.include[0]"}
    assert _refused(Kind.LINE_ITEM, {**kept, "bid_max_micros_cpm": 0}, old) == {"bid_max_micros_cpm"}
    ad = {**REQUIRED[Kind.CREATIVE], "markup": "<a href='https://x.example'>x</a>", "secure": True}
    uncounted = msgspec.structs.replace(parse(Kind.CREATIVE, REQUIRED[Kind.CREATIVE]), markup=ad["markup"])
    assert parse(Kind.CREATIVE, {**ad, "name": "new"}, uncounted).name == "new"
    assert _refused(Kind.CREATIVE, {**ad, "secure": 1}, uncounted) == {"secure"}
    assert _refused(Kind.CREATIVE, {**ad, "markup": ad["markup"] + "!"}, uncounted) == {"markup"}
    assert _refused(Kind.CREATIVE, {**ad, "format": "video"}, uncounted) == {"markup", "duration_seconds", "mime"}


def _refused(kind: Kind, fields: dict[str, Any], before: Any) -> set[str]:
    with pytest.raises(ValidationError) as refused:
        parse(kind, fields, before)
    return {fault.field for fault in refused.value.faults}


IMAGE = {"event": "impression", "url": "https://t.example/i?r=${CACHEBUSTER}&a=${AUCTION_ID}"}
OMID = {"event": "impression", "method": "omid", "url": "https://v.example/omid.js", "vendor": "v.example-omid"}
FORMATS: dict[str, dict[str, Any]] = {
    "banner": {},
    "video": {"format": "video", "markup": "https://c.example/v", "mime": "video/mp4", "duration_seconds": 15},
    "audio": {"format": "audio", "markup": "https://c.example/a", "mime": "audio/mpeg", "duration_seconds": 15},
    "native": {"format": "native", "markup": '{"title":"T"}'},
}
EVERYWHERE = {"impression by image"}
TOLD = {
    "banner": EVERYWHERE,
    "video": {f"{one} by image" for one in TrackerEvent} | {"impression by omid"},
    "audio": {f"{one} by image" for one in TrackerEvent if one != "viewable"} | {"impression by omid"},
    "native": {*EVERYWHERE, "viewable by image", "click by image", "impression by script"},
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_creative_has_the_trackers_that_its_format_has_a_place_for(format: str) -> None:
    fields = {**REQUIRED[Kind.CREATIVE], **FORMATS[format]}
    taken = set()
    for event in TrackerEvent:
        for method in TrackerMethod:
            one = {**(OMID if method == "omid" else IMAGE), "event": event.value, "method": method.value}
            with suppress(ValidationError):
                made = parse(Kind.CREATIVE, {**fields, "trackers": [one, one]})
                assert isinstance(made, Creative)
                assert made.trackers == (msgspec.convert(one, Tracker),)
                taken.add(f"{event} by {method}")
    assert taken == TOLD[format]
    for_players = {"trackers": [{**IMAGE, "url": "https://t.example/?r=[CACHEBUSTING]"}]}
    if format in ("video", "audio"):
        assert parse(Kind.CREATIVE, {**fields, **for_players})
    else:
        assert "only players" in refused(Kind.CREATIVE, {**fields, **for_players})["trackers[0].url"]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"url": "http://t.example/"}, "url", "https"),
        ({"url": "javascript:alert(1)"}, "url", "http"),
        ({"url": "https://t.example/?r=[timestamp]"}, "url", "a macro that nobody replaces, [timestamp]"),
        ({"url": "https://t.example/?c=${CLICK_URL}"}, "url", "${CLICK_URL}"),
        ({"url": 'https://t.example/"><script>'}, "url", "percent-encoded"),
        ({"url": "https://t.example/" + "${CACHEBUSTER}" * 200}, "url", "2048"),
        ({"url": 1}, "url", "string"),
        ({"event": "seen"}, "event", "one of impression"),
        ({"method": "pixel"}, "method", "one of image"),
        ({"vendor": "v"}, "vendor", "omid only"),
        ({"method": "omid"}, "vendor", "company.com-omid"),
        ({"method": "omid", "vendor": "a b"}, "vendor", "company.com-omid"),
        ({**OMID, "parameters": "${AUCTION_PRIZE}"}, "parameters", "macros"),
        ({**OMID, "parameters": "x" * 4_097}, "parameters", "4096"),
        ({**OMID, "parameters": '{"a":"http://v.example"}'}, "parameters", "http"),
        ({"pixel": 1}, "pixel", "unknown field"),
    ],
)
def test_a_tracker_is_refused_with_the_reason(changes: dict[str, Any], field: str, message: str) -> None:
    fields = {**REQUIRED[Kind.CREATIVE], **FORMATS["video"]}
    found = refused(Kind.CREATIVE, {**fields, "trackers": [IMAGE, {**IMAGE, **changes}]})
    assert message in found[f"trackers[1].{field}"]


def test_trackers_are_bounded() -> None:
    many = [{**IMAGE, "url": f"https://t.example/{number}"} for number in range(TRACKERS_MAX + 1)]
    assert parse(Kind.CREATIVE, {**REQUIRED[Kind.CREATIVE], "trackers": many[1:]})
    assert "at most 30" in refused(Kind.CREATIVE, {**REQUIRED[Kind.CREATIVE], "trackers": many})["trackers"]


def test_a_vast_tag_is_an_address_with_macros_for_players_that_take_wrappers() -> None:
    tag = "https://v.example/vast?ord=${CACHEBUSTER}&t=[TIMESTAMP]&click=${CLICK_URL_ENC}"
    fields = {**REQUIRED[Kind.CREATIVE], **FORMATS["video"], "mime": "application/xml", "markup": tag}
    assert parse(Kind.CREATIVE, fields)
    assert parse(Kind.CREATIVE, {**fields, "protocols": [3, 6]})
    assert "5, 6, 8, 12, 14" in refused(Kind.CREATIVE, {**fields, "protocols": [2, 3]})["protocols"]
    for markup in (tag.replace("https", "http"), f"{tag}&x=%%RAND%%", f"{tag}&x=${{CLICK_URL}}", "<VAST/>"):
        assert "markup" in refused(Kind.CREATIVE, {**fields, "markup": markup})
    assert "markup" in refused(Kind.CREATIVE, {**fields, "mime": "video/mp4"})
