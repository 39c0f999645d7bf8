"""The spend report: what it looks like, and how the book's days are summed."""

from collections.abc import Iterable
from datetime import date, timedelta
from enum import StrEnum

import msgspec

from dsp.kernel.money import Micros
from dsp.store.book import DayResult

EPOCH = date(1970, 1, 1)


class Dimension(StrEnum):
    """What rows are told apart by."""

    DATE = "date"
    ADVERTISER = "advertiser"
    CAMPAIGN = "campaign"
    LINE_ITEM = "line_item"


class SpendRow(msgspec.Struct, frozen=True, kw_only=True):
    """Spend of one combination of the dimensions asked for; the others are null.

    `late_micros` was billed after its reservation had expired: owed, but not charged to the budget.
    """

    date: str | None = None
    advertiser_id: int | None = None
    campaign_id: int | None = None
    line_item_id: int | None = None
    impressions: int = 0
    spend_micros: Micros = 0
    late_micros: Micros = 0


class SpendReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and their sum. Dates are days in the advertiser's time zone.

    `notices_pending` is how many notices the book has not read yet; null when that is not known.
    """

    currency: str
    as_of_ms: int
    notices_pending: int | None
    total: SpendRow
    rows: list[SpendRow]


def sum_spend(days: Iterable[DayResult], dimensions: tuple[Dimension, ...]) -> list[SpendRow]:
    """Return the days' spend summed over all but the dimensions, in order of these."""
    rows: dict[SpendRow, list[int]] = {}
    for day in days:
        key = SpendRow(
            date=(EPOCH + timedelta(days=day.day)).isoformat() if Dimension.DATE in dimensions else None,
            advertiser_id=day.advertiser_id if Dimension.ADVERTISER in dimensions else None,
            campaign_id=day.campaign_id if Dimension.CAMPAIGN in dimensions else None,
            line_item_id=day.line_item_id if Dimension.LINE_ITEM in dimensions else None,
        )
        sums = rows.setdefault(key, [0, 0, 0])
        for place, amount in enumerate((day.impressions, day.spend_micros, day.late_micros)):
            sums[place] += amount
    return [
        msgspec.structs.replace(key, impressions=impressions, spend_micros=spent, late_micros=late)
        for key, (impressions, spent, late) in rows.items()
    ]
