"""The snapshot's published form: the catalogue with its version. Whoever reads it compiles it for himself."""

import msgspec

from dsp.catalog.entities import Catalogue
from dsp.snapshot.build import Snapshot, build


class _Blob(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot.1"):
    version: str
    built_at_ms: int
    catalogue: Catalogue


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Blob)


def encode(catalogue: Catalogue, version: str, built_at_ms: int) -> bytes:
    """Return the blob (MessagePack)."""
    return _encoder.encode(_Blob(version=version, built_at_ms=built_at_ms, catalogue=catalogue))


def decode(data: bytes) -> Snapshot:
    """Return the compiled snapshot; raises msgspec.DecodeError for bytes that hold none."""
    blob = _decoder.decode(data)
    return build(blob.catalogue, blob.version, blob.built_at_ms)
