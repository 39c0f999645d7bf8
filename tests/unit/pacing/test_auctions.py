"""Pacing auction by auction: never more than the budget, the same again each time, and nearly all that could be had."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.pacing.auctions import AuctionPacer
from dsp.pacing.dual import concave_bid, descend
from dsp.pacing.endgame import solve
from dsp.pacing.market import Market

Auction = tuple[float, float]


def play(auctions: list[Auction], length: int, budget: float) -> tuple[list[float], float, list[float]]:
    """Return (spend by episode, value, bids) of second-price auctions (value, price)."""
    pacer, spends, won, bids = AuctionPacer(), [], 0.0, []
    for start in range(0, len(auctions), length):
        episode = auctions[start : start + length]
        pacer.begin(budget, len(episode))
        spent = 0.0
        for value, price in episode:
            bid = pacer.bid(value)
            paid = price if bid > 0.0 and bid >= price else None
            pacer.settle(value, bid, paid)
            bids.append(bid)
            if paid is not None:
                spent, won = spent + paid, won + value
        spends.append(spent)
    return spends, won, bids


amounts = st.one_of(st.just(0.0), st.floats(1e-9, 1e12), st.sampled_from([1.0, 20.0, 300.0]))


@settings(max_examples=60)
@given(
    auctions=st.lists(st.tuples(amounts, amounts), min_size=1, max_size=40),
    repeat=st.integers(1, 20),
    length=st.integers(1, 200),
    budget=amounts,
)
def test_no_market_makes_it_spend_more_than_the_budget(
    auctions: list[Auction], repeat: int, length: int, budget: float
) -> None:
    spends, _, bids = play(auctions * repeat, length, budget)
    assert all(spent <= budget * (1 + 1e-9) for spent in spends)
    assert all(0.0 <= bid <= budget for bid in bids)


def market(count: int, seed: int, scale: float = 1.0, drift: float = 0.0, rare: float = 0.0) -> list[Auction]:
    """Return log-normal values and prices; `drift` moves prices up and down, `rare` ones are worth 300 times more."""
    random = np.random.default_rng(seed)
    values = scale * random.lognormal(-8.0, 0.7, count) * np.where(random.random(count) < rare, 300.0, 1.0)
    prices = random.lognormal(4.0, 0.8, count) * np.exp(drift * np.sin(np.arange(count) / count * 6.3))
    return list(zip(values.tolist(), prices.tolist(), strict=True))


def hindsight(auctions: list[Auction], length: int, budget: float) -> float:
    """Return the fractional knapsack's value, summed over episodes."""
    total = 0.0
    for start in range(0, len(auctions), length):
        left = budget
        for value, price in sorted(auctions[start : start + length], key=lambda each: each[1] / each[0]):
            total += value * min(1.0, left / price)
            left -= min(price, left)
    return total


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize(("drift", "rare"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.002)])
@pytest.mark.parametrize(("fraction", "least"), [(4, 0.97), (32, 0.93)])
def test_it_gets_nearly_what_hindsight_gets(
    scale: float, drift: float, rare: float, fraction: int, least: float
) -> None:
    auctions = market(20_000, 3, scale, drift, rare)
    budget = 1_000 * float(np.mean([price for _, price in auctions])) / fraction
    spends, value, _ = play(auctions, 1_000, budget)
    assert value >= least * hindsight(auctions, 1_000, budget)
    assert sum(spends[3:]) >= 0.985 * budget * len(spends[3:])


@pytest.mark.parametrize(("fraction", "least"), [(2, 0.8), (16, 0.6)])
def test_values_that_jump_are_learned_before_the_money_is_gone(fraction: int, least: float) -> None:
    """A stream in one episode: from its middle on all is worth twenty times as much."""
    auctions = market(40_000, 3)
    auctions[20_000:] = [(20.0 * value, price) for value, price in auctions[20_000:]]
    budget = float(sum(price for _, price in auctions)) / fraction
    spends, value, _ = play(auctions, len(auctions), budget)
    assert value >= least * hindsight(auctions, len(auctions), budget)
    assert spends[0] >= 0.99 * budget


def test_the_scale_of_values_does_not_matter() -> None:
    plain = play(market(6_000, 5), 500, 2_000.0)[0]
    scaled = play(market(6_000, 5, scale=2.0**20), 500, 2_000.0)[0]
    assert sum(scaled) == pytest.approx(sum(plain), rel=0.02)


def test_it_is_deterministic() -> None:
    auctions = market(5_000, 9, rare=0.002)
    assert play(auctions, 1_000, 1_500.0) == play(auctions, 1_000, 1_500.0)


def test_nothing_ahead_is_seen() -> None:
    auctions = market(4_000, 11)
    other = auctions[:3_000] + [(value * 7.0, price / 3.0) for value, price in auctions[3_000:]]
    seen, unseen = (play(each, 1_000, 2_000.0)[2] for each in (auctions, other))
    assert seen[:3_000] == unseen[:3_000]
    assert seen[3_001:] != unseen[3_001:]


def test_the_price_of_a_lost_auction_is_not_seen() -> None:
    auctions = market(4_000, 13)
    bids = play(auctions, 1_000, 2_000.0)[2]
    dearer = [
        (value, price if bid >= price else price * 10.0) for (value, price), bid in zip(auctions, bids, strict=True)
    ]
    assert play(dearer, 1_000, 2_000.0)[2] == bids


