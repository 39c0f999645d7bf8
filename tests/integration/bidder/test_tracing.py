"""A bidder that traces sends its auctions to a real OTLP/HTTP receiver; one whose receiver is away bids on."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.bidder.world import World, bid_request, catalogue, world
from tests.servers import free_port
from tests.waiting import until

pytestmark = pytest.mark.platform

SAMPLED, UNSAMPLED = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
STAGES = ["decode", "enrich", "funnel", "predict", "price", "respond"]


class Receiver:
    """What an OTLP collector does with POST /v1/traces."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []  # the process's name, the span

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has undone the compression where it was said
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            self.spans += [(about["service.instance.id"], span) for scope in group.scope_spans for span in scope.spans]
        return web.Response()

    def trace(self, trace_id: str) -> list[Any]:
        return [span for _, span in self.spans if span.trace_id.hex() == trace_id]

    def names(self, trace_id: str) -> list[str]:
        return sorted(span.name for span in self.trace(trace_id))


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Receiver, str]]:
    receiver, application = Receiver(), web.Application()
    application.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    await runner.cleanup()


async def begun(bidder: World) -> None:
    await bidder.publish(catalogue())
    await bidder.start()
    await until(bidder.bidding)


async def test_auctions_continue_their_caller_s_trace(tmp_path: Path, collector: tuple[Receiver, str]) -> None:
    receiver, url = collector
    settings = {"DSP_BIDDER_TRACE_SHARE": "0.000001", "DSP_BIDDER_TRACE_URL": url, "DSP_BIDDER_HOLDER": "tracing"}
    async with world(tmp_path, **settings) as bidder:
        await begun(bidder)
        for trace_id, flags in ((UNSAMPLED, "00"), (SAMPLED, "01")):
            await bidder.bid(bid_request(f"auction-{flags}"), traceparent=f"00-{trace_id}-{CALLER}-{flags}")
        assert await bidder.stop() == 0  # it sends what is left
    assert receiver.names(UNSAMPLED) == []
    assert receiver.names(SAMPLED) == sorted(["auction", *STAGES])
    (root,) = [span for span in receiver.trace(SAMPLED) if span.name == "auction"]
    stages = [span for span in receiver.trace(SAMPLED) if span is not root]
    assert root.parent_span_id.hex() == CALLER
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert all(
        root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
        for span in stages
    )
    assert [span.name for span in sorted(stages, key=lambda span: span.start_time_unix_nano)] == STAGES
    about = {pair.key: pair.value for pair in root.attributes}
    assert (about["dsp.outcome"].string_value, about["dsp.bids"].int_value) == ("bid", 1)
    assert about["dsp.snapshot"].string_value == "v1"
    assert {process for process, _ in receiver.spans} == {"tracing"}


async def test_a_collector_that_is_away_costs_nothing(tmp_path: Path) -> None:
    settings = {"DSP_BIDDER_TRACE_SHARE": "1", "DSP_BIDDER_TRACE_URL": f"http://127.0.0.1:{free_port()}/v1/traces"}
    async with world(tmp_path, **settings) as bidder:
        await begun(bidder)
        answers = [await bidder.bid(bid_request(f"auction-{number}")) for number in range(50)]
        assert {status for status, _ in answers} <= {200, 204}
        assert await bidder.metric("dsp_bid_requests_total", outcome="error") == 0
        assert await bidder.stop() == 0
    assert '"level": "error", "event": "auction failed"' not in bidder.log()
