"""The book's tables. Transactions and postings are only ever added; the other tables are sums of them, and places."""

from sqlalchemy import BigInteger, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dsp.store.tables import Base


class BookTransactionRow(Base):
    """One billed impression (dsp.ledger.book.Transaction)."""

    __tablename__ = "book_transaction"
    __table_args__ = (UniqueConstraint("exchange", "auction_id", "imp_id", "kind"),)

    bid_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    exchange: Mapped[str] = mapped_column(String(64))
    auction_id: Mapped[str] = mapped_column(Text)
    imp_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(16))
    at_ms: Mapped[int] = mapped_column(index=True)
    appended_ms: Mapped[int]
    advertiser_id: Mapped[int]
    campaign_id: Mapped[int]
    line_item_id: Mapped[int]
    creative_id: Mapped[int]
    day: Mapped[int]
    lease_id: Mapped[str] = mapped_column(String(64))
    value_micros: Mapped[int]


class BookPostingRow(Base):
    """One line of a transaction; all lines of one sum to zero."""

    __tablename__ = "book_posting"

    bid_id: Mapped[str] = mapped_column(ForeignKey("book_transaction.bid_id"), primary_key=True)
    account: Mapped[str] = mapped_column(String(128), primary_key=True)
    micros: Mapped[int]


class Sums:
    """What is summed of a day's or an hour's bids, in the order in which dsp.store.book.DayResult has it."""

    spend_micros: Mapped[int]
    late_micros: Mapped[int]
    impressions: Mapped[int]
    value_micros: Mapped[int]
    clicks: Mapped[int]
    conversions: Mapped[int]
    conversion_value_micros: Mapped[int]
    bids: Mapped[int]


class BookDayRow(Sums, Base):
    """The sums of one line item's day, kept in the transaction that adds the postings."""

    __tablename__ = "book_day"

    line_item_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    day: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    campaign_id: Mapped[int] = mapped_column(index=True)
    advertiser_id: Mapped[int] = mapped_column(index=True)


class BookHourRow(Sums, Base):
    """The same sums, of what was bid in one hour (since the epoch) with one creative on one exchange.

    What was entered before there was this table is in the sums of its day alone.
    """

    __tablename__ = "book_hour"

    day: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    line_item_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    creative_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hour: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    exchange: Mapped[str] = mapped_column(String(64), primary_key=True)
    campaign_id: Mapped[int]
    advertiser_id: Mapped[int]


class BookSenderRow(Base):
    """The latest record of counted bids that was entered of one bidder process (dsp.events.schema.BidsSent)."""

    __tablename__ = "book_sender"

    sender: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int]
    at_ms: Mapped[int]


class BookResponseRow(Base):
    """One click or conversion (dsp.ledger.book.Response): that it is here is why it counts no second time."""

    __tablename__ = "book_response"

    bid_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    conversion_rule_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at_ms: Mapped[int]
    line_item_id: Mapped[int]
    day: Mapped[int]
    value_micros: Mapped[int]


class BookLeaseRow(Base):
    """What was charged to one lease."""

    __tablename__ = "book_lease"

    lease_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    micros: Mapped[int]


class BookReleaseRow(Base):
    """A bid reported lost, for as long as a billing notice of it would not be late anyway."""

    __tablename__ = "book_release"

    bid_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    closes_ms: Mapped[int] = mapped_column(index=True)


class BookPositionRow(Base):
    """How far a consumer has read a topic's partition, saved with what it did.

    What was appended before `watermark_ms` is not only entered: the lease store was told as well. `log` is whose offset
    it is (dsp.stream.port.EventLog.identity); empty until a version that knows moves it.
    """

    __tablename__ = "book_position"

    topic: Mapped[str] = mapped_column(String(64), primary_key=True)
    consumer: Mapped[str] = mapped_column(String(64), primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_offset: Mapped[int]
    watermark_ms: Mapped[int]
    log: Mapped[str] = mapped_column(Text, server_default="")


class LeaseGenerationRow(Base):
    """Which generation of a shard of the lease store may grant, and how far ahead its holders may promise."""

    __tablename__ = "lease_generation"

    shard: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    generation: Mapped[str] = mapped_column(String(32))
    ceiling_ms: Mapped[int]
