"""From the REST API to the last bid: a campaign that a manager pauses stops bidding within two seconds."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.platform import CATALOGUE, Platform
from loadtest.traffic import Traffic

pytestmark = [pytest.mark.platform, pytest.mark.timeout(120)]

SECONDS_MAX = 2.0


def wait_for_api(platform: Platform) -> None:
    until = time.monotonic() + 30.0
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{platform.ports.api}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, platform.tail("dsp-up.log")
        time.sleep(0.1)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path)
    platform.run("dsp", "migrate")
    platform.run("dsp", "load", str(CATALOGUE))
    try:
        platform.up()
        wait_for_api(platform)
        yield platform
    finally:
        platform.down()


def campaigns_bid(client: httpx.Client, platform: Platform, traffic: Traffic, index: int) -> list[int]:
    """Send one request and return the campaigns that bid."""
    request = traffic.request(index)
    url = f"{platform.bid_url}/openrtb2/{request.source.exchange}"
    answer = client.post(url, content=request.body, headers=request.headers)
    assert answer.status_code in (200, 204)
    seats = answer.json().get("seatbid", []) if answer.status_code == 200 else []
    return [int(bid["cid"]) for seat in seats for bid in seat["bid"]]


def test_a_paused_campaign_stops_bidding_within_two_seconds(platform: Platform) -> None:
    key = platform.run("dsp", "key", "create", "manager", "--role", "member").split()[-1]
    traffic = Traffic(5)
    with httpx.Client() as client:
        seen: Counter[int] = Counter()
        index, until = 0, time.monotonic() + 30.0
        while max(seen.values(), default=0) < 20 and time.monotonic() < until:
            seen.update(campaigns_bid(client, platform, traffic, index))
            index += 1
        paused, bids = seen.most_common(1)[0]
        assert bids >= 20
        api = f"http://127.0.0.1:{platform.ports.api}/v1/campaigns/{paused}"
        authorised = {"Authorization": f"Bearer {key}"}
        etag = client.get(api, headers=authorised).headers["ETag"]
        answer = client.post(f"{api}/pause", headers={**authorised, "If-Match": etag})
        assert answer.status_code == 200, answer.text
        paused_at = last_bid_at = time.monotonic()
        others = 0
        while time.monotonic() < paused_at + 3 * SECONDS_MAX:
            now = time.monotonic()
            found = campaigns_bid(client, platform, traffic, index)
            index += 1
            if paused in found:
                last_bid_at = now
            others += now > paused_at + SECONDS_MAX and bool(found)
    assert last_bid_at - paused_at < SECONDS_MAX
    assert others > 0  # it was this campaign that stopped, not the bidder
