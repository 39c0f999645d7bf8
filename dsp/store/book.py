"""The book: what was billed, by double entry. It is the truth about money; leases and reports follow it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import delete, func, insert, select, tuple_
from sqlalchemy.orm import Session

from dsp.events.schema import NoticeKind
from dsp.kernel.money import Micros
from dsp.ledger.book import Release, Response, Transaction
from dsp.store.book_tables import (
    BookDayRow,
    BookLeaseRow,
    BookPositionRow,
    BookPostingRow,
    BookReleaseRow,
    BookResponseRow,
    BookTransactionRow,
)
from dsp.store.tables import Base

#: Values looked up by one statement; databases bound the parameters of a statement.
_CHUNK = 500
_Row = TypeVar("_Row", bound=Base)


class Applied(NamedTuple):
    """What became of a batch: how many entries were new, and what the leases they touched bear now in all."""

    charged: int
    late: int  # entered, but not charged to the budgets, or not in full
    duplicate: int
    charged_micros: Micros
    late_micros: Micros
    leases: dict[str, Micros]
    responses: int = 0


class DayResult(NamedTuple):
    """What one line item spent on bids of one day of its advertiser's, and what it got for that.

    Impressions are those billed, charged or late; `value_micros` is what they were expected to be worth when bid on,
    in the terms of the goal: as long as it is not below the cost, the average cost per unit is at most the target.
    """

    advertiser_id: int
    campaign_id: int
    line_item_id: int
    day: int
    spend_micros: Micros
    late_micros: Micros
    impressions: int
    value_micros: Micros
    clicks: int
    conversions: int
    conversion_value_micros: Micros


class BookRepository:
    """Reads and writes the book within the caller's session; the caller commits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(
        self,
        entries: Sequence[Transaction | Release | Response],
        position: Mapping[int, int],
        topic: str,
        group: str,
        watermark_ms: int = 0,
    ) -> Applied:
        """Enter what is new of `entries`, in their order, and the consumer's position, in the session's transaction.

        Entering anything twice is harmless: of notices that bill the same bid or the same impression the first
        counts. A bid released before it was billed is entered as late.
        """
        new, duplicate = self._select_new(entries)
        responses = self._select_responses(entries)
        self._insert(new, responses)
        leases = self._add_sums(new, responses)
        self._save_releases([one for one in entries if isinstance(one, Release)], watermark_ms)
        self._save_position(position, topic, group)
        return Applied(
            charged=sum(one.late_micros == 0 for one in new),
            late=sum(one.late_micros > 0 for one in new),
            duplicate=duplicate,
            charged_micros=sum(one.charged_micros for one in new),
            late_micros=sum(one.late_micros for one in new),
            leases=leases,
            responses=len(responses),
        )

    def position(self, topic: str, group: str) -> dict[int, int]:
        """Return where the consumer is to go on; empty when it has not begun."""
        rows = self._session.execute(
            select(BookPositionRow.partition, BookPositionRow.next_offset).where(
                BookPositionRow.topic == topic, BookPositionRow.consumer == group
            )
        )
        return {row.partition: row.next_offset for row in rows}

    def days(
        self,
        *,
        line_item_ids: Iterable[int] | None = None,
        campaign_ids: Iterable[int] | None = None,
        day_min: int | None = None,
        day_max: int | None = None,
    ) -> list[DayResult]:
        """Return spend and results by line item and day, ordered by both; the bounds are inclusive."""
        query = select(
            BookDayRow.advertiser_id,
            BookDayRow.campaign_id,
            BookDayRow.line_item_id,
            BookDayRow.day,
            BookDayRow.spend_micros,
            BookDayRow.late_micros,
            BookDayRow.impressions,
            BookDayRow.value_micros,
            BookDayRow.clicks,
            BookDayRow.conversions,
            BookDayRow.conversion_value_micros,
        ).order_by(BookDayRow.line_item_id, BookDayRow.day)
        if line_item_ids is not None:
            query = query.where(BookDayRow.line_item_id.in_(list(line_item_ids)))
        if campaign_ids is not None:
            query = query.where(BookDayRow.campaign_id.in_(list(campaign_ids)))
        if day_min is not None:
            query = query.where(BookDayRow.day >= day_min)
        if day_max is not None:
            query = query.where(BookDayRow.day <= day_max)
        return [DayResult(*row) for row in self._session.execute(query)]

    def spent_by_lease(self) -> dict[str, Micros]:
        """Return what was charged to every lease there ever was."""
        rows = self._session.execute(select(BookLeaseRow.lease_id, BookLeaseRow.micros))
        return {row.lease_id: row.micros for row in rows}

    def transactions(self) -> int:
        """Return how many transactions the book holds."""
        return self._session.execute(select(func.count()).select_from(BookTransactionRow)).scalar_one()

    def imbalance(self) -> Micros:
        """Return the sum of all postings, plus what the kept sums differ from theirs; anything but 0 is a fault."""
        total = self._session.execute(select(func.coalesce(func.sum(BookPostingRow.micros), 0))).scalar_one()
        spent = self._posted("spend:") - self._sum(BookDayRow.spend_micros)
        late = self._posted("late:") - self._sum(BookDayRow.late_micros)
        return abs(int(total)) + abs(spent) + abs(late)

    def _posted(self, prefix: str) -> Micros:
        query = select(func.coalesce(func.sum(BookPostingRow.micros), 0)).where(
            BookPostingRow.account.startswith(prefix)
        )
        return int(self._session.execute(query).scalar_one())

    def _sum(self, column: Any) -> Micros:
        return int(self._session.execute(select(func.coalesce(func.sum(column), 0))).scalar_one())

    def _select_new(self, entries: Sequence[Transaction | Release | Response]) -> tuple[list[Transaction], int]:
        """Return the transactions to enter, as they are to be entered, and how many were entered before."""
        candidates = [one for one in entries if isinstance(one, Transaction)]
        bid_ids = [one.bid_id for one in candidates]
        seen: set[Any] = self._found(BookTransactionRow.bid_id, bid_ids)
        row = BookTransactionRow
        seen |= self._found_keys((row.exchange, row.auction_id, row.imp_id, row.kind), [one.key for one in candidates])
        released: set[Any] = self._found(BookReleaseRow.bid_id, bid_ids)
        new: list[Transaction] = []
        for one in entries:
            if isinstance(one, Release):
                released.add(one.bid_id)
            elif isinstance(one, Transaction) and one.bid_id not in seen and one.key not in seen:
                seen.update((one.bid_id, one.key))
                new.append(one.uncovered() if one.bid_id in released else one)
        return new, len(candidates) - len(new)

    def _found(self, column: Any, values: Iterable[str]) -> set[Any]:
        found: set[Any] = set()
        for chunk in _chunks(values):
            found.update(self._session.execute(select(column).where(column.in_(chunk))).scalars())
        return found

    def _found_keys(self, columns: tuple[Any, ...], keys: Iterable[tuple[Any, ...]]) -> set[Any]:
        found: set[Any] = set()
        for chunk in _chunks(keys):
            rows = self._session.execute(select(*columns).where(tuple_(*columns).in_(chunk)))
            found.update(tuple(one) for one in rows)
        return found

    def _select_responses(self, entries: Sequence[Transaction | Release | Response]) -> list[Response]:
        """Return the clicks and conversions that were never counted."""
        candidates = {one.key: one for one in reversed(entries) if isinstance(one, Response)}
        row = BookResponseRow
        seen = self._found_keys((row.bid_id, row.kind, row.conversion_rule_id), candidates)
        return [one for key, one in candidates.items() if key not in seen]

    def _insert(self, new: Sequence[Transaction], responses: Sequence[Response]) -> None:
        if responses:
            self._session.execute(insert(BookResponseRow), _values(BookResponseRow, responses))
        if not new:
            return
        self._session.execute(insert(BookTransactionRow), _values(BookTransactionRow, new))
        lines = [
            {"bid_id": one.bid_id, "account": account, "micros": micros}
            for one in new
            for account, micros in one.postings
        ]
        self._session.execute(insert(BookPostingRow), lines)

    def _add_sums(self, new: Sequence[Transaction], responses: Sequence[Response]) -> dict[str, Micros]:
        days: dict[tuple[int, int], list[Transaction | Response]] = {}
        leases: dict[str, Micros] = {}
        every: list[Transaction | Response] = [*new, *responses]
        for entered in every:
            days.setdefault((entered.line_item_id, entered.day), []).append(entered)
        for one in new:
            if one.lease_id and one.charged_micros:
                leases[one.lease_id] = leases.get(one.lease_id, 0) + one.charged_micros
        key = tuple_(BookDayRow.line_item_id, BookDayRow.day)
        known = {(row.line_item_id, row.day): row for row in self._locked(BookDayRow, key, days)}
        for place, group in days.items():
            self._add_day(known.get(place), place, group)
        return self._add_leases(leases)

    def _locked(self, table: type[_Row], key: Any, values: Iterable[Any]) -> Iterator[_Row]:
        """Read the rows of these keys as they are now, and keep others from changing them."""
        for chunk in _chunks(values):
            query = select(table).where(key.in_(chunk)).with_for_update().execution_options(populate_existing=True)
            yield from self._session.scalars(query)

    def _add_day(self, row: BookDayRow | None, key: tuple[int, int], group: Sequence[Transaction | Response]) -> None:
        if row is None:
            row = BookDayRow(
                line_item_id=key[0],
                day=key[1],
                campaign_id=group[0].campaign_id,
                advertiser_id=group[0].advertiser_id,
                spend_micros=0,
                late_micros=0,
                impressions=0,
                value_micros=0,
                clicks=0,
                conversions=0,
                conversion_value_micros=0,
            )
            self._session.add(row)
        for one in group:
            if isinstance(one, Transaction):
                row.spend_micros += one.charged_micros
                row.late_micros += one.late_micros
                row.impressions += 1
                row.value_micros += one.value_micros
            elif one.kind == NoticeKind.CLICK:
                row.clicks += 1
            else:
                row.conversions += 1
                row.conversion_value_micros += one.value_micros

    def _add_leases(self, leases: Mapping[str, Micros]) -> dict[str, Micros]:
        known = {row.lease_id: row for row in self._locked(BookLeaseRow, BookLeaseRow.lease_id, leases)}
        for lease_id in leases.keys() - known.keys():
            known[lease_id] = BookLeaseRow(lease_id=lease_id, micros=0)
            self._session.add(known[lease_id])
        for lease_id, micros in leases.items():
            known[lease_id].micros += micros
        return {lease_id: known[lease_id].micros for lease_id in leases}

    def _save_releases(self, releases: Sequence[Release], watermark_ms: int) -> None:
        wanted = {one.bid_id: one.closes_ms for one in releases if one.closes_ms > watermark_ms}
        known = self._found(BookReleaseRow.bid_id, wanted)
        rows = [{"bid_id": bid_id, "closes_ms": at_ms} for bid_id, at_ms in wanted.items() if bid_id not in known]
        if rows:
            self._session.execute(insert(BookReleaseRow), rows)
        self._session.execute(delete(BookReleaseRow).where(BookReleaseRow.closes_ms <= watermark_ms))

    def _save_position(self, position: Mapping[int, int], topic: str, group: str) -> None:
        for partition, offset in position.items():
            key = (topic, group, partition)
            row = self._session.get(BookPositionRow, key)
            if row is None:
                self._session.add(BookPositionRow(topic=topic, consumer=group, partition=partition, next_offset=offset))
            else:
                row.next_offset = offset


def _values(table: type[Base], entries: Iterable[Transaction | Response]) -> list[dict[str, Any]]:
    names = table.__table__.columns.keys()
    return [{name: getattr(one, name) for name in names} for one in entries]


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    values = iter(values)
    while chunk := list(islice(values, _CHUNK)):
        yield chunk
