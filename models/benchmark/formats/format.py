"""What a kind of file offers: how to tell it, how to read it, what its rows hold."""

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
