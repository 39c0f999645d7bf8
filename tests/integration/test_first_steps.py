"""What the README has a newcomer do with a platform that has just been started: a bid request, and why."""

import json
import time
from pathlib import Path

import httpx
import pytest

from loadtest.platform import CATALOGUE, ROOT, Platform
from tests.servers import platform_ports

pytestmark = [pytest.mark.platform, pytest.mark.timeout(200)]

REQUEST = CATALOGUE.with_name("request.json").read_bytes()
HEADERS = {"Content-Type": "application/json"}


def test_the_first_request_leases_and_the_next_gets_a_bid(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "platform", platform_ports(1), exchanges=ROOT / "config" / "exchanges")
    try:
        platform.run("dsp", "migrate")
        platform.run("dsp", "load", str(CATALOGUE))
        key = platform.run("dsp", "key", "create", "me", "--role", "owner").split()[-1]
        platform.up()
        statuses = []
        give_up_at = time.monotonic() + 60.0
        with httpx.Client(headers=HEADERS, timeout=60.0) as client:
            while 200 not in statuses and time.monotonic() < give_up_at:
                answer = client.post(f"{platform.bid_url}/openrtb2/openrtb", content=REQUEST)
                statuses.append(answer.status_code)
                time.sleep(0.2)
            assert set(statuses) == {204, 200}
            (seat,) = answer.json()["seatbid"]
            (bid,) = seat["bid"]
            explained = client.post(
                f"http://127.0.0.1:{platform.ports.api}/v1/explain",
                headers={"Authorization": f"Bearer {key}"},
                json={"exchange": "openrtb", "request": json.loads(REQUEST)},
            )
    finally:
        platform.down()
    assert explained.status_code == 200
    assert bid["price"] >= 0.1
    assert bid["adid"] in explained.text
