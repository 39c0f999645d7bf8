"""Users' records on a server: one call for many requests, no wait for one that is slow, hung or away, and none lost."""

import asyncio
import time

import msgspec
import pytest

from dsp.cache import redis_users
from dsp.cache.redis import RedisUserStore
from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, UserRecord
from dsp.kernel.errors import UnavailableError
from tests.notices import notice
from tests.people import has_bids
from tests.servers.proxy import proxy
from tests.servers.valkey import Cluster, Valkey
from tests.waiting import until


def exposure(number: int) -> Exposure:
    return Exposure(f"bid-{number}", number, 1, 2, 3)


async def opened(url: str) -> RedisUserStore:
    store = RedisUserStore(url)
    await store.open()
    await store.begin_replay()
    await store.end_replay({0: 1})
    return store


def calls(valkey: Valkey, name: str) -> int:
    with valkey.client() as client:
        return int(client.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"])


async def test_what_requests_ask_at_once_is_one_call(own_valkey: Valkey) -> None:
    store = await opened(own_valkey.url)
    await store.expose("u1", exposure(1))
    before = calls(own_valkey, "mget")
    found = await asyncio.gather(*(store.get(f"u{number % 50}") for number in range(100)))
    assert calls(own_valkey, "mget") == before + 1
    assert [one for one in found if one is not None] == [UserRecord(pack([exposure(1)]))] * 2
    await store.close()


async def test_a_slow_server_is_asked_in_batches(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_users, "TIMEOUT_MS", 60_000)  # a busy machine may be slower than the server
    async with proxy(own_valkey.port) as slow:
        store = await opened(f"redis://127.0.0.1:{slow.port}/1")
        slow.delay_seconds = 0.05
        before = calls(own_valkey, "mget")
        asked = []
        for number in range(200):  # one after the other, before any is answered
            asked.append(asyncio.ensure_future(store.get(f"u{number}")))
            for _ in range(3):
                await asyncio.sleep(0)
        assert await asyncio.gather(*asked) == [None] * 200
        assert calls(own_valkey, "mget") - before < 100
        await store.close()


async def test_an_answer_that_nobody_awaits_any_more_harms_nobody(own_valkey: Valkey) -> None:
    store = await opened(own_valkey.url)
    first, second = asyncio.ensure_future(store.get("u1")), asyncio.ensure_future(store.get("u1"))
    first.cancel()
    assert await second is None
    leaving = asyncio.ensure_future(store.get("u2"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await store.get("u2") is None
    await store.close()


async def test_a_hung_server_is_left_alone_until_it_answers_again(own_valkey: Valkey) -> None:
    async with proxy(own_valkey.port) as hung:
        store = await opened(f"redis://127.0.0.1:{hung.port}/1")
        await store.expose("u1", exposure(1))
        hung.open.clear()
        began = time.perf_counter()
        with pytest.raises(UnavailableError):
            await store.get("u1")
        assert time.perf_counter() - began < 10 * redis_users.TIMEOUT_MS / 1_000  # a busy machine has its part in it
        for _ in range(100):  # refused at once from now on
            with pytest.raises(UnavailableError, match="away"):
                store.get("u1")
            with pytest.raises(UnavailableError, match="away"):
                store.expose("u1", exposure(2))
        hung.open.set()
        assert await back(store) == UserRecord(pack([exposure(1)]))
        await store.close()


async def test_a_killed_server_comes_back_with_what_it_had(own_valkey: Valkey) -> None:
    store = await opened(own_valkey.url)
    await store.expose("u1", exposure(1))
    own_valkey.kill()
    with pytest.raises(UnavailableError):
        await store.get("u1")
    own_valkey.start()
    assert await back(store) == UserRecord(pack([exposure(1)]))
    await store.close()


async def test_of_a_server_that_lost_its_data_nothing_is_known_for_certain_until_the_log_was_read(
    own_valkey: Valkey,
) -> None:
    store = await opened(own_valkey.url)
    await store.expose("u1", exposure(1))
    own_valkey.kill()
    own_valkey.lose()
    own_valkey.start()
    assert await back(store) == UserRecord(complete=False)
    await store.expose("u1", exposure(9))
    assert (await back(store)).complete is False
    position, ours = await store.begin_replay()
    assert (position, ours) == ({}, True)  # from the very beginning
    await store.absorb([notice(1, user_key="u1")], {0: 5})
    assert (await back(store)).complete is False
    await store.end_replay({0: 5})
    record = await back(store)
    assert record.complete
    assert has_bids(record, "bid-9", "bid-1")
    await store.close()


@pytest.mark.parametrize("count", [1, 20])
async def test_what_processes_of_before_wrote_is_read_and_counted_on(own_valkey: Valkey, count: int) -> None:
    """While a fleet is replaced both forms are written: see dsp.cache.user_codec."""
    url = own_valkey.url
    store, shown = RedisUserStore(url), [exposure(number) for number in range(count)]
    await store.open()
    await store.end_replay({0: 1})
    with own_valkey.client(url) as client:
        key = "dsp:{dsp-0}:user:u1"
        client.set(key, msgspec.msgpack.encode([shown, ["s"], True, []]))
        assert await back(store) == UserRecord(pack(shown), ("s",))
        for told in (exposure(0), exposure(count), exposure(count)):  # one of them is known
            await store.expose("u1", told)
        whole = UserRecord(pack([*shown, exposure(count)]), ("s",))
        assert await back(store) == whole
        # What the script of before does: to what it finds in the array's first place it adds, and keeps the rest.
        add = "local r = cmsgpack.unpack(redis.call('GET', KEYS[1])); r[1] = {cmsgpack.unpack(ARGV[1])}; "
        add += "redis.call('SET', KEYS[1], cmsgpack.pack(r))"
        client.eval(add, 1, key, msgspec.msgpack.encode(exposure(count + 1)))
        whole = UserRecord(pack([*shown, exposure(count), exposure(count + 1)]), ("s",))
        assert await back(store) == whole
        for told in (exposure(count), exposure(count + 1)):
            await store.expose("u1", told)
        assert await back(store) == whole
        await store.expose("u1", exposure(count + 2))
        assert msgspec.msgpack.decode(client.get(key), type=list[msgspec.Raw])[0] == msgspec.Raw(b"\x90")
        assert has_bids(await back(store), *(f"bid-{number}" for number in range(count + 3)))
    await store.close()


async def test_a_record_of_a_later_form_is_left_alone_and_not_relied_upon(own_valkey: Valkey) -> None:
    url, later = own_valkey.url, msgspec.msgpack.encode([[], [], False, [], None, "packed otherwise"])
    store = RedisUserStore(url)
    await store.open()
    await store.end_replay({0: 1})
    with own_valkey.client(url) as client:
        client.set("dsp:{dsp-0}:user:u1", later)
        assert await back(store) == UserRecord(complete=False)
        with pytest.raises(UnavailableError, match="later form"):
            await store.expose("u1", exposure(1))
        assert client.get("dsp:{dsp-0}:user:u1") == later
    await store.close()


async def test_one_of_several_processes_reads_the_log_for_all(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_valkey.url
    monkeypatch.setattr(redis_users, "REPLAYER_SECONDS", 1)
    one, other = await opened(url), RedisUserStore(url)
    await other.open()
    assert await other.begin_replay() == ({0: 1}, False)
    assert await one.begin_replay() == ({0: 1}, True)
    await one.close()  # it dies: another takes over

    async def ours() -> bool:
        return (await other.begin_replay()).ours

    await until(ours)
    await other.close()


async def test_records_end_with_the_longest_window(own_valkey: Valkey) -> None:
    url = own_valkey.url
    store = RedisUserStore(url, window_ms=lambda: 3 * 86_400_000)
    await store.expose("u1", exposure(1))
    with own_valkey.client(url) as client:
        (key,) = client.keys("*user:*")
        assert 0 < client.pttl(key) <= 3 * 86_400_000
    await store.close()


async def test_what_is_known_already_keeps_no_record_longer(own_valkey: Valkey) -> None:
    """The log is read again after every start."""
    url = own_valkey.url
    store = await opened(url)
    await store.expose("u1", exposure(1))
    with own_valkey.client(url) as client:
        (key,) = client.keys("*:user:u1")
        client.pexpire(key, 60_000)
        await store.expose("u1", exposure(1))
        assert client.pttl(key) <= 60_000
        await store.expose("u1", exposure(2))
        assert client.pttl(key) > 60_000
    await store.close()


async def test_who_reads_the_log_for_all_goes_on_reading_it(own_valkey: Valkey) -> None:
    url = own_valkey.url
    store = await opened(url)
    with own_valkey.client(url) as client:
        (key,) = client.keys("*:users:replayer")
        client.pexpire(key, 3_000)
        assert (await store.begin_replay()).ours
        assert client.pttl(key) > 3_000
    await store.close()


async def test_the_log_is_read_from_where_the_first_shard_left_off(valkey_cluster: Cluster) -> None:
    store = RedisUserStore(valkey_cluster.url)
    await store.open()
    await store.end_replay({0: 7, 1: 7})
    await store._nodes.run({3: [("SET", redis_users._position_key(3), msgspec.msgpack.encode({0: 5, 1: 9}))]})
    assert (await store.begin_replay()).position == {0: 5, 1: 7}
    await store.close()


async def test_a_shard_that_has_moved_to_another_server_is_found_again(valkey_cluster: Cluster) -> None:
    store = RedisUserStore(valkey_cluster.url)
    await store.open()
    nodes = store._nodes
    right = list(nodes._of_shard)
    servers = list(dict.fromkeys(right))
    nodes._of_shard = [servers[servers.index(one) - 1] for one in right]  # as it was before
    with pytest.raises(UnavailableError, match="has not these slots any more"):
        await store.begin_replay()

    async def found() -> bool:
        return nodes._of_shard == right

    await until(found)
    await store.begin_replay()
    await store.close()


async def test_so_many_wait_and_no_more(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_users, "WAITING_MAX", 10)
    store = await opened(own_valkey.url)
    asked = [asyncio.ensure_future(store.get(f"u{number}")) for number in range(10)]
    with pytest.raises(UnavailableError, match="too many"):
        store.get("u")
    assert await asyncio.gather(*asked) == [None] * 10
    await store.close()


async def back(store: RedisUserStore) -> UserRecord:
    async def answer() -> UserRecord | None:
        try:
            return await store.get("u1")
        except UnavailableError:
            return None

    found: UserRecord = await until(answer)
    return found


async def test_a_connection_that_the_server_has_closed_is_no_outage(own_valkey: Valkey) -> None:
    """As one does that is set to close idle ones (`timeout`), and a balancer before it."""
    store = await opened(own_valkey.url)
    with own_valkey.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert await store.get("u1") is None
    await store.close()


async def test_who_speaks_another_protocol_counts_as_away() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        store = RedisUserStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        with pytest.raises(UnavailableError, match="no Redis"):
            await store.get("u1")
        await store.close()


async def test_a_password_is_told_and_a_wrong_one_counts_as_away(own_valkey: Valkey) -> None:
    with own_valkey.client() as client:
        client.config_set("requirepass", "p@ss")
    store = await opened(f"redis://:p%40ss@127.0.0.1:{own_valkey.port}/1")
    assert await store.get("u1") is None
    await store.close()
    for account in ("", ":wrong@"):
        store = RedisUserStore(f"redis://{account}127.0.0.1:{own_valkey.port}/1")
        with pytest.raises(UnavailableError, match=r"Authentication required|username-password"):
            await store.get("u1")
        await store.close()
