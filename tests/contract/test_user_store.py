"""What every UserStore must do, and what the embedded one does beyond it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dsp.cache.local import LocalUserStore
from dsp.cache.port import UserStore
from dsp.catalog.user import Exposure, UserRecord
from dsp.events.schema import BidFacts, Notice, NoticeKind

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


def exposure(number: int, at_ms: int | None = None) -> Exposure:
    return Exposure(f"bid-{number}", number if at_ms is None else at_ms, 1, 2, 3)


async def test_an_unknown_user_is_none(make_store: MakeStore) -> None:
    assert await (await make_store()).get("nobody") is None


async def test_exposures_count_once_per_bid_oldest_first(make_store: MakeStore) -> None:
    store = await make_store()
    for number in (2, 1, 2, 3, 1):
        await store.expose("user", exposure(number))
    assert await store.get("user") == UserRecord((exposure(1), exposure(2), exposure(3)))


async def test_a_restart_keeps_the_records(make_store: MakeStore) -> None:
    store = await make_store()
    await store.expose("user", exposure(1))
    await store.close()
    again = await make_store()
    assert await again.get("user") == UserRecord((exposure(1),))
    await again.expose("user", exposure(1))
    assert await again.get("user") == UserRecord((exposure(1),))


async def test_bounds_hold_and_the_least_recent_go_first(tmp_path: Path) -> None:
    def make() -> LocalUserStore:
        return LocalUserStore(tmp_path / "users.db", users_max=2, exposures_max=3)

    store = make()
    await store.open()
    for number in range(5):
        await store.expose("first", exposure(number))
    await store.expose("second", exposure(10))
    await store.expose("first", exposure(5))
    await store.save()
    await store.expose("third", exposure(11))
    assert await store.get("second") is None
    assert await store.get("first") == UserRecord((exposure(3), exposure(4), exposure(5)))
    await store.close()
    again = make()
    await again.open()
    assert await again.get("second") is None
    assert await again.get("first") == UserRecord((exposure(3), exposure(4), exposure(5)))
    assert await again.get("third") == UserRecord((exposure(11),))
    await again.close()


async def test_what_a_kill_lost_is_counted_again_from_the_log(tmp_path: Path) -> None:
    notices = [_notice(number) for number in range(4)]
    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000)
    await store.open()
    assert store.position == {}
    store.absorb(notices[:2], {0: 3})
    await store.save()
    await store.expose("user", exposure(2))  # counted by a notice after the save: the kill loses it
    killed, store = store, LocalUserStore(tmp_path / "users.db")
    await store.open()
    assert store.position == {0: 3}
    record = await store.get("user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-0", "bid-1"]
    store.absorb(notices, {0: 5})  # from too early a position: harmless
    record = await store.get("user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-0", "bid-1", "bid-2", "bid-3"]
    await store.close()
    await killed._file.close()


async def test_only_billed_or_seen_impressions_of_known_users_expose(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db")
    await store.open()
    store.absorb(
        [
            _notice(1, NoticeKind.WIN, cost_micros=0),
            _notice(2, NoticeKind.LOSS, cost_micros=0),
            _notice(3, NoticeKind.CLICK, cost_micros=0),
            _notice(4, NoticeKind.BILL, user_key=""),
            _notice(5, NoticeKind.IMPRESSION, cost_micros=0),
            _notice(6, NoticeKind.WIN, cost_micros=5),
        ],
        {0: 7},
    )
    record = await store.get("user")
    assert record is not None
    assert [one.bid_id for one in record.exposures] == ["bid-5", "bid-6"]
    assert await store.get("") is None
    await store.close()


def _notice(
    number: int, kind: NoticeKind = NoticeKind.BILL, *, cost_micros: int = 10, user_key: str = "user"
) -> Notice:
    facts = BidFacts(
        exchange="x",
        auction_id=f"auction-{number}",
        imp_id="1",
        bid_id=f"bid-{number}",
        advertiser_id=1,
        campaign_id=2,
        line_item_id=3,
        creative_id=4,
        price_micros_cpm=10_000,
        cost_micros_max=10,
        currency="USD",
        rate=1.0,
        bid_at_ms=0,
        expires_at_ms=1_000,
        lease_id="1-3-0",
        day=0,
        user_key=user_key,
    )
    return Notice(kind=kind, facts=facts, at_ms=number, cost_micros=cost_micros)
