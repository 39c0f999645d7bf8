"""The report of spend and results: what it looks like, and its averages."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Any

import msgspec

from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT, Micros
from dsp.store.results import UNKNOWN

EPOCH = date(1970, 1, 1)
_SECONDS_PER_HOUR = 3_600


class SpendDimension(StrEnum):
    """What rows are told apart by."""

    DATE = "date"
    ADVERTISER = "advertiser"
    CAMPAIGN = "campaign"
    LINE_ITEM = "line_item"
    CREATIVE = "creative"
    EXCHANGE = "exchange"
    HOUR = "hour"

    @property
    def field(self) -> str:
        """Return the field that a row has for it."""
        same = self in (SpendDimension.DATE, SpendDimension.EXCHANGE, SpendDimension.HOUR)
        return self.value if same else f"{self}_id"

    @property
    def column(self) -> str:
        """Return the name that the book has for it."""
        return "day" if self is SpendDimension.DATE else self.field


#: What rows are told apart by unless it is said.
DEFAULT_DIMENSIONS = (
    SpendDimension.DATE,
    SpendDimension.ADVERTISER,
    SpendDimension.CAMPAIGN,
    SpendDimension.LINE_ITEM,
)


class SpendRow(msgspec.Struct, frozen=True, kw_only=True):
    """Spend of one combination of the dimensions asked for, and what came of it; the other dimensions are null.

    A click or conversion counts in the hour and on the day of its bid, so that cost and results of a row belong to the
    same impressions. Averages are of `spend_micros`, what the budgets paid; null where there is nothing to divide by.

    `bids` are those sent, without tests, as bidders count them: statistics, not money. A bidder that is killed takes up
    to five seconds of them with it, and versions before this one counted none. `win_rate_micros` is `impressions`,
    which are those billed, per bid.
    """

    date: str | None = None
    advertiser_id: int | None = None
    campaign_id: int | None = None
    line_item_id: int | None = None
    creative_id: int | None = None
    exchange: str | None = None
    hour: str | None = None
    impressions: int = 0
    spend_micros: Micros = 0
    late_micros: Micros = 0
    clicks: int = 0
    conversions: int = 0
    conversion_value_micros: Micros = 0
    expected_value_micros: Micros = 0
    bids: int = 0
    win_rate_micros: int | None = None
    ctr_micros: int | None = None
    cvr_micros: int | None = None
    ecpm_micros: Micros | None = None
    cpc_micros: Micros | None = None
    cpa_micros: Micros | None = None
    roas_micros: Micros | None = None


#: What is added up: without rows it is 0, and an average null.
_SUMS = tuple(field.name for field in msgspec.structs.fields(SpendRow) if field.default == 0)


class SpendReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and their sum. Dates are days in the advertiser's time zone, hours are UTC.

    `notices_pending` is how many notices and counts of bids the book has not read yet; null when that is not known.
    """

    currency: str
    as_of_ms: int
    notices_pending: int | None
    total: SpendRow
    rows: list[SpendRow]


def spend_row(found: Mapping[str, Any]) -> SpendRow:
    """Return the row of what dsp.store.results.sum_results found."""
    fields: dict[str, Any] = {name: None if value == UNKNOWN.get(name) else value for name, value in found.items()}
    day, hour = fields.pop("day", None), fields.pop("hour", None)
    row = SpendRow(
        date=None if day is None else (EPOCH + timedelta(days=day)).isoformat(),
        hour=None if hour is None else f"{datetime.fromtimestamp(hour * _SECONDS_PER_HOUR, UTC):%Y-%m-%dT%H:%MZ}",
        expected_value_micros=fields.pop("value_micros"),
        **fields,
    )
    return _averaged(row)


def total(rows: Sequence[SpendRow]) -> SpendRow:
    """Return the sum of the rows."""
    return _averaged(SpendRow(**{name: sum(map(attrgetter(name), rows)) for name in _SUMS}))


def _averaged(row: SpendRow) -> SpendRow:
    return msgspec.structs.replace(
        row,
        win_rate_micros=_per(row.impressions * MICROS_PER_UNIT, row.bids),
        ctr_micros=_per(row.clicks * MICROS_PER_UNIT, row.impressions),
        cvr_micros=_per(row.conversions * MICROS_PER_UNIT, row.clicks),
        ecpm_micros=_per(row.spend_micros * IMPRESSIONS_PER_MILLE, row.impressions),
        cpc_micros=_per(row.spend_micros, row.clicks),
        cpa_micros=_per(row.spend_micros, row.conversions),
        roas_micros=_per(row.conversion_value_micros * MICROS_PER_UNIT, row.spend_micros),
    )


def _per(amount: int, count: int) -> int | None:
    return round(amount / count) if count else None
