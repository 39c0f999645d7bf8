"""Files of the training log by hour."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsp.workers.hourly import HourlyFiles


def test_a_flipped_bit_is_found_where_pages_are_verified(tmp_path: Path) -> None:
    schema = pa.schema([("number", pa.int64())])
    HourlyFiles(tmp_path, schema).write(0, 0, 999, [(0, {"number": each * each % 997}) for each in range(1_000)])
    (path,) = tmp_path.rglob("*.parquet")
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    whole = path.read_bytes()
    for place in range(column.dictionary_page_offset + 64, column.data_page_offset, 50):  # headers have no checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(OSError, match="CRC checksum verification failed"):
            pq.ParquetFile(path, page_checksum_verification=True).read()
