"""The pacing benchmark: its command's contract on a small file, its yardsticks, and its reach on recorded data."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from dsp.pacing.controller import Law
from models.__main__ import main
from models.benchmark import baselines, controller
from models.benchmark.auctions import Auctions, load
from models.benchmark.pacing import measure, replay

RECORDED = Path(__file__).parents[3].parent / "shared" / "data" / "ipinyou" / "auctions.csv.gz"
NAMES = {"constant", "random", "mcpc", "lin", "ortb", "lin_hindsight", "controller"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A market of 2,500 auctions in two splits, among those of another campaign; a column more than needed."""
    random = np.random.default_rng(4)
    path = tmp_path / "auctions.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["campaign", "split", "click", "market_price", "pctr", "hour_index"])
        for number in range(2_500):
            value = random.lognormal(-7.0, 0.8)
            split = "train" if number < 2_000 else "test"
            price = round(random.lognormal(4.0, 0.7))
            rows.writerow(["77", split, int(random.random() < 20 * value), price, f"{value:.6f}", number // 500])
            rows.writerow(["78", split, 0, 1, 0.5, number // 500])
    return path


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["benchmark", "pacing", *arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_document_is_what_the_contract_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--auctions", str(file), "--campaign", "77", "--episode", "700", "--fractions", "2,8")
    found = measured(capsys, *arguments)
    assert list(found) == ["fractions", "mean_value_ratio"]
    rows = found["fractions"]
    assert isinstance(rows, dict)
    assert list(rows) == ["2", "8"]
    for row in rows.values():
        assert list(row) == ["value_ratio", "clicks", "spend_ratio", "overspend_micros", "baselines"]
        assert row["overspend_micros"] == 0
        assert isinstance(row["clicks"], int)
        assert 0.9 < row["value_ratio"] <= 1.0
        assert 0.95 < row["spend_ratio"] <= 1.0
        assert set(row["baselines"]) == NAMES
        assert all(0.0 < ratio <= 1.0 for ratio in row["baselines"].values())
        assert row["baselines"]["lin_hindsight"] >= row["baselines"]["lin"] > row["baselines"]["random"]
    assert found["mean_value_ratio"] == pytest.approx(np.mean([row["value_ratio"] for row in rows.values()]))
    assert measured(capsys, *arguments) == found


def test_fractions_side_by_side_are_what_they_are_one_by_one() -> None:
    market = stream(12_000)
    together = measure(market, 1_000, [4.0, 16.0])["fractions"]  # so much that it takes two processes, given two cores
    assert together == {**measure(market, 1_000, [4.0])["fractions"], **measure(market, 1_000, [16.0])["fractions"]}


def test_one_split_can_be_chosen_and_one_campaign_only(file: Path) -> None:
    assert len(load(file, "77", "test")) == 500
    assert len(load(file, "77", None)) == 2_500
    assert set(load(file, "78", None).prices_micros_cpm.tolist()) == {1_000_000}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_is_shown_is_drawn_as_well(
    file: Path, form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "drawn" / "pacing.png"
    arguments = ["--auctions", str(file), "--campaign", "77", "--fractions", "4", "--plot", str(plot), *form]
    assert main(["benchmark", "pacing", *arguments]) == 0
    shown = capsys.readouterr().out
    assert shown.count("1/4") == (0 if form else 2)  # in the table and in the chart
    assert all(name in shown for name in NAMES)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("campaign", ["79", ""])
def test_a_campaign_without_auctions_is_refused(file: Path, campaign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "pacing", "--auctions", str(file), "--campaign", campaign, "--json"]) == 2
    assert "no auctions" in capsys.readouterr().err


HEAD = "campaign,split,click,market_price,pctr\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no column campaign, click, market_price, pctr"),
        ("campaign,split,click,pctr\n7,a,0,1\n", "no column market_price"),
        (HEAD + "8,a,0,x,1\n7,a,0,x,1\n", "line 3: market_price: could not convert string to float: 'x'"),
        (HEAD + "7,a,0,5\n", "line 2: 4 columns, not 5"),
        (HEAD + "7,a,0,-5,0.1\n", "line 2: market_price: '-5'"),
        (HEAD + "7,a,0.5,5,0.1\n", "line 2: click: "),
        (HEAD + "\n7,a,0,5,nan\n", "line 3: pctr: 'nan'"),
        (HEAD + "7,a,0,5,1e308\n", "line 2: pctr: '1e308' is out of range"),
        (HEAD + "7,a,0,5,1e-310\n", "line 2: pctr: '1e-310' is out of range"),
        (HEAD + "7,a,0,1e18,0.1\n", "too large"),
    ],
)
def test_a_broken_file_is_refused_by_line(
    tmp_path: Path, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert main(["benchmark", "pacing", "--auctions", str(path), "--campaign", "7", "--json"]) == 2
    assert told in capsys.readouterr().err


def test_a_budget_that_no_auctions_could_use_up_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", "pacing", "--auctions", str(file), "--campaign", "7", "--fractions", "1e-300", "--json"])
    assert "must be at least 0.125" in capsys.readouterr().err


def test_half_a_zip_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.csv.gz"
    path.write_bytes(gzip.compress((HEAD + "7,a,0,5,0.1\n" * 9).encode())[:-12])
    assert main(["benchmark", "pacing", "--auctions", str(path), "--campaign", "7", "--json"]) == 2
    assert "broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "7,a,0,5,0.1\n7,b,1,6.5,0.2\n",
        "\ufeff" + HEAD + "7,a,0,5,0.1\n7,b,1,6.5,0.2\n",
        (HEAD + "7,a,0,5,0.1\n\n7,b,1,6.5,0.2\n\n").replace("\n", "\r\n"),
        (HEAD + "7,a,0,5,0.1\n7,b,1,6.5,0.2\n").replace(",", " , "),
        "pctr,hour_index,campaign,episode,market_price,click\n0.1,20130611 23,7,0,5,0\n0.2,20130612 00,7,0,6.5,1\n",
    ],
    ids=["plain", "byte order mark", "blank lines", "spaces", "other order, no split"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_table_is_read_however_it_was_written(tmp_path: Path, content: str, zipped: bool) -> None:
    path = tmp_path / "table"
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    found = load(path, "7", None)
    assert found.prices_micros_cpm.tolist() == [5_000_000, 6_500_000]
    assert found.values.tolist() == [0.1, 0.2]
    assert found.clicks.tolist() == [0, 1]


@pytest.mark.filterwarnings("error")
def test_without_any_value_nothing_is_bought(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worthless.csv"
    path.write_text(HEAD + "7,a,0,5,0\n" * 40)
    row = measured(capsys, "--auctions", str(path), "--campaign", "7", "--fractions", "0.5")["fractions"]
    assert isinstance(row, dict)
    assert row["0.5"]["value_ratio"] == row["0.5"]["spend_ratio"] == row["0.5"]["overspend_micros"] == 0


def auctions(*rows: tuple[int, float]) -> Auctions:
    prices, values = zip(*rows, strict=True)
    return Auctions(np.array(prices), np.array(values), np.zeros(len(rows), dtype=np.int64))


def test_the_optimum_is_the_fractional_knapsack() -> None:
    market = auctions((10, 1.0), (10, 4.0), (40, 8.0), (5, 0.0), (0, 0.5))
    assert market.optimum(10) == pytest.approx(4.5)
    assert market.optimum(30) == pytest.approx(4.5 + 8.0 * 20 / 40)
    assert market.optimum(0) == pytest.approx(0.5)
    assert market.optimum(1_000) == pytest.approx(13.5)


def test_reference_bidders_skip_what_they_cannot_pay_and_begin_anew_each_episode() -> None:
    market = auctions((10, 1.0), (30, 2.0), (5, 4.0), (20, 8.0), (20, 16.0))
    assert baselines.value_won(market, np.full(5, 100.0), 3, 6.0) == 1.0 + 4.0
    assert baselines.value_won(market, np.full(5, 100.0), 3, 10.0) == 1.0 + 4.0 + 8.0
    assert baselines.value_won(market, np.full(5, 15.0), 5, 100.0) == 1.0 + 4.0


def stream(count: int) -> Auctions:
    random = np.random.default_rng(6)
    prices = (random.lognormal(4.0, 0.7, count) * 1e6).astype(np.int64)
    return Auctions(prices, random.lognormal(-7.0, 0.8, count), np.zeros(count, dtype=np.int64))


@pytest.mark.parametrize("fraction", [2, 16])
def test_the_platforms_controller_spends_a_days_budget_well_and_no_more(fraction: int) -> None:
    """Two days of 10,000 auctions; a bid at the goal would win most of them, so that pacing has to hold it back."""
    market = stream(20_000)
    budget = int(market.prices_micros_cpm.mean() / fraction * 10_000)
    won, spends = controller.replay(market, 10_000, [budget, budget], 200_000_000_000 // fraction)
    best = sum(day.optimum(budget) for day in market.episodes(10_000))
    assert all(0.97 * budget < spent <= budget for spent in spends)
    assert won > 0.9 * best


def test_the_platforms_controller_is_the_law_that_it_is_given_and_its_budget_is_hard() -> None:
    """Bids wide open, whatever was spent: the money is gone early in the day, to the last affordable bid."""
    market = stream(4_000)
    budget = int(market.prices_micros_cpm.mean() / 8 * 2_000)
    open_wide = Law(multiplier_min=1.9)
    won, spends = controller.replay(market, 2_000, [budget, budget], 10**12, open_wide)
    paced, _ = controller.replay(market, 2_000, [budget, budget], 10**12)
    assert won < paced
    assert all(spent <= budget for spent in spends)


#: What a pacer of twenty lines gets on this data: dual mirror descent on the budget, one step size.
REACH = {2: 0.989, 4: 0.996, 8: 0.993, 16: 0.991, 32: 0.969, 64: 0.914}


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded auctions are not there")
@pytest.mark.parametrize("fraction", list(REACH))
def test_it_is_above_a_simple_dual_pacer_on_recorded_auctions(fraction: int) -> None:
    recorded = load(RECORDED, "1458", None)
    check(recorded, 1_000, fraction, REACH[fraction])


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded auctions are not there")
@pytest.mark.parametrize(("fraction", "reach"), [(8, 0.996), (64, 0.997)])
def test_it_is_above_it_over_the_whole_stream(fraction: int, reach: float) -> None:
    recorded = load(RECORDED, "1458", None)
    check(recorded, len(recorded), fraction, reach)


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded auctions are not there")
@pytest.mark.parametrize(("fraction", "reach"), [(4, 0.9895), (64, 0.957)])
def test_the_same_setting_is_above_it_on_another_campaign(fraction: int, reach: float) -> None:
    check(load(RECORDED, "2261", None), 1_000, fraction, reach)


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded auctions are not there")
@pytest.mark.parametrize("start", [0, 200_000])
def test_a_stream_of_few_episodes_is_spent_as_well(start: int) -> None:
    """The price of money left is solved from the market learned: it does not take dozens of episodes to find."""
    check(load(RECORDED, "1458", None)[start : start + 20_000], 1_000, 64, 0.9)


def check(recorded: Auctions, length: int, fraction: int, reach: float) -> None:
    rate = float(recorded.prices_micros_cpm.mean()) / fraction
    budgets = [int(rate * len(episode)) for episode in recorded.episodes(length)]
    best = sum(part.optimum(budget) for part, budget in zip(recorded.episodes(length), budgets, strict=True))
    outcome = replay(recorded, length, budgets)
    assert outcome.value / best > reach
    assert outcome.spent_micros_cpm / sum(budgets) >= 0.99
    assert outcome.overspent_micros_cpm == 0
