"""How far each partition's notices are known to all: several ledger workers share a topic."""

import sqlalchemy as sa
from alembic import op

revision = "0005_watermarks"
down_revision = "0004_lease_generations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; 0 claims nothing, and the next step of the ledger worker tells."""
    column = sa.Column("watermark_ms", sa.BigInteger(), autoincrement=False, nullable=False, server_default="0")
    op.add_column("book_position", column)


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("book_position", "watermark_ms")
