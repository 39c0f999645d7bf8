"""API keys: made, found by the hash of what a caller shows, listed, revoked. The key itself is never stored."""

import hashlib
import secrets
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from dsp.catalog.values import text
from dsp.kernel.errors import Fault, NotFoundError, ValidationError
from dsp.store.tables import NAME_CHARS_MAX, AdvertiserRow, ApiKeyRow

KEY_PREFIX = "dsp_"
_SECRET_BYTES = 32
_PREFIX_CHARS = 12


class Role(StrEnum):
    """What a key may do; each role may do what those before it may."""

    CLIENT = "client"  # read what is one advertiser's
    VIEWER = "viewer"  # read
    MEMBER = "member"  # write the catalogue
    OWNER = "owner"  # list and revoke keys

    def may(self, wanted: "Role") -> bool:
        """Tell whether this role is enough where `wanted` is asked for."""
        roles = list(Role)
        return roles.index(self) >= roles.index(wanted)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown. `prefix` is how it begins; a client's has the advertiser whose it is."""

    id: int
    name: str
    prefix: str
    role: Role
    advertiser_id: int | None = None
    created_ms: int
    revoked_ms: int | None = None
    revoked_by: str | None = None

    @property
    def actor(self) -> str:
        """Return how what the key does is signed."""
        return _actor(self.name)


def create_key(session: Session, name: str, role: Role, now_ms: int, advertiser_id: int | None = None) -> str:
    """Make a key and return it; it cannot be shown again. A client's is for one advertiser.

    Raises:
        ValidationError: the name is taken or is none, or there is no such advertiser.
    """
    try:
        name = text(name)
    except ValueError as fault:
        raise ValidationError([Fault("name", str(fault))]) from fault
    if (beyond := len(_actor(name)) - NAME_CHARS_MAX) > 0:
        raise ValidationError([Fault("name", f"must have at most {len(name) - beyond} characters")])
    if session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.name == name)) is not None:
        raise ValidationError([Fault("name", f"there is a key named {name} already")])
    if (role is Role.CLIENT) is not (advertiser_id is not None):
        raise ValidationError([Fault("advertiser_id", "is needed for a client, and for no other role")])
    advertiser = select(AdvertiserRow.id).where(AdvertiserRow.id == advertiser_id)
    if advertiser_id is not None and session.scalar(advertiser) is None:
        raise ValidationError([Fault("advertiser_id", f"there is no advertiser {advertiser_id}")])
    key = KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    values = {"name": name, "prefix": key[:_PREFIX_CHARS], "hash": _hash(key), "role": role.value, "created_ms": now_ms}
    session.execute(insert(ApiKeyRow).values(values | {"advertiser_id": advertiser_id}))
    return key


def find_key(session: Session, key: str) -> ApiKey | None:
    """Return what a shown key stands for; None when it is unknown or revoked."""
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.hash == _hash(key), ApiKeyRow.revoked_ms.is_(None)))
    return None if row is None else msgspec.convert(row, ApiKey, from_attributes=True)


def list_keys(session: Session) -> Sequence[ApiKey]:
    """Return every key, revoked ones too, oldest first."""
    rows = session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id))
    return [msgspec.convert(row, ApiKey, from_attributes=True) for row in rows]


def revoke_key(session: Session, name: str, actor: str, now_ms: int) -> None:
    """Make a key worthless from now on, on behalf of an actor; harmless when it is already. Raises NotFoundError."""
    named = ApiKeyRow.name == name
    if session.scalar(select(ApiKeyRow.id).where(named)) is None:
        raise NotFoundError(f"there is no key named {name}")
    revocation = {"revoked_ms": now_ms, "revoked_by": actor}
    session.execute(update(ApiKeyRow).where(named, ApiKeyRow.revoked_ms.is_(None)).values(revocation))


def _actor(name: str) -> str:
    return f"key:{name}"


def _hash(key: str) -> str:
    # The key is 256 random bits, so a fast hash is enough: there is nothing to guess.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
