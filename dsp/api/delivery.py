"""Why one line item does or does not deliver: what holds it back, its money, its pace, and the supply it may bid on."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from statistics import median_low

import msgspec
from sqlalchemy.orm import Session

from dsp.api.explain import Explainer, Reason, reason
from dsp.api.spend import EPOCH
from dsp.catalog.entities import Catalogue
from dsp.catalog.kinds import Kind
from dsp.catalog.reasons import Exclusion
from dsp.catalog.status import Status, effective
from dsp.events.schema import SampledRequest
from dsp.funnel import explain, offered
from dsp.kernel.clock import knows_timezone
from dsp.kernel.config import Platform
from dsp.kernel.errors import InputError
from dsp.kernel.money import Micros
from dsp.pacing.columns import align
from dsp.pacing.controller import Control
from dsp.pacing.plan import day_number
from dsp.snapshot.build import build
from dsp.snapshot.unbound import unbound
from dsp.store.results import sum_results
from dsp.targeting import bitmap

#: What has no name in the funnel, which knows what an impression asks for.
NO_CREATIVE = Reason(label="no_creative", sentence="None of its creatives is active.")
UNVALUED = Reason(
    label=Exclusion.WORTHLESS.value,
    sentence="The goal is a return on conversions, and no active conversion rule of the advertiser has a value.",
)
#: What its terms may be that no version here would write, or that another host knows and this one does not.
UNUSABLE = Reason(
    label=Exclusion.INACTIVE.value,
    sentence="Bidders cannot use its terms: the advertiser's time zone is unknown, or a number is out of bounds.",
)
CLOSED = Reason(
    label=Exclusion.THROTTLED.value,
    sentence="Its campaign cannot be paced, so it is closed; the pacing worker logs why.",
)
#: So many impressions tell the shares of reasons to a percent or two; a request may have a hundred.
IMPRESSIONS_ENOUGH = 1_000
_LEVELS = (Kind.LINE_ITEM, Kind.CAMPAIGN, Kind.ADVERTISER)
_STATUSES = {Status.DRAFT: "a draft", Status.PAUSED: "paused", Status.ARCHIVED: "archived"}


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """One bound on what the line item spends. What was bid and not yet billed is in neither amount."""

    budget_of: Kind
    daily: bool
    limit_micros: Micros
    spent_micros: Micros
    left_micros: Micros


class PaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """How pacing holds the line item to its plan; amounts are since its flight began."""

    at_ms: int
    multiplier: float
    planned_micros: Micros | None
    spent_micros: Micros


class Excluded(Reason, frozen=True, kw_only=True):
    """How many impressions a reason took."""

    impressions: int


class SupplyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the line item may bid on of the newest requests kept, as if it ran at all hours and had money.

    A user is taken to have seen nothing. Prices come after it.
    """

    since_ms: int | None
    requests: int
    impressions: int
    eligible: int
    floor_micros_cpm: Micros | None
    excluded: list[Excluded]


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line item does or does not deliver. Empty `held` and some `eligible`: it bids as far as prices allow."""

    line_item_id: int
    name: str
    at_ms: int
    effective_status: Status
    date: str
    held: list[Reason]
    budgets: list[BudgetReport]
    pace: PaceReport | None
    supply: SupplyReport | None


class Delivery:
    """One line item at an instant, and what its decisions read of the catalogue."""

    def __init__(self, chain: Catalogue, now_ms: int) -> None:
        self._chain = chain
        (self._line_item,), (self._campaign,), (self._advertiser,) = (
            chain.line_items,
            chain.campaigns,
            chain.advertisers,
        )
        self._now_ms = now_ms
        timezone = self._advertiser.timezone
        self._day = day_number(now_ms, timezone if knows_timezone(timezone) else "UTC")

    def report(
        self, budgets: list[BudgetReport], control: Control | None, supply: SupplyReport | None
    ) -> DeliveryReport:
        """Return the report; `control` is what pacing made of the line item."""
        cost = control.cost_micros if control is not None else 0.0
        closed = [CLOSED] if control is not None and control.closed else []
        spent = [_spent(one) for one in budgets if one.left_micros < max(1.0, cost)]
        return DeliveryReport(
            line_item_id=self._line_item.id,
            name=self._line_item.name,
            at_ms=self._now_ms,
            effective_status=effective(self._line_item.status, self._campaign.status, self._advertiser.status),
            date=(EPOCH + timedelta(days=self._day)).isoformat(),
            held=[*self._inactive(), *self._resting(), *closed, *spent],
            budgets=budgets,
            pace=None if control is None else msgspec.convert(control, PaceReport, from_attributes=True),
            supply=supply,
        )

    def budgets(self, session: Session) -> list[BudgetReport]:
        """Return every budget that bounds the line item, with what the book has charged to it."""
        found = []
        for kind, owner in ((Kind.LINE_ITEM, self._line_item), (Kind.CAMPAIGN, self._campaign)):
            today, ever = (self._day, self._day), (None, None)
            for daily, limit, days in (
                (True, owner.budget.daily_micros, today),
                (False, owner.budget.total_micros, ever),
            ):
                if limit is None:
                    continue
                column = f"{kind}_id"
                spent = sum(
                    row["spend_micros"] for row in sum_results(session, [column], {column: [owner.id]}, days, 1)
                )
                amounts = {"limit_micros": limit, "spent_micros": spent, "left_micros": limit - spent}
                found.append(BudgetReport(budget_of=kind, daily=daily, **amounts))
        return found

    def supply(self, requests: Iterable[SampledRequest], explainer: Explainer, platform: Platform) -> SupplyReport:
        """Run the funnel of this line item alone on requests that the bidder kept, as far as impressions are enough."""
        snapshot = build(unbound(self._chain), "", self._now_ms)
        controls = align(None, snapshot.line_item_ids)
        lost: Counter[Exclusion | None] = Counter()
        floors: list[Micros] = []
        times = []
        for request in requests:
            if lost.total() >= IMPRESSIONS_ENOUGH:
                break
            try:
                profile = explainer.profile(request.exchange)
                found, _ = offered(request.body, profile, platform, request.at_ms)
            except InputError:  # an exchange that is gone, or a request that another version took
                continue
            times.append(request.at_ms)
            for opportunity in [one for one in found if not one.test]:
                told = explain(snapshot, opportunity, None, controls, request.at_ms, seat=profile.seat)
                why = told.verdicts[self._line_item.id].exclusion
                lost[why] += 1
                if why is None:
                    floors.append(opportunity.floor_micros_cpm)
        return SupplyReport(
            since_ms=min(times, default=None),
            requests=len(times),
            impressions=lost.total(),
            eligible=len(floors),
            floor_micros_cpm=median_low(floors) if floors else None,
            excluded=[
                Excluded(label=why.value, sentence=why.sentence, impressions=count)
                for why, count in lost.most_common()
                if why is not None
            ],
        )

    def _inactive(self) -> Iterator[Reason]:
        """Yield what must be activated first."""
        for kind, one in zip(_LEVELS, (self._line_item, self._campaign, self._advertiser), strict=True):
            if one.status is not Status.ACTIVE:
                sentence = f"The {kind.words} {one.id} is {_STATUSES[one.status]}."
                yield Reason(label=Exclusion.INACTIVE.value, sentence=sentence)
        if not any(one.status is Status.ACTIVE for one in self._chain.creatives):
            yield NO_CREATIVE

    def _resting(self) -> Iterator[Reason]:
        """Yield why it does not bid at this hour, or at any."""
        snapshot = build(self._chain, "", self._now_ms)
        if not snapshot.line_items:
            yield UNUSABLE
            return
        calendar = snapshot.index.calendar
        if not bitmap.positions(calendar.in_flight(self._now_ms)).size:
            yield reason(Exclusion.OUT_OF_FLIGHT.value)
        if not bitmap.positions(calendar.in_daypart(self._now_ms)).size:
            yield reason(Exclusion.DAYPART.value)
        if not snapshot.target_micros.any():  # a return on conversions that are worth nothing
            yield UNVALUED


def _spent(budget: BudgetReport) -> Reason:
    which = f"The {budget.budget_of.words}'s {'budget of the day' if budget.daily else 'total budget'}"
    return Reason(label=Exclusion.BUDGET.value, sentence=f"{which} has no room for another impression.")
