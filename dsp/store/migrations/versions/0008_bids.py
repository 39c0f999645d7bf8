"""How many bids were sent, beside what was bought; and which bidder's counts were entered last."""

import sqlalchemy as sa
from alembic import op

revision = "0008_bids"
down_revision = "0007_clients"
branch_labels = None
depends_on = None

_TABLES = ("book_day", "book_hour")


def upgrade() -> None:
    """Add the sums: nothing is known of the time before. Ledgers of versions before them go on without."""
    for table in _TABLES:
        op.add_column(table, sa.Column("bids", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "book_sender",
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sender", name="pk_book_sender"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("book_sender")
    for table in reversed(_TABLES):
        op.drop_column(table, "bids")
