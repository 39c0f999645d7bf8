"""Versioned, checksummed bundles of files with movable aliases. Knows nothing of what the files mean."""

from dsp.registry.bundles import MANIFEST, built_at_ms, clear_alias, prune, publish, read, resolve, set_alias, versions

__all__ = ["MANIFEST", "built_at_ms", "clear_alias", "prune", "publish", "read", "resolve", "set_alias", "versions"]
