"""What people see: the live screen, the report, the picture, and the numbers of a replay."""

import io
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from loadtest import report as reports
from loadtest.console import Progress, Step, Ticker, View, bar, live, render
from loadtest.picture import Curve, Reliability, draw
from loadtest.platform import Metrics, no_bid_reasons, parse_metrics
from loadtest.reconcile import reconcile
from loadtest.replay import Outcome, lines
from loadtest.replay import report as replay_report
from loadtest.truth import NoticeKey, Sent, Tally, Truth, percentile

METRICS = """
# HELP dsp_no_bids_total Requests or impressions without a bid, by reason.
# TYPE dsp_no_bids_total counter
dsp_no_bids_total{exchange="a",reason="budget"} 3.0
dsp_no_bids_total{exchange="b",reason="budget"} 4.0
dsp_no_bids_total{exchange="b",reason="size"} 9.0
dsp_no_bids_total{exchange="b",reason="overload"} 0.0
# TYPE dsp_bid_requests_total counter
dsp_bid_requests_total{exchange="b",outcome="error"} 1.0
# TYPE dsp_model_info gauge
dsp_model_info{version="v7"} 1.0
"""


@pytest.fixture
def truth() -> Truth:
    truth = Truth()
    tally = truth.begin("prior")
    tally.requests, tally.responses, tally.bids, tally.wins, tally.impressions, tally.clicks = 100, 60, 66, 33, 30, 3
    for number in range(100):
        truth.answered(tally, 10.0 + number / 100, number / 10, 200 if number < 60 else 204)
    return truth


def report_of(truth: Truth, **changes: object) -> reports.Report:
    total = truth.total()
    notices = {NoticeKey("x", "a", "1", "bill"): Sent(10, 1, 1)}
    verdict = reconcile(notices, [], [])
    fields: dict[str, object] = {
        "ok": False, "requests": total.requests, "bids": total.bids, "wins": total.wins, "clicks": total.clicks,
        "impressions": total.impressions, "conversions": 1, "spend_micros": 1_500_000, "overspend_micros": 0,
        "overspent": [], "lost": verdict.lost, "latency_ms": reports.latency(total), "late": 0,
        "unsent": 0, "unanswered": 0, "unanswered_by_cause": {},
        "status": {"200": 60}, "response_faults": {}, "cpu_us_per_request": 321.0, "no_bid_reasons": {"budget": 7},
        "models": {"before": {"log_loss": 0.3, "auc": 0.5}, "after": {"log_loss": 0.2, "auc": 0.7}, "rows": 9},
        "model_refused": [],
        "model_swap": reports.Swap(version="v7", seconds=0.4, training_seconds=9.0, dropped_requests=0),
        "notices": verdict, "notices_never_sent": 1, "phases": reports.phases(truth),
        "campaigns": [Progress(1, "Spring", 5, 10, 20)], "line_items_spent_out": 2,
        "ledger_imbalance_micros": 0, "driver_lag_ms_max": 1.0, "seconds": 99.0,
    }  # fmt: skip
    return reports.Report(**(fields | changes))  # type: ignore[arg-type]


