"""Rows of several impressions put on top of each other, run by a session in one call, and taken apart again."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from models.serving.session import Device, Floats, Memory, Session


class Stack:
    """Runs one graph for the rows of many; memory is kept and used again. One thread at a time.

    A GPU is given sizes of powers of two alone: it has memory and has been warmed up for them, and rows cost it little.
    The rest of such a size holds rows of earlier calls, whose results nobody reads.
    """

    def __init__(self, session: Session, rows_max: int) -> None:
        self._session = session
        self._padded = session.provider == "cuda"
        self._buffer = np.zeros((self._size(rows_max), session.input_width), dtype=np.float32)
        self._memory: dict[int, Memory] = {}
        # The first run of a size chooses kernels and takes memory.
        size = len(self._buffer) if self._padded else 0
        while size:
            self._bound(size)()
            size //= 2

    @classmethod
    def on(cls, device: Device, session: Session) -> "Stack | None":
        """Return what runs rows of several impressions together, where they are on this device."""
        return cls(session, device.rows_max) if device.batches(session.provider) else None

    def __call__(self, items: Sequence[Floats]) -> list[Floats]:
        """Return what the graph makes of each item's rows, of at most `rows_max` rows together."""
        counts = [len(item) for item in items]
        rows = sum(counts)
        np.concatenate(items, out=self._buffer[:rows])
        memory = self._bound(self._size(rows))
        memory()
        found = memory.output[:rows].copy()
        return [found[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def _bound(self, size: int) -> Memory:
        if size not in self._memory:
            self._memory[size] = self._session.bind(self._buffer[:size])
        return self._memory[size]

    def _size(self, rows: int) -> int:
        return 1 << (rows - 1).bit_length() if self._padded else rows
