"""`python -m loadtest day`: how far spend was from plan at each hour, as a table, as JSON, as a picture."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from dsp.kernel.money import Micros
from loadtest.day.orders import CAMPAIGN_BUDGETS, ORDERS, ZONES, Order
from loadtest.day.simulate import Outcome, Sample, Simulation

#: What has traffic stays within this part of its day's plan, at every full hour.
TOLERANCE = 0.02
#: Relative to the plan so far a gap means something from here on, as a part of the day's plan.
_SO_FAR_MIN = 0.1
#: The table's; in fewer it would be cut, figures and all.
_COLUMNS_MIN = 130


class Delivery(NamedTuple):
    """One line item's or campaign's day. Gaps are spend less plan, both since the day began, at full hours."""

    name: str
    zone: str
    terms: str
    bound: str
    planned_micros: Micros  # for the day
    spent_micros: Micros
    gaps: tuple[float, ...]  # by hour, as parts of the day's plan
    so_far: float  # the largest gap as a part of the plan so far, once a tenth of the day was planned
    supply: float | None  # impressions it could have bid on for each it bought

    @property
    def worst(self) -> tuple[float, int]:
        """Return the largest gap, and after which hour it was."""
        return max((abs(gap), hour) for hour, gap in enumerate(self.gaps, 1))

    @property
    def on_plan(self) -> bool:
        """Tell whether spend was within the tolerance of plan at every hour."""
        return self.worst[0] <= TOLERANCE


def deliveries(outcome: Outcome) -> list[Delivery]:
    """Return every line item's day, and that of the campaigns with a budget, in the orders' order."""
    samples: dict[str, list[Sample]] = {}
    for sample in outcome.samples:
        samples.setdefault(sample.name, []).append(sample)
    found = [
        _delivery(order.name, order, order.bound, samples[order.name], _supply(outcome, [order]))
        for order in ORDERS
        if order.name in samples
    ]
    for name in CAMPAIGN_BUDGETS:
        members = [order for order in ORDERS if order.campaign == name]
        if name in samples:
            found.append(_delivery(name, members[0], "plan", samples[name], _supply(outcome, members)))
    return found


def _delivery(name: str, order: Order, bound: str, samples: list[Sample], supply: float | None) -> Delivery:
    planned = samples[-1].planned_micros
    gaps = [sample.spent_micros - sample.planned_micros for sample in samples]
    relative = [
        abs(gap) / sample.planned_micros
        for gap, sample in zip(gaps, samples, strict=True)
        if sample.planned_micros >= max(1, _SO_FAR_MIN * planned)
    ]
    campaign = name != order.name
    return Delivery(
        name=name,
        zone=ZONES[order.advertiser],
        terms="campaign, even" if campaign else f"{order.kind}, {order.pacing}{', dayparts' if order.hours else ''}",
        bound=bound,
        planned_micros=planned,
        spent_micros=samples[-1].spent_micros,
        gaps=tuple(gap / max(1, planned) for gap in gaps),
        so_far=max(relative, default=0.0),
        supply=supply,
    )


def _supply(outcome: Outcome, orders: Iterable[Order]) -> float | None:
    names = [order.name for order in orders]
    bought = sum(outcome.impressions[name] for name in names)
    return sum(outcome.supply[name] for name in names) / bought if bought else None


def main(seed: int, requests_per_day: int, as_json: bool, picture: Path | None) -> int:
    """Simulate a day and report; return 0 when all that had the traffic was on plan, and no money went wrong."""
    outcome = Simulation(seed, requests_per_day).run()
    found = deliveries(outcome)
    good = all(one.on_plan for one in found if one.bound == "plan")
    good = good and not outcome.overspent and not outcome.imbalance_micros and not outcome.reconciliation.lost
    if as_json:
        print(json.dumps(summary(outcome, found)))
    else:
        show(outcome, found)
    if picture is not None:
        draw(found, outcome.samples, picture)
    return 0 if good else 1


def summary(outcome: Outcome, found: list[Delivery]) -> dict[str, object]:
    """Return the figures of the day."""
    return {
        "requests": outcome.requests,
        "overspend_micros": sum(one.over_micros for one in outcome.overspent),
        "imbalance_micros": outcome.imbalance_micros,
        "lost": outcome.reconciliation.lost,
        "worst_gap": round(max((one.worst[0] for one in found if one.bound == "plan"), default=0.0), 4),
        "digest": outcome.digest,
        "delivery": {
            one.name: {
                "zone": one.zone,
                "terms": one.terms,
                "bound": one.bound,
                "planned_micros": one.planned_micros,
                "spent_micros": one.spent_micros,
                "worst_gap": round(one.worst[0], 4),
                "worst_hour": one.worst[1],
                "worst_gap_so_far": round(one.so_far, 4),
                "gaps": [round(gap, 4) for gap in one.gaps],
                "supply": None if one.supply is None else round(one.supply, 1),
            }
            for one in found
        },
    }


def show(outcome: Outcome, found: list[Delivery]) -> None:
    """Print the table, a row for each line item."""
    table = Table(title=f"Spend and plan over a day of {outcome.requests:,} requests; gaps at full hours")
    for name in ("line item", "zone", "terms", "bound by", "supply", "planned", "spent", "worst gap", "so far", ""):
        table.add_column(name, justify="left" if name in ("line item", "zone", "terms", "bound by", "") else "right")
    for one in found:
        gap, hour = one.worst
        table.add_row(
            one.name, one.zone, one.terms, one.bound, "" if one.supply is None else f"{one.supply:.1f}x",
            f"{one.planned_micros / 1e6:.2f}", f"{one.spent_micros / 1e6:.2f}", f"{gap:.2%} at {hour}",
            f"{one.so_far:.2%}", "" if one.bound != "plan" else "on plan" if one.on_plan else "OFF PLAN",
        )  # fmt: skip
    console = Console(width=max(Console().width, _COLUMNS_MIN))
    console.print(table)
    console.print(
        f"overspent {sum(one.over_micros for one in outcome.overspent)}  imbalance {outcome.imbalance_micros}  "
        f"lost {outcome.reconciliation.lost}  digest {outcome.digest}"
    )


def draw(found: list[Delivery], samples: list[Sample], path: Path) -> None:
    """Draw each line item's spend beside its plan."""
    from matplotlib.figure import Figure

    columns, figure = 4, Figure(figsize=(16, 11))
    axes = figure.subplots(-(-len(found) // columns), columns, squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, one in zip(axes.flat, found, strict=False):
        own = [sample for sample in samples if sample.name == one.name]
        hours = [0, *(sample.hour for sample in own)]
        axis.plot(hours, [0.0, *(sample.planned_micros / 1e6 for sample in own)], color="0.6", linewidth=4)
        axis.plot(hours, [0.0, *(sample.spent_micros / 1e6 for sample in own)], color="C0", linewidth=1.5)
        axis.set_title(f"{one.name}: {one.terms}\nbound by {one.bound}, worst gap {one.worst[0]:.1%}", fontsize=9)
        axis.set_xlim(0, 24)
        axis.set_ylim(bottom=0)
    figure.suptitle("Spend (blue) and plan (grey) since midnight by hour of the advertiser's day")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
