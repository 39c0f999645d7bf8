"""Raw columns by what they tell: the columns of a set, or of the user's history, are looked at together."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec


class Family(NamedTuple):
    """Columns that tell one thing, by their places in the rows: of the request, or of the ad, never of both."""

    name: str
    request: NDArray[np.intp]
    ad: NDArray[np.intp]


def families(spec: FeatureSpec) -> list[Family]:
    """Return all columns of a spec, each in one family, in the order of the rows: requests first."""
    sets = [part for group in spec.groups for part in (group.request, group.ad) if len(part) > 1]
    sets += [part for match in spec.matches if len(part := match.request) > 1]
    sets += [tuple(column) for column in zip(*spec.sequence, strict=True)]
    together = {name: part for part in reversed(sets) for name in part}
    found: dict[tuple[str, ...], None] = {}
    for name in (*spec.request_columns, *spec.ad_columns):
        found.setdefault(together.get(name, (name,)))
    return [
        Family(
            _name(part),
            np.array([spec.request_columns.index(name) for name in part if name in spec.request_columns], np.intp),
            np.array([spec.ad_columns.index(name) for name in part if name in spec.ad_columns], np.intp),
        )
        for part in found
    ]


def _name(columns: tuple[str, ...]) -> str:
    """Return what the columns' names have in common: `segment` of segment_1 to segment_6."""
    return columns[0].rstrip("0123456789").rstrip("_") if len(columns) > 1 else columns[0]
