"""Tables in a terminal of the least width, and in none: no figure is cut."""

import pytest

from loadtest.day.report import Delivery
from loadtest.day.report import show as show_day
from loadtest.day.simulate import Outcome as Day
from loadtest.faults.oracle import Audit
from loadtest.faults.report import Result, summary
from loadtest.faults.report import show as show_faults
from loadtest.faults.simulate import Outcome
from loadtest.reconcile import reconcile


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_faults_fit_with_their_plot(capsys: pytest.CaptureFixture[str]) -> None:
    audit = Audit(0, 0, 0, 13_429_012, 13_702_111, 9_000, 6, 9_100, 40_000, 43, 14_828)
    clean = audit._replace(value_micros=13_675_000)
    results = [Result(1_017, Outcome(audit, ""), Outcome(clean, ""))]
    show_faults(results, summary(results))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for told in ("1017", "14,828", "13.702", "43", "0.982", "impressions", "overspent", "█"):
        assert told in text
    assert "…" not in text


def test_a_days_figures_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    gaps = (0.0,) * 23 + (0.0123,)
    terms = ("acadia-office", "America/New_York", "cpc, even, dayparts", "traffic")
    found = [Delivery(*terms, 12_350_000, 12_345_678, gaps, 0.1, 12.3)]
    nothing_lost = reconcile({}, [], [])
    day = Day(
        samples=[], supply={}, impressions={}, requests=123_456, overspent=[], imbalance_micros=0,
        reconciliation=nothing_lost, digest="ab" * 16,
    )  # fmt: skip
    show_day(day, found)
    text = capsys.readouterr().out
    for told in ("acadia-office", "America/New_York", "cpc, even, dayparts", "12.3x", "12.35", "1.23% at 24", "10.00%"):
        assert told in text
    assert "…" not in text
