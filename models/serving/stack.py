"""Rows of several impressions put on top of each other, run by a session in one call, and taken apart again."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.serving.session import Arrays, Memory, Session


class Stack:
    """Runs one graph for the rows of many; memory is kept and used again. One thread at a time.

    A GPU is given sizes of powers of two alone: it has memory and has been warmed up for them, and rows cost it little.
    The rest of such a size holds rows of earlier calls, whose results nobody reads. Every open axis of the graph must
    be that of its rows.
    """

    def __init__(self, session: Session, rows_max: int) -> None:
        self._session = session
        self._padded = session.provider == "cuda"
        self._buffers = session.blank(self._size(rows_max))
        self._memory: dict[int, Memory] = {}

    def warm_up(self) -> None:
        """Run every size that a GPU will be given once: the first run of a size chooses kernels and takes memory."""
        size = self._size(len(next(iter(self._buffers.values()))))
        while size and self._padded:
            self._bound(size)()
            size //= 2

    def __call__(self, items: Sequence[Arrays], output: str) -> list[NDArray[Any]]:
        """Return an output's rows for each item, of at most `rows_max` rows together."""
        counts = [len(next(iter(item.values()))) for item in items]
        rows = sum(counts)
        for name, buffer in self._buffers.items():
            np.concatenate([item[name] for item in items], out=buffer[:rows])
        memory = self._bound(self._size(rows))
        memory()
        found = memory.outputs[output][:rows].copy()
        return [found[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def _bound(self, size: int) -> Memory:
        if size not in self._memory:
            views = {name: buffer[:size] for name, buffer in self._buffers.items()}
            self._memory[size] = self._session.bind(views)
        return self._memory[size]

    def _size(self, rows: int) -> int:
        return 1 << (rows - 1).bit_length() if self._padded else rows
