"""From the training log to labelled rows: bids joined with the notices that followed them, whenever those came.

An impression is a bid that was billed or seen: a notice `bill` or `imp`, or a `win` that cost something. Its label is
whether a click followed; a click's label is whether a conversion followed within the window.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.training.config import TrainingConfig
from models.training.parquet import MS_PER_HOUR, Reading, Skipped, concatenate
from models.training.rows import Rows

_BIDS = pa.schema(
    [
        ("bid_id", pa.string()),
        ("at_ms", pa.int64()),
        ("request_features", pa.binary()),
        ("ad_features", pa.binary()),
        ("feature_hash", pa.string()),
    ]
)
_NOTICES = pa.schema(
    [("kind", pa.string()), ("bid_id", pa.string()), ("at_ms", pa.int64()), ("cost_micros", pa.int64())]
)
_NEVER = np.iinfo(np.int64).max
_KINDS = ("bill", "imp", "win", "click", "conv")


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


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled rows in order of the bid's time: impressions (label: clicked) and clicks (label: converted)."""

    impressions: Rows
    clicks: Rows
    summary: Summary


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """By bid: when it was first seen, clicked and converted (_NEVER: not), shape (n,)."""

    bid_ids: pa.Array
    seen_ms: NDArray[np.int64]
    click_ms: NDArray[np.int64]
    conversion_ms: NDArray[np.int64]


def load(root: Path, from_ms: int, to_ms: int, now_ms: int, config: TrainingConfig) -> Dataset:
    """Read the impressions that were bid for in [from_ms, to_ms) and whose outcome is known by now.

    `root` is the folder that holds `bids/` and `notices/`. What cannot be read is named in the summary.
    """
    notices = Reading(root, "notices")
    # Notices come later than their bid; clocks of different processes may differ a little.
    table = concatenate(list(notices.tables(from_ms - MS_PER_HOUR, now_ms + MS_PER_HOUR, _NOTICES)), _NOTICES)
    watermark_ms = min(now_ms, pc.max(table["at_ms"]).as_py() or 0)
    outcomes = _outcomes(table)
    bids = Reading(root, "bids")
    parts = [_impressions(part, outcomes, from_ms, to_ms) for part in bids.tables(from_ms, to_ms, _BIDS)]
    joined = pa.concat_tables([_JOINED.empty_table(), *parts])
    joined = _latest(_unique(joined).sort_by("at_ms"), config.rows_max)
    ours = pc.equal(joined["feature_hash"], FEATURE_HASH)
    ours = pc.and_(ours, pc.equal(pc.binary_length(joined["request_features"]), 8 * len(REQUEST_COLUMNS)))
    ours = pc.and_(ours, pc.equal(pc.binary_length(joined["ad_features"]), 8 * len(AD_COLUMNS)))
    foreign = len(joined) - (pc.sum(ours).as_py() or 0)
    joined = joined.filter(ours)
    mature = _numbers(joined, "seen_ms") <= watermark_ms - round(config.maturity_seconds * 1_000)
    immature = int((~mature).sum())
    joined = joined.filter(pa.array(mature))
    impressions, clicks = _rows(joined, watermark_ms, config)
    summary = Summary(
        files=bids.files + notices.files,
        skipped=tuple(notices.skipped + bids.skipped),
        holes=tuple(bids.holes(from_ms, to_ms)),
        impressions=len(impressions),
        immature=immature,
        foreign=foreign,
        clicks=int(impressions.labels.sum()),
        conversions=int(clicks.labels.sum()),
        from_ms=int(impressions.at_ms[0]) if len(impressions) else from_ms,
        to_ms=int(impressions.at_ms[-1]) + 1 if len(impressions) else from_ms,
        watermark_ms=watermark_ms,
    )
    return Dataset(impressions, clicks, summary)


_JOINED = pa.schema([*_BIDS, ("seen_ms", pa.int64()), ("click_ms", pa.int64()), ("conversion_ms", pa.int64())])


def _outcomes(notices: pa.Table) -> _Outcomes:
    notices = notices.filter(pc.is_in(notices["kind"], pa.array(_KINDS)))
    kind = notices["kind"]
    billed_win = pc.and_(pc.equal(kind, "win"), pc.greater(pc.fill_null(notices["cost_micros"], 0), 0))
    seen = pc.or_(pc.is_in(kind, pa.array(["bill", "imp"])), billed_win)
    bid_ids = pc.unique(notices["bid_id"].filter(seen).combine_chunks())
    place = pc.index_in(notices["bid_id"], bid_ids)
    known = pc.is_valid(place)

    def first(wanted: Any) -> NDArray[np.int64]:
        chosen = pc.and_(wanted, known)
        earliest = np.full(len(bid_ids), _NEVER, dtype=np.int64)
        np.minimum.at(
            earliest, place.filter(chosen).to_numpy().astype(np.intp), notices["at_ms"].filter(chosen).to_numpy()
        )
        return earliest

    return _Outcomes(bid_ids, first(seen), first(pc.equal(kind, "click")), first(pc.equal(kind, "conv")))


def _impressions(bids: pa.Table, outcomes: _Outcomes, from_ms: int, to_ms: int) -> pa.Table:
    """Return the bids of the interval that became impressions, with their outcomes."""
    place = pc.index_in(bids["bid_id"], outcomes.bid_ids)
    inside = pc.and_(pc.greater_equal(bids["at_ms"], from_ms), pc.less(bids["at_ms"], to_ms))
    wanted = pc.and_(pc.is_valid(place), inside)
    rows = place.filter(wanted).to_numpy().astype(np.intp)
    found = bids.filter(wanted)
    for name in ("seen_ms", "click_ms", "conversion_ms"):
        found = found.append_column(name, pa.array(getattr(outcomes, name)[rows], type=pa.int64()))
    return found


def _unique(table: pa.Table) -> pa.Table:
    """Return the first row of each bid: a bid logged twice is one bid."""
    ids = table["bid_id"].combine_chunks()
    return table.filter(pc.equal(pc.index_in(ids, ids), pa.array(np.arange(len(ids), dtype=np.int32))))


def _latest(table: pa.Table, rows_max: int) -> pa.Table:
    return table.slice(max(0, len(table) - rows_max))


def _rows(joined: pa.Table, watermark_ms: int, config: TrainingConfig) -> tuple[Rows, Rows]:
    at_ms, click_ms, conversion_ms = (_numbers(joined, name) for name in ("at_ms", "click_ms", "conversion_ms"))
    requests = _matrix(joined["request_features"], len(REQUEST_COLUMNS))
    ads = _matrix(joined["ad_features"], len(AD_COLUMNS))
    clicked = click_ms != _NEVER
    impressions = Rows(at_ms, requests, ads, clicked, np.ones(len(at_ms)))
    mature = clicked & (click_ms <= watermark_ms - round(config.conversion_maturity_seconds * 1_000))
    delay_ms = np.where(clicked & (conversion_ms != _NEVER), conversion_ms - np.where(clicked, click_ms, 0), _NEVER)
    converted = delay_ms <= config.conversion_window_seconds * 1_000
    return impressions, Rows(at_ms, requests, ads, converted, np.ones(len(at_ms)))[mature]


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.int64]:
    data = b"".join(value.as_py() for value in column)
    return np.frombuffer(data, dtype="<i8").reshape(-1, width).astype(np.int64, copy=False)


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = table[name].to_numpy()
    return numbers
