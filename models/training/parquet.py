"""Reads the training log: Parquet files in folders by hour. A file that cannot be read is named and left out."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dsp.kernel.clock import MS_PER_HOUR

#: Of a file that is looked through, so many rows are in memory at a time.
_ROWS = 8_192
#: What a damaged file raises; the second is of a column's name that is no text any more.
DAMAGE = (OSError, UnicodeDecodeError, pa.ArrowException)


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    path: str
    reason: str


class Reading:
    """Reads one kind of row (`bids` or `notices`) between two hours, keeping account of what was not there."""

    def __init__(self, root: Path, kind: str) -> None:
        self._root = root / kind
        self.files = 0
        self.skipped: list[Skipped] = []

    def paths(self, from_ms: int, to_ms: int, schema: pa.Schema) -> list[Path]:
        """Return the files of every hour that overlaps [from_ms, to_ms) that hold the schema's columns and can be read
        to their ends. That reads them all, which takes far less than what follows.
        """
        return [path for _, paths in self._hours(from_ms, to_ms) for path in paths if self._holds(path, schema)]

    def tables(self, from_ms: int, to_ms: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield one table an hour, columns as in the schema, the latest hour first, of those that overlap the interval
        [from_ms, to_ms). An hour is read when it is asked for.
        """
        for _, paths in reversed([*self._hours(from_ms, to_ms)]):
            found = [self._read(path, schema) for path in paths]
            yield concatenate([table for table in found if table is not None], schema)

    def holes(self, from_ms: int, to_ms: int) -> list[str]:
        """Return the hours without any file between the first and the last hour that have one, as folders."""
        hours = {hour_ms for hour_ms, _ in self._hours(from_ms, to_ms)}
        first, last = min(hours, default=0), max(hours, default=0)
        return [_folder(hour_ms) for hour_ms in range(first, last, MS_PER_HOUR) if hour_ms not in hours]

    def _hours(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, list[Path]]]:
        """Yield every hour that overlaps [from_ms, to_ms) and has files, and these, in order of time."""
        for folder in sorted(self._root.glob("date=*/hour=*")):
            hour_ms, paths = _hour_ms(folder), sorted(folder.glob("*.parquet"))
            if paths and hour_ms is not None and from_ms - MS_PER_HOUR < hour_ms < to_ms:
                yield hour_ms, paths

    def _holds(self, path: Path, schema: pa.Schema) -> bool:
        try:
            with path.open("rb") as file:
                found = pq.ParquetFile(file, page_checksum_verification=True)
                unlike = _unlike(found.schema_arrow, schema)
                if unlike:
                    self._skip(path, unlike)
                    return False
                for _ in found.iter_batches(_ROWS):
                    pass
        except DAMAGE as fault:
            self._skip(path, fault)
            return False
        self.files += 1
        return True

    def _skip(self, path: Path, fault: Exception | str) -> None:
        reason = str(fault).partition("\n")[0][:200] or type(fault).__name__
        self.skipped.append(Skipped(str(path.relative_to(self._root.parent)), reason))

    def _read(self, path: Path, schema: pa.Schema) -> pa.Table | None:
        try:
            # One file, not a data set: the folders' names must not become columns.
            with path.open("rb") as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=schema.names)
            table = table.select(schema.names).cast(schema)
        except (KeyError, *DAMAGE) as fault:
            self._skip(path, fault)
            return None
        self.files += 1
        return table


def concatenate(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Return the tables as one, which is empty when there are none."""
    return pa.concat_tables([schema.empty_table(), *tables])


def _unlike(found: pa.Schema, schema: pa.Schema) -> str:
    """Return which column of the schema is not among those found, or of another type; empty where all are there."""
    for field in schema:
        place = found.get_field_index(field.name)
        if place < 0 or found.field(place).type != field.type:
            there = "missing" if place < 0 else f"of type {found.field(place).type}, not {field.type}"
            return f"column {field.name} is {there}"
    return ""


def _hour_ms(folder: Path) -> int | None:
    try:
        hour = datetime.strptime(f"{folder.parent.name} {folder.name} +0000", "date=%Y-%m-%d hour=%H %z")
    except ValueError:
        return None
    return int(hour.timestamp()) * 1_000


def _folder(hour_ms: int) -> str:
    return f"{datetime.fromtimestamp(hour_ms // 1_000, UTC):date=%Y-%m-%d/hour=%H}"
