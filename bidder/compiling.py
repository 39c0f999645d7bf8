"""Compiles a snapshot in a process of its own: auctions neither wait for the interpreter nor for the processor.

The child reads the blob on its standard input and writes what is compiled to its standard output. Both are files
without a name that these two alone have open, so what comes back may be unpickled. Arrays are not: they are read where
they lie.
"""

import gc
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel import logging
from dsp.kernel.errors import UnavailableError
from dsp.snapshot import codec
from dsp.snapshot.build import Snapshot
from dsp.snapshot.packed import pack
from models.features.encode import ad_rows

_PROGRAM = "from bidder.compiling import main; main()"
#: The child yields the processor to whoever answers, from its start on. The first one is waited for.
_NICE = 19
#: A child that has not ended by then will not.
_SECONDS_MAX = 600.0
_PIECE_BYTES = 1 << 20
#: A smaller blob, of some 200 line items, is compiled before a child would have started: in a dozen milliseconds.
_SMALL_BYTES = 1 << 18
#: Where each piece begins, the first after a number of so many bytes: at the start of a cache line.
_ALIGNED_BYTES = 64
#: After so many arrays the thread that takes them over rests: all of them together take milliseconds of the
#: interpreter's time, these some dozens of microseconds.
_ARRAYS = 64
_REST_SECONDS = 0.001


class Compiled(NamedTuple):
    """A snapshot and its ads' rows, (C, A), as models.features.encode.ad_rows makes them."""

    snapshot: Snapshot
    ads: NDArray[np.int64]


#: Makes what is served of a blob, in any thread; raises msgspec.DecodeError for bytes that hold no snapshot.
Compile = Callable[[bytes], Compiled]


def compile_here(data: bytes) -> Compiled:
    """Compile in the thread that calls."""
    snapshot = codec.decode(data)
    return Compiled(snapshot, ad_rows(snapshot))


class Compiler:
    """Compiles what is not small in a child, one at a time; what becomes of the child, bids go on."""

    def __init__(
        self, command: tuple[str, ...] = (sys.executable, "-c", _PROGRAM), small_bytes: int = _SMALL_BYTES
    ) -> None:
        self._command = command
        self._small_bytes = small_bytes
        self._behind = False  # whether anybody answers meanwhile
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __call__(self, data: bytes) -> Compiled:
        """Return what is compiled, by a child with entities packed; where it fails, this thread does what it should.

        Raises:
            msgspec.DecodeError: the bytes hold no snapshot.
            UnavailableError: stopped.
        """
        if len(data) < self._small_bytes:
            return compile_here(data)
        try:
            return self._apart(data)
        except Exception as fault:
            if self._stopped:
                raise UnavailableError("stopped while a snapshot was compiled") from fault
            logging.get(__name__).warning("a child did not compile the snapshot", fault=repr(fault))
            return compile_here(data)

    async def stop(self) -> None:
        """End the child; whoever waits for it waits no more."""
        self._stopped = True
        if (child := self._child) is not None:
            child.kill()

    def _apart(self, data: bytes) -> Compiled:
        with _scratch() as blob, _scratch() as found:
            view = memoryview(data)
            for begin in range(0, len(data), _PIECE_BYTES):
                blob.write(view[begin : begin + _PIECE_BYTES])
            blob.seek(0)
            with subprocess.Popen(self._command, stdin=blob, stdout=found) as child:  # noqa: S603 - ourselves
                self._child = child
                try:
                    if self._stopped:
                        child.kill()
                    if self._behind:
                        os.setpriority(os.PRIO_PROCESS, child.pid, _NICE)
                    self._behind = True
                    status = child.wait(_SECONDS_MAX)
                finally:
                    self._child = None
                    child.kill()
            if status:
                raise subprocess.CalledProcessError(status, self._command)
            return _read(found)


def main() -> None:
    """Be the child."""
    gc.disable()  # it ends before there would be anything to collect
    try:
        snapshot = codec.decode(sys.stdin.buffer.read())
    except msgspec.DecodeError as fault:
        sys.exit(f"no snapshot: {fault}")
    _write(sys.stdout.buffer, Compiled(pack(snapshot), ad_rows(snapshot)))


def _scratch() -> IO[bytes]:
    """A file without a name: in memory, where there are such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("snapshot"), "w+b", 0)
    return tempfile.TemporaryFile("w+b", 0)


def _write(file: IO[bytes], compiled: Compiled) -> None:
    """Write how long each piece is, the pickle without its arrays, and the arrays."""
    arrays: list[memoryview] = []
    skeleton = pickle.dumps(compiled, 5, buffer_callback=lambda buffer: arrays.append(buffer.raw()))
    pieces = [memoryview(skeleton), *arrays]
    head = memoryview(msgspec.msgpack.encode([piece.nbytes for piece in pieces]))
    file.write(head.nbytes.to_bytes(_ALIGNED_BYTES, "little"))
    for piece in (head, *pieces):
        file.write(piece)
        file.write(bytes(-piece.nbytes % _ALIGNED_BYTES))
    file.flush()


def _read(file: IO[bytes]) -> Compiled:
    kept = os.dup(file.fileno())
    mapped = mmap.mmap(kept, 0, access=mmap.ACCESS_READ)
    # Who lets go of the last array, in an auction, say, would give all the memory back to the system there and then.
    weakref.finalize(mapped, lambda: threading.Thread(target=os.close, args=(kept,)).start()).atexit = False
    pieces = _pieces(memoryview(mapped))
    found = pickle.loads(next(pieces), buffers=pieces)  # noqa: S301 - our own child's, in a file that is ours alone
    if not isinstance(found, Compiled):
        raise TypeError(f"a child's {type(found).__name__}")
    return found


def _pieces(mapped: memoryview) -> Iterator[memoryview]:
    begin = _ALIGNED_BYTES
    end = begin + int.from_bytes(mapped[:begin], "little")
    for number, size in enumerate(msgspec.msgpack.decode(mapped[begin:end], type=list[int])):
        if number % _ARRAYS == 0:
            time.sleep(_REST_SECONDS)
        begin = end + -end % _ALIGNED_BYTES
        end = begin + size
        yield mapped[begin:end]
