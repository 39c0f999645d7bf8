"""The book in SQL: each billed impression once, sums that agree with the postings, positions saved with them."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, Update, event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dsp.events.schema import BidsSent, Notice, NoticeKind
from dsp.kernel.errors import UnavailableError
from dsp.ledger.apply import entry
from dsp.ledger.book import Transaction
from dsp.ledger.terms import LateClaim, closes_ms
from dsp.store.book import Applied, BookRepository, DayResult
from dsp.store.book_tables import BookDayRow, BookPostingRow, BookReleaseRow, BookSenderRow, BookTransactionRow
from dsp.store.database import session_factory
from dsp.store.results import sum_results
from tests.notices import FACTS, bids_sent, notice

LOSS = NoticeKind.LOSS
LATE_LEASE = "0-3-20000"


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with session_factory(engine)() as session:
        yield session


def apply(
    session: Session,
    *notices: Notice | BidsSent,
    watermark_ms: int = 0,
    offset: int = 1,
    room: dict[str, int] | None = None,
) -> Applied:
    entries = [found for one in notices if (found := entry(one, 6_000)) is not None]
    return BookRepository(session).apply(entries, {0: offset}, watermark_ms, room=room)


def test_sums_follow_the_postings(session: Session) -> None:
    applied = apply(session, notice(1), notice(2, cost_micros=50, day=20_001), notice(3, cost_micros=30, late=True))
    book = BookRepository(session)
    claim = LateClaim(3, 2, 20_000, 0, 6_000, (30,))
    assert applied == Applied(2, 1, 0, 130, 30, {FACTS.lease_id: 130}, claims=[claim])
    assert book.days() == [
        DayResult(1, 2, 3, 20_000, 80, 30, 2, 14, 0, 0, 0),
        DayResult(1, 2, 3, 20_001, 50, 0, 1, 7, 0, 0, 0),
    ]
    assert book.spent_by_lease() == {FACTS.lease_id: 130}
    assert (book.transactions(), book.imbalance()) == (3, 0)


def test_clicks_and_conversions_count_once_on_the_day_of_their_bid(session: Session) -> None:
    click, conversion = notice(1, NoticeKind.CLICK, 0), notice(1, NoticeKind.CONVERSION, 0)
    bought = msgspec.structs.replace(conversion, conversion_rule_id=7, value_micros=900)
    first = apply(session, click, bought, click, bought, notice(1))
    again = apply(session, notice(1), bought, conversion, click)
    assert (first.responses, again.responses) == (2, 1)  # a conversion under no rule is another
    assert BookRepository(session).days() == [DayResult(1, 2, 3, 20_000, 80, 0, 1, 7, 1, 2, 900)]


def test_bids_are_sums_beside_the_impressions_and_no_money(session: Session) -> None:
    applied = apply(session, bids_sent(1, 5), notice(1), bids_sent(1, 2, "other"), bids_sent(2, 3, creative_id=9))
    book = BookRepository(session)
    assert book.days() == [DayResult(1, 2, 3, 20_000, 80, 0, 1, 7, 0, 0, 0, bids=10)]
    assert (applied.charged, applied.duplicate, applied.responses, book.imbalance()) == (1, 0, 0, 0)
    for by, found in (
        (["day"], [(20_000, 10, 1)]),
        (["creative_id"], [(FACTS.creative_id, 7, 1), (9, 3, 0)]),
        (["hour", "exchange"], [(0, FACTS.exchange, 10, 1)]),
    ):
        rows = sum_results(session, by, {}, (None, None), 9)
        assert [tuple(row[name] for name in (*by, "bids", "impressions")) for row in rows] == found


@pytest.mark.parametrize("owner", ["advertiser_id", "campaign_id", "line_item_id"])
def test_a_report_on_an_owner_reads_no_other_owners_rows(session: Session, owner: str) -> None:
    """A large account has millions of both, and a client's every report is on its advertiser alone."""
    others: dict[str, Any] = {"advertiser_id": 11, "campaign_id": 12, "line_item_id": 13}
    apply(session, notice(1), notice(2, day=20_001), notice(3, **others))
    told: list[tuple[str, Any]] = []
    event.listen(
        session.connection(), "before_cursor_execute", lambda _c, _k, text, values, *_: told.append((text, values))
    )
    own = {"advertiser_id": 1, "campaign_id": 2, "line_item_id": 3}[owner]
    for by in (["day"], ["hour"], ["creative_id", "exchange"]):
        for days in ((None, None), (20_000, 20_001)):
            rows = sum_results(session, by, {owner: [own]}, days, 9)
            assert sum(row["impressions"] for row in rows) == 2
    if session.connection().dialect.name != "sqlite":  # PostgreSQL reads tables as small as these whole
        return
    for text, values in told.copy():  # what explains is told as well
        plan = [row.detail for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
        assert not [step for step in plan if step.startswith("SCAN book_")]


def test_counts_of_bids_that_come_again_count_once(session: Session) -> None:
    apply(session, bids_sent(1, 5), bids_sent(2, 10), bids_sent(1, 5), bids_sent(2, 10))
    apply(session, bids_sent(2, 10), bids_sent(3, 100), bids_sent(1, 5, "other"), offset=2)
    apply(session, bids_sent(1, 5), offset=3)
    assert [day.bids for day in BookRepository(session).days()] == [120]


def test_a_sender_long_silent_is_forgotten(session: Session) -> None:
    day_ms = 86_400_000
    apply(session, bids_sent(1, 5, "old", at_ms=day_ms), bids_sent(1, 5, "quiet", at_ms=20 * day_ms))
    apply(session, bids_sent(1, 5, "new", at_ms=40 * day_ms), offset=2)
    assert set(session.scalars(select(BookSenderRow.sender))) == {"quiet", "new"}


def test_a_click_of_another_bid_is_another_click(session: Session) -> None:
    apply(session, *(notice(number, NoticeKind.CLICK, 0, day=20_000 + number % 2) for number in range(1_201)))
    counts = [(day.day, day.clicks, day.impressions) for day in BookRepository(session).days()]
    assert counts == [(20_000, 601, 0), (20_001, 600, 0)]


def test_what_a_rolled_back_batch_counted_counts_when_it_is_read_again(engine: Engine) -> None:
    sessions = session_factory(engine)
    with sessions() as session:
        apply(session, notice(1, NoticeKind.CLICK, 0))
        session.rollback()
    with sessions.begin() as session:
        assert apply(session, notice(1, NoticeKind.CLICK, 0)).responses == 1


def test_days_begin_with_the_one_asked_for(session: Session) -> None:
    apply(session, *(notice(number, line_item_id=number, day=number) for number in range(1, 5)))
    book = BookRepository(session)
    assert [[one.line_item_id for one in book.days(day)] for day in (0, 3, 5)] == [[1, 2, 3, 4], [3, 4], []]


def test_days_before_one_are_summed_by_line_item(session: Session) -> None:
    of_three = [notice(number, day=20_000 + number) for number in range(1, 4)]
    apply(session, *of_three, notice(4, line_item_id=9, day=20_001), notice(5, cost_micros=30, day=20_001, late=True))
    book = BookRepository(session)
    by_line_item = sorted(book.results_before(20_003), key=lambda one: one.line_item_id)
    assert by_line_item == [
        DayResult(1, 2, 3, 20_002, 160, 30, 3, 21, 0, 0, 0),
        DayResult(1, 2, 9, 20_002, 80, 0, 1, 7, 0, 0, 0),
    ]
    assert {type(value) for one in by_line_item for value in one} == {int}
    assert book.results_before(20_001) == []


@pytest.mark.parametrize(
    "again",
    [
        notice(1, cost_micros=70),
        notice(1, NoticeKind.WIN),  # the same bid, billed by another notice
        notice(2, auction_id="auction-1"),  # the same impression, billed to another bid
    ],
)
@pytest.mark.parametrize("same_batch", [True, False])
def test_the_first_bill_of_a_bid_and_of_an_impression_counts(session: Session, again: Notice, same_batch: bool) -> None:
    if same_batch:
        applied = apply(session, notice(1), again)
    else:
        apply(session, notice(1))
        applied = apply(session, again)
    book = BookRepository(session)
    assert applied.duplicate == 1
    assert (book.transactions(), [(day.day, day.spend_micros) for day in book.days()]) == (1, [(20_000, 80)])


@pytest.mark.parametrize("same_batch", [True, False])
def test_a_bid_reported_lost_before_it_is_billed_is_not_charged(session: Session, same_batch: bool) -> None:
    if same_batch:
        applied = apply(session, notice(1, LOSS), notice(1))
    else:
        apply(session, notice(1, LOSS))
        apply(session, notice(1, LOSS))
        applied = apply(session, notice(1))
    assert (applied.charged, applied.late, applied.late_micros, applied.leases) == (0, 1, 80, {})
    assert BookRepository(session).imbalance() == 0


def test_a_bid_billed_before_it_is_reported_lost_is_charged(session: Session) -> None:
    applied = apply(session, notice(1), notice(1, LOSS))
    assert (applied.charged, applied.charged_micros) == (1, 80)


def late(number: int, cost_micros: int, **facts: int) -> Notice:
    return notice(number, cost_micros=cost_micros, late=True, **facts)


@pytest.mark.parametrize(
    ("granted", "spend", "owed"), [(0, 0, 100), (59, 40, 60), (60, 60, 40), (99, 60, 40), (100, 100, 0)]
)
def test_late_wins_are_charged_each_in_full_as_far_as_there_is_room(
    session: Session, granted: int, spend: int, owed: int
) -> None:
    applied = apply(session, late(1, 60), late(2, 40), room={LATE_LEASE: granted})
    assert (applied.charged_micros, applied.late_charged_micros, applied.late_micros) == (spend, spend, owed)
    assert applied.charged == applied.late_charged == 2 - applied.late
    assert applied.leases == ({LATE_LEASE: spend} if spend else {})
    assert sum(sum(one.amounts) for one in applied.claims) == owed
    book = BookRepository(session)
    assert [(day.spend_micros, day.late_micros, day.impressions) for day in book.days()] == [(spend, owed, 2)]
    assert (book.spent_by_lease(), book.imbalance()) == (applied.leases, 0)


def test_a_late_win_that_was_charged_or_is_owed_stays_as_it_is(session: Session) -> None:
    apply(session, late(1, 60), late(2, 40), room={LATE_LEASE: 60})
    again = apply(session, late(1, 60), late(2, 40), notice(1, cost_micros=60), notice(2), room={LATE_LEASE: 1_000})
    assert (again.duplicate, again.charged, again.claims) == (4, 0, [])
    assert BookRepository(session).spent_by_lease() == {LATE_LEASE: 60}


def test_a_win_in_time_is_not_charged_again_when_it_comes_late_as_well(session: Session) -> None:
    applied = apply(session, notice(1, cost_micros=60), late(1, 60), room={LATE_LEASE: 1_000})
    assert (applied.charged_micros, applied.duplicate, applied.leases) == (60, 1, {FACTS.lease_id: 60})


def test_a_win_after_a_loss_is_charged_like_a_late_one_and_not_to_its_bids_lease(session: Session) -> None:
    apply(session, notice(1, LOSS))
    applied = apply(session, notice(1), room={LATE_LEASE: 80})
    assert (applied.charged_micros, applied.late_charged, applied.leases) == (80, 1, {LATE_LEASE: 80})


def test_claims_count_from_what_was_charged_and_are_of_one_day_of_one_line_item(session: Session) -> None:
    apply(session, late(1, 60), room={LATE_LEASE: 60})
    applied = apply(
        session, late(2, 10), late(3, 20, day=20_001), late(4, 30), notice(5), late(6, 130), late(7, 1, line_item_id=4)
    )
    assert applied.claims == [
        LateClaim(3, 2, 20_000, 60, 6_000, (10, 30, 100)),  # what exceeds a bid's maximum no budget pays
        LateClaim(3, 2, 20_001, 0, 6_000, (20,)),
        LateClaim(4, 2, 20_000, 0, 6_000, (1,)),
    ]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite's write one after the other
def test_two_ledgers_never_charge_more_than_was_granted(engine: Engine) -> None:
    """The second looks up what was charged before the first commits, and writes after it."""
    sessions = session_factory(engine)
    with sessions() as first, sessions() as second:
        assert apply(first, late(1, 60), room={LATE_LEASE: 100}).charged_micros == 60

        def commit(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO book_transaction"):
                first.commit()

        event.listen(second.connection(), "before_cursor_execute", commit)
        two = entry(late(2, 60), 6_000)
        assert isinstance(two, Transaction)
        with pytest.raises(UnavailableError, match="another ledger"):
            BookRepository(second).apply([two], {1: 1}, room={LATE_LEASE: 100})
    with sessions() as session:
        book = BookRepository(session)
        assert (book.spent_by_lease(), book.transactions()) == ({LATE_LEASE: 60}, 1)


def test_losses_are_forgotten_once_a_bill_would_be_late_anyway(session: Session) -> None:
    closing_ms = closes_ms(FACTS.expires_at_ms)
    apply(session, notice(1, LOSS), watermark_ms=closing_ms - 1)
    assert session.query(BookReleaseRow).count() == 1
    apply(session, watermark_ms=closing_ms)
    assert session.query(BookReleaseRow).count() == 0


def test_positions_are_kept_by_partition(session: Session) -> None:
    book = BookRepository(session)
    assert book.position() == {}
    book.apply([], {0: 5, 1: 7})
    book.apply([], {0: 6})
    assert book.position() == {0: 6, 1: 7}


def test_a_rolled_back_batch_leaves_nothing(engine: Engine) -> None:
    sessions = session_factory(engine)
    with sessions() as session:
        apply(session, notice(1), notice(2, LOSS), offset=9)
        session.rollback()
    with sessions() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.days(), book.position()) == (0, [], {})


def test_a_large_batch_is_entered_whole_and_only_once(session: Session) -> None:
    batch = [notice(number) for number in range(1_203)] + [notice(number, LOSS) for number in range(5_000, 6_100)]
    assert apply(session, *batch).charged == 1_203
    assert apply(session, *batch).duplicate == 1_203
    assert BookRepository(session).imbalance() == 0


@pytest.mark.parametrize(
    "tampered",
    [
        update(BookPostingRow).where(BookPostingRow.account == "spend:3:20000").values(micros=79),
        update(BookPostingRow).where(BookPostingRow.account == "spend:3:20000").values(account="late:3:20000"),
        update(BookDayRow).values(spend_micros=81),
        update(BookDayRow).values(late_micros=31),
    ],
    ids=["amount", "account", "spend kept", "late kept"],
)
def test_what_was_tampered_with_shows_as_an_imbalance(session: Session, tampered: Update) -> None:
    apply(session, notice(1), late(2, 30))
    assert BookRepository(session).imbalance() == 0
    session.execute(tampered)
    assert BookRepository(session).imbalance() > 0


def test_the_database_itself_refuses_a_second_transaction_of_an_impression(session: Session) -> None:
    apply(session, notice(1))
    session.flush()
    entered = session.query(BookTransactionRow).one()
    row = {column.name: getattr(entered, column.name) for column in BookTransactionRow.__table__.c}
    session.add(BookTransactionRow(**row | {"bid_id": "another"}))
    with pytest.raises(IntegrityError):
        session.flush()
