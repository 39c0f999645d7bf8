"""What becomes of tonight's candidate and of the challenger in shadow, decided from findings alone."""

from typing import Any

import msgspec
import numpy as np
import pytest

from models.evaluation.gates import Difference, Slice
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.training.config import TrainingConfig
from models.training.contest import Findings, Live, bid_with, decide
from models.training.rows import Rows

DAY_MS = 86_400_000
CHALLENGER = "20250615T000000-0123456789abcdef"
BUILT_MS = 1_749_945_600_000
NOW_MS = BUILT_MS + 2 * DAY_MS
BETTER = Difference(5_000, 300, 0.002, 0.001, 0.003)
PERHAPS = Difference(5_000, 300, 0.001, -0.001, 0.003)
WORSE = Difference(5_000, 300, -0.002, -0.003, -0.001)
FEW = Difference(20, 3, -0.002, -0.003, -0.001)


def decided(tonight: Difference, live: Difference | None = None, now_ms: int = NOW_MS, **changes: Any) -> Any:
    found = Findings("champion", {}, tonight, [], [], Live(CHALLENGER, live, []) if live is not None else None)
    return decide(msgspec.structs.replace(found, **changes), now_ms, TrainingConfig())


@pytest.mark.parametrize(
    ("tonight", "live", "candidate", "challenger"),
    [
        (BETTER, None, "promote", "keep"),
        (PERHAPS, None, "shadow", "keep"),
        (WORSE, None, "refuse", "keep"),
        (BETTER, PERHAPS, "promote", "drop"),
        (BETTER, BETTER, "promote", "drop"),  # the newer one has learned more
        (PERHAPS, BETTER, "refuse", "promote"),
        (WORSE, BETTER, "refuse", "promote"),
        (PERHAPS, PERHAPS, "refuse", "keep"),  # its place is taken
        (PERHAPS, FEW, "refuse", "keep"),
        (PERHAPS, WORSE, "shadow", "drop"),
        (WORSE, WORSE, "refuse", "drop"),
        (WORSE, PERHAPS, "refuse", "keep"),
    ],
)
def test_who_serves_and_who_looks_on(
    tonight: Difference, live: Difference | None, candidate: str, challenger: str
) -> None:
    decision = decided(tonight, live)
    assert (decision.candidate, decision.challenger) == (candidate, challenger)
    assert bool(decision.reasons) == (candidate != "promote")


def test_an_undecided_challenger_makes_room_after_some_days() -> None:
    assert decided(PERHAPS, PERHAPS, NOW_MS + 4 * DAY_MS).candidate == "refuse"
    late = decided(PERHAPS, PERHAPS, NOW_MS + 6 * DAY_MS)
    assert (late.candidate, late.challenger) == ("shadow", "drop")


def test_a_challenger_that_is_not_calibrated_live_is_not_promoted() -> None:
    found = Findings("champion", {}, WORSE, [], [], Live(CHALLENGER, BETTER, ["too high"]))
    assert decide(found, NOW_MS, TrainingConfig()).challenger == "keep"


def test_objections_and_slices_refuse_what_is_better() -> None:
    assert decided(BETTER, objections=["too high"]).candidate == "refuse"
    assert decided(BETTER, slices=[Slice("campaign 1", 500, 2.0, 1.1)]).candidate == "refuse"
    assert decided(BETTER, slices=[Slice("campaign 1", 500, 2.0, 2.1)]).candidate == "promote"


def test_findings_survive_the_runs_folder() -> None:
    found = Findings(None, {}, BETTER, [Slice("campaign 1", 500, 2.0, 2.1)], ["no"], Live(CHALLENGER, FEW, []))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(found)), Findings) == found


def test_a_first_model_is_compared_with_what_was_bid_with() -> None:
    """That is what the prior had learned by then; constants where the log does not tell."""
    ads = np.zeros((4, len(AD_COLUMNS)), dtype=np.int64)
    ads[:, AD_COLUMNS.index("format")] = 1
    requests = np.zeros((4, len(REQUEST_COLUMNS)), dtype=np.int64)
    rows = Rows(np.arange(4), requests, ads, np.zeros(4, dtype=np.bool_), np.ones(4))
    assert bid_with(np.array([0.2, np.nan, 0.0, 0.03]), rows) == pytest.approx([0.2, 0.01, 0.01, 0.03])


@pytest.mark.parametrize("name", ["new_clicks_min", "conversions_min", "seed"])
def test_settings_that_would_fail_a_night_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TrainingConfig(**{name: -1 if name == "seed" else 0})  # type: ignore[arg-type]
