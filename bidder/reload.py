"""Follows what others publish: the snapshot and who of it is active, the pacing controls, the champion model, the
prior, the landscapes of prices. Swaps whole, keeps the old on any fault. A snapshot is compiled in another process
(bidder.compiling), everything else is built in a thread, so that auctions go on meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bidder.compiling import Compile, compile_here
from bidder.predictors import Predictors, ahead
from bidder.revaluation import revalued
from bidder.state import Served, Serving, ServingState, activate, serve
from dsp import registry
from dsp.cache.port import BlobStore
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.lifecycle import cancel
from dsp.pacing import columns
from dsp.pacing.columns import PACED_BLOB, Paced
from dsp.pacing.revaluation import REVALUED_BLOB, encode
from dsp.snapshot import active
from dsp.snapshot.active import ACTIVE_BLOB, Active
from dsp.snapshot.codec import SNAPSHOT_BLOB
from models.serving import bundle, landscape, online
from models.serving.bundle import CHALLENGER, CHAMPION, Bundle
from models.serving.landscape import LANDSCAPE, NO_LANDSCAPES, Landscapes
from models.serving.online import PRIOR_BLOB
from models.serving.predictor import BatchPredictor, Scorer
from models.serving.session import CPU, Device

#: So long another predictor waits for controls that are meant for its values. Where pacing is away, it serves without.
REVALUED_SECONDS_MAX = 5.0
#: What was refused is tried again so often: the fault may have been the reading's, or files come after their alias.
RETRY_SECONDS = 60.0
_Part = TypeVar("_Part")
_SWAPS = {
    SNAPSHOT_BLOB: metrics.SNAPSHOT_SWAPS,
    CHAMPION: metrics.MODEL_SWAPS,
    CHALLENGER: metrics.CHALLENGER_SWAPS,
    PRIOR_BLOB: metrics.PRIOR_SWAPS,
    LANDSCAPE: metrics.LANDSCAPE_SWAPS,
}


class Reloader:
    """Polls the blob store and the registry, and swaps `serving` when something is new."""

    def __init__(
        self,
        serving: Serving,
        blobs: BlobStore,
        registry_root: Path,
        interval_ms: int,
        device: Device = CPU,
        compiler: Compile = compile_here,
    ) -> None:
        self._serving = serving
        self._blobs = blobs
        self._root = registry_root
        self._device = device
        self._compile = compiler
        self._interval_seconds = interval_ms / MS_PER_SECOND
        self._served: Served | None = None
        self._active: Active | None = None
        self._controls: Paced | None = None
        self._predictors = Predictors()
        self._told = ""  # of which predictor pacing was told last
        self._waits_until: float | None = None  # on the loop's clock; None: no predictor waits for its controls
        self._challenger: BatchPredictor | None = None
        self._landscapes: Landscapes = NO_LANDSCAPES
        #: What was looked at last, good or bad, so that a broken artefact is not tried at every look.
        names = (SNAPSHOT_BLOB, ACTIVE_BLOB, PACED_BLOB, PRIOR_BLOB, CHAMPION, CHALLENGER, LANDSCAPE)
        self._seen = dict.fromkeys(names, "")
        for swaps in _SWAPS.values():  # so that the first fault is an increase
            for result in ("loaded", "failed"):
                swaps.labels(result)
        self._complaints: dict[str, str] = {}  # by what was looked for
        self._swapping = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load what is there already, then follow changes."""
        looks = (self.poll_active, self.poll_others, self.poll_snapshot)
        for look in looks:
            await look()
        self._tasks = [asyncio.create_task(self._run(look), name="reload") for look in looks]

    async def stop(self) -> None:
        """Follow no more; the state stays."""
        for task in self._tasks:
            await cancel(task)

    async def poll_active(self) -> bool:
        """Look once for news of who is active; return whether there are any. Goes on while a snapshot is compiled."""
        found = await self._blob(ACTIVE_BLOB, active.decode)
        if found is None or (self._active is not None and found.older_than(self._active)):
            return False
        self._active = found
        if self._served is not None:
            self._served = activate(self._served, found)
        if (state := self._serving.current) is not None:  # while models are prepared, still of the snapshot before
            self._serving.swap(replace(state, served=activate(state.served, found)))
        return True

    async def poll(self) -> bool:
        """Look once for anything but who is active; return whether the state was swapped."""
        others = await self.poll_others()
        return await self.poll_snapshot() or others

    async def poll_snapshot(self) -> bool:
        """Look once for another snapshot; return whether the state was swapped. The others are followed meanwhile."""
        served = await self._blob(SNAPSHOT_BLOB, self._serve)
        if served is None:
            return False
        async with self._swapping:
            self._served = activate(served, self._active)
            self._predictors.forget()
            return await self._swap()

    async def poll_others(self) -> bool:
        """Look once for controls, models and landscapes; return whether the state was swapped."""
        controls = await self._blob(PACED_BLOB, columns.decode)
        named = await asyncio.to_thread(self._named)
        model = await self._published(CHAMPION, named, self._load_model)
        prior = await self._blob(PRIOR_BLOB, online.load)
        landscapes = await self._published(LANDSCAPE, named, landscape.load)
        shadowed = await self._follow_challenger(named)
        waits = self._waits_until is not None
        if not shadowed and not waits and all(part is None for part in (controls, model, prior, landscapes)):
            return False
        async with self._swapping:
            self._controls = controls or self._controls
            self._landscapes = landscapes or self._landscapes
            if model is not None:
                self._predictors.take_champion(model)
            if prior is not None:
                self._predictors.take_online(prior)
            return await self._swap()

    async def _swap(self) -> bool:
        if self._served is None:
            return False
        ads, ids = self._served.ad_rows, self._served.snapshot.line_item_ids
        scorers = await asyncio.to_thread(self._predictors.prepared, ads)
        predictor = await self._agreed(scorers.predictor)
        controls = await asyncio.to_thread(columns.align, self._controls, ids)
        self._serving.swap(
            ServingState(
                served=self._served,  # who is active may have changed meanwhile
                controls=controls,
                controls_at_ms=self._controls.at_ms if self._controls is not None else 0,
                predictor=predictor,
                prior=scorers.prior,
                prior_at_ms=self._predictors.learned_to_ms,
                landscapes=self._landscapes,
                challenger=self._challenger,
            )
        )
        return True

    async def _agreed(self, found: Scorer) -> Scorer:
        """Return who is to predict: another predictor begins with the controls that are meant for its values.

        Pacing is told of it, which scales the levels that it has learned on the values of the one before.
        """
        state, controls, now = self._serving.current, self._controls, asyncio.get_running_loop().time()
        ads = self._served.ad_rows if self._served is not None else None
        if state is None or state.served.ad_rows is not ads or not state.controls_at_ms or controls is None:
            self._waits_until = None
            return found  # there is nothing to compare, or nobody to tell
        if found.version in (state.predictor.version, controls.predicted_by):
            self._waits_until = None
            return found
        if self._waits_until is None or self._told != found.version:
            self._told, self._waits_until = found.version, now + REVALUED_SECONDS_MAX
            await self._tell(state, found)
        if now < self._waits_until:
            return state.predictor
        self._waits_until = None
        return found

    async def _tell(self, state: ServingState, found: Scorer) -> None:
        recent, snapshot, ads = list(self._serving.recent), state.served.snapshot, state.served.ad_rows
        try:
            told = await asyncio.to_thread(revalued, recent, snapshot, ads, state.predictor.version, found)
            await self._blobs.put(REVALUED_BLOB, encode(told))
        except Exception as fault:  # pacing finds out by the money
            self._complain(REVALUED_BLOB, fault)
        else:
            self._complaints.pop(REVALUED_BLOB, None)

    async def _follow_challenger(self, named: dict[str, str | None]) -> bool:
        """Follow the model in shadow, which may end as well; one that cannot be loaded is none. Return news of it."""
        before = self._challenger
        model = await self._published(CHALLENGER, named, self._load_model)
        if model is not None:
            self._challenger = model.predictor
        elif before is not None and (version := named[CHALLENGER]) != before.version:
            self._challenger = None
            self._seen[CHALLENGER] = version or ""
        return self._challenger is not before

    def _serve(self, data: bytes) -> Served:
        snapshot, ads = self._compile(data)
        if self._served is not None:
            ahead(snapshot.index.follow(self._served.snapshot.index))
        return serve(snapshot, self._served, ads)

    def _load_model(self, root: Path, version: str) -> Bundle:
        return bundle.load(root, version, self._device)

    async def _run(self, look: Callable[[], Awaitable[bool]]) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await look()
            except Exception as fault:
                self._complain(look.__name__, fault)
            else:
                self._complaints.pop(look.__name__, None)

    async def _blob(self, name: str, build: Callable[[bytes], _Part]) -> _Part | None:
        try:
            found = await self._blobs.get(name, self._seen[name])
        except Exception as fault:
            self._complain(name, fault)
            return None
        self._complaints.pop(name, None)
        if found is None:
            return None
        self._seen[name], data = found
        return await self._build(name, lambda: build(data))

    async def _published(
        self, alias: str, named: dict[str, str | None], load: Callable[[Path, str], _Part]
    ) -> _Part | None:
        version = named[alias]
        if version is None or version == self._seen[alias]:
            return None
        self._seen[alias] = version
        return await self._build(alias, lambda: load(self._root, version))

    def _named(self) -> dict[str, str | None]:
        """Return the version that each alias names; None: none, or not to be read.

        In a thread, for an alias is a line in a file, but the file may be on a volume that does not answer. All in one:
        a thread costs more than they do.
        """
        found: dict[str, str | None] = {}
        for alias in (CHAMPION, CHALLENGER, LANDSCAPE):
            try:
                found[alias] = registry.resolve(self._root, alias)
            except Exception as fault:
                found[alias] = None
                self._complain(alias, fault)
            else:
                self._complaints.pop(alias, None)
        return found

    async def _build(self, name: str, build: Callable[[], _Part]) -> _Part | None:
        """Build in a thread; whatever is wrong with the artefact, the old one goes on serving."""
        swaps = _SWAPS.get(name)
        try:
            built = await asyncio.to_thread(build)
        except Exception as fault:
            logging.get(__name__).error("refused", artefact=name, version=self._seen[name], fault=repr(fault))
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._forget, name, self._seen[name])
            built = None
        if swaps is not None:
            swaps.labels("failed" if built is None else "loaded").inc()
            if built is not None:
                logging.get(__name__).info("loaded", artefact=name, version=self._seen[name])
        return built

    def _forget(self, name: str, version: str) -> None:
        """Let a version be looked at as if it were new, unless another one has come since."""
        if self._seen[name] == version:
            self._seen[name] = ""

    def _complain(self, name: str, fault: Exception) -> None:
        """Log a fault once until it has passed, not four times a second."""
        if repr(fault) != self._complaints.get(name):
            self._complaints[name] = repr(fault)
            logging.get(__name__).warning("cannot look for changes", of=name, fault=self._complaints[name])
