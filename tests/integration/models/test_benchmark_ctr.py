"""The click model benchmark as a command: its contract, weights, and that nothing of the test file is learned."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from models.__main__ import main

COLUMNS = [
    "timestamp", "useragent", "ip", "region", "city", "adexchange", "domain", "url", "slotid", "slotwidth",
    "slotheight", "slotvisibility", "slotformat", "slotprice", "creative", "keypage", "advertiser", "usertag", "src",
    "click", "weight",
]  # fmt: skip
SCORES = {"rows", "auc", "logloss", "ne", "pcoc", "ece", "train_seconds", "by_advertiser"}
WEIGHT = 8.0


def clicked(random: Random, slot: int, advertiser: int) -> bool:
    return random.random() < (0.12 if slot % 3 == advertiser else 0.01)


def write(
    path: Path, days: range, count: int = 1_500, click: Callable[[Random, int, int], bool] = clicked
) -> dict[str, float]:
    """Write rows of some days, sampled by label as season 2 is; return how many rows count, and all clicks."""
    random = Random(days.start)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="1")
        writer.writeheader()
        rows = clicks = 0
        for day in days:
            for number in range(count):
                slot, advertiser = random.randrange(9), random.randrange(3)
                row = {
                    "timestamp": f"201306{day:02d}{number * 24 // count:02d}0000000", "slotid": f"s{slot}",
                    "ip": "1.2.3.*", "slotwidth": 300, "slotheight": 250, "slotprice": 5, "advertiser": advertiser + 1,
                    "usertag": "", "useragent": "Mozilla/5.0",
                }  # fmt: skip
                positive = click(random, slot, advertiser)
                if positive:
                    writer.writerow({**row, "src": "click_log", "click": 1, "weight": 1.0})
                elif random.random() < 1 / WEIGHT:
                    writer.writerow({**row, "src": "day_sample", "click": 0, "weight": WEIGHT})
                else:
                    writer.writerow({**row, "src": "first_minute", "click": int(slot == 0), "weight": 0.0})
                    continue
                rows, clicks = rows + 1, clicks + positive
    return {"rows": rows, "clicks": clicks}


def scores(train: Path, test: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["benchmark", "ctr", "--train", str(train), "--test", str(test), "--json", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def train(tmp_path: Path) -> Path:
    write(tmp_path / "train.csv", range(6, 10), 4_000)
    return tmp_path / "train.csv"


def test_models_and_blend_are_scored_on_the_later_file(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = write(tmp_path / "test.csv", range(10, 11), 12_000)
    plot = tmp_path / "ctr.png"
    found = scores(train, tmp_path / "test.csv", capsys, "--baselines", "--plot", str(plot))
    assert plot.stat().st_size > 1_000
    assert {"gbdt", "ftrl"} <= set(found["models"])
    assert found["winner"] in {*found["models"], "blend"}
    for scored in (*found["models"].values(), found["blend"]):
        assert set(scored) >= SCORES
        assert scored["rows"] == counts["rows"]
        assert scored["auc"] > 0.7
        assert scored["ne"] < 0.95
        assert scored["pcoc"] == pytest.approx(1.0, abs=0.35)
        assert scored["train_seconds"] > 0.0
        assert set(scored["by_advertiser"]) <= {"1", "2", "3"}
    assert sum(part["clicks"] for part in found["blend"]["by_advertiser"].values()) <= counts["clicks"]
    assert set(found["baselines"]) == {"lightgbm", "logistic_regression"}
    best = min(scored["logloss"] for scored in found["baselines"].values())
    assert found["blend"]["logloss"] < best * 1.01
    # A weight of 8 in place of 1 makes clicks rare: the models must predict so.
    assert found["blend"]["logloss"] < 0.25


def test_nothing_is_learned_from_the_later_file(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turn the later clicks round: what was predicted for the same rows stays, so it ranks them the other way."""
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    write(one, range(10, 11))
    with one.open() as file, other.open("w", newline="") as turned:
        writer = csv.DictWriter(turned, COLUMNS)
        writer.writeheader()
        for row in csv.DictReader(file):
            if row["src"] == "first_minute":
                continue
            clicks = row["click"] == "0"
            writer.writerow({**row, "click": int(clicks), "weight": 1.0 if clicks else WEIGHT})
    found = [scores(train, path, capsys) for path in (one, other)]
    for name in found[0]["models"]:
        first, second = (result["models"][name] for result in found)
        assert first["rows"] == second["rows"]
        assert first["auc"] == pytest.approx(1.0 - second["auc"], abs=1e-9)
    assert found[0]["settings"] == found[1]["settings"]
    assert found[0]["blend"]["weights"] == found[1]["blend"]["weights"]


def test_a_table_and_a_plot_for_people(train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "test.csv", range(10, 11))
    plot = tmp_path / "ctr.png"
    arguments = ["--train", str(train), "--test", str(tmp_path / "test.csv"), "--plot", str(plot)]
    assert main(["benchmark", "ctr", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "blend" in shown
    assert re.search(r"weights: .*ftrl", shown)
    assert "the nightly would serve: " in shown
    assert "…" not in shown
    assert plot.stat().st_size > 1_000


def test_what_cannot_be_learned_from_or_compared_is_refused(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, display = tmp_path / "few.csv", tmp_path / "display.tsv"
    write(few, range(10, 11), 200, lambda random, slot, advertiser: False)
    display.write_text("\t".join(["0"] * 40) + "\n")
    for first, second, said in ((few, train, "too few to learn from"), (train, display, "of another kind")):
        assert main(["benchmark", "ctr", "--train", str(first), "--test", str(second), "--json"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("days", "remarked"), [(range(9, 12), True), (range(11, 12), False)])
def test_test_rows_that_are_not_later_are_remarked(
    days: range, remarked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write(train, range(10, 11), 200, lambda random, slot, advertiser: False)  # cannot be learned from
    write(test, days)
    assert main(["benchmark", "ctr", "--train", str(train), "--test", str(test), "--json"]) == 2
    assert ("test rows are earlier than the last one learned from" in capsys.readouterr().err) == remarked
