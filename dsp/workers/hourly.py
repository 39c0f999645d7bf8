"""Parquet files by hour, named by the offsets they span: what has been written is known from the names alone."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dsp.kernel.files import sync
from dsp.stream.port import Position

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.parquet")
_DRAFT_SUFFIX = ".draft"
_ASIDE_SUFFIX = ".aside"
Row = Mapping[str, Any]


class HourlyFiles:
    """The files of one data set: `date=YYYY-MM-DD/hour=HH/<partition>-<first>-<last>.parquet`, hours in UTC."""

    def __init__(self, root: Path, schema: pa.Schema) -> None:
        self._root = root
        self._schema = schema

    def recover(self, committed: Position) -> int:
        """Remove what an interrupted run left: drafts, and files of records that are to be written again.

        Files of a partition that has no committed position are set aside instead, under another suffix: either they
        will be written again, or the event log was replaced and they are all that is left. Return how many were found.
        """
        found = 0
        for path in list(self._root.rglob("*" + _DRAFT_SUFFIX)):
            path.unlink()
        for path, partition, last in self._files():
            if partition not in committed:
                path.replace(path.with_suffix(_ASIDE_SUFFIX))
            elif last >= committed[partition]:
                path.unlink()
            else:
                continue
            found += 1
        return found

    def write(self, partition: int, first: int, last: int, rows: Sequence[tuple[int, Row]]) -> None:
        """Write the rows (time of event in milliseconds, values by column) of the records `first` to `last`.

        Each file appears whole or not at all, and survives a power cut once this returns.
        """
        by_hour: dict[Path, list[Row]] = defaultdict(list)
        for at_ms, row in rows:
            by_hour[self._root / _folder(at_ms)].append(row)
        for folder, members in by_hour.items():
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{partition}-{first:012d}-{last:012d}.parquet"
            draft = path.with_suffix(_DRAFT_SUFFIX)
            table = pa.Table.from_pylist(members, schema=self._schema)
            # Without checksums half of all flipped bits are read as something else.
            pq.write_table(table, draft, compression="zstd", write_page_checksum=True)
            sync(draft)
            draft.replace(path)
            for made in (folder, folder.parent, self._root):
                sync(made)

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        for path in list(self._root.glob("date=*/hour=*/*.parquet")):
            found = _NAME.fullmatch(path.name)
            if found is not None:
                yield path, int(found[1]), int(found[3])


def _folder(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("date=%Y-%m-%d/hour=%H")
