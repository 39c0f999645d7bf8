"""Learns names from what the platform has at hand: its exchanges, the catalogue as published, the requests sampled."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dsp.cache.connect import blob_store
from dsp.cache.local import LocalBlobStore
from dsp.cache.port import BlobStore
from dsp.events.schema import SampledRequest, decode_as
from dsp.events.topics import Topic
from dsp.funnel import offered
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, InputError, UnavailableError
from dsp.openrtb.profile import Profile, load_profiles
from dsp.snapshot import codec
from dsp.stream.connect import event_log
from dsp.stream.port import EventLog
from models.evaluation.names import Names
from models.training.parquet import DAMAGE

#: Sampled requests that are looked at, from the oldest kept on.
REQUESTS_MAX = 50_000
_BATCH = 1_000
#: Files of the training log, the latest, that tell which exchanges there are.
_FILES_MAX = 100


def load(platform: Platform) -> Names:
    """Return the names that can be told. A source that is not there, or not readable, is left out."""
    names = catalogued(platform.data_path)
    if platform.cache_url:
        asyncio.run(_published(names, blob_store(platform)))
    try:
        profiles = load_profiles(platform.exchanges_dir)
    except ConfigError:  # reports are made from a copy of the data as well, where no exchange is configured
        return names
    names.learn(profiles)
    if (platform.data_path / "log").is_dir():  # opening would make it
        asyncio.run(_sampled(names, platform, profiles))
    return names


def catalogued(data_dir: Path) -> Names:
    """Return the names of the catalogue as published, and of the exchanges in the training log."""
    names = Names()
    for path in sorted((data_dir / "training").glob("bids/date=*/hour=*/*.parquet"), reverse=True)[:_FILES_MAX]:
        try:
            with path.open("rb") as file:
                names.learn(pq.ParquetFile(file).read(columns=["exchange"])["exchange"].unique().to_pylist())
        except (KeyError, *DAMAGE):  # the nightly reports it
            continue
    if (data_dir / "blobs").is_dir():
        asyncio.run(_published(names, LocalBlobStore(data_dir / "blobs")))
    return names


async def _published(names: Names, blobs: BlobStore) -> None:
    await blobs.open()
    try:
        found = await blobs.get(codec.SNAPSHOT_BLOB)
        if found is not None:
            names.learn_snapshot(codec.decode(found[1]))
    except (UnavailableError, msgspec.DecodeError):  # it is away, or of another version of the software
        return
    finally:
        await blobs.close()


async def _sampled(names: Names, platform: Platform, profiles: Mapping[str, Profile]) -> None:
    log = event_log(platform, SystemClock())
    await log.open()
    try:
        await _learn_requests(names, log, platform, profiles)
    except UnavailableError:  # what has been learned by then will do
        return
    finally:
        await log.close()


async def _learn_requests(names: Names, log: EventLog, platform: Platform, profiles: Mapping[str, Profile]) -> None:
    position: dict[int, int] = {}
    for _ in range(0, REQUESTS_MAX, _BATCH):
        batch = await log.read(Topic.REQUESTS, position, _BATCH)
        for record in batch.records:
            _learn_request(names, record.value, platform, profiles)
        position = batch.position
        if batch.end:
            return


def _learn_request(names: Names, record: bytes, platform: Platform, profiles: Mapping[str, Profile]) -> None:
    sampled = decode_as(SampledRequest, record)
    if sampled is None or sampled.exchange not in profiles:
        return
    try:
        found, _ = offered(sampled.body, profiles[sampled.exchange], platform, sampled.at_ms)
    except InputError:  # the bidder took it, so it is of another version of the software
        return
    for opportunity in found:
        names.learn_opportunity(opportunity)
