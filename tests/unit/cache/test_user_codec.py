"""Records of processes of before, of this one, and of one to come, as each of them reads the others'."""

import msgspec
import pytest

from dsp.cache.user_codec import decode, encode
from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, Response, UserRecord

SHOWN = tuple(Exposure(f"bid-{number}", 1_000 + number, 1, 2, 3) for number in range(300))
CLICKED = (Response("bid-1", 1, 2, 4, "IAB2", 5),)


class Before(msgspec.Struct, array_like=True):
    """The record as it was kept until now."""

    exposures: tuple[Exposure, ...] = ()
    segments: tuple[str, ...] = ()
    complete: bool = True
    responses: tuple[Response, ...] = ()


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 300])
def test_what_is_written_is_read(count: int) -> None:
    for record in (UserRecord(pack(SHOWN[:count])), UserRecord(pack(SHOWN[:count]), ("s",), responses=CLICKED)):
        assert decode(encode(record)) == record


@pytest.mark.parametrize(("count", "head"), [(0, b"\xa0"), (1, b"\xbc"), (9, b"\xd9\xfc"), (10, b"\xda\x01\x18")])
def test_rows_are_read_behind_the_shortest_head_which_the_server_s_scripts_write(count: int, head: bytes) -> None:
    rows = pack(SHOWN[:count])
    assert decode(b"\x95\x90\x90\xc2\x90" + head + rows) == UserRecord(rows)


def test_records_of_before_are_read() -> None:
    old = msgspec.msgpack.encode(Before(SHOWN[:3], ("s",), True, CLICKED))
    assert decode(old) == UserRecord(pack(SHOWN[:3]), ("s",), responses=CLICKED)
    assert decode(msgspec.msgpack.encode([SHOWN[:1], [], True])) == UserRecord(pack(SHOWN[:1]))


def test_a_process_of_before_shows_nothing_with_caps_and_loses_nothing() -> None:
    written = encode(UserRecord(pack(SHOWN[:2]), ("s",), responses=CLICKED))
    assert msgspec.msgpack.decode(written, type=Before) == Before((), ("s",), False, CLICKED)
    # Its script puts what it counts into the array it found, and leaves the rest as it is.
    array = msgspec.msgpack.decode(written, type=list[msgspec.Raw])
    array[0] = msgspec.Raw(msgspec.msgpack.encode([SHOWN[2], SHOWN[1]]))
    assert decode(msgspec.msgpack.encode(array)) == UserRecord(pack(SHOWN[:3]), ("s",), responses=CLICKED)


@pytest.mark.parametrize("rows", [[], [None], [None, b"\0" * 40], ["a"], [b"\0" * 28], [5], [[]]])
def test_of_a_form_to_come_nothing_is_known_for_certain(rows: list[object]) -> None:
    assert decode(msgspec.msgpack.encode([[], ["s"], False, [], *rows])) == UserRecord(b"", ("s",), complete=False)


@pytest.mark.parametrize("rubbish", [b"", b"\x01abc", b"\x95\x90", msgspec.msgpack.encode([[], [], 5, []])])
def test_rubbish_is_refused(rubbish: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(rubbish)
