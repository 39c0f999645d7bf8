"""The locustfile runs headless, and its exit status is the service level's verdict."""

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.loadtest.fake_bidder import FakeBidder

ROOT = Path(__file__).parents[3]


# Found, not imported: importing locust patches this whole process.
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
@pytest.mark.parametrize(
    ("limits", "status", "said"),
    [
        (("--slo-p99-ms", "60000", "--slo-late-share", "1"), 0, ""),
        (("--slo-p99-ms", "0.001"), 1, "service level broken: p99"),
    ],
)
async def test_exit_status_is_the_verdict(limits: tuple[str, ...], status: int, said: str) -> None:
    bidder = FakeBidder(1.0)
    runner = await bidder.start()
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", bidder.url, "--headless",
             "--users", "2", "--spawn-rate", "2", "--run-time", "8s", "--only-summary", "--pause-ms", "10", *limits],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        await runner.cleanup()
    assert done.returncode == status, done.stderr
    assert said in done.stdout
