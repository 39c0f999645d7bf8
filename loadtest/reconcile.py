"""Holds the book against what the exchange knows: every acknowledged notice in it exactly once, nothing overspent.

Pure: what is in the book and in the event log is read by `loadtest.ledger`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from dsp.kernel.money import Micros
from loadtest.truth import NoticeKey, Sent

_EXAMPLES = 5


class Charge(NamedTuple):
    """One billing transaction of the book."""

    key: NoticeKey
    cost_micros: Micros
    line_item_id: int
    campaign_id: int
    day: int


class Budgeted(NamedTuple):
    """Hard budgets of a line item or a campaign; None means none of that kind."""

    kind: str  # "line_item" | "campaign"
    id: int
    name: str
    daily_micros: Micros | None
    total_micros: Micros | None


class Overspent(NamedTuple):
    """A budget that was passed."""

    kind: str
    id: int
    name: str
    day: int | None  # None: the total budget
    over_micros: Micros


class Reconciliation(msgspec.Struct, kw_only=True):
    """The verdict; all but the first three counts must be zero."""

    billing_acknowledged: int
    other_acknowledged: int
    charged: int
    missing: int  # acknowledged, and not in the book
    duplicated: int  # in the book more than once
    wrong_cost: int
    unexplained: int  # in the book, and never sent
    events_missing: int  # acknowledged notices of any kind that the event log lacks
    unacknowledged: int  # sent, and refused or never answered
    examples: list[str] = []

    @property
    def lost(self) -> int:
        """Return how many faults there are."""
        return (
            self.missing
            + self.duplicated
            + self.wrong_cost
            + self.unexplained
            + self.events_missing
            + self.unacknowledged
        )


def reconcile(
    notices: Mapping[NoticeKey, Sent], charges: Sequence[Charge], events: Iterable[NoticeKey]
) -> Reconciliation:
    """Compare what was sent with what is in the book (`charges`) and in the event log (`events`)."""
    booked = Counter(charge.key for charge in charges)
    costs = {charge.key: charge.cost_micros for charge in charges}
    logged = set(events)
    acknowledged = {key: sent for key, sent in notices.items() if sent.acknowledged}
    billing = {key: sent for key, sent in acknowledged.items() if sent.cost_micros}
    found: dict[str, list[NoticeKey]] = {
        "missing": [key for key in billing if key not in booked],
        "duplicated": [key for key, count in booked.items() if count > 1],
        "wrong_cost": [key for key, sent in billing.items() if key in costs and costs[key] != sent.cost_micros],
        "unexplained": [key for key in booked if key not in notices or not notices[key].attempts],
        "events_missing": [key for key in acknowledged if key not in logged],
        "unacknowledged": [key for key, sent in notices.items() if sent.attempts and not sent.acknowledged],
    }
    return Reconciliation(
        billing_acknowledged=len(billing),
        other_acknowledged=len(acknowledged) - len(billing),
        charged=len(charges),
        examples=[f"{label}: {'/'.join(key)}" for label, keys in found.items() for key in keys[:_EXAMPLES]],
        **{label: len(keys) for label, keys in found.items()},
    )


def overspent(budgets: Iterable[Budgeted], charges: Iterable[Charge]) -> list[Overspent]:
    """Return every daily and total budget that the charges exceed; days are the advertisers'."""
    by_day: dict[tuple[str, int], dict[int, Micros]] = defaultdict(lambda: defaultdict(int))
    for charge in charges:
        by_day["line_item", charge.line_item_id][charge.day] += charge.cost_micros
        by_day["campaign", charge.campaign_id][charge.day] += charge.cost_micros
    found: list[Overspent] = []
    for budget in budgets:
        spent = by_day.get((budget.kind, budget.id), {})
        if budget.total_micros is not None and sum(spent.values()) > budget.total_micros:
            over = sum(spent.values()) - budget.total_micros
            found.append(Overspent(budget.kind, budget.id, budget.name, None, over))
        for day, amount in spent.items():
            if budget.daily_micros is not None and amount > budget.daily_micros:
                found.append(Overspent(budget.kind, budget.id, budget.name, day, amount - budget.daily_micros))
    return found
