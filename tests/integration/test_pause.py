"""What is decided elsewhere reaches every bidder within two seconds, in one process and on real servers.

A campaign that a manager pauses over REST stops bidding, and pacing controls are taken up as they are published.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import httpx
import pytest

from loadtest.cluster.servers import BIDDERS, servers
from loadtest.platform import CATALOGUE, Platform, PlatformError, parse_metrics
from loadtest.traffic import Traffic
from tests.busy import slowdown
from tests.servers import absent, platform_ports
from tests.traffic import PATIENT

pytestmark = [pytest.mark.platform, pytest.mark.timeout(400)]

SECONDS_MAX = 2.0
#: For any answer.
ANSWER_SECONDS = 60.0


class Promise:
    """So many seconds, and longer where the machine is busy meanwhile."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slowdowns: list[float] = []

    def seconds(self) -> float:
        """Look how busy the machine is just now; return what that makes of the promise, with what was seen before."""
        self._slowdowns.append(slowdown())
        return self._seconds * sum(self._slowdowns) / len(self._slowdowns)


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS)


def wait_for_api(platform: Platform) -> None:
    until = time.monotonic() + 90.0
    while True:
        try:
            if get(platform.ports.api, "/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, platform.tail("dsp-up.log")
        time.sleep(0.1)


@pytest.fixture(scope="module", params=["embedded", "servers"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with one bidder on files, or with two on Kafka, Valkey and PostgreSQL."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        settings: Mapping[str, str] = {}
        if request.param == "servers":
            try:
                settings = stack.enter_context(servers(folder / "servers")).settings
            except PlatformError as fault:
                absent(str(fault))
        platform = Platform(folder / "platform", platform_ports(BIDDERS), settings)
        stack.callback(platform.down)
        platform.run("dsp", "migrate")
        platform.run("dsp", "load", str(CATALOGUE))
        platform.up()
        wait_for_api(platform)
        yield platform


def admin_ports(platform: Platform) -> list[int]:
    return [platform.ports.admin + 2 * number for number in range(BIDDERS if platform.settings.cache_url else 1)]


def snapshots_loaded(platform: Platform) -> list[float]:
    """Return how many snapshots each bidder has loaded."""
    pages = [get(port, "/metrics").text for port in admin_ports(platform)]
    return [parse_metrics(text).total("dsp_snapshot_swaps_total") for text in pages]


def campaigns_bid(client: httpx.Client, platform: Platform, traffic: Traffic, index: int) -> list[int]:
    """Send one request on a connection of its own, whichever bidder takes it; return the campaigns that bid."""
    request = traffic.request(index)
    url = f"{platform.bid_url}/openrtb2/{request.source.exchange}"
    answer = client.post(url, content=request.body, headers={**request.headers, "Connection": "close"})
    assert answer.status_code in (200, 204)
    seats = answer.json().get("seatbid", []) if answer.status_code == 200 else []
    return [int(bid["cid"]) for seat in seats for bid in seat["bid"]]


def test_a_paused_campaign_stops_bidding_within_two_seconds_and_bids_when_resumed(platform: Platform) -> None:
    """Neither takes a snapshot: large catalogues are compiled for seconds."""
    key = platform.run("dsp", "key", "create", "manager", "--role", "member").split()[-1]
    traffic = Traffic(5, PATIENT)
    with httpx.Client(timeout=ANSWER_SECONDS) as client:
        seen: Counter[int] = Counter()
        index, until = 0, time.monotonic() + 60.0
        while max(seen.values(), default=0) < 20 and time.monotonic() < until:
            seen.update(campaigns_bid(client, platform, traffic, index))
            index += 1
        paused, bids = seen.most_common(1)[0]
        assert bids >= 20
        loaded = snapshots_loaded(platform)
        api = f"http://127.0.0.1:{platform.ports.api}/v1/campaigns/{paused}"
        authorised = {"Authorization": f"Bearer {key}"}
        etag = client.get(api, headers=authorised).headers["ETag"]
        answer = client.post(f"{api}/pause", headers={**authorised, "If-Match": etag})
        assert answer.status_code == 200, answer.text
        paused_at = last_bid_at = time.monotonic()
        promise, others = Promise(SECONDS_MAX), 0
        while time.monotonic() < paused_at + (limit := promise.seconds()) + SECONDS_MAX:
            others = 0
            for _ in range(50):
                now = time.monotonic()
                found = campaigns_bid(client, platform, traffic, index)
                index += 1
                if paused in found:
                    last_bid_at = now
                others += bool(found)
        assert last_bid_at - paused_at < limit
        assert others > 0  # it was this campaign that stopped, not the bidder
        etag = answer.headers["ETag"]
        answer = client.post(f"{api}/activate", headers={**authorised, "If-Match": etag})
        assert answer.status_code == 200, answer.text
        resumed_at = time.monotonic()
        while paused not in campaigns_bid(client, platform, traffic, index):
            index += 1
            assert time.monotonic() < resumed_at + 30 * SECONDS_MAX  # its money was recalled and is to be granted again
    assert snapshots_loaded(platform) == loaded


def test_pacing_controls_reach_every_bidder_within_two_seconds(platform: Platform) -> None:
    """Controls are made once a second: none that a bidder uses is ever older than that and the two seconds."""
    ages: dict[int, list[float]] = {port: [] for port in admin_ports(platform)}
    promise = Promise(1.0 + SECONDS_MAX)
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        for port in ages:
            text = get(port, "/metrics").text
            ages[port].append(parse_metrics(text).total("dsp_controls_age_seconds"))
        limit = promise.seconds()
    for port, found in ages.items():
        assert 0.0 < max(found) < limit, port
        assert min(found) < max(found), port  # others came meanwhile
