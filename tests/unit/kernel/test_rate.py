"""A rate: bursts of a second's worth pass, more do not."""

from dsp.kernel.clock import NS_PER_SECOND
from dsp.kernel.rate import TokenBucket


def test_bucket_holds_one_second_and_refills() -> None:
    bucket = TokenBucket(10, 0)
    assert sum(bucket.take(0) for _ in range(50)) == 10
    assert sum(bucket.take(NS_PER_SECOND // 2) for _ in range(50)) == 5
    assert sum(bucket.take(100 * NS_PER_SECOND) for _ in range(50)) == 10
