"""The nightly's landscapes: which exchange gets one learned from context, which a histogram, whether they may replace
those that serve, and their publication.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.clock import MS_PER_DAY
from dsp.kernel.errors import BundleError
from dsp.pricing.landscape import Landscape
from models.evaluation import gates
from models.features.columns import FEATURE_HASH, REQUEST_COLUMNS
from models.serving import landscape as serving
from models.training import auctions as log
from models.training import landscape
from models.training.config import TrainingConfig
from models.training.landscape import Auctions

CONTEXTUAL, HISTOGRAM = "contextual", "histogram"
FIELDS = {
    CONTEXTUAL: [
        *((name, "") for name in (
            "exchange", "position", "interstitial", "placement", "slot_width", "slot_height", "video_placement",
            "inventory", "domain", "publisher", "device", "os", "browser", "country", "region", "hour",
            "segment_count", "floor_micros_cpm", "floor_level",
        )),
        ("slot_width", "slot_height"),
        ("domain", "slot_width"),
        ("domain", "placement"),
        ("placement", "floor_micros_cpm"),
        ("exchange", "slot_width"),
        ("exchange", "country"),
    ],
    HISTOGRAM: [("exchange", "")],
}  # fmt: skip
_EXCHANGE = REQUEST_COLUMNS.index("exchange")
#: Share of the auctions, the latest, on which context must show that it tells more than the histogram.
_LATER = 0.2
#: Share of the auctions new to what serves that the landscapes to be compared with it know as well: what is learned
#: anew every night has to show what that is worth.
_FRESH = 1 / 3


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that is read again."""

    trained_to_ms: int = 0


def publish(data_dir: Path, now_ms: int, config: TrainingConfig) -> dict[str, Any]:
    """Learn the landscapes of what was logged and point the alias to them; return what was found.

    An exchange has its own once `landscape_fallback_rows_min` of its auctions are known: a smoothed histogram, and from
    `landscape_rows_min` on, one learned from the context, where that foretells later auctions better. What serves is
    replaced by what foretells later auctions better than it, with confidence.
    """
    from_ms = now_ms - config.window_days * MS_PER_DAY
    found = log.load(data_dir / "training", from_ms, now_ms, config.landscape_rows_max)
    root = data_dir / "models"
    served, trained_to_ms = _served(root)
    if found.to_ms <= trained_to_ms:
        return {**found.counts, "result": "nothing_new"}
    exchanges, counts = np.unique(found.auctions.contexts[:, _EXCHANGE], return_counts=True)
    known = exchanges[counts >= config.landscape_fallback_rows_min].tolist()
    if not known:
        return {**found.counts, "result": "little_data"}
    scores = _judge(found.auctions)
    better = scores[CONTEXTUAL] > scores[HISTOGRAM]
    rich = set(exchanges[counts >= config.landscape_rows_min].tolist()) if better else set()
    chosen = {exchange: CONTEXTUAL if exchange in rich else HISTOGRAM for exchange in known}
    names = sorted(set(chosen.values()))
    beside, objections = _compare(found, chosen, served, trained_to_ms, config)
    if objections:
        return {**found.counts, **beside, "log_likelihood": scores, "result": "refused", "reasons": objections}
    fitted = {name: _fit(name, found.auctions) for name in names}
    spec = serving.Spec(serving.FORMAT, FEATURE_HASH, {name: FIELDS[name] for name in names}, chosen)
    about = {**found.counts, "exchanges": len(known), "with_context": len(rich & set(known)), "log_likelihood": scores}
    about |= beside
    manifest = {"built_at_ms": now_ms, "trained_to_ms": found.to_ms, "landscape": about}
    version = registry.publish(root, serving.pack(fitted, spec), {**manifest, "config": msgspec.to_builtins(config)})
    serving.load(root, version)
    registry.set_alias(root, serving.LANDSCAPE, version)
    return {**about, "result": "published", "version": version}


