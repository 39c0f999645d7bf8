"""The catalogue's tables. Columns are named as the entities' fields; a struct of scalars is spread over columns
(`budget_daily_micros`), lists and targeting are JSON. The book's tables are in dsp.store.book_tables.
"""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dsp.catalog.kinds import Kind

#: SQLite gives out row ids only for INTEGER primary keys, which are 64 bits wide there.
BigId = BigInteger().with_variant(Integer, "sqlite")
NAME_CHARS_MAX = 200


class Base(DeclarativeBase):
    """Metadata of every table in the database; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: BigInteger, dict[str, Any]: JSON, list[Any]: JSON}


class EntityRow(Base):
    """What every kind of entity has."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))
    external_id: Mapped[str | None] = mapped_column(String(NAME_CHARS_MAX), unique=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    version: Mapped[int]


class AdvertiserRow(EntityRow):
    """Who pays."""

    __tablename__ = "advertiser"

    domain: Mapped[str] = mapped_column(String(253))
    categories: Mapped[list[Any]]
    timezone: Mapped[str] = mapped_column(String(64))
    frequency_caps: Mapped[list[Any]]


class CampaignRow(EntityRow):
    """A budget and a flight that line items share."""

    __tablename__ = "campaign"
    __table_args__ = (
        CheckConstraint("budget_daily_micros > 0", name="budget_daily"),
        CheckConstraint("budget_total_micros > 0", name="budget_total"),
    )

    advertiser_id: Mapped[int] = mapped_column(ForeignKey("advertiser.id"), index=True)
    budget_daily_micros: Mapped[int | None]
    budget_total_micros: Mapped[int | None]
    flight_start_ms: Mapped[int]
    flight_end_ms: Mapped[int | None]
    frequency_caps: Mapped[list[Any]]


class LineItemRow(EntityRow):
    """What bids."""

    __tablename__ = "line_item"
    __table_args__ = (
        CheckConstraint("budget_daily_micros > 0", name="budget_daily"),
        CheckConstraint("budget_total_micros > 0", name="budget_total"),
        CheckConstraint("goal_target_micros > 0", name="goal_target"),
    )

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), index=True)
    goal_kind: Mapped[str] = mapped_column(String(16))
    goal_target_micros: Mapped[int]
    budget_daily_micros: Mapped[int | None]
    budget_total_micros: Mapped[int | None]
    flight_start_ms: Mapped[int]
    flight_end_ms: Mapped[int | None]
    pacing: Mapped[str] = mapped_column(String(16))
    dayparts: Mapped[list[Any]]
    targeting: Mapped[dict[str, Any]]
    frequency_caps: Mapped[list[Any]]
    bid_min_micros_cpm: Mapped[int | None]
    bid_max_micros_cpm: Mapped[int | None]


class CreativeRow(EntityRow):
    """An ad of a line item."""

    __tablename__ = "creative"

    line_item_id: Mapped[int] = mapped_column(ForeignKey("line_item.id"), index=True)
    format: Mapped[str] = mapped_column(String(16))
    landing_url: Mapped[str] = mapped_column(Text)
    markup: Mapped[str] = mapped_column(Text)
    width: Mapped[int | None]
    height: Mapped[int | None]
    duration_seconds: Mapped[int | None]
    mime: Mapped[str | None] = mapped_column(String(128))
    bitrate_kbps: Mapped[int | None]
    categories: Mapped[list[Any]]
    attributes: Mapped[list[Any]]
    apis: Mapped[list[Any]]
    protocols: Mapped[list[Any]]
    secure: Mapped[bool]
    language: Mapped[str | None] = mapped_column(String(8))
    trackers: Mapped[list[Any]] = mapped_column(server_default="[]")


class DealRow(EntityRow):
    """A private deal on one exchange."""

    __tablename__ = "deal"
    __table_args__ = (UniqueConstraint("exchange", "deal_id"),)

    exchange: Mapped[str] = mapped_column(String(64))
    deal_id: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))
    price_micros_cpm: Mapped[int | None]
    auction: Mapped[str] = mapped_column(String(16))


class AudienceRow(EntityRow):
    """A segment that targeting may name."""

    __tablename__ = "audience"
    __table_args__ = (UniqueConstraint("advertiser_id", "segment_id"),)

    advertiser_id: Mapped[int] = mapped_column(ForeignKey("advertiser.id"))
    segment_id: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))


class ConversionRuleRow(EntityRow):
    """What counts as a conversion."""

    __tablename__ = "conversion_rule"

    advertiser_id: Mapped[int] = mapped_column(ForeignKey("advertiser.id"), index=True)
    window_seconds: Mapped[int]
    post_view: Mapped[bool]
    value_micros: Mapped[int | None]


class ChangeRow(Base):
    """Version history and audit trail in one: every write of every entity, with who, when, before and after."""

    __tablename__ = "change"
    __table_args__ = (UniqueConstraint("kind", "entity_id", "version"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    entity_id: Mapped[int]
    version: Mapped[int]
    at_ms: Mapped[int] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))
    action: Mapped[str] = mapped_column(String(16))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any]]


class RevisionRow(Base):
    """One row: how many writes the catalogue has seen."""

    __tablename__ = "catalogue_revision"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    revision: Mapped[int]


class ApiKeyRow(Base):
    """An API key. The key itself is not kept: its SHA-256 is, and a prefix for people to tell keys apart."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    advertiser_id: Mapped[int | None]
    created_ms: Mapped[int]
    revoked_ms: Mapped[int | None]
    revoked_by: Mapped[str | None] = mapped_column(String(NAME_CHARS_MAX))


class IdempotencyRow(Base):
    """The answer given to a write that carried an Idempotency-Key, so that a retry gets the same."""

    __tablename__ = "idempotency_key"

    api_key_id: Mapped[int] = mapped_column(ForeignKey("api_key.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(index=True)


#: The table of each kind of entity.
TABLES: dict[Kind, Table] = {kind: Base.metadata.tables[kind] for kind in Kind}
