"""The hidden market has the shape of real ones, and people's responses can be learned from."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.exchange import context_of
from loadtest.market import Ad, Context, click_probability, conversion_probability, price_quantile, rival_cpm, vertical
from loadtest.traffic import Traffic
from loadtest.world import VERTICALS

SEED = 5


@pytest.fixture(scope="module")
def contexts() -> list[tuple[str, Context]]:
    traffic = Traffic(SEED)
    requests = [traffic.request(index) for index in range(3_000)]
    return [(request.id, context_of(request, slot)) for request in requests for slot in request.slots]


def test_price_quantiles_rise_from_nothing_and_average_to_one() -> None:
    grid = np.array([price_quantile(float(at)) for at in np.linspace(0, 1, 20_001)])
    assert (np.diff(grid) >= 0).all()
    assert grid[0] == 0.0
    assert 0.95 < grid.mean() < 1.05


def test_prices_are_skewed_and_repeatable(contexts: list[tuple[str, Context]]) -> None:
    banners = [(auction, context) for auction, context in contexts if context.format == "banner"]
    prices = np.array([rival_cpm(SEED, auction, "1", context) for auction, context in banners])
    assert np.median(prices) < prices.mean()
    assert 0.02 < (prices == 0).mean() < 0.08
    again = [rival_cpm(SEED, auction, "1", context) for auction, context in banners[:50]]
    assert again == prices[:50].tolist()


def test_bettercontext_ofs_cost_more(contexts: list[tuple[str, Context]]) -> None:
    def mean(media: str) -> float:
        found = [(auction, context) for auction, context in contexts if context.format == media]
        return float(np.mean([rival_cpm(SEED, auction, "1", context) for auction, context in found]))

    assert mean("video") > 2 * mean("banner")


def test_a_few_per_cent_click_and_taste_decides(contexts: list[tuple[str, Context]]) -> None:
    ads = [Ad(name, f"creative-{number}", "") for number, name in enumerate(VERTICALS)]
    rates = np.array(
        [[click_probability(context, replace(ad, format=context.format)) for ad in ads] for _, context in contexts]
    )
    assert 0.02 < rates.mean() < 0.09
    liked = np.array([[context.user.tastes[ad.vertical] > 0 for ad in ads] for _, context in contexts])
    assert rates[liked].mean() > 2 * rates[~liked].mean()


def test_a_perfect_model_would_separate_clicks_well(contexts: list[tuple[str, Context]]) -> None:
    rng = np.random.default_rng(0)
    rates = np.array([click_probability(context, Ad("IAB2", "c", context.format)) for _, context in contexts])
    clicks = rng.random(len(rates)) < rates
    order = rates.argsort()
    ranks = np.empty(len(rates))
    ranks[order] = np.arange(1, len(rates) + 1)
    auc = (ranks[clicks].sum() - clicks.sum() * (clicks.sum() + 1) / 2) / (clicks.sum() * (~clicks).sum())
    assert auc > 0.75


def test_probabilities_are_probabilities(contexts: list[tuple[str, Context]]) -> None:
    for _, context in contexts[:300]:
        ad = Ad("IAB13", "c", context.format)
        assert 0.0 < click_probability(context, ad) < 1.0
        assert 0.0 < conversion_probability(context, ad) < 1.0


@pytest.mark.parametrize(
    ("categories", "domain", "expected"),
    [(["IAB2-3"], "x.example", "IAB2"), (["IAB25", "IAB13"], "x.example", "IAB13"), (["IAB25"], "x.example", None)],
)
def test_vertical_comes_from_the_first_category_we_know(
    categories: list[str], domain: str, expected: str | None
) -> None:
    found = vertical(categories, domain)
    assert found == expected if expected else found in VERTICALS
