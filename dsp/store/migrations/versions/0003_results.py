"""What was bought for the money: expected value of impressions, and clicks and conversions, once each."""

import sqlalchemy as sa
from alembic import op

revision = "0003_results"
down_revision = "0002_book"
branch_labels = None
depends_on = None

_SUMS = ("value_micros", "clicks", "conversions", "conversion_value_micros")


def upgrade() -> None:
    """Add the columns, 0 for what was billed before, and the table."""
    op.add_column("book_transaction", _int("value_micros", server_default="0"))
    for name in _SUMS:
        op.add_column("book_day", _int(name, server_default="0"))
    op.create_table(
        "book_response",
        sa.Column("bid_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        *map(_int, ("conversion_rule_id", "at_ms", "line_item_id", "day", "value_micros")),
        sa.PrimaryKeyConstraint("bid_id", "kind", "conversion_rule_id", name="pk_book_response"),
    )


def downgrade() -> None:
    """Drop the table and the columns."""
    op.drop_table("book_response")
    for name in _SUMS:
        op.drop_column("book_day", name)
    op.drop_column("book_transaction", "value_micros")


def _int(name: str, server_default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=False, server_default=server_default)