def _served(root: Path) -> tuple[serving.Landscapes, int]:
    """Return what serves, and when the latest auction was bid for that it knows; nothing, and 0, where none does."""
    try:
        version = registry.resolve(root, serving.LANDSCAPE)
        if version is not None:
            served = serving.load(root, version)
            manifest = registry.read(root, version)[registry.MANIFEST]
            return served, msgspec.json.decode(manifest, type=_Manifest).trained_to_ms
    except (BundleError, msgspec.DecodeError):  # what cannot be read does not serve either
        pass
    return serving.NO_LANDSCAPES, 0


def _compare(
    found: log.Found, chosen: Mapping[int, str], served: serving.Landscapes, trained_to_ms: int, config: TrainingConfig
) -> tuple[dict[str, Any], list[str]]:
    """Return how much likelier auctions new to what serves are under landscapes learned from those before, and what
    speaks against publishing such.

    An exchange that none is served for waits for nothing but that the others do not get worse.
    """
    exchanges = found.auctions.contexts[:, _EXCHANGE]
    common = sorted(chosen.keys() & served.exchanges)
    if not common:
        return {}, []
    count, limits = len(exchanges), config.limits()
    new = int(found.at_ms.searchsorted(trained_to_ms, side="right"))
    cut = max(int(count * (1.0 - _LATER)), new + int((count - new) * _FRESH))
    later = np.arange(count) >= cut
    earlier, judged = found.auctions[~later], found.auctions[later & np.isin(exchanges, common)]
    points = landscape.grid_points(earlier)
    fitted = {name: _fit(name, earlier) for name in {chosen[exchange] for exchange in common}}
    candidate = serving.Landscapes("", {exchange: fitted[chosen[exchange]] for exchange in common})
    gains = log_likelihood(candidate, judged, points) - log_likelihood(served, judged, points)
    mean, low, high = gates.bootstrap(gains, np.ones(len(gains)), limits)
    told = {"new_to_both": len(gains), "better_by": round(mean, 5), "low": round(low, 5), "high": round(high, 5)}
    if high >= 0.0 and len(common) < len(chosen):
        return told, []
    if len(gains) < limits.rows_min:
        return told, [f"{len(gains)} auctions are new to both; {limits.rows_min} are needed"]
    if low > 0.0:
        return told, []
    sentence = f"log likelihood of {len(gains)} auctions new to both is not surely better than that of what serves: by "
    return told, [f"{sentence}{mean:+.5f}, at {limits.confidence:.0%} confidence between {low:+.5f} and {high:+.5f}"]


def _fit(name: str, auctions: Auctions) -> Landscape:
    return landscape.fit(auctions, serving.fields_of(FIELDS[name]))


def _judge(auctions: Auctions) -> dict[str, float]:
    """Return each kind's mean log likelihood of the latest auctions, fitted to those before."""
    cut = max(1, int(len(auctions) * (1.0 - _LATER)))
    earlier, later = auctions[slice(0, cut)], auctions[slice(cut, None)]
    if not len(later):
        return dict.fromkeys(FIELDS, 0.0)
    points = landscape.grid_points(earlier)
    return {name: round(float(log_likelihood(_fit(name, earlier), later, points).mean()), 5) for name in FIELDS}


def log_likelihood(
    fitted: Landscape | serving.Landscapes, auctions: Auctions, steps: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how likely each auction's outcome was, (n,), to the resolution of `steps`: prices, ascending."""
    edges = np.concatenate(([-1], np.asarray(steps, dtype=np.int64)))
    chances = np.empty(len(auctions))
    for number, (context, floor) in enumerate(zip(auctions.contexts, auctions.floors.tolist(), strict=True)):
        curve = fitted.curve(context, floor)
        if curve is None:
            raise AssertionError("only auctions of exchanges that have a landscape are judged")
        low, high = int(auctions.low[number]), int(auctions.high[number])
        # The step that holds a told price, so that no model gains by a finer grid.
        below = edges[edges.searchsorted(max(low, floor - 1), side="right") - 1]
        place = edges.searchsorted(max(high, floor), side="left")
        reached = curve.at(float(edges[place])) if place < len(edges) else 1.0
        chances[number] = reached - curve.at(float(below))
    likely: NDArray[np.float64] = np.log(np.maximum(chances, 1e-6))
    return likely
