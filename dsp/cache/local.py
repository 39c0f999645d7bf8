"""The embedded stores, one module each: shared fast state on one machine without a server."""

from dsp.cache.local_blobs import LocalBlobStore
from dsp.cache.local_leases import LocalLeaseStore
from dsp.cache.local_users import LocalUserStore

__all__ = ["LocalBlobStore", "LocalLeaseStore", "LocalUserStore"]
