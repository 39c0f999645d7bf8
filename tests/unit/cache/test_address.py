"""What `platform.cache_url` may be, and that what it keeps secret is shown nowhere."""

import msgspec
import pytest

from dsp.cache.connect import blob_store, lease_store, user_store
from dsp.cache.local import LocalBlobStore, LocalLeaseStore, LocalUserStore
from dsp.cache.redis import RedisBlobStore, RedisLeaseStore, RedisUserStore
from dsp.cache.redis_nodes import parse
from dsp.kernel.config import Platform, Secret
from dsp.kernel.errors import ConfigError, UnavailableError


def test_an_address_names_its_servers() -> None:
    assert parse("redis://cache:7000/3") == ((("cache", 7000),), False, False, None, None, 3)
    assert parse("rediss://:p%40ss@cache") == ((("cache", 6379),), False, True, None, "p@ss", 0)
    assert parse("redis://me:word@[::1]:7000") == ((("::1", 7000),), False, False, "me", "word", 0)
    places = (("a", 7000), ("b", 7001))
    assert parse("redis+cluster://a:7000,b:7001") == (places, True, False, None, None, 0)


@pytest.mark.parametrize(
    "url",
    [
        "http://cache",
        "cache:6379",
        "redis://",
        "redis://a,b",
        "redis+cluster://a:7000/2",
        "redis://word@cache:port",
        "redis://cache/x",
        "redis://cache?db=2",
    ],
)
def test_anything_else_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        lease_store(Platform(cache_url=Secret(url)))
    assert "cache_url" in str(refused.value)
    assert "word" not in str(refused.value)


def test_the_settings_choose_the_stores() -> None:
    embedded, shared = Platform(), Platform(cache_url=Secret("redis://cache"))
    assert isinstance(lease_store(embedded), LocalLeaseStore)
    assert isinstance(blob_store(embedded), LocalBlobStore)
    assert isinstance(user_store(embedded, "users.db", 10, 10, lambda: None, 5), LocalUserStore)
    assert isinstance(lease_store(shared), RedisLeaseStore)
    assert isinstance(blob_store(shared), RedisBlobStore)
    assert isinstance(user_store(shared, "users.db", 10, 10, lambda: None, 5), RedisUserStore)


async def test_a_password_is_shown_nowhere() -> None:
    platform = Platform(cache_url=Secret("redis://me:hunter2@127.0.0.1:1/0"))
    assert "hunter2" not in repr(platform)
    store = lease_store(platform)
    await store.open()
    with pytest.raises(UnavailableError) as away:
        await store.register("bidder", 0)
    await store.close()
    assert "hunter2" not in f"{away.value!r} {away.value.__cause__!r}"
    assert "hunter2" not in msgspec.json.encode(str(parse(platform.cache_url))).decode()
