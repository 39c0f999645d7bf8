"""Who revoked an API key."""

import sqlalchemy as sa
from alembic import op

revision = "0010_revocations"
down_revision = "0009_advertisers_days"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of keys that are revoked already nobody knows it."""
    op.add_column("api_key", sa.Column("revoked_by", sa.String(200), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("api_key", "revoked_by")
