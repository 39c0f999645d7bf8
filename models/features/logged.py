"""Feature rows as decisions and the training log hold them: their numbers, little-endian, one after the other."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS

#: numpy keeps one object for each native type; on other machines, and for other types, there is a conversion.
_FORM = np.dtype("<i8")
#: A row of other features has another length.
REQUEST_BYTES = _FORM.itemsize * len(REQUEST_COLUMNS)
AD_BYTES = _FORM.itemsize * len(AD_COLUMNS)


def pack(row: NDArray[Any]) -> bytes:
    """Return a row of int64."""
    return row.tobytes() if row.dtype is _FORM else row.astype(_FORM).tobytes()


def unpack(rows: Iterable[bytes], columns: Sequence[str]) -> NDArray[np.int64]:
    """Return n rows with these columns, int64 (n, columns), not to be written to.

    Raises:
        ValueError: they are of another length.
    """
    return np.frombuffer(b"".join(rows), _FORM).reshape(-1, len(columns)).astype(np.int64, copy=False)
