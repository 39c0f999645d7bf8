"""The report of spend as CSV, for spreadsheets: named, and in units of the currency instead of micros."""

import csv
import io
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from dsp.api.spend import SpendDimension, SpendReport, SpendRow
from dsp.catalog.kinds import Kind
from dsp.kernel.money import decimal_from_micros

MEDIA_TYPE = "text/csv"
#: Dimensions whose rows have an entity's id, with its kind: a column for the name follows.
NAMED = {
    SpendDimension.ADVERTISER: Kind.ADVERTISER,
    SpendDimension.CAMPAIGN: Kind.CAMPAIGN,
    SpendDimension.LINE_ITEM: Kind.LINE_ITEM,
    SpendDimension.CREATIVE: Kind.CREATIVE,
}
_COUNTS = ("bids", "impressions", "clicks", "conversions")
_MICROS = tuple(name for name in SpendRow.__struct_fields__ if name.endswith("_micros"))
#: What a cell begins with that spreadsheets take for a formula: a name must not be one on a client's machine.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ReportFormat(StrEnum):
    """What a report is written as."""

    JSON = "json"
    CSV = "csv"


def to_csv(report: SpendReport, by: Sequence[SpendDimension], names: Mapping[Kind, Mapping[int, str]]) -> str:
    """Return a line for each row of the report after one of titles (RFC 4180); what is null is empty."""
    written = io.StringIO()
    lines = csv.writer(written)
    titles = [title for one in by for title in ((one.field, one.value) if one in NAMED else (one.field,))]
    lines.writerow([*titles, "currency", *_COUNTS, *(name.removesuffix("_micros") for name in _MICROS)])
    for row in report.rows:
        counts = [getattr(row, name) for name in _COUNTS]
        lines.writerow([*_keys(row, by, names), report.currency, *counts, *(_amount(row, name) for name in _MICROS)])
    return written.getvalue()


def _keys(row: SpendRow, by: Sequence[SpendDimension], names: Mapping[Kind, Mapping[int, str]]) -> list[Any]:
    keys: list[Any] = []
    for one in by:
        key = getattr(row, one.field)
        keys.append(key)
        if one in NAMED:
            name = names[NAMED[one]].get(key, "")
            keys.append(f"'{name}" if name.startswith(_FORMULA) else name)
    return keys


def _amount(row: SpendRow, name: str) -> str:
    amount = getattr(row, name)
    return "" if amount is None else decimal_from_micros(amount)
