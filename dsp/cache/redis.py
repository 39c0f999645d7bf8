"""The stores on Redis or Valkey, one module each: shared fast state for bidders and workers on many machines."""

from dsp.cache.redis_blobs import RedisBlobStore
from dsp.cache.redis_leases import RedisLeaseStore
from dsp.cache.redis_users import RedisUserStore

__all__ = ["RedisBlobStore", "RedisLeaseStore", "RedisUserStore"]
