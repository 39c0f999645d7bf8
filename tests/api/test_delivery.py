"""Why a line item does or does not deliver, told without a bid request at hand."""

from typing import Any

import msgspec
from sqlalchemy import update

from dsp.events.schema import SampledRequest, encode
from dsp.events.topics import Topic
from dsp.ledger.book import Transaction
from dsp.pacing import controller
from dsp.pacing.controller import CONTROLS_BLOB, Control, Controls
from dsp.pacing.plan import day_number
from dsp.store.book import BookRepository
from dsp.store.tables import AdvertiserRow
from dsp.stream.port import Entry
from tests.api.conftest import Api, errors

IF_ANY = {"if-match": "*"}


async def _told(api: Api, number: int) -> dict[str, Any]:
    answer = await api.viewer.get(f"/v1/line-items/{number}/delivery")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _held(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["label"], one["sentence"]) for one in report["held"]]


async def _keep(api: Api, *requests: dict[str, Any]) -> None:
    kept = [
        SampledRequest(
            auction_id=str(number), exchange="demo-first", at_ms=1_000 + number, outcome="",
            body=msgspec.json.encode({"id": str(number), "site": {"domain": "news.example"}, **request}),
        )
        for number, request in enumerate(requests)
    ]  # fmt: skip
    await api.services.log.append(Topic.REQUESTS, [Entry(one.auction_id, encode(one)) for one in kept])


async def test_what_must_be_activated_is_named(api: Api) -> None:
    ids = await api.tree()
    number = ids["line-items"]
    await api.member.post(f"/v1/line-items/{number}/activate")
    drafts = [("inactive", "The campaign 1 is a draft."), ("inactive", "The advertiser 1 is a draft.")]
    nothing_to_show = ("no_creative", "None of its creatives is active.")
    assert _held(await _told(api, number)) == [*drafts, nothing_to_show]
    for path in ("advertisers", "campaigns"):
        await api.member.post(f"/v1/{path}/{ids[path]}/activate")
    told = await _told(api, number)
    assert (_held(told), told["effective_status"]) == ([nothing_to_show], "active")
    await api.member.post(f"/v1/creatives/{ids['creatives']}/activate")
    assert _held(await _told(api, number)) == []
    await api.member.post(f"/v1/campaigns/{ids['campaigns']}/pause")
    assert _held(await _told(api, number)) == [("inactive", "The campaign 1 is paused.")]


