"""What tests read of users' records."""

from dsp.catalog.exposures import ROW_BYTES, digest
from dsp.catalog.user import UserRecord


def has_bids(record: UserRecord | None, *bid_ids: str) -> bool:
    """Return whether the record is of exactly these impressions, in order of time."""
    rows = record.exposures if record is not None else b""
    found = [rows[place : place + len(digest(""))] for place in range(0, len(rows), ROW_BYTES)]
    return found == [digest(bid_id) for bid_id in bid_ids]


def exposure_count(record: UserRecord | None) -> int:
    """Return how many impressions a record has."""
    return len(record.exposures) // ROW_BYTES if record is not None else 0
