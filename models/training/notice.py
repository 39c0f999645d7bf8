"""Posts what became of a nightly run to where operators look."""

import http.client
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec

_TIMEOUT_SECONDS = 10.0


def post(url: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Post a message as JSON, and return whether it arrived; that it did not is no reason to fail a run."""
    if not url:
        return {"sent": False}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, msgspec.json.encode(message), headers)  # noqa: S310 - the settings allow HTTP alone
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            return {"sent": True}
    except (OSError, http.client.HTTPException) as fault:
        return {"sent": False, "fault": str(fault)}
