"""Reads the CSV files of the benchmarks, gzip or plain, by the names of their columns; faults are told by line."""

import csv
import gzip
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, TypeVar

from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
#: What is larger is no count, no price and no name of anything, and sums of such would not fit 64 bits.
_INTEGER_MAX = 2**40
_STAMP_DIGITS = (14, 17)
#: What reading a damaged archive raises.
DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError)

T = TypeVar("T")


def read(path: Path, columns: Collection[str], parse: Callable[[Mapping[str, str]], T | None]) -> list[T]:
    """Return what `parse` makes of each row, its cells by column name, where that is not None; empty rows are skipped.

    Columns may come in any order and among others. A row of another width was cut, or lacks its quotes: what its cells
    are nobody knows.

    Raises:
        InputError: the file cannot be read, one of `columns` is missing, a name stands twice, a row is of another
            width, or `parse` raised ValueError.
    """
    found, line = [], 0
    try:
        with open_text(path) as file:
            rows = csv.reader(file, skipinitialspace=True)
            header = [name.strip() for name in next(rows, [])]
            twice = sorted({name for name in header if name and header.count(name) > 1})
            missing = [name for name in columns if name not in header]
            for said, names in (("more than one column", twice), ("no column", missing)):
                if names:
                    raise InputError(f"{path} has {said} {', '.join(names)}", reason="benchmark_file")
            for cells in rows:
                line = rows.line_num
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} columns, not {len(header)}")
                parsed = parse(dict(zip(header, cells, strict=True)))
                if parsed is not None:
                    found.append(parsed)
    except ValueError as fault:
        raise InputError(f"{path}, line {line}: {fault}", reason="benchmark_file") from fault
    except (csv.Error, *DAMAGED) as fault:
        raise InputError(f"{path} is broken after line {line}: {fault}", reason="benchmark_file") from fault
    return found


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzip or plain; what is not UTF-8 is replaced.

    Raises:
        InputError: it cannot be read.
    """
    zipped = beginning(path, len(_GZIP_MAGIC)) == _GZIP_MAGIC
    # A byte order mark is no part of the first column's name; what is not UTF-8 can be in no cell that is read.
    with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        yield file


def beginning(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a file, fewer where it has fewer.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as fault:
        raise InputError(f"{path} cannot be read: {fault.strerror}", reason="benchmark_file") from fault


def cell(row: Mapping[str, str], column: str, parse: Callable[[str], T]) -> T:
    """Return what `parse` makes of a row's cell; the ValueError that it raises then names the column."""
    try:
        return parse(row[column])
    except ValueError as fault:
        raise ValueError(f"{column}: {fault}") from fault


def count(text: str) -> int:
    """Return the whole number that a cell holds; raises ValueError where that is none, or below 0."""
    number = integer(text)
    if number < 0:
        raise ValueError(f"{text!r} is negative")
    return number


def integer(text: str) -> int:
    """Return the whole number that a cell holds; raises ValueError where that is none, or one that nobody means.

    1.0 is one: so a table with empty cells among whole numbers is often written.
    """
    whole, _, rest = text.partition(".")
    number = int(whole if not rest.strip("0 ") else text)
    if abs(number) > _INTEGER_MAX:
        raise ValueError(f"{text!r} is out of range")
    return number


def instant_ms(text: str) -> int:
    """Return milliseconds of a yyyyMMddHHmmssSSS, also without milliseconds; raises ValueError where it is no time.

    It is local time of one zone, and taken as if it were UTC.
    """
    stamp, fault = text.strip(), f"{text!r} is no yyyyMMddHHmmssSSS"
    if len(stamp) not in _STAMP_DIGITS or not stamp.isdecimal():
        raise ValueError(fault)
    try:
        second = datetime.strptime(stamp[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(fault) from None
    return int(second.timestamp()) * MS_PER_SECOND + int(stamp[14:] or 0)
