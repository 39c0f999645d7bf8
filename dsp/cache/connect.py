"""Which stores the settings ask for: on Redis or Valkey where `cache_url` is set, else in the data directory."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dsp.cache.local import LocalBlobStore, LocalLeaseStore, LocalUserStore
from dsp.cache.port import BlobStore
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault

if TYPE_CHECKING:
    from dsp.cache.redis import RedisLeaseStore, RedisUserStore


def blob_store(platform: Platform) -> BlobStore:
    """Return the store of published blobs; raises ConfigError as `lease_store`."""
    if not platform.cache_url:
        return LocalBlobStore(platform.data_path / "blobs")
    _require_client()
    from dsp.cache.redis import RedisBlobStore

    return RedisBlobStore(platform.cache_url)


def lease_store(platform: Platform) -> "LocalLeaseStore | RedisLeaseStore":
    """Return the lease store, not yet open.

    Raises:
        ConfigError: `platform.cache_url` is none, or what it needs is not installed.
    """
    if not platform.cache_url:
        return LocalLeaseStore(platform.data_path / "leases.db")
    _require_client()
    from dsp.cache.redis import RedisLeaseStore

    return RedisLeaseStore(platform.cache_url)


def user_store(
    platform: Platform,
    file_name: str,
    exposures_max: int,
    user_exposures_max: int,
    window_ms: Callable[[], int | None],
    users_max: int,
) -> "LocalUserStore | RedisUserStore":
    """Return the users' records, not yet open: this process's own in `file_name`, or those that all processes share.

    Args:
        exposures_max, users_max: as LocalUserStore; a server has bounds of its own.
    """
    if not platform.cache_url:
        path = platform.data_path / file_name
        return LocalUserStore(path, exposures_max, user_exposures_max, window_ms, users_max=users_max)
    _require_client()
    from dsp.cache.redis import RedisUserStore

    return RedisUserStore(platform.cache_url, user_exposures_max, window_ms)


def _require_client() -> None:
    try:
        import hiredis  # noqa: F401
        import redis  # noqa: F401
    except ImportError as fault:
        raise ConfigError([Fault("platform.cache_url", f"needs the extra `production`: {fault}")]) from fault
