"""The statements by which dsp.store.book enters a batch.

They are made once, and of tables instead of classes: with the small batches of a ledger that keeps up, making them anew
took longer than running them. What looks rows up takes the values as `wanted`.
"""

from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
    Table,
    TextClause,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy import cast as sql_cast

from dsp.events.topics import Topic
from dsp.store.book_tables import (
    BookDayRow,
    BookHourRow,
    BookLeaseRow,
    BookPositionRow,
    BookPostingRow,
    BookReleaseRow,
    BookResponseRow,
    BookSenderRow,
    BookTransactionRow,
    Sums,
)

TRANSACTIONS = cast(Table, BookTransactionRow.__table__)
POSTINGS = cast(Table, BookPostingRow.__table__)
RESPONSES = cast(Table, BookResponseRow.__table__)
DAYS = cast(Table, BookDayRow.__table__)
HOURS = cast(Table, BookHourRow.__table__)
LEASES = cast(Table, BookLeaseRow.__table__)
RELEASES = cast(Table, BookReleaseRow.__table__)
SENDERS = cast(Table, BookSenderRow.__table__)
POSITIONS = cast(Table, BookPositionRow.__table__)
#: The one consumer whose positions the book keeps, which reads the topic of notices.
GROUP = "ledger"


def _total(amounts: ColumnElement[int]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(amounts), 0)


def _posted(prefix: str) -> ColumnElement[Any]:
    return _total(case((POSTINGS.c.account.startswith(prefix), POSTINGS.c.micros), else_=0))


def _added(table: Table, sums: Iterable[ColumnElement[int]], condition: str = "") -> TextClause:
    """Return a statement that adds a row's sums to those of its key, which may not be there yet.

    SQLite and PostgreSQL write it alike, SQLAlchemy only for each apart. Two ledgers may run it at once.
    """
    names = [column.name for column in table.c]
    key = ", ".join(column.name for column in table.primary_key)
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in (one.key for one in sums))
    values = ", ".join(f":{name}" for name in names)
    # Every word of it is a name of ours.
    return text(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({values})"  # noqa: S608
        f" ON CONFLICT ({key}) DO UPDATE SET {added} {condition}"
    )


INSERT_TRANSACTIONS = insert(TRANSACTIONS)
INSERT_POSTINGS = insert(POSTINGS)
INSERT_RESPONSES = insert(RESPONSES)
INSERT_RELEASES = insert(RELEASES)
INSERT_POSITIONS = insert(POSITIONS).values(topic=Topic.NOTICES.value, consumer=GROUP, watermark_ms=0)

_WANTED: BindParameter[Any] = bindparam("wanted", expanding=True)
BIDS_ENTERED = select(TRANSACTIONS.c.bid_id).where(TRANSACTIONS.c.bid_id.in_(_WANTED))
_BILLED = (TRANSACTIONS.c.exchange, TRANSACTIONS.c.auction_id, TRANSACTIONS.c.imp_id, TRANSACTIONS.c.kind)
IMPRESSIONS_ENTERED = select(*_BILLED).where(tuple_(*_BILLED).in_(_WANTED))
_COUNTED = (RESPONSES.c.bid_id, RESPONSES.c.kind, RESPONSES.c.conversion_rule_id)
RESPONSES_COUNTED = select(*_COUNTED).where(tuple_(*_COUNTED).in_(_WANTED))
RELEASED = select(RELEASES.c.bid_id).where(RELEASES.c.bid_id.in_(_WANTED))
LEASES_KNOWN = select(LEASES.c.lease_id, LEASES.c.micros).where(LEASES.c.lease_id.in_(_WANTED))
SUMS = tuple(DAYS.c[name] for name in Sums.__annotations__)
_OWNERS = (DAYS.c.advertiser_id, DAYS.c.campaign_id, DAYS.c.line_item_id)
DAY_RESULTS = (
    select(*_OWNERS, DAYS.c.day, *SUMS)
    .where(DAYS.c.day >= bindparam("day_min", type_=Integer))
    .order_by(DAYS.c.line_item_id, DAYS.c.day)
)
#: One row a line item for all days before one, which stand under the day before it.
RESULTS_BEFORE = (
    select(*_OWNERS, bindparam("day", type_=Integer) - 1, *(sql_cast(func.sum(one), BigInteger) for one in SUMS))
    .where(DAYS.c.day < bindparam("day", type_=Integer))
    .group_by(*_OWNERS)
)
#: The sum of all postings, of those to accounts of spend, and of those to accounts of late wins: one scan.
POSTED = select(_total(POSTINGS.c.micros), _posted("spend:"), _posted("late:"))
KEPT = select(_total(DAYS.c.spend_micros), _total(DAYS.c.late_micros))
ADD_TO_DAYS = _added(DAYS, SUMS)
ADD_TO_HOURS = _added(HOURS, SUMS)
ADD_TO_LEASES = _added(LEASES, (LEASES.c.micros,))
#: Adds nothing where the sum would be more than the lease was granted.
ADD_TO_LATE_LEASE = _added(LEASES, (LEASES.c.micros,), "WHERE book_lease.micros + excluded.micros <= :granted")
SENDERS_HEARD = select(SENDERS.c.sender, SENDERS.c.number).where(SENDERS.c.sender.in_(_WANTED))
HEAR_SENDERS = text(
    "INSERT INTO book_sender (sender, number, at_ms) VALUES (:sender, :number, :at_ms)"
    " ON CONFLICT (sender) DO UPDATE SET number = excluded.number, at_ms = excluded.at_ms"
)
FORGET_SENDERS = delete(SENDERS).where(SENDERS.c.at_ms < bindparam("before_ms"))
FORGET_RELEASES = delete(RELEASES).where(RELEASES.c.closes_ms <= bindparam("watermark_ms"))
_OURS = (POSITIONS.c.topic == Topic.NOTICES.value, POSITIONS.c.consumer == GROUP)
_PLACE = (*_OURS, POSITIONS.c.partition == bindparam("of_partition"))
PLACES = select(POSITIONS.c.partition, POSITIONS.c.next_offset, POSITIONS.c.watermark_ms).where(*_OURS)
LOG = select(func.max(POSITIONS.c.log)).where(*_OURS)
LEAVE = delete(POSITIONS).where(*_OURS)
#: Moves nothing where the position is not the one expected.
MOVE = (
    update(POSITIONS)
    .where(*_PLACE, POSITIONS.c.next_offset == bindparam("expected"))
    .values(next_offset=bindparam("next_offset"), log=bindparam("of_log"))
)
TELL = (
    update(POSITIONS)
    .where(*_PLACE, POSITIONS.c.watermark_ms < bindparam("watermark"))
    .values(watermark_ms=bindparam("watermark"))
)
