"""What the drills conclude from what they counted."""

from loadtest.cluster.drill import Drill
from loadtest.cluster.drive import Count, Drive
from loadtest.truth import NoticeKey, Sent, Truth


def drilled(**counts: object) -> Drill:
    known: dict[str, object] = {
        "fault": "f", "requests": 10, "late": 0, "unanswered": 0, "lost": 0, "duplicated": 0, "overspent_micros": 0,
        "seconds_to_recover": 1.0, "examples": [],
    }  # fmt: skip
    return Drill(**{**known, **counts})  # type: ignore[arg-type]


def test_a_drill_fails_for_each_thing_that_may_go_wrong() -> None:
    assert drilled().ok
    for wrong in ({"lost": 1}, {"duplicated": 1}, {"overspent_micros": 1}, {"seconds_to_recover": None}):
        assert not drilled(**wrong).ok


def test_the_lag_is_from_the_nth_acknowledgement_to_the_nth_transaction() -> None:
    truth = Truth()
    for number, at in enumerate((10.0, 11.0, 12.0)):
        key = NoticeKey("e", str(number), "1", "bill")
        truth.notices[key] = Sent(5, attempts=1, acknowledged=1, acknowledged_at=at)
    truth.notices[NoticeKey("e", "9", "1", "loss")] = Sent(0, attempts=1, acknowledged=1, acknowledged_at=1.0)
    drive = Drive(None, None, truth, None)  # type: ignore[arg-type]
    drive.counts = [Count(10.5, 0), Count(11.5, 2), Count(12.25, 2)]
    assert drive.lags_seconds() == [1.5, 0.5]  # the third is not in the book yet
    drive.counts.append(Count(14.0, 3))
    assert drive.lags_seconds() == [1.5, 0.5, 2.0]
