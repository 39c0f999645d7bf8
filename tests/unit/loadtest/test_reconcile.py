"""Reconciliation finds every way in which a book can disagree with what the exchange knows."""

import pytest

from loadtest.reconcile import Budgeted, Charge, overspent, reconcile
from loadtest.truth import NoticeKey, Sent


def key(number: int, kind: str = "bill") -> NoticeKey:
    return NoticeKey("x", f"a{number}", "1", kind)


def charge(number: int, cost: int = 10, day: int = 1, line_item: int = 5) -> Charge:
    return Charge(key(number), cost, line_item, 50, day)


def sent(cost: int = 10, acknowledged: int = 1, attempts: int = 1) -> Sent:
    return Sent(cost, attempts, acknowledged)


def test_a_right_book_has_no_faults() -> None:
    notices = {key(1): sent(), key(2): sent(acknowledged=3, attempts=5), key(1, "click"): sent(cost=0)}
    verdict = reconcile(notices, [charge(1), charge(2)], list(notices))
    assert verdict.lost == 0
    assert (verdict.billing_acknowledged, verdict.other_acknowledged, verdict.charged) == (2, 1, 2)


@pytest.mark.parametrize(
    ("charges", "logged", "label"),
    [
        ([], [key(1)], "missing"),
        ([charge(1), charge(1)], [key(1)], "duplicated"),
        ([charge(1, cost=11)], [key(1)], "wrong_cost"),
        ([charge(1), charge(9)], [key(1)], "unexplained"),
        ([charge(1)], [], "events_missing"),
    ],
)
def test_each_fault_is_named(charges: list[Charge], logged: list[NoticeKey], label: str) -> None:
    verdict = reconcile({key(1): sent()}, charges, logged)
    assert getattr(verdict, label) == 1
    assert verdict.lost == 1
    assert verdict.examples[0].startswith(label)


def test_a_notice_whose_answer_was_lost_may_be_in_the_book_but_counts_as_unacknowledged() -> None:
    verdict = reconcile({key(1): sent(acknowledged=0)}, [charge(1)], [])
    assert (verdict.unexplained, verdict.unacknowledged) == (0, 1)


def test_budgets_are_checked_by_day_in_total_and_for_the_campaign() -> None:
    charges = [charge(1, 60, day=1), charge(2, 60, day=2), charge(3, 30, day=2, line_item=6)]
    budgets = [
        Budgeted("line_item", 5, "five", 60, 120),
        Budgeted("line_item", 6, "six", 29, None),
        Budgeted("campaign", 50, "whole", 90, 140),
        Budgeted("campaign", 51, "other", 1, 1),
    ]
    assert overspent(budgets, charges) == [
        ("line_item", 6, "six", 2, 1),
        ("campaign", 50, "whole", None, 10),
    ]
