"""What was bought by hour, creative and exchange, beside the sums of days."""

import sqlalchemy as sa
from alembic import op

revision = "0006_hours"
down_revision = "0005_watermarks"
branch_labels = None
depends_on = None

_KEYS = ("day", "line_item_id", "creative_id", "hour", "exchange")
_SUMS = (
    "spend_micros",
    "late_micros",
    "impressions",
    "value_micros",
    "clicks",
    "conversions",
    "conversion_value_micros",
)


def upgrade() -> None:
    """Create the table, empty: what is in the sums of days and not in it is known by day alone."""
    op.create_table(
        "book_hour",
        *map(_int, _KEYS[:-1]),
        sa.Column("exchange", sa.String(64), nullable=False),
        *map(_int, ("campaign_id", "advertiser_id", *_SUMS)),
        sa.PrimaryKeyConstraint(*_KEYS, name="pk_book_hour"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("book_hour")


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=False)
