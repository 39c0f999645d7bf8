"""A day bought with one set of predictions: pacing, prices, money and the exchange's rules, step by step."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bidder.config import BidderConfig
from dsp.catalog.entities import Campaign, Catalogue, LineItem
from dsp.events.schema import Notice
from dsp.kernel.money import IMPRESSIONS_PER_MILLE, Micros, cost_micros
from dsp.pacing.bids import thin
from dsp.pacing.columns import ControlColumns, align, paced
from dsp.pacing.controller import Controls, Law
from dsp.pacing.throttle import passes
from dsp.pacing.traffic import Curves
from dsp.pricing.bid import price
from dsp.pricing.value import conversion_worths, value_micros_cpm
from dsp.store.book import DayResult
from dsp.workers.controls import next_controls
from loadtest.auction import Clearing, Offer, clear
from loadtest.draw import Draw
from loadtest.learning.policy import Policy
from loadtest.learning.supply import Chance, Supply
from loadtest.learning.told import Memory, Placed, facts_of, notices_of
from loadtest.ledger import tightest
from loadtest.market import rival_cpm
from models.features.columns import REQUEST_COLUMNS, USER_COLUMNS
from models.features.encode import user_values
from models.serving.predictor import Predictions

#: How often spend is held against plan, and shows in the book, and how often people's records are brought up to date.
#: Slower than shipped, and the same for all.
STEP_MS = 300_000
_OF_USER = [REQUEST_COLUMNS.index(name) for name in USER_COLUMNS]
_SHADE = BidderConfig().first_price_shade


class Played(NamedTuple):
    """A day that was bought: the bids, and on what grounds they were made."""

    placed: list[Placed]
    requests: NDArray[np.int64]  # (N, R), with what was known of the people
    predicted: Predictions  # (M,)
    told: list[Notice]  # of what was won

    @property
    def won(self) -> list[Placed]:
        """Return the bids that won."""
        return [one for one in self.placed if one.won]


@dataclass(slots=True)
class _Purse:
    """What is left of the hard budgets of line items (by row) and campaigns (by id), for those that have one."""

    line_items: dict[int, Micros]
    campaigns: dict[int, Micros]
    campaign_of: list[int]

    def spend(self, row: int, cost: Micros) -> bool:
        """Take a cost out of both budgets, or tell that one of them does not hold it."""
        campaign = self.campaign_of[row]
        if min(self.line_items.get(row, cost), self.campaigns.get(campaign, cost)) < cost:
            return False
        for budgets, key in ((self.line_items, row), (self.campaigns, campaign)):
            if key in budgets:
                budgets[key] -= cost
        return True

    def back(self, row: int, cost: Micros) -> None:
        """Return what was set aside and not spent."""
        for budgets, key in ((self.line_items, row), (self.campaigns, self.campaign_of[row])):
            if key in budgets:
                budgets[key] += cost


def play(
    supply: Supply, catalogue: Catalogue, policy: Policy, curves: Curves, seed: int, before: Sequence[Notice] = ()
) -> Played:
    """Bid for the day's impressions with a policy's predictions; the budgets are the catalogue's.

    `seed` is of rivals' prices and of people's choices: the same impression has the same whoever bids. `before` is
    what was told of people until the day begins.
    """
    day = _Day(supply, catalogue, policy, seed, Memory(before))
    placed = list(day.run(curves))
    return Played(placed, day.requests, Predictions(day.pctr, day.pcvr), day.told)


class _Day:
    def __init__(self, supply: Supply, catalogue: Catalogue, policy: Policy, seed: int, memory: Memory) -> None:
        snapshot = supply.snapshot
        self._supply, self._catalogue, self._snapshot, self._seed = supply, catalogue, snapshot, seed
        self._policy, self._memory = policy, memory
        self.requests = supply.requests.copy()
        self.pctr, self.pcvr, self._value = (np.zeros(len(supply.owners)) for _ in range(3))
        self.told: list[Notice] = []
        self._worths = conversion_worths(catalogue.conversion_rules)
        self._purse = _Purse(
            _bounded(enumerate(snapshot.line_items)),
            _bounded((one.id, one) for one in catalogue.campaigns),
            snapshot.campaign_id.tolist(),
        )
        # What the pacing law reads, by line item's row and day: spend and results, added up.
        self._book: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 6)

    def run(self, curves: Curves) -> Iterator[Placed]:
        at_ms = np.array([chance.at_ms for chance in self._supply.chances], dtype=np.int64)
        controls, law, begin = Controls(at_ms=0), Law(), 0
        while begin < len(at_ms):
            now_ms = int(at_ms[begin]) // STEP_MS * STEP_MS
            end = int(at_ms.searchsorted(now_ms + STEP_MS))
            controls = next_controls(self._catalogue, self._results(), controls, curves, law, now_ms)
            yield from self._step(begin, end, align(paced(controls), self._snapshot.line_item_ids), now_ms)
            begin = end

    def _step(self, begin: int, end: int, controls: ControlColumns, now_ms: int) -> Iterator[Placed]:
        self._predict(begin, end, now_ms)
        prices, days = self._prices(begin, end, controls), self._snapshot.days(now_ms)
        first = int(self._supply.start[begin])
        for chance in range(begin, end):
            own = slice(int(self._supply.start[chance]) - first, int(self._supply.start[chance + 1]) - first)
            placed = self._auction(chance, prices[own], days)
            if placed is not None:
                self._policy.told(placed)
                yield placed

    def _predict(self, begin: int, end: int, now_ms: int) -> None:
        """Predict for these impressions with what is known of their people by now."""
        supply, snapshot = self._supply, self._snapshot
        self._memory.hear(now_ms)
        for number in range(begin, end):
            chance = supply.chances[number]
            record = self._memory.get(chance.user_key) if chance.personal else None
            if record is not None:
                self.requests[number, _OF_USER] = user_values(record, chance.at_ms)
        part = slice(int(supply.start[begin]), int(supply.start[end]))
        found, rows = self._policy.predict(self.requests, part), supply.rows[part]
        self.pctr[part], self.pcvr[part] = found
        self._value[part] = value_micros_cpm(snapshot.goal_kind[rows], snapshot.target_micros[rows], *found)

    def _prices(self, begin: int, end: int, controls: ControlColumns) -> NDArray[np.int64]:
        """Return what every candidate of these impressions would bid; 0 where pacing keeps it out."""
        supply, snapshot = self._supply, self._snapshot
        part = slice(int(supply.start[begin]), int(supply.start[end]))
        rows = supply.rows[part]
        bid_min = snapshot.bid_min_micros_cpm[rows]
        multiplier, rates = thin(self._value[part], controls.multiplier[rows], supply.floors[part], bid_min)
        prices = price(
            self._value[part],
            multiplier,
            supply.floors[part],
            supply.first_price[part],
            _SHADE,
            bid_min,
            snapshot.bid_max_micros_cpm[rows],
            supply.fixed_price[part],
        )
        if rates is None:
            return prices
        for chance in np.unique(supply.owners[part][rates < 1.0]).tolist():
            own = slice(int(supply.start[chance]) - part.start, int(supply.start[chance + 1]) - part.start)
            passed = passes(supply.chances[chance].lot, snapshot.line_item_ids[rows[own]], rates[own])
            prices[own] *= passed
        return prices

    def _auction(self, number: int, prices: NDArray[np.int64], days: NDArray[np.int64]) -> Placed | None:
        """Bid with the best candidate that has the money."""
        chance, first = self._supply.chances[number], int(self._supply.start[number])
        bids = prices.tolist()
        for place in preferred(bids, chance.deals):
            row = int(self._supply.rows[first + place])
            if not self._purse.spend(row, cost_micros(bids[place])):
                continue
            clearing = _clear(chance, chance.deals[place], bids[place], self._seed)
            cost = cost_micros(clearing.price_micros_cpm) if clearing.won else 0
            self._purse.back(row, cost_micros(bids[place]) - cost)
            if not clearing.won:
                return Placed(number, first + place, bids[place], won=False)
            return self._won(number, first + place, bids[place], cost, int(days[row]))
        return None

    def _won(self, chance: int, candidate: int, bid: Micros, cost: Micros, day: int) -> Placed:
        pctr, pcvr = (float(rates[candidate]) for rates in self._supply.truth)
        auctioned, row = self._supply.chances[chance], int(self._supply.rows[candidate])
        draw = Draw("response", self._seed, auctioned.auction_id, auctioned.slot.imp_id)
        clicked = draw.chance(pctr)
        converted = draw.chance(pcvr) and clicked
        worth = self._worths.get(int(self._snapshot.advertiser_id[row]), 0)
        expected = round(float(self._value[candidate]) / IMPRESSIONS_PER_MILLE)
        sums = self._book[row, day]
        for place, amount in enumerate((cost, 1, expected, clicked, converted, worth * converted)):
            sums[place] += amount
        placed = Placed(chance, candidate, bid, True, cost, clicked, converted)
        told = notices_of(facts_of(self._supply, placed), placed, self._seed)
        self._memory.expect(told)
        self.told += told
        return placed

    def _results(self) -> Iterator[DayResult]:
        snapshot = self._snapshot
        for (row, day), (spend, impressions, expected, clicks, conversions, worth) in self._book.items():
            ids = snapshot.advertisers[row].id, snapshot.campaigns[row].id, snapshot.line_items[row].id
            yield DayResult(*ids, day, spend, 0, impressions, expected, clicks, conversions, worth)


def preferred(bids: list[Micros], deals: tuple[str, ...]) -> list[int]:
    """Return the places of the bids that are any, best first: those in a deal, then by price, as the bidder does it."""
    return sorted((place for place, bid in enumerate(bids) if bid), key=lambda place: (not deals[place], -bids[place]))


def _clear(chance: Chance, deal: str, bid: Micros, seed: int) -> Clearing:
    offer = Offer(chance.slot, "", bid, "", {"dealid": deal}, "USD")
    rival = rival_cpm(seed, chance.auction_id, chance.slot.imp_id, chance.context)
    return clear(offer, rival, first_price=chance.first_price)


def _bounded(numbered: Iterable[tuple[int, LineItem | Campaign]]) -> dict[int, Micros]:
    return {number: bound for number, one in numbered if (bound := tightest(one.budget)) is not None}
