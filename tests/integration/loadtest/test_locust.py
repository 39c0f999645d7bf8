"""The locustfile runs headless, and its exit status is the service level's verdict."""

import asyncio
import importlib.util
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from dsp.openrtb.profile import load_profiles
from tests.integration.loadtest.fake_bidder import FakeBidder
from tests.waiting import until

ROOT = Path(__file__).parents[3]


# Found, not imported: importing locust patches this whole process.
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
@pytest.mark.parametrize(
    ("limits", "status", "said"),
    [
        (("--slo-p99-ms", "60000", "--slo-late-share", "1"), 0, ""),
        (("--slo-p99-ms", "0.001"), 1, "service level broken: p99"),
        (("--slo-p99-ms", "60000"), 1, "service level broken: late 100.00%"),
        (("--slo-p99-ms", "60000", "--processes", "2"), 1, "service level broken: late 100.00%"),
    ],
)
async def test_exit_status_is_the_verdict(limits: tuple[str, ...], status: int, said: str) -> None:
    bidder = FakeBidder(1.0)
    bidder.delay_seconds = 0.3 if "late" in said else 0.0
    runner = await bidder.start()
    locust = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", bidder.url, "--headless",
        "--users", "2", "--spawn-rate", "2", "--only-summary", "--pause-ms", "10", *limits,
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        await until(lambda: bidder.asked > 20 or locust.returncode is not None)
        locust.terminate()
        out, err = await asyncio.wait_for(locust.communicate(), 60.0)
    finally:
        if locust.returncode is None:
            locust.kill()
        await runner.cleanup()
    assert locust.returncode == status, err.decode()
    assert out.decode().count(said or "service level broken") == status  # told once, by the master
    assert bidder.exchanges <= set(load_profiles(ROOT / "config" / "exchanges"))  # of `make serve`
