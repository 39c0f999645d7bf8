"""The catalogue, its history, API keys and remembered answers."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001_catalogue"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _entities()
    _records()


def _int(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _text(name: str, chars: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(chars), nullable=nullable)


def _json(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.JSON(), nullable=False) for name in names]


def _entity(table: str, *items: sa.Column[Any] | sa.Constraint, parent: str | None = None) -> None:
    """Create the table of one kind of entity."""
    columns: list[sa.Column[Any] | sa.Constraint] = [
        sa.Column("id", _ID, nullable=False),
        _text("name", 200),
        _text("external_id", 200, nullable=True),
        _text("status", 16),
        _int("version"),
        *items,
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        sa.UniqueConstraint("external_id", name=f"uq_{table}_external_id"),
    ]
    if parent:
        columns += [
            sa.Column(f"{parent}_id", _ID, nullable=False),
            sa.ForeignKeyConstraint([f"{parent}_id"], [f"{parent}.id"], name=f"fk_{table}_{parent}_id"),
        ]
    op.create_table(table, *columns)
    op.create_index(f"ix_{table}_status", table, ["status"])
    if parent and table != "audience":  # an audience's unique constraint begins with the parent
        op.create_index(f"ix_{table}_{parent}_id", table, [f"{parent}_id"])


def _terms() -> list[sa.Column[Any]]:
    return [
        _int("budget_daily_micros", nullable=True),
        _int("budget_total_micros", nullable=True),
        _int("flight_start_ms"),
        _int("flight_end_ms", nullable=True),
        *_json("frequency_caps"),
    ]


def _positive(table: str, name: str) -> sa.CheckConstraint:
    # op.f: the name is final, the naming convention is not applied again.
    return sa.CheckConstraint(f"{name} > 0", name=op.f(f"ck_{table}_{name.removesuffix('_micros')}"))


def _entities() -> None:
    _entity("advertiser", _text("domain", 253), _text("timezone", 64), *_json("categories", "frequency_caps"))
    _entity(
        "campaign",
        *_terms(),
        _positive("campaign", "budget_daily_micros"),
        _positive("campaign", "budget_total_micros"),
        parent="advertiser",
    )
    _entity(
        "line_item",
        *_terms(),
        _text("goal_kind", 16),
        _int("goal_target_micros"),
        _text("pacing", 16),
        *_json("dayparts", "targeting"),
        _int("bid_min_micros_cpm", nullable=True),
        _int("bid_max_micros_cpm", nullable=True),
        _positive("line_item", "budget_daily_micros"),
        _positive("line_item", "budget_total_micros"),
        _positive("line_item", "goal_target_micros"),
        parent="campaign",
    )
    _entity(
        "creative",
        _text("format", 16),
        sa.Column("landing_url", sa.Text(), nullable=False),
        sa.Column("markup", sa.Text(), nullable=False),
        *(_int(name, nullable=True) for name in ("width", "height", "duration_seconds", "bitrate_kbps")),
        _text("mime", 128, nullable=True),
        *_json("categories", "attributes", "apis", "protocols"),
        sa.Column("secure", sa.Boolean(), nullable=False),
        _text("language", 8, nullable=True),
        parent="line_item",
    )
    _entity(
        "deal",
        _text("exchange", 64),
        _text("deal_id", 200),
        _int("price_micros_cpm", nullable=True),
        _text("auction", 16),
        sa.UniqueConstraint("exchange", "deal_id", name="uq_deal_exchange_deal_id"),
    )
    _entity(
        "audience",
        _text("segment_id", 200),
        sa.UniqueConstraint("advertiser_id", "segment_id", name="uq_audience_advertiser_id_segment_id"),
        parent="advertiser",
    )
    _entity(
        "conversion_rule",
        _int("window_seconds"),
        sa.Column("post_view", sa.Boolean(), nullable=False),
        _int("value_micros", nullable=True),
        parent="advertiser",
    )


def _records() -> None:
    op.create_table(
        "change",
        sa.Column("id", _ID, nullable=False),
        _text("kind", 32),
        _int("entity_id"),
        _int("version"),
        _int("at_ms"),
        _text("actor", 200),
        _text("action", 16),
        sa.Column("before", sa.JSON(), nullable=True),
        *_json("after"),
        sa.PrimaryKeyConstraint("id", name="pk_change"),
        sa.UniqueConstraint("kind", "entity_id", "version", name="uq_change_kind_entity_id_version"),
    )
    op.create_index("ix_change_at_ms", "change", ["at_ms"])
    revisions = op.create_table(
        "catalogue_revision",
        sa.Column("id", sa.Integer(), nullable=False),
        _int("revision"),
        sa.PrimaryKeyConstraint("id", name="pk_catalogue_revision"),
    )
    op.bulk_insert(revisions, [{"id": 1, "revision": 0}])
    op.create_table(
        "api_key",
        sa.Column("id", _ID, nullable=False),
        _text("name", 200),
        _text("prefix", 16),
        _text("hash", 64),
        _text("role", 16),
        _int("created_ms"),
        _int("revoked_ms", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("hash", name="uq_api_key_hash"),
        sa.UniqueConstraint("name", name="uq_api_key_name"),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("api_key_id", _ID, nullable=False),
        _text("key", 200),
        _text("fingerprint", 64),
        _int("status"),
        *_json("headers"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _int("created_ms"),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_key.id"], name="fk_idempotency_key_api_key_id"),
        sa.PrimaryKeyConstraint("api_key_id", "key", name="pk_idempotency_key"),
    )
    op.create_index("ix_idempotency_key_created_ms", "idempotency_key", ["created_ms"])
