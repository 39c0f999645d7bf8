"""What proves an impression, and when it was."""

import msgspec
import pytest

from dsp.catalog.user import Exposure, Response
from dsp.events.schema import NoticeKind
from dsp.frequency.evidence import exposure_of, response_of
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


PERSONAL = {"user_key": "user", "personal": True, "category": "IAB2"}


def test_clicks_and_conversions_are_responses_at_the_time_they_were_known() -> None:
    clicked, converted = notice(1, NoticeKind.CLICK, **PERSONAL), notice(1, NoticeKind.CONVERSION, **PERSONAL)
    assert response_of(clicked) == ("user", Response("bid-1", 1, 2, 4, "IAB2", clicked_ms=5_000))
    assert response_of(converted) == ("user", Response("bid-1", 1, 2, 4, "IAB2", converted_ms=5_000))
    late = notice(1, NoticeKind.CLICK, late=True, **PERSONAL)
    assert response_of(late) == response_of(clicked)  # nobody knew of it at the bid's expiry


@pytest.mark.parametrize("kind", [NoticeKind.WIN, NoticeKind.BILL, NoticeKind.LOSS, NoticeKind.IMPRESSION])
def test_nothing_else_is_a_response(kind: NoticeKind) -> None:
    assert response_of(notice(1, kind, **PERSONAL)) is None


@pytest.mark.parametrize("fact", [{"user_key": ""}, {"personal": False}, {"price_micros_cpm": 0}])
def test_what_may_not_be_kept_or_was_a_test_is_no_response(fact: dict[str, object]) -> None:
    """Without leave to personalise an impression still counts for caps, and what was done with it is nobody's."""
    clicked = notice(1, NoticeKind.CLICK, **(PERSONAL | fact))
    assert response_of(clicked) is None
    assert (exposure_of(clicked) is not None) is ("personal" in fact)


def test_responses_merge_to_the_earliest_of_each_in_any_order() -> None:
    parts = [Response("b", 1, 2, 4, "", *times) for times in ((50, 0), (40, 0), (0, 90), (0, 80), (45, 0))]
    for given in (parts, parts[::-1], parts + parts):
        found = given[0]
        for part in given[1:]:
            found = found.merged(part)
        assert (found.clicked_ms, found.converted_ms, found.at_ms) == (40, 80, 40)
    assert parts[2].at_ms == 90
