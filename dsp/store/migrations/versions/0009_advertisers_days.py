"""An advertiser's days are found by an index, as a campaign's are: its client may read nothing else."""

from alembic import op

revision = "0009_advertisers_days"
down_revision = "0008_bids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_book_day_advertiser_id", "book_day", ["advertiser_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_book_day_advertiser_id", "book_day")
