"""The report of spend and results: what it looks like, and its averages."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT, Micros

EPOCH = date(1970, 1, 1)
_SUMS = (
    "impressions",
    "spend_micros",
    "late_micros",
    "clicks",
    "conversions",
    "conversion_value_micros",
    "expected_value_micros",
)


class SpendDimension(StrEnum):
    """What rows are told apart by."""

    DATE = "date"
    ADVERTISER = "advertiser"
    CAMPAIGN = "campaign"
    LINE_ITEM = "line_item"

    @property
    def column(self) -> str:
        """Return the name that the book has for it."""
        return "day" if self is SpendDimension.DATE else f"{self}_id"


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


def spend_row(found: Mapping[str, Any]) -> SpendRow:
    """Return the row of what dsp.store.results.sum_days found."""
    day, expected = found.get("day"), found["value_micros"]
    row = SpendRow(
        date=None if day is None else (EPOCH + timedelta(days=day)).isoformat(),
        expected_value_micros=expected,
        **{name: value for name, value in found.items() if name not in ("day", "value_micros")},
    )
    return _averaged(row)


def total(rows: Iterable[SpendRow]) -> SpendRow:
    """Return the sum of the rows."""
    sums = dict.fromkeys(_SUMS, 0)
    for row in rows:
        for name in _SUMS:
            sums[name] += getattr(row, name)
    return _averaged(msgspec.structs.replace(SpendRow(), **sums))


def _averaged(row: SpendRow) -> SpendRow:
    return msgspec.structs.replace(
        row,
        ecpm_micros=_per(row.spend_micros * IMPRESSIONS_PER_MILLE, row.impressions),
        cpc_micros=_per(row.spend_micros, row.clicks),
        cpa_micros=_per(row.spend_micros, row.conversions),
        roas_micros=_per(row.conversion_value_micros * MICROS_PER_UNIT, row.spend_micros),
    )


def _per(amount: int, count: int) -> int | None:
    return round(amount / count) if count else None
