"""Users' records as stores keep them: MessagePack of [[], segments, false, responses, rows of impressions].

The rows (dsp.catalog.exposures) stand behind what processes of before wrote: [impressions, segments, true, responses].
Such a record is read as well. A process of before that reads ours finds one of which it cannot tell whether it is
whole, so that it shows nothing that has caps; what it counts it puts first, and here that is read, too. A later form
that has no such rows there is to this one what this one is to those of before.

The rows are a MessagePack string although they are binary: the server's scripts cannot read the binary type.
"""

from functools import reduce

import msgspec

from dsp.catalog.exposures import ROW_BYTES, counted
from dsp.catalog.user import Exposure, Response, UserRecord

_STRING_32 = b"\xdb"
#: How long the heads of MessagePack strings are, by their first byte.
_HEAD_BYTES = {**dict.fromkeys(range(0xA0, 0xC0), 1), 0xD9: 2, 0xDA: 3, 0xDB: 5}
_NONE = msgspec.Raw(b"")


class _Stored(msgspec.Struct, array_like=True, gc=False):
    exposures: tuple[Exposure, ...]
    segments: tuple[str, ...]
    complete: bool
    responses: tuple[Response, ...] = ()
    rows: msgspec.Raw = _NONE


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


def encode(record: UserRecord) -> bytes:
    """Return a record as a store keeps it."""
    rows = record.exposures
    packed = msgspec.Raw(_STRING_32 + len(rows).to_bytes(4, "big") + rows)
    return _encode(_Stored((), record.segments, False, record.responses, packed))


def decode(data: bytes) -> UserRecord:
    """Return the record that a store keeps; raises msgspec.DecodeError for what is none."""
    stored = _decode(data)
    rows = _rows(bytes(stored.rows))
    whole = stored.complete or rows is not None
    return UserRecord(reduce(counted, stored.exposures, rows or b""), stored.segments, whole, stored.responses)


def _rows(packed: bytes) -> bytes | None:
    head = _HEAD_BYTES.get(packed[0]) if packed else None
    return packed[head:] if head is not None and (len(packed) - head) % ROW_BYTES == 0 else None
