"""The dataset: what is an impression, a click, a conversion, and what becomes of files that are not as they should be.

Runs on every engine that is installed.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.training import dataset
from models.training.config import TrainingConfig
from models.training.engine import Engine

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_750_000_000_000 // DAY_MS * DAY_MS  # 2025-06-15
#: PySpark leaves the sockets to its Java process to be collected, and asks pandas for what a later one will not have.
SPARK = (
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="no Spark"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
)
ENGINES = ["duckdb", pytest.param("spark", marks=SPARK)]


@pytest.fixture(params=ENGINES)
def config(request: pytest.FixtureRequest) -> TrainingConfig:
    return TrainingConfig(
        engine=request.param,
        maturity_seconds=60.0,
        conversion_window_seconds=7_200,
    )


class Log:
    """A training log to be: bids and notices by hour, a file for each call of `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = 0
        self._rows: dict[str, list[dict[str, Any]]] = {"bids": [], "notices": []}

    def bid(self, bid_id: str, at_ms: int, **changes: Any) -> None:
        row = {
            "bid_id": bid_id,
            "at_ms": START_MS + at_ms,
            "request_features": np.full(len(REQUEST_COLUMNS), at_ms, dtype="<i8").tobytes(),
            "ad_features": np.full(len(AD_COLUMNS), at_ms, dtype="<i8").tobytes(),
            "feature_hash": FEATURE_HASH,
            "pctr": 0.25,
        }
        self._rows["bids"].append({**row, **changes})

    def notice(self, bid_id: str, kind: str, at_ms: int, cost_micros: int | None = 0) -> None:
        row = {"bid_id": bid_id, "kind": kind, "at_ms": START_MS + at_ms, "cost_micros": cost_micros}
        self._rows["notices"].append(row)

    def write(self, hour: int = 0) -> list[Path]:
        """Write what has been gathered into the folder of an hour; rows need not be of that hour."""
        made = []
        for kind, schema in (("bids", BIDS_SCHEMA), ("notices", NOTICES_SCHEMA)):
            folder = self.root / kind / "date=2025-06-15" / f"hour={hour:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            self._files += 1
            made.append(folder / f"0-{self._files:012d}-{self._files:012d}.parquet")
            pq.write_table(pa.Table.from_pylist(self._rows[kind], schema=schema), made[-1], compression="zstd")
            self._rows[kind] = []
        return made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    return Log(tmp_path / "training")


def load(log: Log, config: TrainingConfig, now_ms: int = DAY_MS) -> dataset.Dataset:
    return dataset.load(log.root, START_MS, START_MS + DAY_MS, START_MS + now_ms, config)


def test_impressions_are_seen_bids_and_labels_are_first_notices(log: Log, config: TrainingConfig) -> None:
    seen = ["billed", "viewed", "won", "clicked", "clicked twice", "converted", "too late"]
    unseen = ["silent", "won for nothing", "lost", "click alone"]
    for number, bid_id in enumerate(seen + unseen):
        log.bid(bid_id, number)
    for bid_id in ("billed", "clicked", "clicked twice", "converted", "too late"):
        log.notice(bid_id, "bill", 1_000, 900)
    log.notice("viewed", "imp", 1_000)
    log.notice("won", "win", 1_000, 900)
    log.notice("won for nothing", "win", 1_000)
    log.notice("won for nothing", "win", 1_000, None)
    log.notice("lost", "loss", 1_000)
    log.notice("click alone", "click", 1_000)
    for bid_id in ("clicked", "clicked twice", "converted", "too late"):
        log.notice(bid_id, "click", 2_000)
    log.notice("clicked twice", "click", 1_500)
    log.notice("clicked twice", "conv", 1_500 + 7_200_000)  # counted from the first click, to the last moment
    log.notice("converted", "conv", 3_000)
    log.notice("converted", "conv", 90_000_000)
    log.notice("too late", "conv", 2_001 + 7_200_000)
    log.notice("nobody's", "bill", 20_000_000, 1)
    log.write()
    found = load(log, config)
    assert found.impressions.at_ms.tolist() == [START_MS + number for number in range(len(seen))]
    assert found.impressions.requests[:, 0].tolist() == list(range(len(seen)))
    assert found.impressions.ads[:, -1].tolist() == list(range(len(seen)))
    assert found.impressions.labels.tolist() == [False, False, False, True, True, True, True]
    assert found.clicks.labels.tolist() == [False, True, True, False]
    assert found.clicks.at_ms.tolist() == [START_MS + number for number in range(3, 7)]
    assert (found.summary.impressions, found.summary.clicks, found.summary.conversions) == (7, 4, 2)
    assert found.summary.watermark_ms == START_MS + 90_000_000 - 3_600_000  # bounded by now
    assert (found.summary.from_ms, found.summary.to_ms) == (START_MS, START_MS + 7)


def test_notices_may_come_in_any_later_file(log: Log, config: TrainingConfig) -> None:
    log.bid("a", 0)
    log.notice("a", "bill", 1_000, 900)
    log.write(0)
    log.notice("a", "click", 20 * HOUR_MS)
    log.bid("b", 5 * HOUR_MS)  # the hour's folder has it late
    log.notice("b", "bill", 5 * HOUR_MS, 900)
    log.write(20)
    found = load(log, config)
    assert found.impressions.labels.tolist() == [True, False]
    assert len(found.summary.holes) == 19


def test_only_the_window_and_its_latest_rows(log: Log, config: TrainingConfig) -> None:
    for number in range(10):
        log.bid(f"{number}", number - 2)
        log.notice(f"{number}", "bill", 1_000, 900)
    log.notice("last", "loss", 10 * HOUR_MS)
    log.write()
    assert load(log, config).impressions.at_ms.tolist() == [START_MS + number for number in range(8)]
    assert load(log, config).impressions.weights.tolist() == [1.0] * 8


def test_beyond_the_bound_clicks_stay_and_few_negatives_stand_for_all(log: Log, config: TrainingConfig) -> None:
    for number in range(200):
        log.bid(f"{number}", number)
        log.notice(f"{number}", "bill", 1_000, 900)
    for number in (3, 50, 120):
        log.notice(f"{number}", "click", 2_000)
    log.notice("last", "loss", 10 * HOUR_MS)
    log.write()
    kept = load(log, _few(config, 20)).impressions
    assert len(kept) == 20
    assert (kept.at_ms[kept.labels] - START_MS).tolist() == [3, 50, 120]
    assert kept.weights[kept.labels].tolist() == [1.0] * 3
    assert kept.weights.sum() == pytest.approx(200)
    assert kept.at_ms[~kept.labels].min() < START_MS + 100 < kept.at_ms[~kept.labels].max()
    fewer = load(log, _few(config, 12)).impressions
    assert set(fewer.at_ms.tolist()) < set(kept.at_ms.tolist())  # by the bid's id alone


def test_young_clicks_count_for_what_is_known_of_them(log: Log, config: TrainingConfig) -> None:
    now_ms = 6_000_000
    for number in range(100):
        clicked_ms = 60_000 * number
        log.bid(f"{number}", number, ad_features=np.zeros(len(AD_COLUMNS), dtype="<i8").tobytes())
        log.notice(f"{number}", "bill", clicked_ms, 900)
        log.notice(f"{number}", "click", clicked_ms)
        if number % 2 and clicked_ms + 3_600_000 < now_ms:  # half convert, an hour after the click
            log.notice(f"{number}", "conv", clicked_ms + 3_600_000)
    log.notice("last", "loss", now_ms)
    log.write()
    clicks = load(log, config, now_ms).clicks
    assert len(clicks) == 100
    converted = clicks.labels
    assert converted.sum() == 20  # of the others none has come yet, and none is lost by that
    assert np.average(converted, weights=clicks.weights) == pytest.approx(0.5, abs=0.12)
    assert clicks.weights[converted].tolist() == [1.0] * 20
    assert clicks.weights[-1] < 0.1 < 0.9 < clicks.weights[0]


def _few(config: TrainingConfig, rows: int) -> TrainingConfig:
    return TrainingConfig(engine=config.engine, rows_max=rows, rows_min=rows)


def test_what_is_too_young_or_of_other_features_is_counted_apart(log: Log, config: TrainingConfig) -> None:
    log.bid("old", 0)
    log.bid("young", 1)
    log.bid("other", 2, feature_hash="another")
    log.bid("short", 3, request_features=b"12345678")
    log.bid("none", 4, feature_hash=None)
    for bid_id in ("old", "other", "short", "none"):
        log.notice(bid_id, "bill", 1_000, 900)
    log.notice("young", "bill", 50_000, 900)
    log.notice("x", "loss", 100_000)
    log.write()
    found = load(log, config)
    assert len(found.impressions) == 1
    assert (found.summary.foreign, found.summary.immature) == (3, 1)


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "rubbish", "page", "value", "name", "other columns", "other type", "folder"]
)
@pytest.mark.parametrize("kind", ["bids", "notices"])
def test_a_damaged_file_is_named_and_left_out(log: Log, config: TrainingConfig, kind: str, damage: str) -> None:
    for number in range(200):
        log.bid(f"{number}", number)
        log.notice(f"{number}", "bill", 1_000, 900)
    log.notice("last", "loss", 10 * HOUR_MS)
    log.write()
    for number in range(200, 300):
        log.bid(f"{number}", number)
        log.notice(f"{number}", "bill", 1_000, 900)
    bids, notices = log.write()
    path = bids if kind == "bids" else notices
    _damage(path, damage)
    found = load(log, config)
    assert [entry.path for entry in found.summary.skipped] == [str(path.relative_to(log.root))]
    assert found.summary.skipped[0].reason
    assert found.summary.files == 3
    assert len(found.impressions) == 200


def _damage(path: Path, damage: str) -> None:
    data = path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.touch()
    elif damage == "rubbish":
        path.write_bytes(bytes(range(256)) * 10)
    elif damage == "page":  # the footer is whole
        path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    elif damage == "value":  # decodes, and is not what was written
        pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
        path.write_bytes(path.read_bytes().replace(b"250", b"000", 1))
    elif damage == "name":  # of a column: no text any more
        path.write_bytes(data.replace(b"bid_id", b"\xffid_id"))
    elif damage == "other columns":
        pq.write_table(table.rename_columns([f"x_{name}" for name in table.column_names]), path)
    elif damage == "other type":
        place = table.column_names.index("at_ms")
        pq.write_table(table.set_column(place, "at_ms", table["at_ms"].cast(pa.string())), path)
    elif damage == "folder":
        path.mkdir()


def test_nothing_is_an_empty_dataset(log: Log, config: TrainingConfig) -> None:
    assert len(load(log, config).impressions) == 0  # no folder at all
    log.bid("a", 0)
    log.write()
    assert len(load(log, config).impressions) == 0  # no notices
    found = load(log, config, now_ms=0)
    assert (found.summary.impressions, found.summary.from_ms, found.summary.to_ms) == (0, START_MS, START_MS)


def test_what_was_predicted_live_comes_along(log: Log, config: TrainingConfig) -> None:
    log.bid("old", 0)
    log.notice("old", "bill", 1_000, 900)
    old, _ = log.write()
    written = pq.read_table(old, partitioning=None)
    pq.write_table(written.drop_columns(["pctr", "model_version"]), old)  # as files once were
    log.bid("new", 1, model_version="it")
    log.notice("new", "bill", 1_000, 900)
    log.notice("last", "loss", 10 * HOUR_MS)
    log.write()
    shadowed = load(log, config).shadowed
    assert shadowed.champion.tolist()[1] == 0.25
    assert np.isnan([shadowed.champion[0], *shadowed.challenger]).all()
    assert shadowed.champions.tolist() == ["", "it"]
    assert shadowed.challengers.tolist() == ["", ""]


def test_duckdb_keeps_to_its_bounds(tmp_path: Path) -> None:
    engine = Engine(TrainingConfig(engine_memory_mb=100, threads=1), tmp_path)
    rows = engine._connection.raw_sql(
        "SELECT current_setting('memory_limit'), current_setting('threads'), current_setting('temp_directory')"
    ).fetchone()
    engine.close()
    assert rows == ("95.3 MiB", 1, str(tmp_path))
