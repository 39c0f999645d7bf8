"""Entities as bytes, each decoded when it is first asked for: of a large catalogue one process bids with few."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.catalog import kinds
from dsp.catalog.entities import Advertiser, Campaign, Creative, LineItem
from dsp.snapshot.build import Snapshot

Entity = TypeVar("Entity", bound=kinds.Entity)

_encode = msgspec.msgpack.Encoder().encode


class _Rows(dict[int, Entity], Generic[Entity]):
    """Entities by row, as far as they were asked for. A dictionary, so that asking again is no call of Python's."""

    def __init__(
        self, kind: type[Entity], data: NDArray[np.uint8], ends: NDArray[np.int64], places: NDArray[np.int32]
    ) -> None:
        super().__init__()
        self._data, self._ends, self._places = memoryview(data), ends, places  # type: ignore[arg-type]
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._decoded: dict[int, Entity] = {}  # by place

    def __missing__(self, row: int) -> Entity:
        place = self._places.item(row)
        found = self._decoded.get(place)
        if found is None:
            begin, end = self._ends.item(place - 1) if place else 0, self._ends.item(place)
            found = self._decoded.setdefault(place, self._decode(self._data[begin:end]))
        self[int(row)] = found
        return found


class Packed(Sequence[Entity], Generic[Entity]):
    """Entities of one kind, one a row (N,); several rows may be of one. What has been asked for is kept.

    `data` holds M of them one after the other (MessagePack), `ends` where each ends (M,), `places` which of them a row
    is (N,).
    """

    __slots__ = ("_kind", "_parts", "_rows")

    def __init__(
        self, kind: type[Entity], data: NDArray[np.uint8], ends: NDArray[np.int64], places: NDArray[np.int32]
    ) -> None:
        self._kind, self._parts = kind, (data, ends, places)
        self._rows = _Rows(kind, data, ends, places)

    @classmethod
    def of(cls, kind: type[Entity], entities: Sequence[Entity]) -> "Packed[Entity]":
        """Pack the entities of each row; those of one id are one."""
        numbers: dict[int, int] = {}
        encoded: list[bytes] = []
        places = np.zeros(len(entities), dtype=np.int32)
        for row, entity in enumerate(entities):
            number = numbers.setdefault(entity.id, len(encoded))
            if number == len(encoded):
                encoded.append(_encode(entity))
            places[row] = number
        ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64), dtype=np.int64)
        return cls(kind, np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, places)

    def __len__(self) -> int:
        return len(self._parts[2])

    def __getitem__(self, row: Any) -> Any:
        """Return the entity of a row, the same object whenever it is asked for."""
        return self._rows[row]

    def __iter__(self) -> Iterator[Entity]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self._kind, *self._parts)


def pack(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot with its entities packed."""
    return replace(
        snapshot,
        line_items=Packed.of(LineItem, snapshot.line_items),
        campaigns=Packed.of(Campaign, snapshot.campaigns),
        advertisers=Packed.of(Advertiser, snapshot.advertisers),
        creatives=Packed.of(Creative, snapshot.creatives),
    )
