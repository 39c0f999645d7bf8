"""Spend and results summed by the database: the book's sums may be millions, of which a report shows a few."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Table, cast, func, literal, or_, select, tuple_, union_all
from sqlalchemy.orm import Session

from dsp.store.book_statements import DAYS, HOURS, SUMS

Days = tuple[int | None, int | None]
#: What only the sums of hours tell apart, with what stands for "not known".
UNKNOWN: Mapping[str, int | str] = {"creative_id": 0, "hour": 0, "exchange": ""}


def sum_results(
    session: Session, by: Sequence[str], owners: Mapping[str, Collection[int]], days: Days, rows_max: int
) -> list[dict[str, Any]]:
    """Return one row for each combination of the columns `by` of the book's sums, in their order, `rows_max` at most.

    By whatever columns, the rows of the same owners and days have the same sum, to the micro: what is in the sums of
    days and not in those of hours has `UNKNOWN` as creative, hour and exchange.

    Args:
        by: of `day`, `advertiser_id`, `campaign_id`, `line_item_id` and `UNKNOWN`, at least one.
        owners: ids by column, to sum only what belongs to one of them.
        days: the first and the last day, inclusive; None for no bound.
    """
    if UNKNOWN.keys().isdisjoint((*by, *owners)):
        parts = [_part(DAYS, by, owners, days)]
    elif UNKNOWN.keys().isdisjoint(owners):
        rest = [_part(DAYS, by, owners, days, known=False), _part(HOURS, by, owners, days, known=False, sign=-1)]
        parts = [_part(HOURS, by, owners, days), *rest]
    else:
        parts = [_part(HOURS, by, owners, days)]
    found = union_all(*parts).subquery()
    keys, sums = [found.c[name] for name in by], [func.sum(found.c[one.name]) for one in SUMS]
    query = select(*keys, *(cast(one, BigInteger).label(to.name) for one, to in zip(sums, SUMS, strict=True)))
    query = query.group_by(*keys).having(or_(*(one != 0 for one in sums))).order_by(*keys).limit(rows_max)
    return [row._asdict() for row in session.execute(query)]


def _part(
    table: Table,
    by: Sequence[str],
    owners: Mapping[str, Collection[int]],
    days: Days,
    *,
    known: bool = True,
    sign: int = 1,
) -> Select[Any]:
    keys = [table.c[name] if known or name not in UNKNOWN else literal(UNKNOWN[name]).label(name) for name in by]
    query = select(*keys, *((sign * table.c[one.name]).label(one.name) for one in SUMS))
    query = query.where(*_wanted(table, owners, days))
    of_days = {name: ids for name, ids in owners.items() if name not in UNKNOWN}
    if table is HOURS and of_days:
        # The hours' key begins with the day, and an index for each kind of owner would cost every batch of the ledger.
        # So the days, of which there is one for whatever hours there are, tell where an owner's hours are.
        place = select(DAYS.c.day, DAYS.c.line_item_id).where(*_wanted(DAYS, of_days, days))
        query = query.where(tuple_(HOURS.c.day, HOURS.c.line_item_id).in_(place))
    return query


def _wanted(table: Table, owners: Mapping[str, Collection[int]], days: Days) -> list[ColumnElement[bool]]:
    first, last = days
    wanted: list[ColumnElement[bool]] = [table.c[name].in_(ids) for name, ids in owners.items()]
    if first is not None:
        wanted.append(table.c.day >= first)
    if last is not None:
        wanted.append(table.c.day <= last)
    return wanted
