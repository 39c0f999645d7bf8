"""The pieces of `python -m loadtest bids`: requests made ready, the catalogue, the load and its arithmetic."""

import gzip
import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Dimension
from dsp.funnel import select
from dsp.kernel.errors import InputError
from dsp.openrtb.codec import decode_request
from dsp.openrtb.profile import Profile
from dsp.pacing.columns import align
from dsp.snapshot.build import build
from loadtest.__main__ import main
from loadtest.bids import supply
from loadtest.bids.catalogue import BROAD, Mix, catalogue
from loadtest.bids.drive import Closed, Round
from loadtest.bids.run import Measured
from loadtest.platform import Metrics, PlatformError
from loadtest.traffic import Source, Traffic

NOW_MS = 1_800_000_000_000
PROFILE = Profile(name=supply.EXCHANGE, seat="dsp", tmax_default_ms=120)


def bodies(count: int, tmax_ms: int = 200) -> list[bytes]:
    traffic = Traffic(1, (Source(supply.EXCHANGE, "2.6", True, tmax_ms, 1.0),))
    return [msgspec.json.encode(traffic.request(index).payload) for index in range(count)]


def body_of(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return body


def test_each_sending_has_an_id_and_a_user_of_its_own_and_is_otherwise_the_request() -> None:
    given = {"id": "x", "imp": [{"id": "1"}], "user": {"buyeruid": "u"}, "device": {"ifa": "0-0"}, "tmax": 90}
    made = supply.prepare([json.dumps(given).encode()], PROFILE)
    first, second = (decode_request(body_of(made.made(0, number))) for number in (1, 2))
    assert first.id != second.id
    assert first.user is not None
    assert second.user is not None
    assert first.user.buyeruid != second.user.buyeruid
    assert first.device is not None
    assert first.device.ifa == "0-0"  # says that there is none
    assert (first.tmax, made.tmax_ms) == (90, [90])
    assert first.imp == second.imp


def test_fast_refusals_are_in_no_rate() -> None:
    """An overloaded bidder refuses at a tenth of what a decision costs: counted alike they would make it look fast."""

    class Load:
        def round(self, seconds: float) -> Round:
            return Round(seconds=seconds, latencies_ms=[1.0] * 100)

    def scraped(overload: int) -> Metrics:
        return Metrics({("dsp_no_bids_total", (("reason", reason),)): float(count) for reason, count in (
            ("overload", overload), ("segment", 7))})  # fmt: skip

    counts = iter([0, 90, 90, 90])
    measured = Measured(os.getpid(), Load(), lambda: scraped(next(counts)).shed)  # type: ignore[arg-type]
    for _ in range(2):
        measured.round(2.0)
    assert [one.shed for one in measured.rounds] == [90, 0]
    assert (measured.requests, measured.shed) == (200, 90)
    assert measured.rps == (5.0 + 50.0) / 2
    measured._cpu_seconds = 0.011
    assert measured.cpu_us == pytest.approx(100.0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"id":5}', b'{"id":""}', b"[" * 5_000, b"\xff"])
def test_what_is_no_request_is_sent_as_it_is(body: bytes) -> None:
    made = supply.prepare([body], PROFILE)
    assert body_of(made.made(0, 7)) == body
    assert made.tmax_ms == [120]


def test_files_may_be_compressed_and_must_hold_requests(tmp_path: Path) -> None:
    packed, empty = tmp_path / "some.jsonl.gz", tmp_path / "none.jsonl"
    packed.write_bytes(gzip.compress(b'{"id":"1"}\n\n{"id":"2"}\n'))
    empty.write_bytes(b"\n\n")
    assert len(supply.read(packed)) == 2
    with pytest.raises(InputError):
        supply.read(empty)
    unnamed = tmp_path / "packed"
    unnamed.write_bytes(packed.read_bytes())
    assert supply.read(unnamed) == supply.read(packed)  # told by its content
    whole = packed.read_bytes()
    for damaged in (whole[:-9], whole[:10] + bytes(8) + whole[18:], whole[:-6] + bytes(6), whole[:5]):
        packed.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            supply.read(packed)


@pytest.mark.parametrize("command", ["replay", "bids", "capacity"])
def test_a_file_that_holds_no_requests_is_misuse_and_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    empty, cut = tmp_path / "none.jsonl", tmp_path / "cut.jsonl.gz"
    empty.write_bytes(b"\n\n")
    cut.write_bytes(gzip.compress(b'{"id":"1"}\n')[:-9])
    for path in (tmp_path / "missing", tmp_path, empty, cut):
        assert main([command, "--requests", str(path), "--json"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"loadtest: {path}")
        assert told.err.count("\n") == 1


@pytest.mark.parametrize("size", [60, 600])
def test_the_catalogue_bids_or_loses_half_in_recall_whatever_its_size(size: int) -> None:
    offered = supply.offered(bodies(200), PROFILE, NOW_MS)
    assert catalogue(offered, size, Mix.BID) == catalogue(offered, size, Mix.BID)
    found = {}
    for mix in Mix:
        snapshot = build(catalogue(offered, size, mix), "v", NOW_MS)
        assert len(snapshot.line_items) == size
        controls = align(None, snapshot.line_item_ids)
        found[mix] = [select(snapshot, one, None, controls, NOW_MS, 32, "dsp") for one in offered]
    candidates = [len(one.line_items) for one in found[Mix.BID] if not isinstance(one, Exclusion)]
    assert len(candidates) > 0.9 * len(offered)
    assert sum(candidates) / len(candidates) > 25
    lost = [one for one in found[Mix.NO_BID] if isinstance(one, Exclusion)]
    assert len(lost) == len(offered)
    recall = sum(one not in (Exclusion.API_UNSUPPORTED, Exclusion.SIZE) for one in lost) / len(lost)
    assert 0.4 < recall < 0.6


def test_line_items_target_over_twelve_dimensions() -> None:
    made = catalogue(supply.offered(bodies(50), PROFILE, NOW_MS), 400, Mix.BID)
    used = {name for item in made.line_items[BROAD:] for name in item.targeting.clauses}
    assert len(used) == 12
    assert Dimension.SEGMENT in used


def test_a_catalogue_can_be_made_for_requests_that_nobody_understands() -> None:
    for mix in Mix:
        assert len(catalogue([], 5, mix).line_items) == 5


class Server:
    """Answers requests in pieces, on one connection after the other; on each so many times, or without end."""

    def __init__(self, answer: list[bytes], each: int = -1) -> None:
        self.connections = 0
        self._answer = answer
        self._each = each
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(60.0)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._socket, suppress(TimeoutError):
            while True:
                with self._socket.accept()[0] as client:
                    self.connections += 1
                    self._answer_all(client)

    def _answer_all(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        left = self._each
        while left and client.recv(65_536):
            left -= 1
            for piece in self._answer:
                client.sendall(piece)
                threading.Event().wait(0.002)


@pytest.mark.parametrize(
    ("answer", "bid"),
    [
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False),
        ([b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd"], True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], True),
    ],
)
def test_the_load_waits_for_whole_answers(answer: list[bytes], bid: bool) -> None:
    load = Closed(Server(answer).port, 1, supply.prepare(bodies(3, tmax_ms=10_000), PROFILE))
    found = load.round(0.5)
    load.close()
    assert found.requests > 3
    assert found.bids == (found.requests if bid else 0)
    assert (found.refused, found.late) == (0, 0)
    assert min(found.latencies_ms) >= 2.0 * (len(answer) - 1)


def test_refusals_are_counted_and_a_closed_connection_is_a_fault() -> None:
    load = Closed(Server([b"HTTP/1.1 400 Bad Request\r\n\r\n"]).port, 1, supply.prepare(bodies(1), PROFILE))
    found = load.round(0.05)
    load.close()
    assert found.refused == found.requests > 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        load = Closed(server.getsockname()[1], 1, supply.prepare(bodies(1), PROFILE))
        client, _ = server.accept()
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(PlatformError):
            load.round(0.05)
        client.close()
        load.close()


@pytest.mark.parametrize("body", [b"", b"Connection: close\r\n"])
def test_a_connection_is_renewed_after_an_answer_that_closes_it(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    server = Server([head[:30], head[30:] + body], each=1)
    load = Closed(server.port, 1, supply.prepare(bodies(3), PROFILE))
    found = load.round(0.5)
    load.close()
    assert found.bids == found.requests > 3
    assert server.connections >= found.requests


def test_what_only_looks_like_a_close_is_none() -> None:
    body = b"\r\nConnection: close\r\n"
    server = Server([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body], each=2)
    load = Closed(server.port, 1, supply.prepare(bodies(3), PROFILE))
    with pytest.raises(PlatformError):  # it closes without a word
        load.round(5.0)
    load.close()
    assert server.connections == 1
