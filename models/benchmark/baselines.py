"""Reference bidders for the pacing benchmark, as the literature has them: bids fixed in advance, budgets hard.

Their one parameter is tuned on the first tenth of the stream, which they then bid for as well; Lin also in hindsight.
Mcpc has none: it bids what its clicks have cost. Random is seeded. ORTB is "ORTB1" of Zhang, Yuan and Wang (KDD 2014).
Beside them stands the platform's own controller of line items, its target ten times what Lin was tuned to pay a click.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.benchmark import controller
from models.benchmark.auctions import Auctions

TUNED_ON = 0.1
_GRID = 60
_SEED = 7
#: A target so many times what Lin pays leaves only the budget to hold the controller: the benchmark has no target.
_LOOSE = 10.0

Floats = NDArray[np.float64]
#: A bidder's bids (n,) for auctions (n,), given its parameter.
Bids = Callable[[Auctions, float], Floats]


class Bidder(NamedTuple):
    """A reference bidder and the parameters that it is tuned among."""

    bids: Bids
    parameters: Floats


def scores(auctions: Auctions, length: int, rate_micros_cpm: float) -> dict[str, float]:
    """Return the value won by each reference bidder over all episodes.

    Args:
        auctions: the stream.
        length: auctions in an episode.
        rate_micros_cpm: the budget per auction.
    """
    sample = auctions[: max(int(len(auctions) * TUNED_ON), 1)]

    def won(bidder: Bidder, stream: Auctions, parameter: float) -> float:
        return value_won(stream, bidder.bids(stream, parameter), length, rate_micros_cpm)

    found, tuned = {}, {}
    for name, bidder in bidders(sample).items():
        tried = [won(bidder, sample, parameter) for parameter in bidder.parameters]
        tuned[name] = float(bidder.parameters[int(np.argmax(tried))])
        found[name] = won(bidder, auctions, tuned[name])
    lin = bidders(auctions)["lin"]
    found["lin_hindsight"] = max(found["lin"], *(won(lin, auctions, parameter) for parameter in lin.parameters))
    budgets = [int(rate_micros_cpm * len(episode)) for episode in auctions.episodes(length)]
    unit = max(round(_LOOSE * tuned["lin"]), 1)
    found["controller"], _ = controller.replay(auctions, length, budgets, unit)
    return found


def bidders(sample: Auctions) -> dict[str, Bidder]:
    """Return the bidders; what they may know of the market is the sample's."""
    valued = sample[sample.values > 0.0] if (sample.values > 0.0).any() else sample
    prices = valued.prices_micros_cpm.astype(np.float64)
    values = np.where(valued.values > 0.0, valued.values, 1.0)  # without any value their scale is no matter
    shares = np.linspace(0.0, 1.0, _GRID) ** 2  # the finer the tighter the budget
    middle = max(float(np.median(prices)), 1.0)  # ORTB's c: a bid there wins half of all auctions, w(b) = b / (b + c)
    ratios = np.quantile(prices / values, shares)
    paid_per_value = float(prices.sum() / values.sum())

    def optimal(stream: Auctions, price_per_value: float) -> Floats:
        return np.sqrt(middle * price_per_value * stream.values + middle**2) - middle

    def random(stream: Auctions, highest: float) -> Floats:
        return np.random.default_rng(_SEED).uniform(0.0, highest, len(stream))

    return {
        "constant": Bidder(lambda stream, bid: np.full(len(stream), bid), np.quantile(prices, shares)),
        "random": Bidder(random, 2.0 * np.quantile(prices, shares)),
        "mcpc": Bidder(lambda stream, ratio: stream.values * ratio, np.array([paid_per_value])),
        "lin": Bidder(lambda stream, ratio: stream.values * ratio, ratios),
        "ortb": Bidder(optimal, np.quantile((prices + 2.0 * middle) * prices / middle / values, shares)),
    }


def value_won(stream: Auctions, bids: Floats, length: int, rate_micros_cpm: float) -> float:
    """Return the value of what these bids (n,) win, episode by episode, no bid above what is left of the budget."""
    would_win = (bids >= stream.prices_micros_cpm) & (stream.values > 0.0)
    value = 0.0
    for start in range(0, len(stream), length):
        end = min(start + length, len(stream))
        at = start + np.flatnonzero(would_win[start:end])
        left = rate_micros_cpm * (end - start)
        while len(at):
            spent = stream.prices_micros_cpm[at].cumsum()
            bought = int(spent.searchsorted(left, side="right"))
            value += float(stream.values[at[:bought]].sum())
            left -= float(spent[bought - 1]) if bought else 0.0
            at = at[bought + 1 :]
            at = at[stream.prices_micros_cpm[at] <= left]
    return value
