"""What the book knows of the lease store: which generation of it may grant, and how far its holders may promise."""

import sqlalchemy as sa
from alembic import op

revision = "0004_lease_generations"
down_revision = "0003_results"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "lease_generation",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.String(32), nullable=False),
        sa.Column("ceiling_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_lease_generation"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("lease_generation")
