"""What happens to a bidder while it serves: another snapshot, another champion, a scrape; several times a step.
Its end, a drain, is in loadtest.capacity.drain.

All is prepared beforehand and then moved into place, since whatever takes processor time here delays the requests that
this process is to send.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from dsp.snapshot.codec import SNAPSHOT_BLOB
from loadtest.bids.serve import Bench
from models.serving.bundle import CHAMPION

SNAPSHOT, MODEL, SCRAPE = "snapshot", "model", "scrape"
#: Another champion is served two seconds after it was named, as pacing is told first.
_EVERY_SECONDS = {SNAPSHOT: 1.0, MODEL: 3.0, SCRAPE: 1.0}


class Events:
    """Makes things happen to the bidder of a bench; `champions` are two versions of its registry, or none."""

    def __init__(self, bench: Bench, champions: list[str]) -> None:
        self._makes: dict[str, Callable[[], object]] = {}
        self._metrics_url = f"http://127.0.0.1:{bench.platform.ports.admin}/metrics"
        blobs = bench.platform.data_dir / "blobs"
        snapshots = [blobs / f"{SNAPSHOT_BLOB}.{number}" for number in range(2)]
        for number, path in enumerate(snapshots):
            path.write_bytes(bench.encoded(f"bench-{number}"))
        next_snapshot = itertools.cycle(snapshots)
        self._makes[SNAPSHOT] = lambda: _placed(next(next_snapshot), blobs / SNAPSHOT_BLOB)
        if len(champions) == 2:
            names = itertools.cycle(reversed(champions))
            self._makes[MODEL] = lambda: _named(bench.models / "aliases" / CHAMPION, next(names))
        self._makes[SCRAPE] = self._scrape

    @property
    def known(self) -> list[str]:
        """Return what can happen."""
        return list(self._makes)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Let it happen every few seconds, the first time at once."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                with suppress(OSError):  # a scrape that finds nobody is the run's fault, and told by it
                    self._makes[name]()
                stop.wait(_EVERY_SECONDS[name])

        thread = threading.Thread(target=work, name=name)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _scrape(self) -> None:
        with urlopen(self._metrics_url, timeout=5.0) as answer:  # noqa: S310 - our own http URL
            answer.read()


def _placed(snapshot: Path, target: Path) -> None:
    draft = snapshot.with_suffix(".draft")
    draft.hardlink_to(snapshot)
    draft.replace(target)


def _named(alias: Path, version: str) -> None:
    """Point an alias to a version, as dsp.registry.set_alias does once it has checked the files."""
    draft = alias.with_name(f".{alias.name}.{os.getpid()}")
    draft.write_text(version, encoding="ascii")
    draft.replace(alias)
