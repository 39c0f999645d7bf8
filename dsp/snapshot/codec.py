"""The snapshot's published form: the catalogue with its version. Whoever reads it compiles it for himself.

Entities are in chunks, each decoded by itself: one call of the decoder holds the interpreter's lock until it returns,
and bids wait for it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from dsp.catalog.entities import Catalogue
from dsp.snapshot.build import Snapshot, build

#: The blob under which it is published.
SNAPSHOT_BLOB = "snapshot"
#: Entities of a chunk: decoding them takes less than a millisecond.
_CHUNK = 256
_KINDS = Catalogue.__struct_fields__


class _Blob(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot.2"):
    version: str
    built_at_ms: int
    chunks: list[memoryview]  # each a Catalogue


class _Whole(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot.1"):
    """What a snapshot worker of an earlier version has left behind."""

    version: str
    built_at_ms: int
    catalogue: Catalogue


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Blob | _Whole)
_chunk_decoder = msgspec.msgpack.Decoder(Catalogue)


def encode(catalogue: Catalogue, version: str, built_at_ms: int) -> bytes:
    """Return the blob (MessagePack)."""
    chunks = [memoryview(_encoder.encode(chunk)) for chunk in _split(catalogue)]
    return _encoder.encode(_Blob(version=version, built_at_ms=built_at_ms, chunks=chunks))


def decode(data: bytes) -> Snapshot:
    """Return the compiled snapshot; raises msgspec.DecodeError for bytes that hold none."""
    blob = _decoder.decode(data)
    catalogue = blob.catalogue if isinstance(blob, _Whole) else _joined(blob.chunks)
    return build(catalogue, blob.version, blob.built_at_ms)


def _split(catalogue: Catalogue) -> Iterator[Catalogue]:
    for kind in _KINDS:
        entities = getattr(catalogue, kind)
        for first in range(0, len(entities), _CHUNK):
            yield Catalogue(**{kind: entities[first : first + _CHUNK]})


def _joined(chunks: Sequence[memoryview]) -> Catalogue:
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for chunk in chunks:
        part = _chunk_decoder.decode(chunk)
        for kind, entities in found.items():
            entities += getattr(part, kind)
    return Catalogue(**{kind: tuple(entities) for kind, entities in found.items()})
