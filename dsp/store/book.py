"""The book: what was billed, by double entry. It is the truth about money; leases and reports follow it."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Executable, Table, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dsp.events.schema import BidCount, NoticeKind
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.kernel.money import Micros
from dsp.ledger.book import Entry, Release, Response, Transaction
from dsp.ledger.terms import LateClaim, late_lease_id
from dsp.store import book_statements as statements
from dsp.store import senders
from dsp.store.book_tables import BookDayRow, BookLeaseRow, BookTransactionRow
from dsp.store.rows import pieces

_LEASES_AT_ONCE = 5_000


class Applied(NamedTuple):
    """What became of a batch: how many entries were new, and what the leases they name bear now in all."""

    charged: int
    late: int  # entered, and owed: not charged to the budgets, or not in full
    duplicate: int
    charged_micros: Micros
    late_micros: Micros
    leases: dict[str, Micros]
    responses: int = 0
    late_charged: int = 0  # of `charged`, those that came late
    late_charged_micros: Micros = 0
    claims: Sequence[LateClaim] = ()  # what is entered as owed because there was no `room` for it


class DayResult(NamedTuple):
    """What one line item spent on bids of one day of its advertiser's, and what it got for that.

    Impressions are those billed, charged or owed; `value_micros` is what they were expected to be worth when bid on,
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
    bids: int = 0


