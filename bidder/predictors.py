"""Who predicts: the champion, where there is one, and the prior, which stands in for it; ready for a snapshot's ads."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.serving.bundle import Bundle
from models.serving.online import Online
from models.serving.predictor import BatchPredictor, Predictor, Scorer
from models.serving.prior import ConstantPredictor, OnlinePredictor

#: Between two steps of what is worked out ahead auctions have the interpreter for so long.
REST_SECONDS = 0.004


def ahead(steps: Iterable[None]) -> None:
    """Work something out ahead, step by step, in a thread that may sleep."""
    for _ in steps:
        time.sleep(REST_SECONDS)


class Scorers(NamedTuple):
    """What auctions ask, and what they ask when time is short; without a champion they are the same."""

    predictor: Scorer
    prior: Scorer


class Predictors:
    """The champion, the smoothed rates that came with it or constants, and what was learned online since.

    The prior is what is learned online, and the smoothed rates where that has not shown yet that it knows more.
    """

    def __init__(self) -> None:
        self._champion: Predictor | None = None
        self._smoothed: BatchPredictor = ConstantPredictor("prior")
        self._online: Online | None = None
        self._champion_scorer: Scorer | None = None
        self._latest: Scorer | None = None
        self._prior_scorer: Scorer | None = None

    @property
    def learned_to_ms(self) -> int:
        """Return how far the online prior has learned; 0 without one."""
        return self._online.learned_to_ms if self._online is not None else 0

    def take_champion(self, found: Bundle) -> None:
        """Serve another champion, and its smoothed rates."""
        self._champion, self._smoothed = found.predictor, found.prior
        self._champion_scorer = self._prior_scorer = None

    def take_online(self, found: Online) -> None:
        """Serve another prior; the champion's scorer stays as it is."""
        self._online = found
        self._prior_scorer = None

    def forget(self) -> None:
        """Drop the scorers: those of another snapshot must not serve this one, should preparing fail."""
        self._champion_scorer = self._prior_scorer = None

    def prepared(self, ads: NDArray[np.int64]) -> Scorers:
        """Return the scorers for a table of ads, (C, A), and make those that are not there yet. In any thread."""
        if self._prior_scorer is None:
            self._prior_scorer = self._prior().prepare(ads)
        if self._champion is None:
            return Scorers(self._prior_scorer, self._prior_scorer)
        if self._champion_scorer is None:
            scorer = self._champion.prepare(ads)
            if self._latest is not None:
                ahead(scorer.follow(self._latest))
            self._champion_scorer = self._latest = scorer
        return Scorers(self._champion_scorer, self._prior_scorer)

    def _prior(self) -> Predictor:
        found = self._online
        if found is None or (found.ctr is None and found.cvr is None):
            return self._smoothed
        return OnlinePredictor(found.version, found.ctr, found.cvr, self._smoothed)
