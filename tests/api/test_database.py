"""The API on its database: callers that come at once, values that it cannot hold, and a database that is away."""

import asyncio

import pytest

from dsp.kernel.errors import ValidationError
from dsp.store.database import session_factory
from dsp.store.keys import Role, create_key, revoke_key
from tests.api.conftest import Api, errors
from tests.servers.postgres import PASSWORD, Postgres


async def test_a_repetition_that_comes_while_the_first_is_answered_gets_its_answer(api: Api) -> None:
    body, headers = {"name": "A", "domain": "a.example"}, {"idempotency-key": "once"}
    answers = await asyncio.gather(
        *(api.member.post("/v1/advertisers", json=body, headers=headers) for _ in range(6)),
        *(api.member.post("/v1/advertisers", json=body) for _ in range(3)),
    )
    assert [one.status_code for one in answers] == [201] * 9
    same = answers[:6]
    assert len({one.content for one in same}) == 1
    assert sum("idempotency-replayed" in one.headers for one in same) == 5
    assert len((await api.viewer.get("/v1/advertisers")).json()["items"]) == 4


async def test_of_changes_to_the_same_version_one_is_made(api: Api) -> None:
    made = await api.create("advertisers", name="A", domain="a.example")
    path, headers = f"/v1/advertisers/{made['id']}", {"if-match": '"1"'}
    answers = await asyncio.gather(
        *(api.member.patch(path, json={"name": f"name {number}"}, headers=headers) for number in range(5))
    )
    assert sorted(one.status_code for one in answers) == [200, 412, 412, 412, 412]
    changes = (await api.viewer.get(f"{path}/versions")).json()["items"]
    assert [one["version"] for one in changes] == [1, 2]


async def test_of_equal_external_ids_that_come_at_once_one_is_taken(api: Api) -> None:
    body = {"name": "A", "domain": "a.example", "external_id": "mine"}
    answers = await asyncio.gather(*(api.member.post("/v1/advertisers", json=body) for _ in range(5)))
    assert sorted(one.status_code for one in answers) == [201, 422, 422, 422, 422]
    assert {field for one in answers if one.status_code == 422 for field in errors(one)} == {"external_id"}


async def test_a_value_that_a_database_cannot_hold_is_not_found_or_refused(api: Api) -> None:
    answers = [
        await api.viewer.get("/v1/advertisers", params={"external_id": "a\0b"}),
        await api.owner.post("/v1/keys/a%00b/revoke"),
        await api.anonymous.get("/v1/advertisers", headers={"authorization": b"Bearer \xff\xfe"}),
    ]
    assert [one.status_code for one in answers if one.status_code not in (200, 401, 404, 422)] == []


async def test_an_api_key_rotates_without_a_refusal(api: Api) -> None:
    """A second key is made, callers go over to it, and the first is revoked: at once worthless, in every process."""
    with session_factory(api.services.engine).begin() as session:
        key = create_key(session, "team/ci/2", Role.VIEWER, 1)
    renewed = {"authorization": f"Bearer {key}"}
    for headers in ({}, renewed):
        assert (await api.viewer.get("/v1/campaigns", headers=headers)).status_code == 200
    assert (await api.owner.post("/v1/keys/viewer/revoke")).status_code == 204
    assert (await api.viewer.get("/v1/campaigns")).status_code == 401
    assert (await api.viewer.get("/v1/campaigns", headers=renewed)).status_code == 200
    assert (await api.owner.post("/v1/keys/team%2Fci%2F2/revoke")).status_code == 204
    assert (await api.viewer.get("/v1/campaigns", headers=renewed)).status_code == 401
    with session_factory(api.services.engine).begin() as session:
        create_key(session, "second", Role.OWNER, 1)
        revoke_key(session, "second", "command line", 1)
    assert (await api.owner.post("/v1/keys/second/revoke")).status_code == 204
    keys = {one["name"]: one for one in (await api.owner.get("/v1/keys")).json()["items"]}
    revoked_by = {name: one["revoked_by"] for name, one in keys.items()}
    assert revoked_by == {
        "viewer": "key:owner", "team/ci/2": "key:owner", "second": "command line", "member": None, "owner": None,
    }  # fmt: skip


async def test_a_key_of_the_longest_name_signs_what_it_writes(api: Api) -> None:
    with session_factory(api.services.engine).begin() as session:
        key = create_key(session, "k" * 196, Role.MEMBER, 1)
        with pytest.raises(ValidationError, match="name: must have at most 196 characters"):
            create_key(session, "k" * 197, Role.MEMBER, 1)
    headers, body = {"authorization": f"Bearer {key}"}, {"name": "A", "domain": "a.example"}
    assert (await api.member.post("/v1/advertisers", json=body, headers=headers)).status_code == 201
    (change,) = (await api.viewer.get("/v1/changes", params={"actor": f"key:{'k' * 196}"})).json()["items"]
    assert change["entity_kind"] == "advertiser"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_without_the_database_every_answer_is_503_until_it_is_back(api: Api, postgres: Postgres) -> None:
    postgres.kill()
    for answer in (
        await api.viewer.get("/v1/campaigns"),
        await api.member.post("/v1/advertisers", json={"name": "A", "domain": "a.example"}),
        await api.anonymous.get("/v1/campaigns", headers={"authorization": "Bearer dsp_unknown"}),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert not errors(answer)
        for told in (PASSWORD, "127.0.0.1", str(postgres.port)):
            assert told not in answer.text
    assert (await api.anonymous.get("/readyz")).status_code == 503
    assert (await api.anonymous.get("/healthz")).status_code == 200
    postgres.start()
    assert (await api.viewer.get("/v1/campaigns")).status_code == 200
    assert (await api.anonymous.get("/readyz")).status_code == 200
