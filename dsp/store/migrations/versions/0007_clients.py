"""The advertiser whose client an API key is for."""

import sqlalchemy as sa
from alembic import op

revision = "0007_clients"
down_revision = "0006_hours"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no key there is a client's."""
    op.add_column("api_key", sa.Column("advertiser_id", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop the column. To versions before it the role of a client's key is none, so that it opens nothing."""
    op.drop_column("api_key", "advertiser_id")
