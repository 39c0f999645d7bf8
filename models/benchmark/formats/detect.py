"""Tells the kinds of files of labelled impressions apart, by their shape."""

from pathlib import Path

from dsp.kernel.errors import InputError
from models.benchmark.formats import Format
from models.benchmark.formats.attribution import ATTRIBUTION
from models.benchmark.formats.criteo import CRITEO, WIDTH
from models.benchmark.formats.ipinyou import IPINYOU
from models.benchmark.table import DAMAGED, beginning, open_text

_PARQUET_MAGIC = b"PAR1"


def detect(path: Path) -> Format:
    """Return what kind of file it is: Parquet, tab-separated values without a header, or CSV with one.

    Raises:
        InputError: none of these, broken, or it cannot be read.
    """
    if beginning(path, len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
        return ATTRIBUTION
    try:
        with open_text(path) as text:
            first = text.readline()
    except DAMAGED as fault:
        raise InputError(f"{path} is broken: {fault}", reason="benchmark_file") from fault
    if first.count("\t") == WIDTH - 1:
        return CRITEO
    if "," in first:
        return IPINYOU
    raise InputError(f"{path} is neither Parquet, nor Criteo's rows, nor a CSV", reason="benchmark_file")