def printed(thing: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_live_screen_shows_steps_traffic_and_campaigns(truth: Truth) -> None:
    view = View(
        truth, [Step("first", 1.0), Step("second", 40.0)], [Progress(1, "Spring sale", 5_000_000, 4_000_000, 0)]
    )
    view.begin(1)
    assert 38 < view.left_seconds() <= 40
    shown = printed(render(view))
    for text in ("first", "second", "req/s", "60.0%", "50.0%", "Spring sale", "125%", "time left"):
        assert text in shown


def test_a_narrow_screen_loses_no_name_and_no_figure(truth: Truth) -> None:
    campaign = Progress(1, "Velora certified used", 5_000_000, 4_000_000, 9_000_000)
    view = View(truth, [Step("set up database, catalogue", 4.0)], [campaign])
    shown = printed(render(view), width=60)
    for text in ("set up database, catalogue", "4 s", "req/s", "60.0%", campaign.name, "5.00", "4.00", "9.00", "125%"):
        assert text in shown


@pytest.mark.parametrize(
    ("terminal", "kind", "redrawn"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_a_screen_that_cannot_be_redrawn_gets_lines(truth: Truth, terminal: bool, kind: str, redrawn: bool) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, _environ={"TERM": kind})
    view = View(truth, [Step("first", 1.0)])
    view.begin(0)
    with live(console, view):
        Ticker(console, view).tick()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("first: " in shown) != redrawn
    assert ("spend against plan" in shown) == redrawn


def test_the_bar_marks_the_plan_and_never_overflows() -> None:
    assert bar(Progress(1, "", 50, 25, 100)).plain.index("┃") == 6
    for progress in (Progress(1, "", 300, 100, 200), Progress(1, "", 0, 0, 0), Progress(1, "", 1, 500, 10)):
        assert len(bar(progress).plain) == 24


def test_report_says_what_is_wrong(truth: Truth, tmp_path: Path) -> None:
    report = report_of(truth, late=2, unsent=3)
    console = Console(file=io.StringIO(), width=120)
    reports.show(console, report, {"report": tmp_path / "report.json"})
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Something is wrong" in shown
    assert "missing: x/a/1/bill" in shown
    assert "answers that came after tmax: 2" in shown
    assert "behind with those before: 3" in shown
    assert "Spring" in shown


def test_report_says_why_no_model_was_swapped_in(truth: Truth) -> None:
    found = reports.problems(
        report_of(truth, model_swap=None, model_refused=["12 clicks; 30 are needed", "9 too young"])
    )
    assert "no model was swapped in: 12 clicks; 30 are needed; 9 too young" in found


def test_report_says_what_the_exchange_could_not_use(truth: Truth) -> None:
    found = reports.problems(report_of(truth, status={"200": 3, "400": 2}, response_faults={"below_floor": 1}))
    assert "bids that broke a rule: {'below_floor': 1}" in found
    assert "requests answered with neither a bid nor a no-bid, by status: {'400': 2}" in found


def test_report_says_why_the_models_are_not_compared(truth: Truth) -> None:
    """A starved training takes longer than the flights last: what is left of the panel are dashes."""
    assert not any("compare" in one for one in reports.problems(report_of(truth)))
    nothing = {"log_loss": None, "auc": None}
    found = reports.problems(report_of(truth, models={"before": nothing, "after": nothing, "rows": 0}))
    assert "no later traffic to compare the models on: training took 9 s, and the flights ended" in found


def test_report_json_has_what_was_promised(truth: Truth, tmp_path: Path) -> None:
    reports.write(tmp_path / "report.json", report_of(truth))
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    promised = {"requests", "bids", "wins", "clicks", "conversions", "spend_micros", "overspend_micros"}
    assert promised | {"latency_ms", "no_bid_reasons", "models"} <= set(report)
    assert {"p50", "p99"} <= set(report["latency_ms"])
    assert {"log_loss", "auc"} <= set(report["models"]["before"]) & set(report["models"]["after"])
    assert report["latency_ms"]["p50"] == 5.0
    assert report["phases"]["prior"]["bid_rate"] == 0.6


def test_picture_is_drawn_with_and_without_data(tmp_path: Path) -> None:
    curve = Curve("Spring", 10_000_000, [0, 1, 2], [0, 10, 30], [0, 15, 30])
    model = Reliability("model", [0.1, 0.2], [0.1, 0.3], [50, 50], 0.3, 0.6)
    draw(tmp_path / "full.png", [curve] * 4, [model, model], 1.0)
    draw(tmp_path / "empty.png", [], [], None)
    for name in ("full.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_metrics_are_summed_by_label() -> None:
    metrics = parse_metrics(METRICS)
    assert metrics.total("dsp_no_bids_total", reason="budget") == 7.0
    assert no_bid_reasons(Metrics(), metrics) == {"size": 9, "budget": 7}
    assert metrics.label("dsp_model_info", "version") == "v7"
    assert metrics.label("dsp_absent_info", "version") == ""


def test_replay_report_counts_only_this_run() -> None:
    before = parse_metrics('dsp_no_bids_total{exchange="b",reason="size"} 5.0\n')
    outcome = Outcome(10, Counter({"200": 4, "204": 5}), 1, 6, [1.0] * 9)
    report = replay_report(outcome, before, parse_metrics(METRICS), 0)
    assert report == {
        "requests": 10,
        "status": {"200": 4, "204": 5, "400": 0},
        "exceptions": 2,  # one answer missing, one error counted
        "bids": 6,
        "no_bid_reasons": {"size": 4, "budget": 7},
        "latency_ms": {"p50": 1.0, "p99": 1.0},
    }


def test_replay_reads_lines_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"id":"1"}\r\n\n  \nnot json\n')
    assert list(lines(path)) == [b'{"id":"1"}', b"not json"]
    path.write_bytes(b'\xef\xbb\xbf{"id":"1"}\n\xef\xbb\xbf\n')  # a byte order mark is the file's, not the request's
    assert list(lines(path)) == [b'{"id":"1"}', b"\xef\xbb\xbf"]


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0], 0.999) == 1.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(value) for value in range(100)], 0.99) == 99.0


def test_rates_of_nothing_are_zero() -> None:
    assert (Tally().bid_rate, Tally().win_rate) == (0.0, 0.0)
