"""What every BlobStore must do: the embedded one, one server's, a cluster's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dsp.cache.local import LocalBlobStore
from dsp.cache.port import BlobStore
from dsp.cache.redis import RedisBlobStore
from tests.servers.valkey import server_url

MakeStore = Callable[[], BlobStore]


@pytest.fixture(params=["local", "redis", "cluster"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """A maker of stores that share their blobs, as several processes do."""
    opened: list[BlobStore] = []
    url = server_url(request)

    def make() -> BlobStore:
        opened.append(RedisBlobStore(url) if url else LocalBlobStore(tmp_path / "blobs"))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


async def test_an_unknown_name_is_none(make_store: MakeStore) -> None:
    assert await make_store().get("snapshot") is None
    assert not await make_store().has("snapshot")


async def test_followers_see_each_publication_once(make_store: MakeStore) -> None:
    publisher, follower = make_store(), make_store()
    await publisher.put("snapshot", b"one")
    found = await follower.get("snapshot")
    assert found is not None
    version, data = found
    assert data == b"one"
    assert await follower.get("snapshot", version) is None
    await publisher.put("snapshot", b"two")
    found = await follower.get("snapshot", version)
    assert found is not None
    assert found[0] != version
    assert found[1] == b"two"
    assert await follower.get("snapshot", found[0]) is None
    assert await make_store().get("snapshot", found[0]) is None


async def test_names_do_not_mix(make_store: MakeStore) -> None:
    store = make_store()
    await store.put("snapshot", b"s")
    await store.put("controls", b"")
    found = await store.get("controls")
    assert found is not None
    assert found[1] == b""
    assert await store.has("controls")
    assert not await store.has("traffic")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "UPPER", "a" * 80, "a\n"])
async def test_a_name_cannot_leave_the_store(make_store: MakeStore, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        await make_store().put(name, b"x")
    with pytest.raises(ValueError, match="name"):
        await make_store().get(name)
    with pytest.raises(ValueError, match="name"):
        await make_store().has(name)


async def test_a_reader_never_sees_a_mixture(make_store: MakeStore) -> None:
    publisher, follower = make_store(), make_store()
    bodies = [bytes([65 + number]) * 300_000 for number in range(12)]
    await publisher.put("snapshot", bodies[0])

    async def publish() -> None:
        for body in bodies:
            await publisher.put("snapshot", body)

    publishing = asyncio.create_task(publish())
    seen = ""
    while not publishing.done():
        found = await follower.get("snapshot", seen)
        if found is not None:
            seen, data = found
            assert data in bodies
    await publishing
    found = await make_store().get("snapshot")
    assert found is not None
    assert found[1] == bodies[-1]
