"""What the bidder must not see: rivals' prices, and how people respond. Both are pure and keyed.

Rivals' prices have the shape of the iPinYou season 2 and 3 market prices: the quantiles below are the mean over nine
campaigns of quantile over mean. Only their level depends on the context.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import exp

from loadtest.draw import Draw
from loadtest.world import VERTICALS, User

_QUANTILES = (
    (0.0, 0.0), (0.01, 0.055), (0.05, 0.114), (0.1, 0.205), (0.15, 0.244), (0.2, 0.319), (0.25, 0.402), (0.3, 0.496),
    (0.35, 0.577), (0.4, 0.612), (0.45, 0.701), (0.5, 0.809), (0.55, 0.873), (0.6, 0.958), (0.65, 1.073), (0.7, 1.199),
    (0.75, 1.371), (0.8, 1.573), (0.85, 1.853), (0.9, 2.199), (0.95, 2.74), (0.98, 3.148), (0.99, 3.339), (1.0, 3.549),
)  # fmt: skip
_PROBABILITIES = tuple(probability for probability, _ in _QUANTILES)

#: Mean price of the best rival, units per thousand impressions.
_LEVEL = {"banner": 2.4, "video": 7.5, "native": 3.2, "audio": 4.0}
_SIZE_WORTH = {"320x50": 0.55, "300x250": 1.0, "728x90": 0.8, "160x600": 0.75, "970x250": 1.7, "640x360": 1.0}
_POSITION_WORTH = {1: 1.25, 3: 0.7, 7: 1.3}
_COUNTRY_WORTH = {"USA": 1.2, "GBR": 1.0, "DEU": 0.9, "FRA": 0.75}
_DEVICE_WORTH = {"desktop": 1.1, "phone": 0.9, "tablet": 0.85, "tv": 1.4}
_NO_RIVAL = 0.04
_FLOOR_CPM_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Context:
    """What prices and responses depend on."""

    format: str
    size: str
    position: int
    user: User
    category: str  # of the site or app
    worth: float  # of the site or app
    lift: float  # hidden


@dataclass(frozen=True, slots=True)
class Ad:
    """The ad as a person sees it."""

    vertical: str
    creative: str
    format: str


def floor_cpm(draw: Draw, media: str, size: str, worth: float) -> float:
    """Return a publisher's floor: a fraction of what its slots usually bring, in whole cents."""
    usual = _LEVEL[media] * _SIZE_WORTH.get(size, 1.0) * worth
    return max(_FLOOR_CPM_MIN, round(usual * draw.between(0.05, 0.45), 2))


def price_quantile(probability: float) -> float:
    """Return the market price at a probability, as a multiple of its mean."""
    upper = min(bisect_right(_PROBABILITIES, probability), len(_QUANTILES) - 1)
    (p0, q0), (p1, q1) = _QUANTILES[upper - 1], _QUANTILES[upper]
    return q0 + (q1 - q0) * (probability - p0) / (p1 - p0)


def level_cpm(context: Context) -> float:
    """Return the mean of the best rival's price in a context."""
    return (
        _LEVEL[context.format]
        * _SIZE_WORTH.get(context.size, 1.0)
        * _POSITION_WORTH.get(context.position, 1.0)
        * _COUNTRY_WORTH[context.user.place.country]
        * _DEVICE_WORTH[context.user.device.kind]
        * context.worth
        * (1.0 + 0.08 * len(context.user.segments))  # rivals buy data as well
    )


def rival_cpm(seed: int, auction_id: str, imp_id: str, context: Context) -> float:
    """Return the best rival's bid in whole cents; 0 where nobody else bids."""
    draw = Draw("rival", seed, auction_id, imp_id)
    if draw.chance(_NO_RIVAL):
        return 0.0
    return round(level_cpm(context) * price_quantile(draw.uniform()), 2)


def vertical(categories: list[str], domain: str) -> str:
    """Return an ad's vertical: its first category's parent, else one that its domain stands for."""
    for category in categories:
        parent = category.partition("-")[0]
        if parent in VERTICALS:
            return parent
    return Draw("vertical", domain).pick(tuple(VERTICALS))


_CLICK_BASE = -4.2
_CLICK_POSITION = {1: 0.7, 3: -0.9, 7: 0.9}
_CLICK_SIZE = {"320x50": -0.9, "300x250": 0.45, "728x90": -0.4, "160x600": -0.25, "970x250": 0.7, "640x360": 0.6}
_CLICK_DEVICE = {"desktop": -0.3, "phone": 0.5, "tablet": 0.25, "tv": -2.0}
_CLICK_FORMAT = {"banner": 0.0, "video": 0.3, "native": 0.8, "audio": -0.8}
#: Verticals that work in the hand and not at the desk, and the other way round.
_HANDY = {"IAB8": 0.5, "IAB9": 0.6, "IAB17": 0.4, "IAB18": 0.4, "IAB13": -0.6, "IAB20": -0.4, "IAB2": -0.3}
_CONTEXT_MATCH = 1.1
_CONVERT_BASE = -1.5
#: How much of the taste that makes people click tells in conversions.
CONVERT_TASTE = 0.6


def click_probability(context: Context, ad: Ad) -> float:
    """Return the chance that this person clicks this ad here."""
    handy = _HANDY.get(ad.vertical, 0.0) * (1 if context.user.device.kind in {"phone", "tablet"} else -1)
    score = (
        _CLICK_BASE
        + context.user.tastes[ad.vertical]
        + (_CONTEXT_MATCH if context.category == ad.vertical else 0.0)
        + _CLICK_POSITION.get(context.position, 0.0)
        + _CLICK_SIZE.get(context.size, 0.0)
        + _CLICK_DEVICE[context.user.device.kind]
        + _CLICK_FORMAT[ad.format]
        + handy
        + context.lift
        + 0.35 * Draw("creative", ad.creative).normal()
    )
    return _logistic(score)


def conversion_probability(context: Context, ad: Ad) -> float:
    """Return the chance that this person, having clicked, goes on to convert."""
    score = (
        _CONVERT_BASE
        + CONVERT_TASTE * context.user.tastes[ad.vertical]
        + context.user.keenness
        + (0.5 if context.user.device.kind == "desktop" else -0.2)
        + 0.4 * Draw("offer", ad.vertical).normal()
    )
    return _logistic(score)


def _logistic(score: float) -> float:
    return 1.0 / (1.0 + exp(-score))
