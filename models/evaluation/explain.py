"""Explains a bid of the training log: the rates it was made with as sums of contributions, then value and price."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.errors import InputError, NotFoundError
from models.evaluation import contributions, parts
from models.evaluation.contributions import Explanation, Row
from models.evaluation.names import Names
from models.evaluation.parts import Parts, Rate
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.features.logged import unpack
from models.features.platform import PLATFORM
from models.serving import bundle
from models.serving.statistics import Statistics
from models.training.parquet import DAMAGE

#: Where no bundle was served there is nothing to explain: one rate for each format.
_CONSTANTS = ("prior", "constant")
_PRIOR = "/prior"
#: Columns of the training log that are told as they are, and those that are explained.
_TOLD = (
    *("bid_id", "auction_id", "imp_id", "exchange", "at_ms", "model_version", "feature_hash", "snapshot_version"),
    *("advertiser_id", "campaign_id", "line_item_id", "creative_id", "pctr", "pcvr", "value_micros_cpm"),
    *("pacing_multiplier", "first_price", "floor_micros_cpm", "deal_id", "jitter", "propensity", "price_micros_cpm"),
)
_FEATURES = ("request_features", "ad_features")
#: Bids of the same file that a sampled explanation starts from.
_OTHERS_MAX = 512
#: What was served and what is computed again may differ by so much: a GPU adds in another order, in half precision.
_SERVED_TOLERANCE = 1e-3
#: Parts that give this much less or more than the bundle are not all that it is made of.
_PARTS_TOLERANCE = 1e-5
_EDGE = 1e-12


class Bid(NamedTuple):
    """A bid as it was logged, its features, and those of some others of its time."""

    logged: dict[str, Any]
    row: Row
    others: list[Row]


class Rates(msgspec.Struct, frozen=True):
    """The explanations of a click rate, and of the conversion rate of a click."""

    pctr: Explanation
    pcvr: Explanation


class Found(msgspec.Struct, frozen=True):
    """Why a bid was made as it was. `answered` is who gave the rates: the version, or its prior.

    `unexplained` is what the logged click rate has in log-odds beyond the explanation's: 0 but for rounding.
    """

    bid: dict[str, Any]
    answered: str
    rates: Rates
    unexplained: float


def explain(data_dir: Path, bid_id: str, names: Names) -> Found:
    """Explain a bid by its id.

    Raises:
        NotFoundError: no such bid is in the log, or it was made before there was a model.
        InputError: it was made with other features than this software's.
        BundleError: the model it names is gone, or broken.
    """
    bid = find(data_dir / "training", bid_id)
    version, served = bid.logged["model_version"], float(bid.logged["pctr"])
    if version in _CONSTANTS:
        raise NotFoundError(
            f"{bid_id} was made before there was a model, with a click rate of {served:g} for its format"
        )
    model = version.removesuffix(_PRIOR)
    files = registry.read(data_dir / "models", model)
    log_odds = float(_logit(np.array(served)))
    by_prior = _rates(parts.prior, files, bid, names)
    if version.endswith(_PRIOR):
        return _found(bid, version, by_prior, log_odds)
    by_model = _model(model, files, bid, names)
    # Where time was short, the prior has answered in the model's name.
    off = [abs(log_odds - rates.pctr.log_odds) for rates in (by_model, by_prior)]
    if off[0] > _SERVED_TOLERANCE >= off[1]:
        return _found(bid, model + _PRIOR, by_prior, log_odds)
    return _found(bid, model, by_model, log_odds)


def find(root: Path, bid_id: str) -> Bid:
    """Return a bid of the training log, the latest hours first. Raises NotFoundError and InputError as `explain`."""
    for path in sorted(root.glob("bids/date=*/hour=*/*.parquet"), reverse=True):
        try:
            with path.open("rb") as file:
                parquet = pq.ParquetFile(file)
                place = pc.index(parquet.read(columns=["bid_id"])["bid_id"], bid_id).as_py()
                if place < 0:
                    continue
                table = parquet.read(columns=[*_TOLD, *_FEATURES]).select([*_TOLD, *_FEATURES])
        except (KeyError, *DAMAGE):  # a file that cannot be read is the nightly's to report
            continue
        logged = table.slice(place, 1).to_pylist()[0]
        if logged["feature_hash"] != FEATURE_HASH:
            raise InputError(f"{bid_id}: made with features {logged['feature_hash']}, ours are {FEATURE_HASH}")
        same = table.filter(pc.equal(table["feature_hash"], FEATURE_HASH))
        same = same.take(np.arange(0, len(same), max(1, len(same) // _OTHERS_MAX)))
        return Bid(logged, _row(logged), [_row(other) for other in same.to_pylist()])
    raise NotFoundError(f"no bid {bid_id[:64]} is in the training log")


def _row(logged: Mapping[str, Any]) -> Row:
    request, ad = unpack([logged["request_features"]], REQUEST_COLUMNS), unpack([logged["ad_features"]], AD_COLUMNS)
    return Row(request[0], ad[0])


def _found(bid: Bid, answered: str, rates: Rates, log_odds: float) -> Found:
    return Found({name: bid.logged[name] for name in _TOLD}, answered, rates, log_odds - rates.pctr.log_odds)


def _rates(
    of: Callable[[Mapping[str, bytes], Rate], Parts | Statistics], files: Mapping[str, bytes], bid: Bid, names: Names
) -> Rates:
    found = [of(files, "ctr"), of(files, "cvr")]
    explained = [
        contributions.of_statistics(part, bid.row, names)
        if isinstance(part, Statistics)
        else contributions.of_model(part, bid.row, PLATFORM, names)
        for part in found
    ]
    return Rates(*explained)


def _model(version: str, files: Mapping[str, bytes], bid: Bid, names: Names) -> Rates:
    """Explain what the bundle gives: exactly where its parts make that up, else by asking it."""
    served = bundle.assemble(version, dict(files)).predictor
    given = served.predict_rows(bid.row.request[np.newaxis], bid.row.ad[np.newaxis])
    try:
        found = _rates(parts.model, files, bid, names)
        pairs = ((found.pctr, given.pctr), (found.pcvr, given.pcvr))
        if all(abs(part.log_odds - float(_logit(rate)[0])) <= _PARTS_TOLERANCE for part, rate in pairs):
            return found
    except (ValueError, msgspec.DecodeError):  # a part of it is a network, or none that we know
        pass

    def explained(rate: str) -> Explanation:
        def logits(requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
            return _logit(getattr(served.predict_rows(requests, ads), rate))

        return contributions.by_exchange(logits, bid.row, bid.others, PLATFORM, names)

    return Rates(explained("pctr"), explained("pcvr"))


def _logit(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(rates, _EDGE, 1.0 - _EDGE)
    logits: NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return logits
