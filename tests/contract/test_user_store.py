"""What every UserStore must do: the embedded one, a server's, a cluster's; and what the embedded one does beyond it."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from itertools import permutations
from pathlib import Path
from struct import unpack

import msgspec
import pytest
from prometheus_client import REGISTRY

from dsp.cache.local import LocalUserStore
from dsp.cache.port import ReplayedUserStore, UserStore
from dsp.cache.redis import RedisUserStore
from dsp.catalog.exposures import digest, pack
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.events.schema import NoticeKind
from dsp.frequency.evidence import exposure_of
from dsp.kernel.errors import UnavailableError
from tests.notices import notice
from tests.people import exposure_count, has_bids
from tests.servers.valkey import server_url
from tests.waiting import until

MakeStore = Callable[..., Awaitable[ReplayedUserStore]]
DAY_MS = 86_400_000


@pytest.fixture(params=["local", "redis", "cluster"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """A maker of stores, of which one is open at a time."""
    opened: list[ReplayedUserStore] = []
    url = server_url(request)

    async def make(
        user_exposures_max: int = 1_000, window_ms: Callable[[], int | None] = lambda: None
    ) -> ReplayedUserStore:
        store: ReplayedUserStore
        if url:
            store = RedisUserStore(url, user_exposures_max, window_ms)
        else:
            store = LocalUserStore(tmp_path / "users.db", 1_000_000, user_exposures_max, window_ms, 60_000)
        await store.open()
        opened.append(store)
        replay = await store.begin_replay()
        if replay.ours and not replay.position:
            await store.end_replay({})  # an empty log was read to its end
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


async def respond(store: UserStore, user_key: str, one: Response) -> None:
    waiting = store.respond(user_key, one)
    if waiting is not None:
        await waiting


def response(number: int, clicked_ms: int = 0, converted_ms: int = 0) -> Response:
    return Response(f"bid-{number}", 1, 2, 4, "IAB2", clicked_ms, converted_ms)


def exposure(number: int, at_ms: int | None = None) -> Exposure:
    return Exposure(f"bid-{number}", number if at_ms is None else at_ms, 1, 2, 3)


async def test_an_unknown_user_is_none(make_store: MakeStore) -> None:
    assert await get(await make_store(), "nobody") is None


async def test_exposures_count_once_per_bid_oldest_first(make_store: MakeStore) -> None:
    store = await make_store()
    for number in (2, 1, 2, 3, 1):
        await expose(store, "user", exposure(number))
    assert await get(store, "user") == UserRecord(pack([exposure(1), exposure(2), exposure(3)]))


async def test_a_restart_keeps_the_records(make_store: MakeStore) -> None:
    store = await make_store()
    await expose(store, "user", exposure(1))
    await store.close()
    again = await make_store()
    assert await get(again, "user") == UserRecord(pack([exposure(1)]))
    await expose(again, "user", exposure(1))
    assert await get(again, "user") == UserRecord(pack([exposure(1)]))


async def test_the_order_in_which_impressions_come_makes_no_difference(make_store: MakeStore) -> None:
    store = await make_store()
    given = [exposure(1, 50), exposure(1, 40), exposure(2, 45), exposure(1)]
    for number, order in enumerate(permutations(given)):
        for one in (*order, *order[::-1]):
            await expose(store, f"user-{number}", one)
        # Each once, at the earliest time given.
        assert await get(store, f"user-{number}") == UserRecord(pack([exposure(1), exposure(2, 45)]))


async def test_a_bid_is_told_from_numbers_that_look_like_it(make_store: MakeStore) -> None:
    store = await make_store()
    advertiser_id, campaign_id = unpack("<2I", digest("bid-2"))
    alike = Exposure("bid-1", 10, advertiser_id, campaign_id, 3)
    for one in (alike, exposure(2, 30), exposure(2, 20), exposure(2, 40)):
        await expose(store, "user", one)
    assert await get(store, "user") == UserRecord(pack([alike, exposure(2, 20)]))


async def test_responses_are_the_same_in_whatever_order_and_however_often_they_come(make_store: MakeStore) -> None:
    store = await make_store()
    given = [response(1, 50), response(1, 40), response(2, 45), response(1, 0, 90), response(1, 0, 95)]
    for number, order in enumerate(permutations(given)):
        for one in (*order, *order[::-1]):
            await respond(store, f"user-{number}", one)
        found = await get(store, f"user-{number}")
        assert found == UserRecord(responses=(response(1, 40, 90), response(2, 45)))


async def test_exposures_and_responses_leave_each_other_alone_and_outlive_a_restart(make_store: MakeStore) -> None:
    store = await make_store()
    await expose(store, "user", exposure(1))
    await respond(store, "user", response(1, 7))
    await expose(store, "user", exposure(2))
    whole = UserRecord(pack([exposure(1), exposure(2)]), responses=(response(1, 7),))
    assert await get(store, "user") == whole
    await store.close()
    again = await make_store()
    assert await get(again, "user") == whole
    await respond(again, "user", response(1, 7, 9))
    assert await get(again, "user") == msgspec.structs.replace(whole, responses=(response(1, 7, 9),))


async def test_a_user_has_at_most_so_many_exposures(make_store: MakeStore) -> None:
    store, forgotten = await make_store(user_exposures_max=3), _forgotten("user")
    for number in (1, 2, 3, 4, 5, 5):
        await expose(store, "user", exposure(number))
    assert await get(store, "user") == UserRecord(pack([exposure(3), exposure(4), exposure(5)]))
    assert _forgotten("user") - forgotten == 2


async def test_a_record_reaches_as_far_back_as_the_longest_cap(make_store: MakeStore) -> None:
    window_ms: list[int | None] = [None]
    store, forgotten = await make_store(window_ms=lambda: window_ms[0]), _forgotten("user")
    for number in range(1, 6):
        await expose(store, "user", exposure(number, number * DAY_MS))
    window_ms[0] = 3 * DAY_MS
    await expose(store, "user", exposure(9, 6 * DAY_MS))
    kept = UserRecord(pack([exposure(4, 4 * DAY_MS), exposure(5, 5 * DAY_MS), exposure(9, 6 * DAY_MS)]))
    assert await get(store, "user") == kept
    await expose(store, "user", exposure(10, 3 * DAY_MS))  # one that comes too late counts nowhere
    assert await get(store, "user") == kept
    assert _forgotten("user") == forgotten


async def test_a_user_has_at_most_so_many_responses(make_store: MakeStore) -> None:
    store = await make_store()
    for number in range(20):
        await respond(store, "user", response(number, 100 + number))
    kept = UserRecord(responses=tuple(response(number, 100 + number) for number in range(4, 20)))
    assert await get(store, "user") == kept
    await respond(store, "user", response(3, 103))  # told again: it stays forgotten
    assert await get(store, "user") == kept


async def test_the_log_is_counted_like_what_was_told(make_store: MakeStore) -> None:
    store = await make_store()
    notices = [notice(number, user_key=f"u{number % 2}") for number in range(4)]
    told = exposure_of(notices[1])
    assert told is not None
    await expose(store, *told)
    for _ in range(2):
        assert (await store.begin_replay()).ours
        waiting = store.absorb([*notices, notice(9), notice(8, NoticeKind.LOSS, user_key="u1")], {0: 6})
        if waiting is not None:
            await waiting
        await store.end_replay({0: 6})
    assert has_bids(await get(store, "u0"), "bid-0", "bid-2")
    assert has_bids(await get(store, "u1"), "bid-1", "bid-3")
    await store.close()
    again = await make_store()
    assert (await again.begin_replay()).position == {0: 6}


async def test_bounds_hold_for_responses_too(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db", exposures_max=20)
    for number in range(30):
        await respond(store, "often", response(number, 100 + number))
    kept = UserRecord(responses=tuple(response(number, 100 + number) for number in range(14, 30)))
    assert await get(store, "often") == kept
    await respond(store, "often", response(3, 103))  # told again: it stays forgotten
    assert await get(store, "often") == kept
    for number in range(5):
        await expose(store, "other", exposure(number, 200))
    assert await get(store, "often") is None  # 21 of both kinds are one too many
    assert exposure_count(await get(store, "other")) == 5


async def test_responses_go_with_the_record(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db", window_ms=lambda: 0)
    await expose(store, "clicked", exposure(1, 1_000))
    await respond(store, "clicked", response(1, 2_000))
    await expose(store, "seen", exposure(2, 3_000))
    await expose(store, "later", exposure(3, DAY_MS + 1_500))
    assert await get(store, "clicked") == UserRecord(pack([exposure(1, 1_000)]), responses=(response(1, 2_000),))
    await expose(store, "later", exposure(4, DAY_MS + 2_000))
    assert await get(store, "clicked") is None
    assert await get(store, "seen") is not None
    await respond(store, "clicked", response(1, 2_000, DAY_MS + 2_000))  # a conversion may come after that
    assert await get(store, "clicked") == UserRecord(responses=(response(1, 2_000, DAY_MS + 2_000),))


async def test_records_of_before_responses_are_read(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db")
    await store.open()
    old = msgspec.msgpack.encode([[["bid-1", 1, 1, 2, 3]], ["segment"], True])
    await store._file.write(lambda sql: sql.execute("INSERT INTO users VALUES ('user', 1, ?)", (old,)))
    await store.close()
    again = LocalUserStore(tmp_path / "users.db")
    await again.open()
    assert await get(again, "user") == UserRecord(pack([exposure(1)]), ("segment",))
    await respond(again, "user", response(1, 5))
    assert await get(again, "user") == UserRecord(pack([exposure(1)]), ("segment",), responses=(response(1, 5),))
    await again.close()


@pytest.mark.parametrize("damage", ["no database", "no record"])
async def test_an_embedded_file_that_cannot_be_read_is_put_aside(tmp_path: Path, damage: str) -> None:
    """A bidder without its memory of users is one that reads the log again; one that does not start bids nothing."""
    path = tmp_path / "users.db"
    store = LocalUserStore(path)
    await store.open()
    store.expose("u", exposure(1))
    await store.close()
    if damage == "no database":
        path.write_bytes(b"\xaa" * 8_000)
    else:
        with sqlite3.connect(path) as file:
            file.execute("UPDATE users SET record = x'c1'")
        file.close()
    again = LocalUserStore(path)
    await again.open()
    assert (again.get("u"), again.position) == (None, {})
    again.expose("u", exposure(2))
    await again.close()
    assert (tmp_path / "users.db.unreadable").exists()


async def test_what_a_later_release_has_saved_is_read_from_the_log_again(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db")
    await store.open()
    store.absorb([notice(1, user_key="user")], {0: 2})
    later = msgspec.msgpack.encode([[], [], False, [], None, "packed otherwise"])
    await store._file.write(lambda sql: sql.execute("INSERT INTO users VALUES ('other', 1, ?)", (later,)))
    await store.close()
    again = LocalUserStore(tmp_path / "users.db")
    await again.open()
    assert (again.position, again.get("user"), again.get("other")) == ({}, None, None)
    again.absorb([notice(1, user_key="user"), notice(2, user_key="other")], {0: 3})
    await again.close()
    await again.open()
    assert (again.position, exposure_count(again.get("other"))) == ({0: 3}, 1)
    await again.close()


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
    assert await get(store, "first") == UserRecord(pack([exposure(3), exposure(4), exposure(5)]))
    assert [_forgotten("user") - forgotten[0], _forgotten("store") - forgotten[1]] == [3, 1]
    await store.close()
    again = make()
    await again.open()
    assert await get(again, "second") is None
    assert await get(again, "first") == UserRecord(pack([exposure(3), exposure(4), exposure(5)]))
    assert await get(again, "third") == UserRecord(pack([exposure(11)]))
    await expose(again, "fourth", exposure(12))
    assert await get(again, "first") is None
    await again.close()


async def test_so_many_users_are_remembered_and_no_more(tmp_path: Path) -> None:
    def make(users_max: int) -> LocalUserStore:
        return LocalUserStore(tmp_path / "users.db", users_max=users_max)

    store, forgotten = make(3), _forgotten("store")
    await store.open()
    for number in range(5):
        await expose(store, f"u{number}", exposure(number))
        await expose(store, "often", exposure(number))
    known = [await get(store, user_key) is not None for user_key in ("u0", "u1", "u2", "u3", "u4", "often")]
    assert known == [False, False, False, True, True, True]
    assert _forgotten("store") - forgotten == 3
    await store.close()
    for users_max, kept in ((3, ["u3", "u4", "often"]), (2, ["u4", "often"])):
        again = make(users_max)
        await again.open()
        assert len(again._users) == len(kept)
        await again.close()


async def test_what_no_cap_reaches_any_more_is_forgotten(tmp_path: Path) -> None:
    window_ms: list[int | None] = [None]
    store = LocalUserStore(tmp_path / "users.db", window_ms=lambda: window_ms[0])
    await store.open()
    forgotten = _forgotten("user") + _forgotten("store")
    for number in range(10):
        await expose(store, "often", exposure(number, number * DAY_MS))
    await expose(store, "once", exposure(20, 0))
    assert exposure_count(await get(store, "often")) == 10  # nothing is known of caps yet
    window_ms[0] = 3 * DAY_MS
    await expose(store, "often", exposure(10, 10 * DAY_MS))
    kept = await get(store, "often")
    assert kept == UserRecord(pack([exposure(8, 8 * DAY_MS), exposure(9, 9 * DAY_MS), exposure(10, 10 * DAY_MS)]))
    assert await get(store, "once") is None
    await expose(store, "often", exposure(7, 7 * DAY_MS))  # one that comes too late counts nowhere
    assert await get(store, "often") == kept
    window_ms[0] = 0  # no caps at all: a day is kept for caps to come
    await expose(store, "often", exposure(11, 11 * DAY_MS - 1))
    assert await get(store, "often") == UserRecord(pack([exposure(10, 10 * DAY_MS), exposure(11, 11 * DAY_MS - 1)]))
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
    assert has_bids(await get(store, "user"), "bid-0", "bid-1")
    store.absorb(notices, {0: 5})  # from too early a position: harmless
    assert has_bids(await get(store, "user"), "bid-0", "bid-1", "bid-2", "bid-3")
    await store.close()
    await killed._file.close()


async def test_responses_that_a_kill_lost_are_remembered_again_from_the_log(tmp_path: Path) -> None:
    personal = {"user_key": "user", "personal": True, "category": "IAB2"}
    notices = [notice(1, kind, **personal) for kind in (NoticeKind.BILL, NoticeKind.CLICK, NoticeKind.CONVERSION)]
    notices.append(notice(2, NoticeKind.CLICK, **(personal | {"personal": False})))
    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000)
    await store.open()
    store.absorb(notices[:2], {0: 2})
    await store.save()
    store.absorb(notices[2:], {0: 4})  # not saved: the kill loses it
    whole = await get(store, "user")
    assert whole is not None
    assert whole.responses == (response(1, 5_000, 5_000),)  # of the other nothing may be kept but that it was seen
    assert has_bids(whole, "bid-1", "bid-2")
    successor = LocalUserStore(tmp_path / "users.db")
    await successor.open()
    assert ((await get(successor, "user")) or UserRecord()).responses == (response(1, 5_000),)
    successor.absorb(notices, {0: 4})
    assert await get(successor, "user") == whole
    await successor.close()
    await store._file.close()


async def test_what_a_notice_proves_counts_for_known_users(tmp_path: Path) -> None:
    store = LocalUserStore(tmp_path / "users.db")
    await store.open()
    store.absorb([notice(1, user_key="user"), notice(2), notice(3, NoticeKind.LOSS, user_key="user")], {0: 7})
    assert has_bids(await get(store, "user"), "bid-1")
    assert await get(store, "") is None
    await store.close()


def _forgotten(bound: str) -> float:
    return REGISTRY.get_sample_value("dsp_exposures_forgotten_total", {"bound": bound}) or 0.0


async def test_an_embedded_file_that_cannot_be_opened_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    path.mkdir()
    with pytest.raises(UnavailableError):
        await LocalUserStore(path).open()
    assert (path.is_dir(), (tmp_path / "users.db.unreadable").exists()) == (True, False)


async def test_what_a_failed_save_has_not_written_the_next_one_writes(tmp_path: Path) -> None:
    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(tmp_path / "users.db")) as file:
            file.execute(f"ALTER TABLE {old} RENAME TO {new}")

    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000, users_max=1)
    await store.open()
    store.expose("forgotten", exposure(1))
    await store.save()
    store.expose("kept", exposure(2))
    await store.save()
    store.expose("forgotten", exposure(3))
    rename("users", "elsewhere")
    with pytest.raises(UnavailableError):
        await store.save()
    store.expose("kept", exposure(4))  # both were forgotten since the last save, and one was heard of again
    rename("elsewhere", "users")
    await store.close()
    again = LocalUserStore(tmp_path / "users.db")
    await again.open()
    assert (again.get("forgotten"), exposure_count(again.get("kept"))) == (None, 1)
    await again.close()


@pytest.mark.parametrize("bound", [{"users_max": 2}, {"exposures_max": 2}])
async def test_of_too_many_saved_users_those_heard_of_last_are_loaded(tmp_path: Path, bound: dict[str, int]) -> None:
    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=60_000)
    await store.open()
    for number, user_key in enumerate(("first", "second", "first", "third")):
        store.expose(user_key, exposure(number if user_key != "first" else 0))
        await respond(store, user_key, response(number, number))
        await store.save()
    await store.close()
    store = LocalUserStore(tmp_path / "users.db", **bound)
    await store.open()
    loaded = [key for key in ("first", "second", "third") if store.get(key)]
    assert loaded == (["first", "third"] if "users_max" in bound else ["third"])
    await store.close()


async def test_the_embedded_store_saves_by_itself(tmp_path: Path) -> None:
    def saved() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "users.db")) as file:
            return [key for (key,) in file.execute("SELECT user_key FROM users ORDER BY user_key")]

    store = LocalUserStore(tmp_path / "users.db", save_interval_ms=1)
    await store.open()
    store.expose("u1", exposure(1))
    await until(lambda: saved() == ["u1"])
    store.expose("u2", exposure(2))
    await until(lambda: saved() == ["u1", "u2"])
    store.expose("u2", exposure(3))
    gauges = ("dsp_users_cached", "dsp_user_events_cached")  # what tells how near the bounds are
    await until(lambda: [REGISTRY.get_sample_value(one) for one in gauges] == [2, 3])
    await store.close()
