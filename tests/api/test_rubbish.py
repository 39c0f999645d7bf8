"""Whatever a stranger sends gets the right status, names the field, and never a 500 or a traceback."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import JSON, Api, errors

ADVERTISER = {"name": "Acme", "domain": "acme.example"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"null", 400), (b"[]", 400), (b'"x"', 400), (b"1e999", 400), (b"NaN", 400),
        (b'{"name": NaN}', 400),
        (b"\xff\xfe{\x00}\x00", 400), (b'{"name": "\xe9"}', 400), (b'{"name": "\\ud800"}', 400),
        (b"[" * 50_000, 400), (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 400), (b" " * 100_001, 413),
        (b"{}" + b"\x00" * 10, 400), (b"\x1f\x8b\x08\x00", 400), (b"name=Acme", 400), (b"{}", 422),
    ],
)  # fmt: skip
async def test_bodies_that_are_none(api: Api, body: bytes, status: int) -> None:
    for method, path in (("POST", "/v1/advertisers"), ("PATCH", "/v1/advertisers/1")):
        answer = await api.member.request(method, path, content=body, headers={**JSON, "if-match": "*"})
        expected = 404 if (method, status) == ("PATCH", 422) else status
        assert answer.status_code == expected, answer.text
        errors(answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/xml"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({**JSON, "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 201),
        ({"content-type": ";;;"}, 415),
    ],
)
async def test_media_types(api: Api, headers: dict[str, str], status: int) -> None:
    body = b'{"name": "Acme", "domain": "acme.example"}'
    assert (await api.member.post("/v1/advertisers", content=body, headers=headers)).status_code == status


@pytest.mark.parametrize("chunks", [1_000])
async def test_a_body_without_length_is_bounded(api: Api, chunks: int) -> None:
    async def stream() -> Any:
        for _ in range(chunks):
            yield b" " * 1_000

    assert (await api.member.post("/v1/advertisers", content=stream(), headers=JSON)).status_code == 413


async def test_every_refused_field_is_named_at_once(api: Api) -> None:
    ids = await api.tree()
    answer = await api.member.post(
        "/v1/line-items",
        json={
            "id": 7, "name": " ", "campaign_id": ids["campaigns"], "surprise": 1,
            "goal": {"kind": "cpx", "target_micros": -1},
            "budget": {"daily_micros": 1.5, "total_micros": 0, "weekly_micros": 1},
            "flight": {"start_ms": 10**12, "end_ms": 10**12},
            "dayparts": [{"weekday": 7, "start_hour": 0, "end_hour": 25},
                         {"weekday": 1, "start_hour": 9, "end_hour": 9}],
            "targeting": {"clauses": {"country": {"include": ["Germany"]}, "mood": {}}, "audience": [[]]},
            "frequency_caps": [{"impressions": 0, "window_seconds": "day"}],
            "bid_min_micros_cpm": True, "bid_max_micros_cpm": "5",
        },
    )  # fmt: skip
    assert answer.status_code == 422
    assert set(errors(answer)) == {
        "id", "name", "surprise", "goal.kind", "goal.target_micros", "budget.daily_micros", "budget.total_micros",
        "budget.weekly_micros", "flight.end_ms", "dayparts[0].weekday", "dayparts[0].end_hour", "dayparts[1].end_hour",
        "targeting.clauses.mood", "targeting.clauses.country.include[0]", "targeting.audience[0]",
        "frequency_caps[0].impressions", "frequency_caps[0].window_seconds", "bid_min_micros_cpm", "bid_max_micros_cpm",
    }  # fmt: skip
    pointers = {each["pointer"] for each in answer.json()["errors"]}
    assert {"/budget/daily_micros", "/dayparts/0/end_hour", "/targeting/audience/0"} <= pointers


@pytest.mark.parametrize("amount", [-1, 0, 1.5, 5.0, "5", True, None, [], {}, 2**63, 2**64, 10**400, -(2**63), 1e300])
async def test_money_is_a_positive_whole_number(api: Api, amount: Any) -> None:
    ids = await api.tree()
    line_item = {
        "name": "x", "campaign_id": ids["campaigns"], "flight": {"start_ms": 0},
        "goal": {"kind": "cpc", "target_micros": amount},
    }  # fmt: skip
    answer = await api.member.post("/v1/line-items", json=line_item)
    assert answer.status_code == 422
    assert list(errors(answer)) == ["goal.target_micros"]


@pytest.mark.parametrize("wrong", [None, 1, 1.5, True, "x", [], {}, [[]], [None], {"a": 1}, [{"a": {}}]])
async def test_any_field_survives_any_type(api: Api, wrong: Any) -> None:
    ids = await api.tree()
    for path, number in ids.items():
        current = (await api.viewer.get(f"/v1/{path}/{number}")).json()
        for name in current:
            answer = await api.member.patch(f"/v1/{path}/{number}", json={name: wrong}, headers={"if-match": "*"})
            assert answer.status_code in (200, 422), (path, name, answer.text)
            created = await api.member.post(f"/v1/{path}", json={**current, name: wrong})
            assert created.status_code == 422, (path, name)


@pytest.mark.parametrize(
    "text", ["", "\x00", "a\x00b", "x" * 100_000, "\u202e", "\U0001f600", "'; DROP TABLE advertiser; --", "%00", "\n"]
)
async def test_strange_strings(api: Api, text: str) -> None:
    for name in ("name", "external_id", "domain", "timezone", "categories"):
        value: Any = [text] if name == "categories" else text
        answer = await api.member.post("/v1/advertisers", json={**ADVERTISER, name: value})
        assert answer.status_code in (201, 413, 422), (name, answer.text)


@pytest.mark.parametrize(
    "id", ["0", "-1", "1.0", "x", "99", "9" * 19, "9" * 200, "%00", "1%20", "%C2%B2", "%F0%9F%98%80", "..%2f1", "1;2"]
)
async def test_unknown_ids(api: Api, id: str) -> None:
    answers = [
        await api.viewer.get(f"/v1/campaigns/{id}"),
        await api.viewer.get(f"/v1/campaigns/{id}/versions"),
        await api.member.patch(f"/v1/campaigns/{id}", json={"name": "x"}, headers={"if-match": '"1"'}),
        await api.member.post(f"/v1/campaigns/{id}/pause"),
    ]
    for answer in answers:
        assert answer.status_code == 404, answer.text
        errors(answer)


@pytest.mark.parametrize("parent", [0, -1, 99, 2**63 - 1, 2**63, "1", 1.0, None])
async def test_unknown_parents(api: Api, parent: Any) -> None:
    answer = await api.member.post(
        "/v1/campaigns", json={"name": "x", "advertiser_id": parent, "flight": {"start_ms": 0}}
    )
    assert (answer.status_code, list(errors(answer))) == (422, ["advertiser_id"])


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "ftp://a.example/", "//a.example/", "/path", "https://", "https:///x",
        "https://a b.example/", "https://user:pass@a.example/", "https://a.example:99999/", "https://[::1/",
        "data:text/html,x", "https://a.example/\r\nX: y",
        "https://a.example/é", "https://a.example\\@b.example/", "http://" + "a" * 3_000,
    ],
)  # fmt: skip
async def test_landing_urls_lead_nowhere_else(api: Api, url: str) -> None:
    ids = await api.tree()
    path = f"/v1/creatives/{ids['creatives']}"
    answer = await api.member.patch(path, json={"landing_url": url}, headers={"if-match": "*"})
    assert (answer.status_code, list(errors(answer))) == (422, ["landing_url"])


async def test_creatives_need_what_their_format_needs(api: Api) -> None:
    ids = await api.tree()
    base = {"name": "x", "line_item_id": ids["line-items"], "landing_url": "https://a.example/"}

    async def refused(**fields: Any) -> set[str]:
        answer = await api.member.post("/v1/creatives", json={**base, **fields})
        assert answer.status_code == 422, answer.text
        return set(errors(answer))

    assert await refused(format="banner", markup="<b></b>") == {"width", "height"}
    size = {"width": 640, "height": 360}
    assert await refused(format="video", markup="<b></b>", **size) == {"duration_seconds", "mime", "markup"}
    media = {**size, "duration_seconds": 15, "mime": "video/mp4"}
    assert await refused(format="video", markup="http://a.example/x.mp4", **media) == {"markup"}
    for mime in ("audio/mpeg", "text/html", "x" * 130 + "/mp4"):
        media_url = "https://a.example/x.mp4"
        assert await refused(format="video", markup=media_url, **{**media, "mime": mime}) == {"mime"}
    script = {**media, "mime": "application/javascript", "markup": "https://a.example/vpaid.js"}
    assert await refused(format="video", **script) == await refused(format="video", **script, apis=[7]) == {"apis"}
    assert (await api.member.post("/v1/creatives", json={**base, "format": "video", **script, "apis": [2]})).is_success
    insecure = "<img src='http://a.example/x.png'>"
    assert await refused(format="banner", markup=insecure, **size) == {"markup"}
    assert await refused(format="banner", markup="x" * 70_000, **size) == {"markup"}
    assert await refused(format="native", markup="<b></b>") == {"markup"}
    assert await refused(format="native", markup='{"title": "x", "image": {"url": "javascript:x"}}') == {"markup"}
    native = '{"title": "x", "image": {"url": "http://a.example/x.png"}}'
    assert await refused(format="native", markup=native) == {"markup"}
    assert await refused(format="native", markup='{"title": " ", "data": {"2": ""}}') == {"markup"}
    assert await refused(format="native", markup='{"title": "x", "video_vast": "https://a.example/"}') == {"markup"}
    assert await refused(format="hologram", markup="x") == {"format"}
    ok = await api.member.post(
        "/v1/creatives", json={**base, "format": "banner", "markup": insecure, "secure": False, **size}
    )
    assert ok.status_code == 201


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ('<script>load("http://a.example/x.js")</script>', "loads a resource over http"),
        ("<form action=HTTP://a.example/>", "loads a resource over http"),
        ('<img src="https://a.example/?p=${AUCTION_PRIZE}">', "AUCTION_PRIZE"),
        ('<A class=x\nHREF="https://a.example/">x</A>', "nobody counts"),
        ('<div>x<a class="button">Buy</a></div>', "nobody counts"),
        ('<map name="m"><area shape="default" href="https://a.example/"></map>', "nobody counts"),
        ("<button onclick=\"window.open('https://a.example/')\">x</button>", "opens a page"),
        ("<script>tap = () => mraid.open('https://a.example/')</script>", "opens a page"),
        ('<script>var clickTag = "https://a.example/"</script>', "opens a page"),
        ('<a href="${CLICK_URL}">x</a><!-- campaign', "<!-- without its end"),
        ('<a href="${CLICK_URL}https://a.example/">x</a>', "right after"),
        ('<i data-u="${CLICK_URL_ENC}https%3A%2F%2Fa.example">', "right after"),
        ('<a href="${CLICK_URL_UNESC}">x</a>', "${CLICK_URL_UNESC}"),
        ('<a href="%%CLICK_URL_UNESC%%https://a.example">x</a>', "%%CLICK_URL_UNESC%%"),
        ('<a href="https://a.example/">x</a><script>let a = "%%TTD_CLK%%"</script>', "%%TTD_CLK%%"),
    ],
)
async def test_markup_that_would_never_be_shown_or_clicked_is_refused(api: Api, markup: str, reason: str) -> None:
    ids = await api.tree()
    path = f"/v1/creatives/{ids['creatives']}"
    answer = await api.member.patch(path, json={"markup": markup}, headers={"if-match": "*"})
    assert reason in errors(answer)["markup"]


@pytest.mark.parametrize(
    "markup",
    [
        '<a href="${CLICK_URL}">x</a><img src="https://a.example/?p=${AUCTION_PRICE:B64}&c=${CACHEBUSTER}">',
        '<script src="https://a.example/?click=${CLICK_URL_ENC}&x=1"></script><a href="https://b.example">i</a>',
        "<script>const {clickUrl} = x; open(`${clickUrl}`); let t = '${CLICK_URL}';</script>",
        '<b xmlns:x="http://www.w3.org/2000/svg">x</b>',
    ],
)
async def test_markup_that_counts_its_clicks_is_accepted(api: Api, markup: str) -> None:
    ids = await api.tree()
    path = f"/v1/creatives/{ids['creatives']}"
    answer = await api.member.patch(path, json={"markup": markup}, headers={"if-match": "*"})
    assert answer.status_code == 200, answer.text


async def test_paths_and_methods_that_are_none(api: Api) -> None:
    for path in (
        "/",
        "/v1",
        "/v1/",
        "/v1/campaigns/",
        "/v1/campaign",
        "/v2/campaigns",
        "/v1/campaigns/1/explode",
        "/%00",
        "//",
    ):
        answer = await api.member.get(path)
        assert answer.status_code == 404, path
        errors(answer)
    for method, path, allowed in (
        ("DELETE", "/v1/campaigns/1", "GET, PATCH"),
        ("PUT", "/v1/campaigns/1", "GET, PATCH"),
        ("BREW", "/v1/campaigns", "GET, POST"),
        ("GET", "/v1/campaigns/1/pause", "POST"),
        ("POST", "/healthz", "GET"),
    ):
        answer = await api.member.request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        errors(answer)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer " + "x" * 5_000, "Bearer \xe9", "dsp_x"],
)  # fmt: skip
async def test_keys_that_are_none(api: Api, authorization: str) -> None:
    headers = httpx.Headers({"authorization": authorization}, encoding="latin-1")
    answer = await api.anonymous.get("/v1/advertisers", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    errors(answer)


async def test_no_key_is_told_before_anything_else(api: Api) -> None:
    for method, path in (("POST", "/v1/advertisers"), ("PATCH", "/v1/advertisers/1"), ("POST", "/v1/deals/1/pause")):
        answer = await api.anonymous.request(method, path, content=b"{")
        assert answer.status_code == 401


async def test_roles(api: Api) -> None:
    assert (await api.viewer.post("/v1/advertisers", json=ADVERTISER)).status_code == 403
    assert (await api.viewer.get("/v1/advertisers")).status_code == 200
    assert (await api.member.post("/v1/advertisers", json=ADVERTISER)).status_code == 201
    assert (await api.member.get("/v1/keys")).status_code == 403
    keys = (await api.owner.get("/v1/keys")).json()["items"]
    assert {key["name"]: key["role"] for key in keys} == {"viewer": "viewer", "member": "member", "owner": "owner"}
    assert not [key for key in keys if "hash" in key]
    assert (await api.owner.post("/v1/keys/nobody/revoke")).status_code == 404
    assert (await api.owner.post("/v1/keys/member/revoke")).status_code == 204
    assert (await api.member.post("/v1/advertisers", json=ADVERTISER)).status_code == 401


async def test_keys_are_shown_as_the_document_says(api: Api) -> None:
    schemas = (await api.anonymous.get("/openapi.json")).json()["components"]["schemas"]
    described = schemas["ApiKey"]["properties"]
    assert not [name for name, schema in described.items() if "description" not in schema]
    (key, *_) = (await api.owner.get("/v1/keys")).json()["items"]
    assert key.keys() == described.keys()


async def test_no_parameter_is_ignored(api: Api) -> None:
    """A filter or an instant that had no effect would make the answer one to another question."""
    unknown = {"limit": "1"}
    for asked in (
        api.owner.get("/v1/keys", params=unknown),
        api.owner.post("/v1/keys/viewer/revoke", params=unknown),
        api.viewer.get("/v1/explain/a", params=unknown),
        api.viewer.post("/v1/explain", params=unknown, json={"exchange": "example", "request": {}}),
    ):
        assert errors(await asked) == {"limit": "unknown parameter"}
    assert (await api.viewer.get("/v1/advertisers")).status_code == 200  # its key was not revoked


async def test_request_ids(api: Api) -> None:
    echoed = await api.viewer.get("/v1/advertisers", headers={"x-request-id": "abc-1.2_3"})
    assert echoed.headers["x-request-id"] == "abc-1.2_3"
    made = await api.viewer.get("/v1/advertisers", headers={"x-request-id": "<script>"})
    assert len(made.headers["x-request-id"]) == 26
