"""The report of spend and results: what it looks like, and how the book's days are summed."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from enum import StrEnum

import msgspec

from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT, Micros
from dsp.store.book import DayResult

EPOCH = date(1970, 1, 1)
#: What is summed under the name it has in the book.
_SUMS = ("impressions", "spend_micros", "late_micros", "clicks", "conversions", "conversion_value_micros")


class Dimension(StrEnum):
    """What rows are told apart by."""

    DATE = "date"
    ADVERTISER = "advertiser"
    CAMPAIGN = "campaign"
    LINE_ITEM = "line_item"


class SpendRow(msgspec.Struct, frozen=True, kw_only=True):
    """Spend of one combination of the dimensions asked for, and what came of it; the other dimensions are null.

    A click or conversion counts on the day of its bid, so that cost and results of a row belong to the same
    impressions. Averages are of `spend_micros`, what the budgets paid, and null where there is nothing to divide by.
    """

    date: str | None = None
    advertiser_id: int | None = None
    campaign_id: int | None = None
    line_item_id: int | None = None
    impressions: int = 0
    spend_micros: Micros = 0
    late_micros: Micros = 0
    clicks: int = 0
    conversions: int = 0
    conversion_value_micros: Micros = 0
    expected_value_micros: Micros = 0
    ecpm_micros: Micros | None = None
    cpc_micros: Micros | None = None
    cpa_micros: Micros | None = None
    roas_micros: Micros | None = None


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
    """Return the days' spend and results summed over all but the dimensions, in order of these."""
    groups: dict[SpendRow, list[DayResult]] = {}
    for day in days:
        key = SpendRow(
            date=(EPOCH + timedelta(days=day.day)).isoformat() if Dimension.DATE in dimensions else None,
            advertiser_id=day.advertiser_id if Dimension.ADVERTISER in dimensions else None,
            campaign_id=day.campaign_id if Dimension.CAMPAIGN in dimensions else None,
            line_item_id=day.line_item_id if Dimension.LINE_ITEM in dimensions else None,
        )
        groups.setdefault(key, []).append(day)
    return [_summed(key, group) for key, group in groups.items()]


def _summed(key: SpendRow, days: Sequence[DayResult]) -> SpendRow:
    row = msgspec.structs.replace(
        key,
        expected_value_micros=sum(day.value_micros for day in days),
        **{name: sum(getattr(day, name) for day in days) for name in _SUMS},
    )
    return msgspec.structs.replace(
        row,
        ecpm_micros=_per(row.spend_micros * IMPRESSIONS_PER_MILLE, row.impressions),
        cpc_micros=_per(row.spend_micros, row.clicks),
        cpa_micros=_per(row.spend_micros, row.conversions),
        roas_micros=_per(row.conversion_value_micros * MICROS_PER_UNIT, row.spend_micros),
    )


def _per(amount: int, count: int) -> int | None:
    return round(amount / count) if count else None
