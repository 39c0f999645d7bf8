"""Published landscapes of first-price auctions, ready to serve; how a curve is made of one is dsp.pricing.landscape."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.errors import BundleError
from dsp.pricing.landscape import FLOOR_LEVEL, FLOOR_RATIOS, NOTHING, Fields, Landscape, WinCurve
from models.features.columns import FEATURE_HASH, REQUEST_COLUMNS
from models.serving import npz

#: The registry's alias of the landscapes that are served.
LANDSCAPE = "landscape"
#: Names that a field may have beside REQUEST_COLUMNS.
_EXTRA = {"": NOTHING, "floor_level": FLOOR_LEVEL}
_EXCHANGE = REQUEST_COLUMNS.index("exchange")
_ARRAYS = ("keys", "table", "points_micros_cpm")
#: Raise it when keys are made otherwise, or arrays mean something else than before.
FORMAT = 2


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """landscape.json: which landscape serves which exchange, by the exchange's value in the feature row.

    `fields` names each landscape's fields, two columns each; its arrays are NAME.npz.
    """

    format: int
    feature_hash: str
    fields: dict[str, list[tuple[str, str]]]
    exchanges: dict[int, str]


class Landscapes:
    """Which landscape serves which exchange. Exchanges with little data have a plainer one, or none yet."""

    def __init__(self, version: str, by_exchange: Mapping[int, Landscape]) -> None:
        self.version = version
        self._by_exchange = dict(by_exchange)

    @property
    def exchanges(self) -> Set[int]:
        """Return the exchanges that have a landscape, by their values in feature rows."""
        return self._by_exchange.keys()

    def curve(self, features: NDArray[np.int64], floor_micros_cpm: int) -> WinCurve | None:
        """Return the chances of winning an impression, of its feature row (R,); None where nothing is known yet."""
        found = self._by_exchange.get(features.item(_EXCHANGE))
        return found.curve(features, floor_micros_cpm) if found is not None else None


NO_LANDSCAPES = Landscapes("", {})


def fields_of(names: Sequence[tuple[str, str]]) -> Fields:
    """Return the fields of pairs of names: of REQUEST_COLUMNS, "floor_level", or "" for nothing."""
    places = {**{name: place for place, name in enumerate(REQUEST_COLUMNS)}, **_EXTRA}
    return Fields.of([(places[first], places[second]) for first, second in names])


def pack(landscapes: Mapping[str, Landscape], spec: Spec) -> dict[str, bytes]:
    """Return a bundle's files; `load` reads them."""
    files = {"landscape.json": msgspec.json.encode(spec)}
    for name, landscape in landscapes.items():
        files[f"{name}.npz"] = npz.write({array: getattr(landscape, array) for array in _ARRAYS})
    return files


def load(root: Path, version: str) -> Landscapes:
    """Read a version from the registry and verify it.

    Raises:
        BundleError: incomplete, corrupt, or made for other features or by another release.
    """
    files = registry.read(root, version)
    try:
        spec = msgspec.json.decode(files["landscape.json"], type=Spec)
        if spec.format != FORMAT:
            raise BundleError(f"{version}: format {spec.format}, ours is {FORMAT}")
        if spec.feature_hash != FEATURE_HASH:
            raise BundleError(f"{version}: made for features {spec.feature_hash}, ours are {FEATURE_HASH}")
        found = {name: _landscape(files[f"{name}.npz"], names) for name, names in spec.fields.items()}
        return Landscapes(version, {exchange: found[name] for exchange, name in spec.exchanges.items()})
    except (KeyError, ValueError, OSError, msgspec.DecodeError) as fault:
        raise BundleError(f"{version}: {type(fault).__name__}: {fault}") from fault


def _landscape(data: bytes, names: Sequence[tuple[str, str]]) -> Landscape:
    arrays = npz.read(data)
    keys, table, points = (arrays[name] for name in _ARRAYS)
    known, steps = len(keys) - 1, len(FLOOR_RATIOS) + len(points) + 1
    if table.shape != (known + len(names), steps):
        raise ValueError(f"a table of shape {table.shape} for {known} keys, {len(names)} fields and {steps} steps")
    if not (np.diff(points) > 0).all():
        raise ValueError("prices that do not ascend")
    return Landscape(fields_of(names), keys, table, points, np.arange(known, known + len(names)))
