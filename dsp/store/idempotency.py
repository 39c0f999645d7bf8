"""Remembers the answer to a write that carried an Idempotency-Key, in the transaction of the write itself."""

from collections.abc import Mapping

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import Fault, ValidationError
from dsp.store.tables import ApiKeyRow, IdempotencyRow


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered: HTTP status, headers of ours, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AnswerBook:
    """The remembered answers, each for `keep_seconds`. An answer belongs to one API key."""

    def __init__(self, session: Session, api_key_id: int, now_ms: int, keep_seconds: int) -> None:
        self._session = session
        self._api_key_id = api_key_id
        self._now_ms = now_ms
        self._oldest_ms = now_ms - keep_seconds * MS_PER_SECOND

    def find(self, key: str, fingerprint: str) -> Answer | None:
        """Return the answer given before, also by a request of the same API key that is being answered now.

        Raises:
            ValidationError: the key was used for another request.
        """
        # Requests of one API key that may be repetitions take turns.
        self._session.execute(select(ApiKeyRow.id).where(ApiKeyRow.id == self._api_key_id).with_for_update())
        row = self._session.scalar(
            select(IdempotencyRow).where(
                IdempotencyRow.api_key_id == self._api_key_id,
                IdempotencyRow.key == key,
                IdempotencyRow.created_ms >= self._oldest_ms,
            )
        )
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise ValidationError([Fault("Idempotency-Key", "was used for another request")])
        return Answer(status=row.status, headers=row.headers, body=row.body)

    def keep(self, key: str, fingerprint: str, answer: Answer) -> None:
        """Remember an answer, and forget those that are old."""
        self._session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_ms < self._oldest_ms))
        values = {
            "api_key_id": self._api_key_id,
            "key": key,
            "fingerprint": fingerprint,
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": answer.body,
            "created_ms": self._now_ms,
        }
        self._session.execute(insert(IdempotencyRow).values(values))
