"""Reads the CSV files of the benchmarks, gzip or plain, by the names of their columns; faults are told by line."""

import csv
import gzip
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from dsp.kernel.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
#: What is larger is no count, no price and no name of anything, and sums of such would not fit 64 bits.
_INTEGER_MAX = 2**40
#: What reading a damaged archive raises.
DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError)

T = TypeVar("T")


def read(path: Path, columns: Collection[str], parse: Callable[[Mapping[str, str]], T | None]) -> list[T]:
    """Return what `parse` makes of each row, its cells by column name, where that is not None; blank lines are skipped.

    Columns may come in any order and among others. A cell that a row lacks is empty.

    Raises:
        InputError: the file cannot be read, one of `columns` is missing, or `parse` raised ValueError.
    """
    found, line = [], 0
    try:
        with open_text(path) as file:
            rows = csv.DictReader(file, restval="", skipinitialspace=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
            missing = [name for name in columns if name not in rows.fieldnames]
            if missing:
                raise InputError(f"{path} has no column {', '.join(missing)}", reason="benchmark_file")
            for row in rows:
                line = rows.line_num
                parsed = parse(row)
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


def integer(text: str) -> int:
    """Return the whole number that a cell holds; raises ValueError where that is none, or one that nobody means.

    1.0 is one: so a table with empty cells among whole numbers is often written.
    """
    whole, _, rest = text.partition(".")
    number = int(whole if not rest.strip("0 ") else text)
    if abs(number) > _INTEGER_MAX:
        raise ValueError(f"{text!r} is out of range")
    return number
