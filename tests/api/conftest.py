"""The application on a fresh database, driven in process through ASGI."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dsp.api.app import create_app
from dsp.api.config import ApiConfig
from dsp.api.context import Services
from dsp.cache.local import LocalBlobStore
from dsp.kernel.clock import ManualClock
from dsp.kernel.config import Platform
from dsp.kernel.lifecycle import Lifecycle
from dsp.store.database import create_engine, session_factory, url
from dsp.store.keys import Role, create_key
from dsp.stream.local import LocalEventLog

EXCHANGES = Path(__file__).parents[2] / "config" / "demo" / "exchanges"
JSON = {"content-type": "application/json"}


@dataclass
class Api:
    """A client per role, and what the application was made with."""

    services: Services
    clock: ManualClock
    anonymous: httpx.AsyncClient
    viewer: httpx.AsyncClient
    member: httpx.AsyncClient
    owner: httpx.AsyncClient

    async def create(self, path: str, **fields: Any) -> dict[str, Any]:
        """Create an entity that must be accepted."""
        answer = await self.member.post(f"/v1/{path}", json=fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def tree(self) -> dict[str, int]:
        """Create an advertiser, a campaign, a line item and a creative; return their ids by path."""
        advertiser = await self.create("advertisers", name="Acme", domain="acme.example", timezone="Europe/Berlin")
        campaign = await self.create(
            "campaigns",
            name="Spring",
            advertiser_id=advertiser["id"],
            flight={"start_ms": 0},
            budget={"daily_micros": 5_000_000},
        )
        line_item = await self.create(
            "line-items",
            name="Reach",
            campaign_id=campaign["id"],
            flight={"start_ms": 0},
            goal={"kind": "cpm", "target_micros": 2_000_000},
        )
        creative = await self.create(
            "creatives",
            name="Box",
            line_item_id=line_item["id"],
            format="banner",
            width=300,
            height=250,
            markup="<b>hello</b>",
            landing_url="https://acme.example/",
        )
        made = (advertiser, campaign, line_item, creative)
        paths = ("advertisers", "campaigns", "line-items", "creatives")
        return {path: entity["id"] for path, entity in zip(paths, made, strict=True)}


@pytest.fixture(scope="session")
def application() -> FastAPI:
    """The application, whose services each test replaces: putting it together takes longer than most tests."""
    return create_app(None)  # type: ignore[arg-type]


@pytest.fixture
async def api(tmp_path: Path, database: str, application: FastAPI) -> AsyncIterator[Api]:
    platform = Platform(data_dir=str(tmp_path), database_url=database, exchanges_dir=str(EXCHANGES))
    engine = create_engine(url(platform))
    clock, lifecycle = ManualClock(), Lifecycle()
    lifecycle.ready()
    with session_factory(engine).begin() as session:
        roles = (Role.VIEWER, Role.MEMBER, Role.OWNER)
        keys = [create_key(session, role.value, role, clock.now_ms()) for role in roles]
    log, blobs = LocalEventLog(tmp_path / "log", clock), LocalBlobStore(tmp_path / "blobs")
    await log.open()
    config = ApiConfig(body_bytes_max=100_000, page_size_max=100, requests_per_second_max=100_000)
    services = Services(engine, clock, platform, config, lifecycle, log, blobs)
    application.state.services = services
    transport = httpx.ASGITransport(application)

    def client(key: str | None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers)

    made = Api(services, clock, client(None), *(client(key) for key in keys))
    yield made
    for each in (made.anonymous, made.viewer, made.member, made.owner):
        await each.aclose()
    await log.close()
    engine.dispose()


def errors(answer: httpx.Response) -> dict[str, str]:
    """Return what a problem document says, by field path; checks that it is one."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.content)
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return {each["field"]: each["detail"] for each in document.get("errors", [])}
