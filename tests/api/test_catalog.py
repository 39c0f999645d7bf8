"""The catalogue over REST: create, read, change, list, life cycle, versions."""

import asyncio
from typing import Any

import pytest

from tests.api.conftest import Api, errors


async def test_create_answers_a_draft_with_location_and_etag(api: Api) -> None:
    answer = await api.member.post("/v1/advertisers", json={"name": "Acme", "domain": "WWW.Acme.example"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/advertisers/1"
    assert answer.headers["etag"] == '"1"'
    assert answer.json() == {
        "id": 1, "name": "Acme", "external_id": None, "status": "draft", "effective_status": "draft", "version": 1,
        "domain": "acme.example", "categories": [], "timezone": "UTC", "frequency_caps": [],
    }  # fmt: skip
    again = await api.viewer.get(answer.headers["location"])
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, answer.json(), '"1"')


async def test_values_are_normalised(api: Api) -> None:
    ids = await api.tree()
    patch = {
        "targeting": {
            "clauses": {
                "country": {"include": ["usa", "GBR", "usa"]},
                "domain": {"exclude": ["WWW.News.Example"]},
                "segment": {"include": ["Sports-Fan"]},
                "deal": {"include": ["Deal-CaseKept"]},
                "size": {},
            }
        }
    }
    answer = await api.member.patch(f"/v1/line-items/{ids['line-items']}", json=patch, headers={"if-match": '"1"'})
    assert answer.status_code == 200
    assert answer.json()["targeting"]["clauses"] == {
        "country": {"include": ["USA", "GBR"], "exclude": []},
        "domain": {"include": [], "exclude": ["news.example"]},
        "segment": {"include": ["sports-fan"], "exclude": []},
        "deal": {"include": ["Deal-CaseKept"], "exclude": []},
    }


async def test_patch_merges_and_null_resets(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}"
    first = await api.member.patch(path, json={"budget": {"total_micros": 9_000_000}}, headers={"if-match": '"1"'})
    assert first.json()["budget"] == {"daily_micros": 5_000_000, "total_micros": 9_000_000}
    second = await api.member.patch(
        path,
        json={"budget": {"daily_micros": None}, "name": "Summer"},
        headers={"if-match": first.headers["etag"], "content-type": "application/merge-patch+json"},
    )
    assert second.json()["budget"] == {"daily_micros": None, "total_micros": 9_000_000}
    assert (second.json()["name"], second.json()["version"], second.headers["etag"]) == ("Summer", 3, '"3"')
    reset = await api.member.patch(path, json={"budget": None}, headers={"if-match": "*"})
    assert reset.json()["budget"] == {"daily_micros": None, "total_micros": None}


async def test_trackers_are_kept_replaced_and_refused_by_place(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/creatives/{ids['creatives']}"
    assert (await api.viewer.get(path)).json()["trackers"] == []
    seen = {"event": "impression", "url": "https://t.example/i?r=${CACHEBUSTER}"}
    changed = await api.member.patch(path, json={"trackers": [seen]}, headers={"if-match": '"1"'})
    assert changed.json()["trackers"] == [{**seen, "method": "image", "vendor": None, "parameters": None}]
    assert (await api.viewer.get(path)).json() == changed.json()
    wrong = [seen, {**seen, "url": "http://t.example/"}, {**seen, "event": "click"}]
    refused = await api.member.patch(path, json={"trackers": wrong}, headers={"if-match": '"2"'})
    assert {one["pointer"] for one in refused.json()["errors"]} >= {"/trackers/1/url"}
    again = await api.member.patch(path, json={"trackers": None}, headers={"if-match": '"2"'})
    assert (again.json()["trackers"], again.headers["etag"]) == ([], '"3"')


async def test_a_change_that_changes_nothing_makes_no_version(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}"
    answer = await api.member.patch(path, json={"name": "Spring"}, headers={"if-match": '"1"'})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert len((await api.viewer.get(f"{path}/versions")).json()["items"]) == 1


async def test_if_match_guards_changes(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}"
    assert (await api.member.patch(path, json={"name": "x"})).status_code == 428
    stale = await api.member.patch(path, json={"name": "x"}, headers={"if-match": '"7"'})
    assert stale.status_code == 412
    assert not errors(stale)
    for rubbish in ('W/"1"', "1", '"one"', '"1", "2"', ""):
        answer = await api.member.patch(path, json={"name": "x"}, headers={"if-match": rubbish})
        assert answer.status_code == 400, rubbish
    assert (await api.viewer.get(path)).json()["name"] == "Spring"


async def test_of_two_writers_of_one_version_one_wins(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}"
    names = [f"name {number}" for number in range(8)]
    answers = await asyncio.gather(
        *[api.member.patch(path, json={"name": name}, headers={"if-match": '"1"'}) for name in names]
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    assert (await api.viewer.get(path)).json()["version"] == 2


async def test_life_cycle_and_effective_status(api: Api) -> None:
    ids = await api.tree()
    creative = f"/v1/creatives/{ids['creatives']}"
    for path in ("creatives", "line-items", "campaigns"):
        answer = await api.member.post(f"/v1/{path}/{ids[path]}/activate")
        assert (answer.json()["status"], answer.json()["effective_status"]) == ("active", "draft")
    advertiser = f"/v1/advertisers/{ids['advertisers']}"
    assert (await api.member.post(f"{advertiser}/pause")).status_code == 409  # a draft cannot be paused
    assert (await api.member.post(f"{advertiser}/activate")).json()["effective_status"] == "active"
    assert (await api.viewer.get(creative)).json()["effective_status"] == "active"
    paused = await api.member.post(f"/v1/campaigns/{ids['campaigns']}/pause")
    assert (paused.json()["status"], paused.headers["etag"]) == ("paused", '"3"')
    listed = (await api.viewer.get("/v1/creatives")).json()["items"]
    assert [(one["status"], one["effective_status"]) for one in listed] == [("active", "paused")]
    again = await api.member.post(f"/v1/campaigns/{ids['campaigns']}/pause")
    assert (again.status_code, again.headers["etag"]) == (200, '"3"')  # setting it again is no change
    assert (await api.member.post(f"/v1/campaigns/{ids['campaigns']}/archive")).json()["status"] == "archived"
    assert (await api.member.post(f"/v1/campaigns/{ids['campaigns']}/activate")).status_code == 409
    changed = await api.member.patch(f"/v1/campaigns/{ids['campaigns']}", json={"name": "x"}, headers={"if-match": "*"})
    assert changed.status_code == 409
    orphan = await api.member.post(
        "/v1/line-items",
        json={"name": "x", "campaign_id": ids["campaigns"], "flight": {"start_ms": 0},
              "goal": {"kind": "cpm", "target_micros": 1}},
    )  # fmt: skip
    assert errors(orphan) == {"campaign_id": "the campaign is archived"}
    ad = {"name": "x", "format": "audio", "markup": "https://acme.example/a.mp3", "mime": "audio/mpeg",
          "duration_seconds": 9, "landing_url": "https://acme.example/", "line_item_id": ids["line-items"]}  # fmt: skip
    orphan = await api.member.post("/v1/creatives", json=ad)
    assert errors(orphan) == {"line_item_id": "the campaign of the line item is archived"}
    await api.member.post(f"{advertiser}/archive")
    orphan = await api.member.post("/v1/campaigns", json={"name": "x", "advertiser_id": 1, "flight": {"start_ms": 0}})
    assert errors(orphan) == {"advertiser_id": "the advertiser is archived"}


async def test_nothing_is_active_whose_spend_has_no_bound(api: Api) -> None:
    ids = await api.tree()
    campaign, line_item = f"/v1/campaigns/{ids['campaigns']}", f"/v1/line-items/{ids['line-items']}"

    async def change(path: str, budget: dict[str, int] | None) -> dict[str, str]:
        answer = await api.member.patch(path, json={"budget": budget}, headers={"if-match": "*"})
        return {} if answer.status_code == 200 else errors(answer)

    assert not await change(campaign, None)  # as long as nothing below it is active
    assert (await api.member.post(f"{campaign}/activate")).status_code == 200
    unbounded = await api.member.post(f"{line_item}/activate")
    assert (unbounded.status_code, list(errors(unbounded))) == (422, ["budget"])
    assert not await change(line_item, {"total_micros": 9_000_000})
    assert (await api.member.post(f"{line_item}/activate")).status_code == 200
    assert list(await change(line_item, None)) == ["budget"]
    assert not await change(campaign, {"daily_micros": 5_000_000})
    assert not await change(line_item, None)
    said = {"budget": f"is needed: line item {ids['line-items']} is active and has none"}
    assert await change(campaign, None) == said
    assert (await api.member.post(f"{line_item}/pause")).status_code == 200
    assert not await change(campaign, None)
    assert (await api.member.post(f"{line_item}/activate")).status_code == 422


async def test_a_flight_that_never_meets_the_campaigns_is_refused(api: Api) -> None:
    ids = await api.tree()
    march, april, may = 1_772_323_200_000, 1_775_001_600_000, 1_777_593_600_000
    campaign, line_item = f"/v1/campaigns/{ids['campaigns']}", f"/v1/line-items/{ids['line-items']}"

    async def change(path: str, **flight: int) -> dict[str, str]:
        answer = await api.member.patch(path, json={"flight": flight}, headers={"if-match": "*"})
        return {} if answer.status_code == 200 else errors(answer)

    assert not await change(campaign, start_ms=march, end_ms=april)
    said = {"flight": f"lies outside the campaign's, which is from {march} to {april}"}
    assert await change(line_item, start_ms=april, end_ms=may) == said
    assert await change(line_item, start_ms=0, end_ms=march) == said
    assert not await change(line_item, start_ms=april - 1, end_ms=may)
    # A campaign may be cut short below its line items, which can be changed for all that.
    assert not await change(campaign, end_ms=march + 1)
    renamed = await api.member.patch(line_item, json={"name": "y"}, headers={"if-match": "*"})
    assert renamed.status_code == 200


async def test_actions_respect_if_match_when_given(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}/activate"
    assert (await api.member.post(path, headers={"if-match": '"9"'})).status_code == 412
    assert (await api.member.post(path, headers={"if-match": '"1"'})).status_code == 200


async def test_a_goal_on_the_return_is_kept_versioned_and_refused_in_units(api: Api) -> None:
    ids = await api.tree()
    path, match = f"/v1/line-items/{ids['line-items']}", {"if-match": "*"}
    goal = {"kind": "roas", "target_micros": 4_000_000}
    worthless = await api.member.patch(path, json={"goal": goal}, headers=match)
    assert errors(worthless) == {"goal.kind": "needs a conversion rule of the advertiser with a value"}
    other = await api.create("advertisers", name="Other", domain="other.example")
    await api.create("conversion-rules", name="Order", advertiser_id=other["id"], value_micros=1_000_000)
    rule = await api.create("conversion-rules", name="Lead", advertiser_id=ids["advertisers"])
    assert (await api.member.patch(path, json={"goal": goal}, headers=match)).status_code == 422
    valued = f"/v1/conversion-rules/{rule['id']}"
    assert (await api.member.patch(valued, json={"value_micros": 1_000_000}, headers=match)).status_code == 200
    changed = await api.member.patch(path, json={"goal": goal}, headers=match)
    assert (changed.status_code, changed.json()["goal"]) == (200, goal)
    assert (await api.viewer.get(path)).json()["goal"] == goal
    versions = (await api.viewer.get(f"{path}/versions")).json()["items"]
    assert [(one["before"] or {}).get("goal", {}).get("kind") for one in versions] == [None, "cpm"]
    assert versions[-1]["after"]["goal"] == goal
    worthless = await api.member.post(f"{path}/activate")  # the rule is a draft, under which nothing counts
    assert errors(worthless) == {"goal.kind": "needs an active conversion rule of the advertiser with a value"}
    await api.member.post(f"{valued}/activate")
    assert (await api.member.post(f"{path}/activate")).status_code == 200
    await api.member.post(f"{valued}/archive")  # what was agreed stays, and can be renamed
    assert (await api.member.patch(path, json={"name": "Return"}, headers=match)).status_code == 200
    refused = await api.member.patch(path, json={"goal": {"target_micros": 400}}, headers=match)  # per cent, not micros
    assert (refused.status_code, list(errors(refused))) == (422, ["goal.target_micros"])
    document = (await api.anonymous.get("/openapi.json")).json()
    assert document["components"]["schemas"]["GoalKind"]["enum"] == ["cpa", "cpc", "cpm", "roas"]


async def test_versions_tell_who_did_what(api: Api) -> None:
    ids = await api.tree()
    path = f"/v1/campaigns/{ids['campaigns']}"
    api.clock.advance(1_000)
    await api.member.patch(path, json={"name": "Summer"}, headers={"if-match": '"1"'})
    api.clock.advance(1_000)
    await api.owner.post(f"{path}/activate")
    items = (await api.viewer.get(f"{path}/versions")).json()["items"]
    assert [(one["version"], one["action"], one["actor"]) for one in items] == [
        (1, "create", "key:member"), (2, "update", "key:member"), (3, "activate", "key:owner"),
    ]  # fmt: skip
    assert [one["at_ms"] - items[0]["at_ms"] for one in items] == [0, 1_000, 2_000]
    assert items[0]["before"] is None
    assert (items[1]["before"]["name"], items[1]["after"]["name"]) == ("Spring", "Summer")
    assert items[2]["before"] == items[1]["after"]
    first = (await api.viewer.get(f"{path}/versions?page_size=2")).json()
    rest = (await api.viewer.get(f"{path}/versions?page_token={first['next_page_token']}")).json()
    assert [one["version"] for one in first["items"] + rest["items"]] == [1, 2, 3]
    assert rest["next_page_token"] is None


async def test_all_changes_are_listed_with_who_did_what(api: Api) -> None:
    ids = await api.tree()
    api.clock.advance(60_000)
    since_ms = api.clock.now_ms()
    campaign = f"/v1/campaigns/{ids['campaigns']}"
    await api.owner.patch(campaign, json={"budget": {"daily_micros": 1_000_000}}, headers={"if-match": "*"})
    await api.member.post(
        f"/v1/deals/{(await api.create('deals', name='D', exchange='e', deal_id='d'))['id']}/activate"
    )

    async def listed(query: str = "") -> list[tuple[str, int, str, str]]:
        found, token = [], ""
        while token is not None:
            page = (await api.viewer.get(f"/v1/changes?page_size=2{query}{token and '&page_token=' + token}")).json()
            found += [(one["entity_kind"], one["entity_id"], one["action"], one["actor"]) for one in page["items"]]
            token = page["next_page_token"]
        return found

    lowered = ("campaign", ids["campaigns"], "update", "key:owner")
    deal = [("deal", 1, "create", "key:member"), ("deal", 1, "activate", "key:member")]
    made = [(kind, 1, "create", "key:member") for kind in ("advertiser", "campaign", "line_item", "creative")]
    assert await listed() == [*made, lowered, *deal]
    assert await listed(f"&since_ms={since_ms}") == [lowered, *deal]
    assert await listed("&actor=key:owner") == [lowered]
    assert await listed("&entity_kind=deal") == deal
    (change,) = (await api.viewer.get("/v1/changes?actor=key:owner")).json()["items"]
    budgets = [change[when]["budget"]["daily_micros"] for when in ("before", "after")]
    assert (change["at_ms"], change["version"], budgets) == (since_ms, 2, [5_000_000, 1_000_000])
    for query in ("entity_kind=mood", "since_ms=now", "page_token=x", "page_size=1000", "by=me"):
        assert (await api.viewer.get(f"/v1/changes?{query}")).status_code == 422


async def test_lists_are_paged_and_filtered(api: Api) -> None:
    advertisers = [
        await api.create("advertisers", name=f"A{number}", domain="a.example", external_id=f"ext-{number}")
        for number in range(5)
    ]
    for advertiser in advertisers[:2]:
        await api.create("campaigns", name="C", advertiser_id=advertiser["id"], flight={"start_ms": 0})
    await api.member.post(f"/v1/advertisers/{advertisers[3]['id']}/activate")
    seen, token = [], ""
    while token is not None:
        page = (await api.viewer.get(f"/v1/advertisers?page_size=2{token and '&page_token=' + token}")).json()
        seen += [one["name"] for one in page["items"]]
        token = page["next_page_token"]
        assert len(page["items"]) <= 2
    assert seen == ["A0", "A1", "A2", "A3", "A4"]

    async def names(query: str) -> list[str]:
        answer = await api.viewer.get(f"/v1/{query}")
        assert answer.status_code == 200
        return [one["name"] for one in answer.json()["items"]]

    assert await names("advertisers?status=active") == ["A3"]
    assert await names("advertisers?external_id=ext-2") == ["A2"]
    assert await names("advertisers?name=a3") == ["A3"]
    assert await names("advertisers?name=a&status=draft&page_size=2") == ["A0", "A1"]
    assert await names("advertisers?name=%25") == await names("advertisers?name=_") == []
    assert await names("advertisers?external_id=ext-2&status=active") == []
    assert await names(f"campaigns?advertiser_id={advertisers[1]['id']}") == ["C"]
    ids = await api.tree()
    for path in ("campaigns", "line-items", "creatives"):
        (found,) = (await api.viewer.get(f"/v1/{path}?advertiser_id={ids['advertisers']}")).json()["items"]
        assert found["id"] == ids[path]
        assert await names(f"{path}?advertiser_id={advertisers[4]['id']}") == []
    assert await names(f"creatives?campaign_id={ids['campaigns']}&line_item_id={ids['line-items']}") == ["Box"]
    dry = await api.member.post("/v1/advertisers?validate_only=true", json={"name": "X", "domain": "x.example"})
    assert errors(dry) == {"validate_only": "unknown parameter"}  # it would have been made
    twice = await api.viewer.get("/v1/campaigns?advertiser_id=1&advertiser_id=2&status=draft&status=active")
    assert errors(twice) == {"advertiser_id": "may be given once", "status": "may be given once"}
    assert await names("campaigns?advertiser_id=99") == []


async def test_many_changes_are_made_together_or_not_at_all(api: Api) -> None:
    ids = await api.tree()
    goal = {"kind": "cpm", "target_micros": 2_000_000}
    fields = {"campaign_id": ids["campaigns"], "flight": {"start_ms": 0}, "goal": goal}
    others = [(await api.create("line-items", name=f"L{number}", **fields))["id"] for number in range(3)]
    first, second, third = others
    bare = await api.create("campaigns", name="Bare", advertiser_id=ids["advertisers"], flight={"start_ms": 0})
    unbounded = await api.create("line-items", name="L", **{**fields, "campaign_id": bare["id"]})

    async def batch(*operations: Any, **headers: str) -> Any:
        return await api.member.post("/v1/line-items/batch", json={"operations": operations}, headers=headers)

    budget = {"daily_micros": 1_000_000}
    raised = {"id": first, "action": "update", "version": 1, "fields": {"budget": budget}}
    activated = {"id": second, "action": "activate"}
    headers = {"idempotency-key": "monday"}
    answer = await batch(raised, activated, **headers)
    assert answer.status_code == 200
    assert [(one["id"], one["version"], one["status"], one["effective_status"]) for one in answer.json()["items"]] == [
        (first, 2, "draft", "draft"), (second, 2, "active", "draft"),
    ]  # fmt: skip
    assert answer.json()["items"][0]["budget"] == {**budget, "total_micros": None}
    again = await batch(raised, activated, **headers)
    assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
    before = (await api.viewer.get("/v1/line-items")).content
    refused = await batch(
        {"id": third, "action": "activate"},
        raised,
        {"id": 99, "action": "pause"},
        {"id": third, "action": "update", "fields": {"budget": {"daily_micros": -1}, "mood": 1}},
        {"id": ids["line-items"], "action": "pause"},
        {"id": unbounded["id"], "action": "activate"},
    )
    assert refused.status_code == 422
    assert errors(refused) == {
        "operations[1]": "the line item is at version 2, not 1",
        "operations[2]": "there is no line item 99",
        "operations[3].fields.budget.daily_micros": "must be between 1 and 10000000000000000",
        "operations[3].fields.mood": "unknown field",
        "operations[4]": "cannot go from draft to paused",
        "operations[5]": "budget: is needed, here or on the campaign: spend would have no bound",
    }
    assert (await api.viewer.get("/v1/line-items")).content == before
    actions = [(one["entity_id"], one["action"]) for one in (await api.viewer.get("/v1/changes")).json()["items"][-2:]]
    assert actions == [(first, "update"), (second, "activate")]
    assert (await api.viewer.post("/v1/line-items/batch", json={"operations": [activated]})).status_code == 403


async def test_many_are_created_together_or_not_at_all(api: Api) -> None:
    ids = await api.tree()
    line_item = (await api.viewer.get(f"/v1/line-items/{ids['line-items']}")).json()

    async def batch(path: str, *operations: Any, **headers: str) -> Any:
        return await api.member.post(f"/v1/{path}/batch", json={"operations": operations}, headers=headers)

    set_by_platform = ("id", "status", "version", "effective_status")
    copied = {name: value for name, value in line_item.items() if name not in set_by_platform}
    copies = [
        {"action": "create", "id": None, "fields": {**copied, "name": f"Copy {one}", "external_id": str(one)}}
        for one in (1, 2)
    ]
    renamed = {"action": "update", "id": line_item["id"], "fields": {"name": "Original"}}
    headers = {"idempotency-key": "copies"}
    answer = await batch("line-items", *copies, renamed, **headers)
    assert answer.status_code == 200, answer.text
    first, second, original = answer.json()["items"]
    assert original["name"] == "Original"
    for made, name in ((first, "Copy 1"), (second, "Copy 2")):
        assert {field: made[field] for field in copied} == {**copied, "name": name, "external_id": name[-1]}
        assert (made["status"], made["version"]) == ("draft", 1)
        assert (await api.viewer.get(f"/v1/line-items/{made['id']}")).json() == made
    assert (await batch("line-items", *copies, renamed, **headers)).content == answer.content
    again = {"action": "create", "fields": {**copied, "external_id": "3"}}
    refused = await batch("line-items", again, copies[1], {"action": "create", "fields": {"name": "", "mood": 1}})
    assert refused.status_code == 422
    assert errors(refused) == {
        "operations[1].fields.external_id": f"is taken by line item {second['id']}",
        "operations[2].fields.name": "must not be empty",
        "operations[2].fields.mood": "unknown field",
        "operations[2].fields.campaign_id": "is required",
        "operations[2].fields.flight": "is required",
        "operations[2].fields.goal": "is required",
    }
    assert len((await api.viewer.get("/v1/line-items")).json()["items"]) == 3


@pytest.mark.parametrize(
    ("operations", "faults"),
    [
        ([], {"operations"}),
        ([{"id": 1, "action": "pause"}] * 101, {"operations"}),
        ({"id": 1}, {"operations"}),
        (
            [1, {}, {"id": "1", "action": "delete", "version": 1.5}, {"id": 1, "action": "update"}],
            {
                "operations[0]", "operations[1].id", "operations[1].action", "operations[2].id",
                "operations[2].action", "operations[2].version", "operations[3].fields",
            },
        ),
        ([{"id": 1, "action": "pause", "fields": {}}], {"operations[0].fields"}),
        ([{"id": None, "action": "pause"}], {"operations[0].id"}),
        (
            [{"action": "create"}, {"id": 1, "action": "create", "version": 1, "fields": {}}],
            {"operations[0].fields", "operations[1].id", "operations[1].version"},
        ),
        ([{"id": 1, "action": "pause", "status": "active"}], {"operations[0].status"}),
    ],
)  # fmt: skip
async def test_what_a_batch_does_not_take(api: Api, operations: Any, faults: set[str]) -> None:
    answer = await api.member.post("/v1/line-items/batch", json={"operations": operations})
    assert answer.status_code == 422
    assert set(errors(answer)) == faults


@pytest.mark.parametrize(
    "query",
    [
        "page_size=0", "page_size=101", "page_size=x", "page_size=1e9", "page_token=rubbish", "page_token=%00",
        "page_token=%C3%A9", "page_token=" + "a" * 500, "status=asleep", "stauts=active", "advertiser_id=1",
    ],
)  # fmt: skip
async def test_bad_parameters_are_refused_by_name(api: Api, query: str) -> None:
    answer = await api.viewer.get(f"/v1/advertisers?{query}")
    assert answer.status_code == 422
    assert list(errors(answer)) == [query.partition("=")[0]]


async def test_a_token_of_another_list_is_refused(api: Api) -> None:
    for number in range(2):
        await api.create("advertisers", name=f"A{number}", domain="a.example")
    token = (await api.viewer.get("/v1/advertisers?page_size=1")).json()["next_page_token"]
    assert (await api.viewer.get(f"/v1/campaigns?page_token={token}")).status_code == 422


async def test_idempotency_key_repeats_the_first_answer(api: Api) -> None:
    body = {"name": "Acme", "domain": "acme.example"}
    headers = {"idempotency-key": "order-66"}
    answers = await asyncio.gather(*[api.member.post("/v1/advertisers", json=body, headers=headers) for _ in range(5)])
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.headers["location"] for answer in answers} == {"/v1/advertisers/1"}
    assert sorted(answer.headers.get("idempotency-replayed", "") for answer in answers) == ["", *["true"] * 4]
    assert len((await api.viewer.get("/v1/advertisers")).json()["items"]) == 1
    other = await api.member.post("/v1/advertisers", json={**body, "name": "Other"}, headers=headers)
    assert (other.status_code, list(errors(other))) == (422, ["Idempotency-Key"])
    assert (await api.owner.post("/v1/advertisers", json=body, headers=headers)).json()["id"] == 2  # another's key
    api.clock.advance(86_401_000)
    assert (await api.member.post("/v1/advertisers", json=body, headers=headers)).json()["id"] == 3  # forgotten


async def test_a_change_that_is_repeated_gets_the_first_answer(api: Api) -> None:
    """Its answer was lost on the way: by its version alone, the repetition would be refused."""
    ids = await api.tree()
    path, headers = f"/v1/campaigns/{ids['campaigns']}", {"if-match": '"1"', "idempotency-key": "k"}
    first = await api.member.patch(path, json={"name": "x"}, headers=headers)
    again = await api.member.patch(path, json={"name": "x"}, headers=headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, '"2"')
    assert again.headers["idempotency-replayed"] == "true"
    other = await api.member.patch(path, json={"name": "y"}, headers=headers)
    assert list(errors(other)) == ["Idempotency-Key"]
    assert (await api.viewer.get(path)).json()["version"] == 2


async def test_a_refused_request_does_not_use_up_its_idempotency_key(api: Api) -> None:
    headers = {"idempotency-key": "k"}
    assert (await api.member.post("/v1/advertisers", json={"name": "A"}, headers=headers)).status_code == 422
    body = {"name": "A", "domain": "a.example"}
    assert (await api.member.post("/v1/advertisers", json=body, headers=headers)).status_code == 201
    bad = await api.member.post("/v1/advertisers", json=body, headers={"idempotency-key": "two words"})
    assert bad.status_code == 400


async def test_identities_are_unique(api: Api) -> None:
    ids = await api.tree()
    await api.create("advertisers", name="B", domain="b.example", external_id="x")
    twice = await api.member.post("/v1/advertisers", json={"name": "C", "domain": "c.example", "external_id": "x"})
    assert errors(twice) == {"external_id": "is taken by advertiser 2"}
    deal = {"name": "D", "exchange": "demo-first", "deal_id": "1"}
    await api.create("deals", **deal)
    assert list(errors(await api.member.post("/v1/deals", json=deal))) == ["deal_id"]
    await api.create("deals", **{**deal, "exchange": "demo-second"})
    audience = {"name": "S", "advertiser_id": ids["advertisers"], "segment_id": "gamers"}
    await api.create("audiences", **audience)
    assert list(errors(await api.member.post("/v1/audiences", json=audience))) == ["segment_id"]
    moved = await api.member.patch("/v1/audiences/1", json={"advertiser_id": 2}, headers={"if-match": "*"})
    assert errors(moved) == {"advertiser_id": "cannot be changed"}
