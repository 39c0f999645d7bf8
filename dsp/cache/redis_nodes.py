"""Where keys live: one Redis or Valkey server, or a cluster's nodes. A call to a server that is away fails at once.

A key's hash tag names its shard; equal tags share a slot, so what one script touches has one tag. A single server has
one shard, and a cluster a fixed number of them, spread over its nodes.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ssl import create_default_context
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.crc import key_slot
from redis.exceptions import ResponseError

from dsp.cache.redis_connection import Command, Connection, Reply, connect
from dsp.kernel import logging
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import ConfigError, Fault, UnavailableError
from dsp.kernel.lifecycle import cancel

#: Whether a server that failed is back is asked after so long, then after twice as long, and so on up to the bound.
BACKOFF_MS_MIN = 50
BACKOFF_MS_MAX = 1_000
#: Idle connections kept to one server; more are opened when needed and closed after.
IDLE_MAX = 8
CLUSTER_SHARDS = 16
_PORT = 6_379
_SCHEMES = {"redis": (False, False), "rediss": (False, True), "redis+cluster": (True, False),
            "rediss+cluster": (True, True)}  # fmt: skip
#: A cluster's answers that its slots are elsewhere now, or nowhere.
_ELSEWHERE = ("ASK ", "CLUSTERDOWN ", "MASTERDOWN ", "MOVED ", "READONLY ", "TRYAGAIN ")
#: A server's answers that it reads its data, does not know us, or has no room for us.
_NOT_READY = ("LOADING ", "NOAUTH ", "ERR max number of clients reached")


class Address(NamedTuple):
    """What `platform.cache_url` says."""

    places: tuple[tuple[str, int], ...]
    cluster: bool
    tls: bool
    username: str | None
    password: str | None
    db: int

    @property
    def greeting(self) -> list[Command]:
        """Return what a new connection begins with."""
        account = [one for one in (self.username, self.password) if one is not None]
        auth: list[Command] = [("AUTH", *account)] if account else []
        return [*auth, ("SELECT", self.db)] if self.db else auth

    def __str__(self) -> str:
        """Return it without its secrets."""
        return ",".join(f"{host}:{port}" for host, port in self.places)


def parse(url: str) -> Address:
    """Read `redis://[[user]:password@]host[:port][/db]` or `redis+cluster://host:port,host:port`; rediss is over TLS.

    Raises:
        ConfigError: it is none of these; the message does not repeat it, since it may hold a password.
    """
    scheme, _, _ = url.partition("://")
    try:
        cluster, tls = _SCHEMES[scheme]
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        username, _, password = account.partition(":")
        places = tuple(_place(one) for one in hosts.split(","))
        db = int(parts.path.strip("/") or 0)
        if parts.query or parts.fragment or (cluster and db) or (not cluster and len(places) > 1):
            raise ValueError
    except (KeyError, ValueError):
        fault = "must be redis://host:port/db, redis+cluster://host:port,host:port, or rediss likewise"
        raise ConfigError([Fault("platform.cache_url", fault)]) from None
    return Address(places, cluster, tls, unquote(username) or None, unquote(password) or None, db)


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    if not host:
        raise ValueError
    return host.strip("[]"), int(port)


class Node:
    """One server. After a failure calls are refused until a background task has found it back."""

    def __init__(self, address: Address, place: tuple[str, int], timeout_ms: float) -> None:
        self.place = place
        self._tls = create_default_context() if address.tls else None
        self._greeting = address.greeting
        self._timeout_seconds = timeout_ms / MS_PER_SECOND
        self._idle: list[Connection] = []
        self._mending: asyncio.Task[None] | None = None

    @property
    def away(self) -> bool:
        """Return whether the server failed and was not found back yet."""
        return self._mending is not None

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands on one connection, in order; return the replies, a ResponseError where one was refused.

        Raises:
            UnavailableError: the server is away, or did not answer all in time; what was done is not known.
        """
        if self._mending is not None:
            raise UnavailableError(f"{self} is away")
        try:
            return await self._run(commands)
        except UnavailableError as fault:
            if self._mending is None:
                logging.get(__name__).warning("server away", fault=str(fault))
                self._mending = asyncio.create_task(self._mend(), name=f"mend {self}")
            raise

    async def close(self) -> None:
        """Release connections."""
        await cancel(self._mending)
        self._mending = None
        self._drop()

    def __str__(self) -> str:
        return f"{self.place[0]}:{self.place[1]}"

    async def _run(self, commands: Sequence[Command]) -> list[Reply]:
        connection, whole = self._take_idle(), False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if connection is None:
                    connection = await connect(self.place, self._tls, self._greeting)
                replies = await connection.run(commands)
            whole = True
        except OSError as fault:  # TimeoutError as well
            raise UnavailableError(f"{self}: {str(fault) or 'no answer in time'}") from fault
        finally:
            if connection is not None:
                if whole and len(self._idle) < IDLE_MAX:
                    self._idle.append(connection)
                else:
                    connection.close()
        for reply in replies:
            if _says(reply, _NOT_READY):
                raise UnavailableError(f"{self}: {reply}") from reply
        return replies

    def _take_idle(self) -> Connection | None:
        """Return a connection that the server has not closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _mend(self) -> None:
        self._drop()  # they are broken as well
        wait_ms = BACKOFF_MS_MIN
        while True:
            await asyncio.sleep(wait_ms / MS_PER_SECOND)
            wait_ms = min(2 * wait_ms, BACKOFF_MS_MAX)
            try:
                (reply,) = await self._run([("PING",)])
            except UnavailableError:
                continue
            if not isinstance(reply, Exception):
                logging.get(__name__).info("server back", server=str(self))
                self._mending = None
                return

    def _drop(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Nodes:
    """The servers of one address, and which of them has a shard. Made in a running event loop.

    Args:
        timeout_ms: for everything that one call sends to one server.
    """

    def __init__(self, url: str, timeout_ms: float) -> None:
        self.address = parse(url)
        self.shards = CLUSTER_SHARDS if self.address.cluster else 1
        self._timeout_ms = timeout_ms
        self._nodes: dict[tuple[str, int], Node] = {}
        self._of_shard: list[Node | None] = [None] * self.shards
        self._finding: asyncio.Task[None] | None = None
        self._closed = False
        if not self.address.cluster:
            self._of_shard[0] = self._node(self.address.places[0])

    async def open(self) -> None:
        """Find out who has what; a server that is away is no fault, it is looked for in the background."""
        if self.address.cluster:
            self._find()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_ms / MS_PER_SECOND):
                    await asyncio.shield(self._finding or asyncio.sleep(0))

    async def close(self) -> None:
        """Release connections."""
        self._closed = True
        await cancel(self._finding)
        for node in self._nodes.values():
            await node.close()

    def node(self, shard: int) -> Node:
        """Return who has a shard; raises UnavailableError where nobody is known to, or who has it is away."""
        node = self._of_shard[shard]
        if node is None or node.away:
            self._find()
            raise UnavailableError(f"{node or self.address} is away")
        return node

    async def run(self, of_shards: dict[int, Sequence[Command]], tail: Command | None = None) -> dict[int, list[Reply]]:
        """Send each shard's commands to its server, with `tail` as the last command of each server's connection.

        Raises:
            UnavailableError: a server is away, or refused a command; what the others did is not known.
        """
        if self._closed:
            raise UnavailableError(f"{self.address} is closed")
        if None in self._of_shard:
            await self.open()
        by_node: dict[Node, list[int]] = {}
        for shard in of_shards:
            by_node.setdefault(self.node(shard), []).append(shard)
        calls = [self._call(node, shards, of_shards, tail) for node, shards in by_node.items()]
        if len(calls) == 1:
            return await calls[0]
        found: dict[int, list[Reply]] = {}
        for replies in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(replies, BaseException):
                raise replies
            found |= replies
        return found

    async def _call(
        self, node: Node, shards: Sequence[int], of_shards: dict[int, Sequence[Command]], tail: Command | None
    ) -> dict[int, list[Reply]]:
        commands = [command for shard in shards for command in of_shards[shard]]
        try:
            replies = await node.run(commands if tail is None else [*commands, tail])
        except UnavailableError:
            self._find()  # a replica may have taken its place
            raise
        if any(_says(reply, _ELSEWHERE) for reply in replies):
            self._find()
            raise UnavailableError(f"{node} has not these slots any more")
        found = {}
        for shard in shards:
            count = len(of_shards[shard])
            found[shard], replies = replies[:count], replies[count:]
        if tail is not None:
            check_durable(node, replies[0])
        return found

    def _node(self, place: tuple[str, int]) -> Node:
        if place not in self._nodes:
            self._nodes[place] = Node(self.address, place, self._timeout_ms)
        return self._nodes[place]

    def _find(self) -> None:
        """Ask the cluster in the background who has what, until it tells."""
        if self.address.cluster and not self._closed and (self._finding is None or self._finding.done()):
            self._finding = asyncio.create_task(self._look(), name="cluster slots")

    async def _look(self) -> None:
        wait_ms = BACKOFF_MS_MIN
        while True:
            for node in [*self._nodes.values(), *map(self._node, self.address.places)]:
                try:
                    (slots,) = await node.run([("CLUSTER", "SLOTS")])
                except UnavailableError:
                    continue
                if not isinstance(slots, Exception) and slots:
                    self._place_shards(slots, node)
                    return
            await asyncio.sleep(wait_ms / MS_PER_SECOND)
            wait_ms = min(2 * wait_ms, BACKOFF_MS_MAX)

    def _place_shards(self, slots: Iterable[Any], asked: Node) -> None:
        owners = [(first, last, (host.decode() or asked.place[0], port)) for first, last, (host, port, *_), *_ in slots]
        for shard in range(self.shards):
            slot = key_slot(tag(shard).encode())
            places = [place for first, last, place in owners if first <= slot <= last]
            self._of_shard[shard] = self._node(places[0]) if places else None


def tag(shard: int) -> str:
    """Return the hash tag of a shard's keys."""
    return f"{{dsp-{shard}}}"


def _says(reply: Reply, beginnings: tuple[str, ...]) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith(beginnings)


def check_durable(node: Node, reply: Reply) -> None:
    """Raise UnavailableError unless the reply to WAITAOF says that all that was written before is on disk."""
    if isinstance(reply, ResponseError):
        raise UnavailableError(f"{node} keeps nothing over a restart, and leases need that: appendonly yes ({reply})")
    if reply[0] < 1:
        raise UnavailableError(f"{node} has not written to its disk in time")
