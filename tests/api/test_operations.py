"""Health, metrics, the OpenAPI document, and what happens when the API itself fails."""

import asyncio
import os
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from prometheus_client import REGISTRY
from sqlalchemy import text
from starlette.responses import Response
from structlog.testing import capture_logs

from dsp.api.config import ApiConfig
from dsp.api.middleware import Observer
from dsp.api.wording import FIELDS
from dsp.catalog.kinds import Kind
from dsp.kernel.lifecycle import PROCESS_HEADER, Phase
from tests.api.conftest import Api, errors


async def test_health_and_readiness(api: Api) -> None:
    assert (await api.anonymous.get("/healthz")).status_code == 200
    assert (await api.anonymous.get("/readyz")).status_code == 200
    api.services.lifecycle.phase = Phase.DRAINING
    assert (await api.anonymous.get("/readyz")).status_code == 503
    assert (await api.anonymous.get("/healthz")).status_code == 200
    api.services.lifecycle.phase = Phase.READY
    with api.services.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert (await api.anonymous.get("/readyz")).status_code == 503


async def test_health_waits_for_no_thread(api: Api) -> None:
    """Where the database hangs all of them wait for it; whoever asks would take the process for hung and kill it."""
    threads = current_default_thread_limiter()
    busy = [object() for _ in range(int(threads.total_tokens))]
    for each in busy:
        await threads.acquire_on_behalf_of(each)
    try:
        assert (await asyncio.wait_for(api.anonymous.get("/healthz"), 5.0)).status_code == 200
    finally:
        for each in busy:
            threads.release_on_behalf_of(each)


async def test_both_say_which_process_answers(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await api.anonymous.get(path)).headers[PROCESS_HEADER] == str(os.getpid())


async def test_head_is_get_without_a_body(api: Api) -> None:
    """Balancers ask so whether a process is ready."""
    ids = await api.tree()
    for path in ("/healthz", "/readyz", f"/v1/campaigns/{ids['campaigns']}", "/v1/campaigns", "/v1/campaigns/999"):
        got, head = await api.viewer.get(path), await api.viewer.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert [head.headers.get(name) for name in ("etag", "content-type", "content-length")] == [
            got.headers.get(name) for name in ("etag", "content-type", "content-length")
        ]
    assert (await api.viewer.head("/v1/campaigns/1/pause")).status_code == 405
    assert (await api.anonymous.head("/v1/campaigns")).status_code == 401


async def test_the_bounds_of_numbers_are_those_that_requests_are_judged_by(api: Api) -> None:
    schemas = (await api.anonymous.get("/openapi.json")).json()["components"]["schemas"]
    micros = {"type": "integer", "minimum": 1, "maximum": 10_000_000_000_000_000}
    assert schemas["Budget"]["properties"]["daily_micros"]["anyOf"] == [micros, {"type": "null"}]
    assert schemas["BudgetUpdate"]["properties"]["daily_micros"]["anyOf"] == [micros, {"type": "null"}]
    weekday = schemas["Daypart"]["properties"]["weekday"]
    assert (weekday["minimum"], weekday["maximum"]) == (0, 6)
    width = schemas["CreativeCreate"]["properties"]["width"]["anyOf"][0]["maximum"]
    ids = await api.tree()
    path = f"/v1/creatives/{ids['creatives']}"
    for given, status in ((width, 200), (width + 1, 422)):
        answer = await api.member.patch(path, json={"width": given}, headers={"if-match": "*"})
        assert answer.status_code == status


async def test_the_page_for_people_needs_nothing_from_elsewhere(api: Api) -> None:
    page = await api.anonymous.get("/docs")
    assert "/openapi.json" in page.text
    assert "'self'" in page.headers["content-security-policy"]
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(needed) == 3
    for path in needed:
        assert path.startswith("/"), path
        assert (await api.anonymous.get(path)).status_code == 200
    assert (await api.anonymous.get("/redoc")).status_code == 404


