"""Replay: every line is sent as it is, bids are told that they lost, and the report is the one that was promised."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from loadtest.replay import Sender
from loadtest.traffic import SOURCES, Traffic
from tests.integration.loadtest.fake_bidder import FakeBidder

ROOT = Path(__file__).parents[3]


def recorded(count: int) -> list[bytes]:
    traffic = Traffic(9, SOURCES[:1])
    return [msgspec.json.encode(traffic.request(index).payload) for index in range(count)]


async def test_bids_are_counted_and_lose() -> None:
    bidder = FakeBidder(1.0)
    runner = await bidder.start()
    try:
        public = "https://notices.example"
        sender = Sender(f"{bidder.url}/openrtb2/x", (public, bidder.url))
        bidder.public_url = public
        outcome = await sender.send(iter(recorded(60)), 4)
    finally:
        await runner.cleanup()
    assert outcome.requests == len(outcome.latencies_ms) == 60
    assert outcome.bids > 20
    assert sum(count for (kind, _), count in bidder.notices.items() if kind == "loss") == outcome.bids
    assert outcome.statuses["200"] + outcome.statuses["204"] == 60


@pytest.mark.platform
def test_replay_prints_the_promised_report(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join([*recorded(20), b"{not json", b'{"id":"x","imp":[]}', b"[]"]))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "replay", "--requests", str(path), "--exchange", "openrtb", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == ["requests", "status", "exceptions", "bids", "no_bid_reasons", "latency_ms"]
    assert report["requests"] == 23
    assert report["status"]["400"] == 3
    assert sum(report["status"].values()) == 23
    assert report["exceptions"] == 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
