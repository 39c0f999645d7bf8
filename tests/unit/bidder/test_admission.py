"""Admission: bursts of a second's worth pass, more do not, and the in-flight bound holds."""

from bidder.admission import NS_PER_SECOND, Admission, TokenBucket
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.profile import Profile

PROFILES = {"x": Profile(name="x", qps_max=10), "y": Profile(name="y", qps_max=1_000)}


def test_bucket_holds_one_second_and_refills() -> None:
    bucket = TokenBucket(10, 0)
    assert sum(bucket.take(0) for _ in range(50)) == 10
    assert sum(bucket.take(NS_PER_SECOND // 2) for _ in range(50)) == 5
    assert sum(bucket.take(100 * NS_PER_SECOND) for _ in range(50)) == 10


def test_rates_are_per_exchange() -> None:
    admission = Admission(PROFILES, 1_000, 3.0, 0)
    refusals = [admission.enter("x", 0) for _ in range(12)]
    assert refusals == [None] * 10 + [Exclusion.RATE_LIMITED] * 2
    assert admission.enter("y", 0) is None


def test_in_flight_bound() -> None:
    admission = Admission(PROFILES, 2, 3.0, 0)
    assert [admission.enter("y", 0) for _ in range(3)] == [None, None, Exclusion.OVERLOAD]
    admission.leave()
    admission.leave()
    assert admission.enter("y", 0) is None


def test_time_short() -> None:
    admission = Admission(PROFILES, 2, 3.0, 0)
    assert admission.time_short(2.9)
    assert not admission.time_short(3.0)
