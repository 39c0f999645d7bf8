"""Fitting a landscape: a known market is found again, from prices and from wins and losses alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.pricing.landscape import NOTHING, Fields
from models.training.landscape import NEVER_MICROS_CPM, Auctions, fit, grid_points

CENT = 10_000
FIELDS = Fields.of([(0, NOTHING)])
#: By the value of the one column: prices in cents and how often each is the price to win.
MARKET = {1: ([20, 50, 80], [0.6, 0.3, 0.1]), 2: ([50, 80, 200], [0.1, 0.5, 0.4])}
COUNT = 6_000


def market(floor_cents: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Contexts, floors and prices to win of a seeded market."""
    random = np.random.default_rng(3)
    values = random.integers(1, 3, COUNT)
    cents = [random.choice(MARKET[int(value)][0], p=MARKET[int(value)][1]) for value in values]
    prices = np.maximum(np.array(cents), floor_cents) * CENT
    return values[:, np.newaxis], np.full(COUNT, floor_cents * CENT), prices


def rate(auctions: Auctions, value: int, bid_cents: int, floor_cents: int = 0) -> float:
    return fit(auctions, FIELDS).curve(np.array([value]), floor_cents * CENT).at(bid_cents * CENT)


def test_told_prices_give_each_context_its_mass_points() -> None:
    contexts, floors, prices = market()
    auctions = Auctions(contexts, floors, prices - 1, prices)
    for value, expected in ((1, [0.6, 0.9, 1.0]), (2, [0.0, 0.1, 0.6])):
        assert [rate(auctions, value, bid) for bid in (20, 50, 80)] == pytest.approx(expected, abs=0.04)
    assert rate(auctions, 1, 19) < 0.02


def test_the_mass_at_a_floor_is_found_and_nothing_wins_below() -> None:
    contexts, floors, prices = market(floor_cents=50)
    auctions = Auctions(contexts, floors, prices - 1, prices)
    assert rate(auctions, 1, 50, floor_cents=50) == pytest.approx(0.9, abs=0.04)
    assert rate(auctions, 1, 49, floor_cents=50) == 0.0


def test_silent_losses_and_wins_without_a_price_give_the_same_rates() -> None:
    contexts, floors, prices = market()
    bids = np.random.default_rng(5).integers(10, 220, COUNT) * CENT
    won = bids >= prices
    auctions = Auctions(contexts, floors, np.where(won, -1, bids), np.where(won, bids, NEVER_MICROS_CPM))
    for value, expected in ((1, [0.6, 1.0]), (2, [0.0, 0.6])):
        assert [rate(auctions, value, bid) for bid in (35, 120)] == pytest.approx(expected, abs=0.08)


def test_losses_count_where_only_wins_tell_a_price() -> None:
    """Averaging the prices of wins would call the market cheap: the dear prices are those of lost auctions."""
    contexts, floors, prices = market()
    bids = np.random.default_rng(5).integers(10, 120, COUNT) * CENT
    won = bids >= prices
    auctions = Auctions(contexts, floors, np.where(won, prices - 1, bids), np.where(won, prices, NEVER_MICROS_CPM))
    assert rate(auctions, 2, 80) == pytest.approx(0.6, abs=0.06)
    assert rate(auctions[won], 2, 80) > 0.9


def test_an_unknown_context_gets_the_market_as_a_whole() -> None:
    contexts, floors, prices = market()
    assert rate(Auctions(contexts, floors, prices - 1, prices), 77, 50) == pytest.approx(0.5, abs=0.06)


def test_a_single_auction_makes_a_landscape() -> None:
    one = Auctions(np.array([[1]]), np.array([0]), np.array([CENT - 1]), np.array([CENT]))
    assert 0.5 < rate(one, 1, 1) <= 1.0


def test_the_grid_has_the_highest_price_and_its_mass_points() -> None:
    contexts, floors, prices = market()
    assert grid_points(Auctions(contexts, floors, prices - 1, prices)).tolist() == [
        20 * CENT, 50 * CENT, 80 * CENT, 200 * CENT,
    ]  # fmt: skip


def test_fitting_is_deterministic() -> None:
    contexts, floors, prices = market()
    auctions = Auctions(contexts, floors, prices - 1, prices)
    first, second = fit(auctions, FIELDS), fit(auctions, FIELDS)
    assert np.array_equal(first.table, second.table)
