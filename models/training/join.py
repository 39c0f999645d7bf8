"""The join of bids with the notices that followed them, as Ibis expressions: no engine is named here, nothing runs."""

from typing import Any, NamedTuple

import ibis  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]

from models.features.columns import FEATURE_HASH
from models.features.logged import AD_BYTES, REQUEST_BYTES
from models.training.sampling import Counts

BIDS = pa.schema(
    [
        ("bid_id", pa.string()),
        ("at_ms", pa.int64()),
        ("request_features", pa.binary()),
        ("ad_features", pa.binary()),
        ("feature_hash", pa.string()),
    ]
)
NOTICES = pa.schema(
    [("kind", pa.string()), ("bid_id", pa.string()), ("at_ms", pa.int64()), ("cost_micros", pa.int64())]
)
#: What an impression keeps of its bid and its notices. The rates are null where the log does not have them.
USABLE = pa.schema(
    [
        *(BIDS.field(name) for name in ("bid_id", "at_ms", "request_features", "ad_features")),
        ("click_ms", pa.int64()),
        ("conversion_ms", pa.int64()),
        ("pctr", pa.float64()),
        ("model_version", pa.string()),
        ("challenger_pctr", pa.float64()),
        ("challenger_version", pa.string()),
    ]
)
_LATER_COLUMNS = {
    "pctr": "float64", "model_version": "string", "challenger_pctr": "float64", "challenger_version": "string",
}  # fmt: skip


class Window(NamedTuple):
    """Bids of [from_ms, to_ms), and how old an impression must be, as seen from the latest notice known by now."""

    from_ms: int
    to_ms: int
    now_ms: int
    maturity_ms: int


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def octet_length(value: bytes) -> int:  # type: ignore[empty-body]
    """Return how many bytes a binary value has; every engine calls it so (SQL:1999)."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def md5(value: str) -> str:  # type: ignore[empty-body]
    """Return a text's hash as hexadecimal digits."""


def outcomes(notices: Any) -> Any:
    """Return by bid when it was first seen, clicked and converted (null: not); bids never seen are left out.

    It was seen with a notice `bill` or `imp`, or with a `win` that cost something.
    """
    kind, at_ms = notices.kind, notices.at_ms
    seen = kind.isin(["bill", "imp"]) | ((kind == "win") & (notices.cost_micros.fill_null(0) > 0))
    found = notices.group_by("bid_id").agg(
        seen_ms=at_ms.min(where=seen),
        click_ms=at_ms.min(where=kind == "click"),
        conversion_ms=at_ms.min(where=kind == "conv"),
    )
    return found.filter(found.seen_ms.notnull())


def impressions(bids: Any, notices: Any, window: Window) -> Any:
    """Return the bids of the window that became impressions, each once, with their outcomes.

    `ours` tells whether the features are of our definition.
    """
    wanted = bids.filter((bids.at_ms >= window.from_ms) & (bids.at_ms < window.to_ms)).select(
        *BIDS.names,
        # Files of before shadow scoring lack these.
        **{name: bids[name] if name in bids.columns else ibis.null(kind) for name, kind in _LATER_COLUMNS.items()},
    )
    joined = wanted.inner_join(outcomes(notices), "bid_id")
    # Numbered, not grouped: engines can put a sort's wide rows on disk, and the state of an aggregate they cannot.
    numbered = joined.mutate(copy=ibis.row_number().over(group_by="bid_id", order_by="at_ms"))
    joined = numbered.filter(numbered.copy == 0).drop("copy")
    ours = (
        (joined.feature_hash == FEATURE_HASH)
        & (octet_length(joined.request_features) == REQUEST_BYTES)
        & (octet_length(joined.ad_features) == AD_BYTES)
    )
    return joined.mutate(ours=ours.fill_null(False))


def usable(joined: Any, known_to_ms: int, room: Counts) -> Any:
    """Return impressions of our features that were seen by `known_to_ms`, in order of time, so many of each label.

    Of each label those with the lowest hashes of their bid ids, which are the same on every engine and every day.
    """
    found = joined.filter(joined.ours & (joined.seen_ms <= known_to_ms)).drop("ours", "feature_hash")
    clicked = found.click_ms.notnull()
    place = ibis.row_number().over(group_by=clicked, order_by=[md5(found.bid_id), found.bid_id])
    placed = found.mutate(place=place)
    kept = placed.filter(placed.place < ibis.ifelse(placed.click_ms.notnull(), room.positives, room.negatives))
    return kept.drop("place").order_by(["at_ms", "bid_id"])


def counts(joined: Any, known_to_ms: int) -> Any:
    """Return one row: how many impressions are of other features (`foreign`), how many of ours `immature`, and how
    many of the others are `positives` and `negatives`.
    """
    usable = joined.ours & (joined.seen_ms <= known_to_ms)
    return joined.aggregate(
        positives=(usable & joined.click_ms.notnull()).sum(),
        negatives=(usable & joined.click_ms.isnull()).sum(),
        foreign=(~joined.ours).sum(),
        immature=(joined.ours & (joined.seen_ms > known_to_ms)).sum(),
    )
