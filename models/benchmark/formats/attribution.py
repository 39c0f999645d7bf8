"""The slice of Criteo's attribution data: five categories and a click, Parquet; the order of the file is the time."""

from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import InputError
from models.benchmark.formats import Format
from models.features.spec import FeatureSpec, Group
from models.training.rows import Rows

COLUMNS = ("cat1", "cat4", "cat6", "cat8", "cat9")
#: What of them goes together: every pair, every three, and all.
_CROSSES = tuple(cross for size in (2, 3, len(COLUMNS)) for cross in combinations(range(len(COLUMNS)), size))
_NAMES = ("_x_".join(COLUMNS[place] for place in cross) for cross in _CROSSES)
_REQUEST = (*COLUMNS, *_NAMES)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_TIME, _LABEL = "timestamp", "click"
_SECONDS_MAX = 2**33  # the year 2242; milliseconds of any day that logs are from are beyond


def load(path: Path) -> Rows:
    """Read a file; with a column `timestamp` (seconds) its rows are put in order of time. An absent category is 0.

    Raises:
        InputError: it is broken, a column is missing or holds something else, or a row has no click or no time.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        missing = [name for name in (*COLUMNS, _LABEL) if name not in table.column_names]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}", reason="benchmark_file")
        for name in (_LABEL, _TIME):
            if name in table.column_names and (absent := table[name].null_count):
                raise InputError(f"{path}: {name} is absent in {absent} row(s)", reason="benchmark_file")

        def column(name: str) -> NDArray[np.int64]:
            try:
                numbers: NDArray[np.int64] = table[name].cast(pa.int64()).fill_null(0).to_numpy()
            except pa.ArrowException as fault:
                raise ValueError(f"{name}: {fault}") from fault
            return numbers

        values = np.stack([column(name) for name in COLUMNS], axis=1)
        labels = column(_LABEL) > 0
        at_ms = np.arange(len(labels), dtype=np.int64)
        if _TIME in table.column_names:
            seconds = column(_TIME)
            if len(seconds) and not 0 <= seconds.min() <= seconds.max() <= _SECONDS_MAX:
                raise ValueError(f"{_TIME} is not in seconds")
            at_ms = seconds * MS_PER_SECOND
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise InputError(f"{path}: {fault}", reason="benchmark_file") from fault
    order = np.argsort(at_ms, kind="stable")
    ads = np.zeros((len(order), 0), dtype=np.int64)
    requests = np.column_stack([values, *(_crossed(values, cross) for cross in _CROSSES)])
    return Rows(at_ms[order], requests[order], ads, labels[order], np.ones(len(order)))


def _crossed(values: NDArray[np.int64], cross: tuple[int, ...]) -> NDArray[np.int64]:
    """Return one code for the values of several columns, (n,)."""
    mixed = np.zeros(len(values), dtype=np.uint64)
    for place in cross:
        mixed = (mixed ^ values[:, place].astype(np.uint64)) * _ODD
        mixed ^= mixed >> np.uint64(32)
    return mixed.view(np.int64)


ATTRIBUTION = Format(
    FeatureSpec(
        request_columns=_REQUEST,
        ad_columns=(),
        groups=tuple(Group(name=name, request=(name,)) for name in _REQUEST),
        hierarchy=(),
    ),
    load,
)
