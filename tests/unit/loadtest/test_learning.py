"""The market that learning is measured in: its days, its auctions and money, its log, and what is said of it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsp.catalog.entities import Catalogue
from dsp.events.schema import NoticeKind
from dsp.kernel.clock import MS_PER_DAY
from dsp.kernel.money import cost_micros, price_micros_from_cpm
from dsp.pacing.traffic import Curves
from dsp.pricing.value import value_micros_cpm
from dsp.snapshot.build import build
from loadtest.learning import log
from loadtest.learning.experiment import BEGIN_MS, POLICIES, Bought, Run
from loadtest.learning.orders import orders
from loadtest.learning.play import STEP_MS, Played, play, preferred
from loadtest.learning.policy import Fixed, Modelled
from loadtest.learning.posterior import Posterior
from loadtest.learning.report import summary
from loadtest.learning.supply import Supply, supply
from loadtest.learning.told import Memory, Placed, facts_of, notices_of
from loadtest.learning.visible import visible
from loadtest.market import rival_cpm
from models.features.columns import REQUEST_COLUMNS, USER_COLUMNS
from models.serving.predictor import Predictions
from models.serving.prior import ConstantPredictor
from models.training import dataset
from models.training.config import TrainingConfig
from tests.people import exposure_count

REQUESTS = 1_500
SEED = 3


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return orders(BEGIN_MS, REQUESTS)


@pytest.fixture(scope="module")
def day(catalogue: Catalogue) -> Supply:
    return supply(SEED, build(catalogue, "s", BEGIN_MS), BEGIN_MS, REQUESTS)


def prior(day: Supply) -> Modelled:
    return Modelled(ConstantPredictor(), day)


@pytest.fixture(scope="module")
def played(day: Supply, catalogue: Catalogue) -> Played:
    """The day as bought by somebody who knows the truth."""
    return play(day, catalogue, Fixed(day.truth), Curves(), SEED)


@pytest.fixture(scope="module")
def placed(played: Played) -> list[Placed]:
    return played.placed


def won(placed: list[Placed]) -> Iterator[Placed]:
    return (one for one in placed if one.won)


def test_a_day_is_its_arguments_alone(day: Supply, catalogue: Catalogue) -> None:
    again = supply(SEED, build(catalogue, "s", BEGIN_MS), BEGIN_MS, REQUESTS)
    assert again.chances == day.chances
    assert (again.requests == day.requests).all()
    assert (again.truth.pctr == day.truth.pctr).all()
    assert 0.7 * REQUESTS < len(day.chances) < 1.3 * REQUESTS
    assert (np.diff([chance.at_ms for chance in day.chances]) >= 0).all()
    assert (day.start[day.owners] <= np.arange(len(day.owners))).all()
    assert day.start[-1] == len(day.owners) == len(day.rows) == len(day.truth.pcvr)


def test_bids_win_by_the_exchanges_rules(day: Supply, placed: list[Placed]) -> None:
    assert len({one.chance for one in placed}) == len(placed)
    assert 0.3 < sum(one.won for one in placed) / len(placed) < 1.0
    for one in placed:
        chance = day.chances[one.chance]
        place = one.candidate - int(day.start[one.chance])
        if chance.deals[place]:
            continue  # goes before the open auction
        rival = rival_cpm(SEED, chance.auction_id, chance.slot.imp_id, chance.context)
        to_beat = price_micros_from_cpm(max(rival, chance.slot.floor_cpm))
        assert one.won == (one.bid_micros_cpm >= to_beat and one.bid_micros_cpm != price_micros_from_cpm(rival))
        if one.won and chance.first_price:
            assert one.cost_micros == cost_micros(one.bid_micros_cpm)
        assert one.cost_micros <= cost_micros(one.bid_micros_cpm)


def test_a_deal_goes_before_the_open_auction() -> None:
    assert preferred([500, 900, 0, 700, 600], ("", "", "d", "d", "d")) == [3, 4, 1, 0]
    assert preferred([0, 0], ("", "d")) == []


def test_no_budget_is_exceeded(day: Supply, catalogue: Catalogue) -> None:
    dear = Fixed(Predictions(np.full(len(day.rows), 0.9), np.full(len(day.rows), 0.9)))  # bids all that it may
    spent: dict[int, int] = {}
    for one in play(day, catalogue, dear, Curves(), SEED).won:
        line_item = day.snapshot.line_items[int(day.rows[one.candidate])]
        spent[line_item.id] = spent.get(line_item.id, 0) + one.cost_micros
    budgets = {one.id: one.budget.total_micros for one in catalogue.line_items if one.budget.total_micros}
    assert max(spent[key] / budgets[key] for key in spent) > 0.9
    assert all(spent[key] <= budgets[key] for key in spent)
    for campaign in catalogue.campaigns:
        members = [one.id for one in catalogue.line_items if one.campaign_id == campaign.id]
        assert sum(spent.get(one, 0) for one in members) <= (campaign.budget.daily_micros or 0)


def test_the_truth_buys_more_than_the_prior(day: Supply, catalogue: Catalogue, placed: list[Placed]) -> None:
    rows = day.rows
    value = value_micros_cpm(day.snapshot.goal_kind[rows], day.snapshot.target_micros[rows], *day.truth)
    guessed = play(day, catalogue, prior(day), Curves(), SEED).placed
    worth = {name: sum(value[one.candidate] for one in won(bids)) for name, bids in (("p", guessed), ("t", placed))}
    assert worth["t"] > 1.5 * worth["p"]


def test_people_are_the_same_whoever_bids(day: Supply, catalogue: Catalogue, placed: list[Placed]) -> None:
    assert play(day, catalogue, Fixed(day.truth), Curves(), SEED).placed == placed
    again = play(day, catalogue, Fixed(day.truth), Curves(), SEED + 1).placed
    assert [one.clicked for one in won(again)] != [one.clicked for one in won(placed)]
    guessed = {one.candidate: one for one in play(day, catalogue, prior(day), Curves(), SEED).won}
    both = [(one, guessed[one.candidate]) for one in won(placed) if one.candidate in guessed]
    assert len(both) > 100
    assert all((one.clicked, one.converted) == (other.clicked, other.converted) for one, other in both)
    clicked = sum(one.clicked for one in won(placed))
    expected = sum(day.truth.pctr[one.candidate] for one in won(placed))
    assert abs(clicked - expected) < 4 * expected**0.5


def test_the_log_says_what_came_of_it(tmp_path: Path, day: Supply, played: Played) -> None:
    bought = played.won
    end_ms = BEGIN_MS + 2 * MS_PER_DAY
    log.write(tmp_path, day, played.requests, bought, SEED, end_ms)
    found = dataset.load(tmp_path, BEGIN_MS, end_ms, end_ms, TrainingConfig(maturity_seconds=0.0))
    assert found.summary.impressions == len(bought)
    assert found.summary.clicks == sum(one.clicked for one in bought) > 20
    assert found.impressions.labels.tolist() == [one.clicked for one in bought]
    assert (found.impressions.requests == played.requests[[one.chance for one in bought]]).all()
    assert (found.impressions.ads == day.ads[day.creatives[[one.candidate for one in bought]]]).all()


def test_features_are_what_had_been_told_of_the_person_when_the_step_began(day: Supply, played: Played) -> None:
    """And nothing that came later, whatever the day brings."""
    columns = [REQUEST_COLUMNS.index(name) for name in USER_COLUMNS]
    compared = 0
    for number, chance in enumerate(day.chances):
        begun_ms = chance.at_ms // STEP_MS * STEP_MS
        before = [one for one in played.told if one.facts.user_key == chance.user_key and one.at_ms < begun_ms]
        found = dict(zip(USER_COLUMNS, played.requests[number, columns].tolist(), strict=True))
        if not chance.personal or not chance.user_key:
            before = []
        seen = {one.facts.bid_id for one in before}
        clicked = sorted(one.at_ms for one in before if one.kind is NoticeKind.CLICK)
        assert (found["exposures"], found["clicks"]) == (len(seen), len(clicked))
        assert found["click_age_seconds"] == ((chance.at_ms - clicked[-1]) // 1_000 if clicked else -1)
        compared += bool(clicked)
    assert compared >= 3
    others = [number for number in range(len(REQUEST_COLUMNS)) if number not in columns]
    assert (played.requests[:, others] == day.requests[:, others]).all()


def test_yesterday_is_remembered_by_the_same_people_and_not_of_strangers(
    day: Supply, catalogue: Catalogue, played: Played
) -> None:
    clicks = REQUEST_COLUMNS.index("clicks")
    policy = Modelled(ConstantPredictor(), day)
    again = play(day, catalogue, policy, Curves(), SEED, [one for one in played.told if one.at_ms < BEGIN_MS + 1])
    assert again.requests[0, clicks] == 0
    moved = [msgspec.structs.replace(one, at_ms=one.at_ms - MS_PER_DAY // 2) for one in played.told]
    assert (
        play(day, catalogue, policy, Curves(), SEED, moved).requests[:, clicks].sum() > again.requests[:, clicks].sum()
    )


def test_memory_hears_of_things_in_their_time_and_once(day: Supply, played: Played) -> None:
    win = next(one for one in played.won if one.converted and day.chances[one.chance].personal)
    told = notices_of(facts_of(day, win), win, SEED)
    assert [one.kind for one in told] == [NoticeKind.BILL, NoticeKind.CLICK, NoticeKind.CONVERSION]
    memory, user_key = Memory(told[:1]), told[0].facts.user_key
    memory.expect([*told[:0:-1], *told])
    for known, notice in enumerate(told):
        memory.hear(notice.at_ms)
        record = memory.get(user_key)
        assert (record is not None) is (known > 0)
        responses = record.responses if record is not None else ()
        assert [bool(one.clicked_ms) + bool(one.converted_ms) for one in responses] == ([1] if known == 2 else [])
    memory.hear(told[-1].at_ms + 1)
    record = memory.get(user_key)
    assert record is not None
    assert exposure_count(record) == len(record.responses) == 1
    assert memory.get("") is None


def test_the_posterior_is_right_on_average_and_learns_of_people(day: Supply, played: Played) -> None:
    seen, everything = visible(day), slice(0, len(day.owners))
    stranger, known = Posterior(day, seen), Posterior(day, seen)
    for one in played.placed:
        known.told(one)
    before, after = stranger.predict(day.requests, everything), known.predict(day.requests, everything)
    for found in (before, after):
        assert found.pctr.mean() == pytest.approx(day.truth.pctr.mean(), rel=0.06)
    errors = [np.abs(np.log(found.pctr / day.truth.pctr)).mean() for found in (seen, before, after)]
    assert errors[2] < errors[1] < errors[0]
    untold = [number for number, one in enumerate(day.owners) if not day.chances[one].personal]
    assert len(untold) > 10
    assert (after.pctr[untold] == seen.pctr[untold]).all()


def test_what_is_visible_is_the_truth_on_average_and_less_apart(day: Supply) -> None:
    found = visible(day)
    assert found.pctr.mean() == pytest.approx(day.truth.pctr.mean(), rel=0.05)
    conversions, true = found.pctr * found.pcvr, day.truth.pctr * day.truth.pcvr
    assert conversions.mean() == pytest.approx(true.mean(), rel=0.1)
    assert 0.8 < np.corrcoef(np.log(found.pctr), np.log(day.truth.pctr))[0, 1] < 0.99
    assert np.log(found.pctr).std() < np.log(day.truth.pctr).std()


def test_recovered_is_the_share_of_the_gain() -> None:
    def run(seed: int, learned: float) -> Run:
        values = dict(zip(POLICIES, (10.0, 20.0, learned, 50.0), strict=True))
        bought = {name: Bought(value, 1.0, 5, {"bids": 1.0}) for name, value in values.items()}
        return Run(seed, 100, 10, 2, "published", bought)

    found = summary([run(1, 40.0), run(2, 48.0)])
    assert (found["prior"], found["learned"], found["oracle"]) == (10.0, 44.0, 50.0)
    assert found["recovered"] == pytest.approx(0.85)
    assert found["recovered_sd"] == pytest.approx(0.1414, abs=1e-4)
    assert found["recovered_over_smoothed"] == pytest.approx(0.8)
    assert [one["recovered"] for one in found["seeds"]] == [0.75, 0.95]
    assert summary([run(1, 40.0)])["recovered_sd"] == 0.0
