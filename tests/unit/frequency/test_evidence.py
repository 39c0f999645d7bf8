"""What proves an impression, and when it was."""

import msgspec
import pytest

from dsp.catalog.user import Exposure
from dsp.events.schema import NoticeKind
from dsp.frequency.evidence import exposure_of
from tests.notices import notice

EXPIRES_MS = 61_000


@pytest.mark.parametrize(
    ("kind", "cost_micros", "proves"),
    [
        (NoticeKind.WIN, 0, False),
        (NoticeKind.WIN, 5, True),  # the exchange bills wins
        (NoticeKind.BILL, 5, True),
        (NoticeKind.BILL, 0, True),  # at no cost
        (NoticeKind.IMPRESSION, 0, True),
        (NoticeKind.IMPRESSION, 5, True),
        (NoticeKind.CLICK, 0, True),  # its other notices may be lost
        (NoticeKind.CONVERSION, 0, False),  # may come weeks later, and its click came
        (NoticeKind.LOSS, 0, False),
    ],
)
def test_kinds(kind: NoticeKind, cost_micros: int, proves: bool) -> None:
    assert (exposure_of(notice(1, kind, cost_micros, user_key="user")) is not None) is proves


def test_nobody_is_not_counted_and_tests_are_nobodys() -> None:
    assert exposure_of(notice(1, NoticeKind.BILL, 5, user_key="")) is None
    assert exposure_of(notice(1, NoticeKind.BILL, 0, user_key="user", price_micros_cpm=0)) is None


@pytest.mark.parametrize(
    ("arrived_ms", "dated_ms"), [(1_500, 1_500), (EXPIRES_MS, EXPIRES_MS), (EXPIRES_MS + 3_600_000, EXPIRES_MS)]
)
def test_it_was_when_it_was_reported_and_never_after_the_bid_expired(arrived_ms: int, dated_ms: int) -> None:
    given = msgspec.structs.replace(notice(1, NoticeKind.IMPRESSION, 0, user_key="user"), at_ms=arrived_ms)
    assert exposure_of(given) == ("user", Exposure("bid-1", dated_ms, 1, 2, 3))
