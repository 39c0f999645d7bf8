"""What kinds of models are asked to learn: rows in blocks of time and, of conversions, the impressions before them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.training.config import TrainingConfig
from models.training.rows import Rows


@dataclass(frozen=True, slots=True)
class Seen:
    """The impressions whose clicks a task's rows are, and which of them were clicked and led to a conversion, (n,).

    A network learns of conversions over all impressions, so that it is not fitted to the selection of the clicked;
    statistics of conversions start from what clicks tell.
    """

    impressions: Rows
    converted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned: rows in order of time, cut into blocks at `edges`; half-lives of rows that are tried."""

    rows: Rows
    spec: FeatureSpec
    base_rate: float
    edges: NDArray[np.intp]
    half_lives: tuple[float, ...]
    config: TrainingConfig
    seen: Seen | None = None
