"""The shading benchmark as a command: its contract, its reading of the season 2 format, and no look ahead."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from models.__main__ import main
from models.benchmark.season2 import load
from models.benchmark.shading import measure

COLUMNS = [
    "timestamp", "useragent", "region", "city", "adexchange", "domain", "slotid", "slotwidth", "slotheight",
    "slotvisibility", "slotformat", "slotprice", "creative", "bidprice", "payprice", "advertiser", "src",
]  # fmt: skip
DAYS = (20130606, 20130607, 20130608)


def slot_price(random: Random, slot: int) -> int:
    """Each slot has a price level of its own, and now and then a rival pays far more."""
    return 20 + 15 * slot if random.random() < 0.8 else 200


def write(
    path: Path,
    price: Callable[[Random, int, int], int] = lambda random, slot, _: slot_price(random, slot),
    source: str = "day_sample",
) -> None:
    random = Random(4)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number in range(1_800):
            day, slot = DAYS[number * len(DAYS) // 1_800], random.randrange(6)
            writer.writerow(
                {
                    "timestamp": f"{day}{number % 24:02d}0000000", "useragent": "Mozilla/5.0", "region": 1, "city": 2,
                    "adexchange": 1, "domain": "d", "slotid": f"s{slot}", "slotwidth": 300, "slotheight": 250,
                    "slotvisibility": 1, "slotformat": 0, "slotprice": 5, "creative": "c", "bidprice": 300,
                    "payprice": price(random, slot, day), "advertiser": "1458", "src": source,
                }
            )  # fmt: skip
        # What must not be read: clicks without a price, the first minute, and prices that the bid did not reach.
        for other, paid in (("click_log", 0), ("first_minute", 1), (source, 301)):
            for _ in range(300):
                writer.writerow({"timestamp": "20130606000000000", "bidprice": 300, "payprice": paid, "src": other})


def shares(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, dict[str, float]]:
    assert main(["benchmark", "shading", "--events", str(path), "--train-until", "20130607", "--json", *more]) == 0
    found: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)
    return found


def test_context_beats_every_constant_and_the_market_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.csv.gz"
    write(path)
    plot = tmp_path / "shading.png"
    found = shares(path, capsys, "--plot", str(plot))
    assert plot.stat().st_size > 1_000
    assert list(found) == ["1.0", "1.5", "2.0", "3.0"]
    for bidders in found.values():
        assert list(bidders) == ["none", "best_constant", "global_cdf", "ours", "ours_censored"]
        assert bidders["none"] == 0.0
        assert bidders["ours"] > max(bidders["best_constant"], bidders["global_cdf"]) + 0.05
        assert bidders["ours"] <= 1.0
        assert bidders["ours_censored"] == pytest.approx(bidders["ours"], abs=0.03)


def test_nothing_is_learned_from_later_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Were prices of the last day seen, its bids would follow them: they are all just above what was usual."""
    path = tmp_path / "events.csv.gz"
    write(path, lambda random, slot, day: 21 + 15 * slot if day == DAYS[-1] else 20 + 15 * slot)
    assert shares(path, capsys)["2.0"]["ours"] < 0.5


def test_season_3_calls_its_sample_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "two.csv.gz")
    write(tmp_path / "three.csv.gz", source="imp_sample")
    assert shares(tmp_path / "three.csv.gz", capsys) == shares(tmp_path / "two.csv.gz", capsys)


def test_a_table_and_a_plot_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plot = tmp_path / "events.csv.gz", tmp_path / "shading.png"
    write(path)
    arguments = ["benchmark", "shading", "--events", str(path), "--train-until", "20130607", "--plot", str(plot)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("ours_censored") == 2  # in the table and in the chart
    assert plot.stat().st_size > 1_000


def test_fewer_rows_than_tenths_are_compared_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "events.csv.gz")
    impressions = load(tmp_path / "events.csv.gz")
    few = (impressions.days < DAYS[-1]) | (np.arange(len(impressions)) >= len(impressions) - 3)
    predicted, found = measure(impressions[few], DAYS[-2]).calibration
    assert np.isfinite(predicted).all()
    assert found.shape == predicted.shape == (3,)


def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("a,b\n1,2\n")
    assert main(["benchmark", "shading", "--events", str(path), "--train-until", "20130607", "--json"]) == 2
    assert "no column timestamp, useragent" in capsys.readouterr().err


def test_a_file_without_rows_that_count_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join("click_log" if name == "src" else "1" for name in COLUMNS))
    assert main(["benchmark", "shading", "--events", str(path), "--train-until", "20130607", "--json"]) == 2
    assert "no rows of source day_sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "cell"), [("payprice", "-5"), ("timestamp", "2013"), ("bidprice", ""), ("slotprice", "x")]
)
def test_a_cell_that_cannot_be_is_refused_by_line_and_column(
    tmp_path: Path, column: str, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict.fromkeys(COLUMNS, "1") | {"timestamp": "20130606000000000", "src": "day_sample"}
    path = tmp_path / "events.csv"
    path.write_text("\n".join(",".join(cells) for cells in (COLUMNS, row.values(), (row | {column: cell}).values())))
    assert main(["benchmark", "shading", "--events", str(path), "--train-until", "20130607", "--json"]) == 2
    assert f"{path}, line 3: {column}: " in capsys.readouterr().err


def test_the_order_of_rows_is_that_of_time_however_they_were_written(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "1") | {"src": "day_sample"}
    stamps = ("20130608000000000", "20130606000000001", "20130606000000000")
    rows = [COLUMNS, *((row | {"timestamp": stamp, "slotprice": stamp[-1]}).values() for stamp in stamps)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(map(",".join, rows)))
    found = load(path)
    assert found.days.tolist() == [20130606, 20130606, 20130608]
    assert found.floors.tolist() == [0, 10_000, 0]
