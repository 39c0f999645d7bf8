"""Files of labelled impressions: each module reads one kind into Rows and says by its FeatureSpec what they hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.features.spec import FeatureSpec
from models.training.rows import Rows


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file. `advertiser` is the ad column whose values are scored apart, if there is one.

    `timed`: its rows' times compare with those of other files; otherwise they are but the order of the file.
    """

    spec: FeatureSpec
    read: Callable[[Path], Rows]
    advertiser: str | None = None
    timed: bool = False