async def test_time_and_goal_hold_back(api: Api) -> None:
    ids = await _active(api)
    path = f"/v1/line-items/{ids['line-items']}"
    rule = await api.create("conversion-rules", name="Order", advertiser_id=ids["advertisers"], value_micros=1_000_000)
    await api.member.post(f"/v1/conversion-rules/{rule['id']}/activate")
    hour = (api.clock.now_ms() // 3_600_000 + 12) % 24
    later = {
        "flight": {"end_ms": api.clock.now_ms() - 1},
        "dayparts": [{"weekday": day, "start_hour": hour, "end_hour": hour + 1} for day in range(7)],
        "goal": {"kind": "roas", "target_micros": 2_000_000},
    }
    assert (await api.member.patch(path, json=later, headers=IF_ANY)).status_code == 200
    await api.member.post(f"/v1/conversion-rules/{rule['id']}/pause")
    held = _held(await _told(api, ids["line-items"]))
    assert [label for label, _ in held] == ["out_of_flight", "daypart", "worthless"]


async def test_budgets_stand_as_the_book_has_them(api: Api) -> None:
    ids = await _active(api)
    number = ids["line-items"]
    path = f"/v1/line-items/{number}"
    await api.member.patch(path, json={"budget": {"total_micros": 3_000_500}}, headers=IF_ANY)
    now_ms = api.clock.now_ms()
    today = day_number(now_ms, "Europe/Berlin")
    bills = [
        Transaction(
            exchange="demo-first", auction_id=str(day), imp_id="1", kind="bill", bid_id=str(day), at_ms=1,
            appended_ms=1, advertiser_id=1, campaign_id=ids["campaigns"], line_item_id=number, creative_id=1, day=day,
            hour=24 * day, lease_id="1", charged_micros=micros, late_micros=0,
        )
        for day, micros in ((today - 1, 2_000_000), (today, 1_000_000))
    ]  # fmt: skip
    with api.services.writes.begin() as session:
        BookRepository(session).apply(bills, {0: 1})
    told = await _told(api, number)
    names = ("budget_of", "daily", "limit_micros", "spent_micros", "left_micros")
    assert [tuple(one[name] for name in names) for one in told["budgets"]] == [
        ("line_item", False, 3_000_500, 3_000_000, 500),
        ("campaign", True, 5_000_000, 1_000_000, 4_000_000),
    ]
    assert (told["held"], told["pace"]) == ([], None)
    # What is left is no impression's cost.
    control = Control(
        multiplier=0.25, at_ms=now_ms, spent_micros=3_000_000, cost_micros=800.0, planned_micros=2_900_000
    )
    await api.services.blobs.put(CONTROLS_BLOB, controller.encode(Controls(at_ms=now_ms, line_items={number: control})))
    told = await _told(api, number)
    assert _held(told) == [("budget", "The line item's total budget has no room for another impression.")]
    pace = {"at_ms": now_ms, "multiplier": 0.25, "planned_micros": 2_900_000, "spent_micros": 3_000_000}
    assert told["pace"] == pace
    await api.services.blobs.put(CONTROLS_BLOB, b"rubbish")
    assert (await _told(api, number))["pace"] is None


async def test_terms_that_nobody_here_can_use_are_named(api: Api) -> None:
    ids = await _active(api)
    number = ids["line-items"]
    await _keep(api, {"imp": [{"id": "1", "banner": {"w": 300, "h": 250}}]})
    with api.services.writes.begin() as session:
        session.execute(update(AdvertiserRow).values(timezone="Mars/Olympus_Mons"))
    control = Control(multiplier=0.0)
    await api.services.blobs.put(CONTROLS_BLOB, controller.encode(Controls(at_ms=1, line_items={number: control})))
    told = await _told(api, number)
    assert [label for label, _ in _held(told)] == ["inactive", "throttled"]
    assert (told["supply"]["impressions"], told["supply"]["eligible"]) == (1, 0)


async def test_supply_is_told_by_what_bidders_were_asked(api: Api) -> None:
    """Also of a line item that rests: it is there whether or not it may be bought."""
    ids = await api.tree()
    number = ids["line-items"]
    await api.member.post(f"/v1/creatives/{ids['creatives']}/activate")
    none = {"since_ms": None, "requests": 0, "impressions": 0, "eligible": 0, "floor_micros_cpm": None, "excluded": []}
    assert (await _told(api, number))["supply"] == none
    fits = {"id": "1", "banner": {"w": 300, "h": 250}}
    await _keep(
        api,
        {"imp": [{**fits, "bidfloor": 0.5}, {**fits, "id": "2", "bidfloor": 2.0}]},
        {"imp": [{"id": "1", "banner": {"w": 728, "h": 90}}]},
        {"imp": [{"id": "1", "banner": {"w": 728, "h": 90}}], "test": 1},
        {"imp": [fits], "badv": ["acme.example"]},
        {"imp": [{"id": "1", "video": {"mimes": ["video/mp4"]}}]},
        {"imp": [{"id": "1", "banner": {"w": 970, "h": 250}}]},
        {},
    )
    await api.services.log.append(Topic.REQUESTS, [Entry("x", b"rubbish")])
    supply = (await _told(api, number))["supply"]
    excluded = {one["label"]: one["impressions"] for one in supply.pop("excluded")}
    assert excluded == {"size": 2, "advertiser_blocked": 1, "format": 1}
    assert supply == {"since_ms": 1_000, "requests": 6, "impressions": 6, "eligible": 2, "floor_micros_cpm": 500_000}


async def test_supply_is_told_by_no_more_than_is_needed(api: Api) -> None:
    """The newest are: one asks why there is no delivery now. A request may have a hundred impressions, or 256 kB."""
    number = (await api.tree())["line-items"]
    banners = [{"id": str(place), "banner": {"w": 728, "h": 90}} for place in range(60)]
    await _keep(api, *[{"imp": banners}] * 20)
    supply = (await _told(api, number))["supply"]
    assert (supply["requests"], supply["impressions"]) == (17, 1_020)
    assert supply["since_ms"] == 1_003
    await _keep(api, *[{"imp": banners[:1], "ext": {"padding": "x" * 250_000}}] * 70)
    supply = (await _told(api, number))["supply"]
    assert (supply["requests"], supply["since_ms"]) == (67, 1_003)  # 16 MiB of them


async def test_a_campaign_is_told_of_line_item_by_line_item(api: Api) -> None:
    first = await _active(api)
    await _active(api)  # another's
    terms = {"flight": {"start_ms": 0}, "goal": {"kind": "cpm", "target_micros": 1_000}}
    for number in range(2):
        await api.create("line-items", name=f"L{number}", campaign_id=first["campaigns"], **terms)
    control = Control(multiplier=0.25, at_ms=1, spent_micros=0, cost_micros=1.0, planned_micros=0)
    controls = Controls(at_ms=1, line_items={first["line-items"]: control})
    await api.services.blobs.put(CONTROLS_BLOB, controller.encode(controls))

    async def told(query: str = "") -> Any:
        return (await api.viewer.get(f"/v1/campaigns/{first['campaigns']}/delivery?{query}")).json()

    whole = await told()
    assert whole["next_page_token"] is None
    active, *drafts = whole["items"]
    assert active == {**await _told(api, first["line-items"]), "supply": None}
    assert active["pace"]["multiplier"] == 0.25
    assert [(one["name"], one["supply"]) for one in drafts] == [("L0", None), ("L1", None)]
    assert [[label for label, _ in _held(one)] for one in drafts] == [["inactive", "no_creative"]] * 2
    assert (await told("status=active"))["items"] == [active]
    page = await told("page_size=2")
    rest = await told(f"page_size=2&page_token={page['next_page_token']}")
    assert [*page["items"], *rest["items"]] == whole["items"]
    for query, field in (("page_size=51", "page_size"), ("page_token=x", "page_token"), ("name=L", "name")):
        answer = await api.viewer.get(f"/v1/campaigns/{first['campaigns']}/delivery?{query}")
        assert list(errors(answer)) == [field]


async def test_who_may_ask_for_what(api: Api) -> None:
    assert (await api.anonymous.get("/v1/line-items/1/delivery")).status_code == 401
    for unknown in ("9", "x", "9" * 30):
        missing = await api.viewer.get(f"/v1/line-items/{unknown}/delivery")
        assert missing.status_code == 404
        errors(missing)
    ids = await api.tree()
    answer = await api.viewer.get(f"/v1/line-items/{ids['line-items']}/delivery?at_ms=1")
    assert errors(answer) == {"at_ms": "unknown parameter"}


async def _active(api: Api) -> dict[str, int]:
    ids = await api.tree()
    for path, number in ids.items():
        assert (await api.member.post(f"/v1/{path}/{number}/activate")).status_code == 200
    return ids
