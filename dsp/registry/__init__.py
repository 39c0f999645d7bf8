"""Versioned, checksummed bundles of files with movable aliases. Knows nothing of what the files mean."""

from dsp.registry.bundles import MANIFEST, publish, read, resolve, set_alias, versions

__all__ = ["MANIFEST", "publish", "read", "resolve", "set_alias", "versions"]
