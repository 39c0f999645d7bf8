"""Files of labelled impressions: told apart by shape, read whole, and refused with a line where they are broken."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dsp.kernel.errors import InputError
from models.benchmark import table
from models.benchmark.formats.attribution import ATTRIBUTION
from models.benchmark.formats.criteo import ABSENT, CRITEO
from models.benchmark.formats.detect import detect
from models.benchmark.formats.ipinyou import IPINYOU
from models.features.encode import text_hash

HEADER = (
    "timestamp,useragent,ip,region,city,adexchange,domain,url,slotid,slotwidth,slotheight,slotvisibility,slotformat,"
    "slotprice,creative,keypage,advertiser,usertag,src,click,weight,payprice,bidprice,click_ts"
)


def event(stamp: str = "20130607010203004", **changed: str) -> str:
    row = dict.fromkeys(HEADER.split(","), "x") | {
        "timestamp": stamp, "ip": "1.2.3.*", "slotwidth": "300", "slotheight": "250", "slotprice": "5",
        "advertiser": "1458", "usertag": '"10,20"', "click": "0", "weight": "291.5", "src": "day_sample",
    }  # fmt: skip
    return ",".join((row | changed).values())


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_impressions_have_their_weights_and_clicks_weigh_one(tmp_path: Path) -> None:
    path = write(
        tmp_path / "events.csv",
        HEADER,
        event("20130607235959999", click="1", src="click_log", weight="1.0"),
        event("20130607000000000"),
        event("20130607010000000", click="1"),
        event("20130606000000000", src="first_minute", weight="0.0"),
        event("20130606000000000", src="first_minute", weight="0.0", click="1"),
    )
    assert detect(path) is IPINYOU
    rows = IPINYOU.read(path)
    assert rows.weights.tolist() == [291.5, 1.0, 1.0]
    assert rows.labels.tolist() == [False, True, True]
    assert np.diff(rows.at_ms).tolist() == [3_600_000, 23 * 3_600_000 - 1]
    assert rows.ads[:, IPINYOU.spec.ad_columns.index("advertiser")].tolist() == [1458] * 3
    tags = rows.requests[0, IPINYOU.spec.request_columns.index("tag_1") :]
    assert set(tags.tolist()) == {text_hash("10"), text_hash("20"), 0}


def test_only_a_click_may_go_without_a_weight_where_others_have_one(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", HEADER, event(click="1", src="click_log", weight=""))
    assert IPINYOU.read(path).weights.tolist() == [1.0]
    bare = HEADER.replace(",weight", "")
    cells = event().split(",")
    del cells[HEADER.split(",").index("weight") + 1]  # the tags hold a comma
    assert IPINYOU.read(write(tmp_path / "all.csv", bare, ",".join(cells))).weights.tolist() == [1.0]


def test_a_days_first_minute_is_left_out_by_its_source_where_weights_do_not_tell(tmp_path: Path) -> None:
    header = [name for name in HEADER.split(",") if name not in ("src", "weight")]
    bare = ",".join(next(csv.reader([event(usertag="10")]))[HEADER.split(",").index(name)] for name in header)
    names = ",".join(header)
    both = write(tmp_path / "both.csv", f"{names},src", f"{bare},first_minute", f"{bare},day_sample")
    assert IPINYOU.read(both).weights.tolist() == [1.0]
    assert IPINYOU.read(write(tmp_path / "no_source.csv", names, bare)).weights.tolist() == [1.0]
    unweighed = write(tmp_path / "unweighed.csv", HEADER, event(src="first_minute", weight=""), event())
    assert IPINYOU.read(unweighed).weights.tolist() == [291.5]


def test_what_is_known_after_the_auction_or_only_of_one_log_is_no_input(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", HEADER, event())
    changed = {"payprice": "77", "src": "click_log", "click_ts": "20130607010204000", "bidprice": "300", "click": "1"}
    other = write(tmp_path / "other.csv", HEADER, event("20130607010203999", **changed))
    first, second = IPINYOU.read(one), IPINYOU.read(other)
    assert np.array_equal(first.requests, second.requests)
    assert np.array_equal(first.ads, second.ads)
    assert second.labels.all()


def test_display_rows_have_counts_levels_and_categories(tmp_path: Path) -> None:
    lines = ["\t".join(["1", "7", "", *["0"] * 11, "ab", "", *["c"] * 24]), "\t".join(["0", *["1"] * 13, *["d"] * 26])]
    path = tmp_path / "display.tsv.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    assert detect(path) is CRITEO
    rows = CRITEO.read(path)
    names = CRITEO.spec.request_columns
    assert rows.labels.tolist() == [True, False]
    assert rows.ads.shape == (2, 0)
    found = dict(zip(names, rows.requests[0].tolist(), strict=True))
    assert (found["I1"], found["I2"], found["C1"], found["C2"]) == (7, ABSENT, text_hash("ab"), 0)
    assert found["I1_level"] != found["I2_level"]


def test_whole_numbers_may_be_written_with_a_point_and_display_rows_with_a_header(tmp_path: Path) -> None:
    """As tables whose columns have empty cells, and samples that others have cut, come."""
    names = ["Label", *(f"I{number}" for number in range(1, 14)), *(f"C{number}" for number in range(1, 27))]
    counts, hashes = ["1", "-2", *[""] * 11], ["68fd1e64"] * 26
    plain = CRITEO.read(write(tmp_path / "plain.tsv", "\t".join(["1", *counts, *hashes])))
    pointed = [cell and f"{cell}.0" for cell in counts]
    path = write(tmp_path / "headed.tsv", "\t".join(names), "\t".join(["1.0", *pointed, *hashes]), "")
    assert detect(path) is CRITEO
    headed = CRITEO.read(path)
    assert np.array_equal(headed.requests, plain.requests)
    assert headed.labels.tolist() == [True]
    for text in ("1.5", "1e3", ".", "nan", "inf", "1.0.0", "x.0", ""):
        with pytest.raises(ValueError, match="invalid literal"):
            table.integer(text)


def test_the_attribution_slice_is_in_order_of_time_where_there_is_one(tmp_path: Path) -> None:
    columns = {name: [1, 2, 1] for name in ("cat1", "cat4", "cat6", "cat8", "cat9")}
    table = pa.table({**columns, "click": [1, 0, 0]})
    parquet.write_table(table, tmp_path / "plain")
    parquet.write_table(table.append_column("timestamp", pa.array([30, 10, 20])), tmp_path / "timed")
    assert detect(tmp_path / "plain") is ATTRIBUTION
    assert ATTRIBUTION.read(tmp_path / "plain").labels.tolist() == [True, False, False]
    timed = ATTRIBUTION.read(tmp_path / "timed")
    assert timed.labels.tolist() == [False, False, True]
    assert timed.at_ms.tolist() == [10_000, 20_000, 30_000]
    # Equal values make equal crosses, others do not.
    assert np.array_equal(timed.requests[1], timed.requests[2])
    assert (timed.requests[0] != timed.requests[1]).all()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a,b", "1,2"], "no column timestamp"),
        ([HEADER, event(click="")], "line 2"),
        ([f"{HEADER},weight", f"{event()},1"], "more than one column weight"),
        ([HEADER, event(), event()[:-2]], "line 3: 23 columns, not 24"),
        ([HEADER, event(useragent="Mozilla/5.0 (KHTML, like Gecko)")], "line 2: 25 columns, not 24"),
        ([HEADER, event(weight="nan")], "line 2: weight: 'nan'"),
        ([HEADER, event(weight="")], "line 2: weight: could not convert"),
        ([HEADER, event(weight="-1")], "line 2: weight: '-1'"),
        ([HEADER, event(weight="1e300")], "line 2: weight: '1e300'"),
        ([HEADER, event(weight="0")], "no rows with a weight"),
        ([HEADER, event(click="-1")], "line 2: click: '-1'"),
        ([HEADER, event("2013")], "line 2: timestamp: '2013'"),
        ([HEADER, event("20130607993003004")], "line 2: timestamp: .*993003004"),
        ([HEADER], "no rows with a weight"),
        (["\t".join(["0"] * 40), "0\t1"], "line 2: 2 columns"),
        (["\t".join(["0"] * 40), "\t".join(["x"] * 40)], "line 2: label: .*'x'"),
        (["\t".join(["0"] * 40), "\t".join(["0", "1", "x", *["0"] * 37])], "line 2: I2: .*'x'"),
        (["just words"], "neither Parquet"),
        (["PAR1 but no more"], "Parquet"),
        ([HEADER, event(slotprice="9" * 30)], "line 2: slotprice: .* out of range"),
        ([HEADER, event(advertiser="-" + "9" * 30)], "line 2: .* out of range"),
        (["\t".join(["0"] * 40), "\t".join(["9" * 30] * 40)], "line 2: .* out of range"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, lines: list[str], said: str) -> None:
    path = write(tmp_path / "broken", *lines)
    with pytest.raises(InputError, match=said):
        detect(path).read(path)


@pytest.mark.parametrize("line", [f"{HEADER}\n", "\t".join(["0"] * 40) + "\n"])
def test_an_archive_that_is_damaged_anywhere_is_refused(tmp_path: Path, line: str) -> None:
    whole = gzip.compress("".join(f"{line}{number}" for number in range(2_000)).encode())
    path = tmp_path / "damaged"
    for at in (10, 14, len(whole) // 2, len(whole) - 6):
        path.write_bytes(whole[:at] + bytes(byte ^ 0x5A for byte in whole[at : at + 20]) + whole[at + 20 :])
        with pytest.raises(InputError, match="damaged"):
            detect(path).read(path)


def test_a_parquet_file_of_damaged_pages_is_refused(tmp_path: Path) -> None:
    columns = {name: np.arange(9_000) for name in ("cat1", "cat4", "cat6", "cat8", "cat9", "click")}
    parquet.write_table(pa.table(columns), tmp_path / "damaged")
    whole = (tmp_path / "damaged").read_bytes()
    (tmp_path / "damaged").write_bytes(whole[:4] + bytes(2_000) + whole[2_004:])
    with pytest.raises(InputError, match="damaged"):
        ATTRIBUTION.read(tmp_path / "damaged")


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(InputError, match=f"{path} cannot be read: .*{said}"):
            detect(path)
        with pytest.raises(InputError, match=f"{path} cannot be read: .*{said}"):
            table.read(path, (), lambda row: row)


def test_a_category_that_is_absent_is_a_value_and_a_click_or_time_that_is_absent_a_fault(tmp_path: Path) -> None:
    columns = {name: [1, None, 2, None] for name in ("cat1", "cat4", "cat6", "cat8", "cat9")}
    whole = pa.table({**columns, "click": [1, 0, 0, 1], "timestamp": [1, 2, 3, 4]})
    parquet.write_table(whole, tmp_path / "absent")
    requests = ATTRIBUTION.read(tmp_path / "absent").requests
    assert requests.dtype == np.int64
    assert requests[:, 0].tolist() == [1, 0, 2, 0]
    assert np.array_equal(requests[1], requests[3])
    for name, column in (("click", [0.5] * 4), ("cat1", ["v1"] * 4)):
        parquet.write_table(whole.drop([name]).append_column(name, pa.array(column)), tmp_path / "other")
        with pytest.raises(InputError, match=f"other: {name}: "):
            ATTRIBUTION.read(tmp_path / "other")
    for at in (1_371_000_000_000, 2**62, -1):
        parquet.write_table(whole.drop(["timestamp"]).append_column("timestamp", pa.array([at] * 4)), tmp_path / "ms")
        with pytest.raises(InputError, match="timestamp is not in seconds"):
            ATTRIBUTION.read(tmp_path / "ms")
    for name in ("click", "timestamp"):
        parquet.write_table(whole.drop([name]).append_column(name, pa.array([1, None, 2, 3])), tmp_path / "lacking")
        with pytest.raises(InputError, match=f"{name} is absent in 1 row"):
            ATTRIBUTION.read(tmp_path / "lacking")


def test_a_parquet_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"cat1": [1], "click": [0]}), tmp_path / "other")
    with pytest.raises(InputError, match="no column cat4"):
        detect(tmp_path / "other").read(tmp_path / "other")
