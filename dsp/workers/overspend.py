"""How far charges are beyond hard budgets. Leases make it 0 by construction; this looks at the book itself."""

from collections.abc import Iterable

from dsp.catalog.entities import Catalogue
from dsp.catalog.terms import Budget
from dsp.kernel.clock import knows_timezone
from dsp.kernel.money import Micros
from dsp.pacing.plan import day_number
from dsp.store.book import DayResult


def overspent_micros(catalogue: Catalogue, days: Iterable[DayResult], now_ms: int) -> Micros:
    """Return what is charged beyond total budgets, and beyond today's daily ones, of line items and campaigns.

    A budget lowered below what was spent already counts too: the book does not know what it was. Past days are left
    out for the same reason, and days in a time zone that nobody here knows. What is owed for late notices is charged to
    no budget.
    """
    of_line_items: dict[int, list[DayResult]] = {}
    of_campaigns: dict[int, list[DayResult]] = {}
    for day in days:
        of_line_items.setdefault(day.line_item_id, []).append(day)
        of_campaigns.setdefault(day.campaign_id, []).append(day)
    today = {one.id: day_number(now_ms, one.timezone) for one in catalogue.advertisers if knows_timezone(one.timezone)}
    over = 0
    campaigns = {campaign.id: campaign for campaign in catalogue.campaigns}
    for campaign in catalogue.campaigns:
        over += _over(campaign.budget, of_campaigns.get(campaign.id, ()), today.get(campaign.advertiser_id))
    for line_item in catalogue.line_items:
        owner = campaigns[line_item.campaign_id].advertiser_id
        over += _over(line_item.budget, of_line_items.get(line_item.id, ()), today.get(owner))
    return over


def _over(budget: Budget, days: Iterable[DayResult], today: int | None) -> Micros:
    spent, spent_today = 0, 0
    for day in days:
        spent += day.spend_micros
        spent_today += day.spend_micros if day.day == today else 0
    bounds = ((budget.total_micros, spent), (budget.daily_micros, spent_today))
    return max([0, *(charged - most for most, charged in bounds if most is not None)])
