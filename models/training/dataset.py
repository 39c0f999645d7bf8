"""From the training log to labelled rows: bids joined with the notices that followed them, whenever those came.

An impression is a bid that was billed or seen: a notice `bill` or `imp`, or a `win` that cost something. Its label is
whether a click followed; a click's label is whether a conversion followed within the window, and its weight how much
is known of that (models.training.delay).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_HOUR
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.logged import unpack
from models.training import delay, join, sampling
from models.training.config import TrainingConfig
from models.training.engine import Engine
from models.training.parquet import Reading, Skipped
from models.training.rows import Rows

_NEVER = np.iinfo(np.int64).max
_ADVERTISER = AD_COLUMNS.index("advertiser_id")


@dataclass(frozen=True, slots=True)
class Summary:
    """What was read and what was left out, for the report and the manifest."""

    files: int
    skipped: tuple[Skipped, ...]
    holes: tuple[str, ...]
    impressions: int  # with a label; the following were left out
    immature: int
    foreign: int  # of another feature definition
    clicks: int
    conversions: int
    from_ms: int
    to_ms: int  # of the last labelled impression, exclusive
    watermark_ms: int  # notices are known up to here

    def as_json(self) -> dict[str, Any]:
        """Return plain containers."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "skipped": [entry._asdict() for entry in self.skipped], "holes": [*self.holes]}


class Shadowed(NamedTuple):
    """What was predicted live for n impressions; `challenger` is NaN, and its version empty, where it was not asked.

    `champion` is what was bid with: of the champion of then, or of the prior where that answered in its stead.
    """

    champion: NDArray[np.float64]
    champions: NDArray[np.str_]  # the version of each
    challenger: NDArray[np.float64]
    challengers: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled rows in order of the bid's time: impressions (label: clicked) and clicks (label: converted)."""

    impressions: Rows
    clicks: Rows
    summary: Summary
    shadowed: Shadowed


class Account(msgspec.Struct, frozen=True):
    """What was read for a dataset, and what had to be left out."""

    from_ms: int  # asked for
    files: int = 0
    skipped: tuple[Skipped, ...] = ()
    holes: tuple[str, ...] = ()
    foreign: int = 0
    immature: int = 0
    watermark_ms: int = 0
    positives: int = 0  # usable impressions with and without a click, before they were thinned
    negatives: int = 0


def load(root: Path, from_ms: int, to_ms: int, now_ms: int, config: TrainingConfig) -> Dataset:
    """Read the impressions that were bid for in [from_ms, to_ms) and whose outcome is known by now.

    `root` is the folder that holds `bids/` and `notices/`. What cannot be read is named in the summary.
    """
    with TemporaryDirectory() as scratch:
        return labelled(*collect(root, from_ms, to_ms, now_ms, config, Path(scratch)), config)


def collect(
    root: Path, from_ms: int, to_ms: int, now_ms: int, config: TrainingConfig, scratch: Path
) -> tuple[pa.Table, Account]:
    """Return one row an impression, in order of time, as `labelled` takes them. What does not fit into memory while
    they are joined goes to `scratch`.
    """
    bids, notices = Reading(root, "bids"), Reading(root, "notices")
    bid_paths = bids.paths(from_ms, to_ms, join.BIDS)
    # Notices come later than their bid; clocks of different processes may differ a little.
    notice_paths = notices.paths(from_ms - MS_PER_HOUR, now_ms + MS_PER_HOUR, join.NOTICES)
    window = join.Window(from_ms, to_ms, now_ms, round(config.maturity_seconds * 1_000))
    table, left_out = _join(bid_paths, notice_paths, window, config, scratch)
    account = Account(
        from_ms=from_ms,
        files=bids.files + notices.files,
        skipped=tuple(notices.skipped + bids.skipped),
        holes=tuple(bids.holes(from_ms, to_ms)),
        **left_out,
    )
    return table, account


def as_parquet(table: pa.Table) -> bytes:
    """Return a table that `collect` made as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def labelled(table: pa.Table, account: Account, config: TrainingConfig) -> Dataset:
    """Return the rows of a table that `collect` made."""
    at_ms, click_ms, conversion_ms = (_numbers(table, name) for name in ("at_ms", "click_ms", "conversion_ms"))
    requests = unpack(table["request_features"].to_pylist(), REQUEST_COLUMNS)
    ads = unpack(table["ad_features"].to_pylist(), AD_COLUMNS)
    clicked = click_ms != _NEVER
    weights = sampling.weigh(clicked, sampling.Counts(account.positives, account.negatives))
    impressions = Rows(at_ms, requests, ads, clicked, weights)
    converted = conversion_ms[clicked] != _NEVER
    late_ms = np.maximum(conversion_ms[clicked] - click_ms[clicked], 0)  # clocks of processes may differ a little
    seen = delay.Outcomes(
        ads[clicked, _ADVERTISER], account.watermark_ms - click_ms[clicked], np.where(converted, late_ms, -1)
    )
    labels, known = delay.weigh(seen, config.conversion_window_seconds * 1_000)
    clicks = Rows(at_ms[clicked], requests[clicked], ads[clicked], labels, known * weights[clicked])
    summary = Summary(
        files=account.files,
        skipped=account.skipped,
        holes=account.holes,
        impressions=len(impressions),
        immature=account.immature,
        foreign=account.foreign,
        clicks=int(clicked.sum()),
        conversions=int(clicks.labels.sum()),
        from_ms=int(at_ms[0]) if len(at_ms) else account.from_ms,
        to_ms=int(at_ms[-1]) + 1 if len(at_ms) else account.from_ms,
        watermark_ms=account.watermark_ms,
    )
    shadowed = Shadowed(
        _rates(table, "pctr"),
        _versions(table, "model_version"),
        _rates(table, "challenger_pctr"),
        _versions(table, "challenger_version"),
    )
    return Dataset(impressions, clicks, summary, shadowed)


def _join(
    bid_paths: Sequence[Path],
    notice_paths: Sequence[Path],
    window: join.Window,
    config: TrainingConfig,
    scratch: Path,
) -> tuple[pa.Table, dict[str, int]]:
    """Return the usable impressions, and the fields of `Account` that say what was not."""
    if not bid_paths or not notice_paths:
        return join.USABLE.empty_table(), {}
    engine = Engine(config, scratch)
    try:
        bids, notices = engine.read(bid_paths), engine.read(notice_paths)
        watermark_ms = min(window.now_ms, notices.at_ms.max().to_pyarrow().as_py() or 0)
        known_to_ms = watermark_ms - window.maturity_ms
        with join.impressions(bids, notices, window).cache() as joined:
            counts = join.counts(joined, known_to_ms).to_pyarrow().to_pylist()[0]
            counts = {name: int(count or 0) for name, count in counts.items()}
            room = sampling.room(sampling.Counts(counts["positives"], counts["negatives"]), config.rows_max)
            table = join.usable(joined, known_to_ms, room).to_pyarrow()
    finally:
        engine.close()
    return table.select(join.USABLE.names).cast(join.USABLE), {**counts, "watermark_ms": watermark_ms}


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """Return a column of times, those that never came as _NEVER."""
    numbers: NDArray[np.int64] = table[name].fill_null(_NEVER).to_numpy()
    return numbers


def _rates(table: pa.Table, name: str) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = table[name].fill_null(np.nan).to_numpy()
    return rates


def _versions(table: pa.Table, name: str) -> NDArray[np.str_]:
    versions: NDArray[np.str_] = table[name].fill_null("").to_numpy().astype(np.str_)
    return versions
