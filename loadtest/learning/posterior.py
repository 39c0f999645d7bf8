"""The most that can be known of people: the true response model, given what the wire says and what they did before.

A person stands for many who might send the same segments; of those the ones weigh more who would have done with every
ad shown to him what he did. No model of features can know more, whatever it has learned from.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest import market, world
from loadtest.learning.supply import Supply
from loadtest.learning.told import Placed
from loadtest.world import VERTICALS, User
from models.serving.predictor import Predictions

#: How many who might be the person are weighed, and of how many that might be anybody they are drawn.
_LIKELY, _ANYBODY = 400, 4_000
_SEED = 5
_VERTICALS = tuple(VERTICALS)

Floats = NDArray[np.float64]


class _Mind(NamedTuple):
    """Who a person might be; `weights` are logs, not normalised."""

    tastes: Floats  # (_LIKELY, verticals)
    keenness: Floats  # (_LIKELY,)
    weights: Floats  # (_LIKELY,)


class _Terms(NamedTuple):
    """What a day's candidates (M,) have in log odds beside tastes and keenness, and their verticals."""

    click: Floats
    conversion: Floats
    vertical: NDArray[np.intp]


class Posterior:
    """A policy that knows the market and not the people. Whom nothing may be kept of is what `visible` says.

    `first` and `won` are a day before, and what was shown on it.
    """

    def __init__(
        self, of: Supply, visible: Predictions, first: Supply | None = None, won: Iterable[Placed] = ()
    ) -> None:
        self._visible = visible
        self._minds: dict[str, _Mind] = {}
        self._rng = np.random.default_rng(_SEED)
        if first is not None:
            self._of, self._terms = first, _terms(first)
            for placed in won:
                self.told(placed)
        self._of, self._terms = of, _terms(of)

    def predict(self, requests: NDArray[np.int64], part: slice) -> Predictions:
        """Return the mean over all whom the people might be."""
        pctr, pcvr = self._visible.pctr[part].copy(), self._visible.pcvr[part].copy()
        for candidate, number in enumerate(self._of.owners[part].tolist()):
            mind = self._mind(number)
            if mind is not None:
                clicks, conversions = self._rates(mind, part.start + candidate)
                weights = np.exp(mind.weights - mind.weights.max())
                clicked = weights * clicks
                pctr[candidate] = clicked.sum() / weights.sum()
                pcvr[candidate] = (clicked * conversions).sum() / clicked.sum()
        return Predictions(pctr, pcvr)

    def told(self, placed: Placed) -> None:
        """Weigh who the person might be by what he did."""
        mind = self._mind(placed.chance) if placed.won else None
        if mind is None:
            return
        clicks, conversions = self._rates(mind, placed.candidate)
        weights = mind.weights
        weights += np.log(clicks if placed.clicked else 1.0 - clicks)
        if placed.clicked:
            weights += np.log(conversions if placed.converted else 1.0 - conversions)

    def _rates(self, mind: _Mind, candidate: int) -> tuple[Floats, Floats]:
        terms, taste = self._terms, mind.tastes[:, self._terms.vertical[candidate]]
        conversion = terms.conversion[candidate] + market.CONVERT_TASTE * taste + mind.keenness
        return _logistic(terms.click[candidate] + taste), _logistic(conversion)

    def _mind(self, number: int) -> _Mind | None:
        chance = self._of.chances[number]
        if not chance.user_key or not chance.personal:
            return None
        found = self._minds.get(chance.user_key)
        if found is None:
            found = self._minds[chance.user_key] = self._imagine(chance.context.user)
        return found

    def _imagine(self, user: User) -> _Mind:
        rng = self._rng
        tastes = np.full((_ANYBODY, len(_VERTICALS)), world.INDIFFERENT)
        for _ in range(world.LIKED_COUNT):
            liked = world.LIKED[0] + world.LIKED[1] * rng.standard_normal(_ANYBODY)
            tastes[np.arange(_ANYBODY), rng.integers(len(_VERTICALS), size=_ANYBODY)] = liked
        told = np.array([VERTICALS[vertical] in user.segments for vertical in _VERTICALS])
        chances = np.where(tastes > 0.0, world.TOLD_RIGHTLY, world.TOLD_WRONGLY)
        odds = np.where(told, chances, 1.0 - chances).prod(axis=1)
        likely = rng.choice(_ANYBODY, _LIKELY, p=odds / odds.sum())
        return _Mind(tastes[likely], world.KEENNESS_DEVIATION * rng.standard_normal(_LIKELY), np.zeros(_LIKELY))


def _terms(of: Supply) -> _Terms:
    click, conversion = np.empty(len(of.owners)), np.empty(len(of.owners))
    verticals = np.empty(len(of.owners), dtype=np.intp)
    for candidate, (_, context, ad) in enumerate(of.shown()):
        nobody = replace(context, user=replace(context.user, tastes=dict.fromkeys(VERTICALS, 0.0), keenness=0.0))
        click[candidate] = _logit(market.click_probability(nobody, ad))
        conversion[candidate] = _logit(market.conversion_probability(nobody, ad))
        verticals[candidate] = _VERTICALS.index(ad.vertical)
    return _Terms(click, conversion, verticals)


def _logistic(score: Floats) -> Floats:
    rates: Floats = 1.0 / (1.0 + np.exp(-score))
    return rates


def _logit(probability: float) -> float:
    return log(probability / (1.0 - probability))
