"""By whom a creative is measured beside us."""

import sqlalchemy as sa
from alembic import op

revision = "0011_trackers"
down_revision = "0010_revocations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: creatives have none yet, nor those that an older version makes."""
    op.add_column("creative", sa.Column("trackers", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("creative", "trackers")
