"""The bid port's HTTP under wrk, a client that nobody here wrote: each request is answered once, and whole."""

from pathlib import Path

import pytest

from bidder.connection import Reply, Request
from bidder.listener import Listener
from tests.servers.wrk import wrk

BODY = b"{" + b" " * 2_000 + b"}"
CONNECTIONS = 16
SECONDS = 1
#: wrk itself looks at nothing but the status; it runs this in one thread for all connections.
SCRIPT = """
local depth, threads = %d, {}
wrong = 0
wrk.method, wrk.body = "POST", "{" .. string.rep(" ", 2000) .. "}"
function setup(thread) table.insert(threads, thread) end
function init(args)
   local all = {}
   for place = 1, depth do all[place] = wrk.format(nil, "/" .. place) end
   whole = table.concat(all)
end
function request() return whole end
function response(status, headers, body)
   if headers["Place"] == nil or headers["Place"] ~= body then wrong = wrong + 1 end
end
function done() print("Wrong: " .. threads[1]:get("wrong")) end
"""


@pytest.mark.parametrize("depth", [1, 8], ids=["one at a time", "pipelined"])
async def test_wrk_gets_an_answer_to_each_request(depth: int, tmp_path: Path) -> None:
    asked: list[int] = []

    async def answer(request: Request) -> Reply:
        assert request.body == BODY
        asked.append(int(request.path[1:]))
        place = b"%d" % asked[-1]
        return Reply(200, b"Place: %b\r\n" % place, place)

    listener = Listener(answer, lambda: None, 4_096, 5.0, 0.5)
    await listener.listen("127.0.0.1", 0, False)
    script = tmp_path / "post.lua"
    script.write_text(SCRIPT % depth, encoding="ascii")
    try:
        told = await wrk(script, CONNECTIONS, SECONDS, f"http://127.0.0.1:{listener.port}/")
    finally:
        await listener.close(1.0)
    assert told.complaints == ["Wrong: 0"]
    assert told.answers > 10 * CONNECTIONS * depth
    # What was under way when it stopped was answered and not read.
    assert 0 <= len(asked) - told.answers <= CONNECTIONS * depth
    assert set(asked) == set(range(1, depth + 1))
