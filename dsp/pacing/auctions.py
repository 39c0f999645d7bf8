"""Pacing auction by auction: a budget for a known number of auctions, episode after episode.

The law in three parts, each from what was seen of past auctions alone:

1. The multiplier is exp(level) times the money left per auction left, so that what chance spent too much or too
   little is put right at once; the level, what that money buys on this market, is learned by the dual law
   (`dsp.pacing.dual.descend`, as the platform's controller uses it) and carried over from episode to episode.
2. Bids rise less than in proportion as they take more of what is left (`dsp.pacing.dual.concave_bid`).
3. Once the money left buys but a few impressions, the bid is what money is worth by dynamic programming over the
   market learned so far (`dsp.pacing.endgame`). Leaving money unspent has a price there: the one at which that market
   lets no more be left than is tolerated. What episodes left in fact corrects how much the model is to aim at.
"""

from dataclasses import dataclass
from math import exp, log

from dsp.pacing.dual import concave_bid, descend
from dsp.pacing.endgame import Endgame, solve
from dsp.pacing.market import Market


@dataclass(frozen=True, slots=True)
class AuctionLaw:
    """How a pacer learns. Counted in wins, so that it holds at every scale of prices, values and budgets."""

    #: Money misspent that moves the multiplier by a factor of e: this many average wins, or this share of the budget
    #: if that is more. The noise of so many wins is a tenth; a share keeps it steady where budgets are large.
    memory_wins: float = 100.0
    memory_share: float = 0.2
    #: Being off an even spend by this share of the budget says that the market has changed: it halves the share that is
    #: remembered, and twice as much leaves a seventeenth of it. What days and chance do stays well below.
    off_share: float = 0.08
    #: The memory begins with so few wins and grows with them: a cold start finds the market's scale in a few auctions.
    memory_wins_start: float = 2.0
    step_max: float = 1.0
    #: A bid of more than this share of what is left is one of all that is left.
    all_share: float = 0.9999
    #: Wins that the market remembers: enough that rare ones of great value are among them.
    market_wins: float = 2_000.0
    #: The endgame begins when what is left buys this many wins, and so many have been seen.
    endgame_wins: int = 32
    #: What may be left at the end: this share of a budget, or this part of an average win's price if that is more, for
    #: a few wins never add up to a budget.
    unspent_share: float = 0.008
    unspent_wins: float = 0.25
    #: The price of a unit of money unspent, in units of what it buys, to begin with and its bounds.
    unspent_price: float = 1.0
    unspent_price_min: float = 0.05
    unspent_price_max: float = 1_000.0
    #: It is searched for until the model leaves what it is to leave, so nearly, in at most so many steps. What is left
    #: falls about with the price's root, hence the power; a step changes the price by at most a factor.
    unspent_nearly: float = 0.1
    unspent_steps_max: int = 8
    unspent_power: float = 1.5
    unspent_ratio_max: float = 8.0
    #: By how much an episode that left too much, as a share of what is tolerated, lowers what the model aims at.
    aim_step: float = 0.05
    aim_step_max: float = 0.15
    aim_min: float = 0.3
    aim_max: float = 3.0
    #: The price of an average win is the mean over about so many.
    price_wins: float = 50.0


class AuctionPacer:
    """A pacer's state. For each auction `bid`, then `settle`; before each episode `begin`. Money in any one unit."""

    def __init__(self) -> None:
        self._law = AuctionLaw()
        self._market = Market(self._law.market_wins)
        self._level: float | None = None  # None until a value was seen
        self._wins = 0
        self._price = 0.0  # of an average win
        self._unspent_price = self._law.unspent_price
        self._aim = 1.0  # what the model is to leave, as a share of what is tolerated
        self._budget = self._left = 0.0
        self._auctions = self._length = 0  # to come, the one at hand among them; of the episode
        self._endgame: Endgame | None = None

    def begin(self, budget: float, auctions: int) -> None:
        """Begin an episode; the one before it is over, whatever it left."""
        law = self._law
        if self._budget > 0.0:
            excess = self._left / self._tolerated() - 1.0
            aim = self._aim * exp(-min(law.aim_step * excess, law.aim_step_max))
            self._aim = min(max(aim, law.aim_min), law.aim_max)
        self._budget = self._left = budget
        self._auctions = self._length = auctions
        self._endgame = None

    def bid(self, value: float) -> float:
        """Return the most to pay for an impression of this value, at most what is left; 0 for no bid."""
        if value <= 0.0 or self._left <= 0.0:
            return 0.0
        if self._level is None:
            self._level = -log(value)  # the first bid is the money of one auction
            self._price = self._price or self._left / self._auctions
        if self._endgame is None and self._wins >= self._law.endgame_wins:
            reach = self._law.endgame_wins * self._price
            if self._left <= reach:
                self._endgame = self._solve(reach)
        if self._endgame is not None:
            return min(self._endgame.bid(value, self._left, self._auctions - 1), self._left)
        multiplier = exp(self._level) * self._left / self._auctions
        return concave_bid(value, multiplier, self._left)

    def settle(self, value: float, bid: float, price: float | None) -> None:
        """Learn how the auction went that was bid on; `price` is what the bid paid, None if it lost."""
        law = self._law
        cost = price or 0.0
        wanted = self._left / self._auctions
        self._market.add(value, bid, price)
        if price is not None:
            self._wins += 1
            self._price += (cost - self._price) / min(self._wins + 1.0, law.price_wins)
        if self._endgame is None and self._level is not None and self._left > 0.0:
            average = max(self._price, 1e-6 * wanted)
            off = (self._left / self._budget - self._auctions / self._length) / law.off_share
            wins = max(law.memory_wins, law.memory_share * self._budget / average / (1.0 + off**4))
            memory = min(self._wins + law.memory_wins_start, wins) * average
            # A bid of all that is left could not have been higher: without this the level of a budget that is too small
            # to buy anything would rise for ever.
            rise_max = law.step_max if bid < law.all_share * self._left else 0.0
            self._level = descend(self._level, cost, wanted, memory, law.step_max, rise_max)
        self._left -= cost
        self._auctions -= 1

    def _tolerated(self) -> float:
        return max(self._law.unspent_share * self._budget, self._law.unspent_wins * self._price)

    def _solve(self, reach: float) -> Endgame:
        """Find the price of money unspent by the model's own account of what it would leave; the last one is near."""
        law, wanted = self._law, self._aim * self._tolerated()
        prices, values, rates = self._market.impressions()
        spend = (rates * prices).cumsum()  # per auction, at the multiplier that buys just these kinds
        at = min(int(spend.searchsorted(self._left / self._auctions)), len(prices) - 1)
        bargain = float(values[at] / prices[at])
        for _ in range(law.unspent_steps_max):
            bonus = self._unspent_price * bargain
            game = solve(prices, values, rates, reach, self._auctions, bonus, law.endgame_wins)
            ratio = max(game.unspent(self._left), 0.0) / wanted
            if abs(ratio - 1.0) < law.unspent_nearly:
                break
            step = min(max(ratio**law.unspent_power, 1.0 / law.unspent_ratio_max), law.unspent_ratio_max)
            price = min(max(self._unspent_price * step, law.unspent_price_min), law.unspent_price_max)
            if price == self._unspent_price:
                break
            self._unspent_price = price
        return game