def _count(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("dsp_api_requests_total", labels) or 0.0


async def test_requests_are_counted_by_route_not_by_path(api: Api) -> None:
    cases = [("GET", "/v1/campaigns/{id}", 404), ("GET", "unmatched", 404), ("OTHER", "unmatched", 404)]
    before = [_count(*case) for case in cases]
    await api.viewer.get("/v1/campaigns/41")
    await api.viewer.get("/v1/campaigns/42")
    await api.viewer.get("/nowhere")
    await api.viewer.request("BREW", "/nowhere")
    assert [_count(*case) - was for case, was in zip(cases, before, strict=True)] == [2, 1, 1]
    assert "dsp_api_duration_seconds_bucket" in (await api.anonymous.get("/metrics")).text


async def test_beyond_the_bound_requests_are_put_off_and_health_is_told(api: Api) -> None:
    gate = asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await Response(status_code=204)(scope, receive, send)

    services = SimpleNamespace(clock=api.clock, config=ApiConfig(connections_max=1))
    observer, state = Observer(answer), SimpleNamespace(state=SimpleNamespace(services=services))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await observer({**scope, "app": state}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.01)
        refused = await client.get("/v1/campaigns")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert errors(refused) == {}
        assert [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")] == [204] * 3
        gate.set()
        assert (await slow).status_code == 204
        assert (await client.get("/v1/campaigns")).status_code == 204


async def test_a_key_that_asks_too_often_is_put_off_and_no_other(api: Api, application: FastAPI) -> None:
    config = msgspec.structs.replace(api.services.config, requests_per_second_max=3)
    application.state.services = replace(api.services, config=config)
    answers = [await api.viewer.get("/v1/campaigns") for _ in range(5)]
    assert [each.status_code for each in answers] == [200] * 3 + [429] * 2
    assert (answers[-1].headers["retry-after"], errors(answers[-1])) == ("1", {})
    assert (await api.owner.get("/v1/campaigns")).status_code == 200
    api.clock.advance(1_000)
    assert (await api.viewer.get("/v1/campaigns")).status_code == 200


async def test_a_failing_database_is_503_with_retry_after(api: Api) -> None:
    with api.services.engine.begin() as connection:
        connection.execute(text("ALTER TABLE campaign RENAME TO gone"))
    answer = await api.viewer.get("/v1/campaigns")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    errors(answer)


async def test_a_bug_is_500_without_a_traceback(api: Api) -> None:
    object.__setattr__(api.services, "reads", None)
    with capture_logs() as logs:
        answer = await api.viewer.get("/v1/campaigns")
    assert answer.status_code == 500
    assert [each["request_id"] for each in logs] == [answer.headers["x-request-id"]]
    assert not errors(answer)
    assert "NoneType" not in answer.text


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(value) for value in node)) if isinstance(node, list) else set()


async def test_openapi_is_whole(api: Api) -> None:
    answer = await api.anonymous.get("/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    missing = {name for name in _references(document) if name.removeprefix("#/components/schemas/") not in schemas}
    assert not missing
    for name, schema in schemas.items():
        bare = {field for field, value in schema.get("properties", {}).items() if "description" not in value}
        assert bare <= {"items", "operations"}, name  # which the description of the whole is about
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert one["summary"]
        assert one["description"]
        assert one["responses"]
        # Of two types, generators of clients make code that cannot be imported.
        assert len(one.get("requestBody", {}).get("content", [""])) == 1


async def test_what_openapi_lets_a_report_be_asked_for_is_answered(api: Api) -> None:
    document = (await api.anonymous.get("/openapi.json")).json()
    parameters = {one["name"]: one for one in document["paths"]["/v1/reports/spend"]["get"]["parameters"]}
    (name,) = _references(parameters["dimension"])
    dimensions = document["components"]["schemas"][name.removeprefix("#/components/schemas/")]["enum"]
    assert set(dimensions) == {"date", "advertiser", "campaign", "line_item", "creative", "exchange", "hour"}
    assert (await api.viewer.get("/v1/reports/spend", params={"dimension": dimensions})).status_code == 200


async def test_openapi_describes_every_field_and_says_what_is_writable(api: Api) -> None:
    schemas = (await api.anonymous.get("/openapi.json")).json()["components"]["schemas"]
    for kind in Kind:
        name = kind.entity.__name__
        shown, create, update = (schemas[f"{name}{suffix}"] for suffix in ("", "Create", "Update"))
        assert not [field for field, schema in shown["properties"].items() if "description" not in schema], name
        assert set(shown["properties"]) - set(create["properties"]) == {"id", "status", "version", "effective_status"}
        assert set(update["properties"]) == set(create["properties"])
        assert "required" not in update
        assert set(create["required"]) == {"name", *create["required"]}
    assert schemas["LineItemCreate"]["required"] == ["name", "campaign_id", "goal", "flight"]


async def test_openapi_says_of_one_field_what_is_not_meant_of_another_of_its_name(api: Api) -> None:
    schemas = (await api.anonymous.get("/openapi.json")).json()["components"]["schemas"]
    types: dict[str, set[str]] = {}
    for name, schema in schemas.items():
        for field, value in schema.get("properties", {}).items():
            if field in FIELDS and f"{name}.{field}" not in FIELDS:
                bare = [one for one in value.get("anyOf", [value]) if one != {"type": "null"}]
                types.setdefault(field, set()).add(bare[0].get("$ref", bare[0].get("type")).removesuffix("Update"))
    assert {field: found for field, found in types.items() if len(found) > 1} == {}
    kinds = tuple(kind.entity.__name__ for kind in Kind)
    fixed = {name for name, schema in schemas.items() if "cannot be changed" in str(schema)}
    assert {name for name in fixed if not name.startswith(kinds)} == set()
    assert "bid" in schemas["ConversionRule"]["properties"]["window_seconds"]["description"]


async def test_the_paths_of_every_kind_are_documented(api: Api) -> None:
    paths = (await api.anonymous.get("/openapi.json")).json()["paths"]
    for kind in Kind:
        assert set(paths[f"/v1/{kind.path}"]) == {"get", "post"}
        assert set(paths[f"/v1/{kind.path}/{{id}}"]) == {"get", "patch"}
        for action in ("activate", "pause", "archive"):
            assert set(paths[f"/v1/{kind.path}/{{id}}/{action}"]) == {"post"}
