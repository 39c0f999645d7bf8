"""Versioned, checksummed bundles of files with movable aliases. Knows nothing of what the files mean."""

from dsp.registry.bundles import MANIFEST, built_at_ms, clear_alias, prune, publish, read, resolve, set_alias, versions
from dsp.registry.runs import LastEnds, last_ends

__all__ = [
    "MANIFEST", "LastEnds", "built_at_ms", "clear_alias", "last_ends", "prune", "publish", "read", "resolve",
    "set_alias", "versions",
]  # fmt: skip
