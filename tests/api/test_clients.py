"""Clients' keys, each for one advertiser: what is others' is not there for them."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from dsp.catalog.kinds import Kind
from dsp.kernel.errors import ValidationError
from dsp.ledger.book import Transaction
from dsp.store.book import BookRepository
from dsp.store.keys import Role, create_key
from tests.api.conftest import Api, errors

OTHERS = {"advertisers": 2, "campaigns": 2, "line-items": 2, "creatives": 2, "audiences": 2, "conversion-rules": 2}


@pytest.fixture
async def client(api: Api, application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The client of the first of two advertisers, each with one entity of every kind."""
    for _ in range(2):
        ids = await api.tree()
        own = {"advertiser_id": ids["advertisers"]}
        await api.create("audiences", name="Audience", segment_id="s", **own)
        await api.create("conversion-rules", name="Rule", **own)
    await api.create("deals", name="D", exchange="e", deal_id="d")
    with api.services.writes.begin() as session:
        key = create_key(session, "acme", Role.CLIENT, 1, advertiser_id=1)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://api", headers=headers
    ) as made:
        yield made


async def test_what_is_others_is_not_there(api: Api, client: httpx.AsyncClient) -> None:
    for path, number in OTHERS.items():
        assert (await api.viewer.get(f"/v1/{path}/{number}")).status_code == 200
        missing = await client.get(f"/v1/{path}/{number}")
        assert missing.status_code == 404, path
        assert (await client.get(f"/v1/{path}/{'9' * 19}")).status_code == 404, path  # more than a database counts to
        assert missing.json()["detail"] == (await api.viewer.get(f"/v1/{path}/99")).json()["detail"].replace("99", "2")
        own = (await client.get(f"/v1/{path}/1")).json()
        assert own == (await api.viewer.get(f"/v1/{path}/1")).json()
        assert (await client.get(f"/v1/{path}")).json() == {"items": [own], "next_page_token": None}
        if path != "advertisers":
            assert len((await client.get(f"/v1/{path}?advertiser_id=1")).json()["items"]) == 1
            assert (await client.get(f"/v1/{path}?advertiser_id=2")).json()["items"] == []
    assert (await client.get("/v1/line-items?campaign_id=2")).json()["items"] == []
    for path in ("line-items", "campaigns"):
        assert (await client.get(f"/v1/{path}/1/delivery")).status_code == 200
        missing = (await client.get(f"/v1/{path}/2/delivery")).json()["detail"]
        assert missing == (await api.viewer.get(f"/v1/{path}/99/delivery")).json()["detail"].replace("99", "2")


async def test_reports_are_of_the_advertiser_alone(api: Api, client: httpx.AsyncClient) -> None:
    bills = [
        Transaction(
            exchange="e", auction_id=str(one), imp_id="1", kind="bill", bid_id=str(one), at_ms=1, appended_ms=1,
            advertiser_id=one, campaign_id=one, line_item_id=one, creative_id=one, day=20_000, hour=480_000,
            lease_id="1", charged_micros=one * 100, late_micros=0,
        )
        for one in (1, 2)
    ]  # fmt: skip
    with api.services.writes.begin() as session:
        BookRepository(session).apply(bills, {0: 1})

    async def spent(query: str = "") -> int:
        return int((await client.get(f"/v1/reports/spend?{query}")).json()["total"]["spend_micros"])

    assert await spent() == await spent("dimension=exchange") == await spent("dimension=hour&advertiser_id=1") == 100
    assert await spent("advertiser_id=1&advertiser_id=2&dimension=creative") == 100
    for others in ("advertiser_id=2", "campaign_id=2", "line_item_id=2", "creative_id=2&dimension=creative"):
        assert await spent(others) == 0
    assert "\n2," not in (await client.get("/v1/reports/spend?dimension=advertiser&format=csv")).text


async def test_all_else_is_refused(api: Api, client: httpx.AsyncClient) -> None:
    """Whatever endpoints there are."""
    paths = (await api.anonymous.get("/openapi.json")).json()["paths"]
    open_ = {f"/v1/{kind.path}{one}" for kind in Kind if kind is not Kind.DEAL for one in ("", "/{id}")}
    open_ |= {"/v1/line-items/{id}/delivery", "/v1/campaigns/{id}/delivery", "/v1/reports/spend"}
    asked = [(method, path) for path, methods in paths.items() if path.startswith("/v1/") for method in methods]
    for method, path in asked:
        if method == "get" and path in open_:
            continue
        url = path.replace("{id}", "1").replace("{name}", "member").replace("{auction_id}", "a")
        answer = await client.request(method, url, content=b"{}" if method != "get" else b"", headers={"if-match": "*"})
        assert answer.status_code == 403, (method, path)
        errors(answer)


@pytest.mark.parametrize(
    ("role", "advertiser_id", "said"),
    [
        (Role.CLIENT, 7, "there is no advertiser 7"),
        (Role.CLIENT, 0, "there is no advertiser 0"),
        (Role.CLIENT, None, "is needed"),
        (Role.VIEWER, 1, "is needed"),
        (Role.OWNER, 1, "is needed"),
    ],
)
async def test_only_a_client_is_of_an_advertiser_and_one_there_is(
    api: Api, role: Role, advertiser_id: int | None, said: str
) -> None:
    await api.tree()
    with api.services.writes.begin() as session, pytest.raises(ValidationError, match=f"advertiser_id: {said}"):
        create_key(session, "a", role, 1, advertiser_id)
