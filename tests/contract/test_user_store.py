"""What every UserStore must do, and what the embedded one does beyond it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from dsp.cache.local import LocalUserStore
from dsp.cache.port import UserStore
from dsp.catalog.user import Exposure, UserRecord
from dsp.events.schema import NoticeKind
from tests.notices import notice

MakeStore = Callable[[], Awaitable[UserStore]]


@pytest.fixture(params=["local"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """A maker of stores, of which one is open at a time."""
    opened: list[UserStore] = []

    async def make() -> UserStore:
        store = {"local": lambda: LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000)}[request.param]()
        await store.open()
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()


async def get(store: UserStore, user_key: str) -> UserRecord | None:
    """Return what the store answers, at once or not."""
    found = store.get(user_key)
    return found if found is None or isinstance(found, UserRecord) else await found


async def expose(store: UserStore, user_key: str, one: Exposure) -> None:
    waiting = store.expose(user_key, one)
    if waiting is not None:
        await waiting


def exposure(number: int, at_ms: int | None = None) -> Exposure:
    return Exposure(f"bid-{number}", number if at_ms is None else at_ms, 1, 2, 3)


async def test_an_unknown_user_is_none(make_store: MakeStore) -> None:
    assert await get(await make_store(), "nobody") is None


async def test_exposures_count_once_per_bid_oldest_first(make_store: MakeStore) -> None:
    store = await make_store()
    for number in (2, 1, 2, 3, 1):
        await expose(store, "user", exposure(number))
    assert await get(store, "user") == UserRecord((exposure(1), exposure(2), exposure(3)))


async def test_a_restart_keeps_the_records(make_store: MakeStore) -> None:
    store = await make_store()
    await expose(store, "user", exposure(1))
    await store.close()
    again = await make_store()
    assert await get(again, "user") == UserRecord((exposure(1),))
    await expose(again, "user", exposure(1))
    assert await get(again, "user") == UserRecord((exposure(1),))


async def test_the_order_in_which_impressions_come_makes_no_difference(make_store: MakeStore) -> None:
    store = await make_store()
    given = [("first", exposure(1, 50)), ("first", exposure(1, 40)), ("first", exposure(2, 45)), ("first", exposure(1))]
    given += [("second", exposure(1, 40)), ("second", exposure(2, 45)), ("second", exposure(1, 1))]
    for user_key, one in given:
        await expose(store, user_key, one)
    # Each once, at the earliest time given.
    assert await get(store, "first") == await get(store, "second") == UserRecord((exposure(1), exposure(2, 45)))


async def test_bounds_hold_and_the_least_recent_go_first(tmp_path: Path) -> None:
    def make() -> LocalUserStore:
        return LocalUserStore(tmp_path / "users.db", exposures_max=4, user_exposures_max=3)

    forgotten = [_forgotten("user"), _forgotten("store")]
    store = make()
    await store.open()
    for number in range(5):
        await expose(store, "first", exposure(number))
    await expose(store, "second", exposure(10))
    await expose(store, "first", exposure(5))
    await store.save()
    await expose(store, "third", exposure(11))
    assert await get(store, "second") is None
    assert await get(store, "first") == UserRecord((exposure(3), exposure(4), exposure(5)))
    assert [_forgotten("user") - forgotten[0], _forgotten("store") - forgotten[1]] == [3, 1]
    await store.close()
    again = make()
    await again.open()
    assert await get(again, "second") is None
    assert await get(again, "first") == UserRecord((exposure(3), exposure(4), exposure(5)))
    assert await get(again, "third") == UserRecord((exposure(11),))
    await expose(again, "fourth", exposure(12))
    assert await get(again, "first") is None
    await again.close()


async def test_what_no_cap_reaches_any_more_is_forgotten(tmp_path: Path) -> None:
    day_ms = 86_400_000
    window_ms: list[int | None] = [None]
    store = LocalUserStore(tmp_path / "users.db", window_ms=lambda: window_ms[0])
    await store.open()
    forgotten = _forgotten("user") + _forgotten("store")
    for number in range(10):
        await expose(store, "often", exposure(number, number * day_ms))
    await expose(store, "once", exposure(20, 0))
    assert len((await get(store, "often") or UserRecord()).exposures) == 10  # nothing is known of caps yet
    window_ms[0] = 3 * day_ms
    await expose(store, "often", exposure(10, 10 * day_ms))
    kept = await get(store, "often")
    assert kept == UserRecord((exposure(8, 8 * day_ms), exposure(9, 9 * day_ms), exposure(10, 10 * day_ms)))
    assert await get(store, "once") is None
    await expose(store, "often", exposure(7, 7 * day_ms))  # one that comes too late counts nowhere
    assert await get(store, "often") == kept
    window_ms[0] = 0  # no caps at all: a day is kept for caps to come
    await expose(store, "often", exposure(11, 11 * day_ms - 1))
    assert await get(store, "often") == UserRecord((exposure(10, 10 * day_ms), exposure(11, 11 * day_ms - 1)))
    assert _forgotten("user") + _forgotten("store") == forgotten
    await store.close()
    again = LocalUserStore(tmp_path / "users.db")
    await again.open()
    assert await get(again, "once") is None
    await again.close()


async def test_what_a_kill_lost_is_counted_again_from_the_log(tmp_path: Path) -> None:
    notices = [notice(number, user_key="user") for number in range(4)]
    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000)
    await store.open()
    assert store.position == {}
    store.absorb(notices[:2], {0: 3})
    await store.save()
    await expose(store, "user", exposure(2))  # counted by a notice after the save: the kill loses it
    killed, store = store, LocalUserStore(tmp_path / "users.db")
    await store.open()
    assert store.position == {0: 3}
    record = await get(store, "user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-0", "bid-1"]
    store.absorb(notices, {0: 5})  # from too early a position: harmless
    record = await get(store, "user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-0", "bid-1", "bid-2", "bid-3"]
    await store.close()
    await killed._file.close()


async def test_what_a_notice_proves_counts_for_known_users(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db")
    await store.open()
    store.absorb([notice(1, user_key="user"), notice(2), notice(3, NoticeKind.LOSS, user_key="user")], {0: 7})
    record = await get(store, "user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-1"]
    assert await get(store, "") is None
    await store.close()


def _forgotten(bound: str) -> float:
    return REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": bound}) or 0.0
