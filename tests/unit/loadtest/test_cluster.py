"""What the drills conclude from what they counted."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from loadtest.cluster import drill
from loadtest.cluster.drill import Drill
from loadtest.cluster.drive import Count, Drive
from loadtest.reconcile import Charge
from loadtest.truth import NoticeKey, Sent, Truth


def drilled(**counts: object) -> Drill:
    known: dict[str, object] = {
        "fault": "f", "requests": 10, "late": 0, "unanswered": 0, "driver_lag_ms_max": 0.0, "lost": 0, "duplicated": 0,
        "overspent_micros": 0, "seconds_to_recover": 1.0, "examples": [],
    }  # fmt: skip
    return Drill(**{**known, **counts})  # type: ignore[arg-type]


def test_a_drill_fails_for_each_thing_that_may_go_wrong() -> None:
    assert drilled().ok
    for wrong in ({"lost": 1}, {"duplicated": 1}, {"overspent_micros": 1}, {"seconds_to_recover": None}):
        assert not drilled(**wrong).ok


def test_the_lag_is_from_the_nth_acknowledgement_to_the_nth_transaction() -> None:
    truth = Truth()
    for number, at in enumerate((10.0, 11.0, 12.0)):
        key = NoticeKey("e", str(number), "1", "bill")
        truth.notices[key] = Sent(5, attempts=1, acknowledged=1, acknowledged_at=at)
    truth.notices[NoticeKey("e", "9", "1", "loss")] = Sent(0, attempts=1, acknowledged=1, acknowledged_at=1.0)
    drive = Drive(None, None, truth, None)  # type: ignore[arg-type]
    drive.counts = [Count(10.5, 0), Count(11.5, 2), Count(12.25, 2)]
    assert drive.lags_seconds() == [1.5, 0.5]  # the third is not in the book yet
    drive.counts.append(Count(14.0, 3))
    assert drive.lags_seconds() == [1.5, 0.5, 2.0]


async def test_a_drive_waits_for_the_first_bid() -> None:
    """All processes are ready some seconds before, on a busy machine more than the traffic takes to its full rate."""
    drive = Drive(SimpleNamespace(check=lambda: None), None, Truth(), None)  # type: ignore[arg-type]
    waiting = asyncio.create_task(drive.bidding())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    drive.truth.tally.responses = 1
    await waiting


async def test_no_count_is_under_way_when_a_drive_has_closed() -> None:
    """Its thread would keep a connection that is closed by nobody, once the ledger has closed all that it holds."""
    counting, counted = threading.Event(), threading.Event()

    def transactions() -> int:
        counting.set()
        counted.wait(5)
        return 0

    async def nothing(*_: object) -> None: ...

    drive = Drive(None, SimpleNamespace(transactions=transactions), Truth(), SimpleNamespace(close=nothing))  # type: ignore[arg-type]
    drive.start(SimpleNamespace(drive=nothing), 1.0)  # type: ignore[arg-type]
    await asyncio.to_thread(counting.wait)
    closing = asyncio.create_task(drive.close())
    done, _ = await asyncio.wait({closing}, timeout=0.2)
    counted.set()
    await closing
    assert not done
    assert [one.transactions for one in drive.counts] == [0]


def charge(key: NoticeKey) -> Charge:
    return Charge(key, cost_micros=5, line_item_id=1, campaign_id=1, day=1)


async def test_a_notice_is_lost_only_where_the_book_does_not_get_it_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "_WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(drill, "SETTLE_SECONDS", 0.2)
    ours, unacknowledged = (NoticeKey("e", name, "1", "bill") for name in ("ours", "unacknowledged"))
    acknowledged = {ours: Sent(5, attempts=1, acknowledged=1, acknowledged_at=1.0)}
    # As many transactions as notices were acknowledged, but another's: its bidder died before it could answer.
    looks = [[charge(unacknowledged)], [charge(unacknowledged)], [charge(unacknowledged), charge(ours)]]
    drive = SimpleNamespace(ledger=SimpleNamespace(charges=lambda: looks.pop(0)))
    found, charges = await drill._settled(drive, acknowledged)  # type: ignore[arg-type]
    assert (found.missing, len(charges), looks) == (0, 2, [])
    never = SimpleNamespace(ledger=SimpleNamespace(charges=lambda: [charge(unacknowledged)]))
    found, _ = await drill._settled(never, acknowledged)  # type: ignore[arg-type]
    assert found.missing == 1
