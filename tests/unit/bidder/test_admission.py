"""Admission: bursts of a second's worth pass, more do not, and the in-flight bound holds."""

from bidder.admission import (
    CALM_NS,
    QUEUE_NS_MAX,
    SHORT_NS,
    STANDING_NS,
    WORK_NS_MAX,
    Admission,
    Queue,
)
from dsp.catalog.reasons import Exclusion
from dsp.kernel.clock import NS_PER_SECOND
from dsp.openrtb.profile import Profile

PROFILES = {"x": Profile(name="x", qps_max=10), "y": Profile(name="y", qps_max=1_000)}


def test_rates_are_per_exchange() -> None:
    admission = Admission(PROFILES, 1_000, 3.0, 0, lambda: True)
    refusals = [admission.enter("x", 0, 0) for _ in range(12)]
    assert refusals == [None] * 10 + [Exclusion.RATE_LIMITED] * 2
    assert admission.enter("y", 0, 0) is None


def test_in_flight_bound() -> None:
    admission = Admission(PROFILES, 2, 3.0, 0, lambda: True)
    assert [admission.enter("y", 0, 0) for _ in range(3)] == [None, None, Exclusion.OVERLOAD]
    admission.leave()
    admission.leave()
    assert admission.enter("y", 0, 0) is None


def test_the_most_in_flight_is_told_once_they_have_been_answered() -> None:
    """Who asks comes between turns of the event loop, when all of a turn have been answered."""
    admission = Admission(PROFILES, 2, 3.0, 0, lambda: True)
    for _ in range(3):
        admission.enter("y", 0, 0)
    for _ in range(3):
        admission.leave()
    assert [admission.most(), admission.most()] == [3, 0]
    admission.enter("y", 0, 0)
    assert [admission.most(), admission.most()] == [1, 1]


def test_nobody_bids_for_what_could_not_be_recorded() -> None:
    records = iter([False, True])
    admission = Admission(PROFILES, 2, 3.0, 0, lambda: next(records))
    assert [admission.enter("y", 0, 0) for _ in range(2)] == [Exclusion.LOG_AWAY, None]


def test_time_short() -> None:
    admission = Admission(PROFILES, 2, 3.0, 0, lambda: True)
    assert admission.time_short(2.9)
    assert not admission.time_short(3.0)


MS = 1_000_000


def test_a_stall_refuses_nobody() -> None:
    queue, now_ns = Queue(), 10 * NS_PER_SECOND
    for _ in range(3):  # half a second in which nothing was answered, and then what had come meanwhile
        behind = [queue.overdue(now_ns - 500 * MS + number * MS, now_ns + number * MS) for number in range(90)]
        assert not any(behind)
        now_ns += STANDING_NS + CALM_NS + 500 * MS


def test_a_standing_queue_is_cut_to_what_may_be_waited() -> None:
    queue, now_ns = Queue(), 10 * NS_PER_SECOND
    for number in range(20):
        assert not queue.overdue(now_ns + (number - 90) * MS, now_ns + number * MS)
    now_ns += STANDING_NS + 50 * MS
    assert not queue.overdue(now_ns - QUEUE_NS_MAX, now_ns)
    assert queue.overdue(now_ns - QUEUE_NS_MAX - 1, now_ns)
    # From then on turns are short.
    assert queue.overdue(now_ns - WORK_NS_MAX - 1, now_ns)
    assert not queue.overdue(now_ns - WORK_NS_MAX, now_ns)
    # After a while they may be longer again; if that shows that it is still so, at once no more.
    now_ns += SHORT_NS + 50 * MS
    assert not queue.overdue(now_ns - QUEUE_NS_MAX, now_ns)
    assert queue.overdue(now_ns - QUEUE_NS_MAX - 1, now_ns)
    assert queue.overdue(now_ns - WORK_NS_MAX - 1, now_ns)
    # It is remembered through turns in which nothing waited, and forgotten in the end.
    assert queue.overdue(now_ns - 90 * MS, now_ns + CALM_NS)
    assert not queue.overdue(now_ns - 90 * MS, now_ns + 3 * CALM_NS)
