"""Which event log a consumer's position is of: another log's offsets mean other records."""

import sqlalchemy as sa
from alembic import op

revision = "0012_position_log"
down_revision = "0011_trackers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a position that names none is of the log that is read next."""
    op.add_column("book_position", sa.Column("log", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("book_position", "log")
