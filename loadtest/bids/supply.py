"""The requests that are sent: recorded or simulated, made ready so that sending one costs next to nothing.

A file is replayed many times over, so each sending gets an id and a user of its own: else one user would collect the
bids of thousands, and a hash of the id would decide for all alike.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dsp import funnel
from dsp.kernel.config import Platform
from dsp.kernel.errors import InputError
from dsp.openrtb.codec import decode_request
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from loadtest.platform import VENDOR_ID
from loadtest.replay import lines
from loadtest.traffic import Source, Traffic

EXCHANGE = "openrtb"
REQUESTS_MAX = 100_000
#: Requests simulated where no file is given: so many that what the platform remembers of one rarely serves the next.
SIMULATED = 20_000
#: What stands in a request where the number of its sending goes; as long as the number.
MARK = b"0f1e2d3c4b5a"
#: What requests are read by, where no process of the platform runs.
_PLATFORM = Platform(privacy_vendor_id=VENDOR_ID)
_NUMBER = b"%012x"
_SOURCE = Source(EXCHANGE, "2.6", True, 200, 1.0, deals=True)


class Supply(NamedTuple):
    """Whole HTTP requests, each cut where its number goes, and until when each must be answered."""

    parts: Sequence[list[bytes]]
    tmax_ms: Sequence[int]

    def made(self, place: int, number: int) -> bytes:
        """Return request `place` as sending `number` has it."""
        return (_NUMBER % number).join(self.parts[place])


def read(path: Path | None) -> list[bytes]:
    """Return the bodies of a file of JSON lines, gzip or plain; without one those of simulated traffic.

    Raises:
        InputError: the file cannot be read, or holds no line, or too many.
    """
    if path is None:
        traffic = Traffic(1, (_SOURCE,))
        return [msgspec.json.encode(traffic.request(index).payload) for index in range(SIMULATED)]
    bodies = [body for body, _ in zip(lines(path), range(REQUESTS_MAX + 1), strict=False)]
    if not bodies or len(bodies) > REQUESTS_MAX:
        raise InputError(f"{path} must hold from 1 to {REQUESTS_MAX} requests, one a line", reason="requests_file")
    return bodies


def prepare(bodies: Sequence[bytes], profile: Profile) -> Supply:
    """Return the requests as they go over the wire."""
    head = (
        f"POST /openrtb2/{profile.name} HTTP/1.1\r\nHost: bidder.example\r\nContent-Type: application/json\r\n"
        f"x-openrtb-version: {profile.version}\r\n"
    ).encode("ascii")
    parts, tmax_ms = [], []
    for body in bodies:
        marked = _marked(body)
        request = head + b"Content-Length: %d\r\n\r\n" % len(marked) + marked
        parts.append(request.split(MARK))
        tmax_ms.append(_tmax_ms(body, profile))
    return Supply(parts, tmax_ms)


def offered(bodies: Sequence[bytes], profile: Profile, now_ms: int) -> list[Opportunity]:
    """Return what the platform sees in the requests that it understands."""
    found: list[Opportunity] = []
    for body in bodies:
        with suppress(InputError):
            found += funnel.offered(body, profile, _PLATFORM, now_ms)[0]
    return found


def _marked(body: bytes) -> bytes:
    """Return the body with the mark for its id and for what names its user; one that is no object stays as it is."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    if not isinstance(request, dict) or not isinstance(request.get("id"), str) or not request["id"]:
        return body
    request["id"] = MARK.decode("ascii")
    for holder, name in (("user", "id"), ("user", "buyeruid"), ("device", "ifa")):
        known = request.get(holder)
        if isinstance(known, dict) and isinstance(known.get(name), str) and known[name]:
            known[name] = _renamed(known[name])
    return msgspec.json.encode(request)


def _renamed(name: str) -> str:
    """Return another name of about that length and form; one of only zeros says that there is none, and stays."""
    if not name.strip("0-"):
        return name
    mark = MARK.decode("ascii")
    return name[: max(0, len(name) - len(mark))] + mark


def _tmax_ms(body: bytes, profile: Profile) -> int:
    try:
        request: Any = decode_request(body)
    except InputError:
        return profile.tmax_default_ms
    return int(request.tmax) if request.tmax > 0 else profile.tmax_default_ms
