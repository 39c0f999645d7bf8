"""What bidders read of the controls: columns that stand beside any snapshot's line items."""

from math import inf

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.pacing import columns
from dsp.pacing.columns import Paced, align, paced
from dsp.pacing.controller import Control, Controls


def test_columns_stand_beside_the_snapshot() -> None:
    ids = np.array([7, 3, 9], dtype=np.int64)
    controls = Controls(at_ms=1, line_items={9: Control(multiplier=0.2, left_micros=70), 3: Control(multiplier=0.5)})
    found = align(paced(controls), ids)
    assert found.multiplier.tolist() == [1.0, 0.5, 0.2]
    assert found.left_micros_cpm.tolist() == [inf, inf, 70_000.0]
    assert found.at_ms == 1
    assert align(None, ids).multiplier.tolist() == [1.0, 1.0, 1.0]
    assert align(paced(controls), ids[:0]).left_micros_cpm.shape == (0,)
    assert align(paced(Controls(at_ms=1)), ids).left_micros_cpm.tolist() == [inf, inf, inf]


_CONTROLS = st.builds(Control, multiplier=st.floats(1e-4, 2.0), left_micros=st.none() | st.integers(0, 10**15))


@given(line_items=st.dictionaries(st.integers(1, 40), _CONTROLS), ids=st.lists(st.integers(1, 40), unique=True))
def test_every_line_item_finds_its_own(line_items: dict[int, Control], ids: list[int]) -> None:
    sent = columns.decode(columns.encode(paced(Controls(at_ms=5, line_items=line_items))))
    found = align(sent, np.array(ids, dtype=np.int64))
    own = [line_items.get(number, Control()) for number in ids]
    assert found.multiplier.tolist() == [one.multiplier for one in own]
    left = [inf if one.left_micros is None else float(one.left_micros) * 1_000 for one in own]
    assert found.left_micros_cpm.tolist() == left


def _blob(**other: bytes) -> bytes:
    whole = paced(Controls(at_ms=1, line_items={1: Control(), 2: Control()}))
    return columns.encode(msgspec.structs.replace(whole, **other))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x93",
        b"{}",
        msgspec.msgpack.encode({"at_ms": 1}),
        _blob(line_item_ids=b"1234567"),
        _blob(multiplier=b"12345678"),
        _blob(left_micros=b""),
        _blob(line_item_ids=b"1234567", multiplier=b"1234567", left_micros=b"1234567"),
    ],
)
def test_rubbish_is_no_columns(blob: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        columns.decode(blob)


def test_whole_columns_are_read() -> None:
    found = columns.decode(_blob())
    assert isinstance(found, Paced)
    assert np.frombuffer(found.line_item_ids, "<i8").tolist() == [1, 2]
