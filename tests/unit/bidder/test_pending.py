"""Pending exposures: short-lived, bounded, and forgotten when the bid is resolved."""

from prometheus_client import REGISTRY

from bidder.pending import USER_COUNT_MAX, PendingExposures
from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.events.schema import Notice, NoticeKind
from tests.notices import notice


def exposure(bid_id: str, at_ms: int = 0) -> Exposure:
    return Exposure(bid_id, at_ms, 1, 2, 3)


def test_merges_with_what_is_known() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b2", 500))
    told = (Response("b1", 1, 2, 4, "", 5),)
    known = UserRecord(pack([exposure("b1")]), ("s",), responses=told)
    seen = pack([exposure("b1"), exposure("b2", 500)])
    assert pending.merged("u", known, 600) == UserRecord(seen, ("s",), responses=told)
    assert pending.merged("u", None, 600) == UserRecord(pack([exposure("b2", 500)]))
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


def test_what_is_counted_is_not_pending_as_well() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b1", 500))
    known = UserRecord(pack([exposure("b1", 700)]))
    assert pending.merged("u", known, 800) is known
    pending.add("u", exposure("b2", 600))
    assert pending.merged("u", known, 800) == UserRecord(known.exposures + pack([exposure("b2", 600)]))


def test_a_record_that_may_lack_exposures_stays_one() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("u", exposure("b"))
    assert pending.merged("u", UserRecord(complete=False), 1) == UserRecord(pack([exposure("b")]), complete=False)


def test_a_bid_that_won_stays_until_it_expires_or_is_counted() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=10)
    pending.add("user", Exposure("bid-1", 1_000, 1, 2, 3))
    pending.hear(heard(1, NoticeKind.WIN), 2_000)
    pending.hear(heard(2, NoticeKind.WIN), 2_000)  # of another process
    pending.hear(heard(3, NoticeKind.WIN, user_key=""), 2_000)
    pending.hear(heard(4, NoticeKind.WIN, expires_at_ms=2_000), 2_000)
    pending.hear(heard(5, NoticeKind.WIN, cost_micros=9), 2_000)  # proves the impression
    pending.hear(heard(6, NoticeKind.CONVERSION), 2_000)  # tells nothing of one
    expected = UserRecord(pack(Exposure(f"bid-{number}", 1_000, 1, 2, 3) for number in (1, 2)))
    assert pending.merged("user", None, 60_999) == expected
    assert pending.merged("user", None, 61_000) is None
    pending.hear(heard(1, NoticeKind.BILL, cost_micros=9), 3_000)
    pending.hear(heard(2, NoticeKind.LOSS), 3_000)
    assert len(pending) == 0
    assert not pending._exposures  # nor is the user remembered


def heard(number: int, kind: NoticeKind, cost_micros: int = 0, user_key: str = "user", **facts: int) -> Notice:
    return notice(number, kind, cost_micros, user_key=user_key, **facts)


def test_is_bounded_and_forgets_the_oldest() -> None:
    forgotten = REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": "pending"}) or 0.0
    pending = PendingExposures(ttl_ms=1_000_000, count_max=3)
    for number in range(10):
        pending.add(f"u{number}", exposure(f"b{number}", number))
    assert len(pending) == 3
    assert REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": "pending"}) == forgotten + 7
    assert pending.merged("u9", None, 10) is not None
    assert pending.merged("u0", None, 10) is None


def test_a_user_without_a_key_leaves_no_trace() -> None:
    pending = PendingExposures(ttl_ms=1_000, count_max=3)
    pending.add("", exposure("b"))
    assert len(pending) == 0


def test_one_id_that_stands_for_everybody_crowds_out_itself_alone() -> None:
    """Each of its requests looks at all that is pending for it: 9,000 bids in ten seconds took 20 ms a request."""
    forgotten = REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": "pending"}) or 0.0
    pending = PendingExposures(ttl_ms=10_000, count_max=10_000)
    pending.add("somebody", exposure("b"))
    latest = [exposure(f"b{number}", number) for number in range(USER_COUNT_MAX + 50)]
    for one in latest:
        pending.add("0", one)
    assert pending.merged("0", None, 500) == UserRecord(pack(latest[50:]))
    assert pending.merged("somebody", None, 500) is not None
    assert len(pending) == USER_COUNT_MAX + 1
    assert REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": "pending"}) == forgotten + 50
