"""Pending exposures: short-lived, bounded, and forgotten when the bid is resolved."""

from bidder.pending import PendingExposures
from dsp.catalog.user import Exposure, UserRecord


def exposure(bid_id: str, at_ms: int = 0) -> Exposure:
    return Exposure(bid_id, at_ms, 1, 2, 3)


def test_merges_with_what_is_known() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b2", 500))
    known = UserRecord((exposure("b1"),), ("s",))
    assert pending.merged("u", known, 600) == UserRecord((exposure("b1"), exposure("b2", 500)), ("s",))
    assert pending.merged("u", None, 600) == UserRecord((exposure("b2", 500),))
    assert pending.merged("other", known, 600) is known


def test_expires() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b", 0))
    assert pending.merged("u", None, 999) is not None
    assert pending.merged("u", None, 1_000) is None
    pending.add("v", exposure("c", 2_000))
    assert len(pending) == 1


def test_discard_is_harmless_twice() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b"))
    pending.discard("b")
    pending.discard("b")
    assert len(pending) == 0
    assert pending.merged("u", None, 1) is None


def test_is_bounded_and_forgets_the_oldest() -> None:
    pending = PendingExposures(ttl_ms=1_000_000, count_max=3)
    for number in range(10):
        pending.add(f"u{number}", exposure(f"b{number}", number))
    assert len(pending) == 3
    assert pending.merged("u9", None, 10) is not None
    assert pending.merged("u0", None, 10) is None


def test_a_user_without_a_key_leaves_no_trace() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=3)
    pending.add("", exposure("b"))
    assert len(pending) == 0
