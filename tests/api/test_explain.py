"""Explain: the funnel's verdict on a request given, and on one the bidder kept."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from dsp.catalog.reasons import Exclusion
from dsp.catalog.validate import START_MS_MAX
from dsp.events.schema import Decision, SampledRequest, encode
from dsp.events.topics import Topic
from dsp.stream.port import Entry
from tests.api.conftest import Api, errors

REQUEST: dict[str, Any] = {
    "id": "auction-1",
    "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "secure": 1}],
    "site": {"domain": "news.example", "cat": ["IAB12"]},
    "device": {"devicetype": 2, "geo": {"country": "USA"}, "ua": "Mozilla/5.0"},
    "at": 1,
}


async def _active_tree(api: Api) -> dict[str, int]:
    ids = await api.tree()
    for path, number in ids.items():
        assert (await api.member.post(f"/v1/{path}/{number}/activate")).status_code == 200
    return ids


async def _verdict(api: Api, request: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await api.viewer.post("/v1/explain", json={"exchange": "demo-first", "request": request, **fields})
    assert answer.status_code == 200, answer.text
    impressions = answer.json()["impressions"]
    assert len(impressions) == 1
    return dict(impressions[0])


async def test_each_line_item_gets_its_reason(api: Api) -> None:
    ids = await _active_tree(api)
    path = f"/v1/line-items/{ids['line-items']}"
    verdict = await _verdict(api, REQUEST)
    assert verdict["line_items"] == [
        {"line_item_id": ids["line-items"], "name": "Reach", "stage": None, "reason": None}
    ]  # fmt: skip
    assert verdict["left"]["rank"] == 1
    assert verdict["excluded"] == {}

    targeting = {"clauses": {"country": {"include": ["DEU"]}}}
    await api.member.patch(path, json={"targeting": targeting}, headers={"if-match": "*"})
    verdict = await _verdict(api, REQUEST)
    assert verdict["excluded"] == {"country": 1}
    assert verdict["line_items"][0]["stage"] == "recall"
    assert verdict["line_items"][0]["reason"] == {"label": "country", "sentence": Exclusion.COUNTRY.sentence}
    german = {**REQUEST, "device": {**REQUEST["device"], "geo": {"country": "DEU"}}}
    assert (await _verdict(api, german))["excluded"] == {}

    assert (await _verdict(api, {**german, "badv": ["acme.example"]}))["excluded"] == {"advertiser_blocked": 1}
    await api.member.post(f"{path}/pause")
    assert (await _verdict(api, german))["excluded"] == {"inactive": 1}


async def test_an_archived_deal_bars_its_id_for_good(api: Api) -> None:
    ids = await _active_tree(api)
    targeting = {"clauses": {"deal": {"include": ["D-1"]}}}
    path = f"/v1/line-items/{ids['line-items']}"
    await api.member.patch(path, json={"targeting": targeting}, headers={"if-match": "*"})
    offered = {"deals": [{"id": "D-1", "bidfloor": 1.0}]}
    request = {**REQUEST, "imp": [{**REQUEST["imp"][0], "pmp": offered}]}
    deal = await api.create("deals", name="D", exchange="demo-first", deal_id="D-1", price_micros_cpm=2_000_000)
    for action, excluded in (("activate", {}), ("pause", {"deal": 1}), ("archive", {"deal": 1})):
        await api.member.post(f"/v1/deals/{deal['id']}/{action}")
        assert (await _verdict(api, request))["excluded"] == excluded, action


async def test_the_instant_decides_about_flights(api: Api) -> None:
    ids = await _active_tree(api)
    flight = {"start_ms": 1_700_001_000_000, "end_ms": 1_700_002_000_000}
    await api.member.patch(f"/v1/campaigns/{ids['campaigns']}", json={"flight": flight}, headers={"if-match": "*"})
    assert (await _verdict(api, REQUEST))["excluded"] == {"out_of_flight": 1}
    assert (await _verdict(api, REQUEST, at_ms=1_700_001_500_000))["excluded"] == {}
    for outside in (0, 1_700_002_000_000, START_MS_MAX):
        assert (await _verdict(api, REQUEST, at_ms=outside))["excluded"] == {"out_of_flight": 1}


async def test_a_kept_request_is_explained_as_of_when_it_came(api: Api) -> None:
    await _active_tree(api)
    body = b'{"id":"auction-7","imp":[{"id":"a","banner":{"w":728,"h":90}}],"site":{"domain":"news.example"}}'
    kept = SampledRequest(auction_id="auction-7", exchange="demo-first", at_ms=5_000, body=body, outcome="size")
    other = Decision(
        auction_id="x", exchange="e", at_ms=1, bids=(), snapshot_version="", model_version="", feature_hash=""
    )
    records = {"auction-7": encode(kept), "a+/8//": encode(kept), "x": encode(other), "rubbish": b"rubbish"}
    await api.services.log.append(Topic.REQUESTS, [Entry(key, value) for key, value in records.items()])
    for auction_id in ("a%2B%2F8%2F%2F", "auction-7"):
        answer = await api.viewer.get(f"/v1/explain/{auction_id}")
        assert answer.status_code == 200
    told = answer.json()
    assert (told["outcome"], told["exchange"], told["at_ms"]) == ("size", "demo-first", 5_000)
    assert told["impressions"][0]["excluded"] == {"size": 1}
    for unknown in ("auction-9", "x", "rubbish", "%00", "a" * 3_000):
        missing = await api.viewer.get(f"/v1/explain/{unknown}")
        assert missing.status_code == 404
        errors(missing)


async def test_of_more_requests_than_are_looked_through_the_newest_are_found(api: Api, application: FastAPI) -> None:
    bounded = msgspec.structs.replace(api.services.config, explain_records_max=3)
    application.state.services = replace(api.services, config=bounded)
    body = b'{"id":"a","imp":[{"id":"1","banner":{"w":728,"h":90}}]}'
    kept = SampledRequest(auction_id="a", exchange="demo-first", at_ms=5_000, body=body, outcome="size")
    await api.services.log.append(Topic.REQUESTS, [Entry(f"a{number}", encode(kept)) for number in range(9)])
    answers = [(await api.viewer.get(f"/v1/explain/a{number}")).status_code for number in range(9)]
    assert answers == [404] * 6 + [200] * 3


@pytest.mark.parametrize(
    ("request_", "label"),
    [({}, "missing_id"), ({"id": "1"}, "no_impressions"), ({"id": "1", "imp": []}, "no_impressions")],
)
async def test_an_invalid_request_is_explained_too(api: Api, request_: dict[str, Any], label: str) -> None:
    answer = await api.viewer.post("/v1/explain", json={"exchange": "demo-first", "request": request_})
    assert answer.status_code == 200
    assert answer.json()["refused"]["label"] == label


@pytest.mark.parametrize("imp", [None, 1, [], {}, [None], [1], [[]], [{"id": {}}], [{"id": "1", "banner": 3}], "x"])
async def test_rubbish_within_a_request_is_no_failure(api: Api, imp: Any) -> None:
    answer = await api.viewer.post("/v1/explain", json={"exchange": "demo-first", "request": {"id": "1", "imp": imp}})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"exchange", "request"}),
        ({"exchange": "nobody", "request": {}}, {"exchange"}),
        ({"exchange": 1, "request": []}, {"exchange", "request"}),
        ({"exchange": "demo-first", "request": {}, "at_ms": -1}, {"at_ms"}),
        ({"exchange": "demo-first", "request": {}, "at_ms": START_MS_MAX + 1}, {"at_ms"}),
        ({"exchange": "demo-first", "request": {}, "at_ms": 2**63}, {"at_ms"}),
        ({"exchange": "demo-first", "request": {}, "when": 1}, {"when"}),
        ({"exchange": "demo-first", "request": {}, "seen": 1}, {"seen"}),
        ({"exchange": "demo-first", "request": {}, "seen": [1] * 10_001}, {"seen"}),
        (
            {"exchange": "demo-first", "request": {}, "seen": [{"line_item_id": 999}, {"line_item_id": 2**80}]},
            {"seen[0].line_item_id", "seen[1].line_item_id"},
        ),
        (
            {"exchange": "demo-first", "request": {}, "seen": [1, {}, {"line_item_id": 1, "at_ms": "x"}, {"who": 1}]},
            {"seen[0]", "seen[1].line_item_id", "seen[2].at_ms", "seen[3].who", "seen[3].line_item_id"},
        ),
    ],
)
async def test_what_explain_does_not_take(api: Api, body: dict[str, Any], fields: set[str]) -> None:
    answer = await api.viewer.post("/v1/explain", json=body)
    assert answer.status_code == 422
    assert set(errors(answer)) == fields


@pytest.mark.parametrize("path", ["line-items", "campaigns", "advertisers"])
async def test_a_part_of_the_catalogue_is_explained_as_in_the_whole(api: Api, path: str) -> None:
    first, second = await _active_tree(api), await _active_tree(api)
    caps = {"frequency_caps": [{"impressions": 1, "window_seconds": 60}]}
    for entity in (f"/v1/advertisers/{first['advertisers']}", f"/v1/campaigns/{second['campaigns']}"):
        assert (await api.member.patch(entity, json=caps, headers={"if-match": "*"})).status_code == 200
    seen = [{"line_item_id": first["line-items"]}]
    whole = await _verdict(api, REQUEST, seen=seen)
    assert whole["excluded"] == {"frequency_cap": 1}
    name = f"{path[:-1].replace('-', '_')}_id"
    for ids, line_item, stage in zip((first, second), whole["line_items"], ("caps", None), strict=True):
        fields = {"exchange": "demo-first", "request": REQUEST, "seen": seen}
        answer = await api.viewer.post("/v1/explain", params={name: ids[path]}, json=fields)
        (part,) = answer.json()["impressions"]
        assert part["line_items"] == [line_item]
        assert line_item["stage"] == stage
        assert part["left"] == {"recall": 1, "match": 1, "caps": int(stage is None), "rank": int(stage is None)}
    body = b'{"id":"a","imp":[{"id":"1","banner":{"w":728,"h":90}}],"site":{"domain":"news.example"}}'
    kept = SampledRequest(auction_id="a", exchange="demo-first", at_ms=5_000, body=body, outcome="size")
    await api.services.log.append(Topic.REQUESTS, [Entry("a", encode(kept))])
    (part,) = (await api.viewer.get(f"/v1/explain/a?{name}={second[path]}")).json()["impressions"]
    assert [one["line_item_id"] for one in part["line_items"]] == [second["line-items"]]
    assert part["excluded"] == {"size": 1}


async def test_ids_hold_together_and_nobody_has_some(api: Api) -> None:
    first, _ = await _active_tree(api), await _active_tree(api)
    line_item, campaign = first["line-items"], first["campaigns"]
    for query, found in (
        (f"line_item_id={line_item}&campaign_id={campaign}", [line_item]),
        (f"line_item_id={line_item}&campaign_id={campaign + 1}", []),
        ("advertiser_id=999", []),
    ):
        body = {"exchange": "demo-first", "request": REQUEST}
        answer = await api.viewer.post(f"/v1/explain?{query}", json=body)
        assert [one["line_item_id"] for one in answer.json()["impressions"][0]["line_items"]] == found
    assert api.services.explainer._compiled is None  # what was not asked for is not even read
    for query, field in (
        ("line_item_id=x", "line_item_id"),
        ("line_item=1", "line_item"),
        ("campaign_id=0", "campaign_id"),
    ):
        answer = await api.viewer.post(f"/v1/explain?{query}", json={"exchange": "demo-first", "request": REQUEST})
        assert answer.status_code == 422
        assert set(errors(answer)) == {field}


@pytest.mark.parametrize("path", ["line-items", "campaigns", "advertisers"])
async def test_caps_of_every_level_and_window_count_what_was_seen(api: Api, path: str) -> None:
    ids = await _active_tree(api)
    caps = [{"impressions": 1, "window_seconds": 60}, {"impressions": 3, "window_seconds": 3_600}]
    entity = f"/v1/{path}/{ids[path]}"
    answer = await api.member.patch(entity, json={"frequency_caps": caps}, headers={"if-match": "*"})
    assert answer.json()["frequency_caps"] == caps

    async def excluded(*ages_s: int, **fields: Any) -> dict[str, int]:
        seen = [{"line_item_id": ids["line-items"], "at_ms": 10_000_000 - age_s * 1_000} for age_s in ages_s]
        verdict = await _verdict(api, {**REQUEST, **fields}, at_ms=10_000_000, seen=seen)
        return dict(verdict["excluded"])

    capped = {"frequency_cap": 1}
    assert await excluded() == {}
    assert await excluded(59) == capped
    assert await excluded(60, 61) == {}
    assert await excluded(60, 61, 3_599) == capped
    assert await excluded(60, 61, 3_600) == {}
    assert await excluded(1, regs={"coppa": 1}) == {}  # nothing may be kept of the user
    just_now = await _verdict(api, REQUEST, seen=[{"line_item_id": ids["line-items"]}])
    assert just_now["line_items"][0]["stage"] == "caps"
    await api.member.patch(entity, json={"frequency_caps": []}, headers={"if-match": "*"})
    assert await excluded(1) == {}


async def test_what_was_seen_of_a_line_item_since_archived_counts_for_its_campaign(api: Api) -> None:
    ids = await _active_tree(api)
    caps = {"frequency_caps": [{"impressions": 1, "window_seconds": 60}]}
    await api.member.patch(f"/v1/campaigns/{ids['campaigns']}", json=caps, headers={"if-match": "*"})
    goal = {"kind": "cpm", "target_micros": 1}
    gone = await api.create("line-items", name="Gone", campaign_id=ids["campaigns"], flight={"start_ms": 0}, goal=goal)
    await api.member.post(f"/v1/line-items/{gone['id']}/archive")
    verdict = await _verdict(api, REQUEST, seen=[{"line_item_id": gone["id"]}])
    assert verdict["excluded"] == {"frequency_cap": 1}


async def test_a_broken_blob_of_controls_does_no_harm(api: Api) -> None:
    await _active_tree(api)
    await api.services.blobs.put("paced", b"rubbish")
    assert (await _verdict(api, REQUEST))["excluded"] == {}
