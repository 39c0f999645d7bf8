"""What became of a run is posted, and a deaf address harms nothing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from models.training import notice


@pytest.mark.parametrize(("status", "sent"), [(200, True), (500, False)])
def test_a_message_is_posted_as_json(status: int, sent: bool) -> None:
    heard: list[tuple[str, str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = notice.post(f"http://127.0.0.1:{server.server_port}/hook", {"result": "refused", "reasons": ("x",)})
        thread.join()
    assert found["sent"] is sent
    assert heard == [("/hook", "application/json", {"result": "refused", "reasons": ["x"]})]


def test_nobody_there_and_nobody_asked() -> None:
    assert notice.post("", {}) == {"sent": False}
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    found = notice.post(f"http://127.0.0.1:{port}/", {})
    assert not found["sent"]
    assert found["fault"]
