"""One user's impressions packed into bytes: rows of a fixed width, each bid once, oldest first.

A row is little-endian: 8 bytes of the bid id's SHA-1, the time in milliseconds (8), then the ids of advertiser,
campaign and line item (4 each). Of a bid nothing is asked but whether it is another's, and among the impressions of
one user two ids do not have the same 64 bits. `dsp/cache/users.lua` reads and writes the same rows.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from hashlib import sha1
from struct import Struct

from dsp.catalog.user import Exposure

ROW_BYTES = 28
ID_MAX = 2**32 - 1
_BID_BYTES = 8
_ROW = Struct("<8sq3I")
_AT_MS = Struct("<8xq12x")

#: Gives (time in milliseconds, campaign) of each row.
shown: Callable[[bytes], Iterator[tuple[int, int]]] = Struct("<8xq4xI4x").iter_unpack
#: Gives (time in milliseconds, advertiser, campaign, line item) of each row.
seen: Callable[[bytes], Iterator[tuple[int, int, int, int]]] = Struct("<8xq3I").iter_unpack


def digest(bid_id: str) -> bytes:
    """Return what a row keeps of a bid id."""
    return sha1(bid_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()[:_BID_BYTES]


def row_of(exposure: Exposure) -> bytes:
    """Return one impression's row; raises struct.error for an id beyond ID_MAX."""
    return _ROW.pack(
        digest(exposure.bid_id),
        exposure.at_ms,
        exposure.advertiser_id,
        exposure.campaign_id,
        exposure.line_item_id,
    )


def pack(exposures: Iterable[Exposure]) -> bytes:
    """Return rows of impressions in any order, each bid at the earliest time given for it.

    Raises struct.error for an id beyond ID_MAX, with which dsp.snapshot.build compiles no line item.
    """
    return reduce(counted, exposures, b"")


def counted(rows: bytes, exposure: Exposure) -> bytes:
    """Return rows with one impression among them, at the earliest time given for it; `rows` itself if it is so."""
    row, at_ms = row_of(exposure), exposure.at_ms
    known = _find(rows, row[:_BID_BYTES])
    if known >= 0:
        if _at_ms(rows, known) <= at_ms:
            return rows
        rows = rows[:known] + rows[known + ROW_BYTES :]
    place = len(rows)
    while place and _at_ms(rows, place - ROW_BYTES) > at_ms:  # it may be late
        place -= ROW_BYTES
    return rows[:place] + row + rows[place:]


def followed(rows: bytes, others: Iterable[bytes]) -> bytes:
    """Return rows, then those single rows whose bids are not among them; `rows` itself if there are none."""
    fresh = [row for row in others if _find(rows, row[:_BID_BYTES]) < 0]
    return b"".join((rows, *fresh)) if fresh else rows


def after(rows: bytes, since_ms: int) -> bytes:
    """Return the rows of impressions later than an instant."""
    place = 0
    while place < len(rows) and _at_ms(rows, place) <= since_ms:
        place += ROW_BYTES
    return rows[place:]


def latest_ms(rows: bytes) -> int:
    """Return when the last of at least one impression was."""
    return _at_ms(rows, len(rows) - ROW_BYTES)


def _find(rows: bytes, bid: bytes) -> int:
    """Return where a bid's row begins, -1 if there is none."""
    place = rows.find(bid)
    while place > 0 and place % ROW_BYTES:  # the same bytes, but of another field or two
        place = rows.find(bid, place + 1)
    return place


def _at_ms(rows: bytes, place: int) -> int:
    (at_ms,) = _AT_MS.unpack_from(rows, place)
    return int(at_ms)