class BookRepository:
    """Reads and writes the book within the caller's session; the caller commits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(
        self,
        entries: Sequence[Entry],
        position: Mapping[int, int],
        watermark_ms: int = 0,
        before: Mapping[int, int] | None = None,
        room: Mapping[str, Micros] | None = None,
        log: str = "",
    ) -> Applied:
        """Enter what is new of `entries`, in their order, and the ledger's position, in the session's transaction.

        Entering anything twice is harmless: of notices that bill the same bid or the same impression the first
        counts. A bid released before it was billed is entered as late, until `watermark_ms` has passed its end. Late
        wins are charged to the ledger's own leases as far as these were granted money, and are owed otherwise.

        Args:
            position: where the ledger is to go on in the topic of notices, by partition.
            before: where it was to go on until now, by partition; one that it has not begun is absent. None: anywhere.
            room: what the ledger's own leases were granted in all, by lease id.
            log: the event log that the position is of.

        Raises:
            ConflictError: somebody else has moved the position from `before`; nothing of the batch may be committed,
                and it must be read again from where the position is now.
            UnavailableError: the database is away, or another ledger has just entered some of the same; nothing of the
                batch may be committed then, and trying it again helps.
        """
        try:
            # First, as it locks: of two that have read the same one waits here, and then learns that it was second.
            self._move(position, before, log)
            return self._apply(entries, watermark_ms, room or {})
        except IntegrityError as fault:
            raise UnavailableError(f"another ledger enters the same: {fault.orig}") from fault

    def _apply(
        self,
        entries: Sequence[Entry],
        watermark_ms: int,
        room: Mapping[str, Micros],
    ) -> Applied:
        releases = {one.bid_id: one.closes_ms for one in entries if isinstance(one, Release)}
        wanted = dict.fromkeys([*releases, *(one.bid_id for one in entries if isinstance(one, Transaction))])
        released = {bid_id for (bid_id,) in self._look_up(statements.RELEASED, wanted)}
        candidates = [one for one in entries if isinstance(one, Transaction)]
        new = self._select_new(entries, candidates, released)
        paid, claims = self._cover_late(new, room)
        new = [paid.get(one.bid_id, one) for one in new]
        responses = self._select_responses(entries)
        self._insert(new, responses)
        leases = self._add_sums(candidates, new, [*responses, *senders.unheard(self._session, entries)], room)
        self._save_releases(
            {bid_id: at_ms for bid_id, at_ms in releases.items() if bid_id not in released}, watermark_ms
        )
        return Applied(
            charged=sum(one.late_micros == 0 for one in new),
            late=sum(one.late_micros > 0 for one in new),
            duplicate=len(candidates) - len(new),
            charged_micros=sum(one.charged_micros for one in new),
            late_micros=sum(one.late_micros for one in new),
            leases=leases,
            responses=len(responses),
            late_charged=sum(one.late_micros == 0 for one in paid.values()),
            late_charged_micros=sum(one.charged_micros for one in paid.values()),
            claims=claims,
        )

    def position(self, log: str | None = None) -> dict[int, int]:
        """Return where the ledger is to go on; empty when it has not begun, or is of another log than `log`."""
        if log is not None and self.log() not in ("", log):
            return {}
        return {row.partition: row.next_offset for row in self._session.execute(statements.PLACES)}

    def log(self) -> str:
        """Return the event log that the ledger's positions are of; empty where none, or nobody wrote it down."""
        return self._session.scalar(statements.LOG) or ""

    def leave(self) -> None:
        """Forget the ledger's positions: it begins with the oldest record there is."""
        self._session.execute(statements.LEAVE)

    def watermarks(self) -> dict[int, int]:
        """Return by partition how far what the ledger did is known to all: see `tell`."""
        return {row.partition: row.watermark_ms for row in self._session.execute(statements.PLACES)}

    def tell(self, watermarks: Mapping[int, int]) -> None:
        """Record by partition the instant before which everything appended is both entered and told to the leases."""
        for partition, watermark_ms in watermarks.items():
            self._session.execute(statements.TELL, {"of_partition": partition, "watermark": watermark_ms})

    def days(self, day_min: int = 0) -> list[DayResult]:
        """Return spend and results by line item and day, from one day on, ordered by both."""
        return [DayResult(*row) for row in self._session.execute(statements.DAY_RESULTS, {"day_min": day_min})]

    def results_before(self, day: int) -> list[DayResult]:
        """Return what line items spent and got on all days before one, as if that had been on the day before it."""
        return [DayResult(*row) for row in self._session.execute(statements.RESULTS_BEFORE, {"day": day})]

    def spent_by_lease(self, after: str = "") -> dict[str, Micros]:
        """Return what was charged to some thousand leases whose ids follow on `after`, in the order of their ids.

        There may be more than memory holds: some for every process, line item and day there ever was.
        """
        row = BookLeaseRow
        query = select(row.lease_id, row.micros).where(row.lease_id > after).order_by(row.lease_id)
        return {found.lease_id: found.micros for found in self._session.execute(query.limit(_LEASES_AT_ONCE))}

    def spent_on(self, leases: Iterable[str]) -> dict[str, Micros]:
        """Return what was charged to these leases, without those that nothing was."""
        return dict(self._look_up(statements.LEASES_KNOWN, leases))

    def campaigns(self) -> dict[int, int]:
        """Return the campaign of every line item that anything was entered for; none ever moves to another."""
        rows = self._session.execute(select(BookDayRow.line_item_id, BookDayRow.campaign_id).distinct())
        return {row.line_item_id: row.campaign_id for row in rows}

    def transactions(self) -> int:
        """Return how many transactions the book holds."""
        return self._session.execute(select(func.count()).select_from(BookTransactionRow)).scalar_one()

    def imbalance(self) -> Micros:
        """Return the sum of all postings, plus what the kept sums differ from theirs; anything but 0 is a fault."""
        total, spent, late = self._session.execute(statements.POSTED).one()
        spent_kept, late_kept = self._session.execute(statements.KEPT).one()
        return abs(int(total)) + abs(int(spent - spent_kept)) + abs(int(late - late_kept))

    def _select_new(
        self,
        entries: Sequence[Entry],
        candidates: Sequence[Transaction],
        released: set[str],
    ) -> list[Transaction]:
        """Return the transactions among `entries` that the book does not have, as they are to be entered.

        `released` are the bids among them that the book knows to be lost.
        """
        bid_ids = [one.bid_id for one in candidates]
        seen: set[Any] = {bid_id for (bid_id,) in self._look_up(statements.BIDS_ENTERED, bid_ids)}
        seen |= self._look_up(statements.IMPRESSIONS_ENTERED, [one.key for one in candidates])
        lost = set(released)
        new: list[Transaction] = []
        for one in entries:
            if isinstance(one, Release):
                lost.add(one.bid_id)
            elif isinstance(one, Transaction) and one.bid_id not in seen and one.key not in seen:
                seen.update((one.bid_id, one.key))
                new.append(one.uncovered() if one.bid_id in lost else one)
        return new

    def _cover_late(
        self, new: Sequence[Transaction], room: Mapping[str, Micros]
    ) -> tuple[dict[str, Transaction], list[LateClaim]]:
        """Return the late wins that the ledger's own leases pay for, by bid, and the claims of those they do not."""
        late = [one for one in new if one.claim_micros]
        if not late:
            return {}, []
        leases = {late_lease_id(one.line_item_id, one.day) for one in late}
        charged: dict[str, Micros] = self.spent_on(leases)
        paid: dict[str, Transaction] = {}
        owed: dict[str, LateClaim] = {}
        for one in late:
            lease_id = late_lease_id(one.line_item_id, one.day)
            before = charged.get(lease_id, 0)
            if before + one.claim_micros <= room.get(lease_id, 0):
                charged[lease_id] = before + one.claim_micros
                paid[one.bid_id] = one.covered_late()
                continue
            claim = owed.get(lease_id) or LateClaim(one.line_item_id, one.campaign_id, one.day, before, 0, ())
            owed[lease_id] = claim._replace(
                appended_ms=max(claim.appended_ms, one.appended_ms), amounts=(*claim.amounts, one.claim_micros)
            )
        return paid, list(owed.values())

    def _look_up(self, query: Executable, wanted: Iterable[Any]) -> set[tuple[Any, ...]]:
        """Return the rows that a query finds for the values wanted."""
        found: set[tuple[Any, ...]] = set()
        for some in pieces([*wanted]):
            found.update(tuple(row) for row in self._session.execute(query, {"wanted": some}))
        return found

    def _select_responses(self, entries: Sequence[Entry]) -> list[Response]:
        """Return the clicks and conversions that were never counted."""
        candidates = {one.key: one for one in reversed(entries) if isinstance(one, Response)}
        seen = self._look_up(statements.RESPONSES_COUNTED, candidates)
        return [one for key, one in candidates.items() if key not in seen]

    def _insert(self, new: Sequence[Transaction], responses: Sequence[Response]) -> None:
        self._write(statements.INSERT_RESPONSES, _values(statements.RESPONSES, responses))
        self._write(statements.INSERT_TRANSACTIONS, _values(statements.TRANSACTIONS, new))
        lines = [
            {"bid_id": one.bid_id, "account": account, "micros": micros}
            for one in new
            for account, micros in one.postings
        ]
        self._write(statements.INSERT_POSTINGS, lines)

    def _add_sums(
        self,
        candidates: Iterable[Transaction],
        new: Sequence[Transaction],
        others: Sequence[Response | BidCount],
        room: Mapping[str, Micros],
    ) -> dict[str, Micros]:
        """Add what is new to the sums of its days and leases; return the sums of all leases that the batch names.

        Those of duplicates are among them: the caller may not have learned that an earlier attempt was committed.
        """
        leases: dict[str, Micros] = {}
        for one in new:
            if one.lease_id and one.charged_micros:
                leases[one.lease_id] = leases.get(one.lease_id, 0) + one.charged_micros
        # In the order of their keys: two ledgers that add to the same rows must not wait for each other.
        self._write(statements.ADD_TO_DAYS, _sums(statements.DAYS, [*new, *others]))
        self._write(statements.ADD_TO_HOURS, _sums(statements.HOURS, [*new, *others]))
        rows = [{"lease_id": one, "micros": leases[one]} for one in sorted(leases)]
        self._write(statements.ADD_TO_LEASES, [row for row in rows if row["lease_id"] not in room])
        for row in rows:
            if row["lease_id"] in room:
                self._charge_late(row, room)
        return self.spent_on({one.lease_id for one in (*candidates, *new)})

    def _charge_late(self, row: dict[str, Any], room: Mapping[str, Micros]) -> None:
        """Add to one of the ledger's own leases. Another ledger may have charged it since its sum was looked up."""
        added: Any = self._session.execute(statements.ADD_TO_LATE_LEASE, row | {"granted": room[row["lease_id"]]})
        if not added.rowcount:
            raise UnavailableError(f"another ledger has charged late wins to {row['lease_id']}")

    def _write(self, statement: Executable, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._session.execute(statement, rows)

    def _save_releases(self, releases: Mapping[str, int], watermark_ms: int) -> None:
        """Keep the releases that the book does not have, until their bids close, and forget those that have closed."""
        rows = [{"bid_id": bid_id, "closes_ms": at_ms} for bid_id, at_ms in releases.items()]
        self._write(statements.INSERT_RELEASES, rows)
        self._session.execute(statements.FORGET_RELEASES, {"watermark_ms": watermark_ms})

    def _move(self, position: Mapping[int, int], before: Mapping[int, int] | None, log: str) -> None:
        known = self.position()
        for partition, offset in position.items():
            expected = known.get(partition) if before is None else before.get(partition)
            if expected is not None:
                place = {"of_partition": partition, "expected": expected, "next_offset": offset, "of_log": log}
                moved: Any = self._session.execute(statements.MOVE, place)
                if not moved.rowcount:
                    raise ConflictError(f"partition {partition} is no more at {expected}: another ledger has moved it")
            elif partition in known:
                raise ConflictError(f"partition {partition} was begun by another ledger")
            else:
                row = {"partition": partition, "next_offset": offset, "log": log}
                self._session.execute(statements.INSERT_POSITIONS, row)


def _sums(table: Table, entries: Iterable[Transaction | Response | BidCount]) -> list[dict[str, Any]]:
    """Return what the entries add to the rows of a table of sums, in the order of their keys."""
    keys = attrgetter(*table.primary_key.columns.keys())
    sums = dict.fromkeys((column.name for column in statements.SUMS), 0)
    names = [name for name in table.columns.keys() if name not in sums]  # noqa: SIM118 - of columns, not of a dict
    rows: dict[Any, dict[str, Any]] = {}
    for one in entries:
        row = rows.get(keys(one))
        if row is None:
            row = rows[keys(one)] = {name: getattr(one, name) for name in names} | sums
        if isinstance(one, Transaction):
            row["spend_micros"] += one.charged_micros
            row["late_micros"] += one.late_micros
            row["impressions"] += 1
            row["value_micros"] += one.value_micros
        elif isinstance(one, BidCount):
            row["bids"] += one.bids
        elif one.kind == NoticeKind.CLICK:
            row["clicks"] += 1
        else:
            row["conversions"] += 1
            row["conversion_value_micros"] += one.value_micros
    return [rows[key] for key in sorted(rows)]


def _values(table: Table, entries: Iterable[Transaction | Response]) -> list[dict[str, Any]]:
    names = table.columns.keys()
    return [{name: getattr(one, name) for name in names} for one in entries]
