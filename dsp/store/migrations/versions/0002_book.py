"""The book: transactions, postings, their sums, and the positions of those who write it."""

import sqlalchemy as sa
from alembic import op

revision = "0002_book"
down_revision = "0001_catalogue"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    _entries()
    _sums()
    _places()


def downgrade() -> None:
    """Drop the tables."""
    for table in ("position", "release", "lease", "day", "posting", "transaction"):
        op.drop_table(f"book_{table}")


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=False)


def _text(name: str, chars: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text() if chars is None else sa.String(chars), nullable=False)


def _entries() -> None:
    op.create_table(
        "book_transaction",
        _text("bid_id", 64),
        _text("exchange", 64),
        _text("auction_id"),
        _text("imp_id"),
        _text("kind", 16),
        *map(_int, ("at_ms", "appended_ms", "advertiser_id", "campaign_id", "line_item_id", "creative_id", "day")),
        _text("lease_id", 64),
        sa.PrimaryKeyConstraint("bid_id", name="pk_book_transaction"),
        sa.UniqueConstraint(
            "exchange", "auction_id", "imp_id", "kind", name="uq_book_transaction_exchange_auction_id_imp_id_kind"
        ),
    )
    op.create_index("ix_book_transaction_at_ms", "book_transaction", ["at_ms"])
    op.create_table(
        "book_posting",
        _text("bid_id", 64),
        _text("account", 128),
        _int("micros"),
        sa.PrimaryKeyConstraint("bid_id", "account", name="pk_book_posting"),
        sa.ForeignKeyConstraint(
            ["bid_id"], ["book_transaction.bid_id"], name="fk_book_posting_bid_id_book_transaction"
        ),
    )


def _sums() -> None:
    op.create_table(
        "book_day",
        *map(_int, ("line_item_id", "day", "campaign_id", "advertiser_id")),
        *map(_int, ("spend_micros", "late_micros", "impressions")),
        sa.PrimaryKeyConstraint("line_item_id", "day", name="pk_book_day"),
    )
    op.create_index("ix_book_day_campaign_id", "book_day", ["campaign_id"])
    op.create_table(
        "book_lease",
        _text("lease_id", 64),
        _int("micros"),
        sa.PrimaryKeyConstraint("lease_id", name="pk_book_lease"),
    )


def _places() -> None:
    op.create_table(
        "book_release",
        _text("bid_id", 64),
        _int("closes_ms"),
        sa.PrimaryKeyConstraint("bid_id", name="pk_book_release"),
    )
    op.create_index("ix_book_release_closes_ms", "book_release", ["closes_ms"])
    op.create_table(
        "book_position",
        _text("topic", 64),
        _text("consumer", 64),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        _int("next_offset"),
        sa.PrimaryKeyConstraint("topic", "consumer", "partition", name="pk_book_position"),
    )
