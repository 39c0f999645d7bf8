"""A snapshot compiled by a child is the one compiled here; a child that fails is done without."""

import asyncio
import os
import sys
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bidder.compiling import Compiler, compile_here
from dsp.catalog.entities import Catalogue
from dsp.catalog.terms import FrequencyCap
from dsp.kernel.errors import UnavailableError
from dsp.snapshot import codec
from dsp.snapshot.packed import Packed
from tests.integration.bidder.world import catalogue

CAPS = (FrequencyCap(impressions=3, window_seconds=60),)


@pytest.mark.parametrize("made", [catalogue(caps=CAPS), Catalogue()], ids=["some", "none"])
def test_a_child_compiles_the_same(made: Catalogue) -> None:
    data = codec.encode(made, "v1", 5)
    (found, ads), (expected, expected_ads) = Compiler(small_bytes=0)(data), compile_here(data)
    assert isinstance(found.creatives, Packed)  # or this process has done it
    np.testing.assert_array_equal(ads, expected_ads)
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        elif field.name not in ("index", "ranking"):
            assert one == other or tuple(one) == other
    np.testing.assert_array_equal(found.index.active, expected.index.active)


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-c", "raise SystemExit(3)"),
        (sys.executable, "-c", "pass"),
        (sys.executable, "-c", "print('no snapshot' * 99)"),
        ("/nowhere/python",),
    ],
    ids=["fails", "says nothing", "says something else", "is not there"],
)
def test_where_a_child_fails_the_snapshot_is_compiled_here(command: tuple[str, ...]) -> None:
    data = codec.encode(catalogue(), "v1", 5)
    assert Compiler(command, small_bytes=0)(data).snapshot.version == "v1"


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        Compiler(small_bytes=0)(b"no snapshot")


def test_children_yield_the_processor_once_somebody_answers(tmp_path: Path) -> None:
    told = tmp_path / "priorities"
    tell = f"import os, time; time.sleep(0.3); print(os.getpriority(os.PRIO_PROCESS, 0), file=open({str(told)!r}, 'a'))"
    compiler, data = Compiler((sys.executable, "-c", tell), small_bytes=0), codec.encode(catalogue(), "v1", 5)
    for _ in range(3):
        compiler(data)
    assert told.read_text().split() == [str(os.getpriority(os.PRIO_PROCESS, 0)), "19", "19"]


async def test_a_child_is_not_waited_for_in_the_end() -> None:
    compiler = Compiler((sys.executable, "-c", "import time; time.sleep(60)"), small_bytes=0)
    compiling = asyncio.create_task(asyncio.to_thread(compiler, codec.encode(catalogue(), "v1", 5)))
    await asyncio.sleep(0)
    await compiler.stop()
    with pytest.raises(UnavailableError):
        await compiling
    with pytest.raises(UnavailableError):
        compiler(codec.encode(catalogue(), "v1", 5))
