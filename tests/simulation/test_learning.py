"""A small day learned from and one bought for: the loop of log, nightly, bundle and prices pays."""

import json

import pytest

from loadtest.__main__ import main


def test_a_day_of_learning_pays(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["learning", "--requests", "12000", "--bought", "4000", "--seeds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == 0, found["seeds"]
    assert found["requests"] == {"learned": 12_000, "bought": 4_000}
    assert found["prior"] < found["smoothed"] < found["learned"] < found["oracle"]
    assert found["recovered"] > 0.5
    gain = found["oracle"] - found["prior"]
    assert found["recovered"] == pytest.approx((found["learned"] - found["prior"]) / gain, abs=1e-3)
    assert 0.7 < found["bought"]["learned"]["calibration"]["bids"] < 1.3
    assert found["bought"]["oracle"]["calibration"]["wins"] == pytest.approx(1.0)
