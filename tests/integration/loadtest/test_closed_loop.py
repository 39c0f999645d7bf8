"""The loop end to end with real processes, and kill -9 of the bidder and of workers while traffic goes on."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dsp.openrtb.profile import load_profiles
from loadtest.client import Client
from loadtest.exchange import Exchange
from loadtest.ledger import Ledger
from loadtest.notifier import Manners, Notifier
from loadtest.platform import CATALOGUE, EXCHANGES, Platform
from loadtest.reconcile import overspent, reconcile
from loadtest.traffic import Traffic
from loadtest.truth import Truth
from tests.servers import platform_ports
from tests.traffic import PATIENT
from tests.waiting import eventually

pytestmark = [pytest.mark.platform, pytest.mark.timeout(400)]

RATE = 120.0
ENOUGH_WINS, ENOUGH_SPENT_OUT = 50, 5
#: When which process is killed, seconds after the traffic begins.
KILLS = (
    (2.0, ("ledger",)),
    (4.0, ("bidder",)),
    (7.0, ("training_log", "pacing", "snapshot")),
    (9.0, ("bidder", "ledger")),
)
#: How long the traffic lasts, and at most where a busy machine has not brought enough of it to judge by then.
SECONDS, SECONDS_MAX = 13.0, 90.0
SHRINK = 25  # budgets are divided by this, so that many line items spend all they have


def hurried(text: str) -> str:
    """Return the catalogue with small budgets that everybody tries to spend at once."""
    text = re.sub(r"^pacing = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(goal = .*)$", r'\1\npacing = "asap"', text, flags=re.MULTILINE)
    return re.sub(r"(total|daily)_micros = ([\d_]+)", lambda m: f"{m[1]}_micros = {int(m[2]) // SHRINK}", text)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path, platform_ports())
    platform.run("dsp", "migrate")
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(hurried(CATALOGUE.read_text(encoding="utf-8")), encoding="utf-8")
    platform.run("dsp", "load", str(catalogue))
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def pids(platform: Platform) -> dict[str, int]:
    status = json.loads((platform.data_dir / "up.json").read_text(encoding="utf-8"))
    return {name: child["pid"] for name, child in status["children"].items()}


def killed_now(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def refused(platform: Platform) -> float:
    """Return how many bids the living bidder has not made for want of money: its counters die with it."""
    try:
        return platform.metrics().total("dsp_no_bids_total", reason="budget")
    except OSError:
        return 0.0


def spent_out(platform: Platform) -> int:
    """Return how many line items have had as good as all of a budget of theirs, or of their campaign's, leased."""
    query = """
        SELECT count(DISTINCT line_item_id) FROM limits JOIN used
        ON scope = 'line_item' AND id = line_item_id OR scope = 'campaign' AND id = campaign_id
        WHERE micros >= 0.9 * CASE WHEN scope = 'line_item' AND day < 0 THEN total WHEN scope = 'line_item' THEN daily
            WHEN day < 0 THEN campaign_total ELSE campaign_daily END
    """
    with closing(sqlite3.connect(platform.data_dir / "leases.db")) as leases:
        return int(leases.execute(query).fetchone()[0])


async def kill(platform: Platform) -> tuple[list[str], float]:
    """Kill processes at their times; return which, and how often the bidders among them had found no money."""
    begun = time.monotonic()
    killed, found_none = [], 0.0
    for at, names in KILLS:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        for name in names:
            if name == "bidder":
                found_none += await asyncio.to_thread(refused, platform)
            while not killed_now(pids(platform)[name]):  # it is just being restarted
                await asyncio.sleep(0.05)
            killed.append(name)
    return killed, found_none


async def drive(platform: Platform) -> tuple[Truth, list[str], float]:
    truth = Truth()
    truth.begin("kills")
    async with Client() as bids, Client(ends_tls=platform.ends_tls) as calls:
        notifier = Notifier(calls, truth, 3, Manners(duplicate_share=0.3))
        exchange = Exchange(bids, platform.bid_url, Traffic(3, PATIENT), load_profiles(EXCHANGES), truth, notifier)
        killer = asyncio.create_task(kill(platform))
        enough = asyncio.create_task(_enough(platform, truth))
        await exchange.drive(
            RATE,
            lambda elapsed: elapsed >= SECONDS_MAX or (elapsed >= SECONDS and killer.done() and enough.done()),
        )
        enough.cancel()
        killed, found_none = await killer
        assert await notifier.settle(90.0), "some notices were never acknowledged"
        await notifier.close()
    return truth, killed, found_none


async def _enough(platform: Platform, truth: Truth) -> None:
    """Wait until bids were won, and budgets spent, as the test has to see them."""
    while truth.total().wins <= ENOUGH_WINS or spent_out(platform) < ENOUGH_SPENT_OUT:
        await asyncio.sleep(0.5)


def responses(ledger: Ledger) -> tuple[int, int]:
    """Return how many clicks and conversions the book holds."""
    days = ledger.results()
    return sum(day.clicks for day in days), sum(day.conversions for day in days)


def test_no_kill_loses_or_doubles_a_notice_or_overspends(platform: Platform) -> None:
    truth, killed, found_none = asyncio.run(drive(platform))
    assert len(killed) == sum(len(names) for _, names in KILLS)
    total = truth.total()
    assert total.wins > ENOUGH_WINS
    assert not total.faults
    # Without budgets that say no, overspend would not be put to the test. The last bidder may have come up too late,
    # on a busy machine, to refuse anything itself.
    assert found_none + refused(platform) > 0
    assert spent_out(platform) >= ENOUGH_SPENT_OUT
    ledger = Ledger(platform.settings)
    try:
        eventually(lambda: len(ledger.charges()) >= len(truth.acknowledged(billing=True)), 90.0)
        charges = ledger.charges()
        verdict = reconcile(truth.notices, charges, ledger.events())
        assert verdict.lost == 0, verdict.examples
        assert verdict.billing_acknowledged == verdict.charged > 50
        assert overspent(ledger.budgets(), charges) == []
        assert ledger.imbalance() == 0
        told = Counter(key.kind for key in truth.acknowledged(billing=False))
        assert told["click"] > 0
        eventually(lambda: responses(ledger) == (told["click"], told["conv"]), 90.0)  # each once
        assert sum(day.impressions for day in ledger.results()) == len(charges)
        assert all(day.value_micros > 0 for day in ledger.results() if day.impressions)
    finally:
        ledger.close()
