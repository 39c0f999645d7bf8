"""Publishing landscapes: which exchange gets which, when there is nothing to publish, and what must not be served."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dsp import registry
from dsp.kernel.errors import BundleError
from dsp.pricing.landscape import Landscape
from models.features.columns import REQUEST_COLUMNS
from models.features.encode import text_hash
from models.serving import landscape as serving
from models.training import auctions, landscapes
from models.training.config import TrainingConfig
from models.training.join import BIDS
from models.training.parquet import Reading

START_MS = 1_750_000_000_000
NOW_MS = START_MS + 82_000  # all that `trained` logged was won, at one price, in the exchange demo-first


def features(exchange: str) -> Any:
    row = np.zeros(len(REQUEST_COLUMNS), dtype=np.int64)
    row[REQUEST_COLUMNS.index("exchange")] = text_hash(exchange)
    return row


def served(data_dir: Path) -> tuple[str, serving.Landscapes]:
    version = registry.resolve(data_dir / "models", serving.LANDSCAPE)
    assert version is not None
    return version, serving.load(data_dir / "models", version)


def test_the_nightly_publishes_what_an_exchange_has_data_for(trained: Path) -> None:
    _, found = served(trained)
    curve = found.curve(features("demo-first"), 100_000)
    assert curve is not None
    assert curve.at(1_000_000.0) > 0.9  # the price at which all was won
    assert curve.at(99_999.0) == 0.0  # below the floor
    assert found.curve(features("another"), 100_000) is None


def test_an_exchange_with_few_auctions_has_a_histogram(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained / "training", tmp_path / "training")
    config = TrainingConfig(landscape_rows_min=10_000)  # and 8,000 are there
    assert landscapes.publish(tmp_path, NOW_MS, config)["with_context"] == 0
    version, found = served(tmp_path)
    spec = msgspec.json.decode(registry.read(tmp_path / "models", version)["landscape.json"], type=serving.Spec)
    assert spec.exchanges == {text_hash("demo-first"): landscapes.HISTOGRAM}
    assert found.curve(features("demo-first"), 100_000) is not None


def test_no_more_hours_are_read_than_it_takes(tmp_path: Path, write_log: Any) -> None:
    """A window of busy days does not fit into memory, and only its latest bids are learned from."""
    hours_ms = [START_MS + hour * 3_600_000 for hour in range(3)]
    for seed, start_ms in enumerate(hours_ms):
        write_log(tmp_path, 200, start_ms=start_ms, seed=seed)
    now_ms = hours_ms[-1] + 10_000
    bids = Reading(tmp_path, "bids")
    tables = bids.tables(START_MS, now_ms, BIDS)
    assert pc.min(next(tables)["at_ms"]).as_py() == hours_ms[-1]
    assert bids.files == 1
    whole = auctions.load(tmp_path, START_MS, now_ms, 1_000)
    assert sum(whole.counts.values()) == len(whole.auctions) == 600
    for rows in (150, 200, 250):
        latest = auctions.load(tmp_path, START_MS, now_ms, rows)
        assert (len(latest.auctions), latest.to_ms) == (rows, whole.to_ms)
        assert np.array_equal(latest.auctions.contexts, whole.auctions.contexts[-rows:])
        assert np.array_equal(latest.auctions.high, whole.auctions.high[-rows:])
        assert latest.counts == {**whole.counts, "won_without_price": rows}
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()
    assert len(auctions.load(tmp_path, START_MS, now_ms, 150).auctions) == 0


def test_bids_out_of_the_window_or_without_a_time_teach_nothing(tmp_path: Path, write_log: Any) -> None:
    """One dated in the future would be the latest that is known, and nothing would be new until then."""
    write_log(tmp_path, 200)
    (path,) = (tmp_path / "bids").rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    times = [START_MS - 1, START_MS + 10_001, 2**62, None, *table["at_ms"].to_pylist()[4:]]
    place = table.column_names.index("at_ms")
    pq.write_table(table.set_column(place, "at_ms", pa.array(times, pa.int64())), path)
    found = auctions.load(tmp_path, START_MS, START_MS + 10_000, 1_000)
    assert len(found.auctions) == 196
    assert (found.at_ms.min(), found.to_ms) == (START_MS + 40, START_MS + 1_990)


def test_little_data_and_no_news_publish_nothing(tmp_path: Path, trained: Path, write_log: Any) -> None:
    write_log(tmp_path / "training", 200)
    assert landscapes.publish(tmp_path, NOW_MS, TrainingConfig())["result"] == "little_data"
    assert registry.resolve(tmp_path / "models", serving.LANDSCAPE) is None
    copied = Path(shutil.copytree(trained, tmp_path / "copy"))
    assert landscapes.publish(copied, NOW_MS + 1_000, TrainingConfig())["result"] == "nothing_new"
    assert served(copied)[0] == served(trained)[0]


def test_what_cannot_be_served_is_replaced_without_news(tmp_path: Path, trained: Path) -> None:
    copied = Path(shutil.copytree(trained, tmp_path / "copy"))
    version, _ = served(copied)
    (copied / "models" / "versions" / version / "landscape.json").write_text('{"feature_hash": "another"}')
    assert landscapes.publish(copied, NOW_MS + 1_000, TrainingConfig())["result"] == "published"
    assert served(copied)[0] != version


def rewrite(data_dir: Path, folder: str, since_ms: int, **columns: Any) -> None:
    """Change columns of what was logged since then, each by a function of the column as a list."""
    for path in sorted((data_dir / "training" / folder).rglob("*.parquet")):
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
        if pc.min(table["at_ms"]).as_py() >= since_ms:
            for name, made in columns.items():
                place = table.column_names.index(name)
                values = pa.array(made(table[name].to_pylist()), table.schema.field(name).type)
                table = table.set_column(place, table.schema.field(name), values)
            pq.write_table(table, path)


def elsewhere(rows: list[bytes]) -> list[bytes]:
    """Return feature rows of which every other one is of another exchange."""
    made = np.frombuffer(b"".join(rows), dtype="<i8").reshape(len(rows), -1).copy()
    made[::2, REQUEST_COLUMNS.index("exchange")] = text_hash("another")
    return [row.tobytes() for row in made]


def test_what_serves_is_replaced_by_what_foretells_later_auctions_surely_better(
    tmp_path: Path, trained: Path, write_log: Any
) -> None:
    copied = Path(shutil.copytree(trained, tmp_path / "copy"))
    later_ms = START_MS + 3_600_000
    write_log(copied / "training", 3_000, start_ms=later_ms, seed=2)
    before, now_ms = served(copied)[0], later_ms + 60_000
    same = landscapes.publish(copied, now_ms, TrainingConfig())
    assert (same["result"], same["new_to_both"]) == ("refused", 2_000)  # a third is known to tonight's as well
    assert "not surely better" in same["reasons"][0]
    few = landscapes.publish(copied, now_ms, TrainingConfig(gate_rows_min=2_001))
    assert "2001 are needed" in few["reasons"][0]
    assert served(copied)[0] == before
    rewrite(copied, "notices", later_ms, kind=lambda kinds: ["loss"] * len(kinds))  # what won all wins nothing now
    dearer = landscapes.publish(copied, now_ms, TrainingConfig())
    assert (dearer["result"], dearer["low"] > 0.0) == ("published", True)
    assert served(copied)[0] == dearer["version"] != before
    assert landscapes.publish(copied, now_ms, TrainingConfig())["result"] == "nothing_new"


def test_an_exchange_without_a_landscape_does_not_wait(tmp_path: Path, trained: Path, write_log: Any) -> None:
    copied = Path(shutil.copytree(trained, tmp_path / "copy"))
    later_ms = START_MS + 3_600_000
    write_log(copied / "training", 3_000, start_ms=later_ms, seed=2)
    rewrite(copied, "bids", later_ms, request_features=elsewhere)
    made = landscapes.publish(copied, later_ms + 60_000, TrainingConfig())
    assert (made["result"], made["new_to_both"]) == ("published", 1_000)
    assert served(copied)[1].exchanges == {text_hash("demo-first"), text_hash("another")}


@pytest.mark.parametrize("fault", ["features", "format", "shape", "scores", "prices", "missing"])
def test_what_does_not_fit_is_refused(tmp_path: Path, trained: Path, fault: str) -> None:
    version, _ = served(trained)
    files = registry.read(trained / "models", version)
    spec = msgspec.json.decode(files["landscape.json"], type=serving.Spec)
    (name,) = spec.fields
    fields = serving.fields_of(spec.fields[name])
    with np.load(trained / "models" / "versions" / version / f"{name}.npz") as arrays:
        keys, table, points = (arrays[key] for key in ("keys", "table", "points_micros_cpm"))
    if fault == "features":
        spec = msgspec.structs.replace(spec, feature_hash="another")
    elif fault == "format":
        spec = msgspec.structs.replace(spec, format=1)
    elif fault == "shape":
        table = table[:-1]
    elif fault == "prices":
        points, table = np.repeat(points, 2), np.insert(table, -1, 0.0, axis=1)
    made = Landscape(fields, keys, table, points, np.zeros(0, dtype=np.intp))
    if fault == "scores":
        table[0, 0] = np.nan
    packed = serving.pack({} if fault == "missing" else {name: made}, spec)
    broken = registry.publish(tmp_path, packed, {"built_at_ms": NOW_MS})
    with pytest.raises(BundleError):
        serving.load(tmp_path, broken)
