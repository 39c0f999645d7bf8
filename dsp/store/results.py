"""Spend and results summed by the database: the book's days may be millions, of which a report shows a few sums."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import Session

from dsp.store.book_statements import DAYS, SUMS


def sum_days(
    session: Session,
    by: Sequence[str],
    owners: Mapping[str, Collection[int]],
    days: tuple[int | None, int | None],
    rows_max: int,
) -> list[dict[str, Any]]:
    """Return one row for each combination of the columns `by` of the book's days, in their order, `rows_max` at most.

    Args:
        by: of `day`, `advertiser_id`, `campaign_id` and `line_item_id`, at least one.
        owners: ids by column, to sum only what belongs to one of them.
        days: the first and the last day, inclusive; None for no bound.
    """
    keys = [DAYS.c[name] for name in by]
    query = select(*keys, *(cast(func.sum(one), BigInteger).label(one.name) for one in SUMS))
    for name, ids in owners.items():
        query = query.where(DAYS.c[name].in_(ids))
    first, last = days
    if first is not None:
        query = query.where(DAYS.c.day >= first)
    if last is not None:
        query = query.where(DAYS.c.day <= last)
    found = session.execute(query.group_by(*keys).order_by(*keys).limit(rows_max))
    return [row._asdict() for row in found]
