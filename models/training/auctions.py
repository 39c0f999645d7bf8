"""From the training log to what first-price auctions told of their price to win: bids joined with their notices.

A notice with a minimum to win tells the price. Without one, a win tells that the price was at most our bid; a loss for
its price, or silence until the reservation expired, that it was above our bid.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_HOUR
from models.features.columns import FEATURE_HASH, REQUEST_COLUMNS
from models.features.logged import REQUEST_BYTES, unpack
from models.training.landscape import NEVER_MICROS_CPM, Auctions
from models.training.parquet import Reading, concatenate

_BIDS = pa.schema(
    [
        ("bid_id", pa.string()),
        ("at_ms", pa.int64()),
        ("expires_at_ms", pa.int64()),
        ("first_price", pa.bool_()),
        ("deal_id", pa.string()),
        ("price_micros_cpm", pa.int64()),
        ("request_features", pa.binary()),
        ("feature_hash", pa.string()),
    ]
)
_NOTICES = pa.schema(
    [
        ("kind", pa.string()),
        ("bid_id", pa.string()),
        ("at_ms", pa.int64()),
        ("loss_reason", pa.int64()),
        ("min_to_win_micros_cpm", pa.int64()),
    ]
)
_FLOOR = REQUEST_COLUMNS.index("floor_micros_cpm")
#: Loss reasons (OpenRTB list 5.25) that speak of the price: none stated, below the floor, outbid.
_PRICE_REASONS = (0, 100, 102)


class Found(NamedTuple):
    """Auctions in order of the bid's time, what they are called in a report, and when the latest was bid for."""

    auctions: Auctions
    at_ms: NDArray[np.int64]  # (n,), of each bid
    counts: dict[str, int]
    to_ms: int


def load(root: Path, from_ms: int, now_ms: int, rows_max: int) -> Found:
    """Read the open first-price auctions bid for since `from_ms` whose outcome is known, the latest `rows_max`.

    `root` is the folder that holds `bids/` and `notices/`.
    """
    bids = _latest(root, from_ms, now_ms, rows_max)
    from_ms = max(from_ms, pc.min(bids["at_ms"]).as_py() or 0)
    hours = [*Reading(root, "notices").tables(from_ms - MS_PER_HOUR, now_ms + MS_PER_HOUR, _NOTICES)]
    notices = concatenate(hours[::-1], _NOTICES)
    watermark_ms = min(now_ms, pc.max(notices["at_ms"]).as_py() or 0)
    ids = bids["bid_id"].combine_chunks()
    bids = bids.filter(pc.equal(pc.index_in(ids, ids), pa.array(np.arange(len(ids), dtype=np.int32))))
    bids = bids.sort_by("at_ms")
    bids = bids.slice(max(0, len(bids) - rows_max))
    prices = _numbers(bids["price_micros_cpm"])
    won, lost, told = _outcomes(notices, bids["bid_id"].combine_chunks())
    silent = ~won & ~lost & (_numbers(bids["expires_at_ms"]) <= watermark_ms)
    by_price = np.isin(told.reason, _PRICE_REASONS)
    stated = np.where(won, (told.price > 0) & (told.price <= prices), lost & (told.price > 0))
    above = (lost & ~won & ~stated & by_price) | silent
    known = won | stated | above
    contexts = unpack(bids["request_features"].to_pylist(), REQUEST_COLUMNS)
    auctions = Auctions(
        contexts,
        np.maximum(contexts[:, _FLOOR], 0),
        np.where(stated, told.price - 1, np.where(won, -1, prices)),
        np.where(stated, told.price, np.where(won, prices, NEVER_MICROS_CPM)),
    )
    counts = {
        "price_told": int(stated.sum()),
        "won_without_price": int((won & ~stated).sum()),
        "lost_without_price": int(above.sum()),
    }
    at_ms = _numbers(bids["at_ms"])[known]
    return Found(auctions[known], at_ms, counts, int(at_ms.max(initial=0)))


class _Told(NamedTuple):
    price: NDArray[np.int64]  # minimum to win, 0 where none is stated
    reason: NDArray[np.int64]  # of the loss, 0 where none is stated


def _latest(root: Path, from_ms: int, now_ms: int, rows_max: int) -> pa.Table:
    """Return the bids that can teach of the latest hours, of as many as it takes to have `rows_max`."""
    hours: list[pa.Table] = []
    for hour in Reading(root, "bids").tables(from_ms, now_ms + 1, _BIDS):
        hours.append(_open(hour, from_ms, now_ms))
        if sum(map(len, hours)) >= rows_max:
            break
    return concatenate(hours[::-1], _BIDS)


def _open(bids: pa.Table, from_ms: int, now_ms: int) -> pa.Table:
    """Return the bids of [from_ms, now_ms] that can teach: first price, not in a deal, not a test, of our feature
    definition. A bid dated in the future would make all that comes until then look known already.
    """
    wanted = pc.and_(bids["first_price"], pc.equal(bids["deal_id"], ""))
    wanted = pc.and_(wanted, pc.and_(pc.greater_equal(bids["at_ms"], from_ms), pc.less_equal(bids["at_ms"], now_ms)))
    wanted = pc.and_(wanted, pc.greater(bids["price_micros_cpm"], 0))
    wanted = pc.and_(wanted, pc.equal(bids["feature_hash"], FEATURE_HASH))
    return bids.filter(pc.and_(wanted, pc.equal(pc.binary_length(bids["request_features"]), REQUEST_BYTES)))


def _outcomes(notices: pa.Table, bid_ids: pa.Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_], _Told]:
    """Return which bids were won and lost, and what their notices said, (n,)."""
    place = pc.index_in(notices["bid_id"], bid_ids)
    notices = notices.append_column("place", place).filter(pc.is_valid(place))
    places, kinds = _numbers(notices["place"]), notices["kind"]
    won, lost = np.zeros(len(bid_ids), dtype=np.bool_), np.zeros(len(bid_ids), dtype=np.bool_)
    price, reason = np.zeros(len(bid_ids), dtype=np.int64), np.zeros(len(bid_ids), dtype=np.int64)
    won[places[_flags(pc.is_in(kinds, pa.array(["win", "bill", "imp"])))]] = True
    losses = _flags(pc.equal(kinds, "loss"))
    lost[places[losses]] = True
    stated = _numbers(pc.fill_null(notices["min_to_win_micros_cpm"], 0))
    price[places[stated > 0]] = stated[stated > 0]
    reason[places[losses]] = _numbers(pc.fill_null(notices["loss_reason"], 0))[losses]
    return won, lost, _Told(price, reason)


def _numbers(column: Any) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return numbers


def _flags(column: Any) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = column.to_numpy().astype(np.bool_)
    return flags
