"""The simulation of faults: it finds nothing wrong, repeats itself to the byte, and notices what is made wrong."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dsp.cache import local_leases
from dsp.events.schema import Notice
from dsp.ledger import apply, lease
from dsp.ledger.book import Transaction
from dsp.ledger.lease import LeaseBook
from dsp.store.book import BookRepository
from dsp.workers import ledger
from loadtest.__main__ import main
from loadtest.faults.oracle import ViolationError
from loadtest.faults.plan import Faults, faults
from loadtest.faults.simulate import Simulation

FOREVER_MS = 1 << 61
#: Runs of 24 simulated minutes take seconds each, and many on a busy machine.
pytestmark = pytest.mark.timeout(600)
#: A mutant has so many seeds to be caught in.
SEEDS = 4


def test_no_seed_overspends_bills_twice_or_loses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "--seeds", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("seeds", "overspend_micros", "double_billed", "lost")} == {
        "seeds": 1, "overspend_micros": 0, "double_billed": 0, "lost": 0,
    }  # fmt: skip
    assert found["value_ratio"] > 0.85
    assert found["late_ratio"] * found["late_charged_ratio"] > 0.0  # there were faults
    clean = Simulation(100, Faults()).run().audit
    assert clean.impressions > 1_000
    assert clean.late_charged_count == clean.late_count == 0


def test_the_command_says_which_seed_broke_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _reservations_forgotten(monkeypatch)
    assert main(["faults", "--seeds", "1", "--json"]) == 1
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("seed 1: ")
    with pytest.raises(ViolationError) as broken:
        Simulation(1, faults(1)).run()
    assert str(broken.value) in told.err
    assert str(pickle.loads(pickle.dumps(broken.value))) == str(broken.value)  # as other processes tell it


def test_nothing_is_left_of_a_commit_that_failed_when_faults_are_three_times_as_dense() -> None:
    assert Simulation(60, faults(60, 3)).run().audit.lost == 0


def test_one_integer_reproduces_a_run_in_any_process() -> None:
    program = "import sys; from loadtest.__main__ import main; sys.exit(main(['faults', '--seeds', '7', '--trace']))"
    traces = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].count(b" bid ") > 1_000
    assert Simulation(7, faults(7)).run().digest.encode() == traces[0].split()[-1]


Plant = Callable[[pytest.MonkeyPatch], None]


def _reservations_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = LeaseBook.apply

    def wrong(self: LeaseBook, *arguments: Any) -> None:
        right(self, *arguments)
        for one in self._leases.values():
            one.free += one.reserved

    patch.setattr(LeaseBook, "apply", wrong)


def _idempotency_forgotten(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: BookRepository, _entries: Any, found: Any, _released: Any) -> Any:
        start = self.transactions()
        names = (f"{one.bid_id}/{start + number}" for number, one in enumerate(found))
        return [msgspec.structs.replace(one, bid_id=name, imp_id=name) for one, name in zip(found, names, strict=True)]

    patch.setattr(BookRepository, "_select_new", wrong)


def _woken_process_trusts_an_old_lease(patch: pytest.MonkeyPatch) -> None:
    right = LeaseBook.apply

    def wrong(self: LeaseBook, *arguments: Any) -> None:
        right(self, *arguments)
        self._valid_until_ms = self._expires_ms_max = FOREVER_MS

    patch.setattr(LeaseBook, "apply", wrong)


def _epochs_ignored(patch: pytest.MonkeyPatch) -> None:
    for module in (local_leases, lease):
        patch.setattr(module, "lease_id", lambda _epoch, line_item_id, day: f"0-{line_item_id}-{day}")


def _promises_not_remembered(patch: pytest.MonkeyPatch) -> None:
    right = local_leases._sync
    patch.setattr(local_leases, "_sync", lambda *arguments: right(*arguments[:-1], 0))


def _dead_holders_leases_closed_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_leases, "closes_ms", lambda _expires_at_ms: 0)


def _a_successor_proves_its_predecessor_dead(patch: pytest.MonkeyPatch) -> None:
    right = local_leases._register

    def wrong(sql: Any, holder: str, now_ms: int) -> int:
        sql.execute("UPDATE holders SET expires_ms = 0 WHERE holder = ?", (holder,))
        return right(sql, holder, now_ms)

    patch.setattr(local_leases, "_register", wrong)


def _campaigns_unlimited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_leases, "_LEFT", local_leases._LEFT.replace("scope = 'campaign' AND id = campaign_id", "0"))


def _paused_line_items_are_granted(patch: pytest.MonkeyPatch) -> None:
    right = local_leases._set_limits
    patch.setattr(
        local_leases, "_set_limits", lambda sql, limits: right(sql, [one._replace(active=True) for one in limits])
    )


def _nothing_is_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apply, "closes_ms", lambda _expires_at_ms: FOREVER_MS)


def _freed_before_the_ledger_has_read(patch: pytest.MonkeyPatch) -> None:
    right = LeaseBook._ended

    def wrong(self: LeaseBook) -> Any:
        yield from list(self._noticed)
        yield from right(self)

    patch.setattr(LeaseBook, "_ended", wrong)


def _bills_after_a_loss_are_charged_to_their_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "uncovered", lambda self: self)


def _late_wins_are_charged_without_asking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BookRepository, "_cover_late", lambda _self, new, _room: _charged(new))
    patch.setattr(BookRepository, "_charge_late", lambda *_: None)


def _charged(new: Any) -> Any:
    return {one.bid_id: one.covered_late() for one in new if one.claim_micros}, []


def _late_wins_take_what_bidders_hold(patch: pytest.MonkeyPatch) -> None:
    right = local_leases._cover

    def wrong(sql: Any, claims: Any) -> Any:
        patch.setattr(local_leases, "_left", lambda *_: 1 << 60)
        try:
            return right(sql, claims)
        finally:
            patch.setattr(local_leases, "_left", left)

    left = local_leases._left
    patch.setattr(local_leases, "_cover", wrong)


def _late_wins_are_charged_beyond_what_was_granted(patch: pytest.MonkeyPatch) -> None:
    right = local_leases._cover
    patch.setattr(local_leases, "_cover", lambda sql, claims: dict.fromkeys(right(sql, claims), 1 << 60))


def _late_wins_are_charged_to_their_bids_leases(patch: pytest.MonkeyPatch) -> None:
    right = Transaction.covered_late
    patch.setattr(
        Transaction, "covered_late", lambda self: msgspec.structs.replace(right(self), lease_id=self.lease_id)
    )


def _late_wins_are_not_charged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_leases, "_cover", lambda *_: {})


def _some_notices_are_skipped(patch: pytest.MonkeyPatch) -> None:
    right = ledger.entry

    def wrong(notice: Notice, appended_ms: int) -> Any:
        return None if notice.facts.bid_id.endswith("77") else right(notice, appended_ms)

    patch.setattr(ledger, "entry", wrong)


@pytest.mark.parametrize(
    "plant",
    [
        _reservations_forgotten,
        _idempotency_forgotten,
        _woken_process_trusts_an_old_lease,
        _epochs_ignored,
        _promises_not_remembered,
        _dead_holders_leases_closed_at_once,
        _a_successor_proves_its_predecessor_dead,
        _campaigns_unlimited,
        _paused_line_items_are_granted,
        _nothing_is_late,
        _freed_before_the_ledger_has_read,
        _bills_after_a_loss_are_charged_to_their_leases,
        _late_wins_are_charged_without_asking,
        _late_wins_take_what_bidders_hold,
        _late_wins_are_charged_beyond_what_was_granted,
        _late_wins_are_charged_to_their_bids_leases,
        _late_wins_are_not_charged,
        _some_notices_are_skipped,
    ],
)
def test_a_planted_fault_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(ViolationError):
        _run_all(SEEDS)


def _run_all(seeds: int) -> None:
    for seed in range(seeds):
        Simulation(seed, faults(seed)).run()