def test_the_dual_moves_against_what_was_spent_and_by_no_more_than_it_may() -> None:
    assert descend(0.0, 3.0, 1.0, 10.0, 1.0, 1.0) == pytest.approx(-0.2)
    assert descend(0.0, 0.0, 1.0, 10.0, 1.0, 1.0) == pytest.approx(0.1)
    assert descend(0.0, 100.0, 1.0, 10.0, 0.5, 1.0) == -0.5
    assert descend(0.0, 0.0, 100.0, 10.0, 0.5, 1.0) == 1.0


def test_a_bid_grows_ever_less_as_it_takes_more_of_what_is_left() -> None:
    assert concave_bid(0.001, 1_000.0, 1e6) == pytest.approx(1.0, rel=1e-5)
    assert concave_bid(1.0, 1_000.0, 100.0) == pytest.approx(100.0, abs=0.01)
    assert concave_bid(0.1, 1_000.0, 100.0) < 70.0
    assert concave_bid(1.0, 1.0, 0.0) == 0.0


def test_a_market_is_learned_without_bias_from_what_was_won() -> None:
    random = np.random.default_rng(1)
    learned, truth = Market(1e6), np.zeros(2)
    for _ in range(40_000):
        value, price = 1.0, float(random.choice([10.0, 40.0]))
        truth += (price == 10.0, price == 40.0)
        bid = float(random.choice([5.0, 20.0, 80.0]))  # the dear kind is seen half as often as the cheap one
        learned.add(value, bid, price if bid >= price else None)
    prices, _, rates = learned.impressions()
    assert prices.tolist() == pytest.approx([10.0, 40.0])
    assert rates == pytest.approx(truth / truth.sum(), rel=0.05)


def test_a_market_whose_values_drift_is_known_by_the_latest_of_them() -> None:
    """What was common is rare of late, and the other way round; wins of long ago would say nine to one."""
    learned, random = Market(1e6), np.random.default_rng(1)
    for common, auctions in ((1.0, 20_000), (8.0, 10_000)):
        for _ in range(auctions):
            value = common if random.random() < 0.9 else 9.0 - common
            learned.add(value, 20.0 * value, 10.0)
    prices, values, rates = learned.impressions()
    assert prices.tolist() == pytest.approx([10.0, 10.0])
    assert values.tolist() == pytest.approx([8.0, 1.0])
    assert rates == pytest.approx([0.9, 0.1], abs=0.05)


def test_values_that_wander_from_hour_to_hour_are_followed() -> None:
    """Episodes of twenty wins or so, the level of all values another one every three."""
    random = np.random.default_rng(5)
    auctions = market(18_000, 3)
    levels = np.exp(random.normal(0.0, 1.0, 20)).repeat(3_000)[:18_000].tolist()
    auctions = [(value * level, price) for (value, price), level in zip(auctions, levels, strict=True)]
    budget = 1_000 * float(np.mean([price for _, price in auctions])) / 64
    spends, value, _ = play(auctions, 1_000, budget)
    assert value >= 0.7 * hindsight(auctions, 1_000, budget)
    assert sum(spends) >= 0.99 * budget * len(spends)


def test_money_is_kept_for_what_is_rare_and_dear_and_spent_at_the_end() -> None:
    prices, values, rates = np.array([10.0, 80.0]), np.array([1.0, 1_000.0]), np.array([0.5, 0.01])
    game = solve(prices, values, rates, 320.0, 1_000, 0.0, 32)
    assert game.bid(1.0, 85.0, 300) < 10.0  # the cheap one would cost the dear one its money
    assert game.bid(1_000.0, 85.0, 300) >= 80.0
    assert game.bid(1.0, 300.0, 5) >= 10.0  # there is more than will be used
    assert game.bid(1.0, 85.0, 0) == 85.0  # the last one may have all


def test_the_endgame_knows_what_it_will_leave_unspent() -> None:
    """Played many times on the market that it was solved for; a higher price on leaving money leaves less."""
    prices, values, rates = np.array([10.0, 80.0]), np.array([1.0, 1_000.0]), np.array([0.2, 0.01])
    foretold = []
    for bonus in (0.0, 1.0):
        game = solve(prices, values, rates, 320.0, 200, bonus, 32)
        foretold.append(game.unspent(320.0))
        random, unspent = np.random.default_rng(2), []
        for _ in range(400):
            left = 320.0
            for auctions, kind in zip(range(199, -1, -1), random.choice(3, 200, p=[0.2, 0.01, 0.79]), strict=True):
                if kind < 2 and left > 0.0 and prices[kind] <= min(game.bid(values[kind], left, auctions), left):
                    left -= prices[kind]
            unspent.append(left)
        assert np.mean(unspent) == pytest.approx(foretold[-1], rel=0.25)  # money is on a coarse grid
    assert foretold[1] < 0.8 * foretold[0]


def test_even_a_first_endgame_knows_what_it_may_leave() -> None:
    """One market, ever another first endgame: nothing about leaving money was learned before it."""
    budget, unspent = 1_000 * float(np.mean([price for _, price in market(20_000, 3)])) / 64, []
    for seed in range(12):
        spends = play(market(2_000, seed, rare=0.002), 1_000, budget)[0]
        unspent.append(1.0 - spends[1] / budget)
    assert np.mean(unspent) < 0.009


def test_a_budget_too_small_to_buy_anything_does_not_wind_the_bids_up() -> None:
    """Bids of all that is left lose for ages; once more money comes, it is paced as if nothing had been."""
    pacer = AuctionPacer()
    for _ in range(3_000):
        pacer.begin(1.0, 1)
        pacer.settle(0.001, pacer.bid(0.001), None)
    pacer.begin(1_000.0, 1_000)
    assert pacer.bid(0.001) < 20.0
